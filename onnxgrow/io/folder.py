"""The destination's folder: private workplaces for half-written files, locks, and sweeping up after the dead.

A writer works in a hidden folder beside the destination, ``.onnxgrow-<pid>-<machine>-<random>``, and holds a lock on
a file in it while it lives. Results are moved out by renaming, which is atomic within a file system.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxgrow.errors import EnvironmentFault

try:
    import fcntl
except ImportError:  # Windows has no flock; there the age of a folder decides
    fcntl = None  # type: ignore[assignment] # the module or nothing

__all__ = ["Workplace", "faults", "folder_lock", "sync_folder"]

_NAME = re.compile(r"\.onnxgrow-(\d+)-(?:([0-9a-f]{8})-)?[0-9a-f]{8}")
_LOCK = ".lock"
_UNLOCKED_AGE = 24 * 3600.0
_YOUNG_AGE = 60.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file system or a limit does not allow files of this size",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def faults(subject: str) -> Iterator[None]:
    """Turn an OSError into an EnvironmentFault about ``subject``."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        raise EnvironmentFault(subject, reason, _HINTS.get(error.errno or 0, "")) from error


class Workplace:
    """A private folder inside ``folder``, locked as long as this object is open."""

    def __init__(self, folder: Path) -> None:
        _sweep(folder)
        where = f"{_machine()}-" if _machine() else ""
        self.path = folder / f".onnxgrow-{os.getpid()}-{where}{secrets.token_hex(4)}"
        self.path.mkdir(mode=0o700)
        self._lock = -1
        try:
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            _try_lock(self._lock)
        except BaseException:
            self.close()
            raise

    def create(self, name: str) -> int:
        """Create a new file and return its descriptor; its mode follows the umask."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(self.path / name, flags, 0o666)

    def close(self) -> None:
        """Remove the folder with all that is still in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        # On Windows the open lock file keeps the folder from going at the first attempt.
        shutil.rmtree(self.path, ignore_errors=True)


def _try_lock(descriptor: int) -> bool | None:
    """Lock a file without waiting; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else False
    return True


def _sweep(folder: Path) -> None:
    """Remove workplaces whose writers are dead; whatever cannot be judged or removed stays."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if _is_stale(Path(entry.path), int(match[1]), match[2]):
                        shutil.rmtree(entry.path, ignore_errors=True)


def _is_stale(workplace: Path, pid: int, machine: str | None) -> bool:
    age = time.time() - workplace.stat().st_mtime
    try:
        descriptor = os.open(workplace / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        # Its writer died between its first two steps or while it cleaned up, or has yet to take the second step. Only
        # where process numbers mean the same as here do they tell; a folder may be shared between machines.
        ours = bool(machine) and machine == _machine()
        return age > _YOUNG_AGE or (ours and not _is_alive(pid))
    try:
        locked = _try_lock(descriptor)
    finally:
        os.close(descriptor)
    if locked is None:
        return age > _UNLOCKED_AGE and not _is_alive(pid)
    return locked and (age > _YOUNG_AGE or not _is_alive(pid))


@functools.cache
def _machine() -> str:
    """Eight hex digits for the running system and its process numbers; empty where nothing tells them apart."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]
    return ""


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Wait until no other writer commits in this folder; yields False where that cannot be arranged."""
    descriptor = -1
    locked = False
    if fcntl is not None:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
    try:
        yield locked
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the file system knows how."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
