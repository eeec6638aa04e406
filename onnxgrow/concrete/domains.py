"""What values an input may take, found by following it to the ops that restrict it.

Token ids end in a Gather, which bounds them by a table's size; masks in Where, And or ``1 − mask``; a sample
rate in a comparison with constants; labels in a LabelEncoder. Only where the structure says nothing does the
name decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete
from onnxgrow.concrete.values import LIMIT, constant_of, dims_of

__all__ = ["Domain", "Facts", "domain_of"]

Array = npt.NDArray[np.generic]

# The value passes through unchanged, though perhaps moved: op → inputs it may come in by (None: any).
_CARRIERS: dict[str, tuple[int, ...] | None] = {
    "Cast": (0,),
    "CastLike": (0,),
    "Identity": (0,),
    "Reshape": (0,),
    "Flatten": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Transpose": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Pad": (0,),
    "ReduceMax": (0,),
    "ReduceMin": (0,),
    "Concat": None,
    "Where": (1, 2),
    "Max": None,
    "Min": None,
    "Clip": (0,),
}
# Ops whose output holds the same numbers as their first input, perhaps more often.
_REPEATERS = frozenset(["Expand", "Tile", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Transpose", "Cast"])
_LOGICAL = frozenset(["And", "Or", "Not", "Xor"])
_DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Domain:
    """The values an input may take.

    Attributes:
        role: ``index`` (0 … high − 1), ``length`` (1 … high), ``mask`` (0 or 1), ``choice`` (one of
            ``choices``), ``positions`` (0, 1, 2 … along the last axis) or empty: nothing is known.
        high: Bound of an ``index`` or a ``length``.
        choices: Values of a ``choice``: numbers or strings.
        why: The node or name that decided, for messages.
    """

    role: str = ""
    high: int = 0
    choices: tuple[int | float | str, ...] = ()
    why: str = ""


class Facts:
    """Shapes and known values of a model; inferred only when something else than a constant is asked for."""

    def __init__(self, infer: Callable[[], Concrete]) -> None:
        self._infer = infer

    @cached_property
    def _concrete(self) -> Concrete:
        return self._infer()

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """The value's shape, or None."""
        tensor = _tensor_of(value)
        return self._concrete.shapes.get(value.name or "") if tensor is None else dims_of(tensor)

    def numbers(self, value: ir.Value) -> Array | None:
        """The value itself, if it is known, numeric and small."""
        tensor = _tensor_of(value)
        if tensor is None:
            array = self._concrete.values.get(value.name or "")
        elif tensor.dtype == ir.DataType.STRING or math.prod(dims_of(tensor)) > LIMIT:
            return None
        else:
            array = np.asarray(tensor.numpy())
        return array if array is not None and array.dtype.kind in "iufb" else None


def _tensor_of(value: ir.Value) -> ir.TensorProtocol | None:
    """The constant a value is: an initializer's or a Constant's, in any graph."""
    if value.const_value is not None:
        return value.const_value
    producer = value.producer()
    return constant_of(producer) if producer is not None and producer.op_type == "Constant" else None


def domain_of(model: ir.Model, value: ir.Value, facts: Facts) -> Domain:
    """Find the domain of graph input ``value``.

    Bounds are read off ``facts``. Where several uses restrict an input, an index wins over a
    length, a length over a choice, a choice over a mask, and the tightest bound counts.
    """
    found = list(_restrictions(model, value, facts))
    for role in ("index", "length"):
        bounds = [d for d in found if d.role == role and d.high > 0]
        if bounds:
            return min(bounds, key=lambda d: d.high)
    choices = [d for d in found if d.role == "choice"]
    if choices:
        merged = tuple(dict.fromkeys(c for d in choices for c in d.choices))
        return Domain("choice", choices=merged, why=choices[0].why)
    masks = [d for d in found if d.role == "mask"]
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    if masks and not is_float:
        return masks[0]
    return _by_name(value.name or "", is_float)


def _by_name(name: str, is_float: bool) -> Domain:
    text = name.lower()
    if "mask" in text:
        return Domain("mask", why="its name")
    if is_float:
        return Domain()
    if "token_type" in text or "segment" in text:
        return Domain("index", high=2, why="its name")
    if "position" in text:
        return Domain("positions", why="its name")
    if "length" in text or text.endswith(("_len", "_lens")):
        return Domain("length", why="its name")
    return Domain()


def _restrictions(model: ir.Model, start: ir.Value, facts: Facts) -> Iterator[Domain]:
    """Walk forward from ``start`` over carriers, into subgraphs and functions; report restricting uses.

    The walk keeps the constant added on the way, so that ``Gather(table, id + 2)`` bounds ``id`` by size − 2.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions.values()}
    returns: dict[ir.Value, list[ir.Value]] = {}
    todo: list[tuple[ir.Value, int]] = [(start, 0)]
    seen: set[ir.Value] = {start}

    def follow(values: Iterable[ir.Value], offset: int) -> None:
        for value in values:
            if value not in seen:
                seen.add(value)
                todo.append((value, offset))

    while todo:
        value, offset = todo.pop()
        follow(returns.get(value, ()), offset)
        for node, index in value.uses():
            function = functions.get((node.domain, node.op_type, node.overload))
            if function is not None:
                for inner, outer in zip(function.outputs, node.outputs, strict=False):
                    returns.setdefault(inner, []).append(outer)
                follow(function.inputs[index : index + 1], offset)
                continue
            rule = _RULES.get((node.op_type, index)) or _RULES.get((node.op_type, -1))
            restriction = rule(node, index, facts) if rule is not None else None
            if restriction is not None:
                high = max(restriction.high - offset, 1) if restriction.high else 0
                yield Domain(restriction.role, high, restriction.choices, f"{node.op_type} {node.name}".strip())
            if node.domain not in _DEFAULT_DOMAINS:
                continue
            if node.op_type in _CARRIERS:
                inputs = _CARRIERS[node.op_type]
                if inputs is None or index in inputs:
                    follow(node.outputs, offset)
            elif node.op_type == "Add" or (node.op_type == "Sub" and index == 0):
                added = _scalar(node, 1 - index, facts)
                if added is not None and added == int(added):
                    follow(node.outputs, offset + int(added if node.op_type == "Add" else -added))


Rule = Callable[[ir.Node, int, Facts], Domain | None]


def _size(node: ir.Node, index: int, axis: int, facts: Facts) -> int:
    """Size of one axis of the node's input, or 0 when unknown."""
    value = node.inputs[index] if index < len(node.inputs) else None
    shape = facts.shape(value) if value is not None else None
    return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else 0


def _scalar(node: ir.Node, index: int, facts: Facts) -> float | None:
    """The node's input as one known number, or None."""
    values = _numbers(node, index, facts)
    return values[0] if values is not None and len(values) == 1 and np.isfinite(values[0]) else None


def _numbers(node: ir.Node, index: int, facts: Facts) -> list[float] | None:
    """The different numbers in the node's input, if known, also through ops that only repeat them."""
    value = node.inputs[index] if index < len(node.inputs) else None
    while value is not None:
        array = facts.numbers(value)
        if array is not None:
            return [float(number) for number in np.unique(array.astype(np.float64))]
        producer = value.producer()
        repeats = producer is not None and producer.op_type in _REPEATERS
        value = producer.inputs[0] if producer is not None and repeats else None
    return None


def _attribute(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_int()


def _gather(node: ir.Node, _index: int, facts: Facts) -> Domain | None:
    return Domain("index", _size(node, 0, _attribute(node, "axis", 0), facts))


def _gather_nd(node: ir.Node, _index: int, facts: Facts) -> Domain | None:
    first = _attribute(node, "batch_dims", 0)
    depth = _size(node, 1, -1, facts)
    return Domain("index", min((_size(node, 0, first + k, facts) for k in range(depth)), default=0))


def _one_hot(node: ir.Node, _index: int, facts: Facts) -> Domain | None:
    depth = _scalar(node, 1, facts)
    return Domain("index", int(depth)) if depth else None


def _embed_layer_norm(node: ir.Node, index: int, facts: Facts) -> Domain | None:
    """com.microsoft EmbedLayerNormalization: ids, segment ids; tables are inputs 2 and 4; mask is input 7."""
    if index == 7:
        return Domain("mask")
    return Domain("index", _size(node, 2 if index == 0 else 4, 0, facts)) if index in (0, 1) else None


def _sequence_lens(node: ir.Node, _index: int, facts: Facts) -> Domain | None:
    return Domain("length", _size(node, 0, _attribute(node, "layout", 0), facts))


def _reverse_sequence(node: ir.Node, _index: int, facts: Facts) -> Domain | None:
    return Domain("length", _size(node, 0, _attribute(node, "time_axis", 0), facts))


def _mask(_node: ir.Node, _index: int, _facts: Facts) -> Domain | None:
    return Domain("mask")


def _one_minus(node: ir.Node, _index: int, facts: Facts) -> Domain | None:
    return Domain("mask") if _scalar(node, 0, facts) == 1 else None


def _equal(node: ir.Node, index: int, facts: Facts) -> Domain | None:
    numbers = _numbers(node, 1 - index, facts)
    if not numbers:
        return None
    if all(number in (0, 1) for number in numbers):
        return Domain("mask")
    return Domain("choice", choices=tuple(numbers))


def _cast(node: ir.Node, _index: int, _facts: Facts) -> Domain | None:
    return Domain("mask") if _attribute(node, "to", 0) == ir.DataType.BOOL else None


def _label_encoder(node: ir.Node, _index: int, _facts: Facts) -> Domain | None:
    for name in ("keys_strings", "classes_strings"):
        attr = node.attributes.get(name)
        if attr is not None and not attr.is_ref():
            return Domain("choice", choices=tuple(attr.as_strings()))
    attr = node.attributes.get("keys_int64s")
    return Domain("choice", choices=tuple(attr.as_ints())) if attr is not None and not attr.is_ref() else None


_RULES: Mapping[tuple[str, int], Rule] = {
    ("Gather", 1): _gather,
    ("GatherElements", 1): _gather,
    ("GatherBlockQuantized", 1): _gather,
    ("ScatterElements", 1): _gather,
    ("GatherND", 1): _gather_nd,
    ("ScatterND", 1): _gather_nd,
    ("OneHot", 0): _one_hot,
    ("EmbedLayerNormalization", -1): _embed_layer_norm,
    ("RNN", 4): _sequence_lens,
    ("GRU", 4): _sequence_lens,
    ("LSTM", 4): _sequence_lens,
    ("ReverseSequence", 1): _reverse_sequence,
    ("Where", 0): _mask,
    ("Sub", 1): _one_minus,
    ("Equal", -1): _equal,
    ("Cast", 0): _cast,
    ("LabelEncoder", 0): _label_encoder,
    ("CategoryMapper", 0): _label_encoder,
    **{(op, -1): _mask for op in _LOGICAL},
}
