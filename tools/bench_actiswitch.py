"""Cost of ActiSwitches at inference: a CNN and an MLP without, with, and after fold, as ratios in one run.

    python -m tools.bench_actiswitch [--rounds N] [--sessions N]

All run in ONNX Runtime on the CPU with its optimisations, in turn and each time in another order, so that what else the
machine does slows all of them; the ratio is the median of those of single rounds. Sessions are opened several times,
because where one happens to lie in memory matters, too. ``again`` is the network without ActiSwitches measured once
more: how far it is from 1 is the noise. After fold the ratio should be no more than 1.02.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
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
WARM = 3
"""Rounds that do not count."""


def network(name: str) -> ir.Model:
    """One of ``NETWORKS`` with random weights."""
    text, _, weights = NETWORKS[name]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(0)
    for key, shape in weights.items():
        values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:] if len(shape) > 2 else shape[:1]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), key))
    return ir.from_proto(proto)


def measure(
    models: Sequence[ir.Model], shape: Sequence[int], rounds: int, sessions: int = 1
) -> npt.NDArray[np.float64]:
    """Seconds of single runs, (model, round): in each round every model runs once, in an order that moves on.

    Args:
        models: The models.
        shape: Of their input.
        rounds: How many there are of each session.
        sessions: How often all models are opened anew.
    """
    feeds = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    found = np.empty((len(models), rounds * sessions))
    for turn in range(sessions):
        opened = [open_session(ModelSource.of(save_bytes(m)), "cpu", optimised=True) for m in models]
        for step in range(-WARM, rounds):
            for place in range(len(models)):
                number = (place + step) % len(models)
                started = time.perf_counter()
                opened[number].run(feeds)
                if step >= 0:
                    found[number, turn * rounds + step] = time.perf_counter() - started
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; always 0."""
    parser = argparse.ArgumentParser(prog="bench_actiswitch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=150, help="runs of each model in a session (default 150)")
    parser.add_argument("--sessions", type=int, default=5, help="times that models are opened (default 5)")
    chosen = parser.parse_args(arguments)
    print(f"{'network':8} {'ms':>8} {'again':>7} {'with':>7} {'folded':>7}")
    for name, (_, shape, _weights) in NETWORKS.items():
        plain = network(name)
        switched = AddActiSwitch().grow(plain).model
        folded = Fold().grow(switched).model
        seconds = measure([plain, plain, switched, folded], shape, chosen.rounds, chosen.sessions)
        ratios = np.median(seconds[1:] / seconds[0], axis=1)
        print(f"{name:8} {1000 * np.median(seconds[0]):8.3f} " + " ".join(f"{r:7.3f}" for r in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
