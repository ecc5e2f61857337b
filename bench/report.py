"""What was measured, as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from bench.rows import Line, Row
from bench.targets import target_of

NOTES = """\
Medians of repeats in which all engines took turns, and their spread; × compares within a row.
Against another engine, × says how many times better the first line is; against the roofline, the
share of it that is reached; between variants of one engine, a line against the first of its row."""


def table(model: str, rows: Sequence[Row]) -> Table:
    """One line per contender, grouped by row."""
    made = Table(title=model, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("who", "left"),
        ("median", "right"),
        ("", "left"),
        ("spread", "right"),
        ("×", "right"),
        ("remark", "left"),
    ):
        # Widths follow the content, so that a file or a pipe gets whole lines.
        made.add_column(name, justify="right" if justify == "right" else "left", no_wrap=name != "remark")
    for row in rows:
        made.add_row(f"[bold]{row.title}[/bold]")
        for line in row.lines:
            made.add_row(*_cells(model, row, line))
    return made


def _cells(model: str, row: Row, line: Line) -> list[str]:
    ratio = row.ratio(line)
    return [
        f"  {line.label}",
        "–" if line.median is None else number(line.median),
        "" if line.median is None else row.unit,
        "" if line.samples is None else f"{number(line.samples.low)} – {number(line.samples.high)}",
        "" if ratio is None else number(ratio),
        _remark(model, row, line),
    ]


def _remark(model: str, row: Row, line: Line) -> str:
    if line.absence:
        return line.absence
    remarks = [] if line.reference is None else [line.reference.origin]
    if line.label == "roofline":
        remarks.append(
            f"reading {number(row.details['bytes_per_token'] / 1e6)} MB from {row.details['roofline_from']}"
        )
    target = target_of(model, row, line)
    if target is not None:
        met = target.is_met(row, line)
        remarks.append(f"target {target}: {'not measured' if met is None else 'met' if met else 'missed'}")
    return "; ".join(remarks)


def number(value: float) -> str:
    """Three significant digits, or whole: more would be noise."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def document(
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    models: Mapping[str, tuple[Mapping[str, Any], Sequence[Row]]],
) -> dict[str, Any]:
    """The whole run: machine, settings, and for each model its facts and rows."""
    return {
        "schema": 1,
        "machine": dict(machine),
        "settings": dict(settings),
        "models": [
            {
                "name": name,
                "facts": dict(facts),
                "rows": [row.as_json() | {"targets": _targets(name, row)} for row in rows],
            }
            for name, (facts, rows) in models.items()
        ],
    }


def _targets(model: str, row: Row) -> list[dict[str, Any]]:
    found = [(line, target_of(model, row, line)) for line in row.lines]
    return [
        {"line": line.label, "target": str(target), "met": target.is_met(row, line)}
        for line, target in found
        if target is not None
    ]
