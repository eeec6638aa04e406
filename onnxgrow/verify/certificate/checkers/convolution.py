"""Conv and ConvTranspose of any rank, with groups and depthwise.

Which channel a weight entry multiplies follows from the group of its output: entry (o', j') of a Conv
    weight reads input
channel g'·c' + j' with g' the group of o'. At each old output the entries that read its old channels must be
the old ones, and every other entry must be zero or read a channel that is proved zero. Specs:
https://onnx.ai/onnx/operators/onnx__Conv.html and __ConvTranspose.html.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask
from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.checkers.taps import PLACING, taps_stay
from onnxgrow.verify.certificate.compare import Tally, nonzero
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved, Zeros


def _frame(pair: Pair, *, transposed: bool = False) -> tuple[Proved, Proved, Claim]:
    """Everything but the channels: nothing grown on spatial axes, old taps at their places and new ones zero."""
    pair.same_attributes("group", *PLACING)
    x, w, claim = pair.input(0), pair.input(1), pair.claim()
    rank = len(x.axes)
    require(rank >= 2 and len(w.axes) == rank == len(claim.axes), "the ranks of input, weight and output differ")
    pair.identity(range(2, rank), x, "the input")
    require(all(axis.identity for axis in claim.axes[2:]), "a spatial axis of the output grew")
    taps_stay(pair, x, w, claim, transposed=transposed)
    agree(x.axes[0], claim.axes[0], "the batch axis")
    return x, w, claim


def _bias(pair: Pair, out: Axis) -> Proved | None:
    if not pair.has(2):
        return None
    bias = pair.input(2)
    require(len(bias.axes) == 1, "the bias is no vector")
    agree(bias.axes[0], out, "the bias and the output channels")
    return bias


def _may_be_nonzero(pair: Pair, w: Proved, rows: IntArray, columns: IntArray, tally: Tally) -> Mask:
    """Whether the weight may be other than zero at (axis 0 × axis 1), any tap of the kernel."""
    reader, name = pair.reader(1), input_name(pair.node, 1)
    if name in pair.new.tensors and reader is not None:
        return nonzero(reader, {0: rows, 1: columns}, tally)
    # What is computed may be proved zero where its numbers are roundings.
    open_entries = ~(w.zero(0)[rows][:, None] | w.zero(1)[columns][None, :])
    if reader is not None:
        return nonzero(reader, {0: rows, 1: columns}, tally) & open_entries
    if name in pair.new.static and open_entries.any() and pair.is_zero(1, 1, columns, {0: rows}):
        return np.zeros((rows.size, columns.size), np.bool_)
    return open_entries


def _sizes(x: Axis, out: Axis, groups: tuple[int, int]) -> None:
    for group, channels, outputs in ((groups[0], x.size, out.size), (groups[1], x.old_size, out.old_size)):
        require(
            group > 0 and channels % group == 0 and outputs % group == 0,
            "channels are no multiple of the groups",
        )


def _zeros(pair: Pair, x: Proved, claim: Claim, bias: Proved | None, silent: Mask) -> Zeros:
    """Zero channels of the output: silent ones whose bias is zero. New batch entries are zero where the input is."""
    zeros: dict[int, Mask] = {1: silent if bias is None else silent & bias.zero(0)}
    if bias is None or bias.all_zero:
        zeros[0] = x.zero(0)
    return zeros


@register("Conv")
def check_conv(pair: Pair) -> None:
    x, w, claim = _frame(pair)
    group, old_group = pair.int_attribute("group", 1)
    channels, out = x.axes[1], claim.axes[1]
    _sizes(channels, out, (group, old_group))
    agree(w.axes[0], out, "the weight's rows and the output channels")
    bias = _bias(pair, out)
    per_group, old_per_group = channels.size // group, channels.old_size // old_group
    inside = w.axes[1]
    require(inside.size == per_group and inside.old_size == old_per_group, "the weight does not fit the groups")

    rows = np.flatnonzero(out.source >= 0)
    groups = rows // (out.size // group)
    old_groups = out.source[rows] // (out.old_size // old_group)
    _each_group(pair, x, w, inside, rows, groups, old_groups, (per_group, old_per_group))

    def zeros() -> Zeros:
        silent = w.zero(0).copy()
        new_rows = np.flatnonzero(out.new & ~silent)
        if new_rows.size:
            found = _may_be_nonzero(pair, w, new_rows, np.arange(per_group, dtype=np.int64), Tally())
            starts = (new_rows // (out.size // group)) * per_group
            dead = x.zero(1)[starts[:, None] + np.arange(per_group)[None, :]]
            silent[new_rows] = ~(found & ~dead).any(axis=1)
        return _zeros(pair, x, claim, bias, silent)

    pair.zeros[0] = zeros


def _each_group(
    pair: Pair,
    x: Proved,
    w: Proved,
    inside: Axis,
    rows: IntArray,
    groups: IntArray,
    old_groups: IntArray,
    sizes: tuple[int, int],
) -> None:
    """At every old output row: the old channels of its old group at their mapped places, everything else zero."""
    per_group, old_per_group = sizes
    columns = np.arange(per_group, dtype=np.int64)
    combos, which = np.unique(np.stack([groups, old_groups], axis=1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    source = x.axes[1].source
    zero = x.zero(1) if not x.axes[1].identity else np.zeros(x.axes[1].size, np.bool_)
    # reads[·, j']: the input channel; wanted[·, j']: which old within-group input of the old output that is,
    # or −1.
    reads = combos[:, :1] * per_group + columns[None, :]
    within = source[reads] - combos[:, 1:] * old_per_group
    wanted = np.where((source[reads] >= 0) & (within >= 0) & (within < old_per_group), within, -1)
    # The weight's proved map says which old entry sits at j'; it must be the one that the channel asks for.
    require(
        not ((inside.source >= 0) & (wanted != inside.source)).any(),
        "the weight's inputs do not follow the input channels",
    )
    open_columns = np.flatnonzero((inside.source < 0) & ~zero[reads].all(axis=0))
    if open_columns.size:
        found = _may_be_nonzero(pair, w, rows, open_columns, pair.tally)
        leak = found & ~zero[reads[:, open_columns]][which]
        if leak.any():
            row, column = (int(i[0]) for i in np.nonzero(leak))
            channel = int(reads[which[row], open_columns[column]])
            reason = f"old output {int(rows[row])} reads new input {channel}: the weight is not zero there"
            raise ProofError(reason)


@register("ConvTranspose")
def check_conv_transpose(pair: Pair) -> None:
    x, w, claim = _frame(pair, transposed=True)
    group, old_group = pair.int_attribute("group", 1)
    channels, out = x.axes[1], claim.axes[1]
    _sizes(channels, out, (group, old_group))
    agree(w.axes[0], channels, "the weight's rows and the input channels")
    bias = _bias(pair, out)
    outputs, old_outputs = out.size // group, out.old_size // old_group
    inside = w.axes[1]
    require(inside.size == outputs and inside.old_size == old_outputs, "the weight does not fit the groups")

    old_rows = np.flatnonzero(out.source >= 0)
    groups, old_groups = old_rows // outputs, out.source[old_rows] // old_outputs
    require(
        np.array_equal(inside.source[old_rows % outputs], out.source[old_rows] - old_groups * old_outputs),
        "the weight's outputs do not follow the output channels",
    )
    per_group, old_per_group = channels.size // group, channels.old_size // old_group
    for g, old_g in np.unique(np.stack([groups, old_groups], axis=1), axis=0):
        own = np.arange(g * per_group, (g + 1) * per_group, dtype=np.int64)
        kept = (channels.source[own] >= 0) & (channels.source[own] // old_per_group == old_g)
        require(int(kept.sum()) == old_per_group, "an old output lost an old input channel of its group")
        others = own[~kept & ~x.zero(1)[own]]
        columns = old_rows[(groups == g) & (old_groups == old_g)] % outputs
        if others.size and columns.size:
            found = _may_be_nonzero(pair, w, others, columns.astype(np.int64), pair.tally)
            require(not found.any(), f"old outputs of group {g} read a new input: the weight is not zero there")

    def zeros() -> Zeros:
        found = _may_be_nonzero(
            pair, w, np.arange(channels.size, dtype=np.int64), np.arange(outputs, dtype=np.int64), Tally()
        )
        found &= ~x.zero(1)[:, None]
        silent = ~found.reshape(group, per_group, outputs).any(axis=1).reshape(-1)
        return _zeros(pair, x, claim, bias, silent)

    pair.zeros[0] = zeros
