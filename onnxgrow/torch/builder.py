"""The steps of an ONNX graph, made once and run at every forward pass.

Where an op wants a value in the other form, tensor or plain integers, a converting step is put in between. Nodes that
depend on constants alone are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

import onnxgrow.torch.ops  # noqa: F401 # registers the kernels
from onnxgrow.concrete.values import dims_of
from onnxgrow.errors import GrowError, UnsupportedError
from onnxgrow.torch.control import CONTROL
from onnxgrow.torch.fusion import Facts, Fusion, find_fusions
from onnxgrow.torch.leaves import Leaf, all_graphs, constant_values
from onnxgrow.torch.program import Block, Program, Step
from onnxgrow.torch.registry import Context, HostOp, HostValue, Kernel, NodeSpec, Op, as_array, find_host, find_op
from onnxgrow.torch.tensors import DTYPES, to_torch

__all__ = ["Builder", "build_program"]

LIMIT = 1 << 20
"""Constants with more entries are neither folded nor made when the program is built."""
HOST_LIMIT = 4096


def build_program(model: ir.Model, leaves: list[Leaf]) -> Program:
    """Make the program of a model whose functions are inlined and whose nodes are sorted.

    Raises:
        UnsupportedError: An op, or a form of one, has no kernel; names op, opset and node.
    """
    builder = Builder(model, leaves)
    block = builder.graph(model.graph, None)
    return Program(
        block,
        builder.count,
        tuple(builder.literals),
        tuple(builder.leaf_slots.items()),
        tuple(builder.constant_slots),
        builder.file_dtype,
    )


class Builder:
    """Builds blocks; the control-flow ops call back into it for their subgraphs."""

    def __init__(self, model: ir.Model, leaves: list[Leaf]) -> None:
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in model.opset_imports.items()}
        self.count = 0
        self.literals: list[tuple[int, HostValue]] = []
        self.leaf_slots: dict[int, int] = {}
        self.constant_slots: list[tuple[int, Tensor]] = []
        self.known: dict[ir.Value, Tensor] = {}
        self.large: dict[ir.Value, ir.TensorProtocol] = {}
        self.host: dict[ir.Value, tuple[torch.dtype, int]] = {}
        self._of_one_entry: set[ir.Value] = set()
        self.slot_of: dict[ir.Value, int] = {}
        self._forms: dict[tuple[ir.Value, bool], int] = {}
        self._slot_of_leaf: dict[int, int] = {}
        self._whole: dict[ir.Value, int] = {}
        self._sites: dict[tuple[ir.Node, int], int] = {}
        for index, leaf in enumerate(leaves):
            if leaf.sites is None:
                self._whole[leaf.value] = index
            for site in leaf.sites or ():
                self._sites[site] = index
        self.file_dtype = _main_dtype(leaves)
        self._context = Context(False, False, torch.device("cpu"), self.file_dtype, self.file_dtype)
        for graph in all_graphs(model.graph):
            for value, tensor in constant_values(graph):
                if value not in self._whole and tensor.dtype in DTYPES:
                    self.large[value] = tensor

    # ---- slots

    def new_slot(self) -> int:
        self.count += 1
        return self.count - 1

    def define(self, block: Block, value: ir.Value | None, host: tuple[torch.dtype, int] | None = None) -> int:
        """A slot for a value that the block computes."""
        if value is None or not value.name:
            return -1
        slot = self.new_slot()
        self.slot_of[value] = slot
        if host is not None:
            self.host[value] = host
        block.own.add(slot)
        return slot

    def constant(self, value: ir.Value) -> Tensor | None:
        """A constant that is never trained, if it is small enough to compute with."""
        if value not in self.known and value in self.large:
            tensor = self.large[value]
            if math.prod(dims_of(tensor)) <= LIMIT:
                self.known[value] = to_torch(tensor)
        return self.known.get(value)

    def _use(self, block: Block, slot: int) -> int:
        """Remember that the step to come reads a slot."""
        owner: Block | None = block
        while owner is not None and slot not in owner.own:
            owner = owner.parent
        if owner is not None:
            owner.last[slot] = len(owner.steps)
        return slot

    def read(self, block: Block, value: ir.Value, host: bool = False, site: tuple[ir.Node, int] | None = None) -> int:
        """The slot that holds a value in the wanted form, after a converting step where it needs one."""
        leaf = self._whole.get(value)
        if site is not None and site in self._sites:
            leaf = self._sites[site]
        if leaf is not None:
            if leaf not in self._slot_of_leaf:
                self._slot_of_leaf[leaf] = self.new_slot()
                self.leaf_slots[self._slot_of_leaf[leaf]] = leaf
            slot = self._slot_of_leaf[leaf]
            return self._convert(block, value, slot, host=True) if host else slot
        if value in self.large or value in self.known:
            return self._constant_slot(value, host)
        if value not in self.slot_of:
            raise UnsupportedError(str(value.name), "nothing computes this value")
        slot = self.slot_of[value]
        if (value in self.host) == host:
            return self._use(block, slot)
        return self._convert(block, value, slot, host)

    def _constant_slot(self, value: ir.Value, host: bool) -> int:
        if (value, host) not in self._forms:
            slot = self._forms[value, host] = self.new_slot()
            tensor = self.constant(value)
            if tensor is None:
                tensor = to_torch(self.large[value])
            if host:
                self.literals.append((slot, _as_host(tensor)))
            else:
                self.constant_slots.append((slot, tensor))
        return self._forms[value, host]

    def _convert(self, block: Block, value: ir.Value, slot: int, host: bool) -> int:
        scope: Block | None = block
        while scope is not None:
            if (value, host) in scope.converted:
                return scope.converted[value, host]
            scope = scope.parent
        self._use(block, slot)
        new = self.new_slot()
        if host:
            block.steps.append(Step(_as_host, False, (slot,), (new,), ()))
        else:
            dtype, _ = self.host[value]
            block.steps.append(Step(_as_tensor(dtype), True, (slot,), (new,), ()))
        block.converted[value, host] = new
        return new

    # ---- graphs

    def graph(self, graph: ir.Graph, parent: Block | None) -> Block:
        """The block of a graph."""
        block = Block(parent)
        for value in graph.inputs:
            if value.name not in graph.initializers:
                block.inputs.append(self.define(block, value))
        fusions = find_fusions(graph, Facts(self._number, self._rank, self.opsets.get("", 1)))
        waiting: dict[ir.Node, list[ir.Node]] = {node: [] for node in fusions}
        last_of = {inner: node for node, fusion in fusions.items() for inner in fusion.absorbed}
        for node in graph:
            if node in last_of:
                waiting[last_of[node]].append(node)
            elif node not in fusions:
                self._node(block, node)
            elif not self._fused(block, node, fusions[node]):
                for single in (*waiting[node], node):
                    self._node(block, single)
        block.outputs = [self.read(block, value) for value in graph.outputs]
        kept = set(block.outputs)
        dying: dict[int, list[int]] = {}
        for slot, step in block.last.items():
            if slot not in kept and step < len(block.steps):
                dying.setdefault(step, []).append(slot)
        for index, slots in dying.items():
            block.steps[index] = block.steps[index]._replace(free=tuple(slots))
        return block

    def _number(self, value: ir.Value | None) -> float | None:
        """A constant of one entry that is never trained."""
        if value is None or value in self._whole or any((u.node, u.idx) in self._sites for u in value.uses()):
            return None
        tensor = self.constant(value)
        return float(tensor) if tensor is not None and tensor.numel() == 1 and tensor.is_floating_point() else None

    def _rank(self, value: ir.Value | None) -> int | None:
        """Rank of a stored constant of floating-point numbers."""
        tensor = value.const_value if value is not None else None
        return len(dims_of(tensor)) if tensor is not None and tensor.dtype.is_floating_point() else None

    def _is_number(self, value: ir.Value | None, site: tuple[ir.Node, int]) -> bool:
        """Whether a value is known as plain numbers, from sizes or constants, where a node reads it."""
        if value is None or value in self._whole or site in self._sites:
            return False
        tensor = self.constant(value)
        return value in self.host or (tensor is not None and tensor.dim() <= 1)

    def _fused(self, block: Block, node: ir.Node, fusion: Fusion) -> bool:
        """Emit one kernel for a chain of nodes; says whether its numbers are known as numbers, else does nothing."""
        values = [reader.inputs[index] for reader, index in fusion.inputs]
        if not all(self._is_number(values[i], fusion.inputs[i]) for i in fusion.numbers):
            return False
        inputs = []
        for position, (value, site) in enumerate(zip(values, fusion.inputs, strict=True)):
            assert value is not None
            inputs.append(self.read(block, value, position in fusion.numbers, site))
        self._emit(block, node, fusion.kernel, False, tuple(inputs), None)
        return True

    def spec(self, node: ir.Node) -> NodeSpec:
        """What a kernel's builder sees of a node."""
        known = {}
        for index, value in enumerate(node.inputs):
            tensor = self.constant(value) if value is not None and (node, index) not in self._sites else None
            if tensor is not None and tensor.numel() <= HOST_LIMIT:
                known[index] = as_array(tensor)
        return NodeSpec(node, self.opsets.get("" if node.domain == "ai.onnx" else node.domain, 1), known)

    def _node(self, block: Block, node: ir.Node) -> None:
        default = node.domain in ("", "ai.onnx")
        if default and node.op_type == "Constant":
            self._constant_node(node)
            return
        if default and node.op_type == "ConstantOfShape" and self._is_leaf(node.outputs[0]):
            return
        spec = self.spec(node)
        if default and node.op_type in CONTROL:
            kernel = CONTROL[node.op_type](self, block, spec)
            block.steps.append(Step(kernel, True, None, (), ()))
            return
        host = find_host(node.domain, node.op_type)
        if host is not None and self._host_node(block, node, spec, host):
            return
        op = find_op(node.domain, node.op_type, spec.version)
        if op is None:
            raise UnsupportedError(spec.label, "there is no PyTorch kernel for this op")
        kernel = op.build(spec)
        if self._fold(node, spec, op, kernel):
            return
        inputs = tuple(
            -1 if value is None else self.read(block, value, index in op.sizes, (node, index))
            for index, value in enumerate(node.inputs)
        )
        self._emit(block, node, kernel, op.context, inputs, _host_result(node, default))

    def _emit(
        self,
        block: Block,
        node: ir.Node,
        kernel: Kernel,
        context: bool,
        inputs: tuple[int, ...],
        host: tuple[torch.dtype, int] | None,
    ) -> None:
        for slot in inputs:
            self._use(block, slot)
        outputs = tuple(self.define(block, value, host) for value in node.outputs)
        for slot in outputs:
            block.last[slot] = len(block.steps)
        block.steps.append(Step(kernel, context, inputs, outputs, ()))

    def _is_leaf(self, value: ir.Value) -> bool:
        """Whether all that reads a value reads parameters or statistics in its place."""
        used = [(use.node, use.idx) for use in value.uses()]
        return value in self._whole or (not value.is_graph_output() and all(site in self._sites for site in used))

    def _constant_node(self, node: ir.Node) -> None:
        value = node.outputs[0]
        if value not in self.large and value not in self._whole and any(True for _ in value.uses()):
            raise UnsupportedError(NodeSpec(node, 0, {}).label, "a constant of a type that PyTorch does not have")

    def _host_node(self, block: Block, node: ir.Node, spec: NodeSpec, host: HostOp) -> bool:
        """Emit the host form of a node if all its inputs are sizes; says whether it did."""
        ranks, dtypes = [], []
        for index, value in enumerate(node.inputs):
            if value is None:
                ranks.append(-1)
            elif value in self.host:
                dtypes.append(self.host[value][0])
                ranks.append(self.host[value][1])
            elif index in spec.constants and spec.constants[index].ndim <= 1:
                dtypes.append(self.known[value].dtype)
                ranks.append(spec.constants[index].ndim)
            else:
                return False
        if not any(v in self.host for v in node.inputs if v is not None):
            return False
        if node.op_type == "ConstantOfShape" and node.inputs[0] not in self._of_one_entry:
            return False
        rank = host.rank(spec, ranks)
        if rank is None or rank > 1:
            return False
        dtype = _host_dtype(node, dtypes)
        inputs = tuple(-1 if v is None else self.read(block, v, host=True) for v in node.inputs)
        self._emit(block, node, host.build(spec), False, inputs, (dtype, rank))
        if node.op_type == "Shape" and ranks == [1]:
            self._of_one_entry.add(node.outputs[0])
        return True

    def _fold(self, node: ir.Node, spec: NodeSpec, op: Op, kernel: Kernel) -> bool:
        """Compute a node of constants once; says whether it did."""
        if not op.foldable or not node.inputs:
            return False
        arguments: list[Any] = []
        for index, value in enumerate(node.inputs):
            if value is None:
                arguments.append(None)
                continue
            tensor = self.constant(value) if (node, index) not in self._sites and value not in self._whole else None
            if tensor is None:
                return False
            if index in op.sizes:
                given = _as_host(tensor)
                if isinstance(given, tuple) and math.prod(abs(n) for n in given) > LIMIT:
                    return False
                arguments.append(given)
            else:
                arguments.append(tensor)
        try:
            with torch.no_grad():
                result = kernel(self._context, *arguments) if op.context else kernel(*arguments)
        except GrowError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise UnsupportedError(spec.label, f"it cannot be computed: {error}") from error
        results = result if isinstance(result, tuple | list) else (result,)
        for value, tensor in zip(node.outputs, results, strict=False):
            if value.name:
                self.known[value] = tensor.detach().clone()
        return True


def _main_dtype(leaves: list[Leaf]) -> torch.dtype:
    sizes: dict[torch.dtype, int] = {}
    for leaf in leaves:
        if leaf.kind == "parameter" and leaf.tensor.dtype in DTYPES:
            dtype = DTYPES[leaf.tensor.dtype]
            sizes[dtype] = sizes.get(dtype, 0) + math.prod(dims_of(leaf.tensor))
    return max(sizes, key=lambda d: sizes[d]) if sizes else torch.float32


def _host_result(node: ir.Node, default: bool) -> tuple[torch.dtype, int] | None:
    if default and node.op_type in ("Shape", "Size"):
        return torch.int64, int(node.op_type == "Shape")
    return None


_PREDICATES = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not"])


def _host_dtype(node: ir.Node, dtypes: list[torch.dtype]) -> torch.dtype:
    if node.op_type in _PREDICATES:
        return torch.bool
    if node.op_type in ("Shape", "Size"):
        return torch.int64
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        return torch.float32 if value is None else DTYPES[value.as_tensor().dtype]
    if node.op_type == "Cast":
        return DTYPES[ir.DataType(node.attributes["to"].as_int())]
    return dtypes[1] if node.op_type == "Where" else dtypes[0]


def _as_host(tensor: Tensor) -> HostValue:
    """Entries as plain numbers: reads the tensor, which a device has to finish first."""
    value: Any = tensor.tolist()
    return tuple(value) if isinstance(value, list) else value  # type: ignore[no-any-return] # a number


def _as_tensor(dtype: torch.dtype) -> Callable[[Context, HostValue], Tensor]:
    return lambda context, value: torch.tensor(
        value, dtype=context.moved(dtype) if dtype.is_floating_point else dtype, device=context.device
    )
