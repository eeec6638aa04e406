"""ONNX Runtime sessions on the CPU for an ``onnx_ir.Model``, with any inner values as extra outputs.

Weights that lie in a file are mapped from it by ONNX Runtime; others are handed over as they lie in memory, and large
ones that are computed when they are read from a temporary file.
Neither goes through the protobuf, so models beyond its limit of 2 GB work, and a mapped weight stays mapped.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxgrow.concrete.pin import SHAPE_HINT
from onnxgrow.concrete.values import constant_of, dims_of
from onnxgrow.errors import EnvironmentFault, UnsupportedError
from onnxgrow.io.tensors import Blocked, blocks

__all__ = ["Output", "Session", "Skeleton", "as_ort_value", "one_line", "open_session", "skeleton_of"]

Array = npt.NDArray[np.generic]

_INLINE_BYTES = 1024
_SPILLED_BYTES = 1 << 20
_ALIGNMENT = 1 << 16  # what every system can map from
# Element types that ONNX Runtime takes from NumPy memory; others travel inside the protobuf.
_SHARED = frozenset(
    ir.DataType[name]
    for name in (
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "BOOL",
        *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)),
    )
)


@dataclass(frozen=True)
class Output:
    """One tensor that a run gave out: its dtype and shape, and its data on demand."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    held: Any

    def numpy(self) -> Array | None:
        """The data, or None where ONNX Runtime has no NumPy form for the dtype (bfloat16, float8, 4-bit)."""
        if isinstance(self.held, np.ndarray):
            return self.held
        return np.asarray(self.held.numpy()) if self.dtype in _SHARED else None


@dataclass(frozen=True)
class Session:
    """An open ONNX Runtime session and the weights it borrows."""

    runtime: Any
    borrowed: Sequence[Any]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array], want: Collection[str] | None = None) -> dict[str, Output]:
        """Run once; output name → tensor, for the outputs wanted (all by default).

        Outputs that are no tensors (sequences, maps, empty optionals) are left out.

        Raises:
            UnsupportedError: ONNX Runtime refuses; the reason names the node where it says so.
        """
        names = [name for name in self.outputs if want is None or name in want]
        try:
            results = self._run(names, feeds)
        except Exception as error:
            # The binding raises a class per status code, all of them plain exceptions.
            raise UnsupportedError(
                "model",
                f"ONNX Runtime cannot run it: {one_line(error)}",
                f"{SHAPE_HINT}, or inputs with --inputs",
            ) from error
        return {name: output for name, output in zip(names, results, strict=True) if output is not None}

    def _run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Output | None]:
        if any(array.dtype.kind in "OUS" for array in feeds.values()):
            # Strings cannot be handed over as an OrtValue.
            return [_of_array(result) for result in self.runtime.run(names, dict(feeds))]
        values = {name: as_ort_value(array) for name, array in feeds.items()}
        return [_of_value(result) for result in self.runtime.run_with_ort_values(names, values)]


def as_ort_value(array: Array) -> Any:
    """Hand an array over without a copy where it is contiguous."""
    ort = _onnxruntime()
    array = np.asarray(array, order="C")  # keeps rank 0, as ascontiguousarray does not
    if array.dtype.kind != "V":
        return ort.OrtValue.ortvalue_from_numpy(array)
    # bfloat16 and float8 are no types of NumPy's own: their bits travel as integers.
    bits = array.view(np.dtype(f"uint{8 * array.dtype.itemsize}"))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, int(ir.DataType.from_numpy(array.dtype)))


def _of_array(result: object) -> Output | None:
    if not isinstance(result, np.ndarray):
        return None
    is_text = result.dtype.kind in "OUS"
    dtype = ir.DataType.STRING if is_text else ir.DataType.from_numpy(result.dtype)
    return Output(dtype, result.shape, result)


def _of_value(result: Any) -> Output | None:
    if not result.has_value() or not result.is_tensor():
        return None
    return Output(ir.DataType(result.element_type()), tuple(result.shape()), result)


def open_session(model: ir.Model, extra_outputs: Collection[str] = ()) -> Session:
    """Open the model on the CPU provider without graph optimisations.

    Args:
        model: The model; not modified.
        extra_outputs: Values of the main graph to give out besides the model's outputs.

    Raises:
        UnsupportedError: ONNX Runtime does not accept the model.
        EnvironmentFault: ONNX Runtime is not installed, or broken.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Threads that spin while they wait take the processors from everything else, and gain a few microseconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        skeleton = skeleton_of(model, extra_outputs)
        borrowed = [as_ort_value(array) for array in skeleton.weights.values()]
        if borrowed:
            options.add_external_initializers(list(skeleton.weights), borrowed)
        if skeleton.folder:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, skeleton.folder)
        serialized = skeleton.proto.SerializeToString()
        runtime = ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The binding raises a class per status code, protobuf its own for models over 2 GB, and a weight that
        # cannot be read whatever its storage raises.
        raise UnsupportedError("model", f"ONNX Runtime cannot load it: {one_line(error)}") from error
    outputs = tuple(output.name for output in skeleton.proto.graph.output)
    return Session(runtime, [borrowed, skeleton], outputs)


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentFault(
            "onnxruntime",
            f"it cannot be imported: {one_line(error)}",
            "install onnxruntime or onnxruntime-gpu",
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise EnvironmentFault(
            "onnxruntime",
            "the installation is broken",
            "uninstall both onnxruntime and onnxruntime-gpu, then install one of them",
        )
    return onnxruntime


class Spill:
    """A temporary file of computed tensors, removed with this object: ONNX Runtime copies what lies in memory."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="onnxgrow-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path = os.path.join(os.path.realpath(folder), "weights")

    def add(self, tensor: ir.TensorProtocol) -> tuple[str, int]:
        """Write a tensor; the path of the file and the offset of the data in it. Raises OSError."""
        with open(self._path, "ab") as file:
            file.truncate(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            file.seek(0, os.SEEK_END)
            offset = file.tell()
            for block in blocks(tensor):
                file.write(block)
        return self._path, offset


@dataclass
class Skeleton:
    """A model as a protobuf without its large weights.

    Attributes:
        weights: Large weights that are in memory, by name.
        folder: What the protobuf's references to files are relative to, the root of a file system; empty where it
            has none.
        spill: The file that large computed weights were written to; it goes with this object.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array] = field(default_factory=dict)
    folder: str = ""
    spill: Spill | None = None

    def add(self, name: str, tensor: ir.TensorProtocol, inline: bool = False) -> None:
        """Add an initializer: inside the protobuf if it is small, by reference otherwise."""
        initializers = self.proto.graph.initializer
        if inline or tensor.nbytes <= _INLINE_BYTES or tensor.dtype not in _SHARED:
            if isinstance(tensor, ir.ExternalTensor):
                tensor = ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
            initializers.append(ir.serde.serialize_tensor(tensor))
            initializers[-1].name = name
            return
        proto = initializers.add(name=name, dims=dims_of(tensor), data_type=int(tensor.dtype))
        proto.data_location = onnx.TensorProto.EXTERNAL
        if isinstance(tensor, ir.ExternalTensor) and (tensor.offset or 0) % tensor.dtype.itemsize == 0:
            # ONNX Runtime follows no link out of the folder, and the files of model hubs are links.
            place: tuple[str, int] | None = (os.path.realpath(tensor.path), tensor.offset or 0)
        else:
            place = self._spilled(tensor)
        if place is not None and self._reach(Path(place[0]).anchor):
            proto.external_data.add(key="location", value=Path(place[0]).relative_to(self.folder).as_posix())
            proto.external_data.add(key="offset", value=str(place[1]))
            proto.external_data.add(key="length", value=str(tensor.nbytes))
        else:
            proto.external_data.add(key="location", value="memory")
            self.weights[name] = np.require(tensor.numpy(), requirements=("C", "A"))

    def _spilled(self, tensor: ir.TensorProtocol) -> tuple[str, int] | None:
        """File and offset of a large tensor that is computed when it is read, or lies at an odd byte of its file; None
        for others, and without room."""
        if not isinstance(tensor, Blocked) or tensor.nbytes <= _SPILLED_BYTES:
            return None
        try:
            if self.spill is None:
                self.spill = Spill()
            return self.spill.add(tensor)
        except OSError:
            return None

    def _reach(self, folder: str) -> bool:
        """ONNX Runtime looks for files below one folder only: the first one asked for."""
        self.folder = self.folder or folder
        return self.folder == folder


def skeleton_of(model: ir.Model, extra_outputs: Collection[str] = ()) -> Skeleton:
    """The model as a small protobuf that refers to its large weights, in memory or in their files.

    Args:
        model: The model; not modified.
        extra_outputs: Values of the main graph to give out besides the model's outputs.
    """
    skeleton = Skeleton(onnx.ModelProto(ir_version=model.ir_version))
    proto, graph = skeleton.proto, skeleton.proto.graph
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.functions.extend(ir.serde.serialize_function(f) for f in model.functions.values())
    graph.name = model.graph.name or "graph"
    graph.output.extend(ir.serde.serialize_value(value) for value in model.graph.outputs)
    outputs = {output.name for output in graph.output}
    initializers = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        # ONNX Runtime drops an unused initializer before it looks for its data, and then complains.
        if value.const_value is not None and (name in outputs or any(value.uses()))
    }
    graph.input.extend(
        ir.serde.serialize_value(value)
        for value in model.graph.inputs
        if value.name in initializers or value.name not in model.graph.initializers
    )
    for name in dict.fromkeys(extra_outputs):
        if name not in outputs:
            graph.output.add().name = name
    for name, tensor in initializers.items():
        skeleton.add(name, tensor, inline=name in outputs)
    for node in model.graph:
        constant = constant_of(node) if node.op_type == "Constant" else None
        name = node.outputs[0].name or "" if node.outputs else ""
        # A graph output must be computed by a node, so such a Constant stays one.
        if constant is not None and constant.nbytes > _INLINE_BYTES and name not in outputs:
            if any(node.outputs[0].uses()):
                skeleton.add(name, constant)
        else:
            ir.serde.serialize_node_into(made := graph.node.add(), node)
            # Outputs left out at the end are dropped there, but ONNX Runtime counts those of a call of a function.
            made.output.extend([""] * (len(node.outputs) - len(made.output)))
    return skeleton


_NODE = re.compile(r"while running (\S+) node\. Name:'([^']*)' Status Message: (.*)", re.DOTALL)
_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S*/onnxruntime/\S+:\d+ (?:[^\n]*?\)(?: const)?(?: \[with [^\]]*\])? )?")


def one_line(error: BaseException, limit: int = 300) -> str:
    """The gist of an ONNX Runtime error: the innermost node and the message, without source locations."""
    text = _STATUS.sub("", str(error))
    where = ""
    while found := _NODE.search(text):
        where = f"{found[1]} {found[2]!r}: "
        text = found[3]
    text = " ".join(_SOURCE.sub("", text).split())
    return (where + text)[:limit]
