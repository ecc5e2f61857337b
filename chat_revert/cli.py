"""The options of ``chat-revert``, and one call."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.core import ParameterSource

from lm_cli.options import (
    EXIT_CODES,
    chat_template_option,
    debug_option,
    engine_options,
    max_tokens_option,
    sampling_options,
    speculate_option,
    version_option,
)
from lm_cli.program import FAILED

HELP = f"""Prove that reverting a session leaves it exactly as it was.

Asks two questions, reverts the second, and compares what is left with a session that was never
asked it: token ids, every cached key and value, the next logits, and the next answer, bit for bit.

\b
Examples:
  chat-revert -m models/chat
  chat-revert -m models/chat --dtype bf16 --seed 7
  chat-revert -m models/chat --turns 12 --random-reverts 5
  chat-revert --server http://127.0.0.1:8000
  chat-revert --json | python -m json.tool

Of a server, turns and seeded answers are compared; keys, values and logits do not leave it.
Every option can also be set as an environment variable, as in CHAT_REVERT_SEED=7.
{EXIT_CODES}
"""

OF_THE_SCRIPT = ("random_reverts",)
OF_THE_SERVER = ("api_key",)
OF_THE_MODEL = (
    "model",
    "dtype",
    "threads",
    "speculate",
    "turns",
    "random_reverts",
    "chat_template",
    "no_pull",
)


@click.command("chat-revert", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-m",
    "--model-dir",
    "model",
    default="models/chat",
    show_default=True,
    help="Model folder, the name of a known model, or a hub id; fetched where it is not there yet.",
)
@max_tokens_option(128, "Tokens per answer.")
@sampling_options(temperature=0.65, top_k=35, top_p=0.55)
@engine_options()
@speculate_option()
@click.option("--turns", type=click.IntRange(min=1), help="Run a random script of this many turns instead.")
@click.option(
    "--random-reverts",
    type=click.IntRange(min=0),
    help="Reverts in the random script, at most one a turn; needs --turns.  [default: half of the turns]",
)
@chat_template_option()
@click.option("--no-pull", is_flag=True, help="Fail instead of fetching a model that is not there.")
@click.option("--server", metavar="URL", help="Prove it of the chat-server there, over HTTP.")
@click.option("--api-key", help="The key that the server asks for; needs --server.")
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
    speculate: bool,
    turns: int | None,
    random_reverts: int | None,
    chat_template: str | None,
    no_pull: bool,
    server: str | None,
    api_key: str | None,
    as_json: bool,
    debug: bool,  # noqa: ARG001 - read by lm_cli.program.run
) -> None:
    # Imported here, as what follows is, so that --help does not wait for it.
    from chat_revert import report

    tell = _silent if as_json else _progress
    # Without a seed two answers could not be compared, so there is always one.
    seed = 0 if seed is None else seed
    if server is not None:
        _refuse(context, OF_THE_MODEL, "cannot be used with --server")
        from chat_cli.client import ChatClient
        from chat_cli.records import Sampling
        from chat_revert.remote_scene import play_on_server

        sampling = Sampling(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed)
        with ChatClient(server, api_key) as client:
            proof = play_on_server(client, sampling, tell)
    else:
        _refuse(context, OF_THE_SERVER, "needs --server")
        if turns is None:
            _refuse(context, OF_THE_SCRIPT, "needs --turns")
        elif random_reverts is not None and random_reverts > turns:
            raise click.UsageError(f"--random-reverts is {random_reverts}, but there are only {turns} turns")
        from chat_revert.random_script import run_script
        from chat_revert.scene import play
        from lm_core.blas import set_threads
        from lm_core.language_model import LanguageModel
        from lm_core.sampler import SamplingParams
        from lm_models.locate import model_folder
        from lm_models.progress import terminal_progress

        params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        set_threads(threads)
        folder = model_folder(model, pull=not no_pull, progress=terminal_progress())
        language_model = LanguageModel.from_pretrained(folder, dtype, chat_template)
        if turns is None:
            proof = play(language_model, params, max_tokens, tell, speculate)
        else:
            reverts = turns // 2 if random_reverts is None else random_reverts
            proof = run_script(language_model, params, max_tokens, turns, reverts, tell, speculate)
    click.echo(report.as_json(proof, seed) if as_json else report.as_text(proof))
    if not proof.holds:
        context.exit(FAILED)


def _refuse(context: click.Context, names: Iterable[str], why: str) -> None:
    """No option is accepted and ignored: of these, none may have been given."""
    for name in names:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{'model-dir' if name == 'model' else name.replace('_', '-')} {why}")


def _silent(_: str) -> None:
    """Machines read the result alone."""


def _progress(text: str) -> None:
    click.echo(f"... {text}", err=True)
