"""bfloat16 in NumPy, which has no such type: a bf16 number is the upper half of a float32's bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]


def widen(bits: U16) -> F32:
    """bf16 bits of any shape as float32 numbers of that shape: exact."""
    widened = bits.astype(np.uint32)
    np.left_shift(widened, 16, out=widened)
    return widened.view(np.float32)


def narrow(numbers: F32) -> U16:
    """Float32 numbers as the nearest bf16 bits, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding carries a NaN with low payload bits into infinity or zero: keep it a quiet NaN.
    return np.where(np.isnan(numbers), (bits >> 16) | 0x40, rounded).astype(np.uint16)
