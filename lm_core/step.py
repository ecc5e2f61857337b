"""The two ways to run the layers: a chunk of one sequence, or single tokens of many.

A step knows where its tokens stand, how a linear layer is applied to them, and what each may
attend to.  :mod:`lm_core.model` is written once against it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lm_core import ops
from lm_core.crew import share
from lm_core.kv_cache import KVCache
from lm_core.linear import Linear
from lm_core.rotary import RotaryTables
from lm_core.workspace import Workspace

F32 = npt.NDArray[np.float32]

ROW_WORK = 1 << 20
"""Multiplications of a row's attention, on average, from which on several cores attend: with less, they
spend as long on taking turns at Python's lock."""


class Step(ABC):
    """Positions, caches and kernels of one pass.  Room in the caches is reserved on construction."""

    rotary_factors: tuple[F32, F32]
    """Of every token's position, see :func:`lm_core.ops.rotary_factors`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @abstractmethod
    def project(self, linear: Linear, x: F32) -> F32:
        """``[T, in] -> [T, out]`` by the kernel of this regime."""

    @abstractmethod
    def attend(self, layer: int, query: F32, keys: F32, values: F32, window: int | None) -> F32:
        """Store ``[T, K, d]`` keys and values, then attend: ``[T, H, d] -> [T, H · d]``."""

    @abstractmethod
    def commit(self) -> None:
        """Make the new tokens part of their caches: the visible end of a pass."""


class PrefillStep(Step):
    """T consecutive tokens of one sequence, through GEMM."""

    def __init__(
        self, cache: KVCache, count: int, sequence_length: int, rotary: RotaryTables, workspace: Workspace
    ) -> None:
        super().__init__(workspace)
        self._cache, self._start, self._stop = cache, cache.length, cache.length + count
        cache.reserve(self._stop)
        self.rotary_factors = ops.rotary_factors(*rotary.rows(self._start, self._stop, sequence_length))

    def project(self, linear: Linear, x: F32) -> F32:
        return linear.prefill(x, self._workspace)

    def attend(self, layer: int, query: F32, keys: F32, values: F32, window: int | None) -> F32:
        self._cache.write(layer, self._start, keys, values)
        all_keys, all_values = self._cache.visible(layer, 0, self._stop)
        return ops.causal_attention(query, all_keys, all_values, window)

    def commit(self) -> None:
        self._cache.advance(self._stop - self._start)


class DecodeStep(Step):
    """One token for each entry of ``caches``, through the per-row kernel.

    A cache may stand there several times: its rows are consecutive tokens of one sequence, and get
    the bits they would get one step at a time.  That is how a lost cache is rebuilt.
    """

    def __init__(self, caches: Sequence[KVCache], rotary: RotaryTables, workspace: Workspace) -> None:
        super().__init__(workspace)
        self._rows: list[tuple[KVCache, int]] = []
        next_position: dict[int, int] = {}
        for cache in caches:
            position = next_position.get(id(cache), cache.length)
            next_position[id(cache)] = position + 1
            self._rows.append((cache, position))
        for cache in caches:
            cache.reserve(next_position[id(cache)])
        tables = [rotary.rows(position, position + 1, position + 1) for _, position in self._rows]
        cos, sin = tables[0] if len(tables) == 1 else map(np.concatenate, zip(*tables, strict=True))
        self.rotary_factors = ops.rotary_factors(cos, sin)

    def project(self, linear: Linear, x: F32) -> F32:
        return linear.decode(x, self._workspace)

    def attend(self, layer: int, query: F32, keys: F32, values: F32, window: int | None) -> F32:
        # All of them first: a row may see what others add to the same cache, and only what is before it.
        for row, (cache, position) in enumerate(self._rows):
            cache.write(layer, position, keys[row : row + 1], values[row : row + 1])
        if len(self._rows) == 1:
            # What several rows need around it would cost one row a percent of its pass.
            return self._attend_row(0, layer, query, window)[None]
        attended = np.empty((len(query), query.shape[1] * query.shape[2]), dtype=np.float32)

        def attend(row: int) -> None:
            attended[row] = self._attend_row(row, layer, query, window)

        work = 2 * query[0].size * sum(position for _, position in self._rows)
        share(attend, len(self._rows), alone=work < ROW_WORK * len(self._rows))
        return attended

    def _attend_row(self, row: int, layer: int, query: F32, window: int | None) -> F32:
        cache, position = self._rows[row]
        first = 0 if window is None else max(0, position + 1 - window)
        return ops.row_attention(query[row], *cache.visible(layer, first, position + 1))

    def commit(self) -> None:
        for cache, _ in self._rows:
            cache.advance(1)
