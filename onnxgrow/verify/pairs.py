"""Which computed values of the result are compared with which of the original, for the runtime tier."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.interpreter import topological
from onnxgrow.verify.float64.restrict import axes_of, counterparts, factor_of, origins
from onnxgrow.verify.level import Pair

__all__ = ["compared_pairs"]

_HANDED_OUT = frozenset(
    ir.DataType[name]
    for name in ("FLOAT", "DOUBLE", "FLOAT16", "BOOL", *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)))
)
"""Element types that ONNX Runtime gives out as NumPy arrays."""


def compared_pairs(original: ir.Model, grown: ir.Model, growth_map: GrowthMap, concrete: Concrete) -> list[Pair]:
    """Intermediate values of the main graph whose old region has to be unchanged; graph outputs left out.

    Args:
        original, grown: The models.
        growth_map: Maps and names.
        concrete: Shapes and dtypes of ``grown``, to know how much memory they take.
    """
    order = topological(grown.graph)
    kinds = origins(order, grown.graph.inputs, growth_map)
    outputs = {v.name for v in (*original.graph.outputs, *grown.graph.outputs)}
    known = {v.name for node in original.graph for v in node.outputs if v.name}
    stands_for = counterparts(order, known, growth_map)
    found = []
    for node in order:
        for value in node.outputs:
            of = stands_for.get(value.name or "")
            if of is None or not value.name or {value.name, of} & outputs or not kinds[value].comparable:
                continue
            if factor_of(value.name, growth_map) != 1:  # judged in float64, and by what it leads to
                continue
            if value.name not in concrete.shapes:  # sequences and optionals, and what only a run can tell
                continue
            dtype = concrete.dtypes.get(value.name)
            if dtype not in _HANDED_OUT:
                continue
            nbytes = math.ceil(math.prod(concrete.shapes[value.name]) * dtype.itemsize)
            found.append(Pair(value.name, of, axes_of(value.name, growth_map), nbytes))
    return found
