"""Where matrices are cut: nothing left out, nothing twice, and at rows that kernels take together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core import cuts

SHAPES = st.tuples(st.integers(1, 60_000), st.sampled_from([2, 64, 288, 576, 1536, 2048, 8192]))


def matrix(rows: int, columns: int) -> cuts.Matrix:
    """Of that shape, in next to no memory."""
    return np.broadcast_to(np.float32(0), (rows, columns))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(shape=SHAPES, cut=st.sampled_from([cuts.tiles, cuts.pieces]))
def test_every_row_is_in_one_slice(shape: tuple[int, int], cut: object) -> None:
    """In order, and none is empty."""
    assert callable(cut)
    slices = cut(matrix(*shape))
    assert [index for rows in slices for index in range(rows.start, rows.stop)] == list(range(shape[0]))
    assert all(rows.start < rows.stop for rows in slices)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(shape=SHAPES)
def test_slices_begin_where_kernels_do(shape: tuple[int, int]) -> None:
    """Tiles at multiples of 64 rows, pieces at multiples of 16."""
    assert all(rows.start % 64 == 0 for rows in cuts.tiles(matrix(*shape)))
    assert all(rows.start % 16 == 0 for rows in cuts.pieces(matrix(*shape)))


@pytest.mark.parametrize("shape", [(49_152, 576), (1536, 576), (576, 1536), (32_000, 4096)])
def test_sizes(shape: tuple[int, int]) -> None:
    """Tiles are large enough for several threads, and pieces small enough for a core's cache."""
    for rows in cuts.tiles(matrix(*shape)):
        assert (rows.stop - rows.start) * shape[1] >= cuts.THREADED_WEIGHTS
    for rows in cuts.pieces(matrix(*shape)):
        assert 4 * (rows.stop - rows.start) * shape[1] <= cuts.PIECE_BYTES + 4 * 16 * shape[1]
