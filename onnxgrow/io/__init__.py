"""Reading and writing models: guarded paths, mapped weights, atomic and streamed saving."""

from __future__ import annotations

from onnxgrow.io.carry import Carried
from onnxgrow.io.copy import copy_model
from onnxgrow.io.data import Weights
from onnxgrow.io.digest import model_digest, tensor_digest
from onnxgrow.io.give_back import give_back
from onnxgrow.io.load import Loaded, load
from onnxgrow.io.save import INLINE_LIMIT, Seal, Staged, WriteProgress, save, save_bytes, stage

__all__ = [
    "INLINE_LIMIT",
    "Carried",
    "Loaded",
    "Seal",
    "Staged",
    "Weights",
    "WriteProgress",
    "copy_model",
    "give_back",
    "load",
    "model_digest",
    "save",
    "save_bytes",
    "stage",
    "tensor_digest",
]
