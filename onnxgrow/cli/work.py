"""The library as the commands use it. Importing this imports all of it, so commands do that when they run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx_ir as ir

from onnxgrow.concrete.npz import load_inputs
from onnxgrow.errors import GrowError
from onnxgrow.io import Loaded, load
from onnxgrow.io.tensors import InlineTensor
from onnxgrow.passes.base import Feeds, Grown, GrowthPass
from onnxgrow.verify.report import Report

__all__ = ["Recorded", "data_files", "read_inputs", "stored_bytes"]


class Recorded(GrowthPass):
    """A pass that remembers what it made, so that a refused result can be reported, too.

    Attributes:
        made: The last grown model, its plan and its growth map; None before.
    """

    def __init__(self, step: GrowthPass) -> None:
        super().__init__(step.proof)
        self.made: Grown | None = None
        self._step = step

    def requires(self, model: ir.Model) -> None:
        """What the pass itself requires."""
        self._step.requires(model)

    def grow(self, model: ir.Model) -> Grown:
        """Grow a copy of ``model`` and remember it."""
        self.made = self._step.grow(model)
        return self.made

    def verify(
        self, original: ir.Model, grown: Grown, written: Loaded | None = None, original_path: Path | None = None
    ) -> Report:
        """As the pass itself does it."""
        return self._step.verify(original, grown, written, original_path)


def read_inputs(path: Path | None, loaded: Loaded) -> Feeds | None:
    """The user's inputs for a model; None without a file.

    Raises:
        BadInputError, UsageError: The file is unreadable, or does not fit the model.
    """
    return None if path is None else load_inputs(path, loaded.model)


def data_files(model: ir.Model) -> list[Path]:
    """The external data files of a model, each once."""
    external = (t for t in _tensors(model) if isinstance(t, ir.ExternalTensor) and not isinstance(t, InlineTensor))
    return list(dict.fromkeys(Path(t.path) for t in external))


def stored_bytes(path: Path, loaded: Loaded | None = None) -> int | None:
    """Size of a model's files, external data included; None where they cannot be looked at."""
    with contextlib.suppress(GrowError, OSError):
        model = (loaded or load(path, mapped=True)).model
        return sum(p.stat().st_size for p in (path, *data_files(model)))
    return None


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    graphs = [model.graph, *(f.graph for f in model.functions.values())]
    for graph in (inner for g in graphs for inner in (g, *g.subgraphs())):
        yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
        yield from _held(a for node in graph for a in node.attributes.values())


def _held(attributes: Iterable[ir.Attr]) -> Iterator[ir.TensorProtocol]:
    for attribute in attributes:
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()
        elif attribute.type == ir.AttributeType.TENSORS:
            yield from attribute.as_tensors()
