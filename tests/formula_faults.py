"""Ways to drop the compensation of a growth formula from a grown model, for the audit of the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.concrete.values import constants
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["Fault", "Faulty", "appended", "attribute", "filled", "replaced", "rewired", "rolled"]


@dataclass
class Faulty:
    """A grown model in which something is put wrong, beside its original and its growth map."""

    old: ir.Model
    new: ir.Model
    map: GrowthMap

    @classmethod
    def of(cls, old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
        return cls(old, copy_model(new), growth_map)

    def get(self, name: str) -> np.ndarray:
        return np.array(constants(self.new)[name].numpy())

    def put(self, name: str, values: np.ndarray) -> None:
        Rewriter(self.new).set_constant(name, ir.Tensor(np.ascontiguousarray(values), name=name))


Fault = Callable[[Faulty], None]


def filled(name: str, axis: int | None = None, value: float = 0.5) -> Fault:
    """New entries (along one axis, or any) that are zero get a value."""

    def fault(f: Faulty) -> None:
        values = f.get(name)
        new = np.zeros(values.shape, bool)
        for number, axis_map in f.map.tensors[name].axes.items():
            if axis is None or number == axis:
                index = [slice(None)] * values.ndim
                index[number] = np.flatnonzero(axis_map.source() < 0)
                new[tuple(index)] = True
        assert (values[new] == 0).any(), "nothing was zero"
        values[new & (values == 0)] = value
        f.put(name, values)

    return fault


def appended(name: str, axis: int) -> Fault:
    """New entries stand at the end, where they should stand between old ones."""

    def fault(f: Faulty) -> None:
        values, source = f.get(name), f.map.tensors[name].axes[axis].source()
        order = np.concatenate([np.flatnonzero(source >= 0), np.flatnonzero(source < 0)])
        assert not np.array_equal(order, np.arange(order.size)), "they stand at the end"
        f.put(name, np.take(values, order, axis))

    return fault


def rolled(name: str, axis: int) -> Fault:
    """Every entry one place further."""
    return lambda f: f.put(name, np.roll(f.get(name), 1, axis))


def replaced(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """Other numbers, from those that the original has."""

    def fault(f: Faulty) -> None:
        made = make(np.array(constants(f.old)[name].numpy()))
        values = f.get(name)
        assert made.dtype == values.dtype
        assert not np.array_equal(made, values)
        f.put(name, made)

    return fault


def attribute(node: str, name: str, value: object) -> Fault:
    """Another attribute of the node that makes a value."""
    return lambda f: Rewriter(f.new).set_attribute(node, name, value)


def rewired(nodes: Sequence[str] = ()) -> Fault:
    """Nodes read what they read in the original: a size that grew with the tensor it is taken of."""

    def fault(f: Faulty) -> None:
        changed = [(node, i, old) for node, c in f.map.nodes.items() for i, (old, _) in c.inputs.items()]
        changed = [entry for entry in changed if not nodes or entry[0] in nodes]
        assert changed, "no node reads anything else"
        for node, index, old in changed:
            Rewriter(f.new).set_input(node, index, old)

    return fault
