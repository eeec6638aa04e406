"""A file while it is written: computing, hashing and writing overlap, and the kernel copies what lies in files."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import onnx_ir as ir

from onnxgrow.errors import BadInputError
from onnxgrow.io.chain import Chain
from onnxgrow.io.tensors import BLOCK, Blocked, Buffer, MappedTensor, blocks

try:
    import fcntl
except ImportError:  # Windows shares no extents
    fcntl = None  # type: ignore[assignment] # the module or nothing

__all__ = ["Sink", "Written", "workers"]

Written = Callable[[int], None]
"""Told the number of bytes that were written since the last call."""

_FICLONERANGE = 0x4020940D  # linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_EXTENT = 4096  # file systems share whole blocks
_READ = 1 << 20  # bytes of mapped data hashed at once
_BACKLOG = 24  # blocks that wait to be hashed: grown tensors come in blocks of 1 MB
_DIRTY = 256 << 20  # bytes after which the disk is set to work: left to itself it starts when nearly all is written
_ELSEWISE = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
}
"""What the kernel answers when it cannot copy this itself; the bytes are written then."""


class Sink:
    """Takes the parts of one file in order. As a context manager it closes the file.

    Args:
        descriptor: Of a new file.
        written: Told of progress.
        link: Whether to share extents with the files that tensors lie in, where the file system can.

    Attributes:
        position: Bytes written so far.
        linked: How many of them are shared with other files.
    """

    def __init__(self, descriptor: int, written: Written | None = None, link: bool = False) -> None:
        self.descriptor = descriptor
        self.position = 0
        self.linked = 0
        self._written = written or (lambda _: None)
        self._link = link
        self._producer = ThreadPoolExecutor(1, "onnxgrow-ahead")
        self._hashers = ThreadPoolExecutor(workers(), "onnxgrow-digest")
        self._syncer = ThreadPoolExecutor(1, "onnxgrow-sync")
        self._syncing: Future[None] | None = None
        self._dirty = 0
        self._room = threading.BoundedSemaphore(_BACKLOG)
        self._closing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        for pool in (self._producer, self._hashers, self._syncer):
            pool.shutdown(cancel_futures=True)
        os.close(self.descriptor)

    def sync(self, mode: int | None) -> None:
        """Set the file's mode and make it durable."""
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(self.descriptor, mode)
        self._synced()
        os.fsync(self.descriptor)

    def write(self, data: Buffer) -> None:
        """Write bytes."""
        rest = memoryview(data)
        while rest:
            done = os.write(self.descriptor, rest[:BLOCK])
            rest = rest[done:]
            self._advance(done)

    def tensor(self, tensor: ir.TensorProtocol, digest: bool = False) -> Future[str] | None:
        """Write the raw form of a tensor.

        Returns:
            With ``digest`` the SHA-256 of what was to be written, as 64 hex digits; it is found while writing goes on.
            It is that of the tensor, not of the file: whoever reads the file back sees what went wrong in between.

        Raises:
            BadInputError: It gives fewer or more bytes than it declares.
        """
        if isinstance(tensor, MappedTensor):
            found = self._hashers.submit(self._mapped_digest, tensor) if digest else None
            self._copy(tensor)
            return found
        chain = Chain(self._hashers, self._room) if digest else None
        for block in self._ahead(blocks(tensor)):
            if chain is not None:
                chain.update(block)
            self.write(block)
        if chain is None:
            return None
        found = chain.finish()
        if not isinstance(tensor, Blocked):
            found.result()  # its blocks are views, which would keep all of it
        return found

    def _mapped_digest(self, tensor: MappedTensor) -> str:
        sha256 = hashlib.sha256()
        for block in tensor.raw_blocks(_READ):
            if self._closing:
                break
            sha256.update(block)
        return sha256.hexdigest()

    def _ahead(self, parts: Iterator[Buffer]) -> Iterator[Buffer]:
        """The parts, each computed while the one before it is written."""
        pending = self._producer.submit(next, parts, None)
        try:
            while (part := pending.result()) is not None:
                pending = self._producer.submit(next, parts, None)
                yield part
        finally:
            pending.cancel()

    def _copy(self, tensor: MappedTensor) -> None:
        view = tensor.view
        done = 0
        if len(view) >= _EXTENT:
            with tensor.opened() as source:
                if source is not None:
                    done = self._copy_file(source, tensor.offset or 0, len(view))
        for start in range(done, len(view), BLOCK):
            self.write(view[start : start + BLOCK])

    def _copy_file(self, source: int, offset: int, count: int) -> int:
        """Let the kernel copy a range of a file; returns how much of it was copied."""
        done = self._share(source, offset, count) if self._link else 0
        if not hasattr(os, "copy_file_range"):
            return done
        while done < count:
            try:
                step = os.copy_file_range(source, self.descriptor, min(BLOCK, count - done), offset + done)
            except OSError as error:
                if error.errno in _ELSEWISE:
                    return done
                raise
            if not step:
                raise BadInputError("external data", "the file became shorter while it was copied", "try again")
            done += step
            self._advance(step)
        return done

    def _share(self, source: int, offset: int, count: int) -> int:
        """Share as many whole blocks as possible."""
        whole = count - count % _EXTENT
        if fcntl is None or offset % _EXTENT or self.position % _EXTENT or not whole:
            return 0
        try:
            request = struct.pack("qQQQ", source, offset, whole, self.position)
            fcntl.ioctl(self.descriptor, _FICLONERANGE, request)
        except OSError as error:
            if error.errno in _ELSEWISE:
                return 0
            raise
        self.linked += whole
        self._advance(whole)
        os.lseek(self.descriptor, self.position, os.SEEK_SET)
        return whole

    def _advance(self, count: int) -> None:
        self.position += count
        self._written(count)
        self._dirty += count
        if self._dirty >= _DIRTY and hasattr(os, "fdatasync") and (self._syncing is None or self._syncing.done()):
            self._synced()
            self._syncing = self._syncer.submit(os.fdatasync, self.descriptor)
            self._dirty = 0

    def _synced(self) -> None:
        """Wait for the disk. A fault is told once per descriptor: what this sync was told, the last one is not."""
        if self._syncing is not None:
            self._syncing.result()

    def overwrite(self, data: bytes) -> None:
        """Replace the first bytes of the file by as many others."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        os.lseek(self.descriptor, self.position, os.SEEK_SET)


def workers() -> int:
    """Number of threads that are worth their while for what keeps processors busy."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, available)
