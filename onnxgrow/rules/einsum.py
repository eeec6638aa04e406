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
    """Products summed over the letters that are not in the result. One constant operand is a weight.

    Every term of a sum is a product of all operands that have its letters: one factor that is zero is enough.
    """
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
                op.unify(letters[letter], term, "its operands do not line up")
    weights = [i for i in range(len(operands)) if op.is_constant(i)]
    summed = [c for c in letters if c not in result]
    read = _declare_weight(op, operands, weights[0], summed) if len(weights) == 1 < len(operands) else ""
    for c in summed:
        where = [(i, o.index(c)) for i, o in enumerate(operands) if c in o]
        if len(where) > 1 and not any(i in weights for i, _ in where):
            op.contraction(where[0], where[1])
        elif c not in read:
            op.freeze([letters[c]], "it is summed over")
    return [[letters[c] for c in result]]


def _declare_weight(op: NodeContext, operands: Sequence[str], weight: int, summed: Sequence[str]) -> str:
    """Declare the constant operand a weight of the computed one that it is contracted with over most letters.

    Returns:
        The letters it is summed over with that one or another (a bilinear form has two).
    """
    own = operands[weight]
    others = [o for i, o in enumerate(operands) if i != weight]
    read = [c for c in own if c in summed and any(c in o for o in others)]
    made = [k for k, c in enumerate(own) if c not in summed and not any(c in o for o in others)]
    data = max((i for i in range(len(operands)) if i != weight), key=lambda i: sum(c in operands[i] for c in read))
    op.linear(weight, made, [own.index(c) for c in read], data=data)
    return "".join(read)


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
