from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from support import model_of, run

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

import onnxgrow  # noqa: E402 # only where PyTorch is installed
from onnxgrow.errors import UsageError  # noqa: E402
from onnxgrow.growth_map import METADATA_KEY  # noqa: E402
from onnxgrow.io import load, model_digest  # noqa: E402
from onnxgrow.torch import OnnxModule  # noqa: E402
from onnxgrow.torch.leaves import ROLE_KEY  # noqa: E402

torch.set_num_threads(1)

MLP = """g (float[N,4] x) => (float[N,2] y) {
    h = Gemm(x, enc_w1, enc_b1)  r = Relu(h)  y = Gemm(r, head_w2, head_b2) }"""
MLP_WEIGHTS = {"enc_w1": (4, 6), "enc_b1": (6,), "head_w2": (6, 2), "head_b2": (2,)}
MLP_NAMES = [name.replace("_", ".") for name in MLP_WEIGHTS]
CNN = """g (float[N,2,5,5] x) => (float[N,3,5,5] y) {
    c = Conv<pads: ints = [1,1,1,1]>(x, w)  b = BatchNormalization<momentum: float = 0.8>(c, scale, bias, mean, var)
    y = Relu(b) }"""
CNN_WEIGHTS = {"w": (3, 2, 3, 3), "scale": (3,), "bias": (3,), "mean": (3,), "var": (3,)}


def mlp():
    """With dots in the names, as exporters write them and the text form of ONNX does not."""
    proto = ir.to_proto(model_of(MLP, MLP_WEIGHTS))
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("_", ".")
    for node in proto.graph.node:
        node.input[:] = [name.replace("_", ".") for name in node.input]
    return ir.from_proto(proto)


def features(n=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32))


def images(n=3):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, 2, 5, 5)).astype(np.float32))


def step(module, *inputs, rate=0.1):
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    module(*inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def outputs_of(proto, feeds):
    return run(ir.from_proto(proto), feeds)


def trained_names(graph, weights, **options):
    return set(OnnxModule(model_of(graph, weights, **options)).coverage.trained)


# ---- parameters


def test_parameters_and_state_have_the_names_of_the_initializers():
    module = OnnxModule(mlp())
    assert [k for k, _ in module.named_onnx_parameters()] == MLP_NAMES
    assert list(module.state_dict()) == MLP_NAMES


@pytest.mark.parametrize(
    "name", ["train", "a..b", ".x", "forward.weight", "T_destination", "a/b::c", "enc.w1.w", "_leaf"]
)
def test_names_that_pytorch_cannot_use_are_kept_in_a_map(name):
    proto = ir.to_proto(mlp())
    for tensor in proto.graph.initializer:
        tensor.name = name if tensor.name == "head.w2" else tensor.name
    proto.graph.node[2].input[1] = name
    module = OnnxModule(proto)
    assert set(module.onnx_names().values()) == {*MLP_NAMES, name} - {"head.w2"}
    assert set(module.onnx_names()) == set(module.state_dict())
    step(module, features())
    assert np.allclose(
        outputs_of(module.to_onnx(), {"x": features().numpy()})[0], module(features()).detach(), atol=1e-6
    )


def test_it_says_how_many_weights_are_trained_and_why_the_others_are_not():
    graph = """g (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, w)  m = Add(a, mask)  s = Div(m, root)  y = Softmax(s) }"""
    mask = np.array([[0, 0, -np.inf, 0]], np.float32)
    module = OnnxModule(model_of(graph, {"w": (4, 4), "mask": mask, "root": np.float32(2**0.5)}))
    assert str(module.coverage).startswith("1 of 2 float weights trainable\nnot mask: a mask")
    assert module.coverage.numbers == 1
    assert "1 of 2 float weights trainable" in repr(module)


W44 = {"w": (4, 4)}
KINDS = [
    ("bias", "a = MatMul(x, w)  y = Add(a, p)", {"p": (4,)}, True),
    ("scale", "a = MatMul(x, w)  y = Mul(p, a)", {"p": (4,)}, True),
    ("number", "a = MatMul(x, w)  y = Mul(a, p)", {"p": np.float32(1.5)}, False),
    ("marked number", "a = MatMul(x, w)  y = Mul(a, p)", {"p": np.float32(1.5)}, "marked"),
    ("weight behind a transpose", "t = Transpose(p)  a = MatMul(x, w)  y = MatMul(a, t)", {"p": (4, 4)}, True),
    ("weight norm", "n = ReduceL2<axes = [1]>(p)  v = Div(p, n)  y = MatMul(x, v)", {"p": (4, 4)}, True),
    ("clip bound", "a = MatMul(x, w)  y = Clip(a, p)", {"p": np.float32(0.1)}, False),
    ("embedding", "i = ArgMax<axis = 1, keepdims = 0>(x)  y = Gather(p, i)", {"p": (5, 4)}, True),
    ("frequencies", "h = Shape(x)  f = Cast<to = 1>(h)  u = Unsqueeze(f, one)  a = MatMul(u, p)  c = Cos(a) "
     "s = ReduceSum<keepdims = 0>(c)  y = Mul(x, s)", {"p": (1, 4), "one": np.array([1])}, False),
    ("mask of zeros and ones", "a = MatMul(x, w)  y = Mul(a, p)", {"p": np.eye(1, 4, dtype=np.float32)}, False),
    ("bound of an index", "a = MatMul(x, w)  i = ArgMax<axis = 1>(a)  f = Cast<to = 1>(i)  g = Mul(f, p) "
     "h = Min(g, x)  j = Cast<to = 7>(h)  k = Clip(j, lo, hi)  y = GatherElements<axis = 1>(a, k)",
     {"p": (4,), "lo": np.int64(0), "hi": np.int64(3)}, False),
    ("bias of one output", "a = MatMul(x, w)  b = MatMul(a, v)  y = Add(b, p)", {"v": (4, 1), "p": (1,)}, True),
]  # fmt: skip


@pytest.mark.parametrize(("body", "weights", "trained"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
def test_what_counts_as_a_parameter(body, weights, trained):
    weights = {**weights, **({"w": (4, 4)} if "w)" in body else {})}
    model = model_of(f"g (float[N,4] x) => (float[N,M] y) {{ {body} }}", weights)
    if trained == "marked":
        model.graph.initializers["p"].const_value.metadata_props[ROLE_KEY] = "actiswitch"
        assert OnnxModule(model).onnx_roles() == {"p": "actiswitch"}
    assert ("p" in OnnxModule(model).coverage.trained) is bool(trained)


def test_patterns_overrule_the_rules():
    module = OnnxModule(mlp(), frozen=["enc.*"])
    assert set(module.coverage.frozen) == {"enc.w1", "enc.b1"}
    graph = "g (float[N,4] x) => (float[N,4] y) { y = Mul(x, p) }"
    assert OnnxModule(model_of(graph, {"p": np.float32(3)}), trainable=["p"]).coverage.trained == ("p",)


def test_weights_in_constant_nodes_are_trained_and_written_back():
    module = OnnxModule(model_of(MLP, MLP_WEIGHTS, as_nodes=True))
    assert set(module.coverage.trained) == set(MLP_WEIGHTS)
    step(module, features())
    proto = module.to_onnx()
    assert not proto.graph.initializer
    assert np.allclose(outputs_of(proto, {"x": features().numpy()})[0], module(features()).detach(), atol=1e-6)


def test_an_initializer_that_is_also_an_input_is_a_parameter():
    module = OnnxModule(model_of(MLP, MLP_WEIGHTS, as_inputs=True, ir_version=3))
    assert module.input_names == ["x"]
    assert set(module.coverage.trained) == set(MLP_WEIGHTS)


# ---- running


def test_inputs_go_in_order_or_by_name_and_outputs_come_as_the_graph_has_them():
    graph = "g (float[N,4] x, float[N,4] z) => (float[N,4] s, float[N,4] d) { s = Add(x, z)  d = Sub(x, z) }"
    module = OnnxModule(model_of(graph))
    x, z = features(), features(seed=1)
    for given in (module(x, z), module(z=z, x=x), module(x, z=z)):
        assert isinstance(given, tuple)
        assert torch.equal(given[1], x - z)
    for bad in (lambda: module(x), lambda: module(x, z, z), lambda: module(x, z, w=x), lambda: module(x, x=x, z=z)):
        with pytest.raises(UsageError):
            bad()


IF = """g (float[N,4] x, bool c) => (float[N,4] y) {
    y = If (c) <then_branch = t () => (float[N,4] a) { a = MatMul(x, w) },
                else_branch = e () => (float[N,4] b) { b = Add(x, v) }> }"""
LOOP = """g (float[N,4] x, int64 n) => (float[N,4] y, float[K,N,4] all) {
    y, all = Loop (n, , x) <body = b (int64 i, bool c, float[N,4] s) => (bool d, float[N,4] t, float[N,4] u) {
        d = Identity(c)  t = MatMul(s, w)  u = Tanh(t) }> }"""
SCAN = """g (float[N,4] x, float[T,N,4] q) => (float[N,4] y, float[T,N,4] all) {
    y, all = Scan <num_scan_inputs = 1, body = b (float[N,4] s, float[N,4] e) => (float[N,4] t, float[N,4] u) {
        p = MatMul(e, w)  t = Add(s, p)  u = Relu(t) }> (x, q) }"""


@pytest.mark.parametrize(
    ("graph", "weights", "feeds"),
    [
        (IF, {"w": (4, 4), "v": (4,)}, {"c": np.array(True)}),
        (IF, {"w": (4, 4), "v": (4,)}, {"c": np.array(False)}),
        (LOOP, {"w": (4, 4)}, {"n": np.array(3)}),
        (SCAN, {"w": (4, 4)}, {"q": np.ones((3, 5, 4), np.float32)}),
    ],
    ids=["then", "else", "loop", "scan"],
)
def test_control_flow_runs_trains_and_goes_back(graph, weights, feeds):
    model = model_of(graph, weights)
    module = OnnxModule(model)
    assert set(module.coverage.trained) == set(weights)
    feeds = {"x": features().numpy(), **feeds}
    inputs = {k: torch.from_numpy(v) for k, v in feeds.items()}

    def got(m):
        result = m(**inputs)
        return result if isinstance(result, tuple) else (result,)

    for want, have in zip(run(model, feeds), got(module), strict=True):
        assert np.allclose(want, have.detach(), atol=1e-5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    sum(y.square().mean() for y in got(module)).backward()
    optimizer.step()
    after = outputs_of(module.to_onnx(), feeds)
    assert not np.allclose(after[0], run(model, feeds)[0], atol=1e-5)
    for want, have in zip(after, got(module), strict=True):
        assert np.allclose(want, have.detach(), atol=1e-5)


def test_functions_of_the_model_are_run_and_kept():
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]> g (float[N,4] x) => (float[N,4] y) { y = my.lin(x, w) }
        <opset_import: ["": 17], domain: "my"> lin (a, b) => (c) { c = MatMul(a, b) }"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    module = OnnxModule(proto)
    assert module.coverage.trained == ("w",)
    step(module, features())
    back = module.to_onnx()
    assert len(back.functions) == 1
    assert np.allclose(outputs_of(back, {"x": features().numpy()})[0], module(features()).detach(), atol=1e-5)


def test_shape_arithmetic_follows_the_batch_and_does_not_break_a_compiled_graph():
    graph = """g (float[N,4] x) => (float[M,2] y) {
        s = Shape(x)  n = Gather(s, zero)  m = Mul(n, two)  u = Unsqueeze(m, axis)  t = Concat<axis = 0>(u, minus)
        c = Shape(t)  o = ConstantOfShape<value = int64[1] {1}>(c)  e = Equal(t, o)  v = Where(e, o, t)
        z = Reshape(x, v)  y = Mul(z, w) }"""
    weights = {"zero": np.array(0), "two": np.array(2), "axis": np.array([0]), "minus": np.array([-1]), "w": (2,)}
    model = model_of(graph, weights)
    module = OnnxModule(model)
    for n in (2, 5):
        assert np.allclose(run(model, {"x": features(n).numpy()})[0], module(features(n)).detach())
    explained = torch._dynamo.explain(module)(features())
    assert explained.graph_count == 1
    torch._dynamo.reset()


# ---- batch normalisation and Dropout


def native_cnn(module):
    conv, norm = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False), torch.nn.BatchNorm2d(3, momentum=0.2)
    state = module.state_dict()
    conv.load_state_dict({"weight": state["w"]})
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    norm.load_state_dict({k: state[v] for k, v in names.items()}, strict=False)
    return torch.nn.Sequential(conv, norm, torch.nn.ReLU())


def test_running_statistics_move_in_training_as_in_pytorch_and_are_written_back():
    module = OnnxModule(model_of(CNN, CNN_WEIGHTS))
    native = native_cnn(module)
    module.train(), native.train()
    assert torch.allclose(module(images()), native(images()), atol=1e-6)
    assert torch.allclose(module.state_dict()["mean"], native[1].running_mean, atol=1e-6)
    assert torch.allclose(module.state_dict()["var"], native[1].running_var, atol=1e-6)
    module.eval(), native.eval()
    assert torch.allclose(module(images()), native(images()), atol=1e-6)
    assert np.allclose(outputs_of(module.to_onnx(), {"x": images().numpy()})[0], module(images()).detach(), atol=1e-5)


def test_frozen_statistics_stay_and_are_used_in_training_too():
    module = OnnxModule(model_of(CNN, CNN_WEIGHTS), freeze_bn=True)
    expected = module(images())
    before = module.state_dict()["mean"].clone()
    module.train()
    assert torch.equal(module(images()), expected)
    assert torch.equal(module.state_dict()["mean"], before)
    module.freeze_bn = False
    assert not torch.allclose(module(images()), expected)


STANDARDISED = """g (float[N,2,5,5] x) => (float[N,3,3,3] y) {
    v = Reshape(w, wide)  m = ReduceMean<axes = [0,2], keepdims = 0>(v)
    e = ReduceMean<axes = [0,2]>(v)  d = Sub(v, e)  q = Mul(d, d)  s = ReduceMean<axes = [0,2], keepdims = 0>(q)
    n = BatchNormalization(v, scale, bias, m, s)  f = Reshape(n, narrow)  y = Conv(x, f) }"""
STANDARDISED_WEIGHTS = {
    "w": (3, 2, 3, 3), "scale": np.array([1.5, 0.5, -1], np.float32), "bias": np.zeros(3, np.float32),
    "wide": np.array([1, 3, 18]), "narrow": np.array([3, 2, 3, 3]),
}  # fmt: skip


def test_statistics_that_are_computed_are_used_as_they_are_and_pass_gradients():
    model = model_of(STANDARDISED, STANDARDISED_WEIGHTS)
    module = OnnxModule(model).double()
    x = images().double()
    expected = module(x)
    module.train()
    assert torch.equal(module(x), expected)
    weight = dict(module.named_onnx_parameters())["w"]
    module(x).square().sum().backward()
    shift = torch.zeros_like(weight)
    shift[1, 0, 1, 2] = 1e-6
    with torch.no_grad():
        ends = []
        for sign in (1, -2):
            weight += sign * shift
            ends.append(module(x).square().sum())
    slope = (ends[0] - ends[1]) / 2e-6
    assert torch.allclose(weight.grad[1, 0, 1, 2], slope, rtol=1e-4)


def test_statistics_made_of_constants_do_not_move():
    graph = CNN.replace("b = Batch", "mm = Reshape(mean, three)  b = Batch").replace("bias, mean", "bias, mm")
    module = OnnxModule(model_of(graph, {**CNN_WEIGHTS, "three": np.array([3])}))
    expected = module(images())
    module.train()
    assert torch.equal(module(images()), expected)
    module.eval()
    assert torch.equal(module(images()), expected)


def test_dropout_drops_in_training_only():
    graph = "g (float[N,4] x) => (float[N,4] y) { y = Dropout(x, half) }"
    module = OnnxModule(model_of(graph, {"half": np.float32(0.5)}))
    x = torch.ones(200, 4)
    assert torch.equal(module(x), x)
    module.train()
    dropped = (module(x) == 0).float().mean()
    assert 0.4 < dropped < 0.6
    assert set(module(x).unique().tolist()) == {0.0, 2.0}


MERGED = """g (float[N,2,5,5] x) => (float[N,2,5,5] y) {
    c1 = Conv<pads: ints = [1,1,1,1]>(x, w1)  b1 = BatchNormalization(c1, ones, zeros, zeros, ones)
    c2 = Conv<pads: ints = [1,1,1,1]>(b1, w2)
    copy = Identity(ones)  b2 = BatchNormalization(c2, copy, zeros, zeros, ones)  y = Relu(b2) }"""


def test_equal_initializers_that_an_exporter_merged_are_taken_apart_and_written_as_such():
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    weights = {"w1": (2, 2, 3, 3), "w2": (2, 2, 3, 3), "ones": ones, "zeros": zeros}
    model = model_of(MERGED, weights)
    module = OnnxModule(model)
    assert sum(1 for _ in module.named_onnx_parameters()) == 6
    assert "copy" in module.coverage.trained
    untouched = module.to_onnx()
    assert [i.name for i in untouched.graph.initializer] == list(weights)
    module.train()
    step(module, images())
    module.eval()
    proto = module.to_onnx()
    assert len(proto.graph.initializer) > len(weights)
    assert set(OnnxModule(proto).state_dict()) == set(module.state_dict())
    assert np.allclose(outputs_of(proto, {"x": images().numpy()})[0], module(images()).detach(), atol=1e-5)


def test_a_tensor_that_its_author_shares_stays_one_parameter():
    graph = "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w)  r = Relu(a)  t = Transpose(w)  y = MatMul(r, t) }"
    module = OnnxModule(model_of(graph, W44))
    assert module.coverage.trained == ("w",)


# ---- back to the file


def test_only_trained_numbers_change_in_the_file(tmp_path):
    model = mlp()
    model.metadata_props["note"] = "keep me"
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnxgrow.save(model, source)
    module = OnnxModule(source)
    assert model_digest(load(module.to_onnx())) == model_digest(load(source))
    step(module, features())
    assert module.to_onnx(target) == target
    before, after = onnx.load(source), onnx.load(target)
    assert [i.name for i in after.graph.initializer] == [i.name for i in before.graph.initializer]
    assert [i.raw_data for i in after.graph.initializer] != [i.raw_data for i in before.graph.initializer]
    for proto in (before, after):
        for tensor in proto.graph.initializer:
            tensor.raw_data = b""
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)
    with pytest.raises(UsageError, match="exists"):
        module.to_onnx(target)


def test_types_of_the_file_survive_moves_of_the_module():
    module = OnnxModule(mlp()).double()
    assert module(features().double()).dtype == torch.float64
    assert {i.data_type for i in module.to_onnx().graph.initializer} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE])
def test_weights_of_other_types_are_kept_bit_for_bit(dtype):
    array = np.array([[0.1, -2.5], [3e-5, 7.0]]).astype(dtype.numpy())
    model = model_of(
        "g (float[N,2] x) => (float[N,2] y) { c = CastLike(x, w)  y = MatMul(c, w) }", {"w": (2, 2)}, opset=19
    )
    model.graph.initializers["w"].const_value = ir.Tensor(array, dtype=dtype, name="w")
    module = OnnxModule(model)
    assert {p.dtype for p in module.parameters()} == {OnnxModule(model)._source.program.file_dtype}
    back = load(module.to_onnx()).model.graph.initializers["w"].const_value
    assert back.dtype == dtype
    assert back.tobytes() == array.tobytes()


def test_the_growth_map_of_a_grown_model_stays():
    result = onnxgrow.widen(mlp(), factor=2, provider="cpu")
    module = OnnxModule(result.model)
    assert module.growth_map is not None
    assert torch.allclose(module(features()), OnnxModule(mlp())(features()), atol=1e-5)
    step(module, features())
    props = {p.key: p.value for p in module.to_onnx().metadata_props}
    assert props[METADATA_KEY] == result.model.metadata_props[METADATA_KEY]


# ---- what PyTorch does with modules


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same_and_share_no_parameter(copied):
    module = OnnxModule(model_of(CNN, CNN_WEIGHTS))
    other = copied(module)
    expected = module(images())
    assert torch.equal(other(images()), expected)
    other.train()
    step(other, images())
    assert torch.equal(module(images()), expected)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.eval()(images()), expected)
    assert other.to_onnx().SerializeToString() == module.to_onnx().SerializeToString()


def test_half_precision_and_autocast_run_and_train():
    module = OnnxModule(model_of(CNN, CNN_WEIGHTS))
    expected = module(images())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(images())
    assert (mixed.float() - expected).abs().max() < 0.05 * expected.abs().max()
    half = copy.deepcopy(module).bfloat16()
    out = half.train()(images().bfloat16())
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(p.grad is not None for p in half.parameters())


def test_a_cast_to_the_type_of_the_weights_follows_the_module():
    graph = "g (float[N,4] x) => (float[N,4] y) { i = Greater(x, zero)  f = Cast<to = 1>(i)  y = MatMul(f, w) }"
    module = OnnxModule(model_of(graph, {**W44, "zero": np.float32(0)})).bfloat16()
    assert module(features().bfloat16()).dtype == torch.bfloat16


def test_gradient_checkpointing_gives_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    module = OnnxModule(mlp())
    module(features()).square().sum().backward()
    plain = {k: p.grad.clone() for k, p in module.named_parameters()}
    module.zero_grad()
    checkpoint(module, features(), use_reentrant=False).square().sum().backward()
    assert all(torch.equal(plain[k], p.grad) for k, p in module.named_parameters())


def test_the_core_does_not_import_torch_and_the_extra_says_when_it_is_missing():
    code = """
import sys
sys.modules["torch"] = None
import onnxgrow, onnxgrow.api, onnxgrow.passes
from onnxgrow.errors import EnvironmentFault
try:
    import onnxgrow.torch
except EnvironmentFault as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ENVIRONMENT: torch: PyTorch is not installed" in done.stdout
