"""``y = x Wᵀ + b`` for each storage of ``W``.  All the speed, and all the exactness, lives here.

A layer offers the same product in two regimes (``doc/exactness.md``):

``prefill``
    one matrix-matrix product (GEMM) for many tokens.  Fast, but BLAS gives a row other bits when
    the number of rows changes, so sessions record the chunks they were computed in.
``decode``
    one matrix-vector product per row over fixed tiles of the weights.  A row's bits depend on
    nothing but that row, whoever shares the step.  Each tile is used for every row while it is in
    the processor's cache, so the weights travel from memory once per step.

Weights stay where they are, usually in the mapped file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_core import bfloat16
from lm_core.blas import second_level_cache_bytes

F32 = npt.NDArray[np.float32]

TILE_BYTES = 4 << 20
"""Float32 bytes of weights per decode tile, at least: BLAS uses one core alone for a matrix-vector
product of fewer than 460,800 weights.  At most twice as many, so that a tile is still in the
last-level cache when the next row of the batch needs it."""

WIDENED_TILE_BYTES = min(max(second_level_cache_bytes() // 2, 128 << 10), 1 << 20)
"""Float32 bytes of a bf16 tile in ``decode``, at most: half a core's own cache, so that the tile is
still there, beside its bf16 original, when it is multiplied."""

THREADED_WEIGHTS = 460_800
"""The smallest matrix of which OpenBLAS computes a matrix-vector product with several threads."""

SHARED_WEIGHTS = 786_432
"""The smallest matrix that is worth several threads: below it they save microseconds where the
other cores are idle, and lose milliseconds, waiting for each other, where they are not."""

JOINED_BYTES = 1 << 20
"""Projections of the same input are copied into one matrix up to this size: for small models a
call costs more than the copy, which is made once."""

FEW_ROWS = 64
"""Up to so many rows GEMM is faster with the weights on its left: 2 times for 16 rows, 1.1 for 64."""

_ODD_HALF = np.uint32(0xFFFF0000)


class Workspace:
    """Scratch memory of one thread, kept between calls and grown when needed."""

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint32]] = {}

    def bits(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """An uninitialized uint32 array, valid until ``name`` is asked for again."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype=np.uint32)
        return buffer[:size].reshape(shape)


class Linear(ABC):
    """Weights ``[out_features, in_features]`` given as row blocks ("parts"), applied as one matrix."""

    def __init__(self, parts: Sequence[npt.NDArray[Any]], bias: F32 | None) -> None:
        self.in_features: int = parts[0].shape[1]
        self.out_features: int = sum(part.shape[0] for part in parts)
        self.nbytes: int = sum(part.nbytes for part in parts)
        self._bias = bias
        self._parts: list[tuple[npt.NDArray[Any], slice]] = []
        self._tiles: list[tuple[npt.NDArray[Any], slice]] = []
        start = 0
        for part in parts:
            self._parts.append((part, slice(start, start + part.shape[0])))
            for rows in _tile_rows(part.shape[0], part.shape[1]):
                self._tiles.append((part[rows], slice(start + rows.start, start + rows.stop)))
            start += part.shape[0]

    def prefill(self, x: F32, workspace: Workspace) -> F32:
        """``[T, in_features] -> [T, out_features]``, both float32, by GEMM."""
        y = np.empty((x.shape[0], self.out_features), dtype=np.float32)
        self._multiply(x, y, workspace)
        return y if self._bias is None else np.add(y, self._bias, out=y)

    def decode(self, x: F32, workspace: Workspace) -> F32:
        """``[B, in_features] -> [B, out_features]``, both float32, each row as if it were alone."""
        y = np.empty((x.shape[0], self.out_features), dtype=np.float32)
        self._multiply_rows(x, y, workspace)
        return y if self._bias is None else np.add(y, self._bias, out=y)

    @abstractmethod
    def rows(self, indices: npt.NDArray[np.int64]) -> F32:
        """Rows of the weights as float32 ``[len(indices), in_features]``: an embedding look-up."""

    @abstractmethod
    def _multiply(self, x: F32, y: F32, workspace: Workspace) -> None: ...

    @abstractmethod
    def _multiply_rows(self, x: F32, y: F32, workspace: Workspace) -> None: ...


class Float32Linear(Linear):
    """float32 weights, used in place.

    Parts too small for BLAS to use every core on them are multiplied as one matrix where they lie
    close together in memory, with whatever lies between them: in published files that is the
    output projection between keys and queries.  Its product is thrown away, but it is read with
    all cores, and still in the cache when it is needed, two products later.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]], bias: F32 | None) -> None:
        super().__init__(parts, bias)
        self._stretch = _stretch(parts)

    def rows(self, indices: npt.NDArray[np.int64]) -> F32:
        table: F32 = self._parts[0][0]
        return table[indices]

    def _multiply(self, x: F32, y: F32, workspace: Workspace) -> None:  # noqa: ARG002
        for part, columns in self._parts:
            _multiply_matrices(x, part, y[:, columns])

    def _multiply_rows(self, x: F32, y: F32, workspace: Workspace) -> None:  # noqa: ARG002
        if self._stretch is not None:
            matrix, starts = self._stretch
            for x_row, y_row in zip(x, y, strict=True):
                products = matrix.dot(x_row)
                for start, (part, columns) in zip(starts, self._parts, strict=True):
                    y_row[columns] = products[start : start + len(part)]
            return
        for tile, columns in self._tiles:
            for x_row, y_row in zip(x, y, strict=True):
                tile.dot(x_row, out=y_row[columns])


class Bfloat16Linear(Linear):
    """bf16 weights as uint16 bits, used in place; products and sums are float32.

    ``decode`` takes two neighbouring weights as one uint32.  Its upper half, masked, is the odd one
    as float32 bits; its lower half, shifted up, the even one.  Both are exact, and a product splits
    into one with the even and one with the odd positions of ``x``, so nothing is interleaved again.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]], bias: F32 | None) -> None:
        super().__init__(parts, bias)
        self._pairs: list[tuple[npt.NDArray[np.uint32], slice]] = [
            (part[rows].view("<u4"), slice(columns.start + rows.start, columns.start + rows.stop))
            for part, columns in self._parts
            for rows in _equal_slices(part.shape[0], math.ceil(4 * part.size / WIDENED_TILE_BYTES))
        ]

    def rows(self, indices: npt.NDArray[np.int64]) -> F32:
        return bfloat16.widen(self._parts[0][0][indices])

    def _multiply(self, x: F32, y: F32, workspace: Workspace) -> None:
        for tile, columns in self._tiles:
            widened = workspace.bits("widened", tile.shape)
            np.left_shift(tile, 16, out=widened, dtype=np.uint32)
            _multiply_matrices(x, widened.view(np.float32), y[:, columns])

    def _multiply_rows(self, x: F32, y: F32, workspace: Workspace) -> None:
        # [B, in] -> [2, B, in / 2]: the even positions of each row, and the odd ones.
        halves_of_x = np.ascontiguousarray(x.reshape(len(x), -1, 2).transpose(2, 0, 1))
        products = np.empty((2, *y.shape), dtype=np.float32)
        for pairs, columns in self._pairs:
            halves = workspace.bits("halves", (2, *pairs.shape))
            np.left_shift(pairs, 16, out=halves[0])
            np.bitwise_and(pairs, _ODD_HALF, out=halves[1])
            # A matrix-vector product for each half and each row.
            np.matvec(halves.view(np.float32)[:, None], halves_of_x, out=products[:, :, columns])
        np.add(products[0], products[1], out=y)


def make_linear(parts: Sequence[npt.NDArray[Any]], bias: F32 | None = None) -> Linear:
    """The layer for weights of these parts: all float32, or all bf16 bits (uint16) of even width."""
    if len(parts) > 1 and sum(part.nbytes for part in parts) <= JOINED_BYTES:
        parts = [np.concatenate(parts)]
    parts = [_usable(part) for part in parts]
    return Bfloat16Linear(parts, bias) if parts[0].dtype == np.uint16 else Float32Linear(parts, bias)


def _multiply_matrices(x: F32, weights: F32, y: F32) -> None:
    """``y [T, rows] = x [T, in] · weights [rows, in]ᵀ`` by GEMM, from the side that is faster."""
    if len(x) <= FEW_ROWS:
        y[...] = np.matmul(weights, x.T).T
    else:
        np.matmul(x, weights.T, out=y)


def _usable(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself, or a copy where a file's odd header length left it misaligned for BLAS."""
    return part if part.ctypes.data % 4 == 0 else part.copy()


def _stretch(parts: Sequence[F32]) -> tuple[F32, list[int]] | None:
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


def _address(part: npt.NDArray[Any]) -> int:
    return int(part.ctypes.data)


def _tile_rows(out_features: int, in_features: int) -> list[slice]:
    """Cut the rows of a matrix into tiles of nearly equal size.

    From one to two ``TILE_BYTES`` each; but two for one core where more are not worth it.
    """
    weights = out_features * in_features
    tiles = 2 if THREADED_WEIGHTS <= weights < SHARED_WEIGHTS else max(1, 4 * weights // TILE_BYTES)
    return _equal_slices(out_features, tiles)


def _equal_slices(length: int, count: int) -> list[slice]:
    """Cut ``length`` into ``count`` pieces of nearly equal size, or fewer where some would be empty."""
    count = min(length, count)
    bounds = [length * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]
