"""Names of channel sets: recognisable, unique, the same in every run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest
from support import analysis_of, model_of

from onnxgrow.analysis.naming import unique, weight_label


@pytest.mark.parametrize(
    ("weight", "node", "expected"),
    [
        ("encoder.layer.3.output.dense.weight", "n", "encoder.layer.3.output.dense"),
        ("conv1/kernel:0", "n", "conv1"),
        ("block/conv/kernel", "n", "block/conv"),
        ("fc.weights", "n", "fc"),
        ("model/dense/MatMul/ReadVariableOp:0", "n", "model/dense"),
        ("onnx::MatMul_123", "/encoder/fc/MatMul", "encoder/fc"),
        ("val_7", "node_linear_3", "node_linear_3"),
        ("42", "Conv_0", "out"),
        ("deadbeefdeadbeef01", "", "out"),
        ("weight", "n", "weight"),
    ],
)
def test_a_set_is_called_after_what_the_exporter_called_the_layer(weight: str, node: str, expected: str) -> None:
    made = ir.node("MatMul", [], name=node or None)
    made.outputs[0].name = "out"
    assert weight_label(weight, made) == expected


def test_equal_names_are_numbered_without_taking_another_name() -> None:
    assert unique(["a", "a", "b", "a#2", "a"]) == ["a", "a#3", "b", "a#2", "a#4"]
    assert unique([]) == []


TWINS = (
    "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, w1) p = Relu(h) g = MatMul(p, w2) r = Relu(g)"
    " q, v = Split <axis = 1> (r) a = MatMul(q, w3) b = MatMul(v, w4) y = Add(a, b) }"
)
WEIGHTS = {"w1": (6, 4), "w2": (4, 8), "w3": (4, 3), "w4": (4, 3)}


def test_weights_with_counted_names_are_called_after_their_outputs_and_parts_by_their_place() -> None:
    assert [s.name for s in analysis_of(model_of(TWINS, WEIGHTS)).growable] == ["h", "g[0:4]", "g[4:8]"]


def test_a_part_among_many_is_named_by_its_own_place() -> None:
    """However often an axis was cut, a name is one range, not a chain of them."""
    graph = (
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, w) a, b, c, d = Split <axis = 1> (h)"
        " s = Concat <axis = 1> (d, a, c, b) y = MatMul(s, r) }"
    )
    found = analysis_of(model_of(graph, {"w": (6, 8), "r": (8, 3)}))
    assert [s.name for s in found.growable] == ["w[0:2]", "w[2:4]", "w[4:6]", "w[6:8]"]


def test_names_are_unique_and_do_not_depend_on_the_hash_seed() -> None:
    """Sets and dictionaries must not leak their order into names: a recipe has to mean the same tomorrow."""
    script = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1]);"
        "from support import analysis_of, model_of;"
        "a = analysis_of(model_of(*json.loads(sys.argv[2])));"
        "print(json.dumps([[s.name, [w.root for w in s.writers], [w.root for w in s.readers],"
        " [str(r) for r in s.reasons]] for s in a.sets]))"
    )
    graph = (
        "g (float[N,8] x) => (float[N,3] y) { t = Tanh(x) h = MatMul(x, w) g = MatMul(t, w) p = Mul(h, g)"
        " q, v = Split <axis = 1> (p) j = Concat <axis = 1> (v, q, h) y = MatMul(j, r) }"
    )
    root = Path(__file__).resolve().parents[2]
    arguments = [json.dumps([str(root), str(root / "tests")]), json.dumps([graph, {"w": [8, 8], "r": [16, 3]}])]
    seen = set()
    for seed in ("0", "1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    names = [row[0] for row in json.loads(seen.pop())]
    assert len(names) == len(set(names)) > 2
