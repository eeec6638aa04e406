"""Nodes between values that are equal: inserted ones in the result, removed ones in the original."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.blended import LEAKY, blended
from onnxgrow.verify.certificate.factors import root
from onnxgrow.verify.certificate.insertions import PASSING, passed_on
from onnxgrow.verify.certificate.side import Side, input_name
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved

__all__ = ["PROVABLE", "prove_inserted", "removed_over", "taken_back"]

IDEMPOTENT = frozenset(("Relu",))
"""f(f(x)) = f(x)."""
PROVABLE = PASSING | LEAKY | IDEMPOTENT
"""Ops of inserted nodes that may stand for a value of the original."""

Relate = Callable[[str, str], Proved]


def prove_inserted(
    node: ir.Node, claim: Claim, new: Side, old: Side, relate: Relate, stands_for: Callable[[str], str]
) -> None:
    """Prove that an inserted node makes what it stands for. Raises ProofError where it does not follow.

    Args:
        node: A node of the result, of an op of ``PROVABLE``.
        claim: On its output.
        new, old: The models.
        relate: Gives the proved state of a value of the result as a stand-in for one of the original.
        stands_for: Value of the result → the original's that it stands for, or an empty text.
    """
    if not claim.identity or claim.shape is None:
        raise ProofError("it is new, so it may not have grown")
    if node.op_type in LEAKY:
        sources, of = [input_name(node, 0)], blended(new, node, old, claim.of)
    elif node.op_type in IDEMPOTENT:
        sources, of = [_again(new, node, old, claim.of)], claim.of
    else:
        sources, of = passed_on(new, node, lambda name: bool(stands_for(name))), claim.of
    reason = ""
    for name in sources:
        try:
            if relate(name, of).identity:
                return
            reason = f"{name!r} grew"
        except ProofError as fault:
            reason = str(fault)
    raise ProofError(f"an inserted {node.op_type} does not stand for {claim.of!r}: {reason}")


def taken_back(node: ir.Node, claim: Claim, new: Side, relate: Relate) -> Proved | None:
    """The value whose factor an inserted Mul with one stored number takes back; None where it is none of that kind.

    Raises ProofError where the number is not one over the factor, rounded once.
    """
    for index in (0, 1) if node.op_type == "Mul" and len(node.inputs) == 2 and not new.domain(node) else ():
        number = new.tensors.get(input_name(node, 1 - index))
        if number is None or new.shape(input_name(node, 1 - index)) != ():
            continue
        state = relate(input_name(node, index), claim.of)
        if state.square == 1:
            return None
        stored = np.asarray(number.numpy())
        if stored != np.asarray(root(1 / state.square)).astype(stored.dtype):
            raise ProofError("an inserted Mul does not take back the factor of what it reads")
        if not all(a.same(b) for a, b in zip(state.axes, claim.axes, strict=True)):
            raise ProofError("its input's growth differs")
        return state
    return None


def _again(new: Side, node: ir.Node, old: Side, of: str) -> str:
    """What an idempotent op reads, where the value that it stands for was made by that op. Raises ProofError."""
    maker = old.producer[of][0] if of in old.producer else None
    for side, made in ((new, node), (old, maker)):
        if made is None or made.op_type != node.op_type or side.domain(made) or side.is_function(made):
            raise ProofError(f"{of!r} is not made by {node.op_type}")
    return input_name(node, 0)


def removed_over(old: Side, removed: Collection[str], of: str) -> set[str]:
    """The values of the original that one of it equals, because the nodes between them, now removed, pass on."""
    found: set[str] = set()
    pending = [of]
    while pending:
        name = pending.pop()
        node = old.producer[name][0] if name in old.producer else None
        if name not in removed or node is None or node.op_type not in PASSING:
            continue
        try:
            pending += [n for n in passed_on(old, node, old.exists) if n not in found]
        except ProofError:
            continue
        found.update(pending)
    return found
