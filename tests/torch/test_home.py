"""A transformer, a convolutional and a recurrent network on the whole way: trained, exported, grown, loaded strictly
into the bigger class, and trained on there as if nothing had happened."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from home_models import CLASSES, default_export, kept_export, layer, randomised, stored  # noqa: E402
from safetensors.torch import load_file  # noqa: E402 # only where PyTorch is installed

import onnxgrow  # noqa: E402
from onnxgrow.torch import EntryRates, export_checkpoint, grow_average, grow_optimizer, new_entries  # noqa: E402

torch.set_num_threads(1)

RATE, STEPS = 2e-3, 5
EXACT = 1e-9
ROUTES = [
    ("encoder", kept_export),
    ("encoder", default_export),
    ("residual", kept_export),
    ("recurrent", kept_export),
    ("recurrent", default_export),
    ("two-way LSTM", default_export),
]
NAMES = [f"{kind}, {export.__name__}" for kind, export in ROUTES]


def adam(module):
    return torch.optim.Adam(module.named_parameters(), lr=RATE)


def train(module, optimizer, inputs, steps=1):
    """Losses before each step; the target is as far from the first outputs as they are large."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module.train()(inputs) - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@functools.cache
def grown(kind, export):
    """A small class after some training, the state of its Adam, the grown checkpoint, and its growth."""
    make, size, old, inputs, _ = CLASSES[kind]
    small = randomised(make(**{size: old}))
    optimizer = adam(small)
    train(small, optimizer, inputs, 6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(small.eval(), inputs, folder / "small.onnx")
        chosen = layer(kind, small, folder / "small.onnx")
        result = onnxgrow.widen(folder / "small.onnx", layers=[chosen], add=3, provider="cpu")
        name_map = export_checkpoint(result.model, stored(small, folder / "small.safetensors"), folder / "home")
        return small, optimizer.state_dict(), load_file(folder / "home" / "model.safetensors"), name_map.growth


def travelled(kind, export):
    """(small class, its Adam, the bigger class with the grown checkpoint, its growth, inputs)"""
    make, size, old, inputs, _ = CLASSES[kind]
    small, state, weights, growth = grown(kind, export)
    bigger = make(**{size: old + 3})
    bigger.load_state_dict(weights, strict=True)
    # From here on in float64, in which equal means equal: Adam divides by roots of what may be rounding errors.
    small, bigger = copy.deepcopy(small).double(), bigger.double()
    first = adam(small)
    first.load_state_dict(copy.deepcopy(state))
    return small, first, bigger, growth, inputs.double() if inputs.is_floating_point() else inputs


@pytest.fixture(params=ROUTES, ids=NAMES)
def route(request):
    return travelled(*request.param)


def resumed(bigger, state, growth):
    optimizer = adam(bigger)
    optimizer.load_state_dict(grow_optimizer(state, growth, optimizer))
    return optimizer


def apart(small, bigger, growth):
    """Largest difference between the twin's entries and the old ones of the bigger class."""
    masks, worst = new_entries(bigger, growth), 0.0
    moved = grow_average(dict(small.named_parameters()), growth, dict(bigger.named_parameters()))
    for name, parameter in bigger.named_parameters():
        old = ~masks.get(name, torch.zeros(parameter.shape, dtype=torch.bool))
        worst = max(worst, float((parameter - moved[name]).detach()[old].abs().max()))
    return worst


def test_the_bigger_class_computes_what_the_small_one_does(route):
    small, _, bigger, growth, inputs = route
    with torch.no_grad():
        assert float((bigger.eval()(inputs) - small.eval()(inputs)).abs().max()) <= 1e-6
    assert new_entries(bigger, growth)
    assert apart(small, bigger, growth) == 0


def test_with_new_entries_frozen_every_step_is_that_of_the_ungrown_twin(route):
    small, first, bigger, growth, inputs = route
    second = resumed(bigger, first.state_dict(), growth)
    with EntryRates(second, bigger, growth, new=0.0):
        for _ in range(STEPS):
            (mine,), (twins,) = train(bigger, second, inputs), train(small, first, inputs)
            assert mine == pytest.approx(twins, abs=EXACT)
            assert apart(small, bigger, growth) <= EXACT


def test_the_first_step_is_that_of_the_twin_and_the_loss_makes_no_jump(route):
    small, first, bigger, growth, inputs = route
    second = resumed(bigger, first.state_dict(), growth)
    before = copy.deepcopy(bigger)
    mine, twins = train(bigger, second, inputs), train(small, first, inputs)
    assert mine == pytest.approx(twins, abs=EXACT)
    assert apart(small, bigger, growth) <= EXACT
    masks = new_entries(bigger, growth)
    after, past = dict(bigger.named_parameters()), dict(before.named_parameters())
    assert any(not torch.equal(after[k][m], past[k][m]) for k, m in masks.items()), "new entries learn at once"
    mine, twins = train(bigger, second, inputs, STEPS), train(small, first, inputs, STEPS)
    assert all(a <= b + 1e-3 for a, b in zip(mine, twins, strict=True)), (mine, twins)


@pytest.mark.parametrize("fault", ["fresh", "moved", "another's"])
def test_a_state_that_was_not_carried_over_rightly_is_seen(fault):
    small, first, bigger, growth, inputs = travelled(*ROUTES[1])
    second = resumed(bigger, first.state_dict(), growth)
    if fault == "fresh":
        second = adam(bigger)
    else:
        state = second.state[bigger.up.weight]["exp_avg"]
        state.copy_(state.roll(1, 0) if fault == "moved" else -state)
    train(bigger, second, inputs), train(small, first, inputs)
    assert apart(small, bigger, growth) > 1e3 * EXACT
