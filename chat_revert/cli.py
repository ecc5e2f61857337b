"""The options of ``chat-revert``, and one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lm_cli.options import (
    EXIT_CODES,
    chat_template_option,
    debug_option,
    engine_options,
    sampling_options,
    version_option,
)
from lm_cli.program import FAILED
from lm_cli.terminal import printable

if TYPE_CHECKING:
    from chat_revert.proof import Check

HELP = f"""Prove that reverting a session leaves it exactly as it was.

Asks two questions, reverts the second, and compares what is left with a session that was never
asked it: token ids, every cached key and value, the next logits, and the next answer, bit for bit.

\b
Examples:
  chat-revert -m models/chat
  chat-revert -m models/chat --dtype bf16 --seed 7
  chat-revert -m models/chat --turns 12 --random-reverts 5
  chat-revert --json | python -m json.tool

Every option can also be set as an environment variable, as in CHAT_REVERT_SEED=7.
{EXIT_CODES}
"""


@click.command("chat-revert", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-m",
    "--model-dir",
    "model",
    default="models/chat",
    show_default=True,
    help="Model folder, the name of a known model, or a hub id; fetched where it is not there yet.",
)
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Tokens per answer.",
)
@sampling_options(temperature=0.65, top_k=35, top_p=0.55)
@engine_options()
@click.option("--turns", type=click.IntRange(min=1), help="Run a random script of this many turns instead.")
@click.option(
    "--random-reverts",
    type=click.IntRange(min=0),
    help="Reverts in the random script, at most one a turn; needs --turns.  [default: half of the turns]",
)
@chat_template_option()
@click.option("--no-pull", is_flag=True, help="Fail instead of fetching a model that is not there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@debug_option()
@version_option()
@click.pass_context
def chat_revert(
    context: click.Context,
    model: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int | None,
    dtype: str,
    threads: int | None,
    turns: int | None,
    random_reverts: int | None,
    chat_template: str | None,
    no_pull: bool,
    as_json: bool,
    debug: bool,  # noqa: ARG001 - read by lm_cli.program.run
) -> None:
    # Imported here so that --help does not wait for NumPy.
    from chat_revert.random_script import run_script
    from chat_revert.scene import play
    from lm_core.blas import set_threads
    from lm_core.language_model import LanguageModel
    from lm_core.sampler import SamplingParams
    from lm_models.locate import model_folder
    from lm_models.progress import terminal_progress

    if random_reverts is not None and turns is None:
        raise click.UsageError("--random-reverts needs --turns")
    if random_reverts is not None and turns is not None and random_reverts > turns:
        raise click.UsageError(f"--random-reverts is {random_reverts}, but there are only {turns} turns")
    # Without a seed two answers could not be compared, so there is always one.
    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, 0 if seed is None else seed)
    set_threads(threads)
    folder = model_folder(model, pull=not no_pull, progress=terminal_progress())
    language_model = LanguageModel.from_pretrained(folder, dtype, chat_template)
    report = _silent if as_json else _progress
    if turns is None:
        scene = play(language_model, params, max_tokens, report)
        blocks = {
            "PROMPT": scene.prompt,
            "ANSWER": scene.answer,
            "correct PROMPT after [revertion]": scene.correct_prompt,
            "true PROMPT after [revertion]": scene.true_prompt,
        }
        checks, subject = scene.checks, "the reverted session is the session that never had the second turn"
    else:
        reverts = turns // 2 if random_reverts is None else random_reverts
        script = run_script(language_model, params, max_tokens, turns, reverts, report)
        blocks = {"SCRIPT": "\n".join(script.steps)}
        checks = script.checks
        subject = f"the session is the one that only ever took its {script.surviving_turns} surviving turns"
    equal = all(check.equal for check in checks)
    if as_json:
        proof = [{"name": check.name, "equal": check.equal, "detail": check.detail} for check in checks]
        click.echo(json.dumps({"equal": equal, "seed": params.seed, "blocks": blocks, "proof": proof}))
    else:
        _print_blocks(blocks)
        _print_proof(checks, subject, equal)
    if not equal:
        context.exit(FAILED)


def _silent(_: str) -> None:
    """Machines read the result alone."""


def _progress(text: str) -> None:
    click.echo(f"... {text}", err=True)


def _print_blocks(blocks: dict[str, str]) -> None:
    for title, text in blocks.items():
        click.echo(f"{title}:\n{printable(text)}\n")


def _print_proof(checks: Sequence[Check], subject: str, equal: bool) -> None:
    width = max(len(check.name) for check in checks)
    click.echo("Proof:")
    for check in checks:
        verdict = "equal    " if check.equal else "DIFFERENT"
        click.echo(f"  {check.name:<{width}}  {verdict}  {check.detail}")
    click.echo(f"Proved: {subject}." if equal else f"Failed: it is not so that {subject}.")
