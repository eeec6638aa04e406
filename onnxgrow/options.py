"""What every function that grows a model can be told beside its own arguments, and how it is carried out."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
import numpy.typing as npt

from onnxgrow.concrete.npz import load_inputs
from onnxgrow.io import INLINE_LIMIT, Loaded, Weights
from onnxgrow.passes.base import Progress, Proof

__all__ = [
    *("Feeds", "Form", "InexactOptions", "Inputs", "Options", "Shapes", "Storage"),
    *("feeds_of", "proof_of", "spelled_out", "storage_of"),
]

Feeds = Mapping[str, npt.NDArray[np.generic]]
Inputs = Feeds | str | os.PathLike[str]
Shapes = Mapping[str, Sequence[int]]


class Form(TypedDict, total=False):
    """In what form a result is written.

    Keys:
        overwrite: Whether the file may exist.
        external_data: Whether its weights go into a file beside it; decided by size when not given.
        external_threshold, max_shard_size, weights, link_unchanged: See :func:`onnxgrow.io.stage`.
    """

    overwrite: bool
    external_data: bool | None
    external_threshold: int
    max_shard_size: int | None
    weights: Weights
    link_unchanged: bool


class Storage(Form, total=False):
    """Where a result goes, and in what form.

    Keys:
        output: Where to write the result; what is verified is the written file, before it gets its name. Not given:
            nowhere.
        others: See :class:`Form`.
    """

    output: str | os.PathLike[str] | None


class Options(Storage, total=False):
    """How a result is proved, and where it goes.

    Keys:
        inputs: Valid inputs by name, or an npz file of them, used beside sampled ones.
        input_shapes: Input name → dimensions.
        provider: ``auto``, ``cpu`` or ``cuda``.
        progress: Told what is being done.
        others: See :class:`Storage`.
    """

    inputs: Inputs | None
    input_shapes: Shapes | None
    provider: str
    progress: Progress | None


class InexactOptions(Options, total=False):
    """Those of functions that have inexact methods, too.

    Keys:
        max_change: Largest relative change of an output that an inexact method may make; required there.
        others: See :class:`Options`.
    """

    max_change: float | None


DEFAULTS: Mapping[str, Any] = {
    "inputs": None,
    "input_shapes": None,
    "provider": "auto",
    "max_change": None,
    "progress": None,
    "output": None,
    "overwrite": False,
    "external_data": None,
    "external_threshold": INLINE_LIMIT,
    "max_shard_size": None,
    "weights": "raw",
    "link_unchanged": False,
}
"""Key → what it is where it is not given; in the order in which they are shown."""

F = TypeVar("F", bound=Callable[..., Any])


def spelled_out(options: type) -> Callable[[F], F]:
    """Decorator: name the keys of ``**options`` in the signature, for ``help()``, and refuse any other.

    Args:
        options: The TypedDict that the function's last parameter unpacks.
    """

    def decorate(function: F) -> F:
        plain = inspect.signature(function)
        own = [p for p in plain.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = {k: getattr(h, "__forward_arg__", h) for k, h in options.__annotations__.items()}  # as they are written
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[key])
            for key, default in DEFAULTS.items()
            if key in hints
        ]
        signature = plain.replace(parameters=[*own, *shared])

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as e:
                raise TypeError(f"{function.__name__}(): {e}") from None
            return function(*args, **kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]  # what inspect and help() look at
        return cast(F, call)

    return decorate


def proof_of(options: Options, loaded: Loaded) -> Proof:
    """How a result is verified, as the options say."""
    return Proof(
        feeds_of(options.get("inputs"), loaded),
        options.get("input_shapes"),
        options.get("provider", "auto"),
        cast(InexactOptions, options).get("max_change"),  # not given where there are no inexact methods
        options.get("progress"),
    )


def storage_of(options: Options) -> Storage:
    """Those of the options that say where a result goes."""
    return cast(Storage, {key: value for key, value in options.items() if key in Storage.__annotations__})


def feeds_of(inputs: Inputs | None, loaded: Loaded) -> Feeds | None:
    """Inputs by name; those of an npz file are read and checked against the model."""
    if inputs is None or isinstance(inputs, Mapping):
        return inputs
    return load_inputs(Path(inputs), loaded.model)
