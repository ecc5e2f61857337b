"""Clients of a server, as the tests use them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from chat_server_process import ServerProcess, with_model
from programs import Result, run_program
from terminal import Terminal

from chat_cli.client import ChatClient

# Answers that end soon, of which the same one is given again.
SHORT = ["-n", "12", "-t", "0", "--seed", "1"]
# Answers that go on to the end of the context: every token is as likely as any other.
ENDLESS = ["-n", "480", "-t", "100", "-k", "0", "-p", "1"]


class ChatServer:
    """A server that a test may hold, kill and start again.  Leaving the block kills it."""

    def __init__(self, model: Path, database: Path, *options: str) -> None:
        self._start = lambda *more: ServerProcess(model, database, *with_model(model), *options, *more)
        self._process = self._start()
        self.url = self._process.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def client(self) -> ChatClient:
        """A connection of the test's own, to look at what the server has."""
        return ChatClient(self.url)

    def events(self) -> list[str]:
        """The sentences of the log."""
        return self._process.events()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped where it is, so that nothing can be finished while the test does something."""
        self._process.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power failure would."""
        if self._process.process.poll() is None:
            self._process.kill()

    def restart(self) -> None:
        """Start it again at the same address, with the same database."""
        self._process = self._start("--port", self.url.rpartition(":")[2])


Open = Callable[..., Terminal]


def run_client(server: ChatServer, arguments: Sequence[str], stdin: str | bytes = "") -> Result:
    """Run ``chat-cli`` in a pipe to its end."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return run_program("chat_cli", ["-u", server.url, *arguments], data)
