"""The registry of kernels: how each ONNX op is computed in PyTorch.

A *kernel* takes one argument per input of its node (None where it is absent) and gives a tensor, or a tuple for
several outputs. Shape arithmetic has kernels of its own over plain integers ("host" values: an ``int`` or a tuple),
so that it costs no transfers and ``torch.compile`` can follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from onnxgrow.concrete.values import constant_of
from onnxgrow.errors import UnsupportedError

__all__ = [
    "Context",
    "HostOp",
    "HostValue",
    "Kernel",
    "NodeSpec",
    "Op",
    "as_array",
    "find_host",
    "find_op",
    "register",
    "register_host",
    "registered_ops",
]

Kernel = Callable[..., Any]
HostValue = int | float | bool | tuple[int | float | bool, ...]


class Context(NamedTuple):
    """What a kernel may need beside its inputs.

    Attributes:
        training: Whether the module is in training mode.
        freeze_bn: Whether batch normalisation uses and keeps its running statistics even then.
        device: Where the parameters are.
        file_dtype, dtype: The floating type of the file's weights, and the one the module was moved to.
    """

    training: bool
    freeze_bn: bool
    device: torch.device
    file_dtype: torch.dtype
    dtype: torch.dtype

    def moved(self, dtype: torch.dtype) -> torch.dtype:
        """The type that a type named in the file has become by dtype moves of the module."""
        return self.dtype if dtype == self.file_dtype else dtype


@dataclass(frozen=True)
class NodeSpec:
    """One node as the builder of its kernel sees it.

    Attributes:
        node: The node.
        version: Opset version of its domain.
        constants: Input index → value, for inputs that are known and never trained.
    """

    node: ir.Node
    version: int
    constants: dict[int, npt.NDArray[Any]]

    @property
    def label(self) -> str:
        """How messages call the node: operator, opset and its name or first output."""
        domain = f"{self.node.domain}::" if self.node.domain not in ("", "ai.onnx") else ""
        name = self.node.name or next((o.name for o in self.node.outputs if o.name), "") or ""
        return f"{domain}{self.node.op_type} (opset {self.version}) {name}"

    @property
    def outputs(self) -> int:
        """Number of outputs, absent ones in between included."""
        return len(self.node.outputs)

    def has_output(self, index: int) -> bool:
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def stored(self, index: int) -> ir.TensorProtocol | None:
        """The constant that an input is, or is a plain copy of, trained or not; None where it is computed."""
        value = self.node.inputs[index] if self.has(index) else None
        while value is not None and (producer := value.producer()) is not None:
            if producer.op_type == "Constant":
                return constant_of(producer)
            if producer.op_type != "Identity":
                return None
            value = producer.inputs[0]
        return None if value is None else value.const_value

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, sequences as lists; ``default`` when the node does not have it."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref():
            self.fail(f"attribute {name} refers to an attribute of a function")
        if attribute.type == ir.AttributeType.STRING:
            return attribute.as_string()
        if isinstance(attribute.value, (tuple, list)):
            return list(attribute.value)
        return attribute.value

    def ints(self, name: str) -> list[int] | None:
        """An attribute of integers, None when it is absent."""
        value = self.attr(name)
        return None if value is None else [int(v) for v in value]

    def fail(self, reason: str, hint: str = "") -> NoReturn:
        """Refuse a form of the op."""
        raise UnsupportedError(self.label, reason, hint)


Build = Callable[[NodeSpec], Kernel]


@dataclass(frozen=True)
class Op:
    """A registered op.

    Attributes:
        build: Makes the kernel of a node.
        sizes: Inputs handed over as plain integers (or floats), as a tuple, or an ``int`` for a 0-D one.
        weights: Inputs where a floating-point constant is a parameter; None: every input.
        context: Whether the kernel takes a :class:`Context` first.
        foldable: Whether its value on constants may be computed once.
    """

    build: Build
    sizes: frozenset[int] = frozenset()
    weights: frozenset[int] | None = frozenset()
    context: bool = False
    foldable: bool = True


RankOf = Callable[[NodeSpec, Sequence[int]], int | None]


@dataclass(frozen=True)
class HostOp:
    """A registered op over plain integers.

    Attributes:
        build: Makes the kernel of a node.
        rank: Rank of its result (0 or 1) from the ranks of its inputs, -1 for an absent one; None where it has none.
    """

    build: Build
    rank: RankOf


_ops: dict[tuple[str, str], list[tuple[int, Op]]] = {}
_hosts: dict[str, HostOp] = {}


def register(
    *op_types: str,
    domain: str = "",
    since_version: int = 1,
    sizes: Collection[int] = (),
    weights: Collection[int] | None = (),
    context: bool = False,
    foldable: bool = True,
) -> Callable[[Build], Build]:
    """Register the builder of kernels for ops of a domain from an opset version on; see :class:`Op`."""

    def decorate(build: Build) -> Build:
        op = Op(build, frozenset(sizes), None if weights is None else frozenset(weights), context, foldable)
        for op_type in op_types:
            versions = _ops.setdefault((domain, op_type), [])
            if any(since == since_version for since, _ in versions):
                raise ValueError(f"two kernels for {domain}::{op_type} from version {since_version}")
            versions.append((since_version, op))
            versions.sort(key=lambda pair: pair[0])
        return build

    return decorate


def _broadcast_rank(op: NodeSpec, ranks: Sequence[int]) -> int | None:
    return max(ranks)


def register_host(*op_types: str, rank: RankOf = _broadcast_rank) -> Callable[[Build], Build]:
    """Register the builder of kernels over plain integers, used where every input of a node is one."""

    def decorate(build: Build) -> Build:
        for op_type in op_types:
            if op_type in _hosts:
                raise ValueError(f"two host kernels for {op_type}")
            _hosts[op_type] = HostOp(build, rank)
        return build

    return decorate


def find_op(domain: str, op_type: str, version: int) -> Op | None:
    """The op with the highest ``since_version`` that is not above the model's opset version."""
    found = None
    for since, op in _ops.get(("" if domain == "ai.onnx" else domain, op_type), ()):
        if since <= version:
            found = op
    return found


def registered_ops() -> frozenset[tuple[str, str]]:
    """(domain, op type) of every op that has a kernel."""
    return frozenset(_ops)


def find_host(domain: str, op_type: str) -> HostOp | None:
    """The host kernels of an op of the default domain."""
    return _hosts.get(op_type) if domain in ("", "ai.onnx") else None


def as_array(value: torch.Tensor) -> npt.NDArray[Any]:
    """A constant as NumPy has it; types that NumPy does not know as float32."""
    plain = value.detach().cpu()
    return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
