"""Which checker proves which op. One checker per (domain, op type); it reads the opset where versions differ."""

from __future__ import annotations

from collections.abc import Callable

from onnxgrow.verify.certificate.pair import Pair

__all__ = ["Checker", "checker_for", "register"]

Checker = Callable[[Pair], None]
"""Proves every claim of the pair, or raises ProofError. It may leave proved zero slabs in ``pair.zeros``."""

_CHECKERS: dict[tuple[str, str], Checker] = {}


def register(*op_types: str, domain: str = "") -> Callable[[Checker], Checker]:
    """Decorator: this function proves these ops. Raises ValueError when one of them has a checker already."""

    def add(checker: Checker) -> Checker:
        for op_type in op_types:
            if (domain, op_type) in _CHECKERS:
                raise ValueError(f"{op_type} has two checkers")
            _CHECKERS[domain, op_type] = checker
        return checker

    return add


def checker_for(domain: str, op_type: str) -> Checker | None:
    """The checker of an op, or None: then the node may only see axes that did not grow."""
    return _CHECKERS.get((domain, op_type))
