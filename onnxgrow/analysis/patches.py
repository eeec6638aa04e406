"""Which inputs need a value of their own when some channel sets grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, grown_size
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.shape_flow import SitePatch
from onnxgrow.rules import Reason, Unsuitable

__all__ = ["Patches", "Unsolved", "find_patches"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Unsolved:
    """A value that would change with the growth and cannot be kept: its atoms cannot grow."""

    atoms: tuple[Term, ...]
    reason: Reason


@dataclass
class Patches:
    """What has to be patched for one growth, and what stands in its way."""

    sites: list[SitePatch] = field(default_factory=list)
    unsolved: list[Unsolved] = field(default_factory=list)


def find_patches(dims: Dimensions, growth: Growth) -> Patches:
    """Compare what each integer operand and each use of a shape value needs with what flows there after ``growth``."""
    network, flow = dims.network, dims.flow
    measured = {
        v.name for n in flow.nodes if n.op_type in ("Shape", "Size") for v in n.inputs[:1] if v is not None and v.name
    }
    shapes = {
        name: tuple(grown_size(dims.forest, t, growth) for t in terms)
        for name in measured
        if (terms := dims.values.get(name)) is not None and dims.grows(terms, growth)
    }
    changed = flow.grown(shapes)
    found = Patches()
    inside = set(flow.nodes)
    for node in network.nodes:
        if node not in inside:
            _visit(dims, growth, node, changed, found)
    ends = [v.name for v in network.model.graph.outputs if v.name] + sorted(network.captured)
    for name in ends:
        if name in changed:
            reason = Reason(f"value {name}", None, "it holds a shape that would change, and leaves the graph")
            found.unsolved.append(Unsolved(_sources(dims, growth, [name]), reason))
    return found


def _visit(dims: Dimensions, growth: Growth, node: ir.Node, changed: dict[str, Array | None], found: Patches) -> None:
    operands = dims.declared[node].operands
    for index in sorted(set(range(len(node.inputs))) | set(operands)):
        value = node.inputs[index] if index < len(node.inputs) else None
        name = (value.name if value is not None else None) or ""
        if index not in operands and name not in changed:
            continue
        old = dims.network.concrete.values.get(name) if name else None
        natural = changed.get(name, old)
        try:
            wanted = operands[index](growth, natural) if index in operands else None
        except Unsuitable as e:
            _give_up(dims, growth, node, name, str(e), found)
            continue
        if wanted is None:
            if name not in changed:
                continue
            wanted = old
        if wanted is None or (natural is not None and _same(wanted, natural)):
            continue
        if old is not None:
            wanted = np.asarray(wanted).astype(old.dtype)
        patch = _patch(dims, (node, index), name, wanted, natural)
        if patch is None:
            _give_up(dims, growth, node, name, "its value depends on sizes that vary", found)
        else:
            found.sites.append(patch)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b))


def _patch(
    dims: Dimensions, site: tuple[ir.Node, int], name: str, wanted: Array, natural: Array | None
) -> SitePatch | None:
    """A patch for one site; None where an entry that has to change also depends on dynamic sizes."""
    if not name or name in dims.network.derived:
        return SitePatch(site, wanted, np.ones(wanted.shape, bool), constant=True)
    static = dims.flow.is_static(name)
    if static is None:
        return None
    if static.shape == wanted.shape and static.all():
        return SitePatch(site, wanted, np.ones(wanted.shape, bool), constant=True)
    if natural is None or not natural.shape == wanted.shape == static.shape:
        return None
    mask = np.asarray(natural != wanted)
    if (mask & ~static).any():
        return None
    return SitePatch(site, wanted, mask, constant=False)


def _give_up(dims: Dimensions, growth: Growth, node: ir.Node, name: str, why: str, found: Patches) -> None:
    label = f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"
    terms = [t for o in node.outputs if o.name for t in dims.values.get(o.name) or []]
    atoms = dict.fromkeys(leaf for t in terms for leaf in dims.forest.leaves(t) if leaf in growth)
    atoms.update(dict.fromkeys(_sources(dims, growth, [name])))
    found.unsolved.append(Unsolved(tuple(atoms), Reason(label, None, why)))


def _sources(dims: Dimensions, growth: Growth, names: Iterable[str]) -> tuple[Term, ...]:
    """Growing atoms of the tensors whose shapes a shape value was computed from."""
    atoms: dict[Term, None] = {}
    stack, seen = list(names), set()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in dims.flow.names:
            producer = dims.network.producer(name)
            stack += [v.name for v in producer.inputs if v is not None and v.name] if producer else []
        else:
            for term in dims.values.get(name) or []:
                atoms.update(dict.fromkeys(leaf for leaf in dims.forest.leaves(term) if leaf in growth))
    return tuple(atoms)
