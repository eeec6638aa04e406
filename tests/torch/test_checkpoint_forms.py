"""Forms that the file of a class may have, and growths whose results the class has to be built for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from support import model_of

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from home_models import IMAGES, Residual, default_export, kept_export, layer_of, randomised, stored  # noqa: E402
from safetensors.torch import load_file  # noqa: E402 # only where PyTorch is installed

import onnxgrow  # noqa: E402
from onnxgrow.errors import UsageError  # noqa: E402
from onnxgrow.torch import UnmatchedError, export_checkpoint  # noqa: E402

torch.set_num_threads(1)
nn = torch.nn
TOKENS = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(3))


class OnePlus(nn.Module):
    """RMSNorm that multiplies by 1 + w, as Gemma's does."""

    def __init__(self, width, epsilon=1e-6):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.randn(width) * 0.1), epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * (1.0 + self.weight)


class Stream(nn.Module):
    """A residual stream with a feed-forward layer, a norm before it and one behind it."""

    def __init__(self, width=8, hidden=12, norm=nn.LayerNorm, **options):
        super().__init__()
        self.words, self.head = nn.Embedding(11, width), nn.Linear(width, 5)
        self.norm1, self.norm2 = norm(width, **options), norm(width, **options)
        self.up, self.down = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, tokens):
        x = self.words(tokens)
        x = x + self.down(nn.functional.silu(self.up(self.norm1(x))))
        return self.head(self.norm2(x))


def gap(bigger, folder, small, inputs):
    """How far the bigger class with the checkpoint is from the small one."""
    bigger.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    with torch.no_grad():
        return float((bigger.eval()(inputs) - small.eval()(inputs)).abs().max())


def hidden_growth(path, small, key):
    return onnxgrow.widen(path, layers=[layer_of(path, small, key)], add=3, provider="cpu").model


def test_a_norm_that_adds_one_gets_its_own_numbers_back(tmp_path):
    small = Stream(norm=OnePlus)
    default_export(small.eval(), TOKENS, tmp_path / "m.onnx")
    model = hidden_growth(tmp_path / "m.onnx", small, "up.weight")
    name_map = export_checkpoint(model, stored(small, tmp_path / "r.pt"), tmp_path / "out")
    assert name_map.entries["norm1.weight"]["offset"] == 1.0
    assert gap(Stream(hidden=15, norm=OnePlus), tmp_path / "out", small, TOKENS) <= 1e-6
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["norm1.weight"], small.norm1.weight.detach()), "bit for bit, not what is left of 1 + w"


STREAMS = [
    ("LayerNorm", nn.LayerNorm, kept_export, "eps"),
    ("LayerNorm, renamed", nn.LayerNorm, default_export, "eps"),
    ("1 + w, computed", OnePlus, default_export, "epsilon"),
]


@pytest.mark.parametrize(("norm", "export", "option"), [s[1:] for s in STREAMS], ids=[s[0] for s in STREAMS])
def test_a_number_that_only_the_class_holds_has_to_be_acknowledged(norm, export, option, tmp_path):
    """An ε that a wider stream changes: the checkpoint loads strictly, and is wrong by it, in a class with the old."""
    epsilon = 0.05
    torch.manual_seed(0)
    small = Stream(norm=norm, **{option: epsilon})
    export(small.eval(), TOKENS, tmp_path / "m.onnx")
    streams = [s.name for s in onnxgrow.inspect(tmp_path / "m.onnx", provider="cpu").analysis.sets if s.size == 8]
    model = onnxgrow.widen(tmp_path / "m.onnx", layers=streams[:1], add=4, residual=True, provider="cpu").model
    reference = stored(small, tmp_path / "r.pt")
    with pytest.raises(UnmatchedError, match=r"which the growth changed from 0\.05") as caught:
        export_checkpoint(model, reference, tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no number"):
        export_checkpoint(model, reference, tmp_path / "out", built_with=["typo"])
    name_map = export_checkpoint(model, reference, tmp_path / "out", built_with=list(caught.value.problems))
    (new,) = {setting["new"] for setting in name_map.settings.values()}
    assert gap(Stream(12, norm=norm, **{option: new}), tmp_path / "out", small, TOKENS) <= 2e-6
    assert gap(Stream(12, norm=norm, **{option: epsilon}), tmp_path / "out", small, TOKENS) > 1e-3


def test_a_constant_of_the_class_that_a_growth_scaled_is_refused(tmp_path):
    """1 + w as the class computes it: the file's 1 has become another number."""
    small = Stream(norm=OnePlus)
    kept_export(small.eval(), TOKENS, tmp_path / "m.onnx")
    streams = [s.name for s in onnxgrow.inspect(tmp_path / "m.onnx", provider="cpu").analysis.sets if s.size == 8]
    model = onnxgrow.widen(tmp_path / "m.onnx", layers=streams[:1], add=4, residual=True, provider="cpu").model
    with pytest.raises(UnmatchedError) as caught:
        export_checkpoint(model, stored(small, tmp_path / "r.pt"), tmp_path / "out")
    assert any("from 1 to 0.816" in reason for reason in caught.value.problems.values())


def test_half_precision_in_file_and_class(tmp_path):
    small = randomised(Residual()).half()
    kept_export(small, IMAGES.half(), tmp_path / "m.onnx")
    model = hidden_growth(tmp_path / "m.onnx", small, "conv1.weight")
    export_checkpoint(model, stored(small, tmp_path / "r.safetensors"), tmp_path / "out")
    assert gap(Residual(9).half(), tmp_path / "out", small, IMAGES.half()) <= 1e-2


def test_a_file_in_half_precision_of_a_class_in_single(tmp_path):
    small = randomised(Residual())
    kept_export(copy.deepcopy(small).half(), IMAGES.half(), tmp_path / "m.onnx")
    model = hidden_growth(tmp_path / "m.onnx", copy.deepcopy(small).half(), "conv1.weight")
    name_map = export_checkpoint(model, stored(small, tmp_path / "r.safetensors"), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["stem.weight"], small.stem.weight.detach()), "what did not grow keeps its digits"
    assert name_map.entries["conv1.weight"]["cast"] == "float16"
    assert gap(Residual(9), tmp_path / "out", small, IMAGES) <= 1e-2


def test_transposed_weights_of_gemm(tmp_path):
    small = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    state = {k: v.numpy() for k, v in small.state_dict().items()}
    weights = {"w1": state["0.weight"].T, "b1": state["0.bias"], "w2": state["2.weight"], "b2": state["2.bias"]}
    graph = "g (float[N,6] x) => (float[N,4] y) { h = Gemm(x, w1, b1)  r = Relu(h)  "
    graph += "y = Gemm<transB: int = 1>(r, w2, b2) }"
    model = model_of(graph, {k: np.ascontiguousarray(v) for k, v in weights.items()})
    model = onnxgrow.widen(model, layers=["w1"], add=3, provider="cpu").model
    name_map = export_checkpoint(model, stored(small, tmp_path / "r.pt"), tmp_path / "out")
    assert [name_map.entries[f"{i}.weight"]["how"] for i in (0, 2)] == ["transposed", "same"]
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert gap(nn.Sequential(nn.Linear(6, 11), nn.ReLU(), nn.Linear(11, 4)), tmp_path / "out", small, x) <= 1e-6


@pytest.mark.parametrize("growth", [onnxgrow.deepen, onnxgrow.add_actiswitch])
def test_what_a_growth_inserted_needs_a_name(growth, tmp_path):
    small = randomised(Residual())
    kept_export(small, IMAGES, tmp_path / "m.onnx")
    model = growth(tmp_path / "m.onnx", provider="cpu").model
    reference = stored(small, tmp_path / "r.pt")
    with pytest.raises(UnmatchedError, match="no name for it") as caught:
        export_checkpoint(model, reference, tmp_path / "out")
    names = {name: f"new.{i}" for i, name in enumerate(caught.value.problems)}
    export_checkpoint(model, reference, tmp_path / "out", names=names)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == {*small.state_dict(), *names.values()}


def test_larger_kernels_go_home(tmp_path):
    small = randomised(Residual())
    kept_export(small, IMAGES, tmp_path / "m.onnx")
    model = onnxgrow.enlarge_kernel(tmp_path / "m.onnx", to=5, provider="cpu").model
    name_map = export_checkpoint(model, stored(small, tmp_path / "r.pt"), tmp_path / "out")
    bigger = Residual()
    bigger.stem, bigger.conv1, bigger.conv2 = (
        nn.Conv2d(c.in_channels, c.out_channels, 5, padding=2, bias=False)
        for c in (small.stem, small.conv1, small.conv2)
    )
    assert set(name_map.growth.tensors) == {"stem.weight", "conv1.weight", "conv2.weight"}
    assert gap(bigger, tmp_path / "out", small, IMAGES) <= 1e-6
