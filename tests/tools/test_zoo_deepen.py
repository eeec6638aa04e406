"""The run over real networks: tried on a small trained one."""

from __future__ import annotations

from pathlib import Path

from tools.zoo_deepen import examine, table

MODELS = Path(__file__).resolve().parent.parent.parent / "models"


def test_every_legal_place_of_a_trained_network_takes_a_layer() -> None:
    row = examine("digits_mlp", MODELS / "digits_mlp.onnx", None, most=0, trials=("layers",))
    assert row.good
    assert (row.proved, row.tried) == (row.places, row.places)
    assert row.places > 3
    assert row.kinds == {"Gemm": row.places}
    assert row.inexact == 0
    assert row.illegal == {"it is an output of the network, which keeps its name": 1}
    assert table([row]).row_count == 1


def test_a_file_that_is_no_model_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    row = examine("broken", path, None)
    assert not row.good
    assert row.faults
