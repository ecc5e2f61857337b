"""Scratch memory that outlives a call."""

from __future__ import annotations

import math
import threading

import numpy as np
import numpy.typing as npt


class Workspace(threading.local):
    """Buffers kept between calls and grown when needed; every thread that asks has its own."""

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint32]] = {}

    def bits(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """An uninitialized uint32 array, valid until the same thread asks for ``name`` again."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype=np.uint32)
        return buffer[:size].reshape(shape)
