"""Exports networks with random weights to ONNX, offline, by both exporters of PyTorch, for the zoo run.

No weights are downloaded. Norm scales, biases and running statistics are randomised, because the zeros and
ones they start with hide faults. Needs an environment of its own (a plain ``torchvision`` would replace the
CPU build of torch)::

    pip install torch==2.13.0
    pip install numpy onnx onnxruntime onnxscript pillow transformers huggingface_hub pyyaml safetensors
    pip install --no-deps torchvision==0.28.0 timm
    python tools/make_exports.py --out zoo-cache/exports [--only 'hf_*'] [--exporter dynamo]

``legacy`` is the TorchScript exporter as it is used by default, ``kept`` the same with the settings that keep
parameter names and batch normalisation, ``dynamo`` the newer exporter.

Writes ``<name>.<exporter>.onnx`` and ``<name>.<exporter>.io.npz`` with the inputs (``in_<name>``) and ONNX
Runtime's outputs (``out_<i>``). Every export is compared with the module it came from, at two sizes. Exit code 1
if one of them fails.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

__all__ = ["EXPORTERS", "MODELS", "Case", "main", "randomise"]

SEED = 7
LEGACY_OPSET = 17
MAX_RELATIVE_DIFFERENCE = 1e-3
VOCABULARY = 200
EXPORTERS = ("legacy", "kept", "dynamo")


@dataclass(frozen=True)
class Case:
    """A module ready for export.

    Attributes:
        inputs: Name → example, in the order of ``forward``.
        dynamic: Input → axis → name of the dimension. Example sizes of these axes are not 0 or 1.
    """

    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


class OneOutput(nn.Module):
    """A transformers model that takes its inputs by position and gives one tensor."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], output: str) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.output = output

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.inputs, values, strict=True))
        return getattr(self.model(**named, return_dict=True), self.output)


class Crnn(nn.Module):
    """Convolutions over a strip of text, then a bidirectional LSTM, a GRU and a classifier per column."""

    def __init__(self, hidden: int = 16, classes: int = 11) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=(2, 1), padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.lstm = nn.LSTM(12 * 4, hidden, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        columns = x.permute(0, 3, 1, 2).flatten(2)
        y, _ = self.lstm(columns)
        y, _ = self.gru(y)
        return self.head(y)


def randomise(module: nn.Module) -> None:
    """Give norms, biases and statistics values that are neither zero nor one; matrices and kernels stay."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim <= 1 and "bias" in name.rpartition(".")[2]:
                parameter.normal_(0.0, 0.1)
            elif parameter.ndim <= 1:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


@cache
def _torchvision_operators() -> torch.library.Library:
    """Declare the compiled operators of torchvision: they do not load beside a CPU build of torch.

    timm and transformers import torchvision where it is installed, and its import looks for them.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _timm(name: str, size: int, **options: Any) -> Case:
    import timm

    module = timm.create_model(name, pretrained=False, **options)
    return Case(module, {"x": torch.randn(2, 3, size, size)}, ["logits"], {"x": {0: "batch"}})


def _tokens() -> dict[str, torch.Tensor]:
    """Token ids and a mask whose second row ends in padding; int64 (2, 16)."""
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 12:] = 0
    return {"input_ids": torch.randint(5, VOCABULARY, (2, 16)), "attention_mask": mask}


def _text_model(model: nn.Module, output: str) -> Case:
    inputs = _tokens()
    axes = {0: "batch", 1: "sequence"}
    return Case(OneOutput(model, list(inputs), output), inputs, [output], dict.fromkeys(inputs, axes))


def _bert() -> Case:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return _text_model(BertModel(config, add_pooling_layer=False), "last_hidden_state")


def _gpt2() -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        use_cache=False,
        attn_implementation="eager",
    )
    return _text_model(GPT2LMHeadModel(config), "logits")


def _llama() -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=64,
        use_cache=False,
        attn_implementation="eager",
    )
    return _text_model(LlamaForCausalLM(config), "logits")


def _whisper_encoder() -> Case:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=48,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=96,
        num_mel_bins=80,
        max_source_positions=50,
        attn_implementation="eager",
    )
    module = OneOutput(WhisperEncoder(config), ["input_features"], "last_hidden_state")
    return Case(module, {"mel": torch.randn(2, 80, 100)}, ["hidden"], {"mel": {0: "batch"}})


def _crnn() -> Case:
    # The width stays fixed: the dynamo exporter writes the number of LSTM steps into a Reshape.
    return Case(Crnn(), {"x": torch.randn(2, 1, 8, 20)}, ["logits"], {"x": {0: "batch"}})


MODELS: dict[str, Callable[[], Case]] = {
    "torch_crnn": _crnn,
    "hf_bert": _bert,
    "hf_gpt2": _gpt2,
    "hf_llama": _llama,
    "hf_whisper_enc": _whisper_encoder,
    "timm_mobilenetv3_small_100": lambda: _timm("mobilenetv3_small_100", 96),
    "timm_resnet18": lambda: _timm("resnet18", 96),
    "timm_vit_tiny_patch16_224": lambda: _timm("vit_tiny_patch16_224", 96, img_size=96),
    "timm_densenet121": lambda: _timm("densenet121", 96),
}


def export(case: Case, exporter: str, path: Path) -> None:
    """Write ``case`` with one of :data:`EXPORTERS`."""
    arguments = tuple(case.inputs.values())
    names = {"input_names": list(case.inputs), "output_names": list(case.outputs)}
    if exporter == "dynamo":
        sizes: dict[str, torch.export.Dim] = {}
        shapes = tuple(
            {axis: sizes.setdefault(d, torch.export.Dim(d)) for axis, d in case.dynamic.get(name, {}).items()}
            for name in case.inputs
        )
        # forward(*values) takes its arguments as one tuple
        dynamic = (shapes,) if isinstance(case.module, OneOutput) else shapes
        torch.onnx.export(
            case.module,
            arguments,
            str(path),
            dynamo=True,
            dynamic_shapes=dynamic,
            external_data=False,
            **names,
        )
        return
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(
        case.module,
        arguments,
        str(path),
        dynamo=False,
        opset_version=LEGACY_OPSET,
        dynamic_axes={name: dict(axes) for name, axes in case.dynamic.items()},
        **(kept if exporter == "kept" else {}),
        **names,
    )


def difference(case: Case, session: Any, inputs: Mapping[str, torch.Tensor]) -> float:
    """How far the export is from the module on ``inputs``: the largest difference of any output.

    It is relative to the largest value of that output.
    """
    got = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        expected = case.module(*inputs.values())
    wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    return max(float(np.abs(g - w.numpy()).max() / np.abs(w.numpy()).max()) for g, w in zip(got, wanted, strict=True))


def enlarged(case: Case) -> dict[str, torch.Tensor]:
    """The inputs with every dynamic axis one longer: its first entry once more at the end."""
    inputs = dict(case.inputs)
    for name, axes in case.dynamic.items():
        for axis in axes:
            value = inputs[name]
            inputs[name] = torch.cat([value, value.narrow(axis, 0, 1)], dim=axis)
    return inputs


def record(case: Case, path: Path) -> float:
    """Compare the export with the module at two sizes, and store inputs and outputs beside it.

    Returns the larger one of the two differences.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = max(difference(case, session, case.inputs), difference(case, session, enlarged(case)))
    feeds = {name: value.numpy() for name, value in case.inputs.items()}
    arrays = {f"in_{name.replace('/', '__')}": value for name, value in feeds.items()}
    arrays |= {f"out_{i}": value for i, value in enumerate(session.run(None, feeds))}
    np.savez_compressed(path.with_suffix(".io.npz"), **arrays)
    return found


def make(name: str, exporter: str, out: Path) -> tuple[bool, str]:
    """Build, export and check one model: whether that worked, and the line to print."""
    path = out / f"{name}.{exporter}.onnx"
    torch.manual_seed(SEED)
    _torchvision_operators()
    try:
        case = MODELS[name]()
        randomise(case.module)
        case.module.eval()
        export(case, exporter, path)
        found = record(case, path)
        if not found <= MAX_RELATIVE_DIFFERENCE:
            raise ArithmeticError(f"differs from the module by {found:.1e}")
    except Exception as e:  # exporters raise whatever they like; one model must not stop the others
        path.unlink(missing_ok=True)
        path.with_suffix(".io.npz").unlink(missing_ok=True)
        return False, f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0]}"
    return True, f"{path.stat().st_size:>11,} bytes, differs from the module by {found:.1e}"


def main(argv: Sequence[str] | None = None) -> int:
    """Export what was asked for and print one line an export. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Export random networks with both exporters of PyTorch.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", action="append", metavar="GLOB", help="models; may be repeated")
    parser.add_argument("--exporter", action="append", choices=EXPORTERS)
    options = parser.parse_args(argv)
    chosen = [n for n in MODELS if any(fnmatchcase(n, g) for g in options.only or ["*"])]
    if not chosen:
        parser.error(f"no model matches; there are {', '.join(MODELS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    failed = 0
    for name in chosen:
        for exporter in options.exporter or EXPORTERS:
            worked, line = make(name, exporter, options.out)
            failed += not worked
            print(f"{name:<28} {exporter:<7} {'made' if worked else 'FAILED':<7} {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
