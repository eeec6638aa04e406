"""Nodes: what they compute from proved values, by the rule of their op."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.verify.certificate.between import PROVABLE, prove_inserted, taken_back
from onnxgrow.verify.certificate.constants import is_filled, known, prove_constant, prove_stored
from onnxgrow.verify.certificate.domain import stays_defined
from onnxgrow.verify.certificate.facts import prove_facts
from onnxgrow.verify.certificate.pair import Pair
from onnxgrow.verify.certificate.proofs import Proofs, broken
from onnxgrow.verify.certificate.registry import checker_for
from onnxgrow.verify.certificate.side import input_name, output_names
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved, Unrelated
from onnxgrow.verify.certificate.unchanged import unchanged, why_changed
from onnxgrow.verify.findings import EnoughFindingsError

__all__ = ["prove_values"]


def prove_values(proofs: Proofs, node: ir.Node) -> None:
    """Prove what a node of the result gives; what fails is noted."""
    pending: dict[int, str] = {}
    for index, name in enumerate(output_names(node)):
        if not name:
            continue
        of = proofs.claims.of(name)
        if name in proofs.new.tensors and not (is_filled(proofs, name) and of not in proofs.old.tensors):
            proofs.guard(name, prove_constant, proofs, name)
            continue
        proofs.states[name] = Unrelated("it is new and stands for no value of the original")
        if not of:
            continue
        try:
            if not _settled(proofs, name, of):
                pending[index] = of
        except EnoughFindingsError:
            raise
        except Exception as error:
            proofs.fault(name, str(error) if isinstance(error, ProofError) else broken(error))
    if pending:
        proofs.guard(_subject(node), _prove_node, proofs, node, pending)


def _settled(proofs: Proofs, name: str, of: str) -> bool:
    """Whether the value is proved, or found unrelated, by numbers alone."""
    if name in proofs.new.static and of in proofs.old.static:
        if known(proofs, name, of):
            proofs.ways["known value"] += 1
            state = proofs.states[name]
            if isinstance(state, Proved):
                _zeros_by_node(proofs, name, of)
                state = proofs.proved(name)
                prove_facts(state, proofs.combined)
            elif proofs.claims.listed(name):
                raise ProofError(f"the growth map lists it, but {state.reason}")
            return True
        new, old = proofs.new.reader(name), proofs.old.reader(of)
        if new is not None and old is not None:
            claim = proofs.claims.claim(name, of)
            proofs.assume(claim)
            try:
                prove_stored(proofs, claim, new, old)
            except ProofError:
                # What a node computes from constants may differ in its last bits, a stored tensor not.
                if new.dtype.kind == "f" and proofs.new.producer.get(name):
                    return False
                raise
            prove_facts(proofs.proved(name), proofs.combined)
            proofs.ways["constant"] += 1
            return True
    return False


def _zeros_by_node(proofs: Proofs, name: str, of: str) -> None:
    """Add the zeros that the node itself proves: those of a computed number may be roundings."""
    known, entry = proofs.proved(name), proofs.new.producer.get(name)
    if known.identity or entry is None or proofs.new.concrete.values[name].dtype.kind != "f":
        return
    ways = proofs.ways.copy()
    try:
        _prove_node(proofs, entry[0], {entry[1]: of})
    except Exception:  # what the numbers show is proved without it
        proofs.states[name] = known
    else:
        proved = proofs.proved(name)
        both = {axis: known.zero(axis) | proved.zero(axis) for axis in {*known.zeros, *proved.zeros}}
        proofs.states[name] = Proved(known.claim, both)
    proofs.ways = ways


def _prove_node(proofs: Proofs, node: ir.Node, pending: dict[int, str]) -> None:
    claims: dict[int, Claim] = {}
    for index, of in pending.items():
        claim = proofs.claims.claim(node.outputs[index].name or "", of)
        claims[index] = claim
    for claim in claims.values():
        proofs.assume(claim)
    if _subject(node) in proofs.inserted and node.op_type in PROVABLE:
        rescaled = taken_back(node, claims[0], proofs.new, proofs.relate)
        if rescaled is not None:
            proofs.ways["inserted factor"] += 1
            proofs.settle(claims, {0: lambda: rescaled.zeros})
            return
        prove_inserted(node, claims[0], proofs.new, proofs.old, proofs.relate, proofs.claims.of)
        proofs.ways[f"inserted {node.op_type}"] += 1
        proofs.settle(claims, {})
        return
    original = _original(proofs, pending)
    if original is None or (node.op_type, proofs.new.domain(node), node.overload) != (
        original.op_type,
        proofs.old.domain(original),
        original.overload,
    ):
        _identity_insertion(proofs, node, claims)
        return
    if unchanged(node, original, claims, proofs.relate):
        proofs.ways["same node, nothing grown"] += 1
        proofs.settle(claims, {})
        return
    for claim in claims.values():
        if claim.shape is None:
            raise ProofError(f"the shape of {claim.name!r} is not known{why_changed(node, original, proofs.relate)}")
    domain = proofs.new.domain(node)
    checker = None if proofs.new.is_function(node) else checker_for(domain, node.op_type)
    if checker is None:
        raise ProofError(
            f"no rule for {node.op_type} where something grew or changed{why_changed(node, original, proofs.relate)}"
        )
    pair = Pair(
        node,
        original,
        proofs.new,
        proofs.old,
        proofs.new.opsets.get(domain, 1),
        claims,
        proofs.relate,
        proofs.tally,
    )
    checker(pair)
    stays_defined(pair)
    proofs.ways[f"rule {node.op_type}"] += 1
    proofs.settle(claims, pair.zeros, pair.squares)


def _original(proofs: Proofs, pending: dict[int, str]) -> ir.Node | None:
    """The node of the original that makes all these values, at the same places; None where there is none."""
    producers = {of: proofs.old.producer.get(of) for of in pending.values()}
    nodes = {entry[0] for entry in producers.values() if entry is not None}
    if len(nodes) == 1 and all(
        (entry := producers[of]) is not None and entry[1] == index for index, of in pending.items()
    ):
        return nodes.pop()
    if not nodes or len(pending) == 1:
        return None
    raise ProofError("its outputs stand for outputs of different nodes")


def _identity_insertion(proofs: Proofs, node: ir.Node, claims: dict[int, Claim]) -> None:
    """An inserted Identity passes on what its input stands for."""
    claim = next(iter(claims.values()))
    if node.op_type != "Identity" or proofs.new.domain(node) or proofs.new.is_function(node):
        raise ProofError(f"{node.op_type} makes {claim.of!r}, which no such node of the original makes")
    state = proofs.relate(input_name(node, 0), claim.of)
    if state.square != 1 or not all(a.same(b) for a, b in zip(state.axes, claim.axes, strict=True)):
        raise ProofError("its input's growth differs")
    proofs.ways["inserted Identity"] += 1
    proofs.settle({0: claim}, {0: lambda: state.zeros})


def _subject(node: ir.Node) -> str:
    return next((name for name in output_names(node) if name), node.name or node.op_type)
