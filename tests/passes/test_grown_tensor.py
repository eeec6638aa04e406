"""Grown tensors read in blocks: the same bytes as the whole tensor, in any blocks, and bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import analysis_of, grow_sets, model_of

from onnxgrow.concrete.values import constants
from onnxgrow.errors import GrowError
from onnxgrow.io import tensor_digest
from onnxgrow.io.tensors import blocks
from onnxgrow.passes import grown_tensor, layers
from onnxgrow.passes.grown_tensor import GrownTensor
from onnxgrow.passes.masks import Mask
from onnxgrow.passes.regions import Region, grid, regions, runs
from onnxgrow.plan import WidenRequest

Weights = Mapping[str, object]

GRAPHS: dict[str, tuple[str, Weights, dict[str, int]]] = {
    "plain": (
        "g (float[N,6] x) => (float[N,3] y) { h = Gemm(x, wa, ba) a = Relu(h) g = MatMul(a, wb) y = MatMul(g, wc) }",
        {"wa": (6, 4), "ba": (4,), "wb": (4, 8), "wc": (8, 3)},
        {"wa": 2, "wb": 3},
    ),
    "transposed": (
        "g (float[N,6] x) => (float[N,3] y) { t = Transpose <perm = [1, 0]> (wa) h = MatMul(x, t)"
        " u = Transpose <perm = [1, 0]> (wb) y = MatMul(h, u) }",
        {"wa": (4, 6), "wb": (3, 4)},
        {"wa": 5},
    ),
    "tied": (
        "g (int64[N,5] x) => (float[N,5,7] y)"
        " { h = Gather(wa, x) a = MatMul(h, wb) r = Relu(a) b = MatMul(r, wc) t = Transpose(wa) y = MatMul(b, t) }",
        {"wa": (7, 4), "wb": (4, 5), "wc": (5, 4)},
        {"wb": 3},
    ),
    "reshaped": (
        "g (float[N,6] x) => (float[N,3] y)"
        " { s = Constant <value_ints = [6, 4]> () r = Reshape(wa, s) h = MatMul(x, r) y = MatMul(h, wb) }",
        {"wa": (24,), "wb": (4, 3)},
        {},
    ),
    "fused": (
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) p, q = Split <axis = 1> (h)"
        " s = Sigmoid(p) m = Mul(s, q) y = MatMul(m, wb) }",
        {"wa": (6, 8), "wb": (4, 3)},
        {},
    ),
    "convolutions": (
        "g (float[N,3,4,4] x) => (float[N,5] y) { c = Conv(x, wa, ba) n = BatchNormalization(c, scale, shift, mean,"
        " var) r = Relu(n) d = Conv <group = 4> (r, wd) f = Flatten(d) y = Gemm(f, wb) }",
        {
            "wa": (4, 3, 1, 1),
            **dict.fromkeys(("ba", "scale", "shift", "mean", "var"), (4,)),
            "wd": (4, 1, 1, 1),
            "wb": (64, 5),
        },
        {"wa": 3},
    ),
}
METHODS = [
    *({"method": m, "init": i} for m in ("zero-fan-out", "zero-fan-in") for i in ("kaiming", "orthogonal", "copy")),
    {"method": "near-zero", "init": "xavier"},
    {"method": "net2wider", "init": "lecun"},
]


def grown_tensors(graph: str, dtype: type = np.float32, **request: object) -> dict[str, GrownTensor]:
    text, weights, added = GRAPHS[graph]
    kind = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    rng = np.random.default_rng(7)
    given = {k: (rng.standard_normal(np.shape(np.empty(v))) + 2.0).astype(dtype) for k, v in weights.items()}  # type: ignore[arg-type]  # shapes
    model = model_of(text.replace("float[", f"{kind}["), given)
    analysis = analysis_of(model)
    found = added or {s.name: 2 for s in analysis.growable}
    grown = grow_sets(model, analysis, found, WidenRequest(**request))  # type: ignore[arg-type]  # any field
    return {k: t for k, t in constants(grown.model).items() if isinstance(t, GrownTensor)}


def whole(tensor: GrownTensor) -> bytes:
    """The bytes of the tensor computed as one region."""
    dims = tuple(int(d) for d in tensor.shape.numpy())
    values = tensor._open()(Region(0, tuple(slice(0, n) for n in dims), dims))
    return ir.Tensor(np.ascontiguousarray(values), dtype=tensor.dtype).tobytes()


@pytest.mark.parametrize("request_", METHODS, ids=lambda r: "-".join(r.values()))
@pytest.mark.parametrize("graph", GRAPHS)
def test_blocks_of_any_size_give_the_bytes_of_the_whole(graph: str, request_: dict[str, str]) -> None:
    found = grown_tensors(graph, **request_)
    assert found
    for name, tensor in found.items():
        try:
            expected = whole(tensor)
        except GrowError as refused:
            with pytest.raises(type(refused)):
                b"".join(bytes(b) for b in blocks(tensor, 4))
            continue
        itemsize = tensor.dtype.numpy().itemsize
        for size in (itemsize, 3 * itemsize, 7 * itemsize + 1, 10**6):
            parts = [bytes(b) for b in blocks(tensor, size)]
            assert b"".join(parts) == expected, name
            assert max(map(len, parts)) <= size
        assert tensor.numpy().tobytes() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_blocks_of_every_type_give_the_bytes_of_the_whole(dtype: type) -> None:
    for tensor in grown_tensors("plain", dtype, method="near-zero").values():
        assert b"".join(bytes(b) for b in blocks(tensor, 24)) == whole(tensor)


def test_long_runs_are_drawn_alone_and_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {k: whole(t) for k, t in grown_tensors("plain").items()}
    monkeypatch.setattr(layers, "SHORTEST_RUN", 1)
    assert {k: whole(t) for k, t in grown_tensors("plain").items()} == before


def test_nothing_is_drawn_where_zeros_and_old_entries_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("drawn")

    monkeypatch.setattr(layers.Drawing, "__call__", never)
    found = grown_tensors("plain")
    assert not np.asarray(found["wc"].numpy())[8:].any()
    with pytest.raises(AssertionError, match="drawn"):
        found["wa"].numpy()


def test_the_digest_is_that_of_the_whole_and_sees_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = grown_tensors("plain")["wa"]
    expected = tensor_digest(tensor)
    assert expected == hashlib.sha256(whole(tensor)).hexdigest()
    honest = tensor._open

    def faulty() -> grown_tensor.Entries:
        entries = honest()

        def altered(region: Region) -> np.ndarray:
            values = entries(region)
            values.flat[-1] += 1
            return values

        return altered

    monkeypatch.setattr(tensor, "_open", faulty)
    assert tensor_digest(tensor) != expected


def test_memory_follows_the_block_not_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grown_tensor, "BLOCK", 1 << 16)
    old = np.zeros((64, 1), np.float32)

    def entries(region: Region) -> np.ndarray:
        return np.broadcast_to(old[region.slices[0]], region.shape).copy()

    tensor = GrownTensor(lambda: entries, dtype=ir.DataType.FLOAT, shape=(64, 1 << 18), name="t")
    tracemalloc.start()
    try:
        total = sum(len(b) for b in blocks(tensor))
        assert total == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tensor.numpy()
        assert tracemalloc.get_traced_memory()[1] > 60 << 20, "the measure must be able to fail"
    finally:
        tracemalloc.stop()


def test_a_pass_that_is_given_up_ends() -> None:
    served: list[int] = []

    def entries(region: Region) -> np.ndarray:
        served.append(region.start)
        return np.zeros(region.shape, np.float32)

    tensor = GrownTensor(lambda: entries, dtype=ir.DataType.FLOAT, shape=(1000, 10), name="t")
    parts: Iterator[object] = tensor.raw_blocks(40)
    next(parts)
    parts.close()  # type: ignore[attr-defined]  # a generator
    assert len(served) < 20


def test_a_fault_in_a_worker_is_raised_where_the_tensor_is_read() -> None:
    def entries(region: Region) -> np.ndarray:
        if region.start >= 50:
            raise ValueError("worker")
        return np.zeros(region.shape, np.float32)

    tensor = GrownTensor(lambda: entries, dtype=ir.DataType.FLOAT, shape=(10, 10), name="t")
    with pytest.raises(ValueError, match="worker"):
        list(tensor.raw_blocks(40))


@pytest.mark.parametrize(
    ("dtype", "kind"), [(ir.DataType.BFLOAT16, ml_dtypes.bfloat16), (ir.DataType.INT4, ml_dtypes.int4)]
)
def test_types_numpy_does_not_know_are_stored_as_onnx_stores_them(dtype: ir.DataType, kind: type) -> None:
    values = np.arange(-7, 8).reshape(3, 5).astype(kind)
    tensor = GrownTensor(lambda: lambda r: values[r.slices], dtype=dtype, shape=(3, 5), name="t")
    assert b"".join(bytes(b) for b in blocks(tensor, 3)) == ir.Tensor(values, dtype=dtype).tobytes()


@given(st.lists(st.integers(0, 5), max_size=4), st.integers(1, 40))
def test_regions_follow_each_other_and_cover_everything(shape: list[int], most: int) -> None:
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    at = 0
    for region in regions(shape, most):
        part = numbers[region.slices]
        assert part.shape == region.shape
        assert part.size == region.size <= most
        assert part.reshape(-1).tolist() == list(range(at, at + part.size))
        assert region.start == at
        at += part.size
    assert at == numbers.size


@given(st.lists(st.lists(st.integers(0, 4), max_size=4, unique=True), min_size=1, max_size=3))
def test_grid_chooses_what_numpy_chooses(indices: list[list[int]]) -> None:
    values = np.arange(5 ** len(indices)).reshape([5] * len(indices))
    arrays = [np.array(i, np.int64) for i in indices]
    assert np.array_equal(values[grid(arrays)], values[np.ix_(*arrays)])


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 6))
def test_runs_hold_all_that_is_chosen(chosen: list[bool], shortest: int) -> None:
    found = runs(np.array(chosen), shortest)
    covered = {i for low, high in found for i in range(low, high)}
    wanted = {i for i, c in enumerate(chosen) if c}
    assert wanted <= covered
    assert len(found) <= 1 or covered == wanted
    assert all(a[1] < b[0] for a, b in itertools.pairwise(found))


@given(st.lists(st.none() | st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=3))
def test_a_mask_of_all_axes_is_their_intersection(masks: list[list[bool] | None]) -> None:
    shape = (3,) * len(masks)
    arrays = tuple(None if m is None else np.array(m) for m in masks)
    mask = Mask.where_all(arrays, shape)
    expected = np.ones(shape, bool)
    for axis, m in enumerate(arrays):
        if m is not None:
            expected &= m.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    for region in regions(shape, 4):
        assert np.array_equal(np.broadcast_to(mask.at(region), region.shape), expected[region.slices])
