"""Single calls of local functions, put in place by what they compute, under names that follow from the call alone.

:mod:`onnxgrow.concrete.functions` inlines all calls of a function; here the calls are chosen, and what is not chosen
keeps every name. ONNX defines a call by the function's body, so the network stays the same
(https://onnx.ai/onnx/repo-docs/IR.html#functions).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from onnxgrow.concrete.values import all_names
from onnxgrow.errors import UnsupportedError
from onnxgrow.io.copy import copy_model

__all__ = ["calls_in", "expanded", "inner_name", "node_keys"]

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def calls_in(model: ir.Model) -> dict[str, ir.Node]:
    """The calls of local functions in the main graph, by their first output."""
    return {
        node.outputs[0].name: node
        for node in model.graph
        if node.op_identifier() in model.functions and node.outputs and node.outputs[0].name
    }


def inner_name(call: str, name: str) -> str:
    """What a value (or node) of a function is called where a call, known by its first output, is expanded."""
    return f"{call}:{name}"


def node_keys(call: str, function: ir.Function) -> list[str]:
    """First outputs of the nodes that come out of a call of one output."""
    last = function.outputs[0]
    return [call if n.outputs[0] is last else inner_name(call, n.outputs[0].name or "") for n in function]


def expanded(model: ir.Model, calls: Collection[str], keep: Collection[str] = ()) -> ir.Model:
    """A copy of a model with these calls expanded.

    The outputs of a call keep their names; what is inside is named by :func:`inner_name`. A function that nothing calls
    any more goes, and so does the import of its domain where nothing else is of it.

    Args:
        model: The model; not modified.
        calls: Nodes of the main graph, by their first output. Names of no such call are passed over.
        keep: Domains whose imports stay in any case.

    Raises:
        UnsupportedError: A call cannot be expanded: its function has attributes, bodies, optional inputs or another
            opset, hands on an input, or its names are taken.
    """
    result = copy_model(model)
    found = calls_in(result)
    taken = all_names(result.graph)
    used = set()
    for key in (k for k in found if k in calls):
        function = result.functions[found[key].op_identifier()]
        used.add(function.identifier())
        _expand(result, found[key], function, taken)
    _sweep(result, used, keep)
    return result


def _expand(model: ir.Model, call: ir.Node, function: ir.Function, taken: set[str]) -> None:
    key = call.outputs[0].name or ""
    reason = _reason(model, call, function)
    if reason:
        raise UnsupportedError(key, f"this call of {function.name} cannot be expanded: {reason}")
    values: dict[ir.Value, ir.Value | None] = dict(zip(function.inputs, call.inputs, strict=True))
    for inner, outer in zip(function.outputs, call.outputs, strict=True):
        made = ir.Value(name=outer.name, type=outer.type, shape=outer.shape, doc_string=outer.doc_string)
        made.metadata_props.update(outer.metadata_props)
        made.meta.update(outer.meta)
        values[inner] = made
    nodes = [_clone(node, key, call.name or "", values, taken) for node in function]
    graph = model.graph
    graph.insert_before(call, nodes)
    for inner, outer in zip(function.outputs, call.outputs, strict=True):
        replacement = values[inner]
        assert replacement is not None
        outer.replace_all_uses_with(replacement, replace_graph_outputs=True)
    graph.remove(call, safe=True)


def _reason(model: ir.Model, call: ir.Node, function: ir.Function) -> str:
    """Why a call is not expanded; empty where it can be."""
    made = {o for n in function for o in n.outputs}
    domains = {"" if n.domain == "ai.onnx" else n.domain for n in function}
    if function.attributes or call.attributes:
        return "it has attributes"
    if len(call.inputs) != len(function.inputs) or len(call.outputs) != len(function.outputs):
        return "inputs or outputs are left out"
    if any(v is None for v in call.inputs) or not all(o.name for o in call.outputs):
        return "inputs or outputs are left out"
    if not all(o in made for o in function.outputs) or len(set(function.outputs)) != len(function.outputs):
        return "an output is none that a node of its own makes"
    if any(function.opset_imports.get(d) != model.opset_imports.get(d) for d in domains):
        return "it was written for another opset"
    for node in function:
        if any(a.is_ref() or a.type in _GRAPHS for a in node.attributes.values()):
            return f"{node.op_type} in it depends on attributes of the call, or has bodies"
        if not node.outputs or not node.outputs[0].name:
            return f"{node.op_type} in it has no named output"
    return ""


def _clone(node: ir.Node, key: str, name: str, values: dict[ir.Value, ir.Value | None], taken: set[str]) -> ir.Node:
    for output in node.outputs:
        if output not in values:
            values[output] = ir.Value(name=_fresh(key, output.name, taken) if output.name else "", type=output.type)
    outputs = [values[o] for o in node.outputs]
    return ir.Node(
        node.domain,
        node.op_type,
        [None if v is None else values[v] for v in node.inputs],
        list(node.attributes.values()),
        overload=node.overload,
        outputs=[v for v in outputs if v is not None],
        name=inner_name(name, node.name) if name and node.name else None,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )


def _fresh(key: str, name: str, taken: set[str]) -> str:
    wanted = inner_name(key, name)
    if wanted in taken:
        raise UnsupportedError(key, f"this call cannot be expanded: the name {wanted} is taken")
    taken.add(wanted)
    return wanted


def _sweep(model: ir.Model, used: Collection[ir.OperatorIdentifier], keep: Collection[str]) -> None:
    """Drop functions that were called and are not any more, and the imports of domains that only they had."""
    dropped = set(used) - {n.op_identifier() for n in _all_nodes(model)}
    for identifier in dropped:
        del model.functions[identifier]
    domains = {n.domain for n in _all_nodes(model)} | {f.domain for f in model.functions.values()}
    for domain in {identifier[0] for identifier in dropped} - domains - set(keep):
        model.opset_imports.pop(domain, None)


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        yield from ir.traversal.RecursiveGraphIterator(graph)
