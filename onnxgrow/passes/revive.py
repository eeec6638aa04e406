"""New channels that never fire: a random unit behind a one-sided activation may be off on every input.

Behind global pooling (squeeze-and-excitation) a unit sees almost the same input every time, so a new one is dead with
probability one half. Its negative is then alive. Sets of which every new channel is off on all sampled inputs get
the negated values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Term, layout
from onnxgrow.analysis import Analysis
from onnxgrow.concrete.session import Session, open_session
from onnxgrow.errors import GrowError, UnsupportedError
from onnxgrow.plan import PlannedSet, WidenPlan

__all__ = ["silent_sets"]

FEW = 16
"""Sets that get more new channels than this are not looked at: all of them being off is not chance."""

Feeds = Mapping[str, npt.NDArray[np.generic]]


def silent_sets(analysis: Analysis, plan: WidenPlan, grown: ir.Model, feeds: Sequence[Feeds]) -> frozenset[Term]:
    """Atoms of sets whose new channels are all exactly zero wherever a weight reads them, on every feed.

    Args:
        analysis: Of the original.
        plan: What grew.
        grown: The grown model.
        feeds: Valid inputs.

    Raises:
        GrowError: A grown tensor cannot be made, or ONNX Runtime cannot run the grown model.
    """
    watched = [p for p in plan.sets if p.added <= FEW and p.way is None]
    places = {p.channel_set.atom: _places(analysis, plan, p) for p in watched}
    wanted = sorted({name for found in places.values() for name, _, _ in found})
    if not wanted:
        return frozenset()
    session = _opened(grown, wanted)
    silent = {atom for atom, found in places.items() if found}
    for one in feeds:
        if not silent:
            break
        outputs = session.run(one, wanted)
        for atom in list(silent):
            for name, axis, new in places[atom]:
                value = outputs[name].numpy() if name in outputs else None
                if value is None or np.take(value, new, axis=axis).any():
                    silent.discard(atom)
                    break
    return frozenset(silent)


def _places(analysis: Analysis, plan: WidenPlan, planned: PlannedSet) -> list[tuple[str, int, npt.NDArray[np.intp]]]:
    """(value, axis, new indices) wherever a weight reads the set."""
    dims, atom = analysis.dims, planned.channel_set.atom
    found = []
    for reader in planned.channel_set.readers:
        value = reader.use.node.inputs[reader.use.data]
        name = (value.name if value is not None else None) or ""
        for axis, term in enumerate(dims.values.get(name) or []):
            if atom in dims.forest.leaves(term):
                others = {a: k for a, k in plan.growth.items() if a is not atom}
                grown = layout(dims.forest, term, plan.growth)
                mine = np.flatnonzero(grown < 0) if not _any_grows(dims.forest.leaves(term), others) else None
                if mine is not None:
                    found.append((name, axis, mine))
    return found


def _any_grows(leaves: Sequence[Term], growth: Mapping[Term, int]) -> bool:
    return any(leaf in growth for leaf in leaves)


def _opened(grown: ir.Model, wanted: Sequence[str]) -> Session:
    """Open the grown model. Its tensors are made here for the first time: what their values refuse is the error."""
    try:
        return open_session(grown, wanted)
    except UnsupportedError as error:
        cause: BaseException | None = error.__cause__
        while cause is not None and not isinstance(cause, GrowError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
