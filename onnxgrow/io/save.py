"""Writing models: complete before they are seen, and streamed.

``stage`` writes the whole result in a hidden folder beside the destination; there it can be opened and
verified. ``Staged.commit`` moves it into place: first the data file, whose name holds the digest of its
bytes, so that it never takes the place of another one; then, in one atomic step, the model file. Whatever
fails before that step leaves the old output as it was, and a reader sees the old model or the new one, never
parts of both.

External data: tensors below 1 KB stay in the model file; larger ones follow each other at multiples of 64
bytes, those of 1 MB and more at multiples of 64 KB, which is what memory mapping needs on all systems.
Spec: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx
import onnx_ir as ir

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.io.carry import Carried
from onnxgrow.io.folder import Workplace, faults, folder_lock, sync_folder
from onnxgrow.io.tensors import Buffer, blocks, raw_nbytes
from onnxgrow.io.wire import ModelStream, fill_inline
from onnxgrow.io.write import Place, write_model

__all__ = ["Staged", "save", "save_bytes", "stage"]

_PROTOBUF_LIMIT = 2**31 - 1
_INLINE_LIMIT = 1_900_000_000
_SMALL = 1 << 10
_LARGE = 1 << 20
_SMALL_ALIGNMENT = 64
_LARGE_ALIGNMENT = 1 << 16


class Staged:
    """A complete result that is not yet in place. As a context manager it discards what was not committed.

    Attributes:
        path: The model file; it can be opened as it is, with its external data.
        data_path: Its data file, if it has one.
        destination: Where ``commit`` will put the model.
    """

    def __init__(self, workplace: Workplace, destination: Path, data_name: str | None, overwrite: bool) -> None:
        self._workplace: Workplace | None = workplace
        self._overwrite = overwrite
        self.destination = destination
        self.path = workplace.path / destination.name
        self.data_path = workplace.path / data_name if data_name else None

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
        data_target = folder / self.data_path.name if self.data_path is not None else None
        try:
            with faults(str(self.destination)), folder_lock(folder) as locked:
                # Without the lock another writer may be about to refer to what looks unused.
                outdated = _outdated_data(self.destination, data_target) if locked else []
                new_data = data_target is not None and not data_target.exists()
                try:
                    if self.data_path is not None and data_target is not None:
                        os.replace(self.data_path, data_target)
                        sync_folder(folder)
                    self._place()
                except BaseException:
                    if new_data and data_target is not None and locked:
                        data_target.unlink(missing_ok=True)
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
) -> Staged:
    """Write a model completely, but not yet in place.

    Args:
        carried: What the model holds beside the carrier; by default what rides with ``model``.
        external_data: Whether weights go into a data file; by default those of models of 1.9 GB and more.
        overwrite: Whether ``destination`` may exist.
        follow_symlink: Whether ``destination`` may be a symbolic link; then the file it leads to is replaced.

    Raises:
        UsageError: The destination exists, is no file, or its folder does not exist.
        UnsupportedError: The model needs more than 2 GB outside of external data.
        BadInputError: A tensor does not give the data it declares.
        EnvironmentFault: The file system refused; nothing is left behind.
    """
    target = _target(Path(destination), overwrite, follow_symlink)
    subject = str(target)
    with faults(subject):
        workplace = Workplace(target.parent)
    try:
        with faults(subject):
            mode = _mode(target)
            if external_data is None:
                external_data = _inline_nbytes(model, carried) > _INLINE_LIMIT
            if external_data:
                stream, data_name = _write_data(model, carried, workplace, target.stem, mode)
            else:
                stream, data_name = ModelStream.inline(model, carried), None
            if stream.nbytes > _PROTOBUF_LIMIT:
                raise _too_large(subject, stream.nbytes, bool(external_data))
            _write_file(workplace, target.name, stream, mode)
    except BaseException:
        workplace.close()
        raise
    return Staged(workplace, target, data_name, overwrite)


def save(
    model: ir.Model,
    destination: str | os.PathLike[str],
    *,
    carried: Carried | None = None,
    external_data: bool | None = None,
    overwrite: bool = False,
    follow_symlink: bool = False,
) -> Path:
    """Stage and commit; returns the path of the model file. Arguments and errors are those of :func:`stage`."""
    with stage(
        model,
        destination,
        carried=carried,
        external_data=external_data,
        overwrite=overwrite,
        follow_symlink=follow_symlink,
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
        out.write(part)
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


def _write_file(workplace: Workplace, name: str, parts: Iterable[Buffer], mode: int | None) -> str:
    """Write and sync a file; returns the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    with open(workplace.create(name), "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write_data(
    model: ir.Model, carried: Carried | None, workplace: Workplace, stem: str, mode: int | None
) -> tuple[ModelStream, str | None]:
    """Write the data file; returns the model file to go with it, and the data file's name if there is one."""
    layout: list[tuple[onnx.TensorProto, ir.TensorProtocol, int]] = []
    end = 0

    def place_tensor(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
        nonlocal end
        nbytes = raw_nbytes(tensor)
        if place == Place.ATTRIBUTE or tensor.dtype == ir.DataType.STRING or nbytes < _SMALL:
            fill_inline(proto, tensor)
            return
        alignment = _LARGE_ALIGNMENT if nbytes >= _LARGE else _SMALL_ALIGNMENT
        offset = -(-end // alignment) * alignment
        end = offset + nbytes
        layout.append((proto, tensor, offset))

    proto = write_model(model, place_tensor, carried=carried)
    no_stream: list[ir.TensorProtocol | None] = [None] * len(proto.graph.initializer)
    if not layout:
        return ModelStream(proto, no_stream), None

    def parts() -> Iterable[Buffer]:
        position = 0
        for _, tensor, offset in layout:
            yield bytes(offset - position)
            yield from blocks(tensor)
            position = offset + raw_nbytes(tensor)

    partial = "data.partial"
    name = f"{stem}-{_write_file(workplace, partial, parts(), mode)[:16]}.data"
    os.rename(workplace.path / partial, workplace.path / name)
    for written, tensor, offset in layout:
        written.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", str(offset)), ("length", str(raw_nbytes(tensor)))):
            written.external_data.add(key=key, value=value)
    return ModelStream(proto, no_stream), name


def _outdated_data(destination: Path, data: Path | None) -> list[Path]:
    """Data files of our naming that will be of no use once the destination is replaced.

    These are the ones that the old model refers to, and no other model in the folder.
    """
    naming = re.compile(re.escape(destination.stem) + r"-[0-9a-f]{16}\.data")
    names = [
        entry.name
        for entry in os.scandir(destination.parent)
        if naming.fullmatch(entry.name)
        and entry.is_file(follow_symlinks=False)
        and (data is None or entry.name != data.name)
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
