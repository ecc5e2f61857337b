"""The options of ``chat-cli``, and one call."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from lm_cli.options import EXIT_CODES, debug_option, max_tokens_option, sampling_options, version_option
from lm_cli.program import FAILED
from lm_cli.stdin import read_text

if TYPE_CHECKING:
    from chat_cli.client import ChatClient
    from chat_cli.display import Display
    from chat_cli.line_reader import LineReader
    from chat_cli.records import Sampling

HINT_SECONDS = 0.5
"""How long the Tab key waits for a server that does not answer."""

HELP = f"""Talk to a chat-server.  With QUESTION, ask that, print the answer and leave ("-" reads it
from stdin).  Without, read questions and commands from the terminal, or line by line from a pipe.

\b
Examples:
  chat-cli --id user0                            talk; :help shows the commands
  chat-cli --id user0 "Are apples red?"          one question, the answer alone
  echo "Are apples red?" | chat-cli --id user0   the transcript of a pipe
  chat-cli --id user0 --json "Hi" | python -m json.tool
  chat-cli -u http://127.0.0.1:9000 -t 0 --seed 7

A session stays on the server: the same id continues it.  Sampling options override the server's
own.  Every option can also be set as an environment variable, as in CHAT_CLI_ID=user0.
{EXIT_CODES}
"""


@click.command("chat-cli", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("question", required=False)
@click.option(
    "-i", "--id", "session_id", envvar="CHAT_CLI_ID", default="user0", show_default=True, help="Which one."
)
@click.option(
    "-u", "--url", default="http://127.0.0.1:8000", show_default=True, help="Where chat-server listens."
)
@click.option("--api-key", help="The key that the server asks for.")
@click.option("--system", help="System message, if the session is new.")
@max_tokens_option(None, "New tokens at most.  [default: the server's]")
@sampling_options(temperature=None, top_k=None, top_p=None, min_p=None, repetition_penalty=None)
@click.option("--stats", is_flag=True, help="Show tokens per second after each answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead.")
@click.option("--plain", is_flag=True, help="Show answers as they are, without rendering Markdown.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds of silence after which the server is given up.",
)
@debug_option()
@version_option()
@click.pass_context
def chat_cli(
    context: click.Context,
    /,
    question: str | None,
    session_id: str,
    url: str,
    api_key: str | None,
    system: str | None,
    stats: bool,
    as_json: bool,
    plain: bool,
    timeout: float,
    debug: bool,  # noqa: ARG001 - read by lm_cli.program.run
    **sampling: Any,
) -> None:
    if not session_id:
        raise click.BadParameter("an id has at least one character", param_hint="'--id'")
    # Imported here so that --help does not wait for them.
    from chat_cli.chat import Chat
    from chat_cli.client import ChatClient
    from chat_cli.conversation import Conversation
    from chat_cli.keyboard import unseen_keys
    from chat_cli.loop import converse

    with ChatClient(url, api_key, silence=timeout) as client:
        conversation = Conversation(client, session_id, system, _sampling(sampling))
        display = _display(as_json, plain, bare=question is not None)
        if question is not None:
            text = read_text("question") if question == "-" else question
            if not text.strip():
                raise click.UsageError("the question is empty")
            Chat(conversation, display, stats=stats).ask(text)
            return
        reader = _reader(
            partial(ChatClient, url, api_key, silence=HINT_SECONDS, patience=0), display, as_json
        )
        with unseen_keys(sys.stdin.fileno()) if reader.echoes else nullcontext():
            good = converse(Chat(conversation, display, reader.edit, stats), reader)
        if not good and not reader.echoes:
            context.exit(FAILED)


def _sampling(options: dict[str, Any]) -> Sampling:
    from chat_cli.records import Sampling

    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise click.UsageError(f"{name} is {value}; it must be a finite number")
    return Sampling(**options)


def _display(as_json: bool, plain: bool, bare: bool) -> Display:
    from chat_cli.display import LABEL, BareDisplay, JsonDisplay, PlainDisplay

    if as_json:
        return JsonDisplay(sys.stdout)
    if plain or not sys.stdout.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return (BareDisplay if bare else PlainDisplay)(sys.stdout, sys.stderr)
    from rich.console import Console

    from chat_cli.terminal_display import TerminalDisplay

    return TerminalDisplay(Console(highlight=False), label="" if bare else LABEL)


def _reader(connect: Callable[[], ChatClient], display: Display, as_json: bool) -> LineReader:
    """A line editor where a person sits at a terminal, lines as they come elsewhere.

    What the server knows and the user could mean is asked through a connection of its own.
    """
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        from chat_cli.line_reader import PipedReader

        return PipedReader(sys.stdin.buffer)
    from platformdirs import user_state_path

    from chat_cli.commands import BY_NAME, candidates
    from chat_cli.prompt_reader import PromptReader

    history_file = user_state_path("rewindlm") / "chat-cli-history"
    return PromptReader(history_file, list(BY_NAME), partial(candidates, connect), display.system)
