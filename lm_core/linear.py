"""``y = x Wᵀ + b`` for each storage of ``W``.  All the speed, and all the exactness, lives here.

A layer offers the same product in two regimes (``doc/exactness.md``):

``prefill``
    one matrix-matrix product (GEMM) for many tokens.  Fast, but BLAS gives a row other bits when
    the number of rows changes, so sessions record the chunks they were computed in.
``decode``
    one matrix-vector product per row over fixed tiles of the weights.  A row's bits depend on
    nothing but that row, whoever shares the step.  Each tile is used for every row while it is in
    a core's cache, so the weights travel from memory once per step.

Weights stay where they are, usually in the mapped file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_core import bfloat16, blas, cuts
from lm_core.crew import share
from lm_core.workspace import Workspace

F32 = npt.NDArray[np.float32]

CALL_WORK = 1 << 20
"""Weights times rows that one core multiplies at a time, at least, where several take part: when
a call ends sooner, handing Python's lock over, and waking who waits for it, takes as long."""

WIDENING = 4
"""Widening a bf16 weight takes about as long as multiplying it by so many rows."""

JOINED_BYTES = 1 << 20
"""Projections of the same input are copied into one matrix up to this size: for small models a
call costs more than the copy, which is made once."""

FEW_ROWS = 64
"""Up to so many rows GEMM is faster with the weights on its left: 2 times for 16 rows, 1.1 for 64."""

_ODD_HALF = np.uint32(0xFFFF0000)


class Linear(ABC):
    """Weights ``[out_features, in_features]`` given as row blocks ("parts"), applied as one matrix."""

    def __init__(self, parts: Sequence[npt.NDArray[Any]], bias: F32 | None) -> None:
        self.in_features: int = parts[0].shape[1]
        self.out_features: int = sum(part.shape[0] for part in parts)
        self.nbytes: int = sum(part.nbytes for part in parts)
        self._bias = bias
        self._parts: list[tuple[npt.NDArray[Any], slice]] = []
        start = 0
        for part in parts:
            self._parts.append((part, slice(start, start + len(part))))
            start += len(part)
        self._tiles = self._cut(cuts.tiles)

    def prefill(self, x: F32, workspace: Workspace) -> F32:
        """``[T, in_features] -> [T, out_features]``, both float32, by GEMM."""
        y = np.empty((len(x), self.out_features), dtype=np.float32)
        self._multiply(x, y, workspace)
        return y if self._bias is None else np.add(y, self._bias, out=y)

    def decode(self, x: F32, workspace: Workspace) -> F32:
        """``[B, in_features] -> [B, out_features]``, both float32, each row as if it were alone."""
        y = np.empty((len(x), self.out_features), dtype=np.float32)
        self._multiply_rows(x, y, workspace)
        return y if self._bias is None else np.add(y, self._bias, out=y)

    @abstractmethod
    def rows(self, indices: npt.NDArray[np.int64]) -> F32:
        """Rows of the weights as float32 ``[len(indices), in_features]``: an embedding look-up."""

    def _cut(self, cut: Callable[[npt.NDArray[Any]], list[slice]]) -> list[tuple[npt.NDArray[Any], slice]]:
        """Each part's slices, and the features that they give."""
        return [
            (part[rows], slice(columns.start + rows.start, columns.start + rows.stop))
            for part, columns in self._parts
            for rows in cut(part)
        ]

    @abstractmethod
    def _multiply(self, x: F32, y: F32, workspace: Workspace) -> None: ...

    @abstractmethod
    def _multiply_rows(self, x: F32, y: F32, workspace: Workspace) -> None: ...


class Float32Linear(Linear):
    """float32 weights, used in place.

    One row is multiplied by BLAS with all its threads, tile by tile.  Parts too small for that are
    multiplied as one matrix where they lie close together in memory, with whatever lies between
    them: in published files that is the output projection between keys and queries.  Its product
    is thrown away, but it is read with all cores, and still in the cache when it is needed, two
    products later.

    Several rows are multiplied by each core on its own, piece by piece, where that gives the same bits.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]], bias: F32 | None) -> None:
        super().__init__(parts, bias)
        self._stretch = cuts.stretch(parts)

    def rows(self, indices: npt.NDArray[np.int64]) -> F32:
        table: F32 = self._parts[0][0]
        return table[indices]

    def _multiply(self, x: F32, y: F32, workspace: Workspace) -> None:  # noqa: ARG002
        for part, columns in self._parts:
            _multiply_matrices(x, part, y[:, columns])

    def _multiply_rows(self, x: F32, y: F32, workspace: Workspace) -> None:  # noqa: ARG002
        if len(x) > 1 and self._pieces_agree:
            self._multiply_pieces(x, y)
        else:
            self._multiply_tiles(x, y)

    def _multiply_tiles(self, x: F32, y: F32) -> None:
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

    def _multiply_pieces(self, x: F32, y: F32) -> None:
        calls = list(self._calls(len(x)))

        def multiply(index: int) -> None:
            pieces, columns = calls[index]
            products = y[:, columns].reshape(len(x), len(pieces), -1).swapaxes(0, 1)
            # In this order: a piece for every row of x, then the next.
            np.matvec(pieces, x, out=products, order="C")

        share(multiply, len(calls))

    def _calls(self, rows: int) -> Iterator[tuple[F32, slice]]:
        """Pieces ``[n, 1, m, in]`` that one call multiplies, and the features that they give."""
        for part, columns in self._parts:
            height = cuts.piece_rows(part)
            count = len(part) // height
            whole = count * height
            step = height * math.ceil(count / _shares(part.size * rows))
            for start in range(0, whole, step):
                yield _stacked(part, columns, start, min(start + step, whole), height)
            if whole < len(part):
                yield _stacked(part, columns, whole, len(part), len(part) - whole)

    @cached_property
    def _pieces_agree(self) -> bool:
        """Whether this BLAS gives a row of a piece the bits that it has in a tile.

        That is decided by shapes, and so the same for any ``x``: kernels take four rows or so at a
        time, and only rows that are left over, at the end of a matrix, are summed in another order.
        """
        x = np.random.default_rng(0).standard_normal((1, self.in_features), dtype=np.float32)
        by_tiles, by_pieces = np.empty((2, 1, self.out_features), dtype=np.float32)
        self._multiply_rows(x, by_tiles, Workspace())
        self._multiply_pieces(x, by_pieces)
        return bool(np.array_equal(by_tiles.view(np.uint32), by_pieces.view(np.uint32)))


class Bfloat16Linear(Linear):
    """bf16 weights as uint16 bits, used in place; products and sums are float32.

    ``decode`` takes two neighbouring weights as one uint32.  Its upper half, masked, is the odd one
    as float32 bits; its lower half, shifted up, the even one.  Both are exact, and a product splits
    into one with the even and one with the odd positions of ``x``, so nothing is interleaved again.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]], bias: F32 | None) -> None:
        super().__init__(parts, bias)
        self._pairs = [(piece.view("<u4"), columns) for piece, columns in self._cut(cuts.pieces)]

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

        def multiply(index: int) -> None:
            pairs, columns = self._pairs[index]
            halves = workspace.bits("halves", (2, *pairs.shape))
            np.left_shift(pairs, 16, out=halves[0])
            np.bitwise_and(pairs, _ODD_HALF, out=halves[1])
            # A matrix-vector product for each half and each row.
            np.matvec(halves.view(np.float32)[:, None], halves_of_x, out=products[:, :, columns])

        # A piece takes three calls, each shorter than a float32 one: less is not worth sharing.
        work = (WIDENING + len(x)) * self.in_features * self.out_features
        share(multiply, len(self._pairs), alone=work < 2 * CALL_WORK)
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


def _shares(work: int) -> int:
    """In how many calls to do ``work``, weights times rows: as many for each thread."""
    if work < CALL_WORK:
        return 1
    return blas.threads() * max(1, work // (blas.threads() * CALL_WORK))


def _stacked(part: F32, columns: slice, start: int, stop: int, height: int) -> tuple[F32, slice]:
    """Rows of a part as matrices of equal height, ``[n, 1, height, in]``, and the features that they give."""
    features = slice(columns.start + start, columns.start + stop)
    return part[start:stop].reshape(-1, 1, height, part.shape[1]), features


def _usable(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself, or a copy where a file's odd header length left it misaligned for BLAS."""
    return part if part.ctypes.data % 4 == 0 else part.copy()
