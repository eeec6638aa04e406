"""Growth that goes into a file: computed once, sealed by what was written, proved from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow import api
from onnxgrow.concrete.values import constants
from onnxgrow.errors import GrowError, NotEquivalentError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import load, model_digest, save, sink, tensor_digest
from onnxgrow.passes import Widen
from onnxgrow.passes.grown_tensor import GrownTensor

GRAPH = "g (float[N,30] x) => (float[N,10] y) { h = Gemm(x, wa, ba) a = Relu(h) y = MatMul(a, wb) }"


def mlp() -> ir.Model:
    return model_of(GRAPH, {"wa": (30, 40), "ba": (40,), "wb": (40, 10)})


@pytest.mark.parametrize("external", [False, True])
def test_each_tensor_is_computed_once(tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    honest = GrownTensor.raw_blocks

    def counted(self: GrownTensor, size: int) -> object:
        passes.append(str(self.name))
        return honest(self, size)

    monkeypatch.setattr(GrownTensor, "raw_blocks", counted)
    result = api.apply(Widen(add=30), mlp(), output=tmp_path / "m.onnx", external_data=external)
    large = [name for name in passes if name != "ba"]  # small tensors stay in the model file
    assert sorted(large) == ["wa", "wb"]
    assert result.report.ok


@pytest.mark.parametrize("external", [False, True])
def test_the_written_model_is_the_one_that_is_made_in_memory(tmp_path: Path, external: bool) -> None:
    in_memory = Widen(add=30).grow(mlp())
    result = api.apply(Widen(add=30), mlp(), output=tmp_path / "m.onnx", external_data=external)
    written = load(tmp_path / "m.onnx").model
    assert model_digest(written) == model_digest(in_memory.model) == model_digest(result.model)
    held = constants(written)
    found = GrowthMap.of_model(written.metadata_props)
    assert found is not None
    assert {n: t.sha256 for n, t in found.tensors.items()} == {n: tensor_digest(held[n]) for n in found.tensors}
    assert result.growth_map.dumps() == found.dumps()


@pytest.mark.parametrize("external", [False, True])
def test_a_fault_between_hashing_and_writing_is_seen(
    tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is of what was meant to be written; the file is read again to be compared with it."""
    honest = sink.Sink.write

    def faulty(self: sink.Sink, data: object) -> None:
        block = bytearray(data)  # type: ignore[call-overload]  # a buffer
        if len(block) == 30 * 70 * 4:
            block[-1] ^= 1
        honest(self, bytes(block))

    monkeypatch.setattr(sink.Sink, "write", faulty)
    with pytest.raises((NotEquivalentError, GrowError)):
        api.apply(Widen(add=30), mlp(), output=tmp_path / "m.onnx", external_data=external)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_proved_and_written(tmp_path: Path) -> None:
    source = save(mlp(), tmp_path / "s.onnx", external_data=True)
    result = api.widen(source, add=200, output=tmp_path / "m.onnx", max_shard_size=10_000)
    assert result.report.ok
    assert len(list(tmp_path.glob("m-*.data"))) > 1
    assert np.asarray(constants(load(tmp_path / "m.onnx").model)["wa"].numpy()).shape == (30, 240)
