"""The constants of a grown file, and where the original's entries lie in them.

The growth map (with those of earlier generations) says for every axis where the old indices went; what is left when
the new ones are taken out is the original's tensor, as long as the file was not trained since.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxgrow.errors import BadInputError
from onnxgrow.growth_map import SCALED, GrowthMap, TensorGrowth
from onnxgrow.torch.leaves import all_graphs, constant_values
from onnxgrow.torch.tensors import DTYPES, to_torch

__all__ = ["Held", "as_bits", "generations", "held_constants", "same_bits"]

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of the dynamo exporter's nodes: the modules that they come from."""


@dataclass
class Held:
    """A floating-point constant of the grown file.

    Attributes:
        name: Its name in the grown file; with the direction in brackets for one of a bidirectional layer's.
        old_name: That of the original's tensor it comes from.
        aliases: Names of Identity nodes' outputs that stand for it.
        grown: Its value.
        original: Its old entries, at their old places; None where the original had no such tensor.
        positions: Axis → new index of each old index, for the axes that grew.
        factor: What the entries in ``original`` were multiplied by.
        inserted: Whether only nodes that a growth inserted read it.
        scopes: Paths of the nodes that read it, as tuples of module names.
        tensor: The name without the direction.
    """

    name: str
    old_name: str
    grown: Tensor
    original: Tensor | None
    positions: dict[int, Tensor] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    factor: float = 1.0
    inserted: bool = False
    scopes: tuple[tuple[str, ...], ...] = ()
    tensor: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a checkpoint may know it by."""
        return (self.name, self.old_name, *self.aliases)

    @property
    def is_changed(self) -> bool:
        """Whether it differs from the original's tensor in shape or value, or is new."""
        return self.original is None or self.factor != 1 or not same_bits(self.grown, self.original)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of type, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bits(a), as_bits(b))


def as_bits(tensor: Tensor) -> Tensor:
    """The entries as integers of their size."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.element_size()])


def generations(model: ir.Model) -> list[GrowthMap]:
    """The growth maps of a model, the newest first; empty when it never grew.

    Raises:
        BadInputError: One of them is malformed.
    """
    try:
        newest = GrowthMap.of_model(model.metadata_props)
        if newest is None:
            return []
        earlier = [GrowthMap.from_json({**data, "history": []}) for data in newest.history]
    except ValueError as error:
        raise BadInputError("growth map", str(error)) from error
    return [newest, *reversed(earlier)]


def held_constants(model: ir.Model, original: ir.Model | None) -> list[Held]:
    """Floating-point constants of a grown file.

    Args:
        model: The grown file.
        original: The file that it was grown from, for files that were trained since.

    Raises:
        BadInputError: The growth map does not fit the tensors.
    """
    maps = generations(model)
    inserted = {name for growth_map in maps for name in growth_map.inserted}
    before = None if original is None else {v.name or "": t for v, t in _floats(original)}
    merged = {} if original is None else _merged(original)
    found = []
    for value, tensor in _floats(model):
        name = value.name or ""
        held = _trace(name, merged.get(name, name), to_torch(tensor), maps)
        if before is not None:
            stored = before.get(held.old_name)
            held.original, held.factor = None if stored is None else to_torch(stored), 1.0
            if held.original is not None and list(held.original.shape) != _old_shape(held):
                raise BadInputError(held.name, f"the growth map does not lead to it from {held.old_name}")
        readers = [use.node for use in value.uses()]
        held.inserted = bool(readers) and all(_key(node) in inserted for node in readers)
        held.aliases = tuple(n.outputs[0].name or "" for n in readers if n.op_type == "Identity")
        held.scopes = tuple(_scopes(value))
        if held.inserted:
            held.original = None
        held.tensor = name
        found += _directions(held) if readers and all(_is_two_way(u.node, u.idx) for u in value.uses()) else [held]
    return found


def _is_two_way(node: ir.Node, index: int) -> bool:
    """Whether a tensor is read as the weights, biases or peepholes of a bidirectional layer."""
    direction = node.attributes.get("direction")
    recurrent = node.op_type in ("LSTM", "GRU", "RNN") and index in (1, 2, 3, 7)
    return recurrent and direction is not None and direction.as_string() == "bidirectional"


def _directions(held: Held) -> list[Held]:
    """The tensors of either direction, which ONNX has in one: a checkpoint holds them apart."""
    if 0 in held.positions or not held.grown.dim() or held.grown.shape[0] != 2:
        return [held]
    return [
        replace(
            held,
            name=f"{held.name}[{i}]",
            grown=held.grown[i : i + 1],
            original=None if held.original is None else held.original[i : i + 1],
        )
        for i in range(2)
    ]


def _floats(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in all_graphs(model.graph):
        for value, tensor in constant_values(graph):
            if tensor.dtype.is_floating_point() and tensor.dtype in DTYPES:
                yield value, tensor


def _merged(original: ir.Model) -> dict[str, str]:
    """Names that an Identity node gives to initializers: training takes such copies apart."""
    return {
        output: value.name or ""
        for value, _ in _floats(original)
        for output in (use.node.outputs[0].name for use in value.uses() if use.node.op_type == "Identity")
        if output
    }


def _key(node: ir.Node) -> str:
    return next((o.name for o in node.outputs if o.name), "") or ""


def _trace(name: str, old_name: str, grown: Tensor, maps: list[GrowthMap]) -> Held:
    """Follow a tensor back through the generations."""
    held = Held(name, old_name, grown, grown)
    for growth_map in maps:
        growth = growth_map.tensors.get(held.old_name, TensorGrowth())
        if growth.formula == SCALED:
            held.factor *= growth.factor
        elif held.old_name in growth_map.tensors and not growth.axes and not growth.of:
            held.original = None  # new, or with other values: only the original file could tell
        for axis, axis_map in growth.axes.items():
            sizes = _old_shape(held)
            if axis >= len(sizes) or axis_map.new_size != sizes[axis]:
                raise BadInputError(name, f"the growth map does not fit its shape {list(grown.shape)}")
            if axis_map.is_identity:
                continue
            kept = torch.from_numpy(np.ascontiguousarray(axis_map.positions()))
            held.positions[axis] = held.positions[axis][kept] if axis in held.positions else kept
        held.old_name = growth.of or held.old_name
    for axis, kept in held.positions.items():
        if held.original is not None:
            held.original = held.original.index_select(axis, kept)
    return held


def _old_shape(held: Held) -> list[int]:
    return [len(held.positions[axis]) if axis in held.positions else n for axis, n in enumerate(held.grown.shape)]


def _scopes(value: ir.Value, depth: int = 0) -> Iterator[tuple[str, ...]]:
    """Modules that the readers of a constant belong to, as exporters write them down; through moving nodes, too."""
    for node in (use.node for use in value.uses()):
        path = _scope_of(node.metadata_props) or tuple(p for p in re.split(r"[/.]+", node.name or "") if p)[:-1]
        if path:
            yield path
        if depth < 4 and node.op_type in ("Identity", "Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze"):
            yield from _scopes(node.outputs[0], depth + 1)


def _scope_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        scopes = ast.literal_eval(metadata.get(SCOPES, "[]"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if not isinstance(scopes, list) or len(scopes) < 2 or not all(isinstance(s, str) for s in scopes):
        return ()
    return tuple(p for p in scopes[-2].split(".") if p)
