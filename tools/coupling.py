"""Which parameter axes change together, and how two answers to that question differ. Needs no torch.

An answer is asked for one axis of one parameter, the *root*: every place of every parameter that has to change when
all indices of the root do. Comparing places, not only axes, also checks where in a concatenation or behind a reshape
a channel ends up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxgrow.algebra import Forest, Kind, Term
from onnxgrow.analysis import Analysis

__all__ = ["CLASSES", "Answer", "Axis", "Coupling", "Difference", "Reach", "compare", "impossible"]

Axis = tuple[str, int]
"""(parameter, axis)."""

Reach = Mapping[Axis, frozenset[int]]
"""Places that change with a root: axis of a parameter → indices."""

CLASSES = {
    "impossible": "Torch-Pruning's answer names indices past the end of an axis, so it is no answer: it maps the "
    "reshapes of a channel shuffle and the parts of a fused projection by rules of thumb",
    "impossible-back": "both tie the two axes, and differ in which indices; asked from the other axis, Torch-Pruning "
    "names indices past the end of one of them",
    "constant": "the parameter is not trained (fixed sinusoidal positions): Torch-Pruning follows gradients and does "
    "not see it",
    "constant-tie": "all that ties the two axes are values computed without a trained parameter (one table of rotary "
    "angles serves all layers): Torch-Pruning follows gradients and does not see them",
    "expand": "all that ties the two axes goes through an Expand (one key head serves several query heads), behind "
    "which Torch-Pruning does not follow the channels",
}
"""Classes of explained differences. Each has a predicate in :func:`compare`; a difference without one is a fault."""


@dataclass(frozen=True)
class Answer:
    """What the oracle says of one root.

    Attributes:
        label: How people call the root.
        roots: Its axis, and those of the same layer that are one with it (a bias).
        reach: What changes with it.
    """

    label: str
    roots: tuple[Axis, ...]
    reach: Reach

    @property
    def root(self) -> Axis:
        return self.roots[0]


@dataclass(frozen=True)
class Difference:
    """One axis on which two answers differ.

    Attributes:
        label: The root asked for.
        axis: Where the answers differ.
        kind: ``only oracle``, ``only ours`` or ``places``.
        explained: Key of :data:`CLASSES`; empty when nothing explains it.
    """

    label: str
    axis: Axis
    kind: str
    explained: str = ""


class Coupling:
    """Our answer, from the terms of an analysed network.

    Args:
        analysis: Of the exported network.
        parameters: Name of a constant in it → name of the parameter it is; aliases share one.
        trained: Parameters that get a gradient.
    """

    def __init__(self, analysis: Analysis, parameters: Mapping[str, str], trained: Iterable[str]) -> None:
        self.analysis = analysis
        self.trained = frozenset(trained)
        self.constants = {c: p for c, p in parameters.items() if c in analysis.network.tensors}
        self.terms: dict[str, list[Sequence[Term]]] = {}
        for constant, parameter in self.constants.items():
            for site in analysis.network.uses(constant):
                found = analysis.dims.at(site)
                if found is not None:
                    self.terms.setdefault(parameter, []).append(found)

    @property
    def _forest(self) -> Forest:
        return self.analysis.dims.forest

    def atoms(self, axis: Axis) -> frozenset[Term]:
        """Atoms of an axis of a parameter, over all its uses."""
        uses = self.terms.get(axis[0], ())
        return frozenset(leaf for terms in uses for leaf in self._forest.leaves(terms[axis[1]]))

    def sizes(self) -> dict[Axis, int]:
        """Number of indices of every axis of every parameter."""
        return {(name, i): t.size for name, uses in self.terms.items() for i, t in enumerate(uses[0])}

    def reach(self, root: Axis) -> dict[Axis, frozenset[int]]:
        """Places that have an atom of the root; frozen or not."""
        atoms = self.atoms(root)
        found: dict[Axis, frozenset[int]] = {}
        for name, uses in self.terms.items():
            for terms in uses:
                for i, term in enumerate(terms):
                    if not atoms.isdisjoint(self._forest.leaves(term)):
                        places = np.flatnonzero(_places(self._forest, term, atoms)).tolist()
                        found[name, i] = found.get((name, i), frozenset()) | frozenset(places)
        return found

    @cached_property
    def untrained_atoms(self) -> frozenset[Term]:
        """Atoms on a value that no trained parameter enters."""
        network = self.analysis.network
        entered = {c for c, p in self.constants.items() if p in self.trained}
        for node in network.nodes:
            if any(v is not None and v.name in entered for v in node.inputs):
                entered.update(o.name for o in node.outputs if o.name)
        values = self.analysis.dims.values
        return frozenset(
            leaf
            for name, terms in values.items()
            if name not in entered
            for term in terms
            for leaf in self._forest.leaves(term)
        )

    @cached_property
    def expanded_atoms(self) -> frozenset[Term]:
        """Atoms on a value that an Expand repeats along another axis."""
        dims = self.analysis.dims
        found: set[Term] = set()
        for node in self.analysis.network.nodes:
            if node.op_type == "Expand":
                found.update(leaf for term in dims.at((node, 0)) or () for leaf in self._forest.leaves(term))
        return frozenset(found)


def _places(forest: Forest, term: Term, atoms: frozenset[Term]) -> npt.NDArray[np.bool_]:
    """Which indices of an axis change when ``atoms`` do; bool, shape (size,)."""
    term = forest.find(term)
    if term.kind is Kind.ATOM:
        return np.full(term.size, term in atoms)
    parts = [_places(forest, part, atoms) for part in forest.flat(term, term.kind)]
    if term.kind is Kind.CONCAT:
        return np.concatenate(parts)
    touched = np.zeros(1, np.bool_)
    for part in parts:
        touched = (touched[:, None] | part[None, :]).ravel()
    return touched


def impossible(reach: Reach, sizes: Mapping[Axis, int]) -> bool:
    """Whether an answer names an index that its axis does not have."""
    return any(max(places) >= sizes[axis] for axis, places in reach.items() if places and axis in sizes)


def compare(answers: Sequence[Answer], ours: Coupling) -> list[Difference]:
    """All axes on which the oracle's answers differ from ours, explained where a class applies.

    Args:
        answers: The oracle's, with roots and parameters by the names that ``ours`` has.
        ours: Our answers.
    """
    sizes = ours.sizes()
    bad = {a.label for a in answers if impossible(a.reach, sizes)}
    # Axes that an impossible answer is about, each paired with its root: what says nothing from there, says nothing.
    beyond = {
        frozenset((root, axis))
        for a in answers
        for root in a.roots
        for axis, places in a.reach.items()
        if axis in sizes and places and max(places) >= sizes[axis]
    }
    found = []
    for answer in answers:
        mine = ours.reach(answer.root)
        theirs = {axis: places for axis, places in answer.reach.items() if axis in sizes}
        for axis in sorted({*mine, *theirs}):
            if mine.get(axis) == theirs.get(axis):
                continue
            kind = "only ours" if axis not in theirs else "only oracle" if axis not in mine else "places"
            if answer.label in bad:
                why = "impossible"
            elif kind == "places" and frozenset((answer.root, axis)) in beyond:
                why = "impossible-back"
            else:
                why = _explain(answer.root, axis, ours) if kind == "only ours" else ""
            found.append(Difference(answer.label, axis, kind, why))
    return found


def _explain(root: Axis, axis: Axis, ours: Coupling) -> str:
    """Why the oracle may not see that two axes change together."""
    if axis[0] not in ours.trained or root[0] not in ours.trained:
        return "constant"
    shared = ours.atoms(root) & ours.atoms(axis)
    if shared <= ours.untrained_atoms:
        return "constant-tie"
    if shared <= ours.expanded_atoms | ours.untrained_atoms:
        return "expand"
    return ""
