"""Random bits by address: any part of a tensor's stream can be drawn alone.

The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
https://doi.org/10.1145/2063384.2063405), a keyed function of a counter. NumPy promises the raw output of its
bit generators (not that of its distributions) to stay the same; a test holds it against a second
implementation.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UsageError

__all__ = ["Key", "raw_bits"]

# Part of every key: another way to draw or to transform must change it, so that no two meanings share a
# stream.
_DOMAIN = b"onnxgrow.init.1"
_WORDS_PER_COUNTER = 4


@dataclass(frozen=True)
class Key:
    """Names one stream of random bits.

    Attributes:
        seed: The user's seed; any integer.
        generation: Which growth of the model this is, from 1: without it, growing twice would draw the same
            values twice and make twin neurons that never separate.
        tensor: Name of the tensor the values are for.
        purpose: Tells several streams for one tensor apart.
    """

    seed: int
    generation: int
    tensor: str
    purpose: str = ""

    def words(self) -> tuple[int, int]:
        """The two 64-bit Philox key words: the first 128 bits of a SHA-256 over all four fields.

        Raises:
            UsageError: Seed or generation is no integer.
        """
        try:
            numbers = [operator.index(self.seed), operator.index(self.generation)]
        except TypeError as e:
            raise UsageError(self.tensor, f"seed and generation of a random stream are integers: {e}") from e
        return _words(*map(str, numbers), self.tensor, self.purpose)


@functools.lru_cache(maxsize=64)
def _words(*fields: str) -> tuple[int, int]:
    digest = hashlib.sha256(_DOMAIN)
    for field in fields:
        data = field.encode("utf-8", "surrogatepass")
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(data).to_bytes(8, "little") + data)
    found = digest.digest()
    return int.from_bytes(found[:8], "little"), int.from_bytes(found[8:16], "little")


def raw_bits(key: Key, start: int, count: int) -> npt.NDArray[np.uint64]:
    """Draws ``start`` … ``start + count − 1`` of the stream of ``key``.

    Args:
        key: The stream.
        start: Offset of the first draw, ≥ 0, in 64-bit words.
        count: Number of draws, ≥ 0.

    Returns:
        uint64, shape (count,). Draw i is the same whatever range it is asked for in.

    Raises:
        UsageError: A negative start or count.
    """
    if start < 0 or count < 0:
        raise UsageError(key.tensor, f"no random draws {start} to {start} + {count}")
    if count == 0:
        return np.zeros(0, np.uint64)
    counter, skip = divmod(start, _WORDS_PER_COUNTER)
    return np.asarray(_generator(key.words(), counter).random_raw(skip + count), np.uint64)[skip:]


_THREAD = threading.local()


def _generator(words: tuple[int, int], counter: int) -> np.random.Philox:
    """A generator of this thread, set to a counter: making a new one takes longer than some thousand draws."""
    generator: np.random.Philox | None = getattr(_THREAD, "generator", None)
    if generator is None:
        generator = _THREAD.generator = np.random.Philox(0)
    counters = [counter >> shift & 0xFFFFFFFFFFFFFFFF for shift in (0, 64, 128, 192)]
    generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": np.array(counters, np.uint64), "key": np.array(words, np.uint64)},
        "buffer": np.zeros(_WORDS_PER_COUNTER, np.uint64),
        "buffer_pos": _WORDS_PER_COUNTER,  # nothing is left over of an earlier counter
        "has_uint32": 0,
        "uinteger": 0,
    }
    return generator
