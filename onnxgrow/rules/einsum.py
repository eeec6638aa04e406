"""Einsum: a letter is an axis.

Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.algebra import Term
from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []


@register("Einsum")
def einsum(op: NodeContext) -> Sequence[Terms | None]:
    """Products summed over the letters that are not in the result. One constant operand is a weight."""
    operands, result = _parse(op.attr("equation", ""))
    letters: dict[str, Term] = {}
    for i, letters_in in enumerate(operands):
        terms = op.terms(i)
        if len(terms) != len(letters_in) or len(set(letters_in)) != len(letters_in):
            raise Unsuitable("a letter twice in one operand, or another rank")
        for letter, term in zip(letters_in, terms, strict=True):
            if letter not in letters:
                letters[letter] = term
            elif term.size == 1 != letters[letter].size:
                raise Unsuitable("a broadcast letter")
            else:
                op.unify(letters[letter], term, "operands of different size")
    summed = [c for c in letters if c not in result]
    weights = [i for i in range(len(operands)) if op.is_constant(i)]
    plain = len(operands) == 2 and len(weights) == 1 and all(c in o for c in summed for o in operands)
    if plain:
        weight = weights[0]
        own, data = operands[weight], operands[1 - weight]
        made = [i for i, c in enumerate(own) if c in result and c not in data]
        op.linear(weight, made, [i for i, c in enumerate(own) if c in summed], data=1 - weight)
    else:
        for c in summed:
            where = [(i, o.index(c)) for i, o in enumerate(operands) if c in o]
            if len(operands) == len(where) == 2 and not weights:
                op.contraction(where[0], where[1])
            else:
                op.freeze([letters[c]], "it is summed over")
    return [[letters[c] for c in result]]


def _parse(equation: str) -> tuple[list[str], str]:
    text = equation.replace(" ", "")
    if "." in text or not text:
        raise Unsuitable("an ellipsis")
    left, arrow, right = text.partition("->")
    operands = left.split(",")
    if not arrow:
        every = "".join(operands)
        right = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    return operands, right
