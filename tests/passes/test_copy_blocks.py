"""Copied residual blocks: found from the graph, proved to contribute nothing, refused with the reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from residual_models import resnet, transformer
from support import differences, model_of

from onnxgrow.analysis.study import study
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.io import model_digest
from onnxgrow.passes import CopyBlocks, Sequential, Widen
from onnxgrow.passes.blocks.residuals import find_residuals, grouped
from onnxgrow.verify.report import Verdict


def layers_of(model: ir.Model) -> list[list[str]]:
    network = study(model).analysis.network
    return [[r.end for r in layer] for layer in grouped(network, find_residuals(network))]


def stored(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy())


def test_attention_and_mlp_are_one_layer_and_each_block_of_a_cnn_is() -> None:
    assert layers_of(transformer(3)) == [["s0", "t0"], ["s1", "t1"], ["s2", "t2"]]
    assert layers_of(resnet(2)) == [["r0"], ["r1"]]


def test_no_block_is_found_where_the_shortcut_is_computed() -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { a = MatMul(x, u)  b = MatMul(x, v)  y = Add(a, b) }"
    assert layers_of(model_of(text, {"u": (4, 4), "v": (4, 4)})) == []
    text = "g (float[n,4] x) => (float[n,4] y) { a = MatMul(x, u)  b = Mul(a, a)  c = Add(a, b)  y = MatMul(c, u) }"
    assert layers_of(model_of(text, {"u": (4, 4)})) == []


@pytest.mark.parametrize("norms", [True, False])
def test_a_transformer_layer_is_copied_behind_itself(norms: bool) -> None:
    model = transformer(norms=norms)
    result = CopyBlocks(0)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    copies = {n for n in result.model.graph.initializers if n.startswith("copy.")}
    assert {"copy.wq0", "copy.wo0", "copy.bo0", "copy.w1_0", "copy.w2_0", "copy.b2_0"} <= copies
    assert copies.isdisjoint({"copy.mask", "copy.scale"})
    assert np.array_equal(stored(result.model, "copy.wq0"), stored(model, "wq0"))
    for name in ("wo0", "bo0", "w2_0", "b2_0"):
        assert not stored(result.model, f"copy.{name}").any()
    ends = [n.outputs[0].name for n in result.model.graph if n.op_type == "Add"]
    assert ends.index("copy.s0") < ends.index("copy.t0") < ends.index("s1")
    assert result.report.alive
    assert all(a.alive for a in result.report.alive)
    assert result.plan["layers"][0]["copied"] == ["s0", "t0"]


def test_a_block_of_a_cnn_is_copied_with_the_relu_behind_it() -> None:
    result = CopyBlocks()(resnet(norm=False))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [n.op_type for n in result.model.graph if n.outputs[0].name in result.growth_map.inserted] == [
        *("Conv", "Relu", "Conv", "Add", "Relu"),
        *("Conv", "Relu", "Conv", "Add", "Relu"),
    ]
    assert result.plan["parameters"]["new"] - result.plan["parameters"]["old"] == 2 * 2 * (4 * 4 * 9 + 4)


def test_a_batch_norm_at_the_end_holds_the_zeros() -> None:
    result = CopyBlocks(1)(resnet(norm=True))
    assert result.report.verdict is Verdict.EQUIVALENT
    zeros = [n for n, t in result.growth_map.tensors.items() if t.formula == "zeros"]
    assert zeros == ["copy.ga1", "copy.be1"]
    assert stored(result.model, "copy.v1").any()
    assert all(a.alive == a.channels for a in result.report.alive)


def test_every_nth_layer_and_names_of_what_is_inside() -> None:
    def copied(step: CopyBlocks) -> list[str]:
        return [layer["place"] for layer in step.plan(transformer(4)).to_json()["layers"]]

    assert copied(CopyBlocks(every=2)) == ["t1", "t3"]
    assert copied(CopyBlocks("qk2")) == ["t2"]
    assert copied(CopyBlocks(["3", "s0"])) == ["t0", "t3"]
    assert copied(CopyBlocks("[st]1")) == ["t1"]


def test_copies_train_alone_and_grow_again() -> None:
    first = CopyBlocks(0)(transformer())
    again = CopyBlocks(0)(first.model)
    assert again.report.verdict is Verdict.EQUIVALENT
    assert "copy_2.wq0" in again.model.graph.initializers
    both = Sequential(CopyBlocks(1), Widen(factor=2))(transformer())
    assert both.report.verdict is Verdict.EQUIVALENT
    moved = first.model.clone()
    for name in ("copy.wo0", "copy.w2_0"):
        shape = stored(moved, name).shape
        moved.graph.initializers[name].const_value = ir.tensor(np.ones(shape, np.float32), name=name)
    assert max(differences(transformer(), moved)) > 1e-3


QUANTISED = "quantised = DequantizeLinear(packed, step)  q0 = MatMul(na0, quantised)"
PACKED = {"packed": np.ones((8, 8), np.int8), "step": np.float32(0.5)}
REFUSED = {
    "post-norm": (transformer(post_norm=True), "it is post-norm: its sum is normalised (na0)"),
    "cache": (transformer(outputs=", float[n,5,8] k0"), "k0, made inside it, is an output of the network"),
    "read outside": (
        transformer(replaced={"s0 = Add(x, f0)": "s0 = Add(x, f0)  e = Mul(s0, z0)"}, outputs=", float[n,5,8] e"),
        "z0, made inside it, is read outside, too",
    ),
    "tied": (transformer(replaced={"wq1": "wq0"}), "its weight wq0 is shared with q1"),
    "activation": (resnet(activation="{y} = Tanh({x})"), "its sum goes through an activation (r0)"),
    "last layer": (
        transformer(replaced={"f0 = Add(o0, bo0)": "fa0 = Add(o0, bo0)  f0 = Tanh(fa0)"}),
        "it ends in Tanh f0, which is no layer that can hold zeros",
    ),
    "quantised": (
        transformer(replaced={"q0 = MatMul(na0, wq0)": QUANTISED}, weights=PACKED),
        "DequantizeLinear quantised in it is quantised",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_copied_is_refused_with_the_reason(case: str) -> None:
    model, reason = REFUSED[case]
    with pytest.raises(UnsupportedError) as refused:
        CopyBlocks("f0")(model)
    assert reason in str(refused.value)


def test_a_refused_layer_does_not_keep_others_from_being_copied() -> None:
    model = transformer(outputs=", float[n,5,8] k0")
    plan = CopyBlocks().plan(model).to_json()
    assert [layer["place"] for layer in plan["layers"]] == ["t1"]
    assert "is an output of the network" in plan["skipped"]["layer 0 (t0)"]


def test_wrong_names_and_networks_without_blocks() -> None:
    with pytest.raises(UsageError, match="2 layers"):
        CopyBlocks(7).plan(transformer())
    with pytest.raises(UsageError, match="no residual block holds"):
        CopyBlocks("nothing").plan(transformer())
    with pytest.raises(UsageError, match="whole number"):
        CopyBlocks(every=0)
    with pytest.raises(UnsupportedError, match="no residual blocks"):
        CopyBlocks().plan(model_of("g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, u) }", {"u": (4, 4)}))


def test_equal_constants_that_an_exporter_merged_are_copied_apart() -> None:
    ones = np.ones(8, np.float32)
    model = transformer(replaced={"ga1": "ga0", "gm1": "ga0", "gm0": "ga0"}, weights={"ga0": ones})
    result = CopyBlocks(1)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert result.growth_map.tensors["copy.ga0"].of == "ga0"


@pytest.mark.parametrize("as_nodes", [False, True])
def test_a_copy_leaves_the_original_as_it_was(as_nodes: bool) -> None:
    """Tensors of Constant nodes are shared between a model and its copy: giving one a name changes both."""
    text = "g (float[n,4] x) => (float[n,4] y) { h = MatMul(x, u)  r = Relu(h)  f = MatMul(r, v)  y = Add(x, f) }"
    text = text.replace("y = Add(x, f)", "s = Add(x, f)  y = MatMul(s, w)")
    model = model_of(text, {"u": (4, 6), "v": (6, 4), "w": (4, 4)}, as_nodes=as_nodes)
    before = model_digest(model)
    result = CopyBlocks(0)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert model_digest(model) == before == result.growth_map.original


def test_layers_on_transposed_data_can_learn_at_every_batch_size() -> None:
    text = """g (float[n,4] x) => (float[n,3] y) {
        t = Transpose<perm=[1,0]>(x)  h = Gemm(u, t)  r = Relu(h)  f = Gemm<transA=1>(r, v)  s = Add(x, f)
        y = MatMul(s, w) }"""
    result = CopyBlocks(0)(model_of(text, {"u": (6, 4), "v": (6, 4), "w": (4, 3)}))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [(a.channels, bool(a.alive)) for a in result.report.alive] == [(6, True)]


def test_a_copy_goes_where_it_is_told() -> None:
    model = transformer(3)
    result = CopyBlocks(0, after=2)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    ends = [n.outputs[0].name for n in result.model.graph if n.op_type == "Add"]
    assert ends.index("t2") < ends.index("copy.s0") < ends.index("copy.t0")
    assert result.growth_map.recipe == {"pass": "copy-blocks", "copy": ["0"], "after": "2"}
    named = CopyBlocks([0, 1], after="t1")(model)
    assert named.report.verdict is Verdict.EQUIVALENT
    assert [layer["place"] for layer in named.plan["layers"]] == ["t1", "t1"]
    ends = [n.outputs[0].name for n in named.model.graph if n.op_type == "Add"]
    assert ends.index("t1") < ends.index("copy.t0") < ends.index("copy_2.t1") < ends.index("s2")


def test_a_copy_that_goes_forward_gets_the_constant_nodes_behind_its_place() -> None:
    text = """g (float[n,4] x) => (float[n,4] y) {
        h = MatMul(x, u)  a = Relu(h)  f = MatMul(a, v)  s = Add(x, f)
        half = Constant<value = float {0.5}>()
        i = MatMul(s, w)  b = Mul(i, half)  c = Relu(b)  g = MatMul(c, z)  t = Add(s, g)  y = MatMul(t, e)
    }"""
    model = model_of(text, {"u": (4, 6), "v": (6, 4), "w": (4, 5), "z": (5, 4), "e": (4, 4)})
    result = CopyBlocks("t", after="s")(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert "copy.half" in result.growth_map.inserted


ELSEWHERE = {
    "another shape": (
        """g (float[n,4] x) => (float[n,6] y) {
            h = MatMul(x, u)  a = Relu(h)  f = MatMul(a, v)  s = Add(x, f)  y = MatMul(s, w) }""",
        {"u": (4, 6), "v": (6, 4), "w": (4, 6)},
        ("s", "a"),
        "values of shape",
    ),
    "a later value": (
        """g (float[n,4] x) => (float[n,4] y) {
            h = MatMul(x, u)  a = Relu(h)  f = MatMul(a, v)  s = Add(x, f)
            k = Tanh(s)  e = Exp(k)  r = Sigmoid(x)  i = Mul(s, r)  b = MatMul(i, w)  t = Add(s, b)  y = Mul(t, e) }""",
        {"u": (4, 6), "v": (6, 4), "w": (4, 4)},
        ("t", "s"),
        "it reads r, which is computed behind s",
    ),
    "a ReLU where values are negative": (None, {}, ("r1", "st"), "may be negative"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_places_that_do_not_fit_are_refused(name: str) -> None:
    text, weights, (copied, after), reason = ELSEWHERE[name]
    model = resnet(norm=False) if text is None else model_of(text, weights)
    with pytest.raises(UnsupportedError, match=reason):
        CopyBlocks(copied, after=after).plan(model)


def test_a_place_that_means_several_values_is_refused() -> None:
    with pytest.raises(UsageError, match="one place"):
        CopyBlocks(0, after="op:Add").plan(transformer(2))
    with pytest.raises(UsageError, match="2 layers"):
        CopyBlocks(0, after=7).plan(transformer(2))


def test_a_mask_made_from_the_sizes_of_the_stream_is_shared() -> None:
    text = """g (float[n,4] x, float[1] p) => (float[n,4] y) {
        z = Shape(x)  m = Expand(p, z)
        h = MatMul(x, u)  k = Mul(h, m)  f = MatMul(k, v)  s = Add(x, f)
        i = MatMul(s, w)  j = Mul(i, m)  g = MatMul(j, q)  t = Add(s, g)  y = MatMul(t, e)
    }"""
    model = model_of(text, dict.fromkeys("uvwqe", (4, 4)))
    result = CopyBlocks(0)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert not {"copy.z", "copy.m"} & set(result.growth_map.inserted)
