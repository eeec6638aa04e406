"""Where and how the command line stores weights, what is shown meanwhile, and what an interruption leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import onnx
import pytest
from command_line import listing, parsed

from onnxgrow.cli.options import parse_size
from onnxgrow.cli.screen import Screen
from onnxgrow.io import load
from onnxgrow.io.tensors import MappedTensor
from tools.make_big import make_big

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1B", 1),
        ("1GB", 10**9),
        ("500 mb", 5 * 10**8),
        ("1.5GiB", 3 * 2**29),
        ("2KiB", 2048),
        ("0.1TB", 10**11),
    ],
)
def test_sizes_are_read_exactly(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "1GBB", "1 G", "0", "0.1", "nan", "0x10", "1,5GB", "1" * 20])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(click.BadParameter):
        parse_size(text)


@pytest.fixture
def big(folder: Path) -> Path:
    make_big(folder / "m.onnx", 0.008, width=256)
    return folder


def test_weights_go_where_they_are_wished(big, onnxgrow):
    options = ("--weights", "safetensors", "--max-shard-size", "3MB", "--link-unchanged", "-o", "out.onnx", "-q")
    assert onnxgrow("widen", "m.onnx", "--layer", "up1", *options).code == 0
    files = sorted(big.glob("out-*.safetensors"))
    assert len(files) > 2
    assert max(f.stat().st_size for f in files) <= 3e6
    held = [v.const_value for v in load(big / "out.onnx").model.graph.initializers.values()]
    assert sum(isinstance(t, MappedTensor) for t in held) > 8


@pytest.mark.parametrize(("threshold", "files"), [("1KB", 2), ("1GB", 1)])
def test_the_threshold_decides_on_files_of_weights(folder, onnxgrow, threshold, files):
    onnx.save(parsed(), "m.onnx")
    assert onnxgrow("widen", "m.onnx", "--factor", "64", "--external-threshold", threshold, "-q").code == 0
    assert len(list(folder.glob("m.grown*"))) == files


@pytest.mark.parametrize(
    "options",
    [
        ("--weights", "safetensors", "--no-external-data"),
        ("--max-shard-size", "1MB", "--no-external-data"),
        ("--external-threshold", "3GB"),
        ("--max-shard-size", "lots"),
        ("--weights", "pickle"),
    ],
    ids=" ".join,
)
def test_wishes_that_cannot_be_met_are_refused(folder, onnxgrow, options):
    onnx.save(parsed(), "m.onnx")
    before = listing(folder)
    outcome = onnxgrow("widen", "m.onnx", *options)
    assert outcome.code == 2
    assert outcome.error.startswith("USAGE: ")
    assert listing(folder) == before


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, capfd):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("onnxgrow.cli.screen.time.monotonic", lambda: float(next(clock)))
    with Screen() as screen:
        told = screen.progress("writing")
        for part in range(8):
            told(part * 10**9, 7 * 10**9)
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 4
    assert all("of 7.00 GB" in line and "s left" in line for line in lines)


def test_progress_is_a_bar_with_bytes_and_time_left_on_a_terminal(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Screen() as screen:
        told = screen.progress("writing")
        for part in range(8):
            told(part * 10**9, 7 * 10**9)
            time.sleep(0.12)
        assert screen._bar is None, "after the last byte nothing is left of the bar"
    shown = capfd.readouterr().err
    assert "writing" in shown
    assert "/7.0 GB" in shown


def test_quiet_shows_no_progress(capfd):
    with Screen(quiet=True) as screen:
        screen.progress("writing")(10, 10)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("aimed", "wait"), [(True, 0.02), (True, 0.2), (False, 3.0)])
def test_an_interruption_leaves_nothing_behind(big, aimed, wait):
    """Ctrl-C at a random moment: the old output stays, or the new one is whole; no temporaries."""
    chance = random.Random()
    (big / "out.onnx").write_bytes(b"old")
    before = listing(big)
    command = [sys.executable, "-m", "onnxgrow.cli", "widen", "m.onnx", "-o", "out.onnx", "--force"]
    command += ["--external-data"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while aimed and not any(big.glob(".onnxgrow-*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.random() * wait)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1].decode()
    assert not any(p.is_dir() for p in big.iterdir()), errors
    if process.returncode == 0:
        assert load(big / "out.onnx").model.graph.num_nodes()
    else:
        assert listing(big) == before, errors
        if aimed:
            assert errors.splitlines()[-1] == "INTERRUPTED: onnxgrow: stopped on request"
            assert process.returncode == 130
