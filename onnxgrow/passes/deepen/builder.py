"""Adds nodes and their tensors to a copied model, and writes down what each of them is for the growth map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.calls import inner_name, node_keys
from onnxgrow.concrete.values import dims_of
from onnxgrow.growth_map import DRAWN, FILLED, IDENTITY, ONES, ZEROS, TensorGrowth, ValueGrowth
from onnxgrow.init import cast
from onnxgrow.passes.deepen.places import Place
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["ROLE_KEY", "Builder", "Draw"]

ROLE_KEY = "onnxgrow.role"
"""Metadata of an initializer that says what it is, for the tools of training."""


Draw = Callable[[str], npt.NDArray[np.float64]]
"""Initial values of a tensor, by its name."""


class Builder:
    """Inserts parts behind one value after the other.

    Args:
        rewriter: Of the copied model.

    Attributes:
        tensors, values: As in the growth map.
        instead: Value → what its readers, one of them or more, read now.
        calls: Calls of local functions, by their output.
    """

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.tensors: dict[str, TensorGrowth] = {}
        self.values: dict[str, ValueGrowth] = {}
        self._beside = next((n for n, v in rewriter.graph.initializers.items() if v.const_value is not None), "")
        self._last: dict[str, str] = {}
        self.instead: dict[str, str] = {}
        self.calls: list[str] = []

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        imports = self.rewriter.model.opset_imports
        return imports.get("", imports.get("ai.onnx", 1))

    def node(
        self,
        place: Place,
        op_type: str,
        inputs: Sequence[str],
        name: str,
        attributes: Iterable[ir.Attr] = (),
        *,
        of: str = "",
        domain: str = "",
    ) -> str:
        """Insert a node behind the value of a place and all that was inserted there before; returns its output.

        ``of`` names the value of the original that the output equals.
        """
        behind = self._last.get(place.value, place.value)
        made = self.rewriter.insert_after(behind, op_type, list(inputs), name, attributes, domain=domain)
        self._last[place.value] = made
        if of:
            self.values[made] = ValueGrowth({}, of)
        return made

    def call(self, place: Place, function: ir.Function, inputs: Sequence[str], name: str, of: Mapping[str, str]) -> str:
        """Insert a call of a local function of one output; returns that.

        ``of`` names the values of the original that values of the function equal, as for :meth:`node`. The growth map
        speaks of the call as expanded.
        """
        made = self.node(place, function.name, inputs, name, domain=function.domain)
        self.calls.append(made)
        position = self.rewriter.inserted.index(made)
        self.rewriter.inserted[position : position + 1] = node_keys(made, function)
        for inner, value in of.items():
            if value:
                key = made if inner == function.outputs[0].name else inner_name(made, inner)
                self.values[key] = ValueGrowth({}, value)
        return made

    def clone(self, place: Place, node: ir.Node, inputs: Sequence[str], named: Callable[[str], str]) -> dict[str, str]:
        """Insert a copy of a node behind all that was inserted at a place; see :meth:`Rewriter.insert_clone`."""
        behind = self._last.get(place.value, place.value)
        made = self.rewriter.insert_clone(behind, node, list(inputs), named)
        self._last[place.value] = next(iter(made.values()))
        return made

    def constant(self, name: str) -> ir.TensorProtocol:
        """A stored constant."""
        return self.rewriter.constant(name)

    def number(self, value: float, dtype: ir.DataType, name: str) -> str:
        """A scalar that is no parameter."""
        tensor = ir.Tensor(np.array(value).astype(dtype.numpy()), dtype=dtype)
        return self.rewriter.add_constant(name, tensor, "", as_node=True)

    def filled(self, value: float, shape: Sequence[int], dtype: ir.DataType, name: str, role: str = "") -> str:
        """A parameter of one value."""
        formula, factor = (ZEROS, 1.0) if value == 0 else (ONES, 1.0) if value == 1 else (FILLED, float(value))

        def make() -> ir.Tensor[Any]:
            return ir.Tensor(np.full(tuple(shape), value).astype(dtype.numpy()), dtype=dtype, name=name)

        return self._parameter(make, shape, dtype, name, TensorGrowth(formula=formula, factor=factor), role)

    def identity(self, shape: Sequence[int], dtype: ir.DataType, name: str) -> str:
        """The weight of an identity: (channels, channels), or that of a convolution with its 1 at tap ⌊k/2⌋."""

        def make() -> ir.Tensor[Any]:
            values = np.zeros(tuple(shape), dtype.numpy())
            rows = np.arange(shape[0])
            values[(rows, rows % shape[1], *(np.full_like(rows, k // 2) for k in shape[2:]))] = 1
            return ir.Tensor(values, dtype=dtype, name=name)

        return self._parameter(make, shape, dtype, name, TensorGrowth(formula=IDENTITY), "")

    def drawn(self, shape: Sequence[int], dtype: ir.DataType, name: str, draw: Draw) -> str:
        """A parameter with initial draws."""
        made = self.rewriter.fresh(name)

        def make() -> ir.Tensor[Any]:
            return ir.Tensor(cast(draw(made), dtype.numpy()), dtype=dtype, name=made)

        return self._parameter(make, shape, dtype, made, TensorGrowth(formula=DRAWN), "", named=True)

    def copied(self, of: str, name: str) -> str:
        """A parameter with the entries of another one."""
        tensor = self.constant(of)

        def make() -> ir.Tensor[Any]:
            return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)

        return self._parameter(make, dims_of(tensor), tensor.dtype, name, TensorGrowth(of=of), "")

    def _parameter(
        self,
        make: Any,
        shape: Sequence[int],
        dtype: ir.DataType,
        name: str,
        growth: TensorGrowth,
        role: str,
        *,
        named: bool = False,
    ) -> str:
        metadata = {ROLE_KEY: role} if role else None
        tensor = ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(list(shape)), name=name, metadata_props=metadata)
        made = self.rewriter.add_constant(name, tensor, self._beside, named=named)
        self.tensors[made] = growth
        return made

    def lead_to(self, place: Place, name: str) -> None:
        """Let the readers of a place read ``name``."""
        for key, index in place.readers:
            self.rewriter.set_input(key, index, name)
        self.instead[place.value] = name
