from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

import onnxgrow  # noqa: E402 # only where PyTorch is installed
from onnxgrow.axis_map import AxisMap, Segment  # noqa: E402
from onnxgrow.errors import BadInputError, UnsupportedError, UsageError  # noqa: E402
from onnxgrow.growth_map import GrowthMap, TensorGrowth  # noqa: E402
from onnxgrow.torch import (  # noqa: E402
    EntryRates,
    OnnxModule,
    grow_average,
    grow_optimizer,
    new_entries,
    param_groups,
)
from onnxgrow.torch.leaves import ROLE_KEY  # noqa: E402

torch.set_num_threads(1)

MLP = "g (float[N,4] x) => (float[N,2] y) { h = Gemm(x, w1, b1)  r = Tanh(h)  y = Gemm(r, w2, b2) }"
WEIGHTS = {"w1": (4, 6), "b1": (6,), "w2": (6, 2), "b2": (2,)}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
}


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))


def train(module, optimizer, steps=3, start=0):
    for i in range(steps):
        optimizer.zero_grad()
        (module(batch(start + i)) - 1).square().mean().backward()
        optimizer.step()


@pytest.fixture(scope="module")
def grown():
    """(module of the original, module grown from 6 to 9 hidden units)."""
    model = model_of(MLP, WEIGHTS)
    result = onnxgrow.widen(model, add=3, provider="cpu")
    return OnnxModule(model), OnnxModule(result.model)


def named(module):
    return [{"params": list(module.parameters()), "param_names": [k for k, _ in module.named_parameters()]}]


# ---- masks and groups


def test_masks_show_exactly_the_new_entries(grown):
    old, new = grown
    masks = new_entries(new)
    assert {k: list(m.shape) for k, m in masks.items()} == {"w1": [4, 9], "b1": [9], "w2": [9, 2]}
    before, after = dict(old.named_onnx_parameters()), dict(new.named_onnx_parameters())
    for name, mask in masks.items():
        assert torch.equal(after[name][~mask].sort().values, before[name].reshape(-1).sort().values)


def test_masks_need_a_growth_map_that_fits(grown):
    old, new = grown
    with pytest.raises(UsageError, match="does not carry one"):
        new_entries(old)
    with pytest.raises(BadInputError, match="does not fit"):
        new_entries(old, new.growth_map)


def test_groups_have_every_parameter_once_and_spare_vectors_and_actiswitches_the_decay():
    graph = "g (float[N,4] x) => (float[N,2] y) { h = Gemm(x, w1, b1)  s = Mul(a, h)  y = Gemm(s, w2, b2) }"
    model = model_of(graph, {**WEIGHTS, "a": np.float32(1)})
    model.graph.initializers["a"].const_value.metadata_props[ROLE_KEY] = "actiswitch"
    module = OnnxModule(model)
    groups = {g["name"]: g for g in param_groups(module, lr=0.1, weight_decay=0.2)}
    assert {k: set(g["param_names"]) for k, g in groups.items()} == {
        "old": {"w1", "w2"},
        "no-decay": {"b1", "b2"},
        "actiswitch": {"a"},
    }
    assert {k: (g["lr"], g["weight_decay"]) for k, g in groups.items()} == {
        "old": (0.1, 0.2),
        "no-decay": (0.1, 0.0),
        "actiswitch": (1.0, 0.0),
    }
    optimizer = torch.optim.AdamW(list(groups.values()))
    assert [g["param_names"] for g in optimizer.state_dict()["param_groups"]]


def test_tensors_of_inserted_nodes_are_a_group_of_their_own():
    graph = "g (float[N,4] x) => (float[N,2] y) { h = Gemm(x, w1, b1)  i = MatMul(h, eye)  y = Gemm(i, w2, b2) }"
    module = OnnxModule(model_of(graph, {**WEIGHTS, "eye": np.eye(6, dtype=np.float32)}))
    groups = {g["name"]: g for g in param_groups(module, GrowthMap(inserted=("i",)), lr=0.1, new_rate=0.5)}
    assert groups["new"]["param_names"] == ["eye"]
    assert groups["new"]["lr"] == 0.05


def test_biases_of_recurrent_layers_get_no_decay():
    graph = "g (float[3,N,4] x) => (float[3,1,N,5] y) { y = LSTM<hidden_size: int = 5>(x, w, r, b) }"
    module = OnnxModule(model_of(graph, {"w": (1, 20, 4), "r": (1, 20, 5), "b": (1, 40)}))
    groups = {g["name"]: set(g["param_names"]) for g in param_groups(module, lr=0.1)}
    assert groups == {"old": {"w", "r"}, "no-decay": {"b"}}


# ---- rates of entries


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_frozen_entries_stay_bit_for_bit_and_the_others_move(grown, make):
    for frozen in ("old", "new"):
        module = copy.deepcopy(grown[1])
        before = {k: p.detach().clone() for k, p in module.named_onnx_parameters()}
        optimizer = make(module.parameters())
        with EntryRates(optimizer, module, **{frozen: 0.0}):
            train(module, optimizer)
        for name, mask in new_entries(module).items():
            still = mask if frozen == "new" else ~mask
            after = dict(module.named_onnx_parameters())[name]
            assert torch.equal(after[still], before[name][still])
            assert not torch.equal(after[~still], before[name][~still])
        train(module, optimizer, 1)
        still = new_entries(module)["w2"] ^ (frozen == "old")
        assert not torch.equal(dict(module.named_onnx_parameters())["w2"][still], before["w2"][still])


def test_warm_up_raises_the_rate_of_new_entries_linearly(grown):
    def moved(**options):
        module = copy.deepcopy(grown[1])
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        before = dict(module.named_onnx_parameters())["w2"].detach().clone()
        with EntryRates(optimizer, module, **options):
            train(module, optimizer, 1)
        return dict(module.named_onnx_parameters())["w2"].detach() - before

    mask = new_entries(grown[1])["w2"]
    full, warm = moved(), moved(warm_up=4)
    assert torch.allclose(warm[mask], full[mask] / 4, atol=1e-7)
    assert torch.equal(warm[~mask], full[~mask])


def test_new_entries_with_steps_of_their_own_move_as_under_a_fresh_adam(grown):
    old, new = grown
    source = copy.deepcopy(old)
    first = torch.optim.Adam(named(source), lr=1e-3)
    train(source, first, 40)
    mask = new_entries(new)["w2"]

    def moved(kept: bool, adam_steps: bool):
        module = copy.deepcopy(new)
        optimizer = torch.optim.Adam(named(module), lr=1e-3, eps=1e-12)
        if kept:
            optimizer.load_state_dict(grow_optimizer(first.state_dict(), module.growth_map, optimizer))
            optimizer.param_groups[0]["eps"] = 1e-12
        before = dict(module.named_onnx_parameters())["w2"].detach().clone()
        with EntryRates(optimizer, module, adam_steps=adam_steps):
            train(module, optimizer, 1)
        return (dict(module.named_onnx_parameters())["w2"].detach() - before)[mask]

    fresh = moved(kept=False, adam_steps=False)
    assert torch.allclose(moved(kept=True, adam_steps=True), fresh, rtol=1e-3)
    assert not torch.allclose(moved(kept=True, adam_steps=False), fresh, rtol=1e-2)
    with pytest.raises(UsageError, match="no bias correction"):
        EntryRates(torch.optim.SGD(new.parameters()), new, adam_steps=True)


# ---- optimizer state


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_old_entries_train_on_as_they_would_have_without_the_growth(grown, make):
    """New columns that nothing reads yet change no old gradient, so one more step must be the same step."""
    old, new = copy.deepcopy(grown[0]), copy.deepcopy(grown[1])
    source = make(named(old))
    train(old, source, 5)
    state = {k: v.detach().clone() for k, v in old.named_onnx_parameters()}
    masks = new_entries(new)
    with torch.no_grad():
        for name, parameter in new.named_onnx_parameters():
            mask = masks.get(name, torch.zeros(parameter.shape, dtype=torch.bool))
            parameter[~mask] = state[name].reshape(-1)
    target = make(named(new))
    target.load_state_dict(grow_optimizer(source.state_dict(), new.growth_map, target))
    train(old, source, 1, start=5), train(new, target, 1, start=5)
    for name, parameter in new.named_onnx_parameters():
        mask = masks.get(name, torch.zeros(parameter.shape, dtype=torch.bool))
        expected = dict(old.named_onnx_parameters())[name].reshape(-1)
        assert torch.allclose(parameter[~mask], expected, atol=1e-6), name
        fresh = make(named(grown[1]))
        assert not fresh.state_dict()["state"]


def state_of(value, **parts):
    parameter = torch.nn.Parameter(value)
    optimizer = torch.optim.Adam([{"params": [parameter], "param_names": ["w"]}], lr=0.1)
    parameter.grad = torch.arange(1.0, 1 + value.numel()).reshape(value.shape)
    optimizer.step()
    return optimizer.state_dict()


def into(shape, lr=0.1, **options):
    return torch.optim.Adam([{"params": [torch.nn.Parameter(torch.zeros(shape))], "param_names": ["w"]}], lr=lr)


def test_moments_follow_places_factors_and_copies():
    axis = AxisMap((Segment(1, 1), Segment(1, fact="any"), Segment(1, 0), Segment(1, fact="copy", source=1)))
    growth = GrowthMap(tensors={"w": TensorGrowth(axes={0: axis}, factor=2.0)})
    state = state_of(torch.zeros(2, 3))
    grown = grow_optimizer(state, growth, into((4, 3)))["state"][0]
    m, v = state["state"][0]["exp_avg"], state["state"][0]["exp_avg_sq"]
    assert torch.allclose(grown["exp_avg"], torch.stack([m[1], 0 * m[0], m[0], m[1]]) / 2)
    assert torch.allclose(grown["exp_avg_sq"], torch.stack([v[1], 0 * v[0], v[0], v[1]]) / 4)
    assert grown["step"] == 1


def test_a_state_is_matched_by_name_and_refused_without_names():
    state = state_of(torch.zeros(2, 3))
    del state["param_groups"][0]["param_names"]
    with pytest.raises(UsageError, match="which parameter is which"):
        grow_optimizer(state, GrowthMap(), into((2, 3)))
    assert grow_optimizer(state, GrowthMap(), into((2, 3)), param_names=["w"])["state"]
    assert not grow_optimizer(state, GrowthMap(), into((2, 3)), param_names=["other"])["state"]
    renamed = GrowthMap(tensors={"w": TensorGrowth(of="other")})
    assert grow_optimizer(state, renamed, into((2, 3)), param_names=["other"])["state"]


def test_shapes_that_do_not_fit_and_unknown_parts_are_refused():
    axis = AxisMap((Segment(3, 0), Segment(1, fact="any")))
    growth = GrowthMap(tensors={"w": TensorGrowth(axes={0: axis})})
    with pytest.raises(BadInputError, match="does not fit"):
        grow_optimizer(state_of(torch.zeros(2, 3)), growth, into((4, 3)))
    with pytest.raises(BadInputError, match="the parameter has"):
        grow_optimizer(state_of(torch.zeros(3, 3)), growth, into((5, 3)))
    state = state_of(torch.zeros(2, 3))
    state["state"][0]["mystery"] = torch.zeros(2, 3)
    with pytest.raises(UnsupportedError, match="mystery"):
        grow_optimizer(state, GrowthMap(), into((2, 3)))


def test_a_larger_rate_with_kept_steps_is_warned_of_with_figures():
    state = state_of(torch.zeros(2, 3))
    with pytest.warns(UserWarning, match=r"3\.0 times the old one.*3\.2 times"):
        grow_optimizer(state, GrowthMap(), into((2, 3), lr=0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grow_optimizer(state, GrowthMap(), into((2, 3)))
        assert grow_optimizer(state, GrowthMap(), into((2, 3), lr=0.3), policy="fresh")["state"] == {}


def test_averaged_weights_take_their_new_entries_from_the_grown_model(grown):
    old, new = grown
    average = {k: v.detach() + 1 for k, v in old.named_onnx_parameters()}
    current = {k: v.detach() for k, v in new.named_onnx_parameters()}
    made = grow_average(average, new.growth_map, current)
    for name, mask in new_entries(new).items():
        assert torch.equal(made[name][mask], current[name][mask])
        assert torch.allclose(made[name][~mask], current[name][~mask] + 1)
    doubled = replace(new.growth_map, tensors={"b2": TensorGrowth(factor=2.0)})
    assert torch.equal(grow_average({"b2": average["b2"]}, doubled, {"b2": current["b2"]})["b2"], 2 * average["b2"])


def test_roles_survive_a_save(tmp_path):
    model = model_of(MLP, WEIGHTS)
    model.graph.initializers["b1"].const_value.metadata_props[ROLE_KEY] = "actiswitch"
    onnxgrow.save(model, tmp_path / "m.onnx")
    assert OnnxModule(tmp_path / "m.onnx").onnx_roles() == {"b1": "actiswitch"}
    assert isinstance(ir.from_proto(OnnxModule(tmp_path / "m.onnx").to_onnx()), ir.Model)


@pytest.mark.parametrize("as_function", [False, True])
def test_factors_of_switches_train_and_come_home(as_function: bool) -> None:
    """Those that are local functions, too: their factors are parameters of the main graph."""
    grown = onnxgrow.deepen(model_of(MLP, WEIGHTS), as_function=as_function).model
    module = OnnxModule(grown)
    names = [n for n, _ in module.named_parameters() if "actiswitch" in n]
    assert len(names) == 2
    optimizer = torch.optim.SGD(param_groups(module, lr=0.1, weight_decay=0.1))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    before = module(x).detach()
    module(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(module(x), before)
    back = module.to_onnx()
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in grown.graph]
    assert [f.name for f in back.functions] == [f.name for f in grown.functions.values()]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for n, p in module.named_parameters() if n in names)
