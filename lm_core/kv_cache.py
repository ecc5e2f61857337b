"""One session's keys and values, which can be cut, copied and looked at by position."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lm_core.config import LlamaConfig
from lm_core.errors import ContextLengthExceeded, InvalidParameter

F32 = npt.NDArray[np.float32]

SMALLEST_CAPACITY = 64


class KVCache:
    """Keys and values of the first ``length`` tokens of one sequence, for every layer.

    Stored as ``[L, K, capacity, d]`` float32, so that one head's keys are one contiguous matrix.
    What lies past ``length`` is scratch: a forward pass writes there and calls :meth:`advance`
    when it is done, so a pass that fails leaves the cache as it was.
    """

    def __init__(self, config: LlamaConfig, capacity: int | None = None) -> None:
        """An empty cache with room for ``capacity`` tokens, which grows as needed.

        Raises:
            InvalidParameter: ``capacity`` is not between 1 and the context length.
        """
        self.context_length = config.context_length
        if capacity is None:
            capacity = min(SMALLEST_CAPACITY, self.context_length)
        if not 1 <= capacity <= self.context_length:
            raise InvalidParameter(
                "capacity",
                f"capacity is {capacity}; it must be between 1 and the context of {self.context_length}",
            )
        shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim)
        self._keys: F32 = np.empty(shape, dtype=np.float32)
        self._values: F32 = np.empty(shape, dtype=np.float32)
        self._length = 0

    @property
    def length(self) -> int:
        """How many tokens are cached."""
        return self._length

    @property
    def capacity(self) -> int:
        """How many tokens fit before the cache has to grow."""
        return int(self._keys.shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, used or not."""
        return self._keys.nbytes + self._values.nbytes

    def truncate(self, length: int) -> None:
        """Forget every token from position ``length`` on.  Takes the same time for any length.

        Raises:
            InvalidParameter: ``length`` is negative or more than is cached.
        """
        self._check_length(length)
        self._length = length

    def view(self, layer: int, start: int, stop: int) -> tuple[F32, F32]:
        """Keys and values of the cached tokens ``start <= position < stop``, without copying.

        Returns:
            Two read-only views ``[K, stop - start, d]`` float32; valid until the cache grows.

        Raises:
            InvalidParameter: there is no such layer, or the span is not cached.
        """
        if not 0 <= layer < self._keys.shape[0]:
            raise InvalidParameter("layer", f"layer is {layer}; the model has {self._keys.shape[0]}")
        if not 0 <= start <= stop <= self._length:
            raise InvalidParameter(
                "stop", f"positions {start} to {stop} are not among the {self._length} cached ones"
            )
        keys, values = self._keys[layer, :, start:stop], self._values[layer, :, start:stop]
        keys.flags.writeable = values.flags.writeable = False
        return keys, values

    def copy_prefix(self, length: int) -> KVCache:
        """A new cache that holds the first ``length`` tokens, bit for bit, and shares no memory.

        Raises:
            InvalidParameter: ``length`` is negative or more than is cached.
        """
        self._check_length(length)
        copy = KVCache.__new__(KVCache)
        copy.context_length = self.context_length
        copy._length = length
        copy._keys = _resized(self._keys, length, max(length, min(SMALLEST_CAPACITY, self.context_length)))
        copy._values = _resized(self._values, length, copy._keys.shape[2])
        return copy

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in all, at least doubling, so that growth costs little per token.

        Raises:
            ContextLengthExceeded: ``length`` is more than the context holds.
        """
        if length > self.context_length:
            raise ContextLengthExceeded(length, self.context_length)
        if length > self.capacity:
            capacity = min(self.context_length, max(length, 2 * self.capacity))
            self._keys = _resized(self._keys, self._length, capacity)
            self._values = _resized(self._values, self._length, capacity)

    def write(self, layer: int, start: int, keys: F32, values: F32) -> None:
        """Put ``[T, K, d]`` keys and values at positions from ``start`` on, in reserved room."""
        stop = start + len(keys)
        self._keys[layer, :, start:stop] = keys.swapaxes(0, 1)
        self._values[layer, :, start:stop] = values.swapaxes(0, 1)

    def visible(self, layer: int, start: int, stop: int) -> tuple[F32, F32]:
        """Like :meth:`view`, for the forward pass: written positions count before they are cached."""
        return self._keys[layer, :, start:stop], self._values[layer, :, start:stop]

    def advance(self, count: int) -> None:
        """Declare the ``count`` tokens written after the last one cached."""
        self._length += count

    def _check_length(self, length: int) -> None:
        if not 0 <= length <= self._length:
            raise InvalidParameter("length", f"length is {length}; the cache holds {self._length} tokens")


def _resized(stored: F32, length: int, capacity: int) -> F32:
    resized = np.empty((*stored.shape[:2], capacity, stored.shape[3]), dtype=np.float32)
    resized[:, :, :length] = stored[:, :, :length]
    return resized
