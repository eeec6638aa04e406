"""Tensors: every one of the original is there, equal or listed, and none is new that is not listed."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.concrete.values import constants, dims_of
from onnxgrow.growth_map import CONTENTS, MERGED, TensorGrowth
from onnxgrow.io.digest import tensor_digest
from onnxgrow.verify.accounting.ledger import Ledger, input_names, key_of
from onnxgrow.verify.certificate.equality import tensor_with_names_difference, value_difference
from onnxgrow.verify.certificate.formulas import OPERAND
from onnxgrow.verify.contents import content_difference
from onnxgrow.verify.fit import shape_difference

__all__ = ["check_initializers", "check_listed_tensors"]


def check_initializers(ledger: Ledger) -> None:
    """Initializers in order; those that are not listed are equal."""
    old, new = ledger.original.graph.initializers, ledger.grown.graph.initializers
    for name in new:
        if name not in old and name not in ledger.map.tensors:
            ledger.fault(name, "a new tensor, which the growth map does not list")
    kept = [name for name in old if name not in ledger.removed]
    if kept != [name for name in new if name in old]:
        for name in kept:
            if name not in new:
                ledger.fault(name, "the tensor is gone")
        if all(name in new for name in kept):
            ledger.fault("initializers", "their order differs")
    for name in kept:
        if name in new:
            _initializer(ledger, name, old[name], new[name])


def _initializer(ledger: Ledger, name: str, old: ir.Value, new: ir.Value) -> None:
    listed = name in ledger.map.tensors
    ledger.expect(value_difference(old, new, shape=not listed), name)
    a, b = old.const_value, new.const_value
    if a is None or b is None:
        if a is not b:
            ledger.fault(name, "its data are missing in one of the two models")
        return
    difference = tensor_with_names_difference(a, b, data=not listed)
    ledger.expect(difference, name)
    if not listed and not difference:
        ledger.figures["tensors_equal"] += 1


def check_listed_tensors(ledger: Ledger) -> None:
    """Tensors that the growth map lists: they are there, with the bytes and the shape that it says."""
    old_tensors, new_tensors = constants(ledger.original), constants(ledger.grown)
    for name, growth in ledger.map.tensors.items():
        new = new_tensors.get(name)
        if new is None:
            ledger.fault(name, "the growth map lists a tensor that the result does not have")
            continue
        if not growth.sha256 or growth.sha256 != tensor_digest(new):
            ledger.fault(name, "its bytes are not those the growth map was made for (sha256)")
        of = growth.of or name
        old = old_tensors.get(of)
        if growth.formula in CONTENTS:
            _new_tensor(ledger, name, growth, new)
            continue
        if old is None:
            if growth.of:
                ledger.fault(name, f"stands for {of!r}, which the original does not have")
            elif growth.formula != OPERAND and (growth.formula != MERGED or ledger.map.exact):
                ledger.fault(name, "a new tensor that stands for none of the original")
            continue
        _listed_tensor(ledger, name, growth, old, new)


def _new_tensor(ledger: Ledger, name: str, growth: TensorGrowth, new: ir.TensorProtocol) -> None:
    """A tensor of an inserted layer: nothing else reads it, and the map says every entry of it."""
    if growth.of or growth.axes or ledger.in_original(name):
        ledger.fault(name, f"its formula {growth.formula!r} is one of new tensors, but it stands for an old one")
    readers = {key_of(node) for node in ledger.grown.graph if name in input_names(node)}
    outside = sorted(readers - ledger.inserted)
    if outside or name in {v.name for v in ledger.grown.graph.outputs}:
        ledger.fault(name, f"a new tensor that something old reads: {', '.join(outside) or 'a graph output'}")
    ledger.expect(content_difference(growth, new), name)


def _listed_tensor(
    ledger: Ledger, name: str, growth: TensorGrowth, old: ir.TensorProtocol, new: ir.TensorProtocol
) -> None:
    if old.dtype != new.dtype:
        ledger.fault(name, f"dtype {old.dtype} became {new.dtype}")
    if growth.formula == OPERAND:
        return
    ledger.expect(shape_difference(dims_of(old), dims_of(new), growth.axes), name)
    same_name = growth.of in ("", name)
    if same_name and not growth.formula and all(axis.is_identity for axis in growth.axes.values()):
        ledger.fault(name, "the growth map lists a tensor that did not grow")
