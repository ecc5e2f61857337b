"""One command for a chat: starts chat-server, waits for it, opens chat-cli, and leaves nothing running.

    python tools/chat.py                        the chat model, session user0
    python tools/chat.py -m models/other --id a --stats

All options but ``-m`` are chat-cli's.  A known model that is not there is fetched first.  Options of the
server come from the environment, as in CHAT_SERVER_REPETITION_PENALTY=1.2.  The server takes any free port,
and writes its log to a file.
"""

from __future__ import annotations

import ctypes
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
from lm_models.locate import model_folder
from lm_models.progress import terminal_progress

GRACE_SECONDS = 10
LISTENING = re.compile(r"Listening on (http://\S+)")
PARENT_DEATH_SIGNAL = 1
"""What Linux calls PR_SET_PDEATHSIG."""


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option("-m", "--model-dir", "model", default="models/chat", show_default=True, help="Model folder.")
@click.argument("client_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def chat(context: click.Context, model: str, client_options: tuple[str, ...]) -> None:
    """Start chat-server, open chat-cli with CLIENT_OPTIONS, and end both together."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    # Fetched here and not by the server, whose progress would go to the log instead of a bar.
    folder = model_folder(model, progress=terminal_progress())
    with _server(folder) as url:
        # Ctrl-C is the client's: it stops an answer there.  A handler, unlike SIG_IGN, is not inherited.
        signal.signal(signal.SIGINT, lambda *_: None)
        client = subprocess.Popen([sys.executable, "-m", "chat_cli", "-u", url, *client_options])
        try:
            code = client.wait()
        finally:
            # Where this program was told to end: politely, so that the client leaves the terminal as it was.
            _end(client)
    context.exit(code if code >= 0 else FAILED)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A server for as long as the block lasts: its URL."""
    command = [sys.executable, "-m", "chat_server", "-m", str(folder), "--port", "0", "--grace", "1"]
    log = Path(tempfile.mkstemp(prefix="chat-server-", suffix=".log")[1])
    # A session of its own, so that Ctrl-C on the terminal does not reach it.
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_end_with_parent
    )
    try:
        listening = _Log(server.stderr, log).wait() if server.stderr else None
        if listening is None:
            click.echo(log.read_text(encoding="utf-8"), nl=False, err=True)
            log.unlink()
            raise click.ClickException(f"the server did not start; it ended with code {server.wait()}")
        click.echo(f"chat-server listens on {listening}; its log is {log}", err=True)
        yield listening
    finally:
        _end(server)


class _Log:
    """Keeps what the server says in a file, and listens for its address."""

    def __init__(self, lines: IO[str], file: Path) -> None:
        self._lines, self._file = lines, file
        self._url: str | None = None
        self._told = threading.Event()
        threading.Thread(target=self._keep, daemon=True).start()

    def wait(self) -> str | None:
        """Where the server listens; None if it has ended before."""
        self._told.wait()
        return self._url

    def _keep(self) -> None:
        with self._file.open("w", encoding="utf-8", buffering=1) as file:
            for line in self._lines:
                file.write(line)
                if self._url is None and (found := LISTENING.search(line)):
                    self._url = found[1]
                    self._told.set()
        self._told.set()


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    """In the server's process: end also if this program is killed without a chance to say so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(run(chat, "chat"))
