"""What the sizes in ``lm_core/cuts.py`` and ``linear.py`` rest on: ``python -m bench.kernels``.

Five tables: matrix-vector products by the size of the matrix, with one thread and with all;
a long row of weights streamed from memory in tiles, for one row and for several; bf16 widened
to float32, by the size of the tile, by one thread and by two at once, and widened and multiplied by
one; layers decoded as models decode them, by the number of rows, with one thread and with all; and
matrix-matrix products by the number of rows, with the weights on the right and on the left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

from lm_core import blas

WIDTH = 576
"""Columns of the matrices: those of SmolLM2-135M."""

PRODUCT_ROWS = (128, 256, 512, 799, 800, 1024, 1536, 3072)
"""OpenBLAS uses several threads from 460,800 weights on: 800 rows of 576."""

TILE_ROWS = (799, 1024, 1536, 3072, 6144, 24576)
CONVERTED_ROWS = (64, 128, 256, 512, 1024, 1536, 3072)
PROMPT_ROWS = (4, 16, 32, 64, 128, 256)
BATCHES = (1, 2, 4, 8, 16)
LAYERS = 64
STREAMED_ROWS = 98_304
REPEATS = 7


def seconds_of(work: Callable[[], object], least: float = 0.01) -> float:
    """The shortest mean time of one call: what else runs on the machine only adds to it."""
    best = float("inf")
    for _ in range(REPEATS):
        calls, start = 0, perf_counter()
        while calls == 0 or perf_counter() - start < least:
            work()
            calls += 1
        best = min(best, (perf_counter() - start) / calls)
    return best


def products(rows: Sequence[int] = PRODUCT_ROWS) -> Iterator[str]:
    """GB/s of one product by rows of the matrix, weights in the cache."""
    import numpy as np

    for count in rows:
        matrix, x = np.ones((count, WIDTH), np.float32), np.ones(WIDTH, np.float32)
        y = np.empty(count, np.float32)
        rates = []
        for threads in (1, blas.available_cores()):
            blas.set_threads(threads)
            rates.append(matrix.nbytes / seconds_of(partial(matrix.dot, x, out=y)) / 1e9)
        alone, together = rates
        yield f"{matrix.size:9,} weights: {alone:5.0f} GB/s with one thread, {together:5.0f} GB/s with all"


def tiles(rows: Sequence[int] = TILE_ROWS, streamed: int = STREAMED_ROWS) -> Iterator[str]:
    """GB/s of weights used, for a matrix that no cache holds, by rows of a tile."""
    import numpy as np

    matrix = np.ones((streamed, WIDTH), np.float32)
    for count in rows:
        rates = []
        for batch in (1, 8):
            xs, ys = np.ones((batch, WIDTH), np.float32), np.empty((batch, count), np.float32)

            def stream(count: int = count, xs: Any = xs, ys: Any = ys) -> None:
                for start in range(0, streamed - count + 1, count):
                    for x, y in zip(xs, ys, strict=True):
                        matrix[start : start + count].dot(x, out=y)

            used = matrix.nbytes // matrix.shape[0] * (streamed // count * count) * batch
            rates.append(used / seconds_of(stream) / 1e9)
        size = 4 * count * WIDTH / 1e6
        yield f"tiles of {size:5.1f} MB: {rates[0]:5.0f} GB/s for one row, {rates[1]:5.0f} GB/s for eight"


def conversions(rows: Sequence[int] = CONVERTED_ROWS, streamed: int = STREAMED_ROWS) -> Iterator[str]:
    """Thousand million bf16 weights widened in a second, from memory, by rows of a tile."""
    import numpy as np

    # Ones: what other bit patterns stand for could be numbers that a processor is slow with.
    pairs = np.full((streamed, WIDTH // 2), 0x3F803F80, np.uint32)
    halves_of_x = np.ones((2, 1, WIDTH // 2), np.float32)
    half, mask = streamed // 2, np.uint32(0xFFFF0000)

    def widen(first: int, last: int, count: int) -> None:
        even, odd = np.empty((2, count, WIDTH // 2), np.uint32)
        for start in range(first, last - count + 1, count):
            np.left_shift(pairs[start : start + count], 16, out=even)
            np.bitwise_and(pairs[start : start + count], mask, out=odd)

    def multiply(count: int) -> None:
        halves = np.empty((2, count, WIDTH // 2), np.uint32)
        products = np.empty((2, 1, count), np.float32)
        for start in range(0, streamed - count + 1, count):
            np.left_shift(pairs[start : start + count], 16, out=halves[0])
            np.bitwise_and(pairs[start : start + count], mask, out=halves[1])
            np.matvec(halves.view(np.float32)[:, None], halves_of_x, out=products)

    with ThreadPoolExecutor(2) as pool:
        for count in rows:
            alone = streamed * WIDTH / seconds_of(partial(widen, 0, streamed, count)) / 1e9

            def both(count: int = count) -> None:
                halves = [pool.submit(widen, first, first + half, count) for first in (0, half)]
                for one in halves:
                    one.result()

            together = streamed * WIDTH / seconds_of(both) / 1e9
            size = 4 * count * WIDTH / 1e6
            multiplied = streamed * WIDTH / seconds_of(partial(multiply, count)) / 1e9
            yield (
                f"tiles of {size:5.2f} MB: {alone:5.1f} G/s by one thread, {together:5.1f} G/s by two, "
                f"{multiplied:5.1f} G/s multiplied too"
            )


def layers(rows: Sequence[int] = BATCHES, matrices: int = LAYERS, matrix_rows: int = 1536) -> Iterator[str]:
    """Thousand million weights multiplied in a second, for all rows, by layers that no cache holds."""
    import numpy as np

    from lm_core.linear import Linear, make_linear
    from lm_core.workspace import Workspace

    def decode(linears: Sequence[Linear], x: Any, workspace: Workspace) -> None:
        for linear in linears:
            linear.decode(x, workspace)

    for storage, one in (("f32", np.float32(1)), ("bf16", np.uint16(0x3F80))):
        linears = [make_linear([np.full((matrix_rows, WIDTH), one)]) for _ in range(matrices)]
        for count in rows:
            work = partial(decode, linears, np.ones((count, WIDTH), np.float32), Workspace())
            rates = []
            for threads in (1, blas.available_cores()):
                blas.set_threads(threads)
                work()
                rates.append(matrices * matrix_rows * WIDTH * count / seconds_of(work) / 1e9)
            alone, together = rates
            yield f"{storage:4}, {count:2} rows: {alone:5.1f} G/s by one thread, {together:5.1f} G/s by all"


def prompts(rows: Sequence[int] = PROMPT_ROWS, matrix_rows: int = 1536) -> Iterator[str]:
    """GFLOP/s of a matrix-matrix product, by the number of rows that it is for."""
    import numpy as np

    weights = np.ones((matrix_rows, WIDTH), np.float32)
    for count in rows:
        x, y = np.ones((count, WIDTH), np.float32), np.empty((count, matrix_rows), np.float32)

        def left(x: Any = x, y: Any = y) -> None:
            y[...] = np.matmul(weights, x.T).T

        gflops = 2 * count * weights.size / 1e9
        from_right = gflops / seconds_of(partial(np.matmul, x, weights.T, out=y))
        from_left = gflops / seconds_of(left)
        yield f"{count:4} rows: {from_right:5.0f} GFLOP/s on the right, {from_left:5.0f} GFLOP/s on the left"


def main() -> None:
    """Print the tables."""
    blas.prepare()
    sys.stdout.write(f"{blas.describe()}\n")
    for title, table in (
        ("float32 matrix-vector products from the cache", products),
        ("float32 weights streamed from memory", tiles),
        ("bf16 widened to float32", conversions),
        ("layers decoded", layers),
        ("float32 matrix-matrix products", prompts),
    ):
        sys.stdout.write(f"\n{title}\n")
        for line in table():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
