"""What "agrees" and "is exact" mean in these tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

REFERENCE_BOUND = 2e-4
"""Largest difference to a reference implementation, relative to the largest logit of the position."""

BFLOAT16_BOUND = 1e-5
"""Largest difference of bf16 storage to float32 arithmetic on the widened weights."""

Array = npt.NDArray[Any]


def assert_agrees(logits: Array, expected: Array, bound: float = REFERENCE_BOUND) -> None:
    """At every position (row), ``max|difference| <= bound * max|expected|``; never NaN."""
    assert logits.shape == expected.shape
    assert logits.dtype == np.float32
    difference = np.abs(logits - expected).max(axis=-1) / np.abs(expected).max(axis=-1)
    worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
    assert (difference <= bound).all(), (
        f"position {worst} differs by {np.ravel(difference)[worst]:.3g}, more than {bound}"
    )


def assert_same_bits(actual: Array, expected: Array) -> None:
    """Equal shape, dtype and bits: -0.0 is not 0.0, and a NaN equals only its own bits."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    different = np.frombuffer(actual.tobytes(), np.uint8) != np.frombuffer(expected.tobytes(), np.uint8)
    assert not different.any(), f"{np.count_nonzero(different)} of {different.size} bytes differ"
