"""Where the time of one decode step goes, or of telling a story: ``python -m bench.profile --help``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bench.workers import PROJECT
from lm_core import blas

EXAMPLES = """\b
Examples:
  python -m bench.profile -m models/chat
  python -m bench.profile -m models/chat --dtype bf16 --context 1000
  python -m bench.profile -m models/story --story
  python -m bench.profile --json
"""


@click.command(
    "bench.profile",
    help="Say which share of a decode step is spent in products of weights, attention and the rest; "
    f"with --story, which share of telling a story is spent outside the model.\n\n{EXAMPLES}",
)
@click.option(
    "-m",
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=PROJECT / "models" / "chat",
    help="Model folder.  [default: models/chat]",
)
@click.option("--story", is_flag=True, help="Profile story-teller's loop instead of a decode step.")
@click.option("--dtype", type=click.Choice(("auto", "f32", "bf16")), default="auto", show_default=True)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Tokens cached before, for a decode step.",
)
@click.option("--tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Of one repeat.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Medians of these.")
@click.option("--threads", type=click.IntRange(min=1), help="For BLAS.  [default: one for each core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def main(
    model: Path,
    story: bool,
    dtype: str,
    context: int,
    tokens: int,
    repeats: int,
    threads: int | None,
    as_json: bool,
) -> None:
    blas.prepare()
    # Only now, since importing NumPy is when the kernels are chosen.
    from bench import decode_profile, story_profile

    blas.set_threads(threads)
    if story:
        profile = story_profile.measure(model, dtype, tokens, repeats)
    else:
        profile = decode_profile.measure(model, dtype, context, tokens, repeats)
    if as_json:
        click.echo(json.dumps(profile.as_json() | {"blas": str(blas.describe())}, indent=1))
        return
    for line in profile.lines():
        click.echo(line)
    click.echo(str(blas.describe()))


if __name__ == "__main__":
    main(sys.argv[1:])
