"""bfloat16 in NumPy, which has no such type: a bf16 number is the upper half of a float32's bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]

NARROWED_AT_ONCE = 1 << 18
"""Numbers, so that a block stays in the processor's cache through the steps of rounding."""


def widen(bits: U16) -> F32:
    """bf16 bits of any shape as float32 numbers of that shape: exact."""
    widened = bits.astype(np.uint32)
    np.left_shift(widened, 16, out=widened)
    return widened.view(np.float32)


def narrow(numbers: F32) -> U16:
    """Float32 numbers as the nearest bf16 bits, ties to even; NaN stays NaN."""
    narrowed = np.empty(numbers.shape, dtype=np.uint16)
    into, numbers = narrowed.reshape(-1), numbers.reshape(-1)
    # A block at a time: what is made on the way would take several times the memory of the result.
    for start in range(0, len(numbers), NARROWED_AT_ONCE):
        block = np.ascontiguousarray(numbers[start : start + NARROWED_AT_ONCE])
        bits = block.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        # Rounding carries a NaN with low payload bits into infinity or zero: keep it a quiet NaN.
        into[start : start + len(block)] = np.where(np.isnan(block), (bits >> 16) | 0x40, rounded)
    return narrowed
