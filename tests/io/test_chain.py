"""Digests that are found while blocks still arrive."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from onnxgrow.io.chain import Chain


def test_chains_side_by_side_give_the_digests_of_their_own_blocks_in_order() -> None:
    rng = np.random.default_rng(0)
    contents = [[rng.bytes(int(n)) for n in rng.integers(0, 100_000, 50)] for _ in range(6)]
    room = threading.BoundedSemaphore(4)
    with ThreadPoolExecutor(3) as pool:
        found = []
        for blocks in contents:
            chain = Chain(pool, room)
            for block in blocks:
                chain.update(block)
            found.append(chain.finish())
        assert [f.result(60) for f in found] == [hashlib.sha256(b"".join(blocks)).hexdigest() for blocks in contents]


def test_a_chain_without_blocks_has_a_digest() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert Chain(pool, threading.BoundedSemaphore(1)).finish().result(60) == hashlib.sha256().hexdigest()


def test_no_more_blocks_wait_than_there_is_room_for() -> None:
    with ThreadPoolExecutor(1) as pool:
        free = threading.Event()
        pool.submit(free.wait, 60)  # nobody hashes meanwhile
        chain = Chain(pool, threading.BoundedSemaphore(3))
        added: list[int] = []

        def add() -> None:
            for i in range(5):
                chain.update(bytes(10))
                added.append(i)

        adding = threading.Thread(target=add)
        adding.start()
        deadline = time.monotonic() + 60
        while len(added) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert added == [0, 1, 2]
        free.set()
        adding.join(60)
        assert chain.finish().result(60) == hashlib.sha256(bytes(50)).hexdigest()
