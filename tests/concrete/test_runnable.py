from __future__ import annotations

import numpy as np
import pytest

from onnxgrow.concrete import find_runnable, second_variant
from onnxgrow.errors import UnsupportedError, UsageError

ADD = "g (float[A, 4] x, float[B, 4] y) => (float[n, 4] z) { z = Add (x, y) }"
# Runs only when H is a multiple of 32 (three halvings and a fixed reshape would do the same in a real model).
STRIDED = """g (float[N, 1, H] x) => (float[N, n, 32] y) <int64[3] target = {0, -1, 32}> { y = Reshape (x, target) }"""
FIXED = """g (float[N, T] x) => (float[n, 16000] y) <int64[2] target = {-1, 16000}, int64[2] whole = {1, 16000}> {
    r = Reshape (x, target)  y = Expand (r, whole)
    check = Reshape (x, whole) }"""


def test_primes_are_taken_where_they_run(parse):
    shapes, feeds = find_runnable(parse("g (float[N, T] x) => (float[N, T] y) { y = Relu (x) }"))
    n, t = shapes["x"]
    assert n != t
    assert min(n, t) >= 5
    assert feeds["x"].shape == (n, t)


def test_dimensions_that_belong_together_are_found(parse):
    shapes, _ = find_runnable(parse(ADD))
    assert shapes["x"] == shapes["y"]
    assert 1 < shapes["x"][0] < 32, "a prime is tried before the usual sizes"


def test_height_and_width_stay_different_where_that_runs(parse):
    model = parse("""g (float[N, 1, H, W] x) => (float[N, n, 128] y) <int64[3] target = {0, -1, 128}> {
        y = Reshape (x, target) }""")
    _, _, height, width = find_runnable(model)[0]["x"]
    assert height * width % 128 == 0
    assert height != width


def test_multiples_of_strides_are_found(parse):
    shapes, _ = find_runnable(parse(STRIDED))
    assert shapes["x"][2] % 32 == 0
    assert shapes["x"][0] > 1


def test_the_usual_audio_length_is_found_with_batch_one(parse):
    assert find_runnable(parse(FIXED))[0] == {"x": (1, 16000)}


def test_user_shapes_are_never_varied(parse):
    assert find_runnable(parse(STRIDED), {"x": (2, 1, 96)})[0] == {"x": (2, 1, 96)}
    with pytest.raises(UnsupportedError, match="Reshape"):
        find_runnable(parse(STRIDED), {"x": (2, 1, 97)})


def test_user_inputs_win_and_pin_the_shapes(parse):
    x = np.full((3, 4), 2.0, np.float32)
    shapes, feeds = find_runnable(parse(ADD), None, {"x": x})
    assert feeds["x"] is x
    assert shapes["x"] == (3, 4)
    assert shapes["y"][0] in (1, 3)


def test_user_inputs_and_shapes_that_disagree_are_refused(parse):
    with pytest.raises(UsageError, match="--input-shape"):
        find_runnable(parse(ADD), {"x": (2, 4)}, {"x": np.zeros((3, 4), np.float32)})


def test_a_model_that_never_runs_is_refused_with_the_node_and_the_way_out(parse):
    model = parse("""g (float[N] x) => (float[n, m] y) <int64[2] target = {-1, 1000003}> {
        [fold] y = Reshape (x, target) }""")
    with pytest.raises(UnsupportedError) as caught:
        find_runnable(model)
    assert "'fold'" in caught.value.reason
    assert "--input-shape" in caught.value.hint


def test_inputs_that_give_nan_are_replaced_by_positive_ones(parse):
    _, feeds = find_runnable(parse("g (float[N, T] x) => (float[N, T] y) { y = Sqrt (x) }"))
    assert feeds["x"].min() >= 0


def test_sizes_that_leave_nothing_of_the_output_are_passed_over(parse):
    model = parse("""g (float[N, T] x) => (float[N, t] y)
        <int64[1] s = {40}, int64[1] e = {99999}, int64[1] a = {1}> { y = Slice (x, s, e, a) }""")
    shapes, _ = find_runnable(model)
    assert shapes["x"][1] > 40


FRAMES = """g (float[N, T] x) => (float[N, F, 8] y) <int64[1] zero = {0}, int64[1] eight = {8}, int64[1] one = {1},
    int64[1] far = {9223372036854775807}, int64[3] shape = {0, -1, 8}, float[1, 8] start = {0,0,0,0,0,0,0,0}> {
    length = Shape <start = 1> (x)  rest = Mod (length, eight)  end = Sub (length, rest)
    whole = Slice (x, zero, end, one, one)  frames = Reshape (whole, shape)
    size = Shape <end = 1> (x)  to = Concat <axis = 0> (size, eight)  first = Expand (start, to)
    last, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
        body = b (float[n, 8] old, float[n, 8] frame) => (float[n, 8] new, float[n, 8] out) {
            new = Identity (frame)  out = Add (old, frame) }> (first, frames) }"""


def test_sizes_that_would_end_the_process_are_passed_over(parse):
    """No frame fits the first sizes: ONNX Runtime then divides by zero in the Scan."""
    model = parse(FRAMES)
    shapes, _ = find_runnable(model)
    assert shapes["x"][1] >= 8
    second = second_variant(model, shapes)
    assert second is not None
    assert second[0]["x"][1] >= 8
    with pytest.raises(UnsupportedError, match=r"ends the process .* at x:2x7"):
        find_runnable(model, {"x": (2, 7)})


def test_the_second_variant_changes_every_dynamic_dimension(parse):
    model = parse("g (float[N, 3, T] x) => (float[N, 3, T] y) { y = Relu (x) }")
    first, feeds = find_runnable(model)
    second, other = second_variant(model, first)
    assert first["x"][1] == second["x"][1] == 3
    assert first["x"][0] != second["x"][0]
    assert first["x"][2] != second["x"][2]
    assert second["x"][2] % 2, "still primes, not twice the first sizes"
    assert other["x"].shape == second["x"] != feeds["x"].shape


def test_the_second_variant_keeps_equal_dimensions_equal(parse):
    model = parse(ADD)
    first, _ = find_runnable(model)
    second, _ = second_variant(model, first)
    assert second["x"] == second["y"] != first["x"]


def test_the_second_variant_changes_what_it_can(parse):
    model = parse(STRIDED)
    first, _ = find_runnable(model)
    second, _ = second_variant(model, first)
    assert second != first
    assert second["x"][2] % 32 == 0


@pytest.mark.parametrize(
    ("graph", "shapes"),
    [
        ("g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }", None),
        ("g (float[N, T] x) => (float[N, T] y) { y = Relu (x) }", {"x": (2, 3)}),
        (FIXED, None),
    ],
    ids=["static", "pinned by the user", "only one size runs"],
)
def test_there_is_no_second_variant_where_nothing_can_change(parse, graph, shapes):
    model = parse(graph)
    first, _ = find_runnable(model, shapes)
    assert second_variant(model, first, shapes) is None
