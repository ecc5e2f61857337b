"""A run as Markdown tables, for ``doc/measurements.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.report import number

MEANING = {
    "first line against each": "",
    "each line against the first": " (×: against the first line)",
    "none": "",
}


def page(figures: Mapping[str, Any], command: str) -> str:
    """The whole page; ``figures`` is what :func:`bench.report.document` returns."""
    machine = figures["machine"]
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items() if found)
    lines = [
        "# Measurements",
        "",
        f"Written by `{command}`; see [performance.md](performance.md) for what follows from it.",
        "",
        f"* {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads for every engine",
        f"* {machine['blas']}; Python {machine['python']}; {packages}",
        f"* medians of {figures['settings']['repeats']} repeats in which the engines took turns; spread: "
        "the lowest and the highest",
        "* ×: how many times better the first line is than this one; beside the roofline, the share of it",
    ]
    for model in figures["models"]:
        lines += ["", f"## {model['name']}", "", "| work | who | median | spread | × | target |"]
        lines += ["|---|---|---:|---:|---:|---|"]
        for row in model["rows"]:
            lines += _rows(row)
    return "\n".join(lines) + "\n"


def _rows(row: Mapping[str, Any]) -> Iterator[str]:
    targets = {target["line"]: target for target in row["targets"]}
    title = row["title"] + MEANING[row["comparison"]]
    for line in row["lines"]:
        if line["median"] is None:
            yield f"| {title} | {line['label']} | {line['absence']} | | | |"
        else:
            samples, ratio, target = line.get("samples"), line["ratio"], targets.get(line["label"])
            spread = f"{number(min(samples))} – {number(max(samples))}" if samples else line.get("origin", "")
            cells = [
                title,
                line["label"],
                f"{number(line['median'])} {row['unit']}",
                spread,
                "" if ratio is None else number(ratio),
                "" if target is None else f"{target['target']} {_verdict(target['met'])}",
            ]
            yield f"| {' | '.join(cells)} |"
        title = ""


def _verdict(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "**missed**"
