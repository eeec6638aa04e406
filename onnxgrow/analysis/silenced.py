"""Sets that zero fan-out would kill: the zeros their readers need are their writers' own entries.

A tied autoencoder reads with the transpose of the weight that writes; a product of a value with itself needs the value
to be zero. Growth would be exact, and every new weight would stay zero for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxgrow.algebra import Term, layout
from onnxgrow.analysis.cost import Weight
from onnxgrow.analysis.demand import Grant, grants
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.rules import Reason

__all__ = ["freeze_silenced"]

TIED = "its writers are read by the same entries: zero, so that nothing changes, they would never learn"
ZEROED = "its writers would have to stay zero for what is summed up over it, such as a norm, and would never learn"


def freeze_silenced(
    dims: Dimensions, writers: Mapping[Term, Sequence[Weight]], readers: Mapping[Term, Sequence[Weight]]
) -> None:
    """Freeze every set all of whose writers would have to be zero in their new entries."""
    for atom, written in writers.items():
        if atom.frozen:
            continue
        read = {w.root for w in readers.get(atom, ())}
        asked = atom in dims.contracted or dims.computed.needs_of(dims, {atom: 1})
        granted = grants(dims, {atom: 1})[0] if asked else []
        if all((w.root in read and _one_axis(dims, w, atom)) or _zeroed(dims, w, atom, granted) for w in written):
            node = written[0].use.node
            label = f"{node.op_type} {node.name or node.outputs[0].name or ''}".strip()
            tied = any(w.root in read and _one_axis(dims, w, atom) for w in written)
            why = TIED if tied else ZEROED
            dims.forest.freeze(atom, Reason(label, None, why))


def _one_axis(dims: Dimensions, weight: Weight, atom: Term) -> bool:
    """Whether the atom lies on one axis of a tied constant only: then its new rows are its new columns."""
    terms = dims.values.get(weight.root) or []
    return sum(atom in dims.forest.leaves(t) for t in terms) == 1


def _zeroed(dims: Dimensions, weight: Weight, atom: Term, granted: Sequence[Grant]) -> bool:
    """Whether a demand zeroes all new entries of a weight."""
    for grant in granted:
        node, index = grant.site
        value = node.inputs[index]
        if value is None or value.name != weight.root:
            continue
        terms = dims.at(grant.site) or []
        whole = [m is None for m in grant.masks]
        for axis, (term, mask) in enumerate(zip(terms, grant.masks, strict=True)):
            if mask is not None and atom in dims.forest.leaves(term):
                whole[axis] = bool(mask[layout(dims.forest, term, {atom: 1}) < 0].all())
        if all(whole):
            return True
    return False
