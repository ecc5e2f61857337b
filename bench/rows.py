"""A row: one kind of work, and a line for each engine or variant that did it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.samples import Samples, advantage, take_turns
from bench.workers import WorkerError

Comparison = Literal["first line against each", "each line against the first", "none"]


@dataclass(frozen=True)
class Contender:
    """Someone who can do a row's work.  ``measure`` returns a figure in the row's unit, or is absent."""

    label: str
    measure: Callable[[], float] | None
    absence: str = ""
    """Why there is no ``measure``."""
    warm_up: Callable[[], float] | None = None
    """What its untimed first turn is where a whole one would take too long."""


@dataclass(frozen=True)
class Reference:
    """A figure that was measured elsewhere and is shown for orientation."""

    label: str
    value: float
    origin: str


@dataclass(frozen=True)
class Line:
    """What one contender reached: samples, a reference's value, or the reason why neither is there."""

    label: str
    samples: Samples | None = None
    reference: Reference | None = None
    absence: str = ""

    @property
    def median(self) -> float | None:
        """The figure that is compared."""
        if self.samples is not None:
            return self.samples.median
        return None if self.reference is None else self.reference.value


@dataclass(frozen=True)
class Row:
    """Lines in the order of their contenders, the references last."""

    key: str
    """Unique within a model: "decode f32"."""
    title: str
    unit: str
    higher_is_better: bool
    lines: tuple[Line, ...]
    comparison: Comparison = "first line against each"
    details: dict[str, Any] = field(default_factory=dict)

    def ratio(self, line: Line) -> float | None:
        """How many times better the first line is than ``line``, or ``line`` than the first.

        None for the first line itself, and where one of the two was not measured.
        """
        first = self.lines[0]
        if self.comparison == "none" or line is first or first.median is None or line.median is None:
            return None
        if self.comparison == "first line against each":
            return advantage(first.median, line.median, self.higher_is_better)
        return advantage(line.median, first.median, self.higher_is_better)

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured, with the raw repeats."""
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "comparison": self.comparison,
            "details": self.details,
            "lines": [self._line_as_json(line) for line in self.lines],
        }

    def _line_as_json(self, line: Line) -> dict[str, Any]:
        entry: dict[str, Any] = {"label": line.label, "median": line.median, "ratio": self.ratio(line)}
        if line.samples is not None:
            entry["best"] = line.samples.best(self.higher_is_better)
            entry["samples"] = list(line.samples.values)
        if line.reference is not None:
            entry["origin"] = line.reference.origin
        if line.absence:
            entry["absence"] = line.absence
        return entry


def measure_lines(
    contenders: Sequence[Contender], repeats: int, references: Sequence[Reference] = ()
) -> tuple[Line, ...]:
    """Let the contenders take turns, after one untimed turn each that warms them up.

    A contender whose first turn fails is reported as absent, and disturbs nobody.
    """
    absence = {contender.label: contender.absence or _trial(contender) for contender in contenders}
    present = [
        (contender.label, contender.measure)
        for contender in contenders
        if contender.measure is not None and not absence[contender.label]
    ]
    taken = take_turns([measure for _, measure in present], repeats)
    samples = {label: values for (label, _), values in zip(present, taken, strict=True)}
    lines = [Line(label, samples.get(label), absence=absence[label]) for label in absence]
    return (*lines, *(Line(reference.label, reference=reference) for reference in references))


def _trial(contender: Contender) -> str:
    """Why the contender cannot do the work; empty if it can."""
    try:
        if contender.measure is not None:
            (contender.warm_up or contender.measure)()
    except WorkerError as error:
        return f"failed: {error}"
    return ""
