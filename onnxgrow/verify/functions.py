"""Growth that went through local functions, or made some: both models are compared with these calls put in place.

What a call computes is defined by its function's body, so this is the same network in other words. ONNX Runtime, which
has an implementation of functions of its own, runs both models as they are stored, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrow.concrete.calls import calls_in, expanded
from onnxgrow.concrete.functions import function_name, inlined
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io.digest import model_digest
from onnxgrow.verify.certificate.equality import function_difference
from onnxgrow.verify.report import Finding

__all__ = ["Unfolded", "unfold"]


@dataclass(frozen=True)
class Unfolded:
    """Two models that can be compared, and what was wrong with the growth map on the way there.

    Attributes:
        original: With the functions inlined and the calls expanded that the map names.
        grown: The result, with the calls expanded, and with a growth map that starts from there.
        growth_map: That map.
        faults: Findings of accounting.
    """

    original: ir.Model
    grown: ir.Model
    growth_map: GrowthMap
    faults: tuple[Finding, ...] = ()


def unfold(original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> Unfolded:
    """Inline and expand what the growth map says; both models as they are where it names no function and no call."""
    if not growth_map.inlined and not growth_map.calls:
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
    faults += _call_faults(original, grown, growth_map)
    try:
        reference = inlined(original, growth_map.inlined) if growth_map.inlined else original
        reference = expanded(reference, growth_map.calls)
        result = expanded(grown, growth_map.calls, reference.opset_imports)
    except UnsupportedError as error:
        faults.append(Finding(error.subject, error.reason))
        return Unfolded(original, grown, growth_map, tuple(faults))
    local = replace(growth_map, original=model_digest(reference), inlined=(), calls=())
    if stored is not None:
        result.metadata_props[METADATA_KEY] = local.dumps()
    return Unfolded(reference, result, local, tuple(faults))


def _call_faults(original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> list[Finding]:
    """What is wrong with the calls listed: each is in one of the models, and functions that both have are the same."""
    if not growth_map.calls:
        return []
    known = (calls_in(original), calls_in(grown))
    faults = [
        Finding(name, "listed as a call that is new or gone, but it is in " + ("both models" if count else "neither"))
        for name in growth_map.calls
        if (count := sum(name in calls for calls in known)) != 1
    ]
    for key, function in original.functions.items():
        difference = function_difference(function, grown.functions[key]) if key in grown.functions else ""
        if difference:
            faults.append(Finding(f"function {function.name}", difference))
    return faults
