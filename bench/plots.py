"""Pictures of a run and of its history, by matplotlib (the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

PEERS = ("transformers", "llama.cpp")


def check_installed() -> None:
    """Refuse before anything is measured, not after.

    Raises:
        click.ClickException: matplotlib is not there.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise click.ClickException(
            "plots need matplotlib; install it with: pip install 'rewindlm[plots]'"
        ) from error


def draw(folder: Path, figures: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write one picture for each model, and one of its history where that has several runs.

    Returns:
        The files, all PNG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for model in figures["models"]:
        bars = [
            (f"{row['key']} × {line['label']}", line["ratio"])
            for row in model["rows"]
            for line in row["lines"]
            if line["label"] in PEERS and line["ratio"]
        ]
        if bars:
            files.append(_bars(folder / f"{model['name']}-peers.png", model["name"], bars))
        runs = [run["models"][model["name"]] for run in history if model["name"] in run["models"]]
        if len(runs) > 1:
            files.append(_lines(folder / f"{model['name']}-history.png", model["name"], runs))
    return files


def _bars(file: Path, model: str, bars: Sequence[tuple[str, float]]) -> Path:
    figure, axes = _figure(0.4 * len(bars) + 1.5)
    labels, ratios = zip(*reversed(bars), strict=True)
    drawn = axes.barh(labels, ratios, color=["#2a7f62" if ratio >= 1 else "#b5533c" for ratio in ratios])
    axes.bar_label(drawn, fmt=" %.2f ×")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_title(f"{model}: how many times better than its peers")
    return _save(figure, file)


def _lines(file: Path, model: str, runs: Sequence[Mapping[str, Any]]) -> Path:
    figure, axes = _figure(5.0)
    keys = {key: None for run in runs for key in run}
    for key in keys:
        # Ratios within a run, since absolute figures are those of a day and a machine.
        points = [
            (number, run[key]["transformers"]["ratio"])
            for number, run in enumerate(runs, start=1)
            if run.get(key, {}).get("transformers", {}).get("ratio")
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=key)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("run")
    axes.set_ylabel("× transformers")
    axes.set_title(f"{model}: ratios over the runs of the history")
    axes.legend(fontsize="small")
    return _save(figure, file)


def _figure(height: float) -> tuple[Any, Any]:
    # Not pyplot, which would look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, file: Path) -> Path:
    figure.savefig(file, dpi=120)
    return file
