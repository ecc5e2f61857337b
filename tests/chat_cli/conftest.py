"""A server that the tests of the client share, and clients of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_clients import ChatServer, Open
from shared_files import story_model
from terminal import Terminal


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    """One for all tests: each has sessions of its own."""
    database = tmp_path_factory.mktemp("server") / "sessions.db"
    with ChatServer(story_model(), database) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ChatServer]:
    """One that a test may stop."""
    with ChatServer(story_model(), tmp_path / "sessions.db") as server:
        yield server


_numbers = itertools.count()


@pytest.fixture
def session_id() -> str:
    """An id that no other test has."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Open]:
    """``open_terminal(server, id, *options)``: a client at its first prompt."""
    opened: list[Terminal] = []

    def open_one(
        server: ChatServer,
        session_id: str,
        *options: str,
        turns: int = 0,
        columns: int = 120,
        rows: int = 24,
        environment: dict[str, str] | None = None,
    ) -> Terminal:
        terminal = Terminal(
            ["-m", "chat_cli", "--id", session_id, "-u", server.url, *options],
            columns=columns,
            rows=rows,
            environment={"XDG_STATE_HOME": str(tmp_path), **(environment or {})},
        )
        opened.append(terminal)
        terminal.expect_prompt(turns)
        return terminal

    yield open_one
    for terminal in opened:
        terminal.__exit__(None, None, None)
