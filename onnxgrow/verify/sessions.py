"""ONNX Runtime sessions for verification: the same options for both models, and proof of which provider ran what.

Facts behind the choices: the onnxruntime-gpu wheel lists CUDA on machines without it and then silently falls back to
the CPU; TF32 is on by default; optimisation level, threads and prepacking all move the last bits of a result.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxgrow.concrete.session import as_ort_value, skeleton_of
from onnxgrow.errors import EnvironmentFault, GrowError, UnsupportedError, UsageError

__all__ = [
    "PROVIDERS",
    "ModelSource",
    "RefusedError",
    "RuntimeSession",
    "check_runtime",
    "one_line",
    "open_session",
    "resolve_provider",
    "run_original",
    "try_open",
]

PROVIDERS = ("auto", "cpu", "cuda")
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
THREADS = 4
FATAL = 4
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-training",
    "onnxruntime-silicon",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
)
"""Distributions that all write the folder ``onnxruntime``."""


def check_runtime() -> Any:
    """The module ``onnxruntime``, from an installation that is whole.

    Raises:
        EnvironmentFault: It is missing, installed twice, or damaged; the hint holds the commands that mend it.
    """
    installed = []
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            installed.append(name)
    if len(installed) > 1:
        best = "onnxruntime-gpu" if "onnxruntime-gpu" in installed else installed[0]
        raise EnvironmentFault(
            "onnxruntime",
            f"{' and '.join(installed)} are installed together and overwrite each other's files",
            f"pip uninstall -y {' '.join(installed)} && pip install {best}",
        )
    name = installed[0] if installed else "onnxruntime"
    try:
        module = importlib.import_module("onnxruntime")
    except Exception as e:  # a damaged package fails in any way it likes
        hint = f"pip install --force-reinstall {name}" if installed else "pip install onnxruntime"
        raise EnvironmentFault("onnxruntime", f"cannot be imported: {one_line(e)}", hint) from e
    if not all(hasattr(module, needed) for needed in ("InferenceSession", "SessionOptions")):
        raise EnvironmentFault(
            "onnxruntime",
            "the package is damaged: its classes are missing, as after uninstalling one of two variants",
            f"pip install --force-reinstall {name}",
        )
    return module


@dataclass(frozen=True)
class ModelSource:
    """A serialized model for ONNX Runtime.

    Attributes:
        model: Bytes, or the path of a file (needed above 2 GB).
        folder: Where external data lies; for bytes that refer to it.
        weights: Initializers that lie in memory and that the bytes only refer to, by name.
        kept: What the files that the bytes refer to live as long as.
    """

    model: bytes | Path
    folder: Path | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    kept: object = None

    @classmethod
    def of(cls, model: bytes | str | os.PathLike[str] | ModelSource) -> ModelSource:
        """From bytes or a path."""
        if isinstance(model, ModelSource):
            return model
        if isinstance(model, bytes):
            return cls(model)
        path = Path(model)
        return cls(path, path.parent)

    @classmethod
    def of_model(cls, model: ir.Model) -> ModelSource:
        """Without a copy of its large weights: ONNX Runtime maps them from their file, or borrows them.

        Raises:
            UnsupportedError: Without these weights it is still too large for a protobuf.
        """
        skeleton = skeleton_of(model)
        try:
            data = skeleton.proto.SerializeToString()
        except ValueError as e:
            raise UnsupportedError("model", f"its graph is too large for ONNX Runtime: {one_line(e)}") from e
        return cls(data, Path(skeleton.folder) if skeleton.folder else None, skeleton.weights, skeleton.spill)

    def array(self, tensor: onnx.TensorProto) -> Any:
        """The data of an initializer of :meth:`proto`, wherever it lies."""
        if tensor.name in self.weights and tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self.weights[tensor.name]
        return onnx.numpy_helper.to_array(tensor, "" if self.folder is None else str(self.folder))

    def proto(self) -> onnx.ModelProto:
        """The parsed model without its external data."""
        if isinstance(self.model, bytes):
            proto = onnx.ModelProto()
            proto.ParseFromString(self.model)
            return proto
        return onnx.load(self.model, load_external_data=False)

    def with_proto(self, proto: onnx.ModelProto) -> ModelSource:
        """A variation of this model that reads the same external data."""
        external = {t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        weights = {name: x for name, x in self.weights.items() if name in external}
        return ModelSource(proto.SerializeToString(), self.folder, weights, self.kept)


@dataclass(frozen=True)
class RuntimeSession:
    """An open session.

    Attributes:
        session: The ``onnxruntime.InferenceSession``.
        provider: ``cpu`` or ``cuda``.
        nodes: Provider → number of nodes it was given, fused ones counted once.
        borrowed: Weights that have to live as long as the session.
    """

    session: Any
    provider: str
    nodes: Mapping[str, int] = field(default_factory=dict)
    borrowed: Sequence[Any] = ()

    @property
    def output_names(self) -> list[str]:
        return [o.name for o in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Output name → array. Exceptions of ONNX Runtime pass through."""
        names = list(outputs) if outputs is not None else self.output_names
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))


def one_line(e: BaseException | str) -> str:
    """The message of an exception on one line, shortened."""
    text = " ".join(str(e).split())
    return text[:300] or type(e).__name__


@contextlib.contextmanager
def _quiet(runtime: Any) -> Iterator[None]:
    """Keep ONNX Runtime's own log lines off stderr; errors still come as exceptions."""
    runtime.set_default_logger_severity(FATAL)
    try:
        yield
    finally:
        runtime.set_default_logger_severity(2)  # the library's default, warnings


def _options(runtime: Any, optimised: bool, strict: bool, folder: Path | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = FATAL
    options.use_deterministic_compute = True
    options.intra_op_num_threads = min(THREADS, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    level = runtime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False  # an arena keeps what a run took until the session is closed
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Threads that spin while they wait take the processors from everything else, and gain a few microseconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _probe_model() -> bytes:
    node = onnx.helper.make_node("MatMul", ["x", "x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 2]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "probe", info[:1], info[1:])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


@cache
def _cuda_fault() -> str:
    """Why no CUDA session comes up on this machine; empty when one does."""
    runtime = check_runtime()
    if CUDA not in runtime.get_available_providers():
        return "this onnxruntime has no CUDA provider"
    with _quiet(runtime):
        if hasattr(runtime, "preload_dlls"):  # finds the CUDA libraries of pip packages; it prints what it misses
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
                runtime.preload_dlls()
        try:
            session = runtime.InferenceSession(
                _probe_model(), _options(runtime, False, True, None), providers=[(CUDA, CUDA_OPTIONS)]
            )
        except Exception as e:  # onnxruntime's exceptions have no common base
            return f"no CUDA session comes up: {one_line(e)}"
    return "" if CUDA in session.get_providers() else "ONNX Runtime fell back to the CPU"


def resolve_provider(provider: str) -> str:
    """``cpu`` or ``cuda``: ``auto`` is CUDA only where a CUDA session really comes up.

    Raises:
        EnvironmentFault: CUDA was asked for by name and is not usable.
        UsageError: No such provider.
    """
    if provider not in PROVIDERS:
        raise UsageError("provider", f"{provider!r} is unknown", f"one of {', '.join(PROVIDERS)}")
    check_runtime()
    if provider == "cpu":
        return "cpu"
    fault = _cuda_fault()
    if not fault:
        return "cuda"
    if provider == "cuda":
        raise EnvironmentFault(
            "provider cuda", fault, "install CUDA and cuDNN for this onnxruntime-gpu, or verify with provider cpu"
        )
    return "cpu"


def open_session(source: ModelSource, provider: str, *, optimised: bool, strict: bool = False) -> RuntimeSession:
    """Open a session with the options that every verification session has.

    Args:
        source: The model.
        provider: ``cpu`` or ``cuda``, see :func:`resolve_provider`.
        optimised: ORT_ENABLE_ALL, else ORT_DISABLE_ALL.
        strict: Every node has to run on CUDA.

    Raises:
        EnvironmentFault: CUDA was asked for and the session does not have it.
        Exception: What ONNX Runtime raises for a model that it refuses.
    """
    runtime = check_runtime()
    cuda = provider == "cuda"
    providers: list[Any] = [(CUDA, CUDA_OPTIONS), *([] if strict else [CPU])] if cuda else [CPU]
    model = source.model if isinstance(source.model, bytes) else str(source.model)
    folder = source.folder if isinstance(source.model, bytes) else None
    options = _options(runtime, optimised, cuda and strict, folder)
    borrowed = [as_ort_value(x) for x in source.weights.values()]
    if borrowed:
        options.add_external_initializers(list(source.weights), borrowed)
    with _quiet(runtime):
        try:
            session = runtime.InferenceSession(model, options, providers=providers)
        except Exception as e:
            if cuda and strict and "fallback to CPU" in str(e):
                raise EnvironmentFault(
                    "provider cuda",
                    "some nodes of this model have no CUDA kernel and would run on the CPU",
                    "use provider auto, which reports what ran where",
                ) from e
            raise
    if cuda and CUDA not in session.get_providers():
        raise EnvironmentFault("provider cuda", "ONNX Runtime fell back to the CPU", "verify with provider cpu")
    return RuntimeSession(session, provider, _assignment(session), [*borrowed, source.kept])


class RefusedError(Exception):
    """ONNX Runtime does not load a model; the message is its own, on one line."""


def try_open(source: ModelSource, provider: str, *, optimised: bool, strict: bool = False) -> RuntimeSession:
    """:func:`open_session`, with every refusal of the model as a RefusedError."""
    try:
        return open_session(source, provider, optimised=optimised, strict=strict)
    except GrowError:
        raise
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise RefusedError(one_line(e)) from e


def run_original(
    session: RuntimeSession, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run the user's own model. Raises UnsupportedError where it fails."""
    try:
        return session.run(feeds, outputs)
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise UnsupportedError(
            "original model",
            f"ONNX Runtime fails on it: {one_line(e)}",
            "give inputs it accepts (--inputs) or their shapes (--input-shape)",
        ) from e


def _assignment(session: Any) -> dict[str, int]:
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)
