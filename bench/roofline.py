"""The machine's memory bandwidth as a worker: ``python -m bench.roofline MODEL DTYPE THREADS``.

Decoding a token reads every weight once, so no engine decodes faster than the weights can be read.
What "can be read" means is measured here with the operation that decoding consists of, a float32
matrix-vector product, on all threads.  Model and dtype are not used: every worker takes the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.serving import Operation, serve
from lm_core import blas

COLUMNS = 4096
"""Row length of the matrix: shorter rows spend a share of their time on adding up and loop ends."""

ASSUMED_CACHE_BYTES = 32 << 20
"""Last-level cache where the system does not tell."""


def last_level_cache_bytes(root: Path = blas.CACHES) -> int:
    """The largest cache of the first core."""
    return max(blas.cache_bytes(root).values(), default=ASSUMED_CACHE_BYTES)


def streamed_bytes(cache_bytes: int) -> int:
    """So many that next to none of them are still in the cache when they are read again."""
    return 8 * cache_bytes


def open_engine(threads: int) -> tuple[dict[str, Any], Mapping[str, Operation]]:
    """The one operation, ``read``, keeps its matrix between calls."""
    blas.prepare()
    import numpy as np

    blas.set_threads(threads)
    matrices: dict[int, Any] = {}

    def read(size: int) -> float:
        """Seconds of one matrix-vector product over ``size`` bytes of float32 weights."""
        rows = max(1, size // (4 * COLUMNS))
        if rows not in matrices:
            # Written, not only reserved: untouched pages would all be the same page of zeros.
            matrices[rows] = np.ones((rows, COLUMNS), dtype=np.float32)
        matrix, x = matrices[rows], np.ones(COLUMNS, dtype=np.float32)
        y = np.empty(rows, dtype=np.float32)
        start = perf_counter()
        np.dot(matrix, x, out=y)
        seconds = perf_counter() - start
        return float(seconds * size / matrix.nbytes)

    return {"last_level_cache_bytes": last_level_cache_bytes()}, {"read": read}


def main(arguments: list[str]) -> None:
    """Serve until the parent is done."""
    _, _, threads = arguments
    serve(lambda: open_engine(int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
