"""``onnxgrow export``: bring a grown model to where it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options

if TYPE_CHECKING:
    from onnxgrow.cli.screen import Screen

__all__ = ["export"]

SHOWN = 20


def _names(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, key = text.rpartition("=")
        if not equals or not name or not key:
            raise click.BadParameter(f"{text!r} is not of the form INITIALIZER=KEY")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice")
        found[name] = key
    return found


@click.command(
    epilog="OUT gets model.safetensors, for load_state_dict(strict=True) of the bigger class, and name_map.json. Needs "
    "PyTorch and safetensors: pip install 'onnxgrow[torch]'."
)
@click.argument("model", type=options.PATH)
@click.option("--to", type=click.Choice(["checkpoint"]), required=True, help="What to write.")
@click.option(
    "--reference",
    type=options.PATH,
    required=True,
    metavar="FILE",
    help="Checkpoint of the class before the growth: .safetensors, or a state dict of torch.save.",
)
@click.option(
    "--original",
    type=options.PATH,
    metavar="FILE.onnx",
    help="The model that was grown; needed when MODEL was trained since.",
)
@click.option("-o", "--output", type=options.PATH, metavar="OUT", help="Folder to make; MODEL.checkpoint if not given.")
@click.option(
    "--keep",
    multiple=True,
    metavar="GLOB",
    help="Entries to take over from the reference where the model does not have them; may be repeated.",
)
@click.option(
    "--built-with",
    multiple=True,
    metavar="GLOB",
    help="Numbers that the growth changed and no checkpoint holds (an epsilon), which the class is built with; may be "
    "repeated.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="INITIALIZER=KEY",
    callback=_names,
    help="Entry for a tensor that the growth added; may be repeated.",
)
@options.json_option
@options.quiet_option
@options.debug_option
def export(
    model: Path,
    to: str,
    reference: Path,
    original: Path | None,
    output: Path | None,
    keep: tuple[str, ...],
    built_with: tuple[str, ...],
    names: dict[str, str],
    as_json: bool,
    quiet: bool,
) -> int:
    """Write the grown weights of MODEL as a checkpoint for the class that it came from."""
    import json

    from onnxgrow.cli.screen import Screen
    from onnxgrow.cli.streams import deliver

    target = output if output is not None else model.with_name(f"{model.stem or 'model'}.checkpoint")
    with Screen(quiet) as screen:
        screen.step("starting")
        from onnxgrow.torch.checkpoint import UnmatchedError, export_checkpoint

        screen.step("finding every entry by its values")
        try:
            name_map = export_checkpoint(
                model, reference, target, original=original, keep=keep, names=names, built_with=built_with
            )
        except UnmatchedError as error:
            for subject, reason in list(error.problems.items())[:SHOWN]:
                screen.line(f"not found: {subject}: {reason}")
            if len(error.problems) > SHOWN:
                screen.line(f"and {len(error.problems) - SHOWN} more")
            raise
        _show(screen, name_map.entries, name_map.left)
        total = len(name_map.entries)
        screen.line(f"written: {target}: {total} entries, read back and equal to the model's tensors", style="bold")
        if as_json:
            deliver(json.dumps(name_map.to_json(), indent=1, ensure_ascii=False))
    return 0


def _show(screen: Screen, entries: Mapping[str, Mapping[str, Any]], left: Mapping[str, str]) -> None:
    """What was found how, and what deserves a look."""
    counts: dict[str, int] = {}
    for entry in entries.values():
        counts[entry["how"]] = counts.get(entry["how"], 0) + 1
    screen.line(", ".join(f"{count} {how}" for how, count in sorted(counts.items(), key=lambda c: -c[1])))
    for key, entry in entries.items():
        if entry["how"] == "reference":
            screen.line(f"taken over from the reference: {key}: {entry['reason']}")
        elif "shared_with" in entry and entry["how"] != "joined":
            screen.line(f"note: {key}: {entry['from'][0]} is also {', '.join(entry['shared_with'])}")
    if left:
        screen.line(f"note: {len(left)} constants of the model are in no entry: {', '.join(list(left)[:5])}")
