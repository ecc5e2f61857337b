"""Servers for tests: a shared one on the story model, and any number of others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from chat_server_process import ServerProcess, with_model
from shared_files import story_model

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that many tests use at once.  Each makes sessions of its own."""
    model = story_model()
    database = tmp_path_factory.mktemp("server") / "chat.sqlite"
    process = ServerProcess(model, database, *with_model(model))
    yield process
    assert process.stop() == 0, process.log
    assert not any("Traceback" in line or "ERROR" in line for line in process.log), process.log


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with server.client() as client:
        yield client


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """``start_server(*options, model=..., database=...)``: a server that the test may end itself."""
    started: list[ServerProcess] = []

    def start(
        *options: str, model: Path | None = None, database: Path | None = None, **more: object
    ) -> ServerProcess:
        folder = story_model() if model is None else model
        database = tmp_path / "chat.sqlite" if database is None else database
        process = ServerProcess(folder, database, *with_model(folder), *options, **more)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()


_NUMBERS = itertools.count()


@pytest.fixture
def session_id(client: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A new session of the shared server."""
    name = f"{request.node.name.partition('[')[0][:100]}-{next(_NUMBERS)}"
    assert client.post("/createSession", json={"id": name}).status_code == 201
    return name
