"""The history of runs: one line of JSON for each, with the medians and ratios of all rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click


def append(file: Path, figures: Mapping[str, Any]) -> None:
    """Add a run to the history in ``file``, which is made when it is not there.

    ``figures`` is what :func:`bench.report.document` returns.
    """
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": figures["machine"],
        "settings": figures["settings"],
        "models": {
            model["name"]: {
                row["key"]: {
                    line["label"]: {"median": line["median"], "ratio": line["ratio"]}
                    for line in row["lines"]
                    if line["median"] is not None
                }
                for row in model["rows"]
            }
            for model in figures["models"]
        },
    }
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All runs, the oldest first.

    Raises:
        click.ClickException: a line is not one of :func:`append`.
    """
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "models" not in entry:
            raise click.ClickException(f"line {number} of {file} is not a run of this bench; remove it")
        entries.append(entry)
    return entries
