"""Ops that move data along axes, from Transpose and Concat to Trilu, ReverseSequence and DepthToSpace.

Each is an index map per axis; at every old index of the output the input must have been read where the
original reads.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask
from onnxgrow.verify.certificate.checkers.common import agree, all_zero_zeros, carry_zeros, operand_zero
from onnxgrow.verify.certificate.pair import Pair, covers, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import Zeros


def follow(out: Axis, source: Axis, new: IntArray, old: IntArray, what: str) -> None:
    """``out[i]`` reads ``source[new[i]]`` in the result and ``source[old[i]]`` in the original; −1 reads nothing.

    At each old output index both must be the same entry.
    """
    require(new.size == out.size and old.size == out.old_size, f"{what}: sizes do not follow from the operands")
    kept = np.flatnonzero(out.source >= 0)
    read, wanted = new[kept], old[out.source[kept]]
    inside = read >= 0
    got = np.where(inside, source.source[np.where(inside, read, 0)] if source.size else -1, -1)
    require(np.array_equal(inside, wanted >= 0), f"{what}: padding lies elsewhere")
    require(not (inside & (got != wanted)).any(), f"{what}: old entries are read from elsewhere")


def _identities(pair: Pair, axes: tuple[Axis, ...], others: tuple[Axis, ...], skip: int) -> None:
    require(len(axes) == len(others), "the ranks differ")
    for number, (a, b) in enumerate(zip(axes, others, strict=True)):
        if number != skip:
            agree(a, b, f"axis {number}")


@register("Transpose")
def check_transpose(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    given = pair.ints_attribute("perm")[0]
    perm = tuple(reversed(range(len(x.axes)))) if given is None else given
    require(sorted(perm) == list(range(len(x.axes))) and len(claim.axes) == len(perm), "perm is no permutation")
    for to, source in enumerate(perm):
        agree(x.axes[source], claim.axes[to], f"axis {to}")
    pair.zeros[0] = lambda: carry_zeros(x, ((source, to) for to, source in enumerate(perm)))


@register("Concat")
def check_concat(pair: Pair) -> None:
    pair.same_attributes()
    claim = pair.claim()
    rank = len(claim.axes)
    axis = pair.axis(pair.same_int_attribute("axis", 1), rank)
    states = [pair.input(index) for index in range(pair.count())]
    sources: list[IntArray] = []
    offset = 0
    for state in states:
        _identities(pair, state.axes, claim.axes, axis)
        own = state.axes[axis]
        sources.append(np.where(own.source >= 0, own.source + offset, -1))
        offset += own.old_size
    require(offset == claim.axes[axis].old_size, "the parts do not add up")
    covers(claim.axes[axis], np.concatenate(sources), "the parts and the output disagree")

    def zeros() -> Zeros:
        found: dict[int, Mask] = {axis: np.concatenate([state.zero(axis) for state in states])}
        for number in range(rank):
            if number != axis:
                found[number] = np.logical_and.reduce([operand_zero(s, claim.axes, number) for s in states])
        return found

    pair.zeros[0] = zeros


def _split_sizes(pair: Pair, axis: Axis) -> tuple[list[int], list[int]]:
    """Sizes of the parts (new, old), from the attribute, the operand, or equal parts."""
    outputs = len(pair.node.outputs)
    require(outputs == len(pair.original.outputs), "the number of outputs differs")
    sizes: list[list[int]] = []
    for which, (side, node) in enumerate(((pair.new, pair.node), (pair.old, pair.original))):
        given = pair.ints_attribute("split")[which]
        operand = node.inputs[1].name if len(node.inputs) > 1 and node.inputs[1] is not None else None
        if given is None and operand:
            value = side.value(operand)
            require(value is not None, "the split sizes depend on data")
            assert value is not None
            given = tuple(int(i) for i in value)
        if given is None:
            size = axis.size if which == 0 else axis.old_size
            part = -(-size // outputs)
            given = tuple(max(min(part, size - i * part), 0) for i in range(outputs))
        require(len(given) == outputs, "the split sizes do not fit the outputs")
        sizes.append(list(given))
    return sizes[0], sizes[1]


@register("Split")
def check_split(pair: Pair) -> None:
    pair.same_attributes("split", "num_outputs")
    x = pair.input(0)
    axis = pair.axis(pair.same_int_attribute("axis", 0), len(x.axes))
    new, old = _split_sizes(pair, x.axes[axis])
    require(sum(new) == x.axes[axis].size and sum(old) == x.axes[axis].old_size, "the parts do not add up")
    for index, claim in pair.claims.items():
        start, old_start = sum(new[:index]), sum(old[:index])
        _identities(pair, x.axes, claim.axes, axis)
        follow(
            claim.axes[axis],
            x.axes[axis],
            np.arange(start, start + new[index]),
            np.arange(old_start, old_start + old[index]),
            f"part {index}",
        )

        def zeros(start: int = start, size: int = new[index]) -> Zeros:
            return {number: mask[start : start + size] if number == axis else mask for number, mask in x.zeros.items()}

        pair.zeros[index] = zeros


def _slice_indices(pair: Pair, which: int, shape: tuple[int, ...]) -> dict[int, IntArray]:
    """Axis → the indices that a Slice reads, by the spec's clamping."""
    node, side = ((pair.node, pair.new), (pair.original, pair.old))[which]
    if pair.opset < 10:
        parts = [pair.ints_attribute(name)[which] for name in ("starts", "ends", "axes")]
        starts, ends, axes = parts[0] or (), parts[1] or (), parts[2]
        steps: tuple[int, ...] | None = None
    else:
        values: list[tuple[int, ...] | None] = []
        for index in range(1, 5):
            name = node.inputs[index] if index < len(node.inputs) else None
            if name is None or not name.name:
                values.append(None)
                continue
            value = side.value(name.name)
            require(value is not None, f"input {index} depends on data")
            assert value is not None
            values.append(tuple(int(i) for i in value.reshape(-1)))
        starts, ends, axes, steps = values[0] or (), values[1] or (), values[2], values[3]
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    require(len(starts) == len(ends) == len(axes) == len(steps), "starts, ends, axes and steps differ in length")
    found: dict[int, IntArray] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        number = pair.axis(axis, len(shape))
        require(step != 0, "a step is 0")
        require(number not in found, "an axis is sliced twice")
        # Python clamps as the spec does, but for a start below -size with a negative step; then the sizes
        # disagree.
        found[number] = np.arange(*slice(start, end, step).indices(shape[number]), dtype=np.int64)
    return found


@register("Slice")
def check_slice(pair: Pair) -> None:
    pair.same_attributes("starts", "ends", "axes")
    x, claim = pair.input(0), pair.claim()
    require(len(x.axes) == len(claim.axes), "the ranks differ")
    new, old = _slice_indices(pair, 0, x.shape), _slice_indices(pair, 1, x.old_shape)
    for number, (axis, out) in enumerate(zip(x.axes, claim.axes, strict=True)):
        if number in new or number in old:
            read = new.get(number, np.arange(axis.size, dtype=np.int64))
            wanted = old.get(number, np.arange(axis.old_size, dtype=np.int64))
            follow(out, axis, read, wanted, f"axis {number}")
        else:
            agree(axis, out, f"axis {number}")
    pair.zeros[0] = lambda: {n: mask[new[n]] if n in new else mask for n, mask in x.zeros.items()}


@register("Expand")
def check_expand(pair: Pair) -> None:
    """Repeats axes of size 1; the target shape is judged by the output's concrete shape."""
    pair.same_attributes()
    pair.fixed(1)
    x, claim = pair.input(0), pair.claim()
    first = len(claim.axes) - len(x.axes)
    require(first >= 0, "the output has fewer axes than the input")
    for number, axis in enumerate(x.axes):
        # All entries of an expanded axis are the same one: any map of the output holds.
        if not (axis.size == 1 and axis.old_size == 1):
            agree(axis, claim.axes[first + number], f"axis {number}")

    def zeros() -> Zeros:
        if x.all_zero:
            return all_zero_zeros(claim.axes)
        return {first + n: mask for n, mask in x.zeros.items() if claim.axes[first + n].size == mask.size}

    pair.zeros[0] = zeros


@register("Tile")
def check_tile(pair: Pair) -> None:
    pair.same_attributes()
    pair.fixed(1)
    require(pair.opset >= 6, "the form before opset 6 is not known")
    x, claim = pair.input(0), pair.claim()
    require(len(x.axes) == len(claim.axes), "the ranks differ")
    for number, (axis, out) in enumerate(zip(x.axes, claim.axes, strict=True)):
        require(
            (axis.size == 0 or out.size % axis.size == 0) and (axis.old_size == 0 or out.old_size % axis.old_size == 0),
            f"axis {number} is no multiple of the input's",
        )
        read = np.arange(out.size, dtype=np.int64) % max(axis.size, 1)
        wanted = np.arange(out.old_size, dtype=np.int64) % max(axis.old_size, 1)
        follow(out, axis, read, wanted, f"axis {number}")
    pair.zeros[0] = lambda: {n: np.tile(mask, claim.axes[n].size // max(mask.size, 1)) for n, mask in x.zeros.items()}


@register("Trilu")
def check_trilu(pair: Pair) -> None:
    """Keeps a triangle of the last two axes, which must not have grown."""
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    rank = len(x.axes)
    require(rank >= 2, "its input is no matrix")
    if pair.has(1):
        require(pair.input(1).identity, "k grew")
    pair.identity((rank - 2, rank - 1), x, "the input")
    _identities(pair, x.axes, claim.axes, -1)
    pair.zeros[0] = lambda: x.zeros


@register("ReverseSequence")
def check_reverse_sequence(pair: Pair) -> None:
    """Moves entries along time, by lengths for each batch entry: neither axis may have grown, nor the lengths."""
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    rank = len(x.axes)
    require(rank >= 2, "its input is no sequence")
    named = (("batch_axis", 1), ("time_axis", 0))
    moved = tuple(pair.axis(pair.same_int_attribute(name, default), rank) for name, default in named)
    pair.identity(moved, x, "the input")
    require(pair.input(1).identity, "the lengths grew")
    _identities(pair, x.axes, claim.axes, -1)
    pair.zeros[0] = lambda: carry_zeros(x, ((axis, axis) for axis in range(rank) if axis not in moved))


@register("DepthToSpace")
def check_depth_to_space(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    block = pair.same_int_attribute("blocksize", 0)
    mode = pair.node.attributes.get("mode")
    column_first = mode is not None and mode.as_string() == "CRD"
    require(block > 0 and len(x.axes) == len(claim.axes) == 4, "its input is no image")
    pair.identity((2, 3), x, "the input")
    require(all(axis.identity for axis in claim.axes[2:]), "a spatial axis of the output grew")
    agree(x.axes[0], claim.axes[0], "the batch axis")
    channels, out = x.axes[1], claim.axes[1]
    new, old = np.arange(out.size, dtype=np.int64), np.arange(out.old_size, dtype=np.int64)
    masks: list[IntArray] = []
    for place in range(block * block):
        if column_first:
            read, wanted = new * block * block + place, old * block * block + place
        else:
            read, wanted = place * out.size + new, place * out.old_size + old
        follow(out, channels, read, wanted, "channels")
        masks.append(read)

    def zeros() -> Zeros:
        found = carry_zeros(x, [(0, 0)])
        return {**found, 1: np.logical_and.reduce([x.zero(1)[read] for read in masks])}

    pair.zeros[0] = zeros


@register("SpaceToDepth")
def check_space_to_depth(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    require(
        pair.same_int_attribute("blocksize", 0) > 0 and len(x.axes) == len(claim.axes) == 4, "its input is no image"
    )
    pair.identity((2, 3), x, "the input")
    require(all(axis.identity for axis in claim.axes[2:]), "a spatial axis of the output grew")
    agree(x.axes[0], claim.axes[0], "the batch axis")
    channels, out = x.axes[1], claim.axes[1]
    require(out.size and channels.size and out.old_size and channels.old_size, "there are no channels")
    # Output channel place · C + c reads channel c at one place of the block; the places must agree, too.
    read = np.arange(out.size, dtype=np.int64)
    wanted = np.arange(out.old_size, dtype=np.int64)
    follow(out, channels, read % channels.size, wanted % channels.old_size, "channels")
    kept = out.source >= 0
    require(
        np.array_equal((read // channels.size)[kept], out.source[kept] // channels.old_size),
        "an old channel reads another place of its block",
    )
    pair.zeros[0] = lambda: {
        **carry_zeros(x, [(0, 0)]),
        1: x.zero(1)[read % channels.size],
    }
