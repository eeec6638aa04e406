"""Watch, with strace, which files a run of onnxgrow touches: nothing outside of the model's folder, and no network.

Each trap is a small model whose external data claims to lie elsewhere. ``onnxgrow inspect`` and ``onnxgrow widen`` run
on every one under strace; whatever they open, make or remove must be in the model's folder or belong to Python, to
the installed packages and to the system (the places that an honest model makes them use). Linux only.

    python -m tools.trace_files
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["ESCAPES", "lay_trap", "main", "offences", "traced"]

NBYTES = 80
NETWORK = re.compile(r"\b(socket|connect|sendto|bind)\((AF_INET|\d+, \{sa_family=AF_INET)")
ACCESS = re.compile(r"\b(open|openat|creat|mkdir|mkdirat|unlink|unlinkat|rename|renameat2?|link|linkat|symlink)\(")
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _link(target: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "w.data").symlink_to(target)
        return "w.data"

    return make


def _folder_link(folder: Path) -> str:
    (folder / "out").symlink_to("..")
    return "out/secret"


def _made(make: Callable[[str], object]) -> Callable[[Path], str]:
    def location(folder: Path) -> str:
        make(str(folder / "w.data"))
        return "w.data"

    return location


def _socket(path: str) -> None:
    # Paths of sockets are short, and this one need not be.
    before = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.basename(path))
    finally:
        os.chdir(before)


ESCAPES: dict[str, Callable[[Path], str]] = {
    "parent": lambda folder: "../secret",
    "parent, hidden": lambda folder: "sub/../../secret",
    "parent, dotted": lambda folder: "./../secret",
    "parent, backslash": lambda folder: "..\\secret",
    "parent, encoded": lambda folder: "%2e%2e/secret",
    "absolute": lambda folder: str(folder.parent / "secret"),
    "URL": lambda folder: f"file://{folder.parent / 'secret'}",
    "home": lambda folder: "~/secret",
    "zero byte": lambda folder: "w.data\0/../../secret",
    "process": lambda folder: "/proc/self/environ",
    "network share": lambda folder: "\\\\server\\share\\secret",
    "link": _link("../secret"),
    "link, absolute": _link("/etc/passwd"),
    "link to a device": _link("/dev/zero"),
    "link to the process": _link("/proc/self/mem"),
    "link in the way": _folder_link,
    "folder": _made(os.mkdir),
    "pipe": _made(lambda path: os.mkfifo(path)),
    "socket": _made(_socket),
}
"""Name → gets the model's folder, puts something in it, and gives the location of the data."""


def lay_trap(folder: Path, escape: str) -> Path:
    """A model in ``folder/work`` whose weight claims to lie elsewhere, for instance in ``folder/secret``."""
    (folder / "secret").write_bytes(bytes(NBYTES))
    work = folder / "work"
    work.mkdir()
    (work / "sub").mkdir()
    return _write_model(work, ESCAPES[escape](work))


def _write_model(work: Path, location: str) -> Path:
    weights = [
        TensorProto(name="w1", data_type=TensorProto.FLOAT, dims=(4, 5), data_location=TensorProto.EXTERNAL),
        numpy_helper.from_array(np.ones((5, 3), np.float32), "w2"),
    ]
    for key, value in (("location", location), ("offset", "0"), ("length", str(NBYTES))):
        weights[0].external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "trap", ends[:1], ends[1:], weights)
    path = work / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def traced(arguments: list[str], folder: Path, log: Path) -> tuple[int, list[str]]:
    """Run onnxgrow in a folder under strace; gives its exit code and the lines of calls."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=file,network", "-o", str(log)]
    command += [sys.executable, "-m", "onnxgrow.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    return done.returncode, log.read_text(errors="replace").splitlines()


def offences(lines: list[str], folder: Path, allowed: set[str]) -> list[str]:
    """Calls that reach the network, or a path outside of the folder that is not among those allowed."""
    found = []
    for line in lines:
        if NETWORK.search(line):
            found.append(line)
        elif ACCESS.search(line) and "ENOENT" not in line:
            found += [f"{p}: {line}" for p in _paths(line, folder) if not _known(p, folder, allowed)]
    return found


def _paths(line: str, folder: Path) -> list[str]:
    return [os.path.normpath(os.path.join(folder, m)) for m in PATH.findall(line)]


def _known(path: str, folder: Path, allowed: set[str]) -> bool:
    if Path(path).is_relative_to(folder):
        return True
    return path in allowed or os.path.dirname(path) in allowed


def honest_places(folder: Path, log: Path) -> set[str]:
    """Folders and files outside that a run on an honest model uses, less those that hold users' data."""
    (folder / "w.data").write_bytes(bytes(NBYTES))
    _write_model(folder, "w.data")
    places: set[str] = set()
    for arguments in (["inspect", "m.onnx"], ["widen", "m.onnx", "-q"]):
        code, lines = traced(arguments, folder, log)
        if code:
            raise SystemExit(f"the honest model failed with exit code {code}")
        for line in lines:
            if ACCESS.search(line):
                paths = [p for p in _paths(line, folder) if not Path(p).is_relative_to(folder)]
                places.update(paths)
                places.update(os.path.dirname(p) for p in paths if p.startswith((sys.prefix, sys.base_prefix, "/sys")))
    return places


def main() -> int:
    """Command line; 0 when nothing escaped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed")
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        log = base / "calls"
        (base / "honest").mkdir()
        allowed = honest_places(base / "honest", log)
        for number, escape in enumerate(ESCAPES):
            folder = base / str(number)
            folder.mkdir()
            model = lay_trap(folder, escape)
            for command in ("inspect", "widen"):
                code, lines = traced([command, model.name], model.parent, log)
                found = offences(lines, model.parent, allowed)
                good = code == 3 and not found and len(lines) > 100
                failed += not good
                print(f"{'ok    ' if good else 'FAILED'} {command:8} {escape:20} exit {code}, {len(lines)} calls")
                for line in found[:5]:
                    print(f"       {line}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
