"""Sizes at which a model runs: primes first, then a ladder of sizes that models are commonly made for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.inputs import sample_inputs
from onnxgrow.concrete.pin import (
    SHAPE_HINT,
    InputSpec,
    assign,
    free_symbols,
    input_specs,
    pin_inputs,
    primes_for,
    static_sizes,
)
from onnxgrow.concrete.rehearsal import Rehearsal
from onnxgrow.concrete.session import Output, Session, open_session
from onnxgrow.errors import UnsupportedError, UsageError

__all__ = ["find_runnable", "second_variant"]

Array = npt.NDArray[np.generic]
Shapes = dict[str, tuple[int, ...]]
Feeds = dict[str, Array]

# Sizes that models are made for: multiples of strides, image sides, audio windows and frames.
_USUAL = (
    224,
    64,
    48,
    128,
    256,
    512,
    576,
    299,
    96,
    100,
    480,
    640,
    1024,
    400,
    1600,
    16_000,
    3000,
    16,
    8,
    4,
    2,
    1,
)
_MAX_ELEMENTS = 4_000_000
# So many runs with empty or NaN outputs are taken as the model's nature.
_UNSOUND_RUNS = 8


def find_runnable(
    model: ir.Model,
    user_shapes: Mapping[str, Sequence[int]] | None = None,
    user_inputs: Mapping[str, Array] | None = None,
    *,
    seed: int = 0,
) -> tuple[Shapes, Feeds]:
    """Find input shapes and values with which ONNX Runtime runs the model on the CPU.

    The shapes of :func:`onnxgrow.concrete.pin.pin_inputs` are tried first, then equal sizes for dimensions
    that may belong together, batch 1, multiples of usual strides and usual sizes. A run with empty or
    NaN outputs counts only if nothing better is found. Static dimensions, user shapes and user inputs
    are never varied.

    Args:
        model: The model; not modified.
        user_shapes: Input name → dimensions.
        user_inputs: Input name → value; they pin their inputs' shapes. Others are sampled.
        seed: Key of the sampled values.

    Returns:
        Input name → shape, and input name → value.

    Raises:
        UsageError: User shapes or inputs do not fit the model or each other.
        UnsupportedError: ONNX Runtime refuses the model, or every size tried; the reason is that of the
        first try.
    """
    pinned, inputs = _pinned(model, user_shapes, user_inputs)
    session, rehearsal = open_session(model), Rehearsal(model)
    first_error: UnsupportedError | None = None
    fallback: tuple[Shapes, Feeds] | None = None
    unsound = 0
    for shapes in _candidates(model, pinned):
        try:
            feeds, sound = _attempt(model, session, rehearsal, shapes, inputs, seed, 0)
        except UnsupportedError as error:
            first_error = first_error or error
            continue
        if sound:
            return shapes, feeds
        fallback = fallback or (shapes, feeds)
        unsound += 1
        if unsound == _UNSOUND_RUNS:
            break
    if fallback is not None:
        return fallback
    if first_error is None:
        raise UnsupportedError("inputs", "no size is small enough to be tried", SHAPE_HINT)
    raise first_error


def second_variant(
    model: ir.Model,
    input_shapes: Mapping[str, Sequence[int]],
    user_shapes: Mapping[str, Sequence[int]] | None = None,
    user_inputs: Mapping[str, Array] | None = None,
    *,
    seed: int = 0,
) -> tuple[Shapes, Feeds] | None:
    """Find other sizes and values with which the model runs too.

    Dimensions that are equal in ``input_shapes`` stay equal. All dynamic dimensions change when that runs,
    otherwise as many as possible of them one at a time.

    Args:
        model: The model; not modified.
        input_shapes: Shapes with which it runs, from :func:`find_runnable`.
        user_shapes, user_inputs: As there: what they pin does not change.
        seed: Key of the sampled values.

    Returns:
        Shapes and values, or None when every dimension is fixed or no other size runs.

    Raises:
        UsageError: As :func:`find_runnable`.
    """
    pinned, inputs = _pinned(model, user_shapes, user_inputs)
    specs = input_specs(model)
    first = {name: tuple(shape) for name, shape in input_shapes.items()}
    old = _bound(specs, first)
    session: Session | None = None
    rehearsal = Rehearsal(model)
    taken = static_sizes(model, specs) | {size for shape in first.values() for size in shape}
    for sizes in _other_sizes(old, taken):
        shapes = assign(specs, sizes, pinned)
        if shapes == first or _too_large(shapes):
            continue
        session = session or open_session(model)
        try:
            feeds, sound = _attempt(model, session, rehearsal, shapes, inputs, seed, 1)
        except UnsupportedError:
            continue
        if sound:
            return shapes, feeds
    return None


def _pinned(
    model: ir.Model, user_shapes: Mapping[str, Sequence[int]] | None, user_inputs: Mapping[str, Array] | None
) -> tuple[Shapes, Feeds]:
    """User shapes together with the shapes of user inputs."""
    pinned = {name: tuple(int(d) for d in dims) for name, dims in (user_shapes or {}).items()}
    inputs = dict(user_inputs or {})
    for name, array in inputs.items():
        if pinned.setdefault(name, array.shape) != array.shape:
            raise UsageError(
                f"input {name!r}",
                f"its value has shape {array.shape}, --input-shape says {list(pinned[name])}",
            )
    return pinned, inputs


def _attempt(
    model: ir.Model, session: Session, rehearsal: Rehearsal, shapes: Shapes, inputs: Feeds, seed: int, variant: int
) -> tuple[Feeds, bool]:
    """Run once; the feeds, and whether all outputs are non-empty and free of NaN. Raises UnsupportedError."""
    feeds: Feeds = {}
    for positive in (False, True):
        tried = sample_inputs(model, shapes, seed=seed, variant=variant, positive=positive) | inputs
        rehearsal(tried)
        sound = all(_sound(value) for value in session.run(tried).values())
        if sound or not feeds:
            feeds = tried
        if sound:
            return feeds, True
    return feeds, False


def _sound(output: Output) -> bool:
    """Whether a run's output is not empty and holds no NaN."""
    if not math.prod(output.shape):
        return False
    array = output.numpy()
    return array is None or array.dtype.kind != "f" or not bool(np.isnan(array).any())


def _candidates(model: ir.Model, pinned: Shapes) -> Iterator[Shapes]:
    specs = input_specs(model)
    seen: list[Shapes] = []
    avoid = static_sizes(model, specs)
    for shapes in (
        pin_inputs(model, pinned),
        *(assign(specs, sizes, pinned) for sizes in _ladder(specs, avoid)),
    ):
        if shapes not in seen and not _too_large(shapes):
            seen.append(shapes)
            yield shapes


def _too_large(shapes: Shapes) -> bool:
    return any(math.prod(shape) > _MAX_ELEMENTS for shape in shapes.values())


def _ladder(specs: Sequence[InputSpec], avoid: set[int]) -> Iterator[dict[str, int]]:
    """Sizes for all symbols, the most telling first: different symbols differ as long as possible."""
    symbols = list(free_symbols(specs))
    if not symbols:
        return
    axes = {symbol: min(_axes_of(specs, symbol), default=0) for symbol in symbols}
    batch = {symbol for symbol in symbols if axes[symbol] == 0} if _has_batch(specs) else set()
    others = [symbol for symbol in symbols if symbol not in batch]
    small = primes_for([5] * (max(axes.values()) + 1 + len(symbols)), avoid)
    tied = {symbol: small[axes[symbol]] for symbol in symbols}
    distinct = dict(zip(symbols, small[len(small) - len(symbols) :], strict=True))
    main = _main_axis(specs)

    def with_batch(size: int, sizes: Mapping[str, int]) -> dict[str, int]:
        return {symbol: size if symbol in batch else sizes[symbol] for symbol in symbols}

    yield tied
    yield distinct
    yield with_batch(1, distinct)
    yield with_batch(1, tied)
    for size in (small[0], 1):
        for stride in (8, 32, 64):
            yield with_batch(
                size,
                dict(zip(others, range(2 * stride, 1 << 20, stride), strict=False)) | dict.fromkeys(batch, 1),
            )
        for usual in _USUAL:
            yield with_batch(size, dict.fromkeys(symbols, usual))
            yield {symbol: usual if symbol in main else size for symbol in symbols}
    for usual in (32, 16, 8, 4, 2, 1):
        yield dict.fromkeys(symbols, usual)


def _axes_of(specs: Sequence[InputSpec], symbol: str) -> list[int]:
    return [axis for spec in specs for axis, dim in enumerate(spec.dims or ()) if dim.symbol == symbol]


def _has_batch(specs: Sequence[InputSpec]) -> bool:
    """Whether the first axis looks like a batch: some input has more axes than that one."""
    return any(len(spec.dims or ()) > 1 for spec in specs)


def _main_axis(specs: Sequence[InputSpec]) -> set[str]:
    """The last dynamic dimension of the first input that has one: time, where other inputs are states."""
    for spec in specs:
        symbols = [dim.symbol for dim in spec.dims or () if dim.symbol]
        if symbols:
            return {symbols[-1]}
    return set()


def _bound(specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Symbol → size as found in ``shapes``."""
    sizes: dict[str, int] = {}
    for symbol in free_symbols(specs):
        for spec in specs:
            for axis, dim in enumerate(spec.dims or ()):
                if dim.symbol == symbol:
                    sizes.setdefault(symbol, shapes[spec.name][axis])
    # A symbol that occurs only inside an expression keeps the smallest size.
    return {symbol: sizes.get(symbol, 5) for symbol in free_symbols(specs)}


def _other_sizes(old: Mapping[str, int], taken: set[int]) -> Iterator[dict[str, int]]:
    distinct = list(dict.fromkeys(old.values()))
    primes = dict(zip(distinct, primes_for([size + 1 for size in distinct], taken), strict=True))
    changes: Iterable[Callable[[int], int]] = (
        lambda size: primes[size],
        lambda size: 2 * size,
        lambda size: size + 32,
        lambda size: size + 64,
        lambda size: size + 1,
        lambda size: max(1, size // 2),
    )
    for change in changes:
        yield {symbol: change(size) for symbol, size in old.items()}
    for size in distinct:
        for change in changes:
            yield {symbol: change(s) if s == size else s for symbol, s in old.items()}
