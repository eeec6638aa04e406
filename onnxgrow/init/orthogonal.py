"""Random orthonormal rows, without LAPACK or BLAS."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from onnxgrow.init.bits import raw_bits
from onnxgrow.init.registry import FillRequest, register
from onnxgrow.init.summation import fold
from onnxgrow.init.transform import normal

__all__ = ["orthogonal", "orthonormal_rows"]

Float64 = npt.NDArray[np.float64]

# Width of the column tiles. Part of the definition of the sums, so it must never change.
_TILE = 256
# Rows reflected together: a block and its scratch stay in the processor's cache. No influence on the values.
_ROWS = 16


@register("orthogonal", "https://arxiv.org/abs/1312.6120", elementwise=False)
def orthogonal(request: FillRequest, start: int, count: int) -> Float64:
    """Saxe et al. 2014: the tensor as a matrix, out axes as rows, has orthonormal rows times the gain.

    With more rows than columns not all rows can be orthonormal: each run of as many rows as there are columns
    is then an orthonormal group, independent of the others (with whole groups the columns are orthogonal
    too).
    The work is about 2·rows·columns·min(rows, columns) multiplications, all the tensor at once.
    """
    out_sizes = [request.shape[a] for a in request.out_axes]
    rest = [a for a in range(len(request.shape)) if a not in request.out_axes]
    rows, columns = math.prod(out_sizes), math.prod(request.shape[a] for a in rest)
    matrix = np.empty((rows, columns), np.float64)
    for first in range(0, rows, max(columns, 1)):
        group = matrix[first : first + columns]
        draws = normal(raw_bits(request.key, first * columns, group.size))
        group[:] = orthonormal_rows(draws.reshape(group.shape))
    matrix *= request.gain
    grown = matrix.reshape([*out_sizes, *(request.shape[a] for a in rest)])
    back = np.argsort([*request.out_axes, *rest])
    return np.ascontiguousarray(grown.transpose(back)).reshape(-1)[start : start + count]


def orthonormal_rows(draws: Float64) -> Float64:
    """Rows uniformly distributed over all orthonormal sets of n rows in m dimensions, from normal draws.

    Row r gives the Householder reflection of a random vector in the last m − r dimensions; the product of the
    reflections, with the signs of the reflected vectors, is uniform (Stewart 1980, "The efficient generation
    of random orthogonal matrices", https://doi.org/10.1137/0717034; Mezzadri 2007,
    https://arxiv.org/abs/math-ph/0609050).

    Args:
        draws: Standard normal float64, shape (n, m) with n ≤ m. Entries left of the diagonal are not used.

    Returns:
        float64, shape (n, m): Q·Qᵀ = I to about 1e-15·√n per entry.
    """
    n, m = draws.shape
    vectors, signs = _reflectors(draws)
    out = np.empty((n, m), np.float64)

    def fill_rows(first: int) -> None:
        out[first : first + _ROWS] = _product_rows(vectors, signs, first, min(first + _ROWS, n))[:, :m]

    starts = range(0, n, _ROWS)
    if len(starts) == 1:
        fill_rows(0)
        return out
    # Blocks of rows do not depend on each other, so neither the threads nor their number show in the values.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for _ in pool.map(fill_rows, reversed(starts)):
            pass
    return out


def _product_rows(vectors: Float64, signs: Float64, first: int, last: int) -> Float64:
    """Rows ``first`` … ``last − 1`` of the product of the reflections, padded to whole tiles."""
    tiles = vectors.shape[1]
    block = np.zeros((tiles, last - first, _TILE), np.float64)
    scratch = np.empty_like(block)
    for row in range(first, last):
        block[row // _TILE, row - first, row % _TILE] = signs[row]
    # eᵣᵀ·Hₙ⋯H₁: reflections later than r do not touch eᵣ, and reflection j nothing left of column j.
    for j in range(last - 1, -1, -1):
        tile = j // _TILE
        _reflect(block[tile:], vectors[j, tile:], scratch[tile:])
    return block.transpose(1, 0, 2).reshape(last - first, tiles * _TILE)


def _reflectors(draws: Float64) -> tuple[Float64, Float64]:
    """Vectors u with I − u·uᵀ orthogonal, row r in the last m − r dimensions, and the sign that goes with
    each.

    The vectors are padded with zeros and cut into tiles: shape (n, tiles, tile).
    """
    n, m = draws.shape
    tiles = -(-m // _TILE)
    vectors = np.zeros((n, tiles * _TILE), np.float64)
    vectors[:, :m] = np.triu(draws)
    norm = np.sqrt(fold(np.ascontiguousarray((vectors * vectors).T)))
    diagonal = np.arange(n)
    head = vectors[diagonal, diagonal]
    sign = np.where(head < 0.0, -1.0, 1.0)
    # Away from cancellation: the first entry grows by the norm with its own sign.
    vectors[diagonal, diagonal] = head + sign * norm
    # |v|² = 2·norm·(norm + |head|), so u = v·√2/|v|.
    vectors /= np.sqrt(norm * (norm + np.abs(head)))[:, np.newaxis]
    return vectors.reshape(n, tiles, _TILE), -sign


def _reflect(rows: Float64, u: Float64, scratch: Float64) -> None:
    """rows ← rows − (rows·u)·uᵀ in place; rows and scratch of shape (tiles, rows, tile), u of (tiles,
    tile)."""
    across = u[:, np.newaxis, :]
    np.multiply(rows, across, out=scratch)
    dots = fold(np.ascontiguousarray(fold(scratch).T)).copy()
    np.multiply(dots[:, np.newaxis], across, out=scratch)
    np.subtract(rows, scratch, out=rows)
