"""A digest of blocks that arrive one by one, found by other threads meanwhile."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from concurrent.futures import Executor, Future

from onnxgrow.io.tensors import Buffer

__all__ = ["Chain"]


class Chain:
    """SHA-256 over blocks in the order of their arrival. Several chains share the threads, so they run side by side.

    Args:
        pool: Where the work is done.
        room: One permit for each block that may wait, of all chains together: it bounds the memory.
    """

    def __init__(self, pool: Executor, room: threading.BoundedSemaphore) -> None:
        self._pool, self._room = pool, room
        self._sha256 = hashlib.sha256()
        self._waiting: deque[Buffer] = deque()
        self._lock = threading.Lock()
        self._working = self._finished = False
        self._result: Future[str] = Future()

    def update(self, block: Buffer) -> None:
        """Add a block; waits while too many do. Its bytes must stay as they are."""
        self._room.acquire()
        with self._lock:
            self._waiting.append(block)
            self._start()

    def finish(self) -> Future[str]:
        """There are no more blocks; gives the digest, as 64 hex digits."""
        with self._lock:
            self._finished = True
            self._start()
        return self._result

    def _start(self) -> None:
        if not self._working:
            self._working = True
            self._pool.submit(self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    if self._finished:
                        self._result.set_result(self._sha256.hexdigest())
                    return
                block = self._waiting.popleft()
            self._sha256.update(block)
            self._room.release()
