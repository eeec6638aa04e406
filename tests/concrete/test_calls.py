"""Single calls of local functions, expanded: the same network, under names that follow from the call alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxgrow.concrete.calls import calls_in, expanded, node_keys
from onnxgrow.errors import UnsupportedError

TEXT = """
<ir_version: 8, opset_import: ["": 17, "f": 1]>
g (float[n,2] x) => (float[n,2] y, float[n,2] z) {
    p = f.twice(x)
    q = f.twice(p)
    y, z = f.both(q, x)
}
<domain: "f", opset_import: ["": 17]> twice (u) => (v) { s = Add(u, u)  v = Relu(s) }
<domain: "f", opset_import: ["": 17]> both (a, b) => (c, d) { s = Mul(a, b)  c = Neg(s)  d = Add(c, a) }
"""


def model(text: str = TEXT) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def outputs(of: ir.Model) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(of).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([[1, -2], [3, 0.5]], np.float32)})


@pytest.mark.parametrize("calls", [["p"], ["p", "q"], ["y"], ["p", "q", "y"], []])
def test_what_is_computed_stays(calls: list[str]) -> None:
    made = expanded(model(), calls)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    assert set(calls_in(made)) == {"p", "q", "y"} - set(calls)
    for a, b in zip(outputs(model()), outputs(made), strict=True):
        assert np.array_equal(a, b)


def test_names_follow_from_the_call_alone() -> None:
    one, two = expanded(model(), ["q"]), expanded(model(), ["p", "q"])
    assert [n.outputs[0].name for n in one.graph] == ["p", "q:s", "q", "y"]
    assert [n.outputs[0].name for n in two.graph] == ["p:s", "p", "q:s", "q", "y"]
    assert node_keys("q", next(iter(model().functions.values()))) == ["q:s", "q"]


def test_functions_and_imports_that_nobody_needs_any_more_go() -> None:
    assert [f.name for f in expanded(model(), ["p"]).functions.values()] == ["twice", "both"]
    some = expanded(model(), ["p", "q"])
    assert [f.name for f in some.functions.values()] == ["both"]
    assert "f" in some.opset_imports
    every = expanded(model(), ["p", "q", "y"])
    assert not every.functions
    assert "f" not in every.opset_imports


REFUSED = {
    "another opset": (TEXT.replace('opset_import: ["": 17]> twice', 'opset_import: ["": 16]> twice'), "another opset"),
    "a name that is taken": (TEXT.replace("y, z = f.both(q, x)", '"p:s" = Neg(x) y, z = f.both(q, x)'), "is taken"),
    "an attribute": (TEXT.replace("twice (u)", "twice <k> (u)"), "attributes"),
    "an input handed on": (TEXT.replace("s = Add(u, u)  v = Relu(s)", "s = Relu(u)").replace("(v)", "(u)"), "output"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expanded_is_refused(name: str) -> None:
    text, reason = REFUSED[name]
    parsed = model(text)
    with pytest.raises(UnsupportedError, match=reason):
        expanded(parsed, ["p"])
