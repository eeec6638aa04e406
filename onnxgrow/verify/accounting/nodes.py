"""Nodes: every one of the original is there, in order, equal but for what the growth map lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxgrow.verify.accounting.declared import declared_difference
from onnxgrow.verify.accounting.ledger import Ledger, input_names, key_of
from onnxgrow.verify.certificate.equality import attribute_difference, node_difference

__all__ = ["check_node_values", "check_nodes"]


def check_nodes(ledger: Ledger) -> None:
    """Nodes in order, with their attributes and inputs."""
    for key in sorted(ledger.inserted):
        if key not in ledger.new_nodes or ledger.in_original(key):
            ledger.fault(key, "listed as inserted, but it is missing, or it is no new node")
    for key in sorted(ledger.removed):
        if not ledger.in_original(key) or key in ledger.new_nodes or key in ledger.grown.graph.initializers:
            ledger.fault(key, "listed as removed, but it is still there, or never was")
    for key in ledger.map.nodes:
        if key not in ledger.old_nodes or key not in ledger.new_nodes:
            ledger.fault(key, "the growth map lists a change of a node that does not exist in both models")
    old = [key for key in map(key_of, ledger.original.graph) if key not in ledger.removed]
    new = [key for key in map(key_of, ledger.grown.graph) if key not in ledger.inserted]
    if old != new:
        _order(ledger, old, new)
        return
    old_nodes = [node for node in ledger.original.graph if key_of(node) not in ledger.removed]
    new_nodes = [node for node in ledger.grown.graph if key_of(node) not in ledger.inserted]
    for a, b in zip(old_nodes, new_nodes, strict=True):
        _node(ledger, a, b)
        ledger.figures["nodes_compared"] += 1


def _order(ledger: Ledger, old: list[str], new: list[str]) -> None:
    lost = [key for key in old if key not in ledger.new_nodes]
    added = [key for key in new if key not in ledger.old_nodes]
    for key in lost:
        ledger.fault(key, "the node that makes it is gone")
    for key in added:
        ledger.fault(key, "a new node makes it, which the growth map does not list")
    if not lost and not added:
        ledger.fault("nodes", "their order or number differs")


def _node(ledger: Ledger, old: ir.Node, new: ir.Node) -> None:
    key = key_of(old)
    change = ledger.map.nodes.get(key)
    attributes = dict(change.attributes) if change is not None else {}
    inputs = dict(change.inputs) if change is not None else {}
    except_for = set(attributes)
    if _is_constant(old) and key in ledger.map.tensors:
        except_for |= {name for name in (*old.attributes, *new.attributes) if name.startswith("value")}
        if list(old.attributes) != list(new.attributes):
            ledger.fault(key, "its constant is held by another attribute")
    ledger.expect(node_difference(old, new, except_for=except_for, inputs=False), key)
    for name, values in attributes.items():
        found = tuple(_plain(node.attributes.get(name)) for node in (old, new))
        listed = tuple(_listed(value) for value in values)
        if found != listed or found[0] == found[1]:
            ledger.fault(key, f"attribute {name!r} is {found[0]} → {found[1]}, listed as {listed[0]} → {listed[1]}")
    _inputs(ledger, key, input_names(old), input_names(new), inputs)


def _inputs(ledger: Ledger, key: str, old: list[str], new: list[str], changes: Mapping[int, tuple[str, str]]) -> None:
    length = max([len(old), len(new), *(index + 1 for index in changes)])
    old, new = ([*names, *[""] * (length - len(names))] for names in (old, new))
    for index, (a, b) in enumerate(zip(old, new, strict=True)):
        listed = changes.get(index)
        if listed is None and a != b:
            ledger.fault(key, f"input {index} {a!r} became {b!r}, which the growth map does not list")
        elif listed is not None and (tuple(listed) != (a, b) or a == b):
            ledger.fault(key, f"input {index} is {a!r} → {b!r}, listed as {listed[0]!r} → {listed[1]!r}")
    if any(index < 0 for index in changes):
        ledger.fault(key, "the growth map lists a negative input index")


def check_node_values(ledger: Ledger) -> None:
    """What is written of each node output: type, shape, doc string, metadata, quantisation annotation."""
    for key, node in ledger.old_nodes.items():
        other = ledger.new_nodes.get(key)
        if other is None or len(other.outputs) != len(node.outputs):
            continue  # said already
        for a, b in zip(node.outputs, other.outputs, strict=True):
            growth = ledger.map.values.get(a.name or "") or ledger.map.tensors.get(a.name or "")
            ledger.expect(declared_difference(a, b, growth.axes if growth is not None else {}), a.name or key)


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _plain(attribute: ir.Attr | None) -> Any:
    """An attribute's value as the growth map writes it; tensors, graphs and types have no such form."""
    if attribute is None:
        return None
    if attribute.is_ref() or attribute_difference(attribute, attribute):
        return ("no plain value", attribute.name)
    if attribute.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
        return attribute.value
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return list(attribute.value)
    return ("no plain value", attribute.name)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
