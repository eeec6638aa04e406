"""The certificate itself: every value of the grown graph, in topological order, proved from those before it.

The *restrict property* of a value v that stands for u: at every new index whose coordinates are all old, v
equals u at the mapped old coordinates. The graph's outputs must have it with nothing grown; then both models
compute the same function, for the given input shapes and all inputs that keep every activation finite.
"""

from __future__ import annotations

import time

import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete
from onnxgrow.growth_map import GrowthMap, TensorGrowth, ValueGrowth
from onnxgrow.verify.certificate import checkers
from onnxgrow.verify.certificate.constants import is_filled, prove_constant
from onnxgrow.verify.certificate.equality import function_difference
from onnxgrow.verify.certificate.nodes import prove_values
from onnxgrow.verify.certificate.proofs import Proofs, broken
from onnxgrow.verify.certificate.state import ProofError
from onnxgrow.verify.findings import MAX_FINDINGS, EnoughFindingsError
from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["ASSUMES", "MAX_FINDINGS", "certify"]

ASSUMES = (
    "activations of the grown model are finite (0 times an infinity is no zero)",
    "arithmetic of real numbers: the order of a sum may change its last bits, and -0 counts as 0",
    "the shapes given; sizes that depend on data are those of the sample run",
    "initializers that are also graph inputs keep their stored values",
)


def certify(
    original: ir.Model,
    grown: ir.Model,
    growth_map: GrowthMap,
    concrete_original: Concrete,
    concrete_grown: Concrete,
) -> TierResult:
    """Prove from the two models and the growth map alone that the grown model computes the original's function.

    Args:
        original, grown: The models; not modified. Weights are read in blocks of at most 32 MB.
        growth_map: The claims to prove.
        concrete_original, concrete_grown: Shapes and known values of both models for the same input shapes.

    Returns:
        The tier ``certificate``: passed only when every graph output is proved. A fault in the checking
        itself is a finding, too; nothing is raised for a wrong growth.
    """
    started = time.perf_counter()
    proofs = Proofs(original, grown, growth_map, concrete_original, concrete_grown)
    outputs_proved = 0
    try:
        outputs_proved = _prove(proofs)
    except EnoughFindingsError:
        pass
    except Exception as error:
        # Whatever breaks while checking must never look like a proof.
        proofs.findings.append(Finding("certificate", broken(error)))
    status = TierStatus.FAILED if proofs.findings else TierStatus.PASSED
    figures = {
        "nodes": dict(sorted(proofs.ways.items())),
        "tensors_compared": proofs.tally.tensors,
        "entries_bit_compared": proofs.tally.bit_compared,
        "entries_proved_zero": proofs.tally.proved_zero,
        "outputs_proved": outputs_proved,
        "assumes": list(ASSUMES),
    }
    seconds = time.perf_counter() - started
    return TierResult("certificate", status, figures, tuple(proofs.findings), seconds)


def _prove(proofs: Proofs) -> int:
    """The number of graph outputs that are proved."""
    if not checkers.LOADED:
        raise ProofError("no checkers are registered")
    _models(proofs)
    _listed(proofs)
    for name in proofs.new.inputs:
        if name not in proofs.new.tensors:
            proofs.guard(name, _prove_input, proofs, name)
    for name in proofs.new.graph.initializers:
        proofs.guard(name, prove_constant, proofs, name)
    for node in proofs.new.order:
        prove_values(proofs, node)
    return _outputs(proofs)


def _models(proofs: Proofs) -> None:
    if not proofs.map.exact:
        proofs.fault("growth map", "it says itself that the growth is not exact")
    if proofs.old.opsets != proofs.new.opsets:
        proofs.fault("opset imports", f"{proofs.old.opsets} became {proofs.new.opsets}")
    old, new = proofs.old.model.functions, proofs.new.model.functions
    if set(old) != set(new):
        proofs.fault("functions", "the model's functions differ")
    for key in old:
        if key in new:
            difference = function_difference(old[key], new[key])
            if difference:
                proofs.fault(f"function {old[key].name}", difference)
    if proofs.old.inputs != proofs.new.inputs:
        proofs.fault("graph inputs", "their names differ")
    if proofs.old.outputs != proofs.new.outputs:
        proofs.fault("graph outputs", "their names or order differ")


def _listed(proofs: Proofs) -> None:
    """Names that the map lists must exist, once, and stand for something that exists."""
    growths: list[tuple[str, ValueGrowth | TensorGrowth]] = [*proofs.map.values.items(), *proofs.map.tensors.items()]
    for name, growth in growths:
        if not proofs.new.exists(name):
            proofs.fault(name, "the growth map lists it, but the result has no such value")
        if growth.of and not proofs.old.exists(growth.of):
            proofs.fault(name, f"stands for {growth.of!r}, which the original does not have")
    for name in proofs.map.values.keys() & proofs.map.tensors.keys():
        proofs.fault(name, "the growth map lists it both as a value and as a tensor")
    for name in proofs.map.values:
        if name in proofs.new.tensors and not is_filled(proofs, name):
            proofs.fault(name, "the growth map lists a constant tensor as a computed value")
    for name in proofs.map.tensors:
        if name not in proofs.new.tensors and proofs.new.exists(name):
            proofs.fault(name, "the growth map lists a computed value as a constant tensor")


def _prove_input(proofs: Proofs, name: str) -> None:
    claim = proofs.claims.claim(name, name)
    proofs.assume(claim)
    if proofs.claims.listed(name) or not claim.identity:
        raise ProofError("a graph input may not grow")


def _outputs(proofs: Proofs) -> int:
    if not proofs.new.outputs:
        proofs.fault("graph outputs", "there are none, so nothing is proved")
    proved: list[str] = []
    for name in proofs.new.outputs:
        proofs.guard(name, _prove_output, proofs, name, proved)
    return len(proved)


def _prove_output(proofs: Proofs, name: str, proved: list[str]) -> None:
    related = proofs.relate(name, name)
    if not related.identity and (name not in proofs.map.outputs or related.square != 1):
        raise ProofError("a graph output grew")
    proved.append(name)
