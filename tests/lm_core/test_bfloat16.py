"""Widening is exact, narrowing goes to the nearest bf16 number, ties to even."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core import bfloat16

ALL_BITS = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def test_widen_is_the_upper_half_of_float32() -> None:
    """Every bf16 pattern: its float32 has these 16 bits and then zeros."""
    widened = bfloat16.widen(ALL_BITS)
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened.view(np.uint32), ALL_BITS.astype(np.uint32) * 65536)


def test_narrow_undoes_widen() -> None:
    """Every bf16 number, infinities and zeros of both signs included; NaN stays NaN of its sign."""
    widened = bfloat16.widen(ALL_BITS)
    back = bfloat16.narrow(widened)
    number = ~np.isnan(widened)
    np.testing.assert_array_equal(back[number], ALL_BITS[number])
    assert np.isnan(bfloat16.widen(back[~number])).all()
    np.testing.assert_array_equal(back[~number] >> 15, ALL_BITS[~number] >> 15)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any shape and layout, and a length that blocks do not divide."""
    numbers = np.random.RandomState(0).standard_normal((7, 30)).astype(np.float32)
    whole = bfloat16.narrow(numbers)
    monkeypatch.setattr(bfloat16, "NARROWED_AT_ONCE", 8)
    np.testing.assert_array_equal(bfloat16.narrow(numbers), whole)
    np.testing.assert_array_equal(bfloat16.narrow(numbers.T), whole.T)
    np.testing.assert_array_equal(bfloat16.narrow(numbers[:, ::3]), whole[:, ::3])
    assert bfloat16.narrow(numbers[:0]).shape == (0, 30)


def test_narrowing_takes_little_more_than_its_result() -> None:
    """It took eight times the memory of the result, for a moment."""
    numbers = np.ones((1500, 2000), dtype=np.float32)
    tracemalloc.start()
    narrowed = bfloat16.narrow(numbers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * narrowed.nbytes


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_narrow_goes_to_the_nearest(number: float) -> None:
    """No neighbour among the bf16 numbers is nearer; of two equally near ones the even is taken."""
    bits = int(bfloat16.narrow(np.array([number], dtype=np.float32))[0])
    distance = _distance(bits, number)
    for neighbour in (bits - 1, bits + 1):
        # Past the largest magnitude, infinity stands where the next number would be.
        if 0 <= neighbour & 0x7FFF <= 0x7F80 and neighbour >> 15 == bits >> 15:
            other = _distance(neighbour, number)
            assert distance < other or (distance == other and bits % 2 == 0)


@pytest.mark.parametrize(
    "bits, expected",
    [
        (0x3F808000, 0x3F80),  # a tie goes to the even one below
        (0x3F818000, 0x3F82),  # and to the even one above
        (0x3F808001, 0x3F81),  # just above a tie
        (0x3F807FFF, 0x3F80),  # just below it
        (0x7F7FFFFF, 0x7F80),  # the largest float32 is nearest to infinity
        (0xFF7FFFFF, 0xFF80),
        (0x00000001, 0x0000),  # the smallest number of all
        (0x80000000, 0x8000),  # minus zero
        (0x7FFFFFFF, 0x7FFF),  # NaN whose low bits would carry over
        (0x7F800001, 0x7FC0),  # NaN with nothing in its upper half
    ],
)
def test_narrow_by_hand(bits: int, expected: int) -> None:
    """Where rounding by adding goes wrong: ties, carries into the exponent, NaN."""
    assert int(bfloat16.narrow(np.array([bits], dtype=np.uint32).view(np.float32))[0]) == expected


def test_narrow_reads_any_layout() -> None:
    """A transposed or strided array is narrowed by its numbers, not by its memory."""
    numbers = np.arange(24, dtype=np.float32).reshape(4, 6)
    for layout in (numbers.T, numbers[::2], numbers[:, ::-1]):
        np.testing.assert_array_equal(bfloat16.widen(bfloat16.narrow(layout)), layout)


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
def test_narrow_is_that_of_torch() -> None:
    """Random bit patterns of every kind, and every tie."""
    torch = pytest.importorskip("torch")
    bits = np.random.RandomState(0).randint(0, 1 << 32, 200_000, dtype=np.uint32)
    bits[:65536] = np.arange(65536, dtype=np.uint32) << 16 | 0x8000
    numbers = bits.view(np.float32)
    numbers = np.where(np.isnan(numbers), np.float32(1.0), numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16.narrow(numbers), expected)


def _distance(bits: int, number: float) -> float:
    """How far the bf16 number lies; infinity counts as the power of two that would come next."""
    if bits & 0x7FFF == 0x7F80:
        return abs((2.0**128 if bits < 0x8000 else -(2.0**128)) - number)
    widened: npt.NDArray[np.float32] = np.array([bits << 16], dtype=np.uint32).view(np.float32)
    return abs(float(widened[0]) - number)
