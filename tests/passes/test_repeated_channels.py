"""Channels that grow by copies as a part of what is normalised, alone and together, and faults that must be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from repeated_nets import NETS, net
from stream_faults import Faulty, put, stored, with_other_rows, without_factor
from support import analysis_of, model_of

from onnxgrow.axis_map import COPY, AxisMap
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.passes import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict


@pytest.mark.parametrize("name", NETS)
def test_channels_that_are_a_part_of_what_is_normalised_grow(name: str) -> None:
    """All tiers agree, everything learns, whether streams grow one by one or all sets at once."""
    model = net(name)
    streams = [s for s in analysis_of(model).growable if s.residual]
    assert sorted((s.size, tuple(way.mode for way in s.ways)) for s in streams) == sorted(NETS[name].modes)
    steps = [Widen(s.name, factor=2) for s in streams if len(streams) > 1]
    for step in (*steps, Widen(residual=True, factor=2), Widen(residual=True, factor=3)):
        result = step(model)
        assert result.report.verdict is Verdict.EQUIVALENT
        assert all(a.alive for a in result.report.alive)
        assert {s.name for s in streams if not steps or step not in steps} <= {s.name for s in result.growth_map.sets}
        assert GrowthMap.loads(result.growth_map.dumps()) == result.growth_map


def test_whole_groups_and_channels_inside_of_them_grow_at_once() -> None:
    """New groups hold what they like, old ones copies of their own channels."""
    model = net("channels inside of groups")
    first = Widen("wa/inner", factor=2)(model)
    again = Widen("wa/outer", add=1)(first.model)
    assert {first.report.verdict, again.report.verdict} == {Verdict.EQUIVALENT}
    assert again.model.graph.initializers["wa"].const_value.shape == (12, 3, 1, 1)


def test_a_step_that_is_no_whole_multiple_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="use a multiple of 4"):
        Widen(residual=True, add=1).plan(net("one group"))


def test_parts_of_no_common_size_stay_with_the_reason() -> None:
    """3 and 4 channels side by side: copies of one part would weigh more than those of the other."""
    graph = NETS["parts side by side"].graph
    weights = {**NETS["parts side by side"].weights, "wp": (6, 3), "wq": (6, 4), "parts": np.array([3, 4])}
    weights |= {"g1": (7,), "c1": (7,), "wy": (3, 3), "wz": (4, 3)}
    sets = analysis_of(model_of(graph, weights)).sets
    assert not any(s.growable for s in sets)
    reasons = " ".join(str(r) for s in sets for r in s.reasons)
    assert "it takes its statistics over parts that do not grow alike" in reasons


def test_a_table_that_is_read_without_a_norm_in_front_stays_with_the_reason() -> None:
    """Nothing could take the number of copies back."""
    used = NETS["a head that is the table"]
    graph = used.graph.replace("m = LayerNormalization <axis = -1, epsilon = 0.01> (s, g2, c2)", "m = Tanh(s)")
    weights = {k: w for k, w in used.weights.items() if k not in ("g2", "c2")}
    stream = next(s for s in analysis_of(model_of(graph, weights)).sets if s.size == 8)
    assert "takes its factor back" in " ".join(map(str, stream.reasons))


def test_a_table_that_alone_reads_what_it_writes_stays_with_the_reason() -> None:
    """Copies that are read as the old channels are get the same gradient, and zeros that are read by zeros get none."""
    graph = (
        "g (int32[N,4] x) => (float[N,4,7] y) { e = Gather(table, x)"
        " n = RMSNormalization <axis = -1, epsilon = 0.01> (e, g1) k = Transpose(table) y = MatMul(n, k) }"
    )
    model = model_of(graph, {"table": (7, 8), "g1": (8,)}, opset=23, ir_version=11)
    stream = next(s for s in analysis_of(model).sets if s.size == 8)
    assert "copies that everything reads as it reads the old ones" in " ".join(map(str, stream.reasons))


def test_products_of_new_channels_that_are_zero_on_neither_side_stay_with_the_reason() -> None:
    """Copies on both sides would be summed up twice."""
    used = NETS["experts that are looked up"]
    graph = used.graph.replace("s = Add(h, d)", "s0 = Add(h, d) s = Sigmoid(s0)")
    stream = next(s for s in analysis_of(model_of(graph, used.weights, opset=23, ir_version=11)).sets if s.size == 4)
    assert "it sums up products of new channels that are zero on neither side" in " ".join(map(str, stream.reasons))


def test_zeros_of_experts_that_are_looked_up_are_proved_behind_quantisation() -> None:
    """The inner width is summed up in a product of two computed values: columns of the second experts are zero."""
    used = NETS["experts that are looked up"]
    pair = (
        "down0 = GatherND(wd, which) dq = QuantizeLinear(down0, sa, za) down = DequantizeLinear(dq, sa, za)"
        " rt = Transpose <perm = [0, 2, 1]> (r) d0 = MatMul(down, rt) d = Transpose <perm = [0, 2, 1]> (d0)"
    )
    graph = used.graph.replace("down = GatherND(wd, which) d = MatMul(r, down)", pair)
    weights = {**used.weights, "wd": (3, 4, 5), "sa": np.float32(0.02), "za": np.int8(3)}
    model = model_of(graph, weights, opset=23, ir_version=11)
    inner = next(s.name for s in analysis_of(model).growable if s.size == 5)
    grown = Widen(inner, add=2).grow(model)
    assert verify(model, grown.model, grown.growth_map).verdict is Verdict.EQUIVALENT
    values = stored(grown.model, "wd")
    assert not values[:, :, 5:].any()
    values[:, :, 5:] = 1
    put(grown.model, "wd", values)
    report = verify(model, grown.model, grown.growth_map, tiers=("certificate", "float64"))
    assert {t.status for t in report.tiers if t.name in ("certificate", "float64")} == {TierStatus.FAILED}


def claimed(growth_map: GrowthMap, source: Callable[[AxisMap], np.ndarray]) -> GrowthMap:
    """The map with other sources claimed of all copies."""

    def axes(given: dict[int, AxisMap]) -> dict[int, AxisMap]:
        copying = {a: any(s.fact == COPY for s in m.segments) for a, m in given.items()}
        return {a: AxisMap.copying(m.source(), source(m)) if copying[a] else m for a, m in given.items()}

    return replace(
        growth_map,
        tensors={k: replace(t, axes=axes(dict(t.axes))) for k, t in growth_map.tensors.items()},
        values={k: replace(v, axes=axes(dict(v.axes))) for k, v in growth_map.values.items()},
    )


def rewritten(new: ir.Model, growth_map: GrowthMap, source: Callable[[AxisMap], np.ndarray]) -> Faulty:
    """A growth whose copies are honest copies, but of other channels than statistics allow."""
    for name, growth in growth_map.tensors.items():
        for axis, axis_map in growth.axes.items():
            if not any(s.fact == COPY for s in axis_map.segments):
                continue
            values = np.moveaxis(stored(new, name), axis, 0)
            copies = source(axis_map)
            values[copies >= 0] = values[axis_map.positions()[copies[copies >= 0]]]
            put(new, name, np.ascontiguousarray(np.moveaxis(values, 0, axis)))
    return new, claimed(growth_map, source)


def one_channel(axis_map: AxisMap) -> np.ndarray:
    """Every copy is one of the first channel."""
    copies = axis_map.copied()
    return np.where(copies >= 0, 0, -1)


def other_group(axis_map: AxisMap) -> np.ndarray:
    """Copies of the channels in the other half."""
    copies = axis_map.copied()
    return np.where(copies >= 0, (copies + axis_map.old_size // 2) % axis_map.old_size, -1)


def with_old_bound(old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
    """The bound of a length is left as it was."""
    return without_factor(old, new, growth_map, "low")


Fault = Callable[[ir.Model, ir.Model, GrowthMap], Faulty]


def others(original: ir.Model, grown: ir.Model, growth: GrowthMap) -> Faulty:
    return with_other_rows(original, grown, growth, "wa", axis=0)


def uneven(_: ir.Model, grown: ir.Model, growth: GrowthMap) -> Faulty:
    return rewritten(grown, growth, one_channel)


FAULTS: dict[str, tuple[str, Fault]] = {
    "no copies in one group": ("one group", others),
    "uneven copies in one group": ("one group", uneven),
    "no copies behind Reshape": ("one group by Reshape and InstanceNormalization", others),
    "uneven copies behind Reshape": ("one group by Reshape and InstanceNormalization", uneven),
    "no copies inside of groups": ("channels inside of groups", others),
    "copies of another group": ("channels inside of groups", lambda a, b, m: rewritten(b, m, other_group)),
    "copies of another group behind Reshape": (
        "channels inside of groups by Reshape and InstanceNormalization",
        lambda a, b, m: rewritten(b, m, other_group),
    ),
    "no copies under mean and variance": ("mean and variance over channels and positions", others),
    "groups whose weights are no copies": (
        "groups of a convolution on the stream",
        lambda a, b, m: with_other_rows(a, b, m, "wg", axis=0),
    ),
    "groups whose bias is no copy": (
        "groups of a convolution on the stream",
        lambda a, b, m: with_other_rows(a, b, m, "bg", axis=0),
    ),
    "one part that is no copy": ("parts side by side", lambda a, b, m: with_other_rows(a, b, m, "wp")),
    "patches that are no copies": ("patches merged", lambda a, b, m: with_other_rows(a, b, m, "w0")),
    "uneven copies in patches": ("patches merged", uneven),
    "another scale of a quantised copy": (
        "a quantised weight writes",
        lambda a, b, m: with_other_rows(a, b, m, "s0", axis=0),
    ),
    "experts that are no copies": (
        "experts of Einsum write",
        lambda a, b, m: with_other_rows(a, b, m, "down", axis=2),
    ),
    "experts that write other than zeros": (
        "experts that are looked up",
        lambda a, b, m: with_other_rows(a, b, m, "wd", axis=2),
    ),
    "a transposed convolution that holds no means": (
        "a transposed convolution writes",
        lambda a, b, m: with_other_rows(a, b, m, "wt"),
    ),
    "a scale that does not take the copies back": (
        "a head that is the table",
        lambda a, b, m: without_factor(a, b, m, "g2"),
    ),
    "a shift that does not take the copies back": (
        "a head that is the table",
        lambda a, b, m: without_factor(a, b, m, "c2"),
    ),
    "a bound of a length that is not multiplied": ("a length that is kept away from zero", with_old_bound),
    "a table that holds no copies": ("a head that is the table", lambda a, b, m: with_other_rows(a, b, m, "table")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_copies_that_do_not_keep_the_statistics_are_seen_by_the_certificate_and_in_float64(fault: str) -> None:
    name, break_it = FAULTS[fault]
    model = net(name)
    grown = Widen(residual=True, factor=3).grow(model)
    tiers = ("certificate", "float64")
    sound = verify(model, grown.model, grown.growth_map, tiers=tiers)
    assert {t.status for t in sound.tiers if t.name in tiers} == {TierStatus.PASSED}
    broken, growth_map = break_it(model, grown.model, grown.growth_map)
    report = verify(model, broken, growth_map, tiers=tiers)
    assert {t.name: t.status for t in report.tiers if t.name in tiers} == dict.fromkeys(tiers, TierStatus.FAILED)
