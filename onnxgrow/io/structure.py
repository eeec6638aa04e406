"""Whether a ModelProto is a well-formed model, before anything is made of it.

What ONNX asks of graphs (single assignment, no undefined names, no cycles) and of tensors (data of the length
that type and shape need). Spec: https://github.com/onnx/onnx/blob/main/docs/IR.md Nodes need not be sorted:
ONNX Runtime sorts them itself, and the user's order is theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx_ir as ir

from onnxgrow.errors import BadInputError, UnsupportedError

__all__ = ["attribute_tensors", "check_structure", "check_tensor", "tensor_nbytes", "tensors"]

_KINDS = onnx.AttributeProto
_DEPTH = 30  # protobuf reads 100 levels of messages, of which a subgraph takes three


def check_structure(model: onnx.ModelProto) -> None:
    """Check graphs, functions and names.

    Raises:
        BadInputError: Naming the first fault found.
    """
    if not model.HasField("graph"):
        raise BadInputError("model", "the file holds no graph", "this is no ONNX model, or an empty one")
    if not model.opset_import:
        raise BadInputError("model", "the model imports no opset")
    _unique("model", "opset import", (entry.domain for entry in model.opset_import))
    _unique("model", "metadata key", (entry.key for entry in model.metadata_props))
    _check_graph(model.graph, f"graph {model.graph.name!r}", frozenset())
    _unique("model", "function", ((f.domain, f.name, f.overload) for f in model.functions))
    for function in model.functions:
        _check_function(function)
    _check_calls(model)


def _unique(subject: str, what: str, keys: Iterable[object]) -> None:
    for key, count in Counter(keys).items():
        if count > 1:
            raise BadInputError(subject, f"the {what} {key!r} appears {count} times")


def _label(node: onnx.NodeProto) -> str:
    first = next((name for name in node.output if name), "")
    return f"{node.op_type} node {node.name or first!r}" if node.name or first else f"{node.op_type} node"


def _check_graph(graph: onnx.GraphProto, where: str, outer: frozenset[str], depth: int = 0) -> None:
    if depth > _DEPTH:
        raise BadInputError(where, f"graphs are nested more than {_DEPTH} deep, which protobuf cannot read")
    _unique(where, "input", (info.name for info in graph.input))
    initializers = [tensor.name for tensor in graph.initializer]
    initializers += [sparse.values.name for sparse in graph.sparse_initializer]
    if "" in initializers:
        raise BadInputError(where, "an initializer has no name")
    _unique(where, "initializer", initializers)
    _unique(where, "metadata key", (entry.key for entry in graph.metadata_props))
    given = {info.name for info in graph.input} | set(initializers)
    if "" in {info.name for info in (*graph.input, *graph.output)}:
        raise BadInputError(where, "an input or output has no name")
    produced = _check_nodes(graph.node, where, given, outer, depth)
    for info in graph.output:
        if info.name not in produced and info.name not in given and info.name not in outer:
            raise BadInputError(where, f"the output {info.name!r} is produced by nothing")


def _check_function(function: onnx.FunctionProto) -> None:
    where = f"function {function.name!r}"
    _unique(where, "input", function.input)
    _unique(where, "opset import", (entry.domain for entry in function.opset_import))
    _unique(where, "attribute", (*function.attribute, *(a.name for a in function.attribute_proto)))
    given = set(function.input)
    produced = _check_nodes(function.node, where, given, frozenset())
    for name in function.output:
        if name not in produced and name not in given:
            raise BadInputError(where, f"the output {name!r} is produced by nothing")


def _check_nodes(
    nodes: Iterable[onnx.NodeProto], where: str, given: set[str], outer: frozenset[str], depth: int = 0
) -> dict[str, int]:
    """Check the nodes of one body; returns the index of the producer of each value."""
    nodes = list(nodes)
    produced: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in produced or name in given:
                raise BadInputError(where, f"the value {name!r} is assigned twice, the second time by {_label(node)}")
            produced[name] = index
    visible = outer | given | produced.keys()
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, node in enumerate(nodes):
        if not node.op_type:
            raise BadInputError(where, f"{_label(node)} has no operator")
        _unique(f"{where}, {_label(node)}", "attribute", (attribute.name for attribute in node.attribute))
        _unique(f"{where}, {_label(node)}", "metadata key", (entry.key for entry in node.metadata_props))
        used = [name for name in node.input if name]
        for name in used:
            if name not in visible:
                raise BadInputError(where, f"{_label(node)} reads {name!r}, which nothing produces")
        for attribute in node.attribute:
            if attribute.type == _KINDS.UNDEFINED:
                raise BadInputError(f"{where}, {_label(node)}", f"the attribute {attribute.name!r} has no type")
            for subgraph in _subgraphs(attribute):
                _check_graph(subgraph, f"graph of {_label(node)}", visible, depth + 1)
                used += _captured(subgraph)
        sorter.add(index, *{produced[name] for name in used if name in produced})
    try:
        sorter.prepare()
    except CycleError as error:
        names = " → ".join(_label(nodes[index]) for index in error.args[1][:4])
        raise BadInputError(where, f"the graph has a cycle through {names}") from None
    return produced


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == _KINDS.GRAPH:
        yield attribute.g
    elif attribute.type == _KINDS.GRAPHS:
        yield from attribute.graphs


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Names that a subgraph reads from outside."""
    local = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    local |= {sparse.values.name for sparse in graph.sparse_initializer}
    local |= {name for node in graph.node for name in node.output}
    used = {info.name for info in graph.output}
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            for subgraph in _subgraphs(attribute):
                used |= _captured(subgraph)
    return used - local - {""}


def _check_calls(model: onnx.ModelProto) -> None:
    """Functions may call each other, but not in a circle."""
    sorter: TopologicalSorter[tuple[str, str, str]] = TopologicalSorter()
    known = {(f.domain, f.name, f.overload) for f in model.functions}
    for function in model.functions:
        called = {(n.domain, n.op_type, n.overload) for n in _all_nodes(function.node)}
        sorter.add((function.domain, function.name, function.overload), *(called & known))
    try:
        sorter.prepare()
    except CycleError as error:
        raise BadInputError(f"function {error.args[1][0][1]!r}", "the function calls itself") from None


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for subgraph in _subgraphs(attribute):
                yield from _all_nodes(subgraph.node)


def attribute_tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    """Tensors that an attribute holds itself, not those of its subgraphs."""
    if attribute.type == _KINDS.TENSOR:
        yield attribute.t
    elif attribute.type == _KINDS.TENSORS:
        yield from attribute.tensors
    elif attribute.type == _KINDS.SPARSE_TENSOR:
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    elif attribute.type == _KINDS.SPARSE_TENSORS:
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)


def tensors(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Every tensor of graphs, subgraphs and functions, with words for where it stands."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for attribute in function.attribute_proto:
            for tensor in attribute_tensors(attribute):
                yield tensor, f"a default of function {function.name!r}"
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    for tensor in graph.initializer:
        yield tensor, tensor.name
    for sparse in graph.sparse_initializer:
        yield sparse.values, sparse.values.name
        yield sparse.indices, sparse.values.name
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[onnx.TensorProto, str]]:
    for node in nodes:
        for attribute in node.attribute:
            for tensor in attribute_tensors(attribute):
                yield tensor, f"attribute {attribute.name!r} of {_label(node)}"
            for subgraph in _subgraphs(attribute):
                yield from _graph_tensors(subgraph)


_TYPES = {int(dtype): dtype for dtype in ir.DataType}
_STRING = int(ir.DataType.STRING)
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def tensor_nbytes(tensor: onnx.TensorProto, subject: str) -> int:
    """Bytes of the raw form that type and shape ask for; 0 for strings.

    Raises:
        BadInputError: An unknown type or a negative dimension.
    """
    count = 1
    for size in tensor.dims:
        if size < 0:
            raise BadInputError(subject, f"the tensor has the dimension {size}")
        count *= size
    dtype = _TYPES.get(tensor.data_type)
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        raise BadInputError(subject, f"the tensor has the unknown type {tensor.data_type}")
    return 0 if dtype == ir.DataType.STRING else (count * dtype.bitwidth + 7) // 8


def check_tensor(tensor: onnx.TensorProto, subject: str) -> int:
    """Check that a tensor has exactly the data it declares; returns the bytes of its raw form.

    Raises:
        BadInputError: Data missing, in several places, of the wrong kind or the wrong length.
        UnsupportedError: A tensor stored in segments.
    """
    nbytes = tensor_nbytes(tensor, subject)
    if tensor.HasField("segment"):
        raise UnsupportedError(subject, "the tensor is one segment of a larger one, which no runtime supports")
    _unique(subject, "metadata key", (entry.key for entry in tensor.metadata_props))
    filled = [field for field in _TYPED if len(getattr(tensor, field))]
    raw = tensor.HasField("raw_data")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if tensor.data_type == _STRING:
            raise BadInputError(subject, "strings cannot be external data")
        if filled or (raw and len(tensor.raw_data)):
            raise BadInputError(subject, "the tensor has its data both inside and outside of the file")
        return nbytes
    if len(tensor.external_data):
        raise BadInputError(subject, "the tensor names an external file but is not marked as external")
    if raw and not filled:
        if tensor.data_type == _STRING:
            raise BadInputError(subject, "strings cannot be raw data")
        given = len(tensor.raw_data)
        if given != nbytes:
            raise BadInputError(subject, f"the tensor has {given} bytes, its shape and type need {nbytes}")
        return nbytes
    if raw or len(filled) > 1:
        raise BadInputError(subject, "the tensor has data in several fields")
    field, expected = _typed_field(tensor, nbytes)
    if filled and filled[0] != field:
        raise BadInputError(subject, f"the tensor has its data in {filled[0]}, its type needs {field}")
    given = len(getattr(tensor, field))
    if given != expected:
        raise BadInputError(subject, f"the tensor has {given} entries in {field}, its shape needs {expected}")
    return nbytes


def _typed_field(tensor: onnx.TensorProto, nbytes: int) -> tuple[str, int]:
    """The typed field that holds this type, and the number of entries it must have."""
    dtype = _TYPES[tensor.data_type]
    count = 1
    for size in tensor.dims:
        count *= size
    kinds = ir.DataType
    match dtype:
        case kinds.FLOAT:
            return "float_data", count
        case kinds.COMPLEX64:
            return "float_data", 2 * count
        case kinds.DOUBLE:
            return "double_data", count
        case kinds.COMPLEX128:
            return "double_data", 2 * count
        case kinds.INT64:
            return "int64_data", count
        case kinds.UINT32 | kinds.UINT64:
            return "uint64_data", count
        case kinds.STRING:
            return "string_data", count
    # Types of two and four bits are packed into bytes first, one byte an entry; those of six bits are not.
    return "int32_data", nbytes if dtype.bitwidth in (2, 4) else count
