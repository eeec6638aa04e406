"""Concrete shapes, known small values and valid sample inputs of a model."""

from onnxgrow.concrete.infer import Concrete, concretize, evaluate_known
from onnxgrow.concrete.inputs import sample_inputs
from onnxgrow.concrete.npz import load_inputs
from onnxgrow.concrete.pin import pin_inputs
from onnxgrow.concrete.runnable import find_runnable, second_variant
from onnxgrow.concrete.trace import Traced, complete, trace

__all__ = [
    "Concrete",
    "Traced",
    "complete",
    "concretize",
    "evaluate_known",
    "find_runnable",
    "load_inputs",
    "pin_inputs",
    "sample_inputs",
    "second_variant",
    "trace",
]
