"""The promise of the folder: the same bytes whatever the process, its hash seed or its number of threads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import onnxgrow.init

FOLDER = Path(onnxgrow.init.__file__).parent

PROGRAM = """
import hashlib, os, sys
import numpy as np
from onnxgrow.init import Key, OldWeight, fill, fill_ranges, scheme_names, std
digest = hashlib.sha256()
values = fill_ranges("kaiming", (130, 70), [range(9100)], np.float32, fan_in=70, fan_out=130, gain=1.5,
                     key=Key(1, int(sys.argv[1]), "a.w"))
digest.update(values.tobytes())
for scheme in scheme_names():
    values = fill(scheme, (130, 70), fan_in=70, fan_out=130, gain=1.5, key=Key(1, int(sys.argv[1]), "a.w"),
                  old=OldWeight(np.arange(7000.0).reshape(100, 70)))
    digest.update(values.tobytes())
    digest.update(np.float64(std(values)).tobytes())
print(digest.hexdigest())
"""


def digest(generation: int, **environment: str) -> str:
    paths = [str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(generation)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_processes_agree_whatever_their_hash_seed_threads_and_vector_units() -> None:
    one = digest(1, PYTHONHASHSEED="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    # Without the wider vector units NumPy takes other code for the same ufuncs.
    plain = "AVX512F AVX512CD AVX512_SKX AVX2 FMA3 X86_V3 X86_V4"
    two = digest(1, PYTHONHASHSEED="2", OMP_NUM_THREADS="2", NPY_DISABLE_CPU_FEATURES=plain)
    assert len(one) == 64
    assert one == two
    assert digest(2, PYTHONHASHSEED="1", OMP_NUM_THREADS="1") != one


# What rounds as the library, the processor or the number of threads would have it.
INEXACT = {
    *("exp", "exp2", "expm1", "log1p", "log2", "log10", "sin", "cos", "tan", "tanh", "pow", "power", "cbrt"),
    *(
        "sum",
        "mean",
        "std",
        "var",
        "dot",
        "vdot",
        "inner",
        "matmul",
        "einsum",
        "tensordot",
        "linalg",
        "cumsum",
    ),
    *("reduce", "fsum", "hypot", "random", "default_rng", "standard_normal", "erf"),
}


def inexact_operations(source: str) -> list[str]:
    """Uses of such functions as an attribute of np, math or a value, and every matrix product."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append("@")
        elif isinstance(node, ast.Attribute) and (node.attr in INEXACT or ast.unparse(node) == "np.log"):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.name)
def test_the_sources_use_exact_operations_only(path: Path) -> None:
    # Counting marks with .sum() is integer arithmetic; Philox is reached through np.random.
    allowed = {"bits.py": ["np.random"] * 3, "copies.py": ["new.sum"]}
    assert inexact_operations(path.read_text("utf-8")) == allowed.get(path.name, [])


@pytest.mark.parametrize("line", ["x @ y", "x @= y", "np.exp(x)", "math.log2(x)", "x.sum()", "np.log(x)"])
def test_the_search_for_inexact_operations_finds_them(line: str) -> None:
    assert inexact_operations(line)
