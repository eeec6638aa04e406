"""Terms: what an axis is made of.

Every axis of every tensor has a term: an atom (a growable unit, a *channel set*), a concatenation of terms, or a
row-major product of terms. Terms form a union-find forest: an atom that was unified with something points to it,
and an atom that was *refined* (cut into parts or factors) points to the composite that replaced it, everywhere at
once. All mutation goes through :class:`Forest`, which can take it back.

Two invariants make every walk finite: a part is smaller than its whole, and ``parent`` joins terms of one size. So no
term can come to contain itself (an occurs check would never fire), and kinds alternate at most once per doubling.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from math import prod

__all__ = ["Forest", "Kind", "Term"]

MAX_REASONS = 8
"""Reasons kept per atom: enough to explain it, and merging stays O(1)."""


class Kind(Enum):
    """The three forms of a term."""

    ATOM = "atom"
    CONCAT = "concat"
    PRODUCT = "product"


class Term:
    """A node of the forest. Read it through the forest that made it; ``size`` is its number of indices."""

    __slots__ = ("frozen", "kind", "parent", "parts", "serial", "size")

    def __init__(self, kind: Kind, size: int, parts: tuple[Term, ...], serial: int) -> None:
        self.kind = kind
        self.size = size
        self.parts = parts
        self.parent: Term | None = None
        self.frozen: tuple[Hashable, ...] = ()
        self.serial = serial

    def __repr__(self) -> str:
        mark = "!" if self.frozen else ""
        inner = "" if self.kind is Kind.ATOM else f" {[p.serial for p in self.parts]}"
        return f"<{mark}{self.kind.value} #{self.serial} size {self.size}{inner}>"


class Forest:
    """Owns terms: makes them, finds their representatives, freezes them, and undoes what a transaction did."""

    def __init__(self) -> None:
        self._serial = 0
        self._depth = 0
        self._trail: list[tuple[Term, str, object]] = []

    # ---- making

    def _new(self, kind: Kind, size: int, parts: tuple[Term, ...] = ()) -> Term:
        self._serial += 1
        return Term(kind, size, parts, self._serial)

    def atom(self, size: int, *reasons: Hashable) -> Term:
        """A fresh atom of ``size`` ≥ 0 indices, frozen when reasons are given or its size is below 2.

        An axis of size 1 broadcasts, so growing it would change what it means; one of size 0 holds nothing.
        """
        if size < 0:
            raise ValueError(f"an axis of {size} indices")
        term = self._new(Kind.ATOM, size)
        term.frozen = tuple(dict.fromkeys(reasons))[:MAX_REASONS]
        if size < 2 and not term.frozen:
            term.frozen = (f"size {size}",)
        return term

    def one(self) -> Term:
        """A fresh axis of size 1."""
        return self.atom(1)

    def product(self, terms: Iterable[Term]) -> Term:
        """Row-major product; factors of size 1 are dropped, nested products flattened; frozen where one is empty."""
        parts = tuple(p for t in terms for p in self.flat(t, Kind.PRODUCT) if p.size != 1)
        if not parts:
            return self.one()
        if any(p.size == 0 for p in parts):
            return self.atom(0)
        if len(parts) == 1:
            return parts[0]
        return self._new(Kind.PRODUCT, prod(p.size for p in parts), parts)

    def concat(self, terms: Iterable[Term]) -> Term:
        """Concatenation in order; parts of size 0 are dropped, nested concatenations flattened."""
        parts = tuple(p for t in terms for p in self.flat(t, Kind.CONCAT) if p.size != 0)
        if not parts:
            return self.atom(0)
        if len(parts) == 1:
            return parts[0]
        return self._new(Kind.CONCAT, sum(p.size for p in parts), parts)

    # ---- reading

    def find(self, term: Term) -> Term:
        """The representative: an atom that is nobody's part any more, or a composite."""
        root = term
        while root.parent is not None:
            root = root.parent
        while term.parent is not None and term.parent is not root:
            following = term.parent
            self._set(term, "parent", root)
            term = following
        return root

    def flat(self, term: Term, kind: Kind) -> list[Term]:
        """Representatives of the parts of ``term`` when it is of ``kind``, nested ones flattened; else itself."""
        out: list[Term] = []
        stack = [term]
        while stack:
            top = self.find(stack.pop())
            if top.kind is kind:
                stack.extend(reversed(top.parts))
            else:
                out.append(top)
        return out

    def leaves(self, term: Term) -> list[Term]:
        """The atoms of ``term``, in order, repeated where it repeats them."""
        out: list[Term] = []
        stack = [term]
        while stack:
            top = self.find(stack.pop())
            if top.kind is Kind.ATOM:
                out.append(top)
            else:
                stack.extend(reversed(top.parts))
        return out

    def reasons(self, term: Term) -> tuple[Hashable, ...]:
        """Why ``term`` cannot grow: the reasons of all its atoms, without repetition."""
        return tuple(dict.fromkeys(r for leaf in self.leaves(term) for r in leaf.frozen))

    # ---- changing

    def _set(self, term: Term, name: str, value: object) -> None:
        if self._depth:
            self._trail.append((term, name, getattr(term, name)))
        setattr(term, name, value)

    def freeze(self, term: Term, *reasons: Hashable) -> None:
        """Say that no atom of ``term`` may grow, and why."""
        for leaf in dict.fromkeys(self.leaves(term)):
            self._add_reasons(leaf, reasons)

    def _add_reasons(self, leaf: Term, reasons: Sequence[Hashable]) -> None:
        fresh = [r for r in reasons if r not in leaf.frozen]
        if fresh and len(leaf.frozen) < MAX_REASONS:
            self._set(leaf, "frozen", (leaf.frozen + tuple(fresh))[:MAX_REASONS])

    def link(self, atom: Term, target: Term) -> None:
        """Make a representative atom stand for another term of its size, whose atoms inherit its reasons."""
        target = self.find(target)
        if atom is target:
            return
        if atom.size != target.size:
            raise ValueError(f"{atom} cannot stand for {target}")
        if atom.frozen:
            self.freeze(target, *atom.frozen)
        self._set(atom, "parent", target)

    def rewrite(self, composite: Term, other: Term) -> None:
        """Let a representative composite be written as ``other``, another form of the same axis."""
        if self.find(other) is not composite:
            self._set(composite, "parent", self.find(other))

    @contextmanager
    def transaction(self) -> Iterator[Rollback]:
        """Everything done inside is taken back when ``rollback()`` was called on the yielded object, or on error."""
        mark = len(self._trail)
        request = Rollback()
        self._depth += 1
        try:
            yield request
        except BaseException:
            self._undo(mark)
            raise
        else:
            if request.wanted:
                self._undo(mark)
        finally:
            self._depth -= 1
            if not self._depth:
                self._trail.clear()

    def _undo(self, mark: int) -> None:
        while len(self._trail) > mark:
            term, name, value = self._trail.pop()
            setattr(term, name, value)


class Rollback:
    """Handle of one transaction."""

    def __init__(self) -> None:
        self.wanted = False

    def rollback(self) -> None:
        """Take the transaction back when it ends."""
        self.wanted = True
