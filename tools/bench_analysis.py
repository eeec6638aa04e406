"""Time the analysis of generated networks of growing size: the time per node should not depend on the size.

    python -m tools.bench_analysis [--nodes N]... [--family NAME]... [--grow N] [--limit RATIO] [--profile N]

Four families, all made in memory: ``residual`` (Conv, BatchNormalization, Relu and Add in stages), ``stream`` (the
same on one unbroken residual stream), ``dense`` (dense blocks: every layer concatenates all before it) and
``attention`` (queries, keys and values reshaped into heads by sizes computed from shapes, as exporters write them).
Prints, for each family and size, seconds of CPU time of inferring the shapes (``concretize``) and of finding the
channel sets (``analyse``), and the time per node relative to the smallest size. With ``--grow``, also the seconds of
:meth:`onnxgrow.passes.widen.Widen.carry_out` for one selected set at a tenth of that size and at that size.

Exit code 1 when a time per node is more than ``--limit`` times that of the smallest size.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import math
import pstats
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

from onnxgrow.analysis import Network, analyse
from onnxgrow.analysis.study import Study
from onnxgrow.concrete import concretize, sample_inputs
from onnxgrow.passes.revive import FEW
from onnxgrow.passes.widen import Widen
from onnxgrow.plan import plan_widen

__all__ = ["FAMILIES", "Timing", "build", "main", "measure", "measure_growth"]

SIZES = (1_000, 10_000, 50_000)
LIMIT = 1.5
WIDTH = 8
STAGE = 4
DENSE_LAYERS = 6
REPEATS = 3
"""The smallest size is measured so often, the fastest counts: its first run also pays for warming up."""


@dataclass
class Net:
    """A network in the making.

    Attributes:
        nodes, tensors: What it has so far.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; returns the output's name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Add a weight of random values, small enough for a chain of any length."""
        name = f"w{len(self.tensors)}"
        scale = 0.1 / math.sqrt(math.prod(shape[1:]))
        values = self.rng.normal(0.0, scale, shape).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def positive(self, size: int) -> str:
        """Add a vector of scales or variances."""
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(self.rng.uniform(0.5, 1.0, size).astype(np.float32), name))
        return name

    def integers(self, *values: int) -> str:
        """Add an int64 vector."""
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def conv(self, x: str, out: int, size: int) -> str:
        """A 1×1 convolution from ``size`` to ``out`` channels."""
        return self.op("Conv", x, self.weight(out, size, 1, 1), self.weight(out))

    def norm(self, x: str, size: int) -> str:
        """Batch normalisation of ``size`` channels."""
        scale, shift, mean = self.positive(size), self.weight(size), self.weight(size)
        return self.op("BatchNormalization", x, scale, shift, mean, self.positive(size))

    def branch(self, x: str) -> str:
        """conv-bn-relu-conv-bn, from ``WIDTH`` channels to as many."""
        inner = self.op("Relu", self.norm(self.conv(x, WIDTH + 2, WIDTH), WIDTH + 2))
        return self.norm(self.conv(inner, WIDTH, WIDTH + 2), WIDTH)


def _residual(net: Net, x: str, nodes: int) -> str:
    x = net.conv(x, WIDTH, 3)
    block = 0
    while len(net.nodes) < nodes:
        x = net.op("Relu", net.op("Add", x, net.branch(x)))
        block += 1
        if block % STAGE == 0:
            x = net.op("Relu", net.norm(net.conv(x, WIDTH, WIDTH), WIDTH))
    return net.conv(x, 4, WIDTH)


def _stream(net: Net, x: str, nodes: int) -> str:
    x = net.conv(x, WIDTH, 3)
    while len(net.nodes) < nodes:
        x = net.op("Relu", net.op("Add", x, net.branch(x)))
    return net.conv(x, 4, WIDTH)


def _dense(net: Net, x: str, nodes: int) -> str:
    x = net.conv(x, WIDTH, 3)
    while len(net.nodes) < nodes:
        parts, size = [x], WIDTH
        for _ in range(DENSE_LAYERS):
            joined = parts[0] if len(parts) == 1 else net.op("Concat", *parts, axis=1)
            parts.append(net.op("Relu", net.conv(net.norm(joined, size), 4, size)))
            size += 4
        x = net.op("Relu", net.conv(net.op("Concat", *parts, axis=1), WIDTH, size))
    return net.conv(x, 4, WIDTH)


def _attention(net: Net, x: str, nodes: int) -> str:
    """On (batch, 4, 4, 3): the spatial positions are the tokens."""
    heads, size = 2, 4
    width = heads * size
    zero, rest = net.integers(0), net.integers(-1, heads, size)
    x = net.op(
        "MatMul",
        net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.integers(0, -1, 3)),
        net.weight(3, width),
    )
    flat = net.integers(-1, width)
    while len(net.nodes) < nodes:
        batch = net.op("Gather", net.op("Shape", x), zero)
        split = net.op("Concat", batch, rest, axis=0)
        q, k, v = (net.op("Reshape", net.op("MatMul", x, net.weight(width, width)), split) for _ in range(3))
        q, v = (net.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1])), axis=-1)
        joined = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        merged = net.op("Reshape", joined, net.op("Concat", batch, flat, axis=0))
        x = net.op("Add", x, net.op("MatMul", merged, net.weight(width, width)))
        inner = net.op("Relu", net.op("Add", net.op("MatMul", x, net.weight(width, 3 * size)), net.weight(3 * size)))
        x = net.op("Add", x, net.op("MatMul", inner, net.weight(3 * size, width)))
    return net.op("MatMul", x, net.weight(width, 4))


FAMILIES: dict[str, Callable[[Net, str, int], str]] = {
    "residual": _residual,
    "stream": _stream,
    "dense": _dense,
    "attention": _attention,
}


def build(family: str, nodes: int) -> ir.Model:
    """A network of ``family`` with about ``nodes`` nodes, never less; the same one every time."""
    net = Net()
    last = FAMILIES[family](net, "x", nodes)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 4, 4])
    shape: list[str | int | None] = ["batch", 16, 4] if family == "attention" else ["batch", 4, 4, 4]
    y = helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(net.nodes, family, [x], [y], net.tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(proto)


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one network.

    Attributes:
        stages: Stage → seconds.
    """

    family: str
    nodes: int
    sets: int
    stages: dict[str, float]

    def per_node(self, stage: str) -> float:
        """Seconds a node."""
        return self.stages[stage] / self.nodes


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _study(model: ir.Model) -> tuple[dict[str, float], Study]:
    shapes = {"x": (5, 3, 4, 4)}
    first, here = _seconds(lambda: concretize(model, shapes))
    _, there = _seconds(lambda: concretize(model, {"x": (7, 3, 4, 4)}))
    second, analysis = _seconds(lambda: analyse(Network(model, here, there)))
    feeds = (sample_inputs(model, shapes),)
    return {"concretize": first, "analyse": second}, Study(model, feeds, analysis)


def measure(family: str, nodes: int, repeats: int = 1) -> Timing:
    """Time concretize and analyse; the fastest of ``repeats`` runs each."""
    model = build(family, nodes)
    runs = []
    for _ in range(repeats):
        stages, found = _study(model)
        runs.append(stages)
    fastest = {stage: min(run[stage] for run in runs) for stage in runs[0]}
    return Timing(family, len(found.analysis.network.nodes), len(found.analysis.growable), fastest)


def measure_growth(family: str, nodes: int) -> Timing:
    """Time the planning and growing of the set in the middle of the network.

    The set gets more channels than the search for silent ones looks at, so that no ONNX Runtime session is opened:
    its own loading time is not linear.
    """
    model = build(family, nodes)
    _, found = _study(model)
    middle = found.analysis.growable[len(found.analysis.growable) // 2]
    step = Widen([middle.name], add=FEW + 1)
    planning, plan = _seconds(lambda: plan_widen(found.analysis, step.request))
    growing, _ = _seconds(lambda: step.carry_out(found, plan))
    stages = {"plan": planning, "grow": growing}
    return Timing(family, len(found.analysis.network.nodes), len(found.analysis.growable), stages)


def _print(timings: Iterable[Timing], limit: float) -> bool:
    """Print a table; whether all ratios are within ``limit``."""
    table = Table("family", "nodes", "sets", "stage", "seconds", "µs a node", "x smallest")
    first: dict[tuple[str, str], float] = {}
    good = True
    for timing in timings:
        for stage, seconds in timing.stages.items():
            base = first.setdefault((timing.family, stage), timing.per_node(stage))
            ratio = timing.per_node(stage) / base
            good &= ratio <= limit
            mark = "" if ratio <= limit else " !"
            table.add_row(
                timing.family,
                str(timing.nodes),
                str(timing.sets),
                stage,
                f"{seconds:.3f}",
                f"{1e6 * timing.per_node(stage):.1f}",
                f"{ratio:.2f}{mark}",
            )
    Console(width=120).print(table)
    return good


def _profile(family: str, nodes: int, grow: bool) -> None:
    model = build(family, nodes)
    profile = cProfile.Profile()
    if grow:
        profile.runcall(measure_growth, family, nodes)
    else:
        profile.runcall(_study, model)
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Time the analysis of networks of growing size.")
    parser.add_argument("--nodes", type=int, action="append", help="a size (default: 1000, 10000, 50000)")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="default: all")
    parser.add_argument("--grow", type=int, default=0, metavar="N", help="also widen one set of N nodes")
    parser.add_argument("--limit", type=float, default=LIMIT, help="largest allowed ratio of the times per node")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="profile N nodes instead")
    args = parser.parse_args(argv)
    families = args.family or list(FAMILIES)
    if args.profile:
        for family in families:
            _profile(family, args.profile, bool(args.grow))
        return 0
    sizes = sorted(args.nodes or SIZES)
    timings = [measure(f, n, REPEATS if n == sizes[0] else 1) for f in families for n in sizes]
    if args.grow:
        timings += [measure_growth(f, n) for f in families for n in (args.grow // 10, args.grow)]
    return 0 if _print(timings, args.limit) else 1


if __name__ == "__main__":
    sys.exit(main())
