"""Cost of ActiSwitches at inference: a CNN and an MLP without, with, and after fold, as ratios in one run.

    python -m tools.bench_actiswitch [--repeats N]

All three run in ONNX Runtime on the CPU with its optimisations, in turn, so that what else the machine does slows all
of them; the ratio is that of medians. After fold it should be no more than 1.02.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrow.io import save_bytes
from onnxgrow.passes import AddActiSwitch, Fold
from onnxgrow.verify.sessions import ModelSource, open_session

__all__ = ["NETWORKS", "main", "measure", "network"]

NETWORKS: Mapping[str, tuple[str, tuple[int, ...], Mapping[str, tuple[int, ...]]]] = {
    "CNN": (
        """g (float[8,3,64,64] x) => (float[8,10] y) {
            c1 = Conv<pads=[1,1,1,1]>(x, w1)  r1 = Relu(c1)  c2 = Conv<pads=[1,1,1,1],strides=[2,2]>(r1, w2)
            r2 = Relu(c2)  c3 = Conv<pads=[1,1,1,1],strides=[2,2]>(r2, w3)  r3 = Relu(c3)
            p = GlobalAveragePool(r3)  f = Flatten(p)  y = MatMul(f, w4)
        }""",
        (8, 3, 64, 64),
        {"w1": (32, 3, 3, 3), "w2": (64, 32, 3, 3), "w3": (64, 64, 3, 3), "w4": (64, 10)},
    ),
    "MLP": (
        "g (float[64,256] x) => (float[64,10] y) { h = MatMul(x, w1)  a = Relu(h)  i = MatMul(a, w2)  b = Relu(i)"
        "  y = MatMul(b, w3) }",
        (64, 256),
        {"w1": (256, 1024), "w2": (1024, 1024), "w3": (1024, 10)},
    ),
}
"""Name → graph, shape of its input, shapes of its weights."""


def network(name: str) -> ir.Model:
    """One of ``NETWORKS`` with random weights."""
    text, _, weights = NETWORKS[name]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(0)
    for key, shape in weights.items():
        values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:] if len(shape) > 2 else shape[:1]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), key))
    return ir.from_proto(proto)


def measure(models: Sequence[ir.Model], shape: Sequence[int], repeats: int) -> list[float]:
    """Median seconds of a run of each model, run in turn."""
    sessions = [open_session(ModelSource.of(save_bytes(m)), "cpu", optimised=True) for m in models]
    feeds = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    found: list[list[float]] = [[] for _ in sessions]
    for repeat in range(repeats + 3):
        for session, seconds in zip(sessions, found, strict=True):
            started = time.perf_counter()
            session.run(feeds)
            if repeat >= 3:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; always 0."""
    parser = argparse.ArgumentParser(prog="bench_actiswitch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="runs of each model (default 200)")
    chosen = parser.parse_args(arguments)
    print(f"{'network':8} {'ms':>8} {'with':>7} {'folded':>7}")
    for name, (_, shape, _weights) in NETWORKS.items():
        plain = network(name)
        switched = AddActiSwitch()(plain).model
        folded = Fold()(switched).model
        before, during, after = measure([plain, switched, folded], shape, chosen.repeats)
        print(f"{name:8} {1000 * before:8.3f} {during / before:7.3f} {after / before:7.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
