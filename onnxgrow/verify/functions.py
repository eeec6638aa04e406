"""Growth that went through local functions: the original is compared with the calls of these functions inlined.

What a call computes is defined by its function's body, so this is the same network in other words. ONNX Runtime, which
has an implementation of functions of its own, runs the original as it is, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrow.concrete.functions import function_name, inlined
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io.copy import copy_model
from onnxgrow.io.digest import model_digest
from onnxgrow.verify.report import Finding

__all__ = ["Unfolded", "unfold"]


@dataclass(frozen=True)
class Unfolded:
    """Two models that can be compared, and what was wrong with the growth map on the way there.

    Attributes:
        original: With the functions inlined that the map names.
        grown: The result, with a growth map that starts from there.
        growth_map: That map.
        faults: Findings of accounting.
    """

    original: ir.Model
    grown: ir.Model
    growth_map: GrowthMap
    faults: tuple[Finding, ...] = ()


def unfold(original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> Unfolded:
    """Inline in the original what the growth map says; both models as they are where it names no function."""
    if not growth_map.inlined:
        return Unfolded(original, grown, growth_map)
    known = {function_name(f) for f in original.functions.values()}
    faults = [
        Finding(name, "listed as inlined, but the original has no such function")
        for name in growth_map.inlined
        if name not in known
    ]
    if growth_map.original != model_digest(original):
        faults.append(Finding("growth map", "it was made for another original (its digest does not match)"))
    stored = grown.metadata_props.get(METADATA_KEY)
    if stored is not None and stored != growth_map.dumps():
        faults.append(Finding("growth map", "the one in the result's metadata is another one"))
    try:
        reference = inlined(original, growth_map.inlined)
    except UnsupportedError as error:
        faults.append(Finding(error.subject, error.reason))
        return Unfolded(original, grown, growth_map, tuple(faults))
    local = replace(growth_map, original=model_digest(reference), inlined=())
    result = copy_model(grown)
    if stored is not None:
        result.metadata_props[METADATA_KEY] = local.dumps()
    return Unfolded(reference, result, local, tuple(faults))
