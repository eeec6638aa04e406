"""Opening the user's files: only regular ones, external data only beside the model, other formats by name.

An ONNX file may name any path as the home of its weights. Data is read only from a regular file that lies,
after symbolic links are followed, in the folder of the given path or in the folder of the file that path
leads to; this admits hub caches, where every file of a snapshot is a link into one folder of blobs.
Spec: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxgrow.errors import BadInputError
from onnxgrow.io import safetensors

__all__ = [
    "DataFile",
    "DataFolder",
    "ExternalReference",
    "explain_unparsable",
    "external_reference",
    "map_model_file",
    "open_regular",
]

_PROTOBUF_LIMIT = 2**31 - 1
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a character device",
    stat.S_ISBLK: "a block device",
}
_SAFE_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def open_regular(path: str, subject: str) -> int:
    """Open an already resolved path for reading if it is a regular file; the caller closes the descriptor.

    The kind is checked before the file is opened, since opening a pipe may wait for ever and opening a device
    may act on it, and again on the descriptor, since the name may have changed hands in between.

    Raises:
        BadInputError: The path is missing, unreadable or no regular file.
    """
    try:
        before = os.stat(path, follow_symlinks=False)
        _refuse_irregular(before.st_mode, subject)
        descriptor = os.open(path, _SAFE_OPEN)
    except FileNotFoundError:
        raise BadInputError(subject, "the file does not exist") from None
    except (OSError, ValueError) as error:
        raise BadInputError(subject, f"the file cannot be read: {_os_reason(error)}") from None
    try:
        after = os.fstat(descriptor)
        _refuse_irregular(after.st_mode, subject)
        if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
            raise BadInputError(subject, "the file was replaced while it was being opened", "try again")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _os_reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _refuse_irregular(mode: int, subject: str) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((name for test, name in _KINDS.items() if test(mode)), "no regular file")
    hint = "give the path of the .onnx file in it" if stat.S_ISDIR(mode) else ""
    raise BadInputError(subject, f"this is {kind}, not a file", hint)


class DataFile:
    """A file opened through the guard and mapped once, shared by all tensors that lie in it.

    Attributes:
        path: Resolved path.
        size: Bytes in the file when it was opened.
        view: Read-only view of the whole file.
    """

    def __init__(self, path: str, subject: str) -> None:
        self.path = path
        descriptor = open_regular(path, subject)
        try:
            status = os.fstat(descriptor)
            self.size = status.st_size
            self._identity = (status.st_dev, status.st_ino)
            # A mapping of no bytes is not possible, and the mapping keeps the file open by itself.
            mapped = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ) if self.size else b""
        except (OSError, ValueError) as error:
            raise BadInputError(subject, f"the file cannot be mapped: {_os_reason(error)}") from None
        finally:
            os.close(descriptor)
        self.view = memoryview(mapped)

    def reopen(self) -> int | None:
        """A new descriptor of the mapped file, for the caller to close; None if another file has its name by now."""
        try:
            descriptor = open_regular(self.path, self.path)
        except BadInputError:
            return None
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) == self._identity and status.st_size == self.size:
            return descriptor
        os.close(descriptor)
        return None


@dataclass(frozen=True)
class ExternalReference:
    """Where a tensor says its bytes are: the fields of ``TensorProto.external_data``, parsed.

    Attributes:
        location: Path relative to the model's folder, as written in the model.
        offset: First byte; 0 when not given.
        length: Number of bytes; None when not given.
    """

    location: str
    offset: int
    length: int | None


def external_reference(tensor: onnx.TensorProto, subject: str) -> ExternalReference:
    """Parse ``external_data`` strictly.

    Raises:
        BadInputError: A missing location, a repeated key or a number that is none or negative.
    """
    fields: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in fields:
            raise BadInputError(subject, f"its external data gives {entry.key!r} twice")
        fields[entry.key] = entry.value
    if not fields.get("location"):
        raise BadInputError(subject, "its external data has no location")

    def number(key: str) -> int | None:
        text = fields.get(key)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise BadInputError(subject, f"its external data has the {key} {text!r}")
        return int(text)

    return ExternalReference(fields["location"], number("offset") or 0, number("length"))


class DataFolder:
    """The external data files of one model file, each opened once.

    Args:
        model_path: The path the user gave; it may be a symbolic link.

    Attributes:
        own: The model file itself, where tensors refer to it.
    """

    def __init__(self, model_path: Path) -> None:
        self.folder = os.path.dirname(os.path.abspath(model_path))
        resolved = os.path.realpath(model_path)
        self._roots = (os.path.realpath(self.folder), os.path.dirname(resolved))
        self._linked_to = resolved if os.path.islink(model_path) else ""
        self.own: DataFile | None = None
        self._name = os.path.basename(model_path)
        self._files: dict[str, DataFile] = {}
        self._listed: dict[str, list[safetensors.Entry]] = {}

    def adopt(self, file: DataFile) -> str:
        """Let tensors refer to the model file, by the location given back; it is mapped already."""
        self.own = self._files[self._name] = file
        return self._name

    def open(self, reference: ExternalReference, dtype: ir.DataType, nbytes: int, subject: str) -> DataFile:
        """The file a tensor of ``nbytes`` bytes lies in.

        Raises:
            BadInputError: The location is unsafe, or the file is missing, no regular file or too short, or a
                safetensors file that is malformed or has no such tensor there.
        """
        file = self._files.get(reference.location)
        if file is None:
            file = self._files[reference.location] = DataFile(self._resolve(reference.location, subject), subject)
            if reference.location.endswith(safetensors.SUFFIX):
                self._listed[reference.location] = _safetensors_entries(file, reference.location)
        if reference.length is not None and reference.length != nbytes:
            raise BadInputError(
                subject, f"its external data has {reference.length} bytes, its shape and type need {nbytes}"
            )
        if reference.offset + nbytes > file.size:
            raise BadInputError(
                subject,
                f"its external data ends at byte {reference.offset + nbytes}, "
                f"but {reference.location!r} has {file.size}",
                "the data file is truncated or belongs to another model",
            )
        entries = self._listed.get(reference.location)
        if entries is not None and not safetensors.is_reference_to(entries, dtype, reference.offset, nbytes):
            raise BadInputError(
                subject,
                f"bytes {reference.offset} to {reference.offset + nbytes} of {reference.location!r} "
                f"are no tensor of type {dtype.name}",
                "the weights belong to another model",
            )
        return file

    def _resolve(self, location: str, subject: str) -> str:
        parts = re.split(r"[/\\]", location) if os.sep == "\\" else location.split("/")
        if "\0" in location:
            raise BadInputError(subject, f"its external data location {location!r} is no file name")
        if os.path.isabs(location) or re.match(r"[A-Za-z]:[/\\]|\\\\", location):
            raise BadInputError(subject, f"its external data location {location!r} is an absolute path")
        if ".." in parts or ".." in location.replace("\\", "/").split("/"):
            raise BadInputError(subject, f"its external data location {location!r} leaves the model's folder")
        candidate = os.path.join(self.folder, location)
        try:
            resolved = os.path.realpath(candidate, strict=True)
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            reason = "does not exist" if missing else f"cannot be read: {_os_reason(error)}"
            hint = "keep the data file beside the model file"
            if missing and self._linked_to:
                hint = f"the model is a symbolic link; give the path it leads to, {self._linked_to}"
            raise BadInputError(subject, f"its external data file {location!r} {reason}", hint) from None
        if not any(_inside(resolved, root) for root in self._roots):
            raise BadInputError(
                subject,
                f"its external data location {location!r} leads out of the model's folder by a symbolic link",
            )
        return resolved


def _safetensors_entries(file: DataFile, location: str) -> list[safetensors.Entry]:
    try:
        return safetensors.read_header(file.view)
    except ValueError as error:
        raise BadInputError(location, f"this is no valid safetensors file: {error}", "write it again") from None


def _inside(path: str, folder: str) -> bool:
    try:
        return os.path.commonpath([path, folder]) == folder
    except ValueError:  # different drives
        return False


def map_model_file(path: Path) -> DataFile:
    """Map a model file after checking that it can be one.

    Raises:
        BadInputError: Missing, unreadable, no regular file, empty, too large for protobuf, or plainly another
            format.
    """
    subject = os.fspath(path)
    try:
        resolved = os.path.realpath(path, strict=True)
    except FileNotFoundError:
        hint = "the symbolic link leads nowhere" if os.path.islink(path) else ""
        raise BadInputError(subject, "the file does not exist", hint) from None
    except (OSError, ValueError) as error:
        raise BadInputError(subject, f"the file cannot be read: {_os_reason(error)}") from None
    file = DataFile(resolved, subject)
    if not file.size:
        raise BadInputError(subject, "the file is empty", "download or export the model again")
    found = _known_format(bytes(file.view[:4096]))
    if found:
        raise BadInputError(subject, *found)
    if file.size > _PROTOBUF_LIMIT:
        raise BadInputError(
            subject,
            "the file is larger than 2 GB, which protobuf cannot hold",
            "save the weights as external data",
        )
    return file


_TEXT_MODEL = re.compile(rb"\s*(ir_version\s*:|<\s*ir_version|producer_name\s*:|graph\s*\{|opset_import\s*[{:\[])")
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull'"),
    (b"PK\x03\x04", "a zip archive", "unpack it, or export a PyTorch checkpoint to ONNX first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras)", "convert it to ONNX first"),
    (b"GGUF", "a GGUF file", "convert it to ONNX first"),
    (b"%PDF", "a PDF", ""),
    (b"\x7fELF", "a program", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
)


def _known_format(head: bytes) -> tuple[str, str] | None:
    """Reason and hint if the first bytes are the signature of another format."""
    for magic, name, hint in _MAGIC:
        if head.startswith(magic):
            return f"this is {name}", hint
    if head[4:8] == b"ORTM":
        return "this is an ONNX Runtime (.ort) model", "give the .onnx file it was made from"
    if head[4:8] == b"TFL3":
        return "this is a TensorFlow Lite model", "convert it to ONNX first"
    if re.match(rb"\x80[\x02-\x05][\x95\x8a}\]\(c]", head):
        return "this is a Python pickle", "export the model to ONNX; pickles are never opened"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "this is a safetensors file", "it holds weights only; export the model to ONNX"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", head, re.IGNORECASE):
        return "this is an HTML or XML page, not a model", "the download failed; fetch the raw file"
    return None


def explain_unparsable(head: bytes) -> tuple[str, str]:
    """Reason and hint for a file that protobuf could not read as a model; ``head`` holds its first bytes."""
    if not any(head):
        return "the file holds only zero bytes", "the download or copy failed"
    if _TEXT_MODEL.match(head):
        return "this is ONNX in text form", "only the binary form is read"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        kind = "JSON" if head.lstrip()[:1] in (b"{", b"[") else "text"
        return f"this is a {kind} file, not a binary ONNX model", "only binary ONNX is read"
    return "the file is damaged, truncated or no ONNX model", "download or export it again"
