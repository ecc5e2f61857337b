"""The options of ``python -m bench``, and one run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import history, markdown, plots, report
from bench.machine import describe
from bench.model_run import ROWS, ModelRun
from bench.rows import Row
from bench.settings import Settings
from bench.workers import PROJECT, WorkerError
from lm_cli.program import INTERRUPTED
from lm_core.blas import available_cores

DEFAULT_MODELS = (
    PROJECT / "models" / "story",
    PROJECT / "models" / "chat",
    PROJECT.parent / "shared" / "models" / "stories15M",
    PROJECT.parent / "shared" / "models" / "story-656k",
)
"""Those of them that exist are measured when no model is named."""

PLAIN_WIDTH = 160
"""Columns of the table where there is no terminal to ask."""

EXAMPLES = """\b
Examples:
  python -m bench
  python -m bench -m models/story --only decode --only sampled
  python -m bench --no-peers --json figures.json
  python -m bench --history runs.jsonl --plots pictures
  python -m bench --markdown doc/measurements.md

Ctrl-C ends the measuring, and reports what was measured.
"""


@dataclass(frozen=True)
class Measured:
    """One model's outcome."""

    name: str
    facts: dict[str, Any]
    rows: list[Row]
    interrupted: bool


@click.command(
    "bench", help=f"Measure this engine beside others, on the same weights in one run.\n\n{EXAMPLES}"
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model folder; may be repeated.  [default: models/story and the shared small models]",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(ROWS),
    metavar="ROW",
    help=f"May be repeated: {', '.join(ROWS)}.",
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write every repeat."
)
@click.option(
    "--markdown",
    "markdown_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the tables, as doc/measurements.md has them.",
)
@click.option(
    "--history",
    "history_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add this run, as one line of JSON.",
)
@click.option(
    "--plots",
    "plots_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw this run, and the history, into a folder.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of each engine."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0),
    default=0.3,
    show_default=True,
    help="Least time of one repeat.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of every engine.  [default: one for each core]")
@click.option("--no-peers", is_flag=True, help="Measure this engine alone.")
def main(
    models: Sequence[Path],
    only: Sequence[str],
    json_file: Path | None,
    markdown_file: Path | None,
    history_file: Path | None,
    plots_folder: Path | None,
    repeats: int,
    seconds: float,
    threads: int | None,
    no_peers: bool,
) -> None:
    folders = [model.resolve() for model in models] or [model for model in DEFAULT_MODELS if _is_model(model)]
    if not folders:
        raise click.ClickException("there is no model to measure; name one with -m")
    if plots_folder is not None:
        plots.check_installed()
    settings = Settings(
        repeats, seconds, threads or available_cores(), peers_left_out="--no-peers" if no_peers else ""
    )
    console = _console()
    measured = []
    for folder in folders:
        try:
            measured.append(_measure(folder, settings, only or ROWS))
        except WorkerError as error:
            raise click.ClickException(f"{folder.name}: {error}") from error
        console.print(report.table(measured[-1].name, measured[-1].rows))
        if measured[-1].interrupted:
            break
    figures = _figures(measured, settings)
    machine = figures["machine"]
    console.print(f"{machine['cpu']}, {settings.threads} threads; {machine['blas']}", highlight=False)
    console.print(report.NOTES, highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if markdown_file is not None:
        command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
        markdown_file.write_text(markdown.page(figures, command), encoding="utf-8")
    if history_file is not None:
        history.append(history_file, figures)
    if plots_folder is not None:
        runs = history.read(history_file) if history_file is not None else []
        for file in plots.draw(plots_folder, figures, runs):
            console.print(f"drawn: {file}", highlight=False)
    if measured[-1].interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _measure(folder: Path, settings: Settings, wanted: Sequence[str]) -> Measured:
    run = ModelRun(folder, settings)
    rows: list[Row] = []
    interrupted = False
    # Shown on a terminal only, and gone at the end.
    with Console(stderr=True).status(f"measuring {folder.name}") as status:
        try:
            for row in run.rows(wanted):
                rows.append(row)
                status.update(f"measuring {folder.name}: done with {row.key}")
        except KeyboardInterrupt:
            interrupted = True
    return Measured(folder.name, run.facts, rows, interrupted)


def _figures(measured: Sequence[Measured], settings: Settings) -> dict[str, Any]:
    """The whole run as the JSON file has it."""
    described = [facts["blas"] for one in measured for facts in one.facts.values()]
    return report.document(
        describe(settings.threads) | {"blas": described[0] if described else "unknown"},
        {
            "repeats": settings.repeats,
            "seconds": settings.seconds,
            "threads": settings.threads,
            "peers": not settings.peers_left_out,
        },
        {one.name: (one.facts, one.rows) for one in measured},
    )


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
