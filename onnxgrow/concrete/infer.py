"""Concrete shapes, dtypes and known values of every value of a model's main graph, without running it.

One pass in topological order. A node whose inputs are all known values is evaluated; otherwise ONNX's own
inference gives the types of its outputs, node by node and with the known values as data, so that no weight
is ever read. What stays open (control flow, custom ops, sizes that depend on data) is listed with its reason.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxgrow.collector import without_collection
from onnxgrow.concrete.evaluate import evaluable, evaluate
from onnxgrow.concrete.values import LIMIT, KnownValues, constants, dims_of

__all__ = ["Concrete", "concretize", "evaluate_known", "sorted_nodes"]

Array = npt.NDArray[np.generic]
TypeOf = tuple[ir.DataType, tuple[int, ...]]

# Known inputs up to this size are passed to ONNX's inference, which looks at shape operands only.
_DATA_LIMIT = 4096

# Among floating-point operands it looks at scalars (sizes of ranges) and at the scales of these ops.
_SCALED = frozenset(["Resize", "Upsample"])

# The outputs' sizes depend on data, but are at most the rank of the input times its size.
_NO_LARGER = frozenset(["NonZero", "Compress", "Unique"])

# Ops whose outputs have the shape of the first input, though ONNX's inference in old opsets does not say so.
_SAME_SHAPE = frozenset(
    [
        *("Dropout", "GroupNormalization", "MeanVarianceNormalization"),
        *("Scaler", "Normalizer", "Imputer", "Binarizer", "LabelEncoder"),
    ]
)

# ONNX's inference gives a wrong size for these: for STFT it ignores that one-sided spectra are the default.
_MISINFERRED = frozenset(["STFT"])


@dataclass(frozen=True)
class Concrete:
    """What is known of the main graph's values for one set of input shapes.

    Attributes:
        input_shapes: The shapes that were asked for, by input.
        shapes: Value → shape, for inputs, initializers and node outputs.
        dtypes: Value → element type. A value may have a dtype and no shape.
        values: Value → array: small constants and everything that follows from shapes and constants alone.
        missing: Value → why it has no shape. Sequences, maps and optionals are always here.
    """

    input_shapes: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, ir.DataType]
    values: Mapping[str, Array]
    missing: Mapping[str, str]


@without_collection
def concretize(
    model: ir.Model,
    input_shapes: Mapping[str, Sequence[int]],
    *,
    given: Mapping[str, TypeOf] | None = None,
) -> Concrete:
    """Infer shape and dtype of every value of the main graph, and the values that follow from them.

    Args:
        model: The model; not modified, its weights are not read. Nodes may be in any order.
        input_shapes: Shape of every real graph input (see :func:`onnxgrow.concrete.pin.pin_inputs`).
        given: Value → (dtype, shape) of values known from elsewhere, such as a run; they win over inference.

    Returns:
        What is known; never raises for what cannot be inferred, see :attr:`Concrete.missing`.
    """
    state = _State(model, given=dict(given or {}))
    for value in model.graph.inputs:
        name = value.name or ""
        if name in input_shapes:
            dtype = value.dtype or ir.DataType.FLOAT
            state.set_type(name, dtype, tuple(int(d) for d in input_shapes[name]))
        elif name not in model.graph.initializers:
            state.missing[name] = "no shape given for this input"
    for node in sorted_nodes(model.graph):
        state.visit(node)
    return Concrete(
        {name: tuple(int(d) for d in shape) for name, shape in input_shapes.items()},
        state.shapes,
        state.dtypes,
        KnownValues(state.tensors, state.computed),
        state.missing,
    )


def evaluate_known(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> KnownValues:
    """Recompute the known values of a model whose shapes are known already; same code as :func:`concretize`.

    Args:
        model: The model, typically a grown one; not modified.
        shapes: Shape of every value of the main graph, as predicted by the caller.

    Returns:
        Small constants and computed values. A computed value has the shape that its inputs lead to, which
        may differ from a wrong prediction.
    """
    state = _State(model, given={})
    state.shapes.update({name: tuple(int(d) for d in shape) for name, shape in shapes.items()})
    for node in sorted_nodes(model.graph):
        if node.op_type != "Constant":
            state.compute(node)
    return KnownValues(state.tensors, state.computed)


def sorted_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The graph's own nodes, producers before consumers, otherwise in the graph's order; cycles come last.

    Values captured by subgraphs count as inputs of the node that holds the subgraph only where the node
    lists them.
    """
    nodes = list(graph)
    position = {node: index for index, node in enumerate(nodes)}
    waiting: list[int] = []
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        producers = {
            position[producer]
            for value in node.inputs
            if value is not None and (producer := value.producer()) is not None and producer in position
        }
        waiting.append(len(producers))
        for producer_index in producers:
            readers.setdefault(producer_index, []).append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    placed = set(order)
    order.extend(index for index in range(len(nodes)) if index not in placed)
    return [nodes[index] for index in order]


@dataclass
class _State:
    """The pass in progress: what is known so far, and how one node adds to it."""

    model: ir.Model
    given: dict[str, TypeOf]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, ir.DataType] = field(default_factory=dict)
    computed: dict[str, Array] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, ir.TensorProtocol] = field(init=False)

    def __post_init__(self) -> None:
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in self.model.opset_imports.items()}
        self.opset_protos = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        self.types: dict[str, onnx.TypeProto] = {}
        self.schemas: dict[tuple[str, str], onnx.defs.OpSchema | None] = {}
        self.protos: dict[TypeOf, onnx.TypeProto] = {}
        self.data: dict[str, onnx.TensorProto] = {}
        self.functions = {(f.domain, f.name, f.overload) for f in self.model.functions.values()}
        self.tensors = constants(self.model)
        for name, tensor in self.tensors.items():
            self.set_type(name, tensor.dtype, dims_of(tensor))

    def set_type(self, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape
        self.dtypes[name] = dtype
        key = (dtype, shape)
        if key not in self.protos:
            self.protos[key] = onnx.helper.make_tensor_type_proto(int(dtype), shape)
        self.types[name] = self.protos[key]

    def known(self, name: str) -> Array | None:
        """The value if it is known and small; constants are read here, at each use."""
        if name in self.computed:
            return self.computed[name]
        tensor = self.tensors.get(name)
        if tensor is None or tensor.dtype == ir.DataType.STRING or math.prod(dims_of(tensor)) > LIMIT:
            return None
        return np.asarray(tensor.numpy())

    def visit(self, node: ir.Node) -> None:
        outputs = [value.name for value in node.outputs if value.name and value.name not in self.tensors]
        if not outputs:
            return
        wanted = []
        for name in outputs:
            if name in self.given:
                self.set_type(name, *self.given[name])
            else:
                wanted.append(name)
        if wanted:
            self.missing.update(self.infer(node, wanted))
        self.compute(node)

    def infer(self, node: ir.Node, outputs: list[str]) -> dict[str, str]:
        """Set the outputs' types as far as ONNX's inference knows them; output → reason for the others."""
        schema, reason = self.schema(node)
        if schema is None:
            return dict.fromkeys(outputs, reason)
        names = [value.name for value in node.inputs if value is not None and value.name]
        untyped = [name for name in names if name not in self.types]
        if untyped:
            return dict.fromkeys(outputs, f"needs {untyped[0]!r}, which has no type")
        unshaped = [name for name in names if name not in self.shapes]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                ir.serde.serialize_node(node),
                {name: self.types[name] for name in names},
                {name: data for name in names if (data := self.operand(node, name)) is not None},
                opset_imports=self.opset_protos,
                ir_version=self.model.ir_version,
            )
        except Exception as error:
            # Inference is C++ and raises exceptions of any kind; the reason is kept for the user.
            text = " ".join(str(error).split())
            return dict.fromkeys(outputs, f"shape inference of {node.op_type} failed: {text[:200]}")
        reasons = {}
        for name in outputs:
            reason = self.take(name, found.get(name), node)
            if reason:
                reasons[name] = f"needs the shape of {unshaped[0]!r}" if unshaped else reason
        return reasons

    def take(self, name: str, proto: onnx.TypeProto | None, node: ir.Node) -> str:
        """Note one inferred type; the reason why it is no full shape, or an empty string."""
        if proto is None or proto.WhichOneof("value") is None:
            return f"shape inference of {node.op_type} gives no type"
        if not proto.HasField("tensor_type") or proto.tensor_type.elem_type == 0:
            self.types[name] = proto
            return f"{node.op_type} gives no tensor" if not proto.HasField("tensor_type") else "unknown dtype"
        dtype = ir.DataType(proto.tensor_type.elem_type)
        dims = proto.tensor_type.shape.dim if proto.tensor_type.HasField("shape") else None
        if dims is not None and all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
            self.set_type(name, dtype, tuple(dim.dim_value for dim in dims))
            return ""
        source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
        if dims is None and node.op_type in _SAME_SHAPE and source in self.shapes:
            self.set_type(name, dtype, self.shapes[source])
            return ""
        self.types[name] = proto
        self.dtypes[name] = dtype
        if any(dim.HasField("dim_value") and dim.dim_value < 0 for dim in dims or ()):
            return f"{node.op_type} would give a negative size: its input is too small"
        return f"the size of {node.op_type}'s output depends on data"

    def schema(self, node: ir.Node) -> tuple[onnx.defs.OpSchema | None, str]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        label = f"{domain}::{node.op_type}" if domain else node.op_type
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return None, f"{label} is control flow"
        if (node.domain, node.op_type, node.overload) in self.functions:
            return None, f"{label} is a function of the model"
        if not domain and node.op_type in _MISINFERRED:
            return None, f"ONNX's shape inference is wrong for {label}"
        key = (domain, node.op_type)
        if key not in self.schemas:
            try:
                version = self.opsets.get(domain, 1)
                self.schemas[key] = onnx.defs.get_schema(node.op_type, version, domain)
            except onnx.defs.SchemaError:
                self.schemas[key] = None
        return self.schemas[key], f"ONNX has no schema for {label}"

    def operand(self, node: ir.Node, name: str) -> onnx.TensorProto | None:
        """A small known value as data for inference."""
        size = math.prod(self.shapes.get(name, (_DATA_LIMIT + 1,)))
        if size > _DATA_LIMIT:
            return None
        if size > 1 and self.dtypes[name].is_floating_point() and node.op_type not in _SCALED:
            return None
        if name not in self.data:
            value = self.known(name)
            if value is None:
                return None
            self.data[name] = ir.serde.serialize_tensor(ir.tensor(value, name=name))
        return self.data[name]

    def compute(self, node: ir.Node) -> None:
        """Evaluate the node when its inputs are known values and everything is small."""
        opset = self.opsets.get("", 1)
        if not evaluable(node, opset):
            return
        names = [value.name for value in node.inputs if value is not None and value.name]
        outputs = [value.name or "" for value in node.outputs]
        if node.op_type in ("Shape", "Size") and names and names[0] in self.shapes:
            self.keep(outputs[0], _shape_or_size(node, self.shapes[names[0]]))
            return
        written = [name for name in outputs if name]
        if not all(name in self.computed or name in self.tensors for name in names):
            return
        bounded = node.op_type in _NO_LARGER
        sizes = [math.prod(self.shapes.get(name, (0 if bounded else LIMIT + 1,))) for name in [*names, *written]]
        if sum(sizes) > LIMIT:
            return
        inputs = {name: value for name in names if (value := self.known(name)) is not None}
        if len(inputs) < len(set(names)):
            return
        for name, result in zip(written, evaluate(ir.serde.serialize_node(node), inputs, opset), strict=False):
            self.keep(name, result)

    def keep(self, name: str, value: Array) -> None:
        """Note a computed value, unless it contradicts the inferred type: then one of the two is wrong."""
        try:
            dtype = ir.DataType.from_numpy(value.dtype)
        except TypeError:
            return
        if self.dtypes.get(name, dtype) != dtype:
            return
        if name in self.missing:
            del self.missing[name]
            self.set_type(name, dtype, value.shape)
        elif name in self.dtypes and value.shape != self.shapes.get(name):
            return
        self.computed[name] = value


def _shape_or_size(node: ir.Node, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = (node.attributes.get(key) for key in ("start", "end"))
    window = slice(start.as_int() if start else None, end.as_int() if end else None)
    return np.array(shape[window], np.int64)
