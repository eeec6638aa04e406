"""Make large models with external data, for the tests of memory and speed.

A stack of feed-forward blocks with residual connections: x + MatMul(Relu(MatMul(x, up) + bias), down). An embedding
table in front of them is followed by a projection, so that it can grow. Weights are written block by block, so a model
may be larger than memory; sparse ones take no room on disk.

    python -m tools.make_big big.onnx --gigabytes 1.7
    python -m tools.make_big huge.onnx --gigabytes 6 --sparse
    python -m tools.make_big table.onnx --gigabytes 1.7 --embedding 1.0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

__all__ = ["main", "make_big"]

ALIGNMENT = 1 << 16
BLOCK = 1 << 22
"""Values written at once."""


class _Data:
    """The data file, written front to back."""

    def __init__(self, path: Path, sparse: bool) -> None:
        self.path, self.sparse = path, sparse
        self.rng = np.random.default_rng(0)
        self.end = 0
        path.write_bytes(b"")

    def add(self, name: str, shape: tuple[int, ...], spread: float) -> TensorProto:
        """A tensor of normal values; of a sparse one only the first 64 KB are, the rest is a hole of zeros."""
        count = int(np.prod(shape))
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        with open(self.path, "r+b") as file:
            file.seek(offset)
            for start in range(0, min(count, 1 << 14) if self.sparse else count, BLOCK):
                size = min(BLOCK, count - start, 1 << 14 if self.sparse else BLOCK)
                file.write((self.rng.standard_normal(size, np.float32) * np.float32(spread)).tobytes())
            file.truncate(offset + 4 * count)
        self.end = offset + 4 * count
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", str(offset)), ("length", str(4 * count))):
            tensor.external_data.add(key=key, value=value)
        return tensor


def make_big(path: Path, gigabytes: float, *, width: int = 1024, embedding: float = 0.0, sparse: bool = False) -> int:
    """Write a model and, beside it, its data file ``<stem>.data``.

    Args:
        path: Of the model file.
        gigabytes: Size of all weights, in 10⁹ bytes.
        width: Channels of the residual stream; blocks are four times as wide inside.
        embedding: Size of an embedding table in front, in 10⁹ bytes, part of ``gigabytes``.
        sparse: Leave holes in the data file.

    Returns:
        Number of feed-forward blocks.
    """
    hidden = 4 * width
    blocks = max(1, round((gigabytes - embedding) * 1e9 / (8 * width * hidden)))
    data = _Data(path.with_suffix(".data"), sparse)
    nodes, tensors = [], []
    current = "x"
    if embedding:
        rows = max(1, int(embedding * 1e9 / (4 * width)))
        tensors.append(data.add("table", (rows, width), 1.0))
        tensors.append(data.add("project", (width, width), width**-0.5))
        nodes.append(helper.make_node("Gather", ["table", "x"], ["embedded"]))
        nodes.append(helper.make_node("MatMul", ["embedded", "project"], ["projected"]))
        current = "projected"
    for i in range(blocks):
        tensors.append(data.add(f"up{i}", (width, hidden), (2 / width) ** 0.5))
        tensors.append(data.add(f"bias{i}", (hidden,), 0.01))
        tensors.append(data.add(f"down{i}", (hidden, width), 0.1 / hidden**0.5))
        nodes += [
            helper.make_node("MatMul", [current, f"up{i}"], [f"wide{i}"]),
            helper.make_node("Add", [f"wide{i}", f"bias{i}"], [f"biased{i}"]),
            helper.make_node("Relu", [f"biased{i}"], [f"active{i}"]),
            helper.make_node("MatMul", [f"active{i}", f"down{i}"], [f"back{i}"]),
            helper.make_node("Add", [current, f"back{i}"], [f"stream{i}"]),
        ]
        current = f"stream{i}"
    nodes.append(helper.make_node("Identity", [current], ["y"]))
    kind, shape = (TensorProto.INT64, ["N"]) if embedding else (TensorProto.FLOAT, ["N", width])
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return blocks


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.7)
    parser.add_argument("--embedding", type=float, default=0.0, help="10⁹ bytes of it in one embedding table")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--sparse", action="store_true")
    given = parser.parse_args()
    blocks = make_big(given.path, given.gigabytes, width=given.width, embedding=given.embedding, sparse=given.sparse)
    size = given.path.with_suffix(".data").stat().st_size
    print(f"{given.path}: {blocks} blocks, {size / 1e9:.2f} GB of weights")


if __name__ == "__main__":
    main()
