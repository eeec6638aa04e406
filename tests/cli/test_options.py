"""How command lines are read: what is refused before any model is, and that choices are those of the library."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from command_line import listing

from onnxgrow.cli.main import cli
from onnxgrow.cli.options import PROVIDERS, parse_input_shape
from onnxgrow.names import INITS, METHODS


@pytest.mark.parametrize(
    ("text", "name", "sizes"),
    [
        ("image:1x3x224x224", "image", (1, 3, 224, 224)),
        ("image:1,3,224,224", "image", (1, 3, 224, 224)),
        ("serving_default_x:0:1x8", "serving_default_x:0", (1, 8)),
        ("n:7", "n", (7,)),
    ],
)
def test_input_shape_is_read(text, name, sizes):
    assert parse_input_shape(text) == (name, sizes)


@pytest.mark.parametrize(
    "text", ["image", "image:", ":1x2", "image:1x", "image:0x3", "image:-1", "image:1.5", "image:axb"]
)
def test_input_shape_that_is_none_is_refused(text):
    with pytest.raises(click.BadParameter):
        parse_input_shape(text)


def test_choices_are_those_of_the_library():
    from onnxgrow.init.registry import names
    from onnxgrow.plan import METHODS as KNOWN_METHODS
    from onnxgrow.verify.sessions import PROVIDERS as KNOWN_PROVIDERS

    assert METHODS == KNOWN_METHODS
    assert PROVIDERS == KNOWN_PROVIDERS
    assert set(INITS) <= set(names())


@pytest.mark.parametrize("command", ["widen", "inspect", "verify"])
def test_every_command_has_help_with_all_its_options(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert command in result.stdout
    module = __import__(f"onnxgrow.cli.{command}", fromlist=[command])
    for option in getattr(module, command).params:
        assert all(flag in result.stdout for flag in option.opts if flag.startswith("-"))


WRONG = {
    "no model": (["widen"], "missing argument"),
    "unknown command": (["shrink", "mlp.onnx"], "no such command"),
    "unknown option": (["widen", "mlp.onnx", "--faktor", "2"], "no such option"),
    "value missing": (["widen", "mlp.onnx", "--factor"], "requires an argument"),
    "factor no number": (["widen", "mlp.onnx", "--factor", "two"], "not a valid float"),
    "factor too small": (["widen", "mlp.onnx", "--factor", "1"], "above 1"),
    "factor NaN": (["widen", "mlp.onnx", "--factor", "nan"], "above 1"),
    "factor and add": (["widen", "mlp.onnx", "--factor", "2", "--add", "3"], "only one of them"),
    "add and to": (["widen", "mlp.onnx", "--add", "2", "--to", "30"], "only one of them"),
    "negative multiple": (["widen", "mlp.onnx", "--multiple-of", "-8"], "at least 1"),
    "unknown method": (["widen", "mlp.onnx", "--method", "magic"], "magic"),
    "scale without near-zero": (["widen", "mlp.onnx", "--scale", "0.1"], "near-zero"),
    "unknown scheme": (["widen", "mlp.onnx", "--init", "ones"], "ones"),
    "negative seed": (["widen", "mlp.onnx", "--seed", "-1"], "seed"),
    "unknown provider": (["widen", "mlp.onnx", "--provider", "tpu"], "tpu"),
    "max-change NaN": (["widen", "mlp.onnx", "--max-change", "nan"], "from 0 up"),
    "max-change negative": (["verify", "mlp.onnx", "mlp.onnx", "--max-change", "-1"], "from 0 up"),
    "shape malformed": (["widen", "mlp.onnx", "--input-shape", "x"], "NAME:DIMS"),
    "shape twice": (["widen", "mlp.onnx", "--input-shape", "x:1x4", "--input-shape", "x:2x4"], "twice"),
    "shape of no input": (["widen", "mlp.onnx", "--input-shape", "z:1x4"], "z"),
    "shape of another rank": (["widen", "mlp.onnx", "--input-shape", "x:1x4x4"], "x"),
    "selector without match": (["widen", "mlp.onnx", "--layer", "w7"], "no channel set matches"),
    "output and in place": (["widen", "mlp.onnx", "-o", "a.onnx", "--in-place"], "--in-place"),
    "in place and force": (["widen", "mlp.onnx", "--in-place", "--force"], "--in-place"),
    "output is the model": (["widen", "mlp.onnx", "-o", "mlp.onnx", "--force"], "the model itself"),
    "output is a folder": (["widen", "mlp.onnx", "-o", "."], "folder"),
    "folder of output missing": (["widen", "mlp.onnx", "-o", "no/where.onnx"], "folder does not exist"),
    "report is the model": (["widen", "mlp.onnx", "--report", "mlp.onnx"], "same file"),
    "report is the output": (["widen", "mlp.onnx", "-o", "a.onnx", "--report", "./a.onnx"], "same file"),
    "report is the other model": (["verify", "mlp.onnx", "other.onnx", "--report", "other.onnx"], "same file"),
    "folder of report missing": (["widen", "mlp.onnx", "--report", "no/where.json"], "folder does not exist"),
    "too many models": (["verify", "mlp.onnx", "a.onnx", "b.onnx"], "unexpected extra argument"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_one_line_and_writes_nothing(name, mlp, folder, onnxgrow):
    arguments, says = WRONG[name]
    before = listing(folder)
    outcome = onnxgrow(*arguments)
    assert outcome.code == 2
    assert outcome.error.startswith("USAGE: ")
    assert says in outcome.error
    assert outcome.out == ""
    assert listing(folder) == before


def test_without_a_command_the_help_is_shown(onnxgrow):
    outcome = onnxgrow()
    assert outcome.code == 2
    assert "widen" in outcome.err
    assert outcome.out == ""


def test_version_is_data(onnxgrow):
    outcome = onnxgrow("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("onnxgrow ")
