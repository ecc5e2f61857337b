"""One command for a chat: starts chat-server, waits for it, opens chat-cli, and leaves nothing running.

    python tools/chat.py                        the chat model, session user0
    python tools/chat.py -m models/other --id a --stats

All options but ``-m`` are chat-cli's.  Options of the server come from the environment, as in
CHAT_SERVER_REPETITION_PENALTY=1.2.  The server takes any free port, and writes its log to a file.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import click

from lm_cli.program import FAILED, run

GRACE_SECONDS = 10
LISTENING = re.compile(r"Listening on (http://\S+)")


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option("-m", "--model-dir", "model", default="models/chat", show_default=True, help="Model folder.")
@click.argument("client_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def chat(context: click.Context, model: str, client_options: tuple[str, ...]) -> None:
    """Start chat-server, open chat-cli with CLIENT_OPTIONS, and end both together."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with _server(model) as url:
        # Ctrl-C is the client's: it stops an answer there.  A handler, unlike SIG_IGN, is not inherited.
        signal.signal(signal.SIGINT, lambda *_: None)
        code = subprocess.run([sys.executable, "-m", "chat_cli", "-u", url, *client_options], check=False)
    context.exit(code.returncode if code.returncode >= 0 else FAILED)


@contextmanager
def _server(model: str) -> Iterator[str]:
    """A server for as long as the block lasts: its URL."""
    command = [sys.executable, "-m", "chat_server", "-m", model, "--port", "0", "--grace", "1"]
    # A session of its own, so that Ctrl-C on the terminal does not reach it.
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        log_lines = server.stderr
        url = _wait(log_lines) if log_lines else None
        if log_lines is None or url is None:
            raise click.ClickException(f"the server did not start; it ended with code {server.wait()}")
        log = Path(tempfile.mkstemp(prefix="chat-server-", suffix=".log")[1])
        threading.Thread(target=_keep, args=(log_lines, log), daemon=True).start()
        click.echo(f"chat-server listens on {url}; its log is {log}", err=True)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(log: IO[str]) -> str | None:
    """Show what the server says until it listens; None if it ends before."""
    for line in log:
        click.echo(line, nl=False, err=True)
        found = LISTENING.search(line)
        if found:
            return found[1]
    return None


def _keep(lines: IO[str], log: Path) -> None:
    with log.open("w", encoding="utf-8", buffering=1) as file:
        file.writelines(lines)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(run(chat, "chat"))
