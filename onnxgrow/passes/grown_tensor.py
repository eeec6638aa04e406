"""A tensor that is computed when it is read, piece by piece: a grown weight never lies in memory as a whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.io.sink import workers
from onnxgrow.io.tensors import Buffer, blocks
from onnxgrow.passes.regions import Region, regions

__all__ = ["Entries", "GrownTensor"]

Array = npt.NDArray[Any]

Entries = Callable[[Region], Array]
"""Gives the entries of a region as an array of its shape; may be called from several threads."""

BLOCK = 1 << 20
"""Bytes computed at once: they and their temporaries, several times as large, fit the processor's cache."""


class GrownTensor(ir.LazyTensor):
    """A tensor given by a function of regions.

    It is an ``onnx_ir.LazyTensor``, so ``raw()`` and ``numpy()`` make the whole of it; what reads it through
    :func:`onnxgrow.io.tensors.blocks` gets blocks, computed ahead by a few threads. Both give the same bytes.

    Args:
        open_entries: Called once for each pass over the tensor; what it returns is dropped after the pass.
        dtype, shape, name, doc_string, metadata_props: Of the tensor. Types of less than a byte are made whole.
    """

    def __init__(
        self,
        open_entries: Callable[[], Entries],
        *,
        dtype: ir.DataType,
        shape: Sequence[int],
        name: str,
        doc_string: str | None = None,
        metadata_props: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            self._whole,
            dtype=dtype,
            shape=ir.Shape(shape, frozen=True),
            name=name,
            doc_string=doc_string,
            metadata_props=dict(metadata_props) if metadata_props else None,
        )
        self._open = open_entries
        self._dims = tuple(shape)

    def _whole(self) -> ir.Tensor[Any]:
        entries = self._open()
        values = np.empty(self._dims, self.dtype.numpy())
        for region in self._regions(BLOCK):
            values[region.slices] = entries(region)
        return ir.Tensor(values, dtype=self.dtype, name=self.name)

    def _regions(self, size: int) -> Iterator[Region]:
        return regions(self._dims, max(1, size // self.dtype.numpy().itemsize))

    def raw_blocks(self, size: int) -> Iterator[Buffer]:
        """Consecutive pieces of the raw form, each of at most ``size`` bytes (an entry is never divided)."""
        if self.dtype.bitwidth < 8:
            yield from blocks(self._whole(), size)
            return
        for values in self._ahead(list(self._regions(min(size, BLOCK)))):
            yield from blocks(ir.Tensor(np.ascontiguousarray(values), dtype=self.dtype, name=self.name), size)

    def _ahead(self, wanted: list[Region]) -> Iterator[Array]:
        """The entries of regions, in order; a bounded number of them is computed in advance."""
        entries = self._open()
        count = workers()
        if len(wanted) < 2 or count < 2:
            yield from map(entries, wanted)
            return
        pool = ThreadPoolExecutor(count, "onnxgrow-values")
        pending: deque[Future[Array]] = deque()
        try:
            for region in wanted:
                pending.append(pool.submit(entries, region))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
