"""Entry point of the command line: finds the command, and turns whatever goes wrong into one line and an exit code.

Nothing here imports NumPy, ONNX, ONNX Runtime or Rich, so that ``onnxgrow --help`` answers at once; commands import the
library when they run.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click

from onnxgrow.cli.faults import INTERRUPTED, describe
from onnxgrow.cli.options import Settings
from onnxgrow.cli.streams import close_quietly, complain

__all__ = ["cli", "main", "run"]

COMMANDS = {
    "actiswitch": "Let activations blend into linear paths: a·x + b·f(x); prove the result, and write it.",
    "blocks": "Insert residual blocks that start as zero, new ones or copies, prove the result, and write it.",
    "deepen": "Insert layers that start as identities, prove the result, and write it.",
    "enlarge-kernel": "Give convolutions larger kernels, prove the result, and write it.",
    "export": "Write the weights of a grown model as a checkpoint for its own class.",
    "fold": "Take out ActiSwitches that converged, prove the result, and write it.",
    "inspect": "Show which channels a model has, and which of them can grow.",
    "run": "Do the steps of a recipe in one go, prove the result, and write it.",
    "verify": "Prove that a grown model computes the function of its original.",
    "widen": "Give layers more channels, prove the result, and write it.",
}
"""Command → what it does; the command lives beside this file, in the module of that name."""

TERMINATED = 143


class _Lazy(click.Group):
    """A group that imports a command when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"onnxgrow.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("onnxgrow")
    except PackageNotFoundError:
        found = "unknown (not installed)"
    click.echo(f"onnxgrow {found}")
    ctx.exit()


@click.group(
    cls=_Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done and proved, 1 not equivalent, 2 usage, 3 bad input, 4 unsupported, 5 environment, "
    "70 internal error, 130 interrupted. Any code but 0 leaves your files as they were.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> int:
    """Grow trained ONNX networks without losing what they learned."""
    if ctx.invoked_subcommand is not None:
        return 0
    click.echo(ctx.get_help(), err=True)
    return 2


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises.

    Args:
        arguments: Without the program's name; by default those of the process.
    """
    settings = Settings()
    try:
        code: Any = cli.main(
            None if arguments is None else list(arguments),
            prog_name="onnxgrow",
            standalone_mode=False,
            windows_expand_args=False,  # a selector such as enc.* is no glob of files
            obj=settings,
        )
        return int(code or 0)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else INTERRUPTED
    except BaseException as error:
        if settings.debug:
            complain(traceback.format_exc())
        line, code = describe(error)
        complain(line)
        return int(code)


def _terminated(_: int, __: FrameType | None) -> None:
    """Unwind on SIGTERM, so that half-written files are removed."""
    raise SystemExit(TERMINATED)


def main() -> None:
    """The ``onnxgrow`` program."""
    signal.signal(signal.SIGTERM, _terminated)
    # Errors are one line; what libraries remark on their way is no part of the answer.
    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    code = run()
    # What is done is done: a signal while the interpreter winds up must not turn a success into a failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    close_quietly()
    sys.exit(code)
