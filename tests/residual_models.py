"""Small networks with residual blocks: transformers, pre-norm and post-norm, and CNNs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from support import model_of

__all__ = ["resnet", "transformer"]

WIDTH, HIDDEN = 8, 12


def _attention(i: int, x: str) -> str:
    return f"""
        q{i} = MatMul({x}, wq{i})  k{i} = MatMul({x}, wk{i})  v{i} = MatMul({x}, wv{i})
        kt{i} = Transpose<perm=[0,2,1]>(k{i})  qk{i} = MatMul(q{i}, kt{i})  sc{i} = Mul(qk{i}, scale)
        ms{i} = Add(sc{i}, mask)  p{i} = Softmax(ms{i})  z{i} = MatMul(p{i}, v{i})
        o{i} = MatMul(z{i}, wo{i})  f{i} = Add(o{i}, bo{i})
    """


def _mlp(i: int, x: str) -> str:
    return f"""
        m{i} = MatMul({x}, w1_{i})  mb{i} = Add(m{i}, b1_{i})  e{i} = Sigmoid(mb{i})  g{i} = Mul(mb{i}, e{i})
        d{i} = MatMul(g{i}, w2_{i})  h{i} = Add(d{i}, b2_{i})
    """


def transformer(
    layers: int = 2,
    *,
    post_norm: bool = False,
    norms: bool = True,
    outputs: str = "",
    replaced: Mapping[str, str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> ir.Model:
    """A masked transformer of one head; ``s<i>`` and ``t<i>`` are the sums behind attention and MLP of layer i.

    Args:
        layers: How many.
        post_norm: Normalise sums rather than what branches read.
        norms: Whether there are any.
        outputs: Further outputs, as text.
        replaced: Text to replace in the graph.
        weights: Instead of random ones.
    """
    lines, x = [], "x"
    held: dict[str, object] = {"mask": np.triu(np.full((5, 5), -np.inf, np.float32), 1), "scale": np.float32(0.35)}
    for i in range(layers):
        d = WIDTH
        held |= {f"w{c}{i}": (d, d) for c in "qkvo"}
        held |= {f"bo{i}": (d,), f"w1_{i}": (d, HIDDEN), f"b1_{i}": (HIDDEN,), f"w2_{i}": (HIDDEN, d), f"b2_{i}": (d,)}
        held |= {f"{name}{i}": (d,) for name in ("ga", "ba", "gm", "bm")} if norms else {}
        if post_norm:
            lines += [_attention(i, x), f"s{i} = Add({x}, f{i})  na{i} = LayerNormalization(s{i}, ga{i}, ba{i})"]
            lines += [_mlp(i, f"na{i}"), f"t{i} = Add(na{i}, h{i})  nm{i} = LayerNormalization(t{i}, gm{i}, bm{i})"]
            x = f"nm{i}"
            continue
        read = [x, f"s{i}"]
        if norms:
            lines.append(f"na{i} = LayerNormalization({x}, ga{i}, ba{i})")
            read[0] = f"na{i}"
        lines += [_attention(i, read[0]), f"s{i} = Add({x}, f{i})"]
        if norms:
            lines.append(f"nm{i} = LayerNormalization(s{i}, gm{i}, bm{i})")
            read[1] = f"nm{i}"
        lines += [_mlp(i, read[1]), f"t{i} = Add(s{i}, h{i})"]
        x = f"t{i}"
    held |= {"head": (WIDTH, 3)}
    body = "\n".join(lines)
    for old, new in (replaced or {}).items():
        assert old in body, old
        body = body.replace(old, new)
    held |= dict(weights or {})
    held = {k: v for k, v in held.items() if any(f"{k}{end}" in body for end in (",", ")")) or k == "head"}
    return model_of(f"g (float[n,5,{WIDTH}] x) => (float[n,5,3] y{outputs}) {{ {body} y = MatMul({x}, head) }}", held)


def resnet(blocks: int = 2, *, activation: str = "{y} = Relu({x})", norm: bool = False) -> ir.Model:
    """Stride-1 blocks of two 3x3 convolutions, an activation behind each sum; ``r<i>`` is what that of block i makes.

    Args:
        blocks: How many.
        activation: That behind sums, as text.
        norm: Whether blocks end in a BatchNormalization.
    """
    pads = "<pads=[1,1,1,1]>"
    lines = [f"st = Conv{pads}(x, w0)  r = Relu(st)"]
    held: dict[str, object] = {"w0": (4, 3, 3, 3), "head": (2, 4, 1, 1)}
    x = "r"
    for i in range(blocks):
        held |= {f"u{i}": (4, 4, 3, 3), f"ub{i}": (4,), f"v{i}": (4, 4, 3, 3), f"vb{i}": (4,)}
        end = f"f{i}"
        lines.append(f"c{i} = Conv{pads}({x}, u{i}, ub{i})  a{i} = Relu(c{i})  f{i} = Conv{pads}(a{i}, v{i}, vb{i})")
        if norm:
            held |= {f"{name}{i}": (4,) for name in ("ga", "be", "me")} | {f"va{i}": np.full(4, 2.0, np.float32)}
            lines.append(f"bn{i} = BatchNormalization(f{i}, ga{i}, be{i}, me{i}, va{i})")
            end = f"bn{i}"
        lines.append(f"s{i} = Add({end}, {x})  " + activation.format(y=f"r{i}", x=f"s{i}"))
        x = f"r{i}"
    return model_of(f"g (float[n,3,6,6] x) => (float[n,2,6,6] y) {{ {' '.join(lines)} y = Conv({x}, head) }}", held)
