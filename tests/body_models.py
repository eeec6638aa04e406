"""Small networks with weights inside bodies of control flow, shared by the tests that grow and verify them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

__all__ = ["IF", "LOOP", "MODELS", "NESTED", "SAME_NAMES", "SCAN", "SHARED", "body_model", "text_model_with_bodies"]

HEADER = '<ir_version: 8, opset_import: ["": 17]>'

IF = """
g (float[N,6] x, bool c) => (float[N,3] y) {
  h = Relu(x)
  t = If(c) <
    then_branch = yes () => (float[N,3] y1) { a1 = MatMul(h, w1) b1 = Relu(a1) y1 = MatMul(b1, w2) },
    else_branch = no () => (float[N,3] y2) { a2 = Gemm(h, v1, z1) b2 = Tanh(a2) y2 = MatMul(b2, v2) }
  >
  y = Identity(t)
}"""
"""Weights of each branch; where they are stored is up to the test."""

NESTED = """
g (float[N,6] x, bool c) => (float[N,3] y) {
  d = Not(c)
  y = If(c) <
    then_branch = yes () => (float[N,3] y1) {
      a1 = MatMul(x, w1) b1 = Relu(a1)
      e1 = MatMul(b1, w2)
      y1 = If(d) <
        then_branch = deep () => (float[N,3] y3) { a3 = MatMul(e1, u1) b3 = Relu(a3) y3 = MatMul(b3, u2) },
        else_branch = flat () => (float[N,3] y4) { y4 = MatMul(e1, u3) }
      >
    },
    else_branch = no () => (float[N,3] y2) { y2 = MatMul(x, v1) }
  >
}"""

LOOP = """
g (float[N,6] x, int64 n) => (float[N,6] y, float[K,N,3] s) {
  go = Constant<value_int = 1>()
  run = Cast<to = 9>(go)
  y, s = Loop(n, run, x) <
    body = step (int64 i, bool g_in, float[N,6] h_in) => (bool g_out, float[N,6] h_out, float[N,3] o) {
      a = MatMul(h_in, w1) b = Relu(a) f = MatMul(b, w2)
      h_out = Add(h_in, f)
      q = MatMul(h_out, w3) r = Tanh(q) o = MatMul(r, w4)
      g_out = Identity(g_in)
    }
  >
}"""
"""A residual FFN applied n times to a carried state, and an output of each step."""

SCAN = """
g (float[T,6] x, float[4] h0) => (float[4] h, float[T,3] y) {
  h, y = Scan<num_scan_inputs = 1,
    body = cell (float[4] h_in, float[6] x_t) => (float[4] h_out, float[3] y_t) {
      a = MatMul(x_t, w1) b = Relu(a) f = MatMul(b, w2)
      k = Add(f, h_in) h_out = Tanh(k)
      y_t = MatMul(h_out, w3)
    }
  >(h0, x)
}"""

SHARED = """
g (float[N,6] x, bool c) => (float[N,3] y) {
  y = If(c) <
    then_branch = yes () => (float[N,3] y1) { a1 = MatMul(x, w1) b1 = Relu(a1) y1 = MatMul(b1, w2) },
    else_branch = no () => (float[N,3] y2) { a2 = MatMul(x, w1) b2 = Tanh(a2) y2 = MatMul(b2, v2) }
  >
}"""
"""Both branches read w1 of the graph around them."""

SAME_NAMES = """
g (float[N,6] x, bool c) => (float[N,3] y) {
  y = If(c) <
    then_branch = yes () => (float[N,3] z) { a = MatMul(x, w1) b = Relu(a) z = MatMul(b, w2) },
    else_branch = no () => (float[N,3] z) { a = MatMul(x, w1) b = Tanh(a) z = MatMul(b, w2) }
  >
}"""
"""Two branches whose tensors have the same names, each its own."""

Stored = Mapping[str, Mapping[str, tuple[int, ...]]]

MODELS: dict[str, tuple[str, Stored]] = {
    "branches that own their weights": (
        IF,
        {"yes": {"w1": (6, 5), "w2": (5, 3)}, "no": {"v1": (6, 7), "z1": (7,), "v2": (7, 3)}},
    ),
    "branches that capture their weights": (
        IF,
        {"g": {"w1": (6, 5), "w2": (5, 3), "v1": (6, 7), "z1": (7,), "v2": (7, 3)}},
    ),
    "If in If": (
        NESTED,
        {"g": {"u3": (4, 3)}, "yes": {"w1": (6, 5), "w2": (5, 4), "u1": (4, 7)}, "no": {"v1": (6, 3)},
         "deep": {"u2": (7, 3)}},
    ),
    "Loop": (LOOP, {"step": {"w1": (6, 5), "w2": (5, 6)}, "g": {"w3": (6, 4), "w4": (4, 3)}}),
    "Scan": (SCAN, {"cell": {"w1": (6, 5), "w2": (5, 4)}, "g": {"w3": (4, 3)}}),
    "branches with the same names": (
        SAME_NAMES,
        {"yes": {"w1": (6, 5), "w2": (5, 3)}, "no": {"w1": (6, 7), "w2": (7, 3)}},
    ),
}  # fmt: skip
"""Name → (text, graph → weights stored in it); every set inside a body of these can grow but those at its borders."""


def text_model_with_bodies(graph: str, stored: Stored, *, as_nodes: bool = False, header: str = HEADER) -> ir.Model:
    """A model from its text, with random weights stored in the graphs of these names, maybe as Constant nodes."""
    proto = onnx.parser.parse_model(f"{header} {graph}")
    for inside in _graphs(proto.graph):
        for name, shape in stored.get(inside.name, {}).items():
            seed = int.from_bytes(f"{inside.name}{name}".encode(), "little") % 2**32
            values = np.random.default_rng(seed).normal(size=shape).astype(np.float32) / np.float32(2.0)
            tensor = onnx.numpy_helper.from_array(values, name)
            if as_nodes:
                inside.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensor))
            else:
                inside.initializer.append(tensor)
    return ir.from_proto(proto)


def body_model(name: str, *, as_nodes: bool = False) -> ir.Model:
    """One of :data:`MODELS`."""
    return text_model_with_bodies(*MODELS[name], as_nodes=as_nodes)


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _graphs(attribute.g)
    return found
