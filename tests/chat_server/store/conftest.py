"""What the tests of the store share: a new database of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgreSQL, running_postgresql

from chat_server.store import Store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server that all tests share."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chat.sqlite"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_schema()


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """An empty store."""
    with Store.open(database) as opened:
        yield opened
