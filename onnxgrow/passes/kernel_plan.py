"""Which kernels grow, to what size, and with which pads: decided from shapes and attributes, no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.analysis.bodies import graphs_of
from onnxgrow.analysis.network import Network
from onnxgrow.analysis.study import Study
from onnxgrow.axis_map import ZERO, AxisMap, Segment
from onnxgrow.concrete.bodies import Path
from onnxgrow.concrete.pin import input_specs
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.growth_map import Axes
from onnxgrow.passes.left_out import left_out
from onnxgrow.passes.padding import Unplaceable, Window, placed

__all__ = ["KernelPlan", "PlannedKernel", "plan_kernels"]

CONVOLUTIONS = ("Conv", "ConvTranspose")
CARRIERS = ("Cast", "Identity", "Transpose")
"""Ops behind which a zero tap of a stored weight is a zero tap of the kernel."""
SHOWN = 3
"""Selectors named in an error."""

Sizes = int | tuple[int, ...]


@dataclass(frozen=True)
class PlannedKernel:
    """One weight that grows, and the convolutions that use it.

    Attributes:
        weight: Name of the constant.
        path: The graph it is used in.
        name: What users call it: in a body, with the body's label in front.
        old, new: Kernel sizes.
        axes: Growth of the constant, and of the values between it and the convolutions, by name.
        changes: Convolution → attributes to set, or to remove where None.
        parameters, flops: What is added; operations per run at the analysed shapes.
    """

    weight: str
    path: Path
    name: str
    old: tuple[int, ...]
    new: tuple[int, ...]
    axes: Mapping[str, Axes]
    changes: Mapping[str, Mapping[str, Any]]
    parameters: int
    flops: int


@dataclass(frozen=True)
class KernelPlan:
    """Kernels that grow, and those that were meant but stay as they are, with the reason.

    Attributes:
        recipe: What was asked for, JSON data.
        kernels: What grows.
        skipped: Weight or node → why it stays.
        notes: Remarks.
        parameters, flops: (before, after) of the network's weights and of its linear ops.
    """

    recipe: Mapping[str, Any]
    kernels: tuple[PlannedKernel, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": dict(self.recipe),
            "kernels": [{"name": k.name, "old": list(k.old), "new": list(k.new)} for k in self.kernels],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "parameters": {"old": self.parameters[0], "new": self.parameters[1]},
            "flops": {"old": self.flops[0], "new": self.flops[1]},
        }


def plan_kernels(found: Study, layers: Sequence[str] | None, to: Sizes) -> KernelPlan:
    """Decide what grows.

    Raises:
        UsageError: A selector matches nothing.
        UnsupportedError: Nothing selected can grow; the reasons are named.
    """
    graphs = list(graphs_of(found.analysis))
    planners = {path: _Planner(analysis.network, path, label, to) for path, label, analysis in graphs}
    kernels: dict[str, PlannedKernel] = {}
    skipped: dict[str, str] = {}
    for use, literal in _selected([use for planner in planners.values() for use in planner.uses], layers):
        if use.label in kernels or use.label in skipped:
            continue
        try:
            kernels[use.label] = planners[use.path].kernel(use, literal)
        except Unplaceable as reason:
            skipped[use.label] = str(reason)
    if not kernels:
        subject = ", ".join(layers[:SHOWN]) + ", …" * (len(layers) > SHOWN) if layers else "the network"
        if not skipped:
            raise UnsupportedError(subject, "it has no convolutions")
        name, reason_text = next(iter(skipped.items()))
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise UnsupportedError(subject, f"no kernel selected can grow: {name}: {reason_text}{more}")
    recipe: dict[str, Any] = {"pass": "enlarge-kernel", "to": to if isinstance(to, int) else list(to)}
    if layers is not None:
        recipe["layers"] = list(layers)
    notes = left_out(found, CONVOLUTIONS, "convolutions")
    costs = [part.cost for part in found.analysis.parts]
    parameters, flops = sum(c.total_parameters({}) for c in costs), sum(c.total_flops({}) for c in costs)
    return KernelPlan(
        recipe,
        tuple(kernels.values()),
        skipped,
        notes,
        (parameters, parameters + sum(k.parameters for k in kernels.values())),
        (flops, flops + sum(k.flops for k in kernels.values())),
    )


@dataclass(frozen=True)
class _Use:
    """A convolution and the constant behind its kernel; no constant where there is none."""

    node: ir.Node
    root: str
    way: tuple[ir.Node, ...]
    path: Path
    body: str

    @property
    def label(self) -> str:
        return self.called(self.root or self.node.name or node_key(self.node))

    @property
    def names(self) -> set[str]:
        own = {n for n in (self.root, self.node.name, node_key(self.node)) if n}
        return own | {self.called(n) for n in own}

    def called(self, name: str) -> str:
        """A name of its graph, as users say it."""
        return f"{self.body}/{name}" if self.body else name

    @property
    def handles(self) -> set[str]:
        return self.names | {self.node.op_type, f"op:{self.node.op_type}"}


def _selected(uses: Sequence[_Use], layers: Sequence[str] | None) -> list[tuple[_Use, bool]]:
    """What the selectors match, in network order, and whether a selector is the literal name."""
    if not layers:
        return [(use, False) for use in uses]
    found: dict[ir.Node, bool] = {}
    for selector in layers:
        matched = [u for u in uses if selector in u.handles]
        matched = matched or [u for u in uses if any(fnmatchcase(h, selector) for h in u.handles)]
        if not matched:
            close = get_close_matches(selector, [n for u in uses for n in u.names], n=3, cutoff=0.5)
            raise UsageError(
                selector, "no convolution matches this selector", f"did you mean {', '.join(close)}?" * bool(close)
            )
        for use in matched:
            found[use.node] = found.get(use.node, False) or selector in use.names
    return [(use, found[use.node]) for use in uses if use.node in found]


class _Planner:
    """Plans in one graph."""

    def __init__(self, network: Network, path: Path, label: str, to: Sizes) -> None:
        self.network, self.path, self.label = network, path, label
        self.to = to
        self.outputs = {v.name for v in self.network.model.graph.outputs}
        self.uses = [
            self._use(n) for n in self.network.nodes if n.op_type in CONVOLUTIONS and n.domain in ("", "ai.onnx")
        ]

    def _use(self, node: ir.Node) -> _Use:
        roots = self.network.roots((node, 1))
        root, way = (roots[0][0], tuple(s.node for s in roots[0][2])) if len(roots) == 1 else ("", ())
        return _Use(node, root, way, self.path, self.label)

    def kernel(self, use: _Use, literal: bool) -> PlannedKernel:
        """How one weight grows, and all convolutions that share it. Raises Unplaceable."""
        self._check_stored(use)
        shape = self.network.shape(use.node.inputs[1].name or "") if use.node.inputs[1] is not None else None
        if shape is None:
            raise Unplaceable("the shape of its kernel is not known")
        old = shape[2:]
        new = self._target(old, literal)
        front = [(n - o) // 2 for n, o in zip(new, old, strict=True)]
        behind = [n - o - f for n, o, f in zip(new, old, front, strict=True)]
        maps = {
            axis + 2: _around(o, f, b) for axis, (o, f, b) in enumerate(zip(old, front, behind, strict=True)) if f or b
        }
        axes: dict[str, Axes] = {}
        changes: dict[str, Mapping[str, Any]] = {}
        flops = 0
        sharing = self._sharing(use.root)
        for other in sharing:
            for name, grown in _pulled_back(other, maps, len(shape)):
                if axes.setdefault(name, grown) != grown:
                    raise Unplaceable(f"{other.node.name or node_key(other.node)} uses it with other axes")
            try:
                changes[node_key(other.node)] = placed(self._window(other.node, old), front, behind)
            except Unplaceable as e:
                if other.node is use.node:
                    raise
                raise Unplaceable(f"{node_key(other.node)} shares it: {e}") from e
            flops += self._flops(other.node, shape, new)
        parameters = math.prod(shape[:2]) * (math.prod(new) - math.prod(old))
        return PlannedKernel(use.root, self.path, use.label, tuple(old), new, axes, changes, parameters, flops)

    def _check_stored(self, use: _Use) -> None:
        value = use.node.inputs[1]
        if not use.root:
            name = (value.name if value is not None else None) or "its kernel"
            raise Unplaceable(f"{name} is not stored in the model, or not behind Transpose, Cast and Identity only")
        producer = self.network.model.graph.initializers.get(use.root)
        maker = next((n for n in self.network.model.graph if node_key(n) == use.root), None)
        if producer is None and (maker is None or maker.op_type != "Constant"):
            raise Unplaceable("its weight is not stored, but made by a node")

    def _target(self, old: Sequence[int], literal: bool) -> tuple[int, ...]:
        wanted = (self.to,) * len(old) if isinstance(self.to, int) else self.to
        if len(wanted) != len(old):
            raise Unplaceable(f"it has {len(old)} spatial axes, {len(wanted)} sizes are given")
        new = tuple(max(o, n) if o > 1 or literal else o for o, n in zip(old, wanted, strict=True))
        if new != tuple(old):
            return new
        size = "x".join(map(str, old))
        if any(o < n for o, n in zip(old, wanted, strict=True)):
            raise Unplaceable(f"its kernel is {size} and grows only where it is named literally")
        raise Unplaceable(f"its kernel is {size} already")

    def _sharing(self, root: str) -> list[_Use]:
        """Every convolution behind a constant. Raises Unplaceable where anything else reads it."""
        pending, found = [root], []
        while pending:
            name = pending.pop()
            if name in self.network.captured:
                raise Unplaceable(f"{name} is read by a subgraph, too")
            if name in self.outputs:
                raise Unplaceable(f"{name} is an output of the network")
            for node, index in self.network.uses(name):
                if node.op_type in CARRIERS and node.domain in ("", "ai.onnx"):
                    pending.extend(o.name for o in node.outputs if o.name)
                    continue
                use = next((u for u in self.uses if u.node is node and index == 1), None)
                if use is None:
                    raise Unplaceable(f"{node.op_type} {node.name or node_key(node)} reads {name}, too")
                found.append(use)
        return found

    def _window(self, node: ir.Node, kernel: Sequence[int]) -> Window:
        value, made = node.inputs[0], node.outputs[0]
        assert value is not None
        sizes, out = self.network.shape(value.name or ""), self.network.shape(made.name or "")
        if sizes is None or out is None:
            raise Unplaceable("the shape of its input or output is not known")
        fixed = tuple(self._fixed(value, axis) for axis in range(2, len(sizes)))
        return Window(node, tuple(kernel), sizes[2:], out[2:], fixed)

    def _fixed(self, value: ir.Value, axis: int) -> bool:
        """Whether an axis has one size for all inputs: written down, or seen to stay while every dynamic one moved."""
        here, other = self.network.concrete, self.network.other
        declared = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
        if isinstance(declared, int) and declared > 0:
            return True
        name = value.name or ""
        if name not in other.shapes or here.shapes[name][axis] != other.shapes[name][axis]:
            return False
        return all(
            spec.dims is not None
            and all(d.size or a != b for d, a, b in zip(spec.dims, here.input_shapes[spec.name], there, strict=True))
            for spec in input_specs(self.network.model)
            for there in (other.input_shapes[spec.name],)
        )

    def _flops(self, node: ir.Node, shape: Sequence[int], new: Sequence[int]) -> int:
        """Operations that the larger kernel adds, 2 per multiply-add."""
        value = node.outputs[0] if node.op_type == "Conv" else node.inputs[0]
        around = self.network.shape((value.name if value is not None else None) or "")
        assert around is not None
        positions = around[0] * math.prod(around[2:])
        return 2 * positions * math.prod(shape[:2]) * (math.prod(new) - math.prod(shape[2:]))


def _around(old: int, front: int, behind: int) -> AxisMap:
    """Zero taps around the old ones."""
    parts = (Segment(front, fact=ZERO), Segment(old, 0), Segment(behind, fact=ZERO))
    return AxisMap(tuple(s for s in parts if s.length))


def _pulled_back(use: _Use, maps: Axes, rank: int) -> Iterator[tuple[str, Axes]]:
    """The growth of the values on the way from the kernel back to its constant, the constant included."""
    current = dict(maps)
    for node in reversed(use.way):
        if node.op_type not in CARRIERS:
            raise Unplaceable(f"its weight passes through {node.op_type}")
        yield node_key(node), current
        if node.op_type == "Transpose":
            perm = node.attributes.get("perm")
            order = list(perm.as_ints()) if perm is not None else list(reversed(range(rank)))
            current = {order[axis]: axis_map for axis, axis_map in current.items()}
    yield use.root, current
