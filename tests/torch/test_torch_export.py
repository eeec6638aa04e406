from __future__ import annotations

import warnings

import onnx
import pytest

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

import onnxgrow  # noqa: E402 # only where PyTorch is installed
from onnxgrow.errors import UnsupportedError, UsageError  # noqa: E402
from onnxgrow.torch import OnnxModule, check_export, export_for_growth, grow_optimizer  # noqa: E402

torch.set_num_threads(1)
nn = torch.nn


class Mixed(nn.Module):
    """Convolution, batch normalisation, two equal LayerNorms, linear layers over tokens, an LSTM."""

    def __init__(self, hidden: int = 8):
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm1d(6)
        self.norm1, self.norm2 = nn.LayerNorm(6), nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, hidden), nn.Linear(hidden, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).transpose(1, 2)
        x = x + self.down(nn.functional.gelu(self.up(self.norm1(x))))
        y, _ = self.lstm(self.norm2(x))
        return self.head(y[:, -1])


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Mixed()


X = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))


def exported(module, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own
        warnings.filterwarnings("error", message="the file was exported")
        return export_for_growth(module, (X,), path, input_names=["x"], **options)


def test_every_entry_of_the_state_is_in_the_file_by_name_and_value(module, tmp_path):
    module.train()
    check = exported(module, tmp_path / "m.onnx")
    assert module.training
    assert not check.problems, str(check)
    assert set(check.matched) == {k for k, v in module.state_dict().items() if v.is_floating_point()}
    with pytest.raises(UsageError, match="exists"):
        exported(module, tmp_path / "m.onnx")


def test_the_file_trains_like_the_module_that_it_came_from(module, tmp_path):
    exported(module, tmp_path / "m.onnx")
    back, native = OnnxModule(tmp_path / "m.onnx"), Mixed()
    native.load_state_dict(module.state_dict())
    assert set(back.coverage.trained) == {k for k, _ in native.named_parameters()}
    for m in (back.train(), native.train()):
        optimizer = torch.optim.Adam(m.named_parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            m(X).square().mean().backward()
            optimizer.step()
    state = back.state_dict()
    for key, value in native.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(state[key], value, atol=1e-5), key


def test_a_grown_export_loads_into_the_bigger_class_and_adam_goes_on(module, tmp_path):
    exported(module, tmp_path / "m.onnx")
    small = OnnxModule(tmp_path / "m.onnx")
    first = torch.optim.Adam(small.named_parameters(), lr=1e-3)
    small(X).square().mean().backward()
    first.step()
    result = onnxgrow.widen(small.to_onnx(), layers=["up.weight"], add=4, provider="cpu")
    grown, bigger = OnnxModule(result.model), Mixed(hidden=12).eval()
    counts = {k: v for k, v in bigger.state_dict().items() if not v.is_floating_point()}
    bigger.load_state_dict({**counts, **grown.state_dict()}, strict=True)
    assert torch.allclose(bigger(X), small.eval()(X), atol=1e-6)
    second = torch.optim.Adam(bigger.named_parameters(), lr=1e-3)
    second.load_state_dict(grow_optimizer(first.state_dict(), grown.growth_map, second))
    assert second.state[bigger.up.weight]["exp_avg"].shape == (12, 6)
    before = bigger.up.weight.detach().clone()
    bigger(X).square().mean().backward()
    second.step()
    assert not torch.equal(before, bigger.up.weight)


@pytest.fixture(scope="module")
def by_dynamo(module, tmp_path_factory):
    """The file of the exporter of torch.export, and what was found in it."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    path = tmp_path_factory.mktemp("dynamo") / "m.onnx"
    return path, exported(module.train(), path, dynamo=True, dynamic_axes={"x": {0: "batch"}})


def test_dynamo_keeps_every_entry_by_name_and_value_and_adds_none(module, by_dynamo):
    path, check = by_dynamo
    assert module.training
    assert not check.problems, str(check)
    assert set(check.matched) == {k for k, v in module.state_dict().items() if v.is_floating_point()}
    back = OnnxModule(path)
    assert set(back.coverage.trained) == {k for k, _ in module.named_parameters()}
    inputs = torch.randn(3, 3, 7, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(back(inputs), module.eval()(inputs), atol=1e-5)


def test_an_export_by_dynamo_grows_and_loads_into_the_bigger_class(module, by_dynamo):
    result = onnxgrow.widen(by_dynamo[0], layers=["up.weight"], add=4, provider="cpu")
    grown, bigger = OnnxModule(result.model), Mixed(hidden=12).eval()
    counts = {k: v for k, v in bigger.state_dict().items() if not v.is_floating_point()}
    bigger.load_state_dict({**counts, **grown.state_dict()}, strict=True)
    assert torch.allclose(bigger(X), module.eval()(X), atol=1e-6)


def test_a_tied_parameter_has_one_name_in_the_file(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(3, 4), nn.Linear(4, 3, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x):
            return self.head(self.words(x))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="the file was exported")
        check = export_for_growth(Tied(), (torch.tensor([[0, 2]]),), tmp_path / "m.onnx")
    assert set(check.matched) == {"words.weight", "head.weight"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic_shapes": ({0: "batch"},)}, "for dynamo=True"),
        ({"dynamo": True, "dynamic_axes": {"y": {0: "batch"}}}, "does not list"),
    ],
)
def test_axes_that_fit_nothing_are_refused(module, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        exported(module, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_folding_and_renaming_are_seen(module, tmp_path):
    path = tmp_path / "folded.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (X,), str(path), dynamo=False, opset_version=17, input_names=["x"])
    with pytest.warns(UserWarning, match="exported with folding or renaming"):
        check = check_export(path, module)
    assert "transposed" in check.problems["up.weight"]
    assert "bn.weight" in check.problems


def test_a_weight_with_other_values_is_no_match(module, tmp_path):
    exported(module, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    weight = next(t for t in proto.graph.initializer if t.name == "conv.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, "conv.weight"))
    with pytest.warns(UserWarning, match="other values"):
        assert set(check_export(proto, module).problems) == {"conv.weight"}


def test_a_module_that_cannot_be_exported_leaves_no_file(tmp_path):
    class Wild(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x)

    with pytest.raises(UnsupportedError, match="Wild: PyTorch cannot export it"):
        export_for_growth(Wild(), (torch.eye(3),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
