"""Writing models: complete before they are seen, and streamed.

``stage`` writes the whole result in a hidden folder beside the destination; there it can be opened and
verified. ``Staged.commit`` moves it into place: first the data file, whose name holds the digest of its
bytes, so that it never takes the place of another one; then, in one atomic step, the model file. Whatever
fails before that step leaves the old output as it was, and a reader sees the old model or the new one, never
parts of both.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import onnx
import onnx_ir as ir

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.io.carry import Carried
from onnxgrow.io.data import Weights, lay_out, write_data
from onnxgrow.io.folder import Workplace, faults, folder_lock, sync_folder
from onnxgrow.io.sink import Sink
from onnxgrow.io.tensors import blocks, raw_nbytes
from onnxgrow.io.wire import ModelStream
from onnxgrow.io.write import write_metadata, write_model

__all__ = ["INLINE_LIMIT", "Seal", "Staged", "WriteProgress", "save", "save_bytes", "stage"]

WriteProgress = Callable[[int, int], None]
"""Told (bytes written, bytes in all)."""

_PROTOBUF_LIMIT = 2**31 - 1
INLINE_LIMIT = 1_900_000_000
"""Bytes of the largest model whose weights are in the model file: not all that protobuf could hold."""


@dataclass(frozen=True)
class Seal:
    """Metadata that depends on the written tensors: it is put into the model file after them.

    Attributes:
        names: Initializers of the main graph whose SHA-256 is wanted.
        unsealed: The model's metadata as long as they are not known; of the same length as it will be.
        finish: Gets the digests that came out of the writing (it finds the others itself); gives the metadata.
    """

    names: Collection[str]
    unsealed: Mapping[str, str]
    finish: Callable[[Mapping[str, str]], Mapping[str, str]]


class Staged:
    """A complete result that is not yet in place. As a context manager it discards what was not committed.

    Attributes:
        path: The model file; it can be opened as it is, with its external data.
        data_paths: Its data files.
        destination: Where ``commit`` will put the model.
        linked: Bytes that the data files share with those of the original.
    """

    def __init__(
        self, workplace: Workplace, destination: Path, data_names: Sequence[str], overwrite: bool, linked: int = 0
    ) -> None:
        self._workplace: Workplace | None = workplace
        self._overwrite = overwrite
        self.destination = destination
        self.path = workplace.path / destination.name
        self.data_paths = tuple(workplace.path / name for name in data_names)
        self.linked = linked

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """Remove everything that was written; does nothing after ``commit``."""
        if self._workplace is not None:
            self._workplace.close()
            self._workplace = None

    def commit(self) -> Path:
        """Put the result in place and return its path.

        Raises:
            UsageError: The destination came into being meanwhile and may not be overwritten, or this was
                already committed or discarded.
            EnvironmentFault: The file system refused; the old output is as it was.
        """
        if self._workplace is None:
            raise UsageError(str(self.destination), "the staged model was already committed or discarded")
        folder = self.destination.parent
        targets = [folder / path.name for path in self.data_paths]
        try:
            with faults(str(self.destination)), folder_lock(folder) as locked:
                # Without the lock another writer may be about to refer to what looks unused.
                outdated = _outdated_data(self.destination, {t.name for t in targets}) if locked else []
                new = [target for target in targets if not target.exists()]
                try:
                    for path, target in zip(self.data_paths, targets, strict=True):
                        os.replace(path, target)
                    if targets:
                        sync_folder(folder)
                    self._place()
                except BaseException:
                    for target in new if locked else ():
                        target.unlink(missing_ok=True)
                    raise
                # The new model is in place: what follows is housekeeping, and no reason to report a failure.
                with contextlib.suppress(OSError):
                    sync_folder(folder)
                for path in outdated:
                    with contextlib.suppress(OSError):
                        path.unlink()
        finally:
            self.discard()
        return self.destination

    def _place(self) -> None:
        if self._overwrite:
            os.replace(self.path, self.destination)
            return
        try:
            os.link(self.path, self.destination)  # unlike a rename, fails where something exists
        except FileExistsError:
            raise _exists(self.destination) from None
        except (OSError, NotImplementedError):
            # No hard links here: the name is taken first, so that nobody else's file is replaced.
            try:
                os.close(os.open(self.destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                raise _exists(self.destination) from None
            try:
                os.replace(self.path, self.destination)
            except BaseException:
                self.destination.unlink(missing_ok=True)
                raise


def _exists(destination: Path) -> UsageError:
    return UsageError(str(destination), "the file exists", "allow overwriting, or choose another name")


def stage(
    model: ir.Model,
    destination: str | os.PathLike[str],
    *,
    carried: Carried | None = None,
    external_data: bool | None = None,
    overwrite: bool = False,
    follow_symlink: bool = False,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    seal: Seal | None = None,
    progress: WriteProgress | None = None,
) -> Staged:
    """Write a model completely, but not yet in place.

    Args:
        carried: What the model holds beside the carrier; by default what rides with ``model``.
        external_data: Whether weights go into data files; by default those of models above ``external_threshold``, and
            of all models that a shard size or safetensors files are asked for.
        external_threshold: Number of bytes, 1.9 GB at the most; what is larger has its weights in data files.
        overwrite: Whether ``destination`` may exist.
        follow_symlink: Whether ``destination`` may be a symbolic link; then the file it leads to is replaced.
        max_shard_size: Largest size of a data file in bytes; a tensor that is larger has a file of its own.
        weights: Form of the data files: ``raw``, or ``safetensors``, which other programs read, too. Tensors below 1 KB
            stay in the model file in either case.
        link_unchanged: Share the extents of unchanged external data with the original's files where the file system
            can (reflink); copies otherwise.
        seal: Metadata that is only known when the tensors are written.
        progress: Told how many bytes were written, and of how many.

    Raises:
        UsageError: The destination exists, is no file, or its folder does not exist; a size that is out of its range,
            or wishes for data files that contradict ``external_data``.
        UnsupportedError: The model needs more than 2 GB outside of external data.
        BadInputError: A tensor does not give the data it declares.
        EnvironmentFault: The file system refused; nothing is left behind.
    """
    target = _target(Path(destination), overwrite, follow_symlink)
    subject = str(target)
    if max_shard_size is not None and (max_shard_size <= 0 or external_data is False):
        reason = "is not positive" if max_shard_size <= 0 else "is of no use without external data"
        raise UsageError(subject, f"a shard size of {max_shard_size} {reason}", "give a size such as 1GB")
    if weights not in get_args(Weights) or (weights != "raw" and external_data is False):
        reason = "are unknown" if weights not in get_args(Weights) else "are external data"
        raise UsageError(subject, f"weights of the form {weights!r} {reason}", "raw or safetensors")
    if not 0 <= external_threshold <= INLINE_LIMIT:
        reason = f"an external data threshold of {external_threshold} bytes is not from 0 to {INLINE_LIMIT}"
        raise UsageError(subject, reason, "larger files cannot hold their weights themselves")
    with faults(subject):
        workplace = Workplace(target.parent)
    try:
        with faults(subject):
            mode = _mode(target)
            if external_data is None:
                wished = max_shard_size is not None or weights != "raw"
                external_data = wished or _inline_nbytes(model, carried) > external_threshold
            if external_data:
                layout = lay_out(model, carried, max_shard_size, weights)
                write_data(layout, workplace, target.stem, mode, _counter(progress, layout.nbytes), link_unchanged)
                if seal is not None:
                    write_metadata(layout.proto, seal.finish(layout.digests))
                stream = ModelStream(layout.proto, [None] * len(layout.proto.graph.initializer))
                seal = progress = None
                names, linked = layout.names, layout.linked
            else:
                stream, names, linked = ModelStream.inline(model, carried), [], 0
                if seal is not None:
                    stream.set_metadata(seal.unsealed)
            if stream.nbytes > _PROTOBUF_LIMIT:
                raise _too_large(subject, stream.nbytes, bool(external_data))
            _write_model_file(workplace.create(target.name), stream, mode, seal, _counter(progress, stream.nbytes))
    except BaseException:
        workplace.close()
        raise
    return Staged(workplace, target, names, overwrite, linked)


def save(
    model: ir.Model,
    destination: str | os.PathLike[str],
    *,
    carried: Carried | None = None,
    external_data: bool | None = None,
    overwrite: bool = False,
    follow_symlink: bool = False,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    progress: WriteProgress | None = None,
) -> Path:
    """Stage and commit; returns the path of the model file. Arguments and errors are those of :func:`stage`."""
    with stage(
        model,
        destination,
        carried=carried,
        external_data=external_data,
        overwrite=overwrite,
        follow_symlink=follow_symlink,
        external_threshold=external_threshold,
        max_shard_size=max_shard_size,
        weights=weights,
        link_unchanged=link_unchanged,
        progress=progress,
    ) as staged:
        return staged.commit()


def save_bytes(model: ir.Model, carried: Carried | None = None) -> bytes:
    """A model with all its weights as the bytes of one file.

    Raises:
        UnsupportedError: It would have more than 2 GB.
    """
    stream = ModelStream.inline(model, carried)
    if stream.nbytes > _PROTOBUF_LIMIT:
        raise _too_large("model", stream.nbytes, False)
    out = io.BytesIO()
    for part in stream:
        for block in (part,) if isinstance(part, bytes) else blocks(part):
            out.write(block)
    return out.getvalue()


def _too_large(subject: str, nbytes: int, external: bool) -> UnsupportedError:
    hint = "constants inside nodes cannot be external data" if external else "use external data"
    return UnsupportedError(subject, f"the model file would have {nbytes / 1e9:.2f} GB, protobuf holds 2", hint)


def _target(destination: Path, overwrite: bool, follow_symlink: bool) -> Path:
    subject = str(destination)
    if destination.is_symlink():
        if not follow_symlink:
            raise UsageError(subject, "the destination is a symbolic link", f"give {os.path.realpath(destination)}")
        destination = Path(os.path.realpath(destination))
    destination = Path(os.path.abspath(destination))
    if not destination.parent.is_dir():
        raise UsageError(subject, "the folder does not exist", "create it first")
    if os.path.lexists(destination):
        if not destination.is_file():
            raise UsageError(subject, "the destination is no file")
        if not overwrite:
            raise _exists(destination)
    try:
        destination.name.encode()
    except UnicodeEncodeError:
        raise UsageError(subject, "the name is no valid text") from None
    return destination


def _mode(target: Path) -> int | None:
    return stat.S_IMODE(target.stat().st_mode) if target.exists() else None


def _inline_nbytes(model: ir.Model, carried: Carried | None) -> int:
    data = 0

    def count(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
        nonlocal data
        data += raw_nbytes(tensor) + 16

    structure: int = write_model(model, count, carried=carried).ByteSize()
    return structure + data


def _counter(progress: WriteProgress | None, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    return count


def _write_model_file(
    descriptor: int, stream: ModelStream, mode: int | None, seal: Seal | None, written: Callable[[int], None] | None
) -> None:
    digests = {}
    names = stream.names()
    with Sink(descriptor, written) as sink:
        for part in stream:
            if isinstance(part, bytes):
                sink.write(part)
                continue
            name = next(names)
            digest = sink.tensor(part, digest=seal is not None and name in seal.names)
            if digest is not None:
                digests[name] = digest
        if seal is not None:
            length = len(stream.head)
            stream.set_metadata(seal.finish({name: found.result() for name, found in digests.items()}))
            if len(stream.head) != length:
                raise UnsupportedError("metadata", "its length changed while the model was written")
            sink.overwrite(stream.head)
        sink.sync(mode)


def _outdated_data(destination: Path, new: Collection[str]) -> list[Path]:
    """Data files of our naming that will be of no use once the destination is replaced.

    These are the ones that the old model refers to, and no other model in the folder.
    """
    naming = re.compile(re.escape(destination.stem) + r"-[0-9a-f]{16}\.(data|safetensors)")
    names = [
        entry.name
        for entry in os.scandir(destination.parent)
        if naming.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) and entry.name not in new
    ]
    if not names or not destination.is_file():
        return []
    used = _mentioned(destination, names)
    for entry in os.scandir(destination.parent):
        if used and ".onnx" in entry.name and entry.name != destination.name and entry.is_file():
            used -= _mentioned(Path(entry.path), sorted(used))
    return [destination.parent / name for name in sorted(used)]


def _mentioned(path: Path, names: list[str]) -> set[str]:
    """The names that occur in a file."""
    if not path.stat().st_size:
        return set()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {name for name in names if content.find(name.encode()) >= 0}
