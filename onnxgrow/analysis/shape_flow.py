"""Values computed from shapes, and what becomes of them when a tensor grows.

``Shape(t)`` changes with ``t``. What is computed from it may set the size of something that did not grow, a scale, an
offset. Wherever such a value enters another computation it must be what that computation needs: the old value, or
the grown size where a shape operand belongs to a grown axis. Where it is not, the use gets a value of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis.network import Network, Site
from onnxgrow.concrete.evaluate import evaluable, evaluate

__all__ = ["ShapeFlow", "SitePatch"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class SitePatch:
    """One input that needs another value than what flows there.

    Attributes:
        site: Where.
        wanted: The value it needs.
        mask: Entries of it that differ from what flows there; all True where it can be a constant.
        constant: Whether ``wanted`` holds for all sizes of the dynamic axes, so a constant can stand there.
    """

    site: Site
    wanted: Array
    mask: npt.NDArray[np.bool_]
    constant: bool


class ShapeFlow:
    """The part of a network that computes with shapes."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes: list[ir.Node] = []
        self.names: set[str] = set()
        for node in network.nodes:
            if self._belongs(node):
                self.nodes.append(node)
                self.names.update(o.name for o in node.outputs if o.name)

    def _belongs(self, node: ir.Node) -> bool:
        """Shape or Size, or an op on such values whose result is still integers, at most a vector of them.

        A real number computed from a shape (an attention scale) is outside: its integers are kept at the cast, so that
        it is computed as before, in whatever precision.
        """
        if node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx"):
            return True
        names = [v.name for v in node.inputs if v is not None and v.name]
        if not any(n in self.names for n in names):
            return False
        if not all(n in self.names or n in self.network.derived for n in names):
            return False
        known = self.network.concrete
        for output in node.outputs:
            if not output.name:
                continue
            if output.name not in known.values:
                return False
            shape, dtype = known.shapes[output.name], known.dtypes[output.name]
            whole = dtype.is_integer() or dtype == ir.DataType.BOOL
            if len(shape) > 1 or not whole:
                return False
        return evaluable(node, self.network.version(node))

    def grown(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array | None]:
        """What each shape value becomes when the values named in ``shapes`` have those grown shapes.

        Returns:
            Changed values only; None where it cannot be computed any more.
        """
        changed: dict[str, Array | None] = {}
        for node in self.nodes:
            names = [v.name for v in node.inputs if v is not None and v.name]
            if node.op_type in ("Shape", "Size"):
                self._note(changed, node, [_measure(node, shapes[names[0]])] if names[0] in shapes else None)
            elif any(n in changed for n in names):
                inputs = {n: changed[n] if n in changed else self.network.concrete.values[n] for n in names}
                known = {n: v for n, v in inputs.items() if v is not None}
                results = None
                if len(known) == len(inputs):
                    results = evaluate(ir.serde.serialize_node(node), known, self.network.version(node))
                self._note(changed, node, results or [None] * len(node.outputs))
        return changed

    def _note(self, changed: dict[str, Array | None], node: ir.Node, results: object) -> None:
        if not isinstance(results, list | tuple):
            return
        named = [o.name for o in node.outputs if o.name]
        for name, value in zip(named, results, strict=True):
            old = self.network.concrete.values.get(name)
            if value is None or old is None or old.shape != value.shape or not np.array_equal(old, value):
                changed[name] = value

    def is_static(self, name: str) -> npt.NDArray[np.bool_] | None:
        """Which entries of a value are the same for all sizes of the dynamic axes; None where not comparable."""
        here = self.network.concrete.values.get(name)
        there = self.network.other.values.get(name)
        if here is None or there is None or here.shape != there.shape:
            return None
        return np.asarray(here == there)


def _measure(node: ir.Node, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), np.int64)
    start, end = (node.attributes.get(key) for key in ("start", "end"))
    window = slice(start.as_int() if start else None, end.as_int() if end else None)
    return np.array(shape[window], np.int64)
