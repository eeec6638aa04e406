"""Exports networks with random weights to ONNX, offline, by both exporters of PyTorch, for the zoo run.

The networks are in ``tools/exports``, by family. No weights are downloaded. Norm scales, biases and running statistics
are randomised, because the zeros and ones they start with hide faults. Needs an environment of its own (a plain
``torchvision`` would replace the CPU build of torch)::

    pip install torch==2.13.0
    pip install numpy onnx onnxruntime onnxscript pillow transformers huggingface_hub pyyaml safetensors sympy
    pip install --no-deps torchvision==0.28.0 timm
    python -m tools.make_exports --out zoo-cache/exports [--only 'hf_*'] [--exporter dynamo] [--list]

``legacy`` is the TorchScript exporter as it is used by default, ``kept`` the same with the settings that keep
parameter names and batch normalisation, ``dynamo`` the newer exporter. Some networks are also made in quantised,
half-precision and bfloat16 forms (``tools/exports/conversions.py``).

Writes ``<name>.<exporter>.onnx`` and ``<name>.<exporter>.io.npz`` with the inputs (``in_<name>``) and ONNX
Runtime's outputs (``out_<i>``). Every export is compared with the module it came from, at two sizes. Exit code 1
if one of them fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tools.exports import NETWORKS
from tools.exports.case import ByPosition, Case, randomise
from tools.exports.conversions import CONVERSIONS, CONVERTED, in_bfloat16, reference_outputs

__all__ = ["EXPORTERS", "SEED", "export", "main"]

SEED = 7
LEGACY_OPSET = 17
MAX_RELATIVE_DIFFERENCE = 1e-3
BFLOAT16_DIFFERENCE = 0.1
EXPORTERS = ("legacy", "kept", "dynamo")
FORMS = (*EXPORTERS, *CONVERSIONS, "bf16")


@cache
def _torchvision_operators() -> torch.library.Library:
    """Declare the compiled operators of torchvision: they do not load beside a CPU build of torch.

    timm and transformers import torchvision where it is installed, and its import looks for them.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


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
        dynamic = (shapes,) if isinstance(case.module, ByPosition) else shapes
        torch.onnx.export(
            case.module,
            arguments,
            str(path),
            dynamo=True,
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
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


def difference(case: Case, got: Sequence[Any], inputs: Mapping[str, torch.Tensor]) -> float:
    """How far an export's outputs are from the module's on ``inputs``: the largest difference of any output.

    It is relative to the largest value of that output.
    """
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


def outputs_of(path: Path, feeds: Mapping[str, Any], reference: bool) -> list[Any]:
    """ONNX Runtime's outputs on the CPU, or those of onnx's own evaluator; inputs that the file lost are left out."""
    if reference:
        return reference_outputs(path, feeds)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()}))


def record(case: Case, path: Path, reference: bool = False) -> float:
    """Compare the export with the module at two sizes, and store inputs and outputs beside it.

    Returns the larger one of the two differences.
    """
    differences = []
    arrays: dict[str, Any] = {}
    for inputs in (enlarged(case), case.inputs):
        feeds = {name: value.numpy() for name, value in inputs.items()}
        got = outputs_of(path, feeds, reference)
        differences.append(difference(case, got, inputs))
        kept = {i.name for i in onnx.load(path, load_external_data=False).graph.input}
        arrays = {f"in_{name.replace('/', '__')}": value for name, value in feeds.items() if name in kept}
        arrays |= {f"out_{i}": value for i, value in enumerate(got)}
    np.savez_compressed(path.with_suffix(".io.npz"), **arrays)
    return max(differences)


def write(case: Case, form: str, path: Path) -> float:
    """Write and compare one of :data:`FORMS` of a network. Returns how far it is from the module.

    Raises:
        ArithmeticError: It is too far.
    """
    bound = MAX_RELATIVE_DIFFERENCE
    if form == "bf16":
        case, bound = in_bfloat16(case), BFLOAT16_DIFFERENCE
        export(case, "dynamo", path)
    elif form in CONVERSIONS:
        convert, bound = CONVERSIONS[form]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / path.name
            export(case, "legacy", source)
            convert(source, path, {name: value.numpy() for name, value in case.inputs.items()})
    else:
        export(case, form, path)
    found = record(case, path, reference=form == "bf16")
    if not found <= bound:
        raise ArithmeticError(f"differs from the module by {found:.1e}")
    return found


def make(name: str, form: str, out: Path) -> tuple[bool, str]:
    """Build, export and check one model: whether that worked, and the line to print."""
    path = out / f"{name}.{form}.onnx"
    torch.manual_seed(SEED)
    _torchvision_operators()
    try:
        case = NETWORKS[name]()
        if case.exporters and form not in case.exporters:
            return True, "left out: it cannot be written so"
        randomise(case.module)
        case.module.eval()
        found = write(case, form, path)
    except Exception as e:  # exporters raise whatever they like; one model must not stop the others
        path.unlink(missing_ok=True)
        path.with_suffix(".io.npz").unlink(missing_ok=True)
        return False, f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0][:200]}"
    return True, f"{path.stat().st_size:>11,} bytes, differs from the module by {found:.1e}"


def main(argv: Sequence[str] | None = None) -> int:
    """Export what was asked for and print one line an export. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Export random networks with both exporters of PyTorch.")
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--only", action="append", metavar="GLOB", help="models; may be repeated")
    parser.add_argument("--exporter", action="append", choices=FORMS)
    parser.add_argument("--list", action="store_true", help="print the names of the networks and exit")
    options = parser.parse_args(argv)
    chosen = [n for n in NETWORKS if any(fnmatchcase(n, g) for g in options.only or ["*"])]
    if not chosen:
        parser.error(f"no model matches; there are {', '.join(NETWORKS)}")
    if options.list:
        print(*chosen, sep="\n")
        return 0
    if options.out is None:
        parser.error("--out is required")
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    failed = 0
    for name in chosen:
        for form in options.exporter or FORMS:
            if form not in EXPORTERS and form not in CONVERTED.get(name, ()):
                continue
            worked, line = make(name, form, options.out)
            failed += not worked
            print(f"{name:<40} {form:<9} {'made' if worked else 'FAILED':<7} {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
