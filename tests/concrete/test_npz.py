from __future__ import annotations

import numpy as np
import pytest

from onnxgrow.concrete import load_inputs
from onnxgrow.errors import BadInputError, UsageError

X = np.zeros((2, 3), np.float32)
N = np.array(7, np.int64)


@pytest.fixture
def model(parse):
    found = parse("g (float[B, 3] x, int64 n) => (float[B, 3] y) { y = Identity (x) }")
    found.graph.inputs[0].name = "a/x"
    return found


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "inputs.npz", **arrays)
        return tmp_path / "inputs.npz"

    return write


@pytest.mark.parametrize("name", ["a__x", "in_a__x"])
def test_inputs_are_found_under_every_spelling(model, save, name):
    feeds = load_inputs(save(**{name: X, "n": N, "out_0": X}), model)
    assert list(feeds) == ["a/x", "n"]
    assert feeds["a/x"].shape == (2, 3)
    assert feeds["n"].shape == ()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a__x": X}, "no array for it"),
        ({"a__x": X, "n": N, "extra": X}, "no such input"),
        ({"a__x": X, "in_a__x": X, "n": N}, "two arrays"),
        ({"a__x": X.astype(np.float64), "n": N}, "float64"),
        ({"a__x": X[0], "n": N}, "dimensions"),
        ({"a__x": X[:, :2], "n": N}, "fixes it at 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(model, save, arrays, reason):
    with pytest.raises(UsageError, match=reason):
        load_inputs(save(**arrays), model)


def test_pickles_are_not_loaded(model, save):
    with pytest.raises(BadInputError):
        load_inputs(save(a__x=np.array([{"evil": 1}], dtype=object), n=N), model)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_a_bad_input(model, tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(BadInputError):
        load_inputs(path, model)


def test_a_missing_file_and_a_single_array_are_bad_inputs(model, tmp_path):
    with pytest.raises(BadInputError, match="no such file"):
        load_inputs(tmp_path / "none.npz", model)
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(BadInputError, match="single array"):
        load_inputs(tmp_path / "one.npy", model)


def test_strings_come_as_fixed_width_arrays(parse, save):
    model = parse("g (string[N] s) => (string[N] y) { y = Identity (s) }")
    assert load_inputs(save(s=np.array(["a", "bc"])), model)["s"].tolist() == ["a", "bc"]
    with pytest.raises(UsageError, match="strings"):
        load_inputs(save(s=X[0]), model)
