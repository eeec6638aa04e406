"""The registry of rules: how each op ties the axes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from onnxgrow.rules.context import NodeContext, Terms

__all__ = ["Rule", "covered", "find_rule", "register"]

Rule = Callable[[NodeContext], Sequence[Terms | None]]
"""Ties axes and returns the terms of the outputs, None for an output whose axes are to be frozen."""

_rules: dict[tuple[str, str], list[tuple[int, Rule]]] = {}


def register(*op_types: str, domain: str = "", since_version: int = 1) -> Callable[[Rule], Rule]:
    """Register a rule for ops of a domain from an opset version on."""

    def decorate(rule: Rule) -> Rule:
        for op_type in op_types:
            versions = _rules.setdefault((domain, op_type), [])
            if any(since == since_version for since, _ in versions):
                raise ValueError(f"two rules for {domain}::{op_type} from version {since_version}")
            versions.append((since_version, rule))
            versions.sort(key=lambda pair: pair[0])
        return rule

    return decorate


def find_rule(domain: str, op_type: str, version: int) -> Rule | None:
    """The rule with the highest ``since_version`` that is not above the model's opset version."""
    found = None
    for since, rule in _rules.get(("" if domain == "ai.onnx" else domain, op_type), ()):
        if since <= version:
            found = rule
    return found


def covered() -> Iterator[tuple[str, str]]:
    """All (domain, op type) with a rule."""
    return iter(sorted(_rules))
