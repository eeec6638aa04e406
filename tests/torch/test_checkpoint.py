"""Exporting with PyTorch, growing, and loading the result strictly into the bigger class."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import model_of

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from home_models import (  # noqa: E402 # only where PyTorch is installed
    CLASSES,
    IMAGES,
    Residual,
    default_export,
    kept_export,
    layer,
    randomised,
    stored,
)
from safetensors.torch import load_file, save_file  # noqa: E402

import onnxgrow  # noqa: E402
from onnxgrow.errors import BadInputError, EnvironmentFault, NotEquivalentError, UsageError  # noqa: E402
from onnxgrow.growth_map import METADATA_KEY, SCALED, GrowthMap, TensorGrowth  # noqa: E402
from onnxgrow.torch import OnnxModule, UnmatchedError, export_checkpoint  # noqa: E402
from onnxgrow.torch.checkpoint.relation import Relation  # noqa: E402

torch.set_num_threads(1)
nn = torch.nn


@functools.cache
def made(kind, export):
    """Small module, and the bytes of its exported and of its grown file."""
    make, size, old, inputs, _ = CLASSES[kind]
    small = randomised(make(**{size: old}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        export(small, inputs, path)
        result = onnxgrow.widen(str(path), layers=[layer(kind, small, path)], add=3, provider="cpu")
        onnxgrow.save(result.model, Path(folder) / "grown.onnx")
        return small, path.read_bytes(), (Path(folder) / "grown.onnx").read_bytes()


def grown(tmp_path, kind="encoder", export=kept_export, suffix=".safetensors"):
    """Small module, its reference file, and the bigger class; writes small.onnx and grown.onnx."""
    make, size, old, inputs, _ = CLASSES[kind]
    module, before, after = made(kind, export)
    (tmp_path / "small.onnx").write_bytes(before)
    (tmp_path / "grown.onnx").write_bytes(after)
    small = make(**{size: old}).eval()
    small.load_state_dict(module.state_dict())
    return small, stored(small, tmp_path / f"small{suffix}"), make(**{size: old + 3}).eval(), inputs


def assert_goes_home(small, bigger, inputs, folder):
    bigger.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.allclose(bigger(inputs), small(inputs), rtol=0, atol=1e-6)


def refusal(tmp_path, reference, **options):
    with pytest.raises(UnmatchedError) as caught:
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    return caught.value.problems


@pytest.mark.parametrize(
    ("kind", "export", "suffix"),
    [
        ("encoder", kept_export, ".safetensors"),
        ("encoder", default_export, ".pt"),
        ("residual", kept_export, ".pt"),
        ("recurrent", default_export, ".safetensors"),
        ("two-way LSTM", default_export, ".safetensors"),
        ("two-way LSTM", kept_export, ".safetensors"),
        ("two-way GRU", default_export, ".safetensors"),
        ("two-way RNN", default_export, ".safetensors"),
    ],
)
def test_a_grown_export_loads_strictly_into_the_bigger_class_and_computes_the_same(kind, export, suffix, tmp_path):
    small, reference, bigger, inputs = grown(tmp_path, kind, export, suffix)
    name_map = export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out")
    assert_goes_home(small, bigger, inputs, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "name_map.json").read_text(encoding="utf-8")) == name_map.to_json()
    kinds = {entry["how"] for entry in name_map.entries.values()}
    if export is default_export:
        assert kinds & {"transposed", "joined", "reshaped"}, "by default, weights are renamed and laid out otherwise"
    for key, value in load_file(tmp_path / "out" / "model.safetensors").items():
        before = small.state_dict()[key]
        assert value.shape != before.shape or torch.equal(value, before), "what did not grow stays as it was"


def test_entries_that_a_growth_multiplied_are_found(tmp_path):
    _, reference, _, _ = grown(tmp_path)
    proto = onnx.load(tmp_path / "grown.onnx")
    data = next(p for p in proto.metadata_props if p.key == METADATA_KEY)
    growth_map = GrowthMap.loads(data.value)
    factor = 0.8944271909999159
    tensors = {**growth_map.tensors, "norm1.weight": TensorGrowth(formula=SCALED, factor=factor)}
    data.value = dataclasses.replace(growth_map, tensors=tensors).dumps()
    tensor = next(t for t in proto.graph.initializer if t.name == "norm1.weight")
    scaled = (onnx.numpy_helper.to_array(tensor).astype(np.float64) * factor).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, tensor.name))
    onnx.save(proto, tmp_path / "grown.onnx")
    export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out")
    assert np.array_equal(load_file(tmp_path / "out" / "model.safetensors")["norm1.weight"].numpy(), scaled)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(scaled, 2), tensor.name))
    onnx.save(proto, tmp_path / "grown.onnx")
    with pytest.raises(UnmatchedError):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "again")


def test_a_file_that_was_trained_since_needs_the_original(tmp_path):
    small, reference, bigger, inputs = grown(tmp_path)
    trained = OnnxModule(tmp_path / "grown.onnx").train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    trained(inputs).square().mean().backward()
    optimizer.step()
    trained.eval().to_onnx(tmp_path / "grown.onnx", overwrite=True)
    problems = refusal(tmp_path, reference)
    assert "trained since" in problems["up.weight"] or "by training" in problems["up.weight"]
    export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out", original=tmp_path / "small.onnx")
    assert_goes_home(trained, bigger, inputs, tmp_path / "out")
    with torch.no_grad():
        assert not torch.allclose(bigger(inputs), small(inputs), atol=1e-4), "the training is in it"
    with pytest.raises(BadInputError, match="not the file"):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "o", original=tmp_path / "grown.onnx")


def test_folded_batch_normalisation_is_refused_with_the_reason(tmp_path):
    small = randomised(Residual())
    default_export(small, IMAGES, tmp_path / "small.onnx")
    weight = next(t.name for t in onnx.load(tmp_path / "small.onnx").graph.initializer if list(t.dims) == [6, 5, 3, 3])
    onnxgrow.widen(str(tmp_path / "small.onnx"), layers=[weight], add=3, provider="cpu", output=tmp_path / "grown.onnx")
    problems = refusal(tmp_path, stored(small, tmp_path / "small.pt"))
    assert "batch normalisation was folded into it" in problems["conv1.weight"]
    assert "bn1.running_mean" in problems


def test_dequantised_weights_are_refused_with_the_reason(tmp_path):
    _, reference, _, _ = grown(tmp_path)
    proto = onnx.load(tmp_path / "grown.onnx")
    state = load_file(reference)
    tensor = next(t for t in proto.graph.initializer if t.name == "places.weight")
    state["places.weight"] = torch.randn(5, 8)
    state["big"] = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    step = float(state["big"].abs().max()) / 127
    rounded = (state["big"] / step).round() * step
    proto.graph.initializer.append(onnx.numpy_helper.from_array(rounded.numpy(), "big"))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["big"], ["unused"]))
    onnx.save(proto, tmp_path / "grown.onnx")
    assert tensor.name in state
    save_file(state, tmp_path / "other.safetensors")
    problems = refusal(tmp_path, tmp_path / "other.safetensors")
    assert "dequantised" in problems["big"]
    assert "other values" in problems["places.weight"]


def test_what_the_file_never_had_is_taken_over_only_on_request(tmp_path):
    _, reference, _, _ = grown(tmp_path)
    state = {**load_file(reference), "pooler.weight": torch.full((8, 8), 0.25), "count": torch.tensor(7)}
    save_file(state, tmp_path / "more.safetensors", metadata={"format": "pt", "licence": "mine"})
    assert set(refusal(tmp_path, tmp_path / "more.safetensors")) == {"pooler.weight"}
    with pytest.raises(UsageError, match="no entry"):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out", keep=["typo*"])
    name_map = export_checkpoint(
        tmp_path / "grown.onnx", tmp_path / "more.safetensors", tmp_path / "out", keep=["pooler.*"]
    )
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["pooler.weight"], state["pooler.weight"])
    assert written["count"] == 7
    assert name_map.entries["count"]["how"] == "reference"
    head = (tmp_path / "out" / "model.safetensors").read_bytes()[:4000]
    assert b"licence" in head


def packed(tmp_path, alike=True):
    """Query and value weights packed into one, which grew."""
    graph = "g (float[N,4] x) => (float[N,2] y) { h = MatMul(x, w)  q, v = Split<axis = 1>(h, sizes)  "
    graph += "a = Mul(q, v)  y = MatMul(a, o) }"
    parts = {k: torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i, k in enumerate(["q", "v"])}
    weights = {
        "w": torch.cat([parts["q"], parts["v"]]).t().contiguous().numpy(),
        "o": np.arange(6, dtype=np.float32).reshape(3, 2),
        "sizes": np.array([3, 3]),
    }
    model = model_of(graph, weights)
    result = onnxgrow.widen(model, layers=["w"], add=2, provider="cpu")
    onnxgrow.save(result.model, tmp_path / "grown.onnx")
    state = {
        "q.weight": parts["q"],
        "v.weight": parts["v"],
        "o.weight": torch.from_numpy(weights["o"]).t().contiguous(),
    }
    if not alike:
        state["q.weight"], state["v.weight"] = parts["q"].flip(0), parts["v"]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "r.safetensors")
    return parts


def test_packed_weights_are_taken_apart(tmp_path):
    parts = packed(tmp_path)
    name_map = export_checkpoint(tmp_path / "grown.onnx", tmp_path / "r.safetensors", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(9))
    small = ((x @ parts["q"].t()) * (x @ parts["v"].t())) @ torch.arange(6.0).reshape(3, 2)
    assert written["q.weight"].shape == written["v.weight"].shape == (5, 4)
    y = ((x @ written["q.weight"].t()) * (x @ written["v.weight"].t())) @ written["o.weight"].t()
    assert torch.allclose(y, small, atol=1e-5)
    assert name_map.entries["q.weight"]["how"] == "joined"


def test_pieces_that_do_not_fit_are_refused(tmp_path):
    packed(tmp_path, alike=False)
    assert {"q.weight", "v.weight"} <= set(refusal(tmp_path, tmp_path / "r.safetensors"))


def test_a_grown_square_weight_that_may_lie_either_way_is_refused(tmp_path):
    graph = "g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, o) }"
    weights = {"w": np.eye(4, dtype=np.float32), "o": np.arange(16, dtype=np.float32).reshape(4, 4)}
    result = onnxgrow.widen(model_of(graph, weights), layers=["w"], add=2, provider="cpu")
    onnxgrow.save(result.model, tmp_path / "grown.onnx")
    save_file(
        {"a.weight": torch.eye(4), "b.weight": torch.from_numpy(weights["o"].T.copy())}, tmp_path / "r.safetensors"
    )
    assert "as it is or transposed" in refusal(tmp_path, tmp_path / "r.safetensors")["a.weight"]


def test_a_wrong_layout_is_caught_before_anything_has_its_name(tmp_path, monkeypatch):
    _, reference, _, _ = grown(tmp_path, export=default_export)
    forward = Relation.forward
    monkeypatch.setattr(Relation, "forward", lambda self, tensor, old: forward(self, tensor, old).flip(0))
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(NotEquivalentError, match="back"):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    _, reference, _, _ = grown(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(EnvironmentFault, match="No space"):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"\x08", b"no zip at all", None])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_reference_that_cannot_be_read_is_refused(content, suffix, tmp_path):
    grown(tmp_path)
    bad = tmp_path / f"bad{suffix}"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(BadInputError):
        export_checkpoint(tmp_path / "grown.onnx", bad, tmp_path / "out")


def test_a_pickle_that_runs_code_is_never_opened(tmp_path):
    small, _, _, _ = grown(tmp_path)
    torch.save(small, tmp_path / "module.pt")
    with pytest.raises(BadInputError, match="could run code"):
        export_checkpoint(tmp_path / "grown.onnx", tmp_path / "module.pt", tmp_path / "out")


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    _, reference, _, _ = grown(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="safetensors: this package is not installed"):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out")


def test_a_folder_that_exists_is_never_written_into(tmp_path):
    _, reference, _, _ = grown(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists"):
        export_checkpoint(tmp_path / "grown.onnx", reference, tmp_path / "out")
