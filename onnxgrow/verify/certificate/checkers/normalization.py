"""Normalisations: what may have grown on the axes over which they take statistics keeps those, or changes them by a
factor that is taken back.

BatchNormalization and InstanceNormalization work per channel, so channels may grow; GroupNormalization may
grow by whole groups, or by copies inside of them. Specs: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from onnxgrow.verify.certificate.axis import IntArray
from onnxgrow.verify.certificate.checkers.centring import holds_means, own_mean
from onnxgrow.verify.certificate.checkers.common import agree, broadcast_axes, carry_zeros, operand_zero, repeated
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Claim, Proved, Zeros


def _same_axes(x: Proved, claim: Claim) -> None:
    require(len(x.axes) == len(claim.axes), "the ranks differ")
    for number, (a, b) in enumerate(zip(x.axes, claim.axes, strict=True)):
        agree(a, b, f"axis {number}")


def _keeps_statistics(x: Proved, axes: Iterable[int]) -> None:
    """Statistics over these axes stay the same: they did not grow, or by copies of all entries, each equally often."""
    for number in axes:
        same = x.axes[number].identity or repeated(x, number)
        require(same, f"axis {number} of the input, which it normalises over, grew by other than copies")


def _per_channel(pair: Pair, x: Proved, indices: tuple[int, ...]) -> list[Proved]:
    """One-dimensional parameters that follow the channel axis."""
    require(len(x.axes) >= 2, "its input has no channel axis")
    found = []
    for index in indices:
        state = pair.input(index)
        require(len(state.axes) == 1, f"input {index} is no vector")
        agree(state.axes[0], x.axes[1], f"input {index} and the channels")
        found.append(state)
    return found


@register("BatchNormalization")
def check_batch_normalization(pair: Pair) -> None:
    """Per channel; where it takes statistics of a batch, batch and spatial axes must not have grown, but for a weight
    that is standardised so."""
    pair.same_attributes("epsilon")
    require(pair.same_int_attribute("spatial", 1) == 1, "statistics per position are not known")
    training = bool(pair.same_int_attribute("training_mode", 0)) or pair.opset < 7 or len(pair.node.outputs) > 1
    x = pair.input(0)
    grown = [n for n, axis in enumerate(x.axes) if n != 1 and not axis.identity]
    if len(grown) == 1 and (training or pair.scaled(4).square != 1):
        _standardised(pair, x, grown[0], training=training)
        return
    pair.same_attributes()
    _, bias, mean, variance = _per_channel(pair, x, (1, 2, 3, 4))
    spread = pair.reader(4)
    if spread is not None:
        new = spread.read((np.flatnonzero(variance.axes[0].new),)).astype(np.float64)
        epsilon = pair.float_attribute("epsilon", 1e-5)
        require(bool(np.all(new + epsilon > 0)), "a new variance is negative: its channel would be NaN")
    training = bool(pair.same_int_attribute("training_mode", 0)) or pair.opset < 7 or len(pair.node.outputs) > 1
    if training:
        pair.identity((n for n in range(len(x.axes)) if n != 1), x, "the input")
    for index, claim in pair.claims.items():
        if index == 0:
            _same_axes(x, claim)
        else:
            require(len(claim.axes) == 1, "a running statistic is no vector")
            agree(claim.axes[0], x.axes[1], f"output {index}")
    if not training and 0 in pair.claims:
        # (0 − mean) · scale / √(variance + ε) + bias is 0 when mean and bias are.
        pair.zeros[0] = lambda: {1: x.zero(1) & bias.zero(0) & mean.zero(0)}


def _standardised(pair: Pair, x: Proved, number: int, *, training: bool) -> None:
    """A weight [1, out, fan-in] whose new fan-in holds the mean of the old one.

    The mean stays, the variance is n/n' of what it was: ε has to be, too, and the scale is multiplied by the root. It
    takes its own statistics in training form, else those that are computed from the same weight beside it.
    """
    axis = x.axes[number]
    others = frozenset(k for k, a in enumerate(x.axes) if k != 1 and a.size > 1)
    require(holds_means(pair, x, number, others), "its new fan-in does not hold the mean of the old one")
    scale, bias, mean, variance = (pair.scaled(k) for k in (1, 2, 3, 4))
    for state, what in ((scale, "the scale"), (bias, "the bias"), (mean, "the mean"), (variance, "the variance")):
        require(len(state.axes) == 1, f"{what} is no vector")
        agree(state.axes[0], x.axes[1], what)
    ratio = Fraction(axis.old_size, axis.size)
    if not training:
        own = own_mean(pair.new, input_name(pair.node, 0), input_name(pair.node, 3), channel=1)
        require(own == others, "its mean is not that of its own input")
        require(variance.square == ratio**2, "its variance is not the share of old entries of what it was")
    require(mean.square == 1 and bias.square == 1, "its mean or its shift is multiplied")
    old = pair.original.attributes.get("epsilon")
    before = np.float64(np.float32(1e-5 if old is None else old.as_float()))
    shrunk = np.float32(pair.float_attribute("epsilon", 1e-5)) == np.float32(before * float(ratio))
    require(shrunk, "its epsilon did not shrink with the share of old entries")
    require(scale.square == ratio, "its scale is not multiplied by the root of that share")
    momentum = pair.float_attribute("momentum", 0.9)
    for index, claim in pair.claims.items():
        if index == 0:
            _same_axes(x, claim)
            continue
        require(len(claim.axes) == 1, "a running statistic is no vector")
        agree(claim.axes[0], x.axes[1], f"output {index}")
        if index == 2:
            require(momentum == 1 or variance.square == ratio**2, "its running variance mixes different factors")
            pair.squares[2] = variance.square
    if 0 in pair.claims:
        pair.zeros[0] = lambda: {number: axis.new & bias.all_zero}


@register("InstanceNormalization")
def check_instance_normalization(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    _, bias = _per_channel(pair, x, (1, 2))
    _keeps_statistics(x, range(2, len(x.axes)))
    _same_axes(x, claim)
    # Of a constant channel only the bias is left (ε > 0).
    if pair.float_attribute("epsilon", 1e-5) > 0:
        pair.zeros[0] = lambda: {1: x.zero(1) & bias.zero(0)}


def _group_source(x: Proved, groups: int, old_groups: int) -> IntArray:
    """Old group of each new group, −1 where it is new.

    Raises ProofError unless each old group is there as a whole, with no new channels but copies of its own, each of
    them equally often.
    """
    channels = x.axes[1]
    require(groups > 0 and old_groups > 0, "there are no groups")
    require(
        channels.size % groups == 0 and channels.old_size % old_groups == 0,
        "channels are no multiple of groups",
    )
    size, old_size = channels.size // groups, channels.old_size // old_groups
    require(old_size > 0, "a group has no channels")
    source = channels.source.reshape(groups, size)
    found = np.where((source >= 0).any(axis=1), source.max(axis=1, initial=-1) // old_size, -1)
    held = np.maximum(channels.source, x.claim.copies.get(1, channels.source)).reshape(groups, size)[found >= 0]
    for group, members in zip(found[found >= 0], held, strict=True):
        require(bool((members // old_size == group).all()), "a group mixes old and new channels")
        counts = np.bincount(members % old_size, minlength=old_size)
        require(bool(np.all(counts == counts[0])), "a group mixes old and new channels")
    return found.astype(np.int64)


@register("GroupNormalization")
def check_group_normalization(pair: Pair) -> None:
    pair.same_attributes("num_groups")
    x, claim = pair.input(0), pair.claim()
    require(len(x.axes) >= 2, "its input has no channel axis")
    _keeps_statistics(x, range(2, len(x.axes)))
    _same_axes(x, claim)
    groups, old_groups = pair.int_attribute("num_groups", 0)
    source = _group_source(x, groups, old_groups)
    scale, bias = pair.input(1), pair.input(2)
    for state, what in ((scale, "the scale"), (bias, "the bias")):
        require(len(state.axes) == 1, f"{what} is no vector")
        if pair.opset >= 21:
            agree(state.axes[0], x.axes[1], what)
        else:
            axis = state.axes[0]
            require(axis.size == groups and axis.old_size == old_groups, f"{what} does not fit the groups")
            require(np.array_equal(axis.source, source), f"{what} does not follow the groups")

    def zeros() -> Zeros:
        silent = x.zero(1).reshape(groups, -1).all(axis=1)
        size = x.axes[1].size // groups
        still = bias.zero(0) if pair.opset >= 21 else bias.zero(0).repeat(size)
        return {1: silent.repeat(size) & still}

    if pair.float_attribute("epsilon", 1e-5) > 0:
        pair.zeros[0] = zeros


def statistics_over_grown(
    pair: Pair,
    summands: Sequence[tuple[Proved, int]],
    parameters: Sequence[Proved],
    *,
    centred: bool,
    epsilon: float = 1e-5,
    inverse: int | None = None,
) -> None:
    """A norm over an axis that grew from n to n' entries computes the same for the old ones in three cases.

    New entries that are the mean of the old ones keep the mean and make the variance n/n' of what it was; zeros do the
    same to a mean square. Then ε has to be n/n' of what it was, and the scale its root. Copies, each old entry equally
    often, change nothing; a factor on all parameters is one on the output.

    Args:
        pair: The node.
        summands: What is added up before, each with its axis that the statistics are taken over.
        parameters: The scale, then perhaps a shift.
        centred: Whether it takes the mean away.
        epsilon: Default of the attribute.
        inverse: Output that is one over the deviation.

    Raises:
        ProofError: None of the three is proved, or the compensation is not the one that it needs.
    """
    if all(repeated(*summand) for summand in summands):
        sources = [state.claim.copies[number] for state, number in summands]
        require(all(np.array_equal(s, sources[0]) for s in sources), "it adds up copies of different entries")
        pair.same_attributes()
        squares = {state.square for state in parameters}
        require(len(squares) <= 1, "its parameters are multiplied differently")
        if 0 in pair.claims:
            pair.squares[0] = next(iter(squares), Fraction(1))
        return
    what = "the mean of the old ones" if centred else "zero"
    for state, number in summands:
        kept = state.claim.mean.get(number) if centred else state.zero(number)
        holds = kept is not None and bool(np.all(kept[state.axes[number].new]))
        require(holds, f"it normalises over new entries that are not {what}")
        require(not state.claim.weights, "it normalises over a weighted mean")
    pair.same_attributes("epsilon")
    axis = summands[0][0].axes[summands[0][1]]
    ratio = Fraction(axis.old_size, axis.size)
    old = pair.original.attributes.get("epsilon")
    before = np.float64(np.float32(epsilon if old is None else old.as_float()))
    new = np.float32(pair.float_attribute("epsilon", epsilon))
    require(new == np.float32(before * float(ratio)), "its epsilon did not shrink with the share of old entries")
    require(bool(parameters) and parameters[0].square == ratio, "its scale is not multiplied by the root of that share")
    require(all(state.square == 1 for state in parameters[1:]), "its shift is multiplied")
    if inverse is not None and inverse in pair.claims:
        pair.squares[inverse] = 1 / ratio
    if 0 in pair.claims:
        claim = pair.claims[0]
        number = len(claim.axes) - len(summands[0][0].axes) + summands[0][1]
        shifts = [operand_zero(state, claim.axes, number) for state in parameters[1:]]
        pair.zeros[0] = lambda: {number: np.logical_and.reduce([axis.new, *shifts])}


@register("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def check_layer_normalization(pair: Pair) -> None:
    x = pair.input(0)
    rank = len(x.axes)
    first = pair.axis(pair.same_int_attribute("axis", -1), rank)
    states = [pair.scaled(index) for index in range(1, pair.count()) if pair.has(index)]
    grown = [number for number in range(first, rank) if not x.axes[number].identity]
    centred = pair.node.op_type == "LayerNormalization"
    if grown:
        require(len(grown) == 1, "it normalises over several axes that grew")
        alone = grown == [n for n in range(first, rank) if x.axes[n].size > 1]
        require(alone or not centred or repeated(x, grown[0]), "it normalises over further axes")
        statistics_over_grown(pair, [(x, grown[0])], states, centred=centred, inverse=2 if centred else 1)
    else:
        pair.same_attributes()
        require(all(state.square == 1 for state in states), "a parameter is multiplied")
    for index, claim in pair.claims.items():
        if index == 0:
            _same_axes(x, claim)
            for state in states:
                broadcast_axes(state, claim.axes, "a parameter")
            continue
        require(len(claim.axes) == rank, "the ranks differ")
        for number in range(first):
            agree(x.axes[number], claim.axes[number], f"axis {number}")
        require(all(axis.identity for axis in claim.axes[first:]), "a normalised axis of the output grew")


def _over_axes(pair: Pair, axes: tuple[int, ...]) -> Proved:
    pair.same_attributes()
    x = pair.input(0)
    pair.identity(axes, x, "the input")
    _same_axes(x, pair.claim())
    return x


@register("Softmax", "LogSoftmax", "Hardmax")
def check_softmax(pair: Pair) -> None:
    rank = len(pair.input(0).axes)
    if pair.opset >= 13:
        _over_axes(pair, (pair.axis(pair.same_int_attribute("axis", -1), rank),))
    else:
        # Before opset 13 everything from the axis on is one row.
        _over_axes(pair, tuple(range(pair.axis(pair.same_int_attribute("axis", 1), rank), rank)))


@register("LpNormalization")
def check_lp_normalization(pair: Pair) -> None:
    """Zeros add nothing to a length; copies make all entries shorter alike."""
    x = pair.scaled(0)
    number = pair.axis(pair.same_int_attribute("axis", -1), len(x.axes))
    axis = x.axes[number]
    if axis.identity:
        pair.identity((number,), x, "the input")
    elif repeated(x, number):
        p = pair.same_int_attribute("p", 2)
        pair.squares[0] = Fraction(axis.old_size, axis.size) ** (1 if p == 2 else 2)
    else:
        require(bool(x.zero(number)[axis.new].all()), "it normalises over new entries that are not zero")
    pair.same_attributes()
    _same_axes(x, pair.claim())
    pair.zeros[0] = lambda: carry_zeros(x, ((n, n) for n in range(len(x.axes))))


@register("LRN")
def check_lrn(pair: Pair) -> None:
    require(len(pair.input(0).axes) >= 2, "its input has no channel axis")
    x = _over_axes(pair, (1,))
    pair.zeros[0] = lambda: carry_zeros(x, ((n, n) for n in range(len(x.axes))))


@register("MeanVarianceNormalization")
def check_mean_variance_normalization(pair: Pair) -> None:
    pair.same_attributes()
    given = pair.ints_attribute("axes")[0]
    x = pair.input(0)
    rank = len(x.axes)
    _keeps_statistics(x, (pair.axis(axis, rank) for axis in ((0, 2, 3) if given is None else given)))
    _same_axes(x, pair.claim())
