"""The options of ``story-teller``, and one call."""

from __future__ import annotations

import json
import sys

import click

from lm_cli.options import (
    EXIT_CODES,
    debug_option,
    engine_options,
    max_tokens_option,
    sampling_options,
    speculate_option,
    version_option,
)
from lm_cli.stdin import read_text
from lm_cli.terminal import printable

HELP = f"""Write a story that begins with PROMPT ("-" reads it from stdin) and stream it to stdout.

\b
Examples:
  story-teller
  story-teller "The dragon was sad because"
  story-teller -t 0                     the same story every time
  story-teller --seed 7 -n 100          a short one, repeatable
  echo "Tom and Lily" | story-teller -
  story-teller --json | python -m json.tool

Every option can also be set as an environment variable, as in STORY_TELLER_TOP_K=8.
{EXIT_CODES}
"""


@click.command("story-teller", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", default="Once upon a time")
@click.option(
    "-m",
    "--model-dir",
    "model",
    help="Model folder, the name of a known model, or a hub id.  [default: the story model that came along]",
)
@max_tokens_option(500, "New tokens at most.")
@sampling_options(temperature=1.0, top_k=4, top_p=0.9)
@engine_options()
@speculate_option()
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead, when the story is done."
)
@debug_option()
@version_option()
def story_teller(
    prompt: str,
    model: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int | None,
    dtype: str,
    threads: int | None,
    speculate: bool,
    as_json: bool,
    debug: bool,  # noqa: ARG001 - read by lm_cli.program.run
) -> None:
    # Imported here so that --help does not wait for NumPy.
    from lm_core.blas import set_threads
    from lm_core.sampler import SamplingParams
    from story_teller.model_folder import story_model_folder
    from story_teller.story import StoryTeller

    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    if prompt == "-":
        prompt = read_text("prompt")
    set_threads(threads)
    teller = StoryTeller(story_model_folder(model), dtype)
    if as_json:
        story = teller.tell(prompt, params, max_tokens, write=lambda _: None, speculate=speculate)
        report = {
            "prompt": story.prompt,
            "text": story.text,
            "tokens": story.tokens,
            "finish_reason": story.finish_reason,
            "timings": {
                "prompt_tokens": story.prompt_tokens,
                "prompt_ms": story.prompt_seconds * 1e3,
                "prompt_per_second": story.prompt_per_second,
                "predicted_tokens": len(story.tokens),
                "predicted_ms": story.generation_seconds * 1e3,
                "predicted_per_second": story.generated_per_second,
                "drafted_tokens": story.drafted_tokens,
                "accepted_tokens": story.accepted_tokens,
            },
        }
        click.echo(json.dumps(report, ensure_ascii=False))
        return
    teller.check(prompt)
    _write(prompt)
    try:
        story = teller.tell(prompt, params, max_tokens, _write, speculate)
    finally:
        # Also after Ctrl-C: the shell's prompt belongs on a line of its own.
        _write("\n")
    click.echo("--- Performance ---", err=True)
    click.echo(f"AVG Prompt Processing: {story.prompt_per_second:.2f} tokens/s", err=True)
    click.echo(f"AVG Generation: {story.generated_per_second:.2f} tokens/s", err=True)


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()
