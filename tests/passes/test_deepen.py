"""Identity layers: exact at every legal place and in every layout, refused with the reason elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support import model_of, run

import onnxgrow
from onnxgrow.analysis.study import study
from onnxgrow.concrete.values import constants
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.passes import AddActiSwitch, AddBlocks, InsertIdentity, Sequential, Widen
from onnxgrow.passes.deepen.places import Illegal, Places
from onnxgrow.verify.report import Verdict

CNN = """g (float[n,3,h,w] x) => (float[n,5] y) {
    c = Conv<pads=[1,1,1,1]>(x, w1)
    r = Relu(c)
    d = Conv<strides=[2,2],pads=[1,1,1,1]>(r, w2)
    s = Sigmoid(d)
    m = Mul(d, s)
    p = GlobalAveragePool(m)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3, b3)
}"""
CNN_WEIGHTS = {"w1": (8, 3, 3, 3), "w2": (6, 8, 3, 3), "w3": (5, 6), "b3": (5,)}


def cnn(**options: object) -> ir.Model:
    return model_of(CNN, CNN_WEIGHTS, **options)


def conv_of(rank: int) -> ir.Model:
    spatial = ",".join("789"[:rank])
    graph = f"g (float[2,3,{spatial}] x) => (float[2,2,{spatial}] y) {{ h = Conv(x, u) a = Relu(h) y = Conv(a, v) }}"
    ones = (1,) * rank
    return model_of(graph, {"u": (4, 3, *ones), "v": (2, 4, *ones)})


def names_of(model: ir.Model) -> list[str]:
    return [n.name for n in model.graph if n.name]


MLP = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u) a = Relu(h) y = MatMul(a, v) }"
SEQUENCE = "g (float[n,t,4] x) => (float[n,t,3] y) { h = MatMul(x, u) a = Tanh(h) y = MatMul(a, v) }"
NHWC = """g (float[n,3,6,6] x) => (float[n,2,6,6] y) {
    h = Conv(x, u)  t = Transpose<perm=[0,2,3,1]>(h)  a = Relu(t)  b = Transpose<perm=[0,3,1,2]>(a)  y = Conv(b, v)
}"""
LINEAR = {"u": (4, 8), "v": (8, 3)}

LAYERS = {
    "gemm": (model_of(MLP, LINEAR), {}, ["Gemm"]),
    "gemm without bias before opset 11": (model_of(MLP, LINEAR, opset=9, ir_version=4), {"bias": False}, ["Gemm"]),
    "sequence": (model_of(SEQUENCE, LINEAR), {}, ["MatMul", "Add"]),
    "sequence without bias": (model_of(SEQUENCE, LINEAR), {"bias": False}, ["MatMul"]),
    "channels last": (model_of(NHWC, {"u": (4, 3, 1, 1), "v": (2, 4, 1, 1)}), {"kernel": 3}, ["MatMul", "Add"]),
    "1x1": (cnn(), {}, ["Conv", "Conv"]),
    "3x3": (cnn(), {"kernel": 3}, ["Conv", "Conv"]),
    "even and asymmetric": (cnn(), {"kernel": (2, 4)}, ["Conv", "Conv"]),
    "depthwise": (cnn(), {"kernel": 5, "depthwise": True}, ["Conv", "Conv"]),
    "without bias": (cnn(), {"bias": False}, ["Conv", "Conv"]),
    "one-dimensional": (conv_of(1), {"kernel": 4}, ["Conv"]),
    "three-dimensional": (conv_of(3), {"kernel": (1, 2, 3)}, ["Conv"]),
    "old opset and IR": (cnn(opset=8, ir_version=3, as_inputs=True), {"kernel": 3}, ["Conv", "Conv"]),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_inserted_and_proved(case: str) -> None:
    model, options, ops = LAYERS[case]
    result = InsertIdentity(actiswitch=False, **options)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    inserted = [n for n in result.model.graph if n.outputs[0].name in result.growth_map.inserted]
    assert [n.op_type for n in inserted if n.op_type != "Constant"] == ops
    assert dict(result.model.opset_imports) == dict(model.opset_imports)
    assert result.report.alive
    assert all(a.unit == "layer" and a.alive == a.channels for a in result.report.alive)


@pytest.mark.parametrize("dtype", ["double", "float16"])
def test_layers_have_the_dtype_of_their_place(dtype: str) -> None:
    kind = {"double": np.float64, "float16": np.float16}[dtype]
    random = np.random.default_rng(0)
    weights = {k: random.normal(size=s).astype(kind) for k, s in LINEAR.items()}
    result = onnxgrow.deepen(model_of(SEQUENCE.replace("float", dtype), weights))
    assert result.report.verdict is Verdict.EQUIVALENT
    stored = constants(result.model)
    assert {np.asarray(stored[name].numpy()).dtype for name in result.growth_map.tensors} == {np.dtype(kind)}


def test_bfloat16_layers_hold_exact_ones() -> None:
    model = model_of(SEQUENCE.replace("float", "bfloat16"))
    weights = {k: ir.Tensor(np.ones(s, ir.DataType.BFLOAT16.numpy()), name=k) for k, s in LINEAR.items()}
    for name, tensor in weights.items():
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(ir.DataType.BFLOAT16), const_value=tensor)
        model.graph.register_initializer(value)
        for node in model.graph:
            for i, v in enumerate(node.inputs):
                if v is not None and v.name == name:
                    node.replace_input_with(i, value)
    from onnxgrow.passes.deepen.builder import Builder
    from onnxgrow.passes.rewriter import Rewriter
    from onnxgrow.verify.contents import content_difference

    build = Builder(Rewriter(model))
    made = build.identity((8, 8), ir.DataType.BFLOAT16, "eye")
    assert content_difference(build.tensors[made], constants(model)[made]) == ""


def test_names_read_well_and_are_unique() -> None:
    model = cnn()
    list(model.graph)[1].name = "layer1.relu"
    result = InsertIdentity(at="r", actiswitch=False)(model)
    assert [n for n in names_of(result.model) if n != "layer1.relu"] == ["layer1.relu.identity/conv"]
    again = InsertIdentity(at="r", actiswitch=False)(result.model)
    assert "layer1.relu.identity/conv_2" in names_of(again.model)
    assert {"layer1.relu.identity.weight", "layer1.relu.identity.weight_2"} <= set(again.model.graph.initializers)


def test_a_place_can_be_a_value_a_node_an_input_or_in_front_of_a_node() -> None:
    result = InsertIdentity(at=["x", "c"], after="op:Flatten", before=["y"], actiswitch=False)(cnn())
    assert [layer["place"] for layer in result.plan["layers"]] == ["x", "c", "f"]
    assert [layer["channels"] for layer in result.plan["layers"]] == [3, 8, 6]


def test_in_front_of_a_node_leaves_other_readers_alone() -> None:
    graph = "g (float[n,4] x) => (float[n,8] y) { h = MatMul(x, u) a = Relu(h) b = MatMul(a, v) y = Add(a, b) }"
    model = model_of(graph, {"u": (4, 8), "v": (8, 8)})
    result = InsertIdentity(before="b", actiswitch=False)(model)
    readers = {n.op_type: [v.name for v in n.inputs if v] for n in result.model.graph}
    assert readers["Add"][0] == "a"
    assert result.growth_map.nodes["b"].inputs == {0: ("a", "b.before.identity/gemm")}
    both = InsertIdentity(at="a", before="b", actiswitch=False)(model)
    assert both.growth_map.nodes["b"].inputs == {0: ("a", "b.before.identity/gemm")}
    assert both.growth_map.nodes["y"].inputs == {0: ("a", "a.identity/gemm")}


def test_every_nth_activation() -> None:
    pairs = " ".join(f"h{i} = MatMul({f'a{i - 1}' if i else 'x'}, w) a{i} = Relu(h{i})" for i in range(6))
    graph = f"g (float[n,4] x) => (float[n,4] y) {{ {pairs} y = MatMul(a5, w) }}"
    result = InsertIdentity(every=2, actiswitch=False)(model_of(graph, {"w": np.eye(4, dtype=np.float32) * 0.5}))
    assert [layer["place"] for layer in result.plan["layers"]] == ["a0", "a2", "a4"]


def test_a_layer_is_equal_in_value_in_onnx_runtime() -> None:
    model = cnn()
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    for kernel in (1, 3):
        grown = InsertIdentity(kernel=kernel, actiswitch=False)(model).model
        assert np.array_equal(run(model, feeds)[0], run(grown, feeds)[0])


ATTENTION = """g (float[n,t,8] x, float[n,t,t] mask) => (float[n,t,8] y) {
    q = MatMul(x, u)  k = MatMul(x, v)  kt = Transpose<perm=[0,2,1]>(k)  s = MatMul(q, kt)
    m = Add(s, mask)  p = Softmax(m)  y = MatMul(p, x)
}"""
INSIDE = """g (float[n,4] x, bool go) => (float[n,4] y) {
    h = MatMul(x, w)  i = Cast<to=7>(h)  j = Cast<to=1>(i)  z = Exp(w)
    c = If(go) <then_branch = a () => (float[n,4] inner) { inner = Relu(h) },
                else_branch = b () => (float[n,4] other) { other = Neg(h) }>
    k = Add(c, j)
    y = Mul(k, z2)
}"""
REFUSED = {
    "an output": (cnn(), {"at": "y"}, "output of the network"),
    "integers": (model_of(INSIDE, {"w": (4, 4), "z2": (4,)}), {"at": "i"}, "INT64"),
    "read by a subgraph": (model_of(INSIDE, {"w": (4, 4), "z2": (4,)}), {"at": "h"}, "a subgraph reads it"),
    "inside a subgraph": (model_of(INSIDE, {"w": (4, 4), "z2": (4,)}), {"at": "inner"}, "inside a subgraph"),
    "constants only": (model_of(INSIDE, {"w": (4, 4), "z2": (4,)}), {"at": "z"}, "from constants alone"),
    "masked scores": (model_of(ATTENTION, {"u": (8, 8), "v": (8, 8)}), {"at": "m"}, "may be infinite"),
    "no channels": (model_of(ATTENTION, {"u": (8, 8), "v": (8, 8)}), {"at": "s"}, "no axis holds the channels"),
    "no depthwise Gemm": (model_of(MLP, LINEAR), {"at": "a", "depthwise": True}, "no depthwise layer"),
    "kernel sizes": (cnn(), {"at": "r", "kernel": (3, 3, 3)}, "2 spatial axes, 3 kernel sizes"),
    "old broadcasting": (model_of(MLP, LINEAR, opset=6, ir_version=3, as_inputs=True), {"at": "a"}, "opset is 6"),
    "nothing hidden": (model_of("g (float[n,4] x) => (float[n,4] y) { y = Abs(x) }"), {}, "no hidden activations"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_legal_is_refused_with_the_reason(case: str) -> None:
    model, options, reason = REFUSED[case]
    with pytest.raises(UnsupportedError) as e:
        InsertIdentity(**options)(model)
    assert reason in str(e.value)


@pytest.mark.parametrize(
    "options",
    [
        {"at": "nothing"},
        {"at": "w1"},
        {"kernel": 0},
        {"every": 0},
        {"every": 2, "at": "r"},
        {"activation": "square"},
        {"start": (0.0, 0.0)},
        {"start": (float("nan"), 1.0)},
    ],
)
def test_requests_that_make_no_sense_are_usage_errors(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        InsertIdentity(**options)(cnn())


@pytest.mark.parametrize(("entry", "legal"), [(-np.inf, False), (-3e38, False), (-1e4, True)])
def test_constants_that_mask_make_a_place_illegal(entry: float, legal: bool) -> None:
    graph = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u) m = Add(h, mask) a = Relu(m) y = MatMul(a, v) }"
    mask = np.array([0, entry, 0, 0], np.float32)
    places = Places(study(model_of(graph, {"u": (4, 4), "v": (4, 3), "mask": mask})))
    if legal:
        assert places.behind("m").channels == 4
    else:
        with pytest.raises(Illegal, match="may be infinite"):
            places.behind("m")


def test_a_gate_is_no_hidden_activation() -> None:
    graph = """g (float[n,4] x) => (float[n,3] y) {
        h = MatMul(x, u)  g = MatMul(x, w)  s = Sigmoid(g)  m = Mul(h, s)  a = Tanh(m)  y = MatMul(a, v)
    }"""
    places = Places(study(model_of(graph, {"u": (4, 8), "w": (4, 8), "v": (8, 3)})))
    assert places.automatic() == ["a"]


def test_a_grown_model_grows_again_through_its_inserted_layers() -> None:
    steps = Sequential(InsertIdentity(kernel=3, per_channel=True), Widen(factor=2), InsertIdentity(every=2))
    result = steps(cnn())
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [h["generation"] for h in result.growth_map.history] == [1, 2]
    sizes = {k: list(v.const_value.shape) for k, v in result.model.graph.initializers.items() if v.const_value}
    assert sizes["r.identity.weight"] == [16, 16, 3, 3]
    assert sizes["r.actiswitch.a"] == [16, 1, 1]


IN_A_BODY = """g (float[n,4] x, bool c) => (float[n,3] y) {
  h = MatMul(x, u)
  t = If(c) <
    then_branch = yes () => (float[n,8] y1) { y1 = Relu(h) },
    else_branch = no () => (float[n,8] y2) { y2 = Tanh(h) }
  >
  a = Sigmoid(t)
  y = MatMul(a, v)
}"""


def test_activations_in_bodies_are_left_out_by_name() -> None:
    model = model_of(IN_A_BODY, LINEAR)
    note = "activations inside bodies of If, Loop or Scan are left out (2): t.then_branch/y1, t.else_branch/y2"
    for step in (InsertIdentity(), AddActiSwitch(), AddBlocks()):
        assert note in step.plan(model).to_json()["notes"]
    assert InsertIdentity(at="a").plan(model).notes == ()
    bare = model_of(IN_A_BODY.replace("a = Sigmoid(t)", "a = Identity(t)"), LINEAR)
    with pytest.raises(UnsupportedError, match=r"no hidden activations; activations inside bodies .* left out \(2\)"):
        AddActiSwitch().plan(bare)


def test_what_a_local_function_makes_is_a_place() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
    g (float[n,4] x) => (float[n,3] y) <float[4,8] u = {0}, float[8,3] v = {0}> {
        h = MatMul(x, u)  s = f.act(h)  y = MatMul(s, v)
    }
    <domain: "f", opset_import: ["": 17]> act (a) => (b) { c = Sigmoid(a)  b = Mul(a, c) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    for name, shape in LINEAR.items():
        value = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(value, name=name)
    for step in (InsertIdentity(), InsertIdentity("s"), AddActiSwitch()):
        result = step(model)
        assert result.report.verdict is Verdict.EQUIVALENT
        assert [layer["place"] for layer in result.plan["layers"]] == ["s"]
        assert [f.name for f in result.model.functions.values()] == ["act"]
        assert result.growth_map.inlined == ()
