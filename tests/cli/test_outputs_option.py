"""``widen --outputs``: an output that grows is a change of the interface, made and verified by name only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Outcome, parsed

Run = Callable[..., Outcome]

HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4] x) => (float[N, 3] y)
<float[4, 8] w0, float[8, 3] w1>
{{
    h = MatMul(x, w0)
    r = Relu(h)
    {tail}
}}
"""


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {v.name: tuple(v.dims) for v in onnx.load(name).graph.initializer}


@pytest.fixture
def net(folder: Path) -> str:
    onnx.save(parsed(HEAD.format(tail="y = MatMul(r, w1)")), "net.onnx")
    return "net.onnx"


def test_an_output_grows_alone_and_the_verdict_says_that_the_interface_changed(net: str, onnxgrow: Run) -> None:
    outcome = onnxgrow("widen", net, "--outputs", "y=+2", "--json")
    said = " ".join(outcome.err.split())
    assert outcome.code == 0, outcome.err
    assert "interface change: output y grows on axis 1 from 3 to 5" in said
    assert "changed: net.grown.onnx: the interface, by request: output y, axis 1, 3 to 5" in said
    evidence = json.loads(outcome.out)["verification"]
    assert (evidence["verdict"], evidence["change"]) == ("changed", None)
    assert {t["status"] for t in evidence["tiers"]} == {"passed"}
    assert shapes("net.grown.onnx") == {"w0": (4, 8), "w1": (8, 5)}


def test_a_verification_has_to_name_the_output_too(net: str, onnxgrow: Run) -> None:
    assert onnxgrow("widen", net, "--outputs", "y=5").code == 0
    plain = onnxgrow("verify", net, "net.grown.onnx")
    assert plain.code == 1
    assert "name it: --outputs y" in " ".join(plain.err.split())
    assert onnxgrow("verify", net, "net.grown.onnx", "--outputs", "other").code == 1
    assert onnxgrow("verify", net, "net.grown.onnx", "--outputs", "y").code == 0


def test_layers_grow_beside_an_output_when_they_are_named(net: str, onnxgrow: Run) -> None:
    assert onnxgrow("widen", net, "--outputs", "y=+1", "--layer", "w0", "--add", "2").code == 0
    assert shapes("net.grown.onnx") == {"w0": (4, 10), "w1": (10, 4)}


def test_what_follows_the_logits_refuses(folder: Path, onnxgrow: Run) -> None:
    onnx.save(parsed(HEAD.format(tail="l = MatMul(r, w1) y = Softmax(l)")), "net.onnx")
    outcome = onnxgrow("widen", "net.onnx", "--outputs", "y=+2")
    assert outcome.code == 4
    assert "normalised over" in outcome.error
    assert not Path("net.grown.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--outputs", "y"), "not of the form"),
        (("--outputs", "y=+0"), "not of the form"),
        (("--outputs", "y=3"), "3 channels already"),
        (("--outputs", "yy=+1"), "did you mean y?"),
        (("--outputs", "y@7=+1"), "2 axes"),
        (("--outputs", "y@w9=+1"), "no channel set"),
        (("--outputs", "y=+1", "--outputs", "y=+2"), "by another request"),
        (("--outputs", "y=+1", "--add", "2"), "name layers"),
        (("--outputs", "y=+1", "--method", "net2wider", "--max-change", "1"), "cannot grow by net2wider"),
        (("--init", "zeros"), "never learn"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(net: str, onnxgrow: Run, arguments: tuple[str, ...], reason: str) -> None:
    outcome = onnxgrow("widen", net, *arguments)
    assert outcome.code == 2, outcome.err
    assert reason in outcome.error
