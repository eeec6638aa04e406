"""Which tensor of the file stands for which entry of the user's checkpoint: by name and value, never by name alone.

Exporters rename weights, transpose them, and merge those of equal value. An entry belongs to a tensor whose original
holds the same bits; among several such tensors the name decides, then the module that reads them, and where neither
does and the grown tensors differ, none is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from onnxgrow.torch.checkpoint.origin import Held, same_bits
from onnxgrow.torch.checkpoint.pieces import Joined, Pool, take_apart
from onnxgrow.torch.checkpoint.relation import Relation, fingerprint, relations
from onnxgrow.torch.checkpoint.suspects import why_missing

__all__ = ["Found", "Matches", "joined", "match"]


Mark = tuple[float, int, str, int]
"""Factor and fingerprint."""

OFFSETS = (0.0, 1.0)
"""What a file may have added to an entry: some norms multiply by 1 + w, which exporters compute once."""


@dataclass(frozen=True)
class Found:
    """What stands for an entry.

    Attributes:
        value: The grown entry, in the checkpoint's layout and the file's type.
        tensors: The tensors of the file it comes from.
        relation: How one tensor lies in the entry; None where several are joined.
        join: How the entry is joined from tensors, or the tensor from entries.
        by_name: Whether the name agrees as well.
        offset: What the file has added to the entry: 1 for norms that multiply by 1 + w.
    """

    value: Tensor
    tensors: tuple[Held, ...]
    relation: Relation | None = None
    join: Joined | None = None
    by_name: bool = False
    offset: float = 0.0


@dataclass
class Matches:
    """All entries that were found, and why the others were not."""

    found: dict[str, Found] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    held: Held
    relation: Relation
    value: Tensor | None


def match(entries: Mapping[str, Tensor], constants: Sequence[Held], compared: bool) -> Matches:
    """Find a tensor for every entry.

    Args:
        entries: Floating-point entries of the checkpoint.
        constants: Of the grown file.
        compared: Whether their original values come from the original file.
    """
    with_original = [held for held in constants if held.original is not None]
    index: dict[Mark, list[Held]] = {}
    forms: set[tuple[torch.dtype, float]] = set()
    for held in with_original:
        assert held.original is not None
        forms.add((held.original.dtype, held.factor))
        index.setdefault((held.factor, *fingerprint(held.original)), []).append(held)
    matches = Matches()
    for offset in OFFSETS:
        groups: dict[Mark, list[str]] = {}
        stored: dict[str, Tensor] = {}
        for key, entry in entries.items():
            if key in matches.found or key in matches.problems or (offset and entry.dim() != 1):
                continue
            # As it is first; a file in half precision holds what values round to, one that grew in a norm has them
            # scaled.
            for dtype, factor in sorted(forms, key=lambda form: (form[1] != 1, form[0] != entry.dtype, str(form))):
                value = entry.to(dtype) if not offset else entry.to(dtype) + offset
                value = (value if factor == 1 else (value.double() * factor).to(dtype)).contiguous()
                mark = (factor, *fingerprint(value))
                if mark in index:
                    groups.setdefault(mark, []).append(key)
                    stored[key] = value
                    break
        for mark, keys in groups.items():
            _assign(keys, stored, index[mark], matches)
        for key in stored if offset else ():
            if key in matches.found:
                matches.found[key] = _without(offset, matches.found[key], entries[key])
    _join(entries, with_original, matches)
    for key, entry in entries.items():
        if key not in matches.found and key not in matches.problems:
            matches.problems[key] = why_missing(key, entry, constants, compared)
    return matches


def _without(offset: float, found: Found, entry: Tensor) -> Found:
    """The match of an entry that the file has with a number added; its old numbers are the checkpoint's own."""
    (held,) = found.tensors
    value = found.value - offset
    if held.factor == 1:
        # Adding the offset has rounded them: only the checkpoint has all digits.
        value[held.positions.get(held.grown.shape.index(value.numel()), torch.arange(value.numel()))] = entry.to(
            value.dtype
        )
    return replace(found, value=value, offset=offset)


def _assign(
    keys: Sequence[str],
    values: Mapping[str, Tensor],
    tensors: Sequence[Held],
    matches: Matches,
) -> None:
    """Share out tensors among entries that hold the same bits."""
    taken: set[str] = set()
    waiting = []
    for key in keys:
        named = [held for held in tensors if key in held.names]
        named.sort(key=lambda held: held.names.index(key))
        choices = [c for held in named for c in _candidates(held, values[key])]
        if choices and choices[0].value is not None:
            chosen = choices[0]
            taken.add(chosen.held.name)
            assert chosen.value is not None
            matches.found[key] = Found(chosen.value, (chosen.held,), chosen.relation, by_name=True)
        else:
            waiting.append(key)
    free = [held for held in tensors if held.name not in taken] or list(tensors)
    for key in waiting:
        choices = [c for held in free for c in _candidates(held, values[key])]
        if not choices:
            continue  # the same numbers in another order: perhaps in pieces
        certain = [c for c in choices if _belongs(key, c.held)]
        chosen_or_reason = _only(certain) if certain else _only(choices)
        if isinstance(chosen_or_reason, str):
            matches.problems[key] = chosen_or_reason
            continue
        assert chosen_or_reason.value is not None
        matches.found[key] = Found(chosen_or_reason.value, (chosen_or_reason.held,), chosen_or_reason.relation)


def _candidates(held: Held, entry: Tensor) -> list[_Candidate]:
    assert held.original is not None
    old = held.original.shape
    found: list[_Candidate] = []
    for relation in relations(held.original, entry):
        value = relation.forward(held.grown, old)
        if found and (held.grown.shape == old or (value is not None and _same(value, found[0].value))):
            continue
        found.append(_Candidate(held, relation, value))
    return found


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and same_bits(a, b)


def _only(choices: Sequence[_Candidate]) -> _Candidate | str:
    """The choice, where all choices give the same entry; the reason where they do not."""
    first = choices[0]
    if first.value is None:
        return f"{first.held.name} holds it in another shape, and grew: which of its axes did cannot be said"
    if all(_same(first.value, other.value) for other in choices[1:]):
        return first
    names = list(dict.fromkeys(c.held.name for c in choices))
    if len(names) == 1:
        return f"{names[0]} may hold it as it is or transposed, and grew: which way cannot be said"
    return f"{', '.join(names[:3])} held its values and grew differently: the exporter merged or renamed them"


def _belongs(key: str, held: Held) -> bool:
    """Whether a node that reads the tensor comes from the module that the entry belongs to."""
    module = tuple(key.split(".")[:-1])
    if not module:
        return False
    # An exported part of a model has shorter paths than the class, a wrapped one longer.
    return any(scope[-len(module) :] == module or module[-len(scope) :] == scope for scope in held.scopes)


def _join(entries: Mapping[str, Tensor], constants: Sequence[Held], matches: Matches) -> None:
    """Find entries that were packed into one tensor, or that the file has in parts."""
    used = {held.name for found in matches.found.values() for held in found.tensors}
    spare = [held for held in constants if held.name not in used and held.factor == 1]
    lost = {k: e for k, e in entries.items() if k not in matches.found and k not in matches.problems}
    pool = Pool(lost)
    for held in spare:
        assert held.original is not None
        join = pool.join(held.original)
        if join is None:
            continue
        pieces = join if isinstance(join, str) else take_apart(held, join, lost)
        if isinstance(join, Joined) and isinstance(pieces, dict):
            matches.found.update({key: Found(value, (held,), join=join) for key, value in pieces.items()})
        elif isinstance(join, Joined):
            matches.problems.update(dict.fromkeys(join.sources, f"it is packed into {held.name}, and {pieces}"))
    lost = {k: e for k, e in lost.items() if k not in matches.found and k not in matches.problems}
    if not lost:
        return
    by_name = {held.name: held for held in spare}
    parts = Pool({name: held.original for name, held in by_name.items() if held.original is not None}, parts=(1,))
    for key, entry in lost.items():
        join = parts.join(entry)
        if isinstance(join, Joined):
            value = joined(join, by_name, entry)
            matches.found[key] = Found(value, tuple(by_name[name] for name in join.sources), join=join)


def joined(join: Joined, by_name: Mapping[str, Held], entry: Tensor) -> Tensor:
    """The grown entry that the file has in parts."""
    parts = []
    for chunk in join.chunks:
        whole = by_name[chunk.source].grown.squeeze()
        parts.append(whole.t() if chunk.transposed else whole)
    whole = torch.cat(parts).movedim(0, join.axis)
    shape = list(entry.shape)
    for axis, size in zip([i for i, n in enumerate(shape) if n != 1], whole.shape, strict=True):
        shape[axis] = size
    return whole.reshape(shape).contiguous()
