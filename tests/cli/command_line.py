"""Small models on disk, and what one run of the command line did."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

MLP = """
<ir_version: 8, opset_import: ["" : 17]>
mlp (float[N, 4] x) => (float[N, 3] y)
<float[8, 4] w1, float[8] b1, float[3, 8] w2>
{
    h = Gemm<transB=1>(x, w1, b1)
    a = Relu(h)
    y = Gemm<transB=1>(a, w2)
}
"""


@dataclass(frozen=True)
class Outcome:
    """Exit code and streams of one command line."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def parsed(text: str = MLP, **weights: np.ndarray) -> onnx.ModelProto:
    """A text model whose declared inner values become weights: those given, or random ones."""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        values = weights.get(value.name, random.standard_normal(shape))
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), value.name))
    del model.graph.value_info[:]
    return model


def listing(folder: Path) -> dict[str, str]:
    """Everything in a folder, files with the digest of their bytes."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "no file"
        for p in sorted(folder.rglob("*"))
    }
