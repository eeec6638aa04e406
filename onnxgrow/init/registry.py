"""The register of schemes: a scheme is one function from a request to a flat range of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UsageError
from onnxgrow.init.bits import Key

__all__ = ["FillRequest", "OldWeight", "Scheme", "Sigma", "find", "names", "register"]

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OldWeight:
    """The weight before it grew, for schemes that take values from it.

    Attributes:
        values: Its tensor; same rank as the new one.
        sources: Axis → old index or −1 (new) for every new index on that axis, as ``AxisMap.source()`` gives
            it. On an axis that is not listed the old indices come first.
    """

    values: npt.NDArray[np.generic]
    sources: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True)
class FillRequest:
    """One tensor to fill; the fields are :func:`onnxgrow.init.schemes.fill`'s, no axis negative."""

    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    gain: float
    key: Key
    out_axes: tuple[int, ...]
    old: OldWeight | None

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size


# (request, start, count) → the values start … start + count − 1 of the tensor in C order, float64.
Rule = Callable[[FillRequest, int, int], Float64]
Sigma = Callable[[FillRequest], float]


@dataclass(frozen=True)
class Scheme:
    """A registered scheme.

    Attributes:
        name: What users call it.
        reference_url: The paper it comes from; empty where there is none.
        elementwise: Each value can be had alone, so the tensor can be filled in blocks; otherwise the rule is
            only ever asked for the whole tensor.
        rule: Gives the values.
        sigma: For schemes that draw every value from N(0, σ²): that σ.
    """

    name: str
    reference_url: str
    elementwise: bool
    rule: Rule
    sigma: Sigma | None = None


_SCHEMES: dict[str, Scheme] = {}


def register(
    name: str, reference_url: str, elementwise: bool = True, sigma: Sigma | None = None
) -> Callable[[Rule], Rule]:
    """Decorator that makes ``rule`` the scheme ``name``. Raises UsageError when the name is taken."""

    def add(rule: Rule) -> Rule:
        if name in _SCHEMES:
            raise UsageError(name, "this initialization scheme is registered already")
        _SCHEMES[name] = Scheme(name, reference_url, elementwise, rule, sigma)
        return rule

    return add


def find(name: str) -> Scheme:
    """The scheme ``name``. Raises UsageError for an unknown one."""
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise UsageError(name, "no such initialization scheme", f"one of: {', '.join(names())}")
    return scheme


def names() -> tuple[str, ...]:
    """Names of all schemes, sorted."""
    return tuple(sorted(_SCHEMES))
