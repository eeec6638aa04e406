"""``onnxgrow export --to checkpoint``: the grown tensors under the names and in the layout of the user's own class."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor

from onnxgrow.errors import BadInputError, NotEquivalentError, UnsupportedError, UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model, load, model_digest
from onnxgrow.io.folder import Workplace, faults, sync_folder
from onnxgrow.torch.checkpoint.growth import growth_of_entries
from onnxgrow.torch.checkpoint.match import Found, match
from onnxgrow.torch.checkpoint.origin import Held, generations, held_constants, same_bits
from onnxgrow.torch.checkpoint.pieces import put_together
from onnxgrow.torch.checkpoint.reference import Reference, read_reference
from onnxgrow.torch.checkpoint.settings import changed_settings
from onnxgrow.torch.leaves import find_leaves

__all__ = ["NameMap", "UnmatchedError", "export_checkpoint"]

WEIGHTS, NAMES = "model.safetensors", "name_map.json"
FORMAT, VERSION = "onnxgrow.name_map", 1

CHANGED = "no checkpoint holds this number, which the growth changed"
NO_NAME = "a layer that the growth inserted: the reference has no name for it"


@dataclass(frozen=True)
class NameMap:
    """Where every entry of a checkpoint comes from.

    Attributes:
        entries: Key → ``from`` (initializers; empty for what was taken over from the reference), ``how`` (same,
            transposed, permuted, reshaped, joined, reference, given), ``shape``, ``old_shape``, ``by_name``, and where
            they apply ``order`` (axes of the initializer), ``shared_with`` (keys that have the same initializer),
            ``offset`` (what the file has added to it), ``cast`` (the file's type, where the checkpoint has another) and
            ``reason``.
        left: Constants of the file that no entry holds → why.
        settings: What the bigger class has to be built with, as no checkpoint holds it: constant, or
            ``NODE:ATTRIBUTE`` → ``old`` and ``new`` number (an ε, say; None: several numbers).
        model, reference: SHA-256 of the grown model's content and of the reference file.
        growth: What grew, by the keys and in the layout of the checkpoint: what :func:`onnxgrow.torch.grow_optimizer`
            takes for an optimizer of the class.
    """

    entries: Mapping[str, Mapping[str, Any]]
    left: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]]
    model: str
    reference: str
    growth: GrowthMap

    def to_json(self) -> dict[str, Any]:
        """Plain data, as it is written to ``name_map.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "reference": self.reference,
            "entries": {key: dict(entry) for key, entry in self.entries.items()},
            "left": dict(self.left),
            "settings": {name: dict(setting) for name, setting in self.settings.items()},
            "growth": self.growth.to_json(),
        }


class UnmatchedError(UnsupportedError):
    """Entries or tensors that cannot be brought home; ``problems`` has the reason for each."""

    def __init__(self, subject: str, reason: str, hint: str, problems: Mapping[str, str]) -> None:
        super().__init__(subject, reason, hint)
        self.problems = dict(problems)


def export_checkpoint(
    grown: object,
    reference: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    original: object | None = None,
    keep: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    built_with: Sequence[str] = (),
) -> NameMap:
    """Write the grown tensors as a checkpoint that loads strictly into the bigger class.

    Every floating-point entry of the reference has to be found in the file by value, as it was before the growth;
    entries that are no floating-point numbers are taken over. The checkpoint is read back and put into the file's
    layout again, where it has to be equal bit for bit, before the folder gets its name.

    Args:
        grown: Path, ``ModelProto`` or ``onnx_ir.Model``.
        reference: The checkpoint of the class that the original was exported from: safetensors, or a state dict of
            ``torch.save``.
        output: Folder to make; gets ``model.safetensors`` and ``name_map.json``.
        original: The model that was grown; needed when the grown one was trained since.
        keep: Shell patterns of entries that may be taken over from the reference if the file does not have them.
        built_with: Shell patterns of numbers that the growth changed and no checkpoint holds (``NameMap.settings``),
            which the bigger class is built with.
        names: Initializer → key, for tensors that the growth added; they are written as the file has them.

    Raises:
        UnmatchedError: Entries are not in the file, or tensors that grew have no entry. Nothing is written.
        UsageError: The folder exists; a pattern or name that fits nothing.
        BadInputError: A file cannot be read, or they do not belong together.
        NotEquivalentError: What was written does not give the file's tensors back.
        EnvironmentFault: The folder cannot be written; nothing is left behind.
    """
    target = _free_folder(Path(output))
    state = read_reference(reference)
    model = load(grown).model
    before = None if original is None else load(original).model
    _check_lineage(model, before)
    constants = held_constants(model, before)
    floats = {key: value for key, value in state.tensors.items() if value.is_floating_point()}
    matches = match(floats, constants, before is not None)
    problems = {k: why for k, why in matches.problems.items() if not any(fnmatchcase(k, p) for p in keep)}
    idle = [p for p in keep if not any(fnmatchcase(k, p) for k in matches.problems)]
    if idle:
        raise UsageError(idle[0], "no entry that the file lacks is called so")
    given = _given(names or {}, constants, matches.found, state)
    used = {h.name for f in matches.found.values() for h in f.tensors} | {h.name for h in given.values()}
    weights = {leaf.value.name or "" for leaf in find_leaves(copy_model(model), (), ()).leaves}
    left = _left(weights, constants, used)
    settings = changed_settings(model, [held for held in constants if held.tensor not in weights], used)
    _check_settings(settings, built_with, problems)
    for name, why in left.items():
        if why.startswith("!"):
            problems.setdefault(name, why)
    if problems:
        raise _refused(problems, before is None)
    tensors = _tensors(state, matches.found, given)
    entries = _entries(state, matches, given)
    growth = growth_of_entries(matches.found, state.tensors)
    name_map = NameMap(entries, left, settings, model_digest(model), state.sha256, growth)
    _write(target, tensors, name_map, state, matches.found)
    return name_map


def _free_folder(target: Path) -> Path:
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        raise UsageError(str(target), "it exists", "choose another name")
    if not target.parent.is_dir():
        raise UsageError(str(target), "its folder does not exist", "create it first")
    return target


def _check_lineage(model: ir.Model, original: ir.Model | None) -> None:
    maps = generations(model)
    if original is not None and maps and maps[-1].original and model_digest(original) != maps[-1].original:
        raise BadInputError("original", "it is not the file that the grown one says it was grown from")


def _given(
    names: Mapping[str, str], constants: Sequence[Held], found: Mapping[str, Found], state: Reference
) -> dict[str, Held]:
    by_name = {held.name: held for held in constants}
    taken = {held.name for f in found.values() for held in f.tensors}
    result: dict[str, Held] = {}
    for name, key in names.items():
        if name not in by_name:
            raise UsageError(name, "the file has no floating-point constant of this name")
        if name in taken:
            raise UsageError(name, "an entry of the reference has it already")
        if key in state.tensors or key in result:
            raise UsageError(key, "the checkpoint has an entry of this name already")
        result[key] = by_name[name]
    return result


def _check_settings(
    settings: Mapping[str, Mapping[str, Any]], built_with: Sequence[str], problems: dict[str, str]
) -> None:
    """Note the numbers that nobody says the class is built with."""
    idle = [p for p in built_with if not any(fnmatchcase(name, p) for name in settings)]
    if idle:
        raise UsageError(idle[0], "no number that the growth changed is called so")
    for name, setting in settings.items():
        if not any(fnmatchcase(name, p) for p in built_with):
            old, new = ("several numbers" if v is None else f"{v:.7g}" for v in (setting["old"], setting["new"]))
            problems.setdefault(name, f"{CHANGED} from {old} to {new}")


def _left(weights: set[str], constants: Sequence[Held], used: set[str]) -> dict[str, str]:
    """Constants without an entry; with ``!`` before the reason where something would be lost."""
    left = {}
    for held in constants:
        if held.name in used:
            continue
        if not held.is_changed:
            left[held.name] = "unchanged, and no entry of the reference has its values"
        elif held.tensor not in weights:
            left[held.name] = "a constant that is not trained"
        else:
            left[held.name] = "!" + (
                NO_NAME if held.inserted else "it grew or was trained, and no entry of the reference has its old values"
            )
    return left


def _refused(problems: Mapping[str, str], alone: bool) -> UnmatchedError:
    reasons = {key: why.removeprefix("!") for key, why in problems.items()}
    key, why = next(iter(reasons.items()))
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    if NO_NAME in why:
        hint = "give it one with --name"
    elif CHANGED in why:
        hint = "build the bigger class with it, and say so with --built-with"
    elif alone and "trained" in why:
        hint = "give --original, the file it was grown from; a file with folded weights has to be exported again"
    else:
        hint = "export with onnxgrow.torch.export_for_growth; --keep takes over what the file never had"
    return UnmatchedError(key, why + more, hint, reasons)


def _tensors(state: Reference, found: Mapping[str, Found], given: Mapping[str, Held]) -> dict[str, Tensor]:
    result = {}
    for key, value in state.tensors.items():
        unchanged = key not in found or all(not held.is_changed for held in found[key].tensors)
        # What did not change is the reference's, bit for bit, also where the file has it in another type.
        result[key] = (value if unchanged else found[key].value.to(value.dtype)).clone().contiguous()
    result.update({key: held.grown.clone().contiguous() for key, held in given.items()})
    return result


def _entries(state: Reference, matches: Any, given: Mapping[str, Held]) -> dict[str, dict[str, Any]]:
    sharing: dict[str, list[str]] = {}
    for key, found in matches.found.items():
        for held in found.tensors:
            sharing.setdefault(held.name, []).append(key)
    entries: dict[str, dict[str, Any]] = {}
    for key, value in state.tensors.items():
        old_shape = list(value.shape)
        if key not in matches.found:
            reason = matches.problems.get(key, "no floating-point numbers")
            entries[key] = {"from": [], "how": "reference", "reason": reason, "shape": old_shape}
            continue
        found = matches.found[key]
        entry: dict[str, Any] = {
            "from": [held.name for held in found.tensors],
            "how": "joined" if found.relation is None else found.relation.describe(_old(found.tensors[0]).shape),
            "by_name": found.by_name,
            "shape": list(found.value.shape),
            "old_shape": old_shape,
        }
        if found.relation is not None and found.relation.order != tuple(range(len(found.relation.order))):
            entry["order"] = list(found.relation.order)
        shared = sorted({other for held in found.tensors for other in sharing[held.name]} - {key})
        if shared:
            entry["shared_with"] = shared
        if found.offset:
            entry["offset"] = found.offset
        if found.tensors[0].grown.dtype != value.dtype:
            entry["cast"] = str(found.tensors[0].grown.dtype).removeprefix("torch.")
        entries[key] = entry
    for key, held in given.items():
        entries[key] = {"from": [held.name], "how": "given", "by_name": False, "shape": list(held.grown.shape)}
    return entries


def _old(held: Held) -> Tensor:
    assert held.original is not None
    return held.original


def _write(
    target: Path, tensors: Mapping[str, Tensor], name_map: NameMap, state: Reference, found: Mapping[str, Found]
) -> None:
    """Write both files in a hidden folder, check them there, and give it its name."""
    from safetensors.torch import load_file, save_file  # only this export needs the package

    with faults(str(target)):
        workplace = Workplace(target.parent)
    try:
        with faults(str(target)):
            folder = workplace.path / "checkpoint"
            folder.mkdir()
            save_file(dict(tensors), folder / WEIGHTS, metadata=dict(state.metadata) or {"format": "pt"})
            text = json.dumps(name_map.to_json(), indent=1, ensure_ascii=False) + "\n"
            (folder / NAMES).write_text(text, encoding="utf-8")
            for path in (folder / WEIGHTS, folder / NAMES):
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
            sync_folder(folder)
        _check_back(load_file(folder / WEIGHTS), tensors, found)
        with faults(str(target)):
            _free_folder(target)
            os.rename(folder, target)
            sync_folder(target.parent)
    finally:
        workplace.close()


def _check_back(written: Mapping[str, Tensor], tensors: Mapping[str, Tensor], found: Mapping[str, Found]) -> None:
    """The written entries, put into the file's layout again, have to be the file's tensors."""
    for key, wanted in tensors.items():
        if key not in written or not same_bits(written[key], wanted):
            raise NotEquivalentError(key, "what was written is not what was read back", "nothing was kept: try again")
    for key, entry in found.items():
        held = entry.tensors[0]
        if entry.relation is not None:
            value = written[key].to(held.grown.dtype) + entry.offset if entry.offset else written[key]
            back = entry.relation.back(value, held.grown.shape)
        elif len(entry.tensors) == 1 and entry.join is not None:
            back = put_together(entry.join, written, held.grown.shape)
        elif entry.join is not None:
            whole = put_together(entry.join, {h.name: h.grown for h in entry.tensors}, written[key].shape)
            if not same_bits(whole.to(written[key].dtype), written[key]):
                raise NotEquivalentError(key, "joining the file's tensors again gives something else")
            continue
        else:
            continue
        if not same_bits(back.to(held.grown.dtype), held.grown):
            raise NotEquivalentError(key, f"it does not give {held.name} of the file back")
