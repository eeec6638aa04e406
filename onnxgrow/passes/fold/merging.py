"""Merge the linear layers on both sides of an ActiSwitch that became linear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.growth_map import MERGED, TensorGrowth
from onnxgrow.passes.fold.linear import Linear, NotMergeableError, merge
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["Merger"]

Array = npt.NDArray[np.float64]
LINEAR = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Stored:
    """A linear layer as it is stored.

    Attributes:
        layer: What it computes.
        node: The Conv, Gemm or MatMul.
        bias: The node that adds the bias, and its input: the layer's own node, or an Add behind a MatMul; None where
            there is no room for one.
    """

    layer: Linear
    node: ir.Node
    bias: tuple[ir.Node, int] | None

    @property
    def last(self) -> ir.Node:
        return self.bias[0] if self.bias is not None else self.node


class Merger:
    """Merges layers of a copied model.

    Args:
        rewriter: Of the copy.
        shapes: Shapes of the original's values.

    Attributes:
        tensors: New tensors, as in the growth map.
        entries: Number of their entries.
        saved: Floating-point operations saved, 2 per multiply-add.
    """

    def __init__(self, rewriter: Rewriter, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.rewriter = rewriter
        self.entries = 0
        self.saved = 0
        self._shapes = shapes
        self.tensors: dict[str, TensorGrowth] = {}

    def merge(self, x: ir.Value, out: ir.Value, scale: Array) -> str:
        """Merge the layer that makes ``x`` into the one that reads ``out``, which is ``scale`` · ``x``.

        Returns:
            The name of the layer that stays.

        Raises:
            NotMergeableError: They do not make one layer.
        """
        maker = x.producer()
        readers = list(out.uses())
        if maker is None or len(readers) != 1 or len(list(x.uses())) != 1 or out.is_graph_output():
            raise NotMergeableError("it is not alone between two linear layers")
        first, second = self._ending(maker), self._starting(readers[0].node, readers[0].idx)
        made = merge(first.layer, scale, second.layer)
        if made.bias is not None and second.bias is None:
            raise NotMergeableError("the second layer has no place for the first's bias")
        base = second.node.name or node_key(second.node)
        key = node_key(second.node)
        weight = second.node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        dtype = weight.const_value.dtype
        source = first.node.inputs[0]
        assert source is not None
        self.rewriter.set_input(key, 0, source.name or "")
        entries = _laid_out(second.node, made.weight)
        self.rewriter.set_input(key, 1, self._tensor(f"{base}.merged.weight", entries, dtype, weight.name or ""))
        replaced = [weight]
        if made.bias is not None and second.bias is not None:
            holder, index = second.bias
            old = holder.inputs[index] if index < len(holder.inputs) else None
            name = self._tensor(f"{base}.merged.bias", made.bias, dtype, weight.name or "")
            self.rewriter.set_input(node_key(holder), index, name)
            replaced += [old] if old is not None else []
        for attribute, value in made.attributes.items():
            self.rewriter.set_attribute(key, attribute, value)
        self.saved += self._flops(first, first.layer.weight) + self._flops(second, second.layer.weight)
        self.saved -= self._flops(second, made.weight)
        self._sweep([out.producer(), x.producer(), first.last, first.node], replaced)
        return base

    def _flops(self, stored: _Stored, weight: Array) -> int:
        shape = self._shapes.get(stored.node.outputs[0].name or "", ())
        positions = math.prod(shape) // max(1, int(weight.shape[0]))
        return 2 * int(weight.size) * positions

    def _tensor(self, wanted: str, values: Array, dtype: ir.DataType, beside: str) -> str:
        name = self.rewriter.add_constant(wanted, ir.Tensor(values.astype(dtype.numpy()), dtype=dtype), beside)
        self.tensors[name] = TensorGrowth(formula=MERGED)
        self.entries += values.size
        return name

    def _sweep(self, nodes: list[ir.Node | None], constants: list[ir.Value]) -> None:
        """Remove nodes that nothing reads any more, the later ones first, and the constants that only they read."""
        for node in dict.fromkeys(n for n in nodes if n is not None):
            if node.graph is None or any(list(o.uses()) or o.is_graph_output() for o in node.outputs):
                continue
            constants += [v for v in node.inputs if v is not None]
            self.rewriter.remove(node_key(node))
        for value in dict.fromkeys(constants):
            self.rewriter.sweep(value)

    def _ending(self, node: ir.Node) -> _Stored:
        """The layer that a node ends."""
        if node.op_type != "Add":
            return self._stored(node, None)
        for index, value in enumerate(node.inputs):
            inner = value.producer() if value is not None else None
            if inner is not None and inner.op_type == "MatMul" and len(list(inner.outputs[0].uses())) == 1:
                return self._stored(inner, (node, 1 - index))
        raise NotMergeableError("no linear layer makes what it reads")

    def _starting(self, node: ir.Node, index: int) -> _Stored:
        """The layer that a node starts."""
        if index:
            raise NotMergeableError("no linear layer reads it as its data")
        users = list(node.outputs[0].uses())
        if node.op_type == "MatMul" and len(users) == 1 and users[0].node.op_type == "Add":
            adder = (users[0].node, 1 - users[0].idx)
            if _constant(adder[0].inputs[adder[1]]) is not None:
                return self._stored(node, adder)
        return self._stored(node, None)

    def _stored(self, node: ir.Node, adder: tuple[ir.Node, int] | None) -> _Stored:
        if node.op_type not in LINEAR or node.domain not in ("", "ai.onnx"):
            raise NotMergeableError(f"{node.op_type} is no linear layer")
        weight = _constant(node.inputs[1])
        if weight is None:
            raise NotMergeableError("a weight is not stored, or read by something else, too")
        if node.op_type == "MatMul":
            held = adder
            if weight.ndim != 2:
                raise NotMergeableError("a weight is no matrix")
            weight = weight.T
        else:
            held = (node, 2)
            if node.op_type == "Gemm":
                factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
                if factors != [1.0, 1.0] or node.attributes.get_int("transA"):
                    raise NotMergeableError("a Gemm has factors, or a transposed input")
                weight = weight if node.attributes.get_int("transB") else weight.T
        bias = None
        if held is not None and held[1] < len(held[0].inputs) and held[0].inputs[held[1]] is not None:
            bias = _constant(held[0].inputs[held[1]])
            if bias is None or bias.shape != weight.shape[:1]:
                raise NotMergeableError("a bias is not stored, not one number an output, or shared")
        return _Stored(Linear(weight, bias, node), node, held)


def _constant(value: ir.Value | None) -> Array | None:
    """The entries of an initializer that one node only reads."""
    if value is None or value.const_value is None or value.producer() is not None or len(list(value.uses())) != 1:
        return None
    return np.asarray(value.const_value.numpy()).astype(np.float64)


def _laid_out(node: ir.Node, weight: Array) -> Any:
    """(outputs, inputs, …) as the node wants it."""
    plain = node.op_type == "Conv" or (node.op_type == "Gemm" and node.attributes.get_int("transB"))
    return weight if plain else np.ascontiguousarray(weight.T)
