"""Graph outputs that are to grow: classes, a vocabulary. A change of the interface, so each is asked for by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.analysis import Analysis, ChannelSet
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.rules.refusals import REFUSALS

__all__ = ["OutputRequest", "open_outputs", "output_notes", "output_problem", "select_outputs"]


@dataclass(frozen=True)
class OutputRequest:
    """One output and its wanted growth.

    Attributes:
        selector: Name of the output; with ``@`` and the number of an axis, or the name of a channel set, behind it
            where more than one of them could be meant.
        add: Channels added, ≥ 1; 0 where ``to`` is given.
        to: New number of channels of the set; 0 where ``add`` is given.
    """

    selector: str
    add: int = 0
    to: int = 0

    @classmethod
    def parse(cls, text: str) -> OutputRequest:
        """Read ``NAME=+K`` or ``NAME=N``. Raises UsageError where it is neither."""
        selector, equals, size = text.rpartition("=")
        match = re.fullmatch(r"(\+?)([0-9]{1,12})", size.strip(), re.ASCII)
        if not equals or not selector or match is None or int(match[2]) < 1:
            raise UsageError("outputs", f"{text!r} is not of the form NAME=+K or NAME=N", "as in logits=+3")
        count = int(match[2])
        return cls(selector, add=count) if match[1] else cls(selector, to=count)

    def __str__(self) -> str:
        return f"{self.selector}=" + (f"+{self.add}" if self.add else f"{self.to}")

    def split(self, names: Sequence[str]) -> tuple[str, str]:
        """The output meant, and what stands behind the ``@``; a whole name goes before a name with a place.

        Raises:
            UsageError: There is no such output.
        """
        name, _, place = self.selector.rpartition("@")
        if self.selector in names:
            return self.selector, ""
        if name in names and place:
            return name, place
        close = get_close_matches(self.selector, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"outputs are {', '.join(names[:5])}"
        raise UsageError(self.selector, "the network has no output of this name", hint)


def open_outputs(model: ir.Model, requests: Sequence[OutputRequest]) -> frozenset[str]:
    """Names of the graph outputs that the requests allow to grow. Raises UsageError where there is none."""
    names = _names(model)
    return frozenset(request.split(names)[0] for request in requests)


def output_problem(channel_set: ChannelSet) -> str:
    """Why a set that layers were selected for stays: it lies on an output, which is sized by its own request."""
    return f"it lies on the output {channel_set.outputs[0]}: --outputs says how that grows"


def select_outputs(analysis: Analysis, requests: Sequence[OutputRequest]) -> list[tuple[ChannelSet, int]]:
    """The channel sets that the requests mean, with their new sizes.

    Args:
        analysis: Made with these outputs open.
        requests: What is wanted; each means one set.

    Raises:
        UsageError: An output that does not exist, a place that is not on it, several sets that could be meant, a set
            asked for twice, or a size that is no growth.
        UnsupportedError: The set cannot grow, or there is none; the reasons are named.
    """
    names = _names(analysis.network.model)
    found: dict[Term, tuple[ChannelSet, int]] = {}
    for request in requests:
        name, place = request.split(names)
        meant = _meant(analysis, name, place)
        able = [s for s in meant if s.growable]
        if not able:
            raise _stuck(analysis, name, meant)
        if len(able) > 1:
            choices = ", ".join(f"{name}@{s.name}" for s in able[:4])
            raise UsageError(request.selector, "several of its channel sets can grow", f"one of {choices}")
        wanted = request.to or able[0].size + request.add
        if wanted <= able[0].size:
            raise UsageError(str(request), f"{able[0].name} has {able[0].size} channels already", "ask for more")
        if found.setdefault(able[0].atom, (able[0], wanted))[1] != wanted:
            raise UsageError(str(request), f"{able[0].name} would get {found[able[0].atom][1]} by another request")
    return list(found.values())


def output_notes(analysis: Analysis, growth: Growth) -> Iterator[str]:
    """What grows of the interface, for the plan: output, axis, sizes, and where the new entries stand."""
    dims = analysis.dims
    for name in _names(analysis.network.model):
        for axis, term in enumerate(dims.values.get(name) or () if name in analysis.network.open_outputs else ()):
            if not any(leaf in growth for leaf in dims.forest.leaves(term)):
                continue
            source = layout(dims.forest, term, growth)
            where = "behind the old ones" if (source[: term.size] >= 0).all() else "between the old ones"
            yield (
                f"interface change: output {name} grows on axis {axis} from {term.size} to {source.size}, new entries "
                f"{where}; labels and code that reads it have to follow"
            )


def _names(model: ir.Model) -> list[str]:
    return [v.name for v in model.graph.outputs if v.name]


def _meant(analysis: Analysis, name: str, place: str) -> list[ChannelSet]:
    dims = analysis.dims
    terms = dims.values.get(name) or []
    axes = range(len(terms))
    if place.isascii() and place.isdigit():
        if int(place) >= len(terms):
            raise UsageError(f"{name}@{place}", f"this output has {len(terms)} axes", "axes count from 0")
        axes = range(int(place), int(place) + 1)
    leaves = {dims.forest.find(leaf) for axis in axes for leaf in dims.forest.leaves(terms[axis])}
    sets = [s for s in analysis.own_sets if s.writers and s.atom in leaves]
    if place and not place.isdigit():
        sets = [s for s in sets if s.name == place]
        if not sets:
            raise UsageError(
                f"{name}@{place}", "no channel set of this name lies on it", "`onnxgrow inspect` lists them"
            )
    return sets


def _stuck(analysis: Analysis, name: str, meant: Sequence[ChannelSet]) -> UnsupportedError:
    """Why no axis of an output can grow: the reasons of its sets, else those of its axes."""
    if meant:
        reasons = "; ".join(str(r) for r in meant[0].reasons[:3])
        hint = "export the model without what stands in the way"
        return UnsupportedError(f"output {name}", f"{meant[0].name}: {reasons}", hint)
    terms = analysis.dims.values.get(name)
    if terms is None:
        node = analysis.network.producer(name)
        why = REFUSALS.get((node.domain, node.op_type)) if node is not None else None
        maker = f": {node.op_type} makes it" + (f" ({why})" if why else "") if node is not None else ""
        return UnsupportedError(f"output {name}", "it is a constant, or its shape is not known" + maker)
    leaves = dict.fromkeys(leaf for term in terms for leaf in analysis.dims.forest.leaves(term))
    last = next((str(r) for leaf in reversed(leaves) for r in leaf.frozen), "")
    return UnsupportedError(f"output {name}", "no weight writes channels of it" + (f": {last}" if last else ""))
