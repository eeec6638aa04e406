"""Constants: values that are stored, or whose numbers are known in both models."""

from __future__ import annotations

from onnxgrow.verify.certificate.compare import compare_constants, compare_values
from onnxgrow.verify.certificate.facts import prove_facts
from onnxgrow.verify.certificate.formulas import FORMULAS, OPERAND
from onnxgrow.verify.certificate.proofs import Proofs
from onnxgrow.verify.certificate.readers import ArrayReader, Reader
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved, Unrelated

__all__ = ["is_filled", "known", "prove_constant", "prove_stored"]


def prove_constant(proofs: Proofs, name: str) -> None:
    """Prove a constant of the result from its bytes and the formula that the growth map names. Raises ProofError."""
    proofs.states[name] = Unrelated("it is a new tensor without a counterpart")
    of = proofs.claims.of(name)
    if not of:
        return
    growth = proofs.map.tensors.get(name)
    formula = growth.formula if growth is not None else ""
    if formula == OPERAND:
        known(proofs, name, of, stored=True)
        if isinstance(proofs.states[name], Proved):
            prove_facts(proofs.proved(name), proofs.combined)
        return
    claim = proofs.claims.claim(name, of)
    proofs.assume(claim)
    new, old = proofs.new.reader(name), proofs.old.reader(of)
    if new is None or old is None:
        raise ProofError(f"stands for {of!r}, which is not constant")
    if formula:
        assert growth is not None
        if formula not in FORMULAS:
            raise ProofError(f"the formula {formula!r} is not known")
        FORMULAS[formula](new, old, growth)
        proofs.states[name] = Proved(claim, proofs.slabs(new, claim))
    else:
        prove_stored(proofs, claim, new, old)
    prove_facts(proofs.proved(name), proofs.combined)
    proofs.ways["constant"] += 1


def prove_stored(proofs: Proofs, claim: Claim, new: Reader, old: Reader) -> None:
    """Prove a constant by comparing its entries with those it stands for. Raises ProofError."""
    if claim.square != 1:
        raise ProofError("its old entries are claimed to be multiplied, but it names no formula")
    difference = compare_constants(new, old, claim, proofs.tally)
    if difference:
        raise ProofError(difference)
    proofs.states[claim.name] = Proved(claim, proofs.slabs(new, claim))


def known(proofs: Proofs, name: str, of: str, *, stored: bool = False) -> bool:
    """Prove a value whose number is known in both models; False where it is not known, or has to be proved as
    what its node computes. ``stored`` says that no node computes it."""
    new, old = proofs.new.value(name), proofs.old.value(of)
    if new is None or old is None:
        return False
    try:
        claim = proofs.claims.claim(name, of)
    except ProofError as fault:
        proofs.states[name] = Unrelated(str(fault))
        return True
    if claim.square == 1 and compare_values(new, old, claim):
        proofs.states[name] = Proved(claim, proofs.slabs(ArrayReader(new), claim))
    elif new.dtype.kind == "f" and not stored:
        # Sums over a grown axis are rounded in another order, here or further up: the node itself has to be proved.
        return False
    else:
        proofs.states[name] = Unrelated(f"its known value differs from the original's ({_brief(old)}, {_brief(new)})")
    return True


def is_filled(proofs: Proofs, name: str) -> bool:
    """Whether a ConstantOfShape node makes the value: a constant only as long as its shape operand is one."""
    entry = proofs.new.producer.get(name)
    return entry is not None and entry[0].op_type == "ConstantOfShape"


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
