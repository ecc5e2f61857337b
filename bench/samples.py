"""Repeated measurements of one thing, and how two of them compare."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """One value per repeat, in the order they were measured and the unit of their row."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """What is compared: one disturbed repeat does not move it."""
        return statistics.median(self.values)

    def best(self, higher_is_better: bool) -> float:
        """The least disturbed repeat: noise only ever makes a figure worse."""
        return max(self.values) if higher_is_better else min(self.values)

    @property
    def low(self) -> float:
        """The smallest value: with ``high``, the spread."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)


def advantage(ours: float, theirs: float, higher_is_better: bool) -> float:
    """How many times better ``ours`` is: above 1 is better, whichever way the unit counts."""
    return ours / theirs if higher_is_better else theirs / ours


def take_turns(measures: Sequence[Callable[[], float]], repeats: int) -> list[Samples]:
    """Measure A B C, A B C, ...: ``repeats`` values of each, equally exposed to what else runs."""
    values: list[list[float]] = [[] for _ in measures]
    for _ in range(repeats):
        for measure, kept in zip(measures, values, strict=True):
            kept.append(measure())
    return [Samples(tuple(kept)) for kept in values]
