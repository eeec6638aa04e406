"""A first run in a process of its own, where sizes that are only guessed could end the whole process.

ONNX Runtime reports what it cannot run, with few exceptions: a Scan over an axis without entries divides by zero, and
the processor ends the process. Sound networks get there from guessed sizes, as a front end that cuts audio into frames
does with an audio shorter than a frame.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.pin import SHAPE_HINT
from onnxgrow.errors import UnsupportedError
from onnxgrow.io.save import save_bytes

__all__ = ["Rehearsal"]

_MODEL, _FEEDS = "model.onnx", "feeds.npz"
_SCRIPT = f"""
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
options.log_severity_level = 4
session = onnxruntime.InferenceSession({_MODEL!r}, options, providers=["CPUExecutionProvider"])
session.run(None, dict(zip(sys.argv[1:], numpy.load({_FEEDS!r}).values())))
"""
_RAISED = (0, 1)
"""Exit codes of an interpreter that came to its end, by itself or by an exception."""


class Rehearsal:
    """Runs a model apart from this process, if it holds an operator that may end the process.

    Args:
        model: The model; not modified.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._stored: bytes | None = None
        graphs = (model.graph, *(f.graph for f in model.functions.values()))
        nodes = (n for graph in graphs for n in ir.traversal.RecursiveGraphIterator(graph))
        self.needed = bool(sys.executable) and any(n.op_type == "Scan" for n in nodes)

    def __call__(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Run once, if that is needed, and forget the outputs; errors that are reported will be so again.

        A model above 2 GB, and values that are Python objects, are not rehearsed.

        Raises:
            UnsupportedError: The process ended without a word.
        """
        if not self.needed:
            return
        if self._stored is None:
            try:
                self._stored = save_bytes(self._model)
            except UnsupportedError:  # too large for one file
                self.needed = False
                return
        with tempfile.TemporaryDirectory(prefix="onnxgrow-") as folder:
            Path(folder, _MODEL).write_bytes(self._stored)
            np.savez(Path(folder, _FEEDS), *(np.asarray(value) for value in feeds.values()))
            command = [sys.executable, "-c", _SCRIPT, *feeds]
            code = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False
            ).returncode
        if code not in _RAISED:
            sizes = ", ".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items())
            raise UnsupportedError(
                "model",
                f"ONNX Runtime ends the process (code {code}) at {sizes}",
                f"{SHAPE_HINT}, or inputs with --inputs",
            )
