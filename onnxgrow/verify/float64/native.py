"""Operators without a float64 implementation: evaluated by ONNX Runtime on the CPU, in the model's own dtypes.

Float64 values are rounded to the dtype that the model has there, the node runs alone, and the result is upcast. What
that means for a comparison is the business of :mod:`onnxgrow.verify.float64.lockstep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.trace import complete
from onnxgrow.errors import GrowError
from onnxgrow.verify.float64.interpreter import Compiled
from onnxgrow.verify.float64.kernels import NoFloat64Error, RandomError
from onnxgrow.verify.float64.kernels.dtype import to_float64
from onnxgrow.verify.sessions import ModelSource, RefusedError, RuntimeSession, try_open

__all__ = ["NativeOperators", "operator_name"]

_FLOATS = {ir.DataType[name]: np.dtype(name.lower()) for name in ("FLOAT16",)} | {
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.DOUBLE: np.dtype(np.float64),
}
"""Float dtypes that ONNX Runtime takes and gives as NumPy arrays."""
_EXACT = frozenset(
    ir.DataType[name] for name in ("BOOL", "STRING", *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)))
)
_NEWEST_IR = 10


def operator_name(node: ir.Node) -> str:
    """``Op`` or ``domain::Op``."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


class NativeOperators:
    """The nodes of one model that run in their own precision.

    Args:
        model: Functions inlined.

    Attributes:
        epsilons: Node that was evaluated this way → machine epsilon of the coarsest float dtype it reads or writes.
    """

    def __init__(self, model: ir.Model) -> None:
        self.epsilons: dict[ir.Node, float] = {}
        self._model = model
        self._feeds: Mapping[str, Any] | None = None
        self._static: Concrete | None = None
        self._traced = False

    def runs_on(self, feeds: Mapping[str, Any]) -> None:
        """Tell which inputs the model gets; the first ones are used where dtypes have to be inferred."""
        if self._feeds is None:
            self._feeds = feeds

    def operator(self, node: ir.Node, reason: str) -> Compiled:
        """The callable for ``node``, without subgraphs.

        Args:
            node: A node of the main graph.
            reason: Why it has no float64 implementation.

        Raises:
            NoFloat64Error: ONNX Runtime does not run it alone, or a dtype is unknown or none that NumPy has.
        """
        name = operator_name(node)
        graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        if any(a.is_ref() or a.type in graphs for a in node.attributes.values()):
            raise NoFloat64Error(name, reason)
        read = {v.name or "": self.dtype(v) for v in node.inputs if v is not None}
        unknown = sorted(k for k, dtype in read.items() if dtype not in _FLOATS and dtype not in _EXACT)
        if unknown:
            kind = read[unknown[0]]
            what = "an unknown dtype" if kind is None else f"dtype {kind.name}"
            raise NoFloat64Error(name, f"{reason}; its input {unknown[0]} has {what}")
        try:
            session = try_open(self._alone(node, read), "cpu", optimised=False)
        except RefusedError as e:
            raise NoFloat64Error(name, f"{reason}; ONNX Runtime does not run it alone: {e}") from e
        outputs = [i for i, v in enumerate(node.outputs) if v.name]
        names = [v.name if v is not None else "" for v in node.inputs]
        checked = False

        def run(inputs: Sequence[Any]) -> tuple[Any, ...]:
            nonlocal checked
            feeds = {k: _rounded(x, read[k]) for k, x in zip(names, inputs, strict=True) if k}
            found = _run(session, feeds, name, reason)
            if not checked:
                if not all(map(_same, found, _run(session, feeds, name, reason))):
                    raise RandomError(name, "its result is random")
                checked = True
            floats = [_FLOATS[d] for d in read.values() if d in _FLOATS]
            floats += [y.dtype for y in found if isinstance(y, np.ndarray) and y.dtype.kind == "f"]
            self.epsilons[node] = max((float(np.finfo(d).eps) for d in floats), default=0.0)
            result: list[Any] = [None] * len(node.outputs)
            for i, y in zip(outputs, found, strict=True):
                result[i] = to_float64(y) if isinstance(y, np.ndarray) else y
            return tuple(result)

        return run

    def _alone(self, node: ir.Node, read: Mapping[str, ir.DataType | None]) -> ModelSource:
        """A model of this node only; its inputs have a dtype and no shape."""
        graph = onnx.GraphProto(name="node")
        graph.node.append(ir.to_proto(node))
        for name, dtype in read.items():
            graph.input.add(name=name).type.tensor_type.elem_type = int(dtype or 0)
        graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in node.outputs if v.name)
        model = onnx.ModelProto(ir_version=min(self._model.ir_version, _NEWEST_IR), graph=graph)
        for domain, version in self._model.opset_imports.items():
            model.opset_import.add(domain=domain, version=version)
        return ModelSource(model.SerializeToString())

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The dtype that the model has there: stored, declared or inferred; None for what is no tensor."""
        if value.const_value is not None:
            return value.const_value.dtype
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            return None
        if value.dtype is not None and value.dtype != ir.DataType.UNDEFINED:
            return value.dtype
        return self._infer(value.name or "")

    def _infer(self, name: str) -> ir.DataType | None:
        """From the inputs' shapes; where that does not reach, from one run of the model."""
        feeds = {k: x for k, x in (self._feeds or {}).items() if isinstance(x, np.ndarray)}
        try:
            if self._static is None:
                self._static = concretize(self._model, {k: x.shape for k, x in feeds.items()})
            if name not in self._static.dtypes and not self._traced:
                self._traced = True
                self._static = complete(self._model, self._static, feeds)
        except GrowError:
            return None
        return self._static.dtypes.get(name)


def _rounded(x: Any, dtype: ir.DataType | None) -> Any:
    """``x`` in the dtype of the model; beyond its range it overflows, as it would there."""
    if dtype in _FLOATS and isinstance(x, np.ndarray):
        with np.errstate(all="ignore"):
            return np.asarray(x.astype(_FLOATS[dtype]), order="C")
    return np.asarray(x) if isinstance(x, np.generic) else x  # NumPy makes a scalar of an array without axes


def _run(session: RuntimeSession, feeds: Mapping[str, Any], name: str, reason: str) -> list[Any]:
    try:
        return list(session.run(feeds).values())
    except Exception as e:  # onnxruntime's exceptions have no common base
        text = " ".join(str(e).split())[:200]
        raise NoFloat64Error(name, f"{reason}; ONNX Runtime does not run it alone: {text}") from e


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return bool(a == b)
