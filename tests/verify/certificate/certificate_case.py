"""Growths written by hand for the tests of accounting and certificate: no code of the product grows anything here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.growth_map import GrowthMap, NodeChange, TensorGrowth, ValueGrowth
from onnxgrow.io import model_digest, tensor_digest
from onnxgrow.verify.accounting import account
from onnxgrow.verify.certificate import certify
from onnxgrow.verify.report import TierResult, TierStatus

HEADER = '<ir_version: 9, opset_import: ["" : {opset}]> g '

Array = np.ndarray[Any, Any]
Source = Sequence[int]


def more(old: int, added: int, fact: str = "any") -> AxisMap:
    """``added`` new entries after ``old`` old ones."""
    return AxisMap((Segment(old, 0), Segment(added, fact=fact)))


def at(source: Source, fact: str = "any") -> AxisMap:
    """Old index, or −1, of each new index."""
    return AxisMap.from_source(source, fact)


def text_model(text: str, tensors: Mapping[str, Array], opset: int = 17) -> ir.Model:
    """A text graph ``(inputs) => (outputs) { nodes }`` with its tensors as initializers."""
    proto = onnx.parser.parse_model(HEADER.format(opset=opset) + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items())
    return ir.from_proto(proto)


def keep(old: Array, axes: Mapping[int, AxisMap], new: Array) -> Array:
    """``new`` with the old entries put at their mapped places."""
    out = np.array(new)
    index = [axes[k].positions() if k in axes else np.arange(n) for k, n in enumerate(old.shape)]
    out[np.ix_(*index)] = old
    return out


def grown_array(
    name: str, old: Array, axes: Mapping[int, AxisMap], zero: Sequence[int] | None, fill: float | None
) -> Array:
    """Random new entries (or ``fill``); zero where axis ``zero[0]`` is old and any of the axes ``zero[1:]`` is new."""
    shape = tuple(axes[k].new_size if k in axes else n for k, n in enumerate(old.shape))
    rng = np.random.default_rng(sum(map(ord, name)))
    new = rng.normal(size=shape).astype(old.dtype) if fill is None else np.full(shape, fill, old.dtype)
    if zero:
        sources = [axes[k].source() if k in axes else np.arange(n) for k, n in enumerate(old.shape)]
        for reading in zero[1:]:
            index = [np.arange(n) for n in shape]
            index[zero[0]] = np.flatnonzero(sources[zero[0]] >= 0)
            index[reading] = np.flatnonzero(sources[reading] < 0)
            new[np.ix_(*index)] = 0
    return keep(old, axes, new)


@dataclass
class Case:
    """An original, a result and the growth map between them."""

    original: ir.Model
    grown: ir.Model
    map: GrowthMap
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    like: Mapping[str, str] = field(default_factory=dict)

    def concrete(self, model: ir.Model) -> Concrete:
        """Shapes and known values; a value in ``like`` gets the shape of another: ONNX's inference has none."""
        found = concretize(model, self.shapes)
        given = {name: (found.dtypes[other], found.shapes[other]) for name, other in self.like.items()}
        return concretize(model, self.shapes, given=given)

    def account(self) -> TierResult:
        return account(self.original, self.grown, self.map)

    def certify(self) -> TierResult:
        before, after = self.concrete(self.original), self.concrete(self.grown)
        return certify(self.original, self.grown, self.map, before, after)

    def tiers(self) -> dict[str, TierResult]:
        return {"accounting": self.account(), "certificate": self.certify()}

    def caught_by(self) -> list[str]:
        """Names of the tiers that do not pass."""
        return [name for name, result in self.tiers().items() if result.status is not TierStatus.PASSED]

    def sealed(self) -> Case:
        """The same with digests that fit: what a growth that is wrong, but consistent in itself, would claim."""
        digests = {}
        for name in self.map.tensors:
            value = self.grown.graph.initializers.get(name)
            node = next((n for n in self.grown.graph if n.outputs[0].name == name), None)
            tensor = value.const_value if value is not None else node and node.attributes["value"].as_tensor()
            if tensor is not None:
                digests[name] = tensor_digest(tensor)
        return replace(self, map=replace(self.map.with_digests(digests), original=model_digest(self.original)))


def changes(original: ir.Model, grown: ir.Model, inserted: Iterable[str]) -> dict[str, NodeChange]:
    """The node changes between two models whose nodes have the same first outputs."""
    old = {node.outputs[0].name: node for node in original.graph}
    found: dict[str, NodeChange] = {}
    for node in grown.graph:
        key = node.outputs[0].name or ""
        if key in inserted or key not in old or node.op_type == "Constant":
            continue
        before = old[key]
        attributes = {
            name: (_value(before, name), _value(node, name))
            for name in {*before.attributes, *node.attributes}
            if _value(before, name) != _value(node, name)
        }
        a, b = ([v.name or "" if v is not None else "" for v in n.inputs] for n in (before, node))
        length = max(len(a), len(b))
        a, b = (names + [""] * (length - len(names)) for names in (a, b))
        inputs = {i: (x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y}
        if attributes or inputs:
            found[key] = NodeChange(attributes, inputs)
    return found


def _value(node: ir.Node, name: str) -> Any:
    attr = node.attributes.get(name)
    if attr is None or attr.type in (ir.AttributeType.TENSOR, ir.AttributeType.GRAPH):
        return None
    return list(attr.value) if isinstance(attr.value, (list, tuple)) else attr.value


def grow(
    text: str,
    tensors: Mapping[str, Array],
    axes: Mapping[str, Mapping[int, AxisMap]],
    values: Mapping[str, Mapping[int, AxisMap]],
    *,
    zero: Mapping[str, Sequence[int]] | None = None,
    fill: Mapping[str, float] | None = None,
    put: Mapping[str, Array] | None = None,
    text2: str = "",
    of: Mapping[str, str] | None = None,
    inserted: Sequence[str] = (),
    operands: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    like: Mapping[str, str] | None = None,
    opset: int = 17,
    seal: bool = True,
) -> Case:
    """A growth: original, result and map.

    Args:
        text: The original's graph, without its tensors.
        tensors: The original's tensors.
        axes: Tensor of the result → axis → map.
        values: Computed value of the result → axis → map.
        zero: Reader weight → (axis of old outputs, axes of new inputs …) that must be zero.
        fill: Tensor → what to fill new entries with instead of random numbers.
        put: Tensors of the result that are given as they are; listed only if they are in ``axes`` or ``operands``.
        text2: The result's graph where it differs.
        of: Result's name → original's name.
        like: Value → value of the same shape, where ONNX's inference gives none.
        operands: Tensors listed with the formula ``operand``.
    """
    zero, fill, of = zero or {}, fill or {}, of or {}
    grown = dict(tensors)
    for name, maps in axes.items():
        old = tensors[of.get(name, name)]
        grown[name] = grown_array(name, old, maps, zero.get(name), fill.get(name))
    grown.update(put or {})
    a, b = text_model(text, tensors, opset), text_model(text2 or text, grown, opset)
    entries = {name: TensorGrowth(maps, of.get(name, "")) for name, maps in axes.items()}
    entries |= {name: TensorGrowth(of=of.get(name, ""), formula="operand") for name in operands}
    growth_map = GrowthMap(
        values={name: ValueGrowth(maps, of.get(name, "")) for name, maps in values.items()},
        tensors=entries,
        nodes=changes(a, b, inserted),
        inserted=tuple(inserted),
    )
    sizes = {v.name or "": tuple(int(d) for d in v.shape or ()) for v in a.graph.inputs} if shapes is None else shapes
    case = Case(a, b, growth_map, dict(sizes), like or {})
    return case.sealed() if seal else case


def set_tensor(model: ir.Model, name: str, array: Array) -> None:
    """Replace the data of an initializer or of a Constant node, keeping its name."""
    value = model.graph.initializers.get(name)
    if value is not None:
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        return
    node = next(n for n in model.graph if n.outputs[0].name == name)
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array, name=node.attributes["value"].as_tensor().name))


def get_tensor(model: ir.Model, name: str) -> Array:
    """A copy of the data of an initializer or of a Constant node."""
    value = model.graph.initializers.get(name)
    if value is not None:
        assert value.const_value is not None
        return np.array(value.const_value.numpy())
    node = next(n for n in model.graph if n.outputs[0].name == name)
    return np.array(node.attributes["value"].as_tensor().numpy())


def rnd(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Random numbers, none of which is zero."""
    a = np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)
    return np.where(a == 0, np.asarray(1, dtype), a)


def reasons(result: TierResult) -> str:
    """All findings as one text."""
    return "; ".join(f"{f.subject}: {f.reason}" for f in result.findings)
