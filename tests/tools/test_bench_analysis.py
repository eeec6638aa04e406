"""Analysis and growth take time in proportion to the network; counted in calls, which no other process disturbs."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import onnx
import onnx_ir as ir
import pytest

from onnxgrow.analysis import Analysis, Network, analyse
from onnxgrow.analysis.study import Study
from onnxgrow.concrete import Concrete, concretize, sample_inputs
from onnxgrow.passes.revive import FEW
from onnxgrow.passes.widen import Widen
from onnxgrow.plan import plan_widen
from tools import bench_analysis
from tools.bench_analysis import FAMILIES, Timing, build

SIZES = (150, 600)
LIMIT = 1.1
T = TypeVar("T")


def calls(work: Callable[[], T]) -> tuple[int, T]:
    """Function calls made by ``work``, those of C functions included."""
    profile = cProfile.Profile()
    result = profile.runcall(work)
    return pstats.Stats(profile).total_calls, result  # type: ignore[attr-defined]  # set by Stats.__init__


@cache
def per_node(family: str, nodes: int) -> dict[str, float]:
    """Stage → calls per node."""
    model = build(family, nodes)
    shapes = {"x": (5, 3, 4, 4)}
    there = concretize(model, {"x": (7, 3, 4, 4)})
    counts: dict[str, int] = {}
    here: Concrete
    counts["concretize"], here = calls(lambda: concretize(model, shapes))
    analysis: Analysis
    counts["analyse"], analysis = calls(lambda: analyse(Network(model, here, there)))
    step = Widen([analysis.growable[len(analysis.growable) // 2].name], add=FEW + 1)
    study = Study(model, (sample_inputs(model, shapes),), analysis)
    counts["plan"], plan = calls(lambda: plan_widen(analysis, step.request))
    counts["grow"], _ = calls(lambda: step.carry_out(study, plan))
    return {stage: count / len(analysis.network.nodes) for stage, count in counts.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["concretize", "analyse", "plan", "grow"])
def test_calls_per_node_do_not_grow_with_the_network(family: str, stage: str) -> None:
    small, large = (per_node(family, nodes)[stage] for nodes in SIZES)
    assert large <= LIMIT * small


def test_a_stage_that_walks_all_nodes_for_every_node_is_found() -> None:
    def quadratic(model: ir.Model) -> int:
        nodes = list(model.graph)
        return sum(len(other.inputs) for _ in nodes for other in nodes)

    small, large = (calls(lambda n=n: quadratic(build("stream", n)))[0] / n for n in SIZES)
    assert large > LIMIT * small


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generated_network_is_valid_and_mostly_growable(family: str) -> None:
    model = build(family, 60)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    shapes = concretize(model, {"x": (5, 3, 4, 4)})
    assert not shapes.missing
    found = analyse(Network(model, shapes, concretize(model, {"x": (7, 3, 4, 4)})))
    assert len(found.growable) > len(found.sets) // 2
    assert ir.to_proto(build(family, 60)) == ir.to_proto(model)


def test_the_exit_code_follows_the_largest_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(family: str, nodes: int, repeats: int = 1) -> Timing:
        return Timing(family, nodes, 1, {"analyse": 1e-4 * nodes * (1.4 if nodes > 50 else 1.0)})

    monkeypatch.setattr(bench_analysis, "measure", measured)
    sizes = ["--nodes", "50", "--nodes", "500", "--family", "stream"]
    assert bench_analysis.main(sizes) == 0
    assert bench_analysis.main([*sizes, "--limit", "1.3"]) == 1


def test_measuring_gives_the_seconds_of_every_stage() -> None:
    timing = bench_analysis.measure("residual", 40)
    assert timing.nodes >= 40
    assert all(timing.per_node(stage) > 0 for stage in ("concretize", "analyse"))
    assert set(bench_analysis.measure_growth("residual", 40).stages) == {"plan", "grow"}
