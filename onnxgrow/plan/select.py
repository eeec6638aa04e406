"""Which channel sets a user means: by name, glob or operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from onnxgrow.analysis import Analysis, ChannelSet
from onnxgrow.errors import UsageError

__all__ = ["select"]


def select(analysis: Analysis, selectors: Sequence[str] | None) -> list[ChannelSet]:
    """The sets that any selector matches, in network order, growable or not; all of them without selectors.

    A selector is matched against a set's name and, of each of its writers, the weight's name, the node's name, its
    output's name and ``op:`` with the operator (``op:Conv``; the bare operator works too). Literal matches go before
    globs, so that a name may contain ``*`` or ``[``.

    Raises:
        UsageError: A selector matches nothing.
    """
    if not selectors:
        return list(analysis.sets)
    chosen: dict[str, ChannelSet] = {}
    for selector in selectors:
        matched = [s for s in analysis.sets if selector in _handles(s)]
        if not matched:
            matched = [s for s in analysis.sets if any(fnmatchcase(h, selector) for h in _handles(s))]
        if not matched:
            close = _closest(analysis, selector)
            raise UsageError(selector, "no channel set matches this selector", close)
        chosen.update((s.name, s) for s in matched)
    return [s for s in analysis.sets if s.name in chosen]


def _handles(channel_set: ChannelSet) -> set[str]:
    return set(_every_handle(channel_set))


def _every_handle(channel_set: ChannelSet) -> Iterator[str]:
    yield channel_set.name
    for writer in channel_set.writers:
        node = writer.use.node
        yield writer.root
        if node.name:
            yield node.name
        yield from (o.name for o in node.outputs if o.name)
        yield node.op_type
        yield f"op:{node.op_type}"


def _closest(analysis: Analysis, selector: str) -> str:
    from difflib import get_close_matches

    names = [s.name for s in analysis.sets]
    found = get_close_matches(selector, names, n=3, cutoff=0.5)
    return f"did you mean {', '.join(found)}?" if found else "`onnxgrow inspect` lists the channel sets"
