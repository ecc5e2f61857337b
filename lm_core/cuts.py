"""Where matrices are cut.  A row's bits depend on the cuts alone, and these on the shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_core.blas import second_level_cache_bytes

F32 = npt.NDArray[np.float32]
Matrix = npt.NDArray[Any]

TILE_BYTES = 4 << 20
"""Float32 bytes of weights per tile, at least: BLAS uses one core alone for a matrix-vector product
of fewer than 460,800 weights.  At most twice as many."""

THREADED_WEIGHTS = 460_800
"""The smallest matrix of which OpenBLAS computes a matrix-vector product with several threads."""

SHARED_WEIGHTS = 786_432
"""The smallest matrix that is worth several threads: below it they save microseconds where the
other cores are idle, and lose milliseconds, waiting for each other, where they are not."""

PIECE_BYTES = min(max(second_level_cache_bytes() * 2 // 3, 128 << 10), 1 << 20)
"""Float32 bytes of a piece, at most: what stays in a core's own cache for the next row of a batch, or
beside its bf16 original until it is multiplied."""

ROW_STEP = 64
"""Tiles begin at multiples of so many rows, so that each of BLAS's threads gets a multiple of the
four rows that kernels take at a time."""

PIECE_STEP = 16
"""Pieces begin at multiples of so many rows, for the same reason."""


def tiles(matrix: Matrix) -> list[slice]:
    """Slices of rows that BLAS multiplies with one row, with all its threads.

    From one to two ``TILE_BYTES`` each; but two for one core where more are not worth it.
    """
    count = 2 if THREADED_WEIGHTS <= matrix.size < SHARED_WEIGHTS else 4 * matrix.size // TILE_BYTES
    return _equal_slices(len(matrix), count, ROW_STEP)


def piece_rows(matrix: Matrix) -> int:
    """Rows of the pieces that one core multiplies; the last piece has what is left."""
    count = math.ceil(4 * matrix.size / PIECE_BYTES)
    return min(len(matrix), PIECE_STEP * math.ceil(len(matrix) / count / PIECE_STEP))


def pieces(matrix: Matrix) -> list[slice]:
    """Slices of :func:`piece_rows` rows each."""
    rows = piece_rows(matrix)
    return [slice(start, min(start + rows, len(matrix))) for start in range(0, len(matrix), rows)]


def stretch(parts: Sequence[F32]) -> tuple[F32, list[int]] | None:
    """One matrix over all parts and what lies between them, and the row at which each part starts.

    None where that does not pay: the parts are large, or far from each other, or not of one file.
    """
    first, width = min(parts, key=_address), 4 * parts[0].shape[1]
    starts = [(_address(part) - _address(first)) // width for part in parts]
    rows = max(start + len(part) for start, part in zip(starts, parts, strict=True))
    if (
        len(parts) == 1
        or min(part.size for part in parts) >= SHARED_WEIGHTS
        or not SHARED_WEIGHTS <= rows * parts[0].shape[1] <= TILE_BYTES // 4
        or any(part.base is None or part.base is not first.base for part in parts)
        or any((_address(part) - _address(first)) % width for part in parts)
    ):
        return None
    return np.lib.stride_tricks.as_strided(first, (rows, first.shape[1]), writeable=False), starts


def _address(part: Matrix) -> int:
    return int(part.ctypes.data)


def _equal_slices(length: int, count: int, step: int) -> list[slice]:
    """Cut ``length`` into at most ``count`` slices of nearly equal size, at multiples of ``step``."""
    count = max(1, min(count, length // step))
    bounds = [step * round(length * index / count / step) for index in range(count)] + [length]
    return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]
