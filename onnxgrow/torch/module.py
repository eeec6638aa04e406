"""An ONNX graph as a trainable PyTorch module, and back into the same graph.

No ``torch.onnx`` takes part in it: the module's parameters are the file's initializers, by name, and ``to_onnx`` puts
their trained values back in their places; names, opset, metadata and everything that is not trained stay.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import onnx
import torch
from torch import Tensor, nn

from onnxgrow.errors import UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import save, save_bytes
from onnxgrow.torch.leaves import Leaf
from onnxgrow.torch.program import run_block
from onnxgrow.torch.registry import Context
from onnxgrow.torch.source import Source
from onnxgrow.torch.tensors import to_torch

__all__ = ["Coverage", "OnnxModule"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coverage:
    """How much of a file is trained.

    Attributes:
        trained: Names of parameters.
        frozen: Floating-point constants of more than one entry that are not → why.
        numbers: How many single numbers are left as they are.
    """

    trained: tuple[str, ...]
    frozen: dict[str, str]
    numbers: int

    def __str__(self) -> str:
        total = len(self.trained) + len(self.frozen)
        text = f"{len(self.trained)} of {total} float weights trainable"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.frozen.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            text += f"\nnot {', '.join(names[:3])}{more}: {reason}"
        return text


class _Scope(nn.Module):
    """Holds what the names before a dot have in common."""


class OnnxModule(nn.Module):
    """A trainable module that computes what an ONNX file computes.

    ``forward`` takes the graph inputs in order or by name, and gives a tensor, or a tuple where the graph has several
    outputs. In evaluation mode it computes what the file does; in training mode batch normalisation uses the batch and
    moves its running statistics as PyTorch does, and Dropout drops. ``state_dict`` has the parameters and running
    statistics under the initializers' names (with ``_`` added to a part of a name that PyTorch has a use for).

    Args:
        source: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        trainable, frozen: Shell patterns of initializer names that are, or are not, to be trained, where the rules
            (weights, biases, scales and embeddings are; numbers, masks and tables are not) decide otherwise.
        freeze_bn: Keep the running statistics, and normalise with them, in training mode too.

    Attributes:
        freeze_bn: May be set at any time.
        input_names, output_names: Of the graph; initializers that are listed as inputs are parameters.

    Raises:
        BadInputError: The model cannot be read.
        UnsupportedError: An op has no PyTorch kernel; names op, opset and node.
    """

    def __init__(
        self, source: object, *, trainable: Sequence[str] = (), frozen: Sequence[str] = (), freeze_bn: bool = False
    ) -> None:
        super().__init__()
        self._source = Source.read(source, trainable, frozen)
        self.freeze_bn = freeze_bn
        self._keys: list[str] = []
        for leaf in self._source.found.leaves:
            self._keys.append(self._place(leaf))
        self._paths = [key.split(".") for key in self._keys]
        constants = _Scope()
        for index, (_, tensor) in enumerate(self._source.program.constants):
            constants.register_buffer(f"c{index}", tensor, persistent=False)
        constants.register_buffer("anchor", torch.zeros((), dtype=self._source.program.file_dtype), persistent=False)
        self.add_module(_free(self, "onnx_constants"), constants)
        self._constants_key = next(k for k, m in self._modules.items() if m is constants)
        self.eval()
        logger.info("%s", self.coverage)

    # ---- running

    @property
    def input_names(self) -> list[str]:
        return list(self._source.inputs)

    @property
    def output_names(self) -> list[str]:
        return list(self._source.outputs)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Run the graph.

        Raises:
            UsageError: An input is missing, unknown or given twice.
        """
        program = self._source.program
        slots: list[Any] = [None] * program.slots
        for slot, literal in program.literals:
            slots[slot] = literal
        for slot, index in program.leaves:
            slots[slot] = self._leaf(index)
        constants = self._modules[self._constants_key]
        assert constants is not None
        for index, (slot, _) in enumerate(program.constants):
            slots[slot] = constants._buffers[f"c{index}"]
        anchor = constants._buffers["anchor"]
        assert anchor is not None
        context = Context(self.training, self.freeze_bn, anchor.device, program.file_dtype, anchor.dtype)
        for slot, value in zip(program.block.inputs, self._arguments(inputs, named), strict=True):
            slots[slot] = value
        run_block(program.block, slots, context)
        results = tuple(slots[slot] for slot in program.block.outputs)
        return results[0] if len(results) == 1 else results

    def _arguments(self, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> list[Tensor]:
        names = self._source.inputs
        if len(inputs) == len(names) and not named:
            return list(inputs)
        given = dict(zip(names, inputs, strict=False))
        if len(inputs) > len(names) or given.keys() & named.keys() or named.keys() - set(names):
            raise UsageError("forward", f"unexpected inputs: the graph has {', '.join(names) or 'none'}")
        given.update(named)
        missing = [name for name in names if name not in given]
        if missing:
            raise UsageError("forward", f"missing inputs: {', '.join(missing)}")
        return [given[name] for name in names]

    # ---- parameters

    def _place(self, leaf: Leaf) -> str:
        data = to_torch(leaf.tensor)
        scope: nn.Module = self
        path = []
        *parents, last = leaf.name.split(".")
        for part in parents:
            while not isinstance(scope._modules.get(part), _Scope) and (not part or hasattr(scope, part)):
                part += "_"
            if part not in scope._modules:
                scope.add_module(part, _Scope())
            scope = scope.get_submodule(part)
            path.append(part)
        last = _free(scope, last)
        if leaf.kind == "parameter":
            scope.register_parameter(last, nn.Parameter(data))
        else:
            scope.register_buffer(last, data)
        return ".".join([*path, last])

    def _leaf(self, index: int) -> Tensor:
        *path, last = self._paths[index]
        scope: nn.Module = self
        for part in path:
            child = scope._modules[part]
            assert child is not None
            scope = child
        value = scope._parameters.get(last)
        if value is None:
            value = getattr(scope, last)
        return value

    def named_onnx_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(initializer name, parameter), in the order of the graph.

        Where an exporter had merged equal initializers, the module has a parameter for each use; the further ones are
        called after the value or node that they go into.
        """
        for index, leaf in enumerate(self._source.found.leaves):
            if leaf.kind == "parameter":
                parameter = self._leaf(index)
                assert isinstance(parameter, nn.Parameter)
                yield leaf.name, parameter

    def onnx_roles(self) -> dict[str, str]:
        """Initializer name → what its metadata call it (``onnxgrow.role``), for parameters that have a role."""
        return {leaf.name: leaf.role for leaf in self._source.found.leaves if leaf.role}

    def onnx_readers(self) -> dict[str, set[str]]:
        """Parameter → first outputs of the nodes that read it: the growth map's keys of nodes."""
        readers = {}
        for leaf in self._source.found.leaves:
            nodes = [n for n, _ in leaf.sites] if leaf.sites is not None else [u.node for u in leaf.value.uses()]
            readers[leaf.name] = {next((o.name for o in n.outputs if o.name), "") or "" for n in nodes}
        return readers

    def onnx_recurrent_biases(self) -> set[str]:
        """Names of parameters that are biases (or peepholes) of recurrent layers: matrices that are no weights."""
        return {
            leaf.name
            for leaf in self._source.found.leaves
            if any(u.node.op_type in ("LSTM", "GRU", "RNN") and u.idx in (3, 7) for u in leaf.value.uses())
        }

    def onnx_names(self) -> dict[str, str]:
        """Key of ``state_dict`` and ``named_parameters`` → initializer name."""
        return {key: leaf.name for key, leaf in zip(self._keys, self._source.found.leaves, strict=True)}

    @property
    def coverage(self) -> Coverage:
        """What is trained, and why the rest is not."""
        found = self._source.found
        trained = tuple(leaf.name for leaf in found.leaves if leaf.kind == "parameter")
        return Coverage(trained, dict(found.frozen), len(found.numbers))

    @property
    def growth_map(self) -> GrowthMap | None:
        """The growth map that the file carries. Raises BadInputError where it is malformed."""
        return self._source.growth_map()

    # ---- back

    @overload
    def to_onnx(self) -> onnx.ModelProto: ...
    @overload
    def to_onnx(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, external_data: bool | None = None
    ) -> Path: ...
    def to_onnx(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        external_data: bool | None = None,
    ) -> onnx.ModelProto | Path:
        """The original graph with the module's parameters and running statistics.

        Types are the file's, whatever the module was moved to. The growth map, where there is one, stays: its digests
        are those of the growth, and no longer match trained tensors.

        Args:
            path: Where to write the model, streamed and atomically; without it a ``ModelProto`` is given back.
            overwrite, external_data: As for :func:`onnxgrow.io.save`.

        Raises:
            UsageError, EnvironmentFault: The file cannot be written; nothing is left behind.
            UsageError: The parameters are shared out among processes (FSDP).
            UnsupportedError: The model is too large for a ``ModelProto`` (give a path).
        """
        leaves = self._source.found.leaves
        if any(hasattr(self._leaf(index), "full_tensor") for index in range(len(leaves))):
            hint = "load the whole state into an OnnxModule of its own, as tools/train_distributed.py does"
            raise UsageError("to_onnx", "the parameters are shared out among processes", hint)
        model = self._source.written((leaf, self._leaf(index)) for index, leaf in enumerate(leaves))
        if path is None:
            return onnx.ModelProto.FromString(save_bytes(model))
        return save(model, path, overwrite=overwrite, external_data=external_data)

    def extra_repr(self) -> str:
        return (
            f"({', '.join(self.input_names)}) → ({', '.join(self.output_names)}), "
            f"{len(self._source.program.block.steps)} steps\n{self.coverage}"
        )


def _free(scope: nn.Module, name: str) -> str:
    """A name that PyTorch takes and the scope does not have yet."""
    while not name or hasattr(scope, name):
        name += "_"
    return name
