"""A profile on paper: parts of a whole, what follows from them, and what measuring itself cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.stopwatch import Stopwatch


@dataclass(frozen=True)
class Pass:
    """One instrumented repeat: a stopwatch's figures, and the time of everything, measured around it."""

    seconds: Mapping[str, float]
    calls: Mapping[str, int]
    whole: float

    @classmethod
    def of(cls, stopwatch: Stopwatch, whole: float) -> Pass:
        """What the stopwatch has seen."""
        return cls(dict(stopwatch.seconds), dict(stopwatch.calls), whole)


@dataclass(frozen=True)
class Bound:
    """A share of the whole that the project wants to keep on one side of a limit."""

    title: str
    share: float
    at_least: float | None = None
    below: float | None = None

    @property
    def met(self) -> bool | None:
        """None where nothing is wanted of it."""
        if self.at_least is not None:
            return self.share >= self.at_least
        return None if self.below is None else self.share < self.below

    def __str__(self) -> str:
        said = f"{self.title}: {100 * self.share:.1f} %"
        if self.at_least is not None:
            wanted = f"≥ {100 * self.at_least:g} %"
        elif self.below is not None:
            wanted = f"< {100 * self.below:g} %"
        else:
            return said
        return f"{said} (target {wanted}: {'met' if self.met else 'missed'})"


@dataclass(frozen=True)
class Profile:
    """Times are seconds of one token, medians of the repeats."""

    title: str
    parts: Mapping[str, float]
    calls: Mapping[str, float]
    whole: float
    """With the instruments in place; the parts are this, "the rest" included."""
    undisturbed: float
    """The same work without them."""
    bounds: Sequence[Bound]

    @property
    def overhead(self) -> float:
        """Which share of the undisturbed time the instruments add."""
        return self.whole / self.undisturbed - 1

    def lines(self) -> Iterator[str]:
        """The table."""
        yield self.title
        for part, seconds in self.parts.items():
            calls = f"{self.calls[part]:7.1f} calls" if self.calls.get(part) else ""
            yield f"  {part:44} {1e6 * seconds:9.1f} µs {100 * seconds / self.whole:6.1f} %  {calls}".rstrip()
        yield f"  {'one token':44} {1e6 * self.whole:9.1f} µs"
        yield (
            f"  {'the same without measuring the parts':44} {1e6 * self.undisturbed:9.1f} µs"
            f" ({100 * self.overhead:+.1f} % by measuring)"
        )
        for bound in self.bounds:
            yield str(bound)

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "title": self.title,
            "unit": "seconds per token",
            "parts": dict(self.parts),
            "calls": dict(self.calls),
            "whole": self.whole,
            "undisturbed": self.undisturbed,
            "overhead": self.overhead,
            "bounds": [
                {
                    "title": bound.title,
                    "share": bound.share,
                    "at_least": bound.at_least,
                    "below": bound.below,
                    "met": bound.met,
                }
                for bound in self.bounds
            ],
        }


def median_parts(passes: Sequence[Pass], parts: Sequence[str], tokens: int) -> dict[str, float]:
    """Of each part the median seconds of one token, and last what none of them accounts for."""
    medians = {
        part: statistics.median(one.seconds.get(part, 0.0) for one in passes) / tokens for part in parts
    }
    whole = statistics.median(one.whole for one in passes) / tokens
    return medians | {"the rest": max(0.0, whole - sum(medians.values()))}
