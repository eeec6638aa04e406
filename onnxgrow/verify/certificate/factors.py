"""Factors on old entries, kept exactly: as the fraction that their square is.

A norm over n channels that became n' multiplies a variance by n/n', a deviation by its root. Claims are floats; the
checkers compute with the fractions that those stand for.
"""

from __future__ import annotations

import math
from fractions import Fraction

from onnxgrow.verify.certificate.state import ProofError

__all__ = ["power", "root", "square_of"]

_LARGEST = 1 << 20
"""Denominators looked for: axes are shorter than this."""


def root(square: Fraction) -> float:
    """The factor with this square, rounded once."""
    above, below = math.isqrt(square.numerator), math.isqrt(square.denominator)
    if above * above == square.numerator and below * below == square.denominator:
        return above / below
    return math.sqrt(square.numerator / square.denominator)


def square_of(factor: float) -> Fraction:
    """The square of a claimed factor: one that is a ratio of sizes, or the root of one. Raises ProofError otherwise."""
    if factor == 1.0:
        return Fraction(1)
    if math.isfinite(factor) and factor > 0:
        ratio = Fraction(factor).limit_denominator(_LARGEST)
        if float(ratio) == factor:
            return ratio * ratio
        square = Fraction(factor * factor).limit_denominator(_LARGEST)
        if square > 0 and math.sqrt(square.numerator / square.denominator) == factor:
            return square
    raise ProofError(f"the factor {factor!r} is neither a ratio of sizes nor the root of one")


def power(square: Fraction, exponent: float) -> Fraction:
    """The square of factor**exponent, for exponents that are multiples of a half and leave a fraction.

    Raises ProofError for others.
    """
    if exponent == int(exponent):
        return Fraction(square ** int(exponent))
    twice = Fraction(square) ** int(2 * exponent) if 2 * exponent == int(2 * exponent) else None
    if twice is not None:
        above, below = math.isqrt(twice.numerator), math.isqrt(twice.denominator)
        if above * above == twice.numerator and below * below == twice.denominator:
            return Fraction(above, below)
    raise ProofError(f"a factor to the power {exponent} is no root of a ratio of sizes")
