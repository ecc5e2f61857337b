"""The schema through its versions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from stand_in_turns import in_full, plain_snapshot, session_of

from chat_server.store import NewTurn, Store, StoreVersionError
from chat_server.store.migrations import MIGRATIONS, migrate, stored_version
from chat_server.store.tables import METADATA, AnyText

HERE = Path(__file__).parent
NEXT = """
ALTER TABLE chat_session ADD COLUMN title {any_text};
CREATE INDEX chat_session_title ON chat_session (title)
"""
"""A migration that there might be some day."""


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    """A way to the same database past the store."""
    engine = sa.create_engine(database)
    yield engine
    engine.dispose()


def test_store_of_version_1_is_read(tmp_path: Path) -> None:
    """``version_1.sql`` is the dump of a store that the first version wrote, ``version_1.json`` what it read.

    Neither ever changes, whatever becomes of the schema.
    """
    with closing(sqlite3.connect(tmp_path / "chat.sqlite")) as connection:
        connection.executescript((HERE / "version_1.sql").read_text())
    expected = json.loads((HERE / "version_1.json").read_text())
    with Store.open(str(tmp_path / "chat.sqlite")) as store:
        assert [stored.id for stored in store.sessions("5f2b")] == ["fork", "user0"]
        for session_id, snapshot in expected.items():
            stored, seen = store.snapshot("5f2b", session_id)
            assert in_full(json.loads(json.dumps(seen))) == snapshot
            assert stored.system == "Be kind." and stored.sampling == {"top_k": 7}
            assert stored.created_at.isoformat() == "2026-03-29T12:00:00.123457+00:00"
        found = store.find_request("5f2b", "user0", "r2")
        assert found is not None and found.reverted and found.turn.request_hash == "hash of r2"
        # It is not only read but goes on.
        after = plain_snapshot(expected["fork"], [1, 2, 3])
        new = NewTurn.last_of(session_of(after), "text")
        stored = store.append_turn("5f2b", "fork", store.get("5f2b", "fork").version, new)[0]
        seen = store.snapshot("5f2b", "fork")[1]
        assert in_full(json.loads(json.dumps(seen))) == in_full(json.loads(json.dumps(after)))
        assert (stored.parent, stored.parent_turn, stored.turns) == ("user0", 2, 3)


def test_tables_are_those_that_the_queries_know(database: str, engine: sa.Engine) -> None:
    Store.open(database).close()
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == set(METADATA.tables)
    for name, table in METADATA.tables.items():
        made = {column["name"]: column for column in inspector.get_columns(name)}
        assert list(made) == [column.name for column in table.columns]
        for column in table.columns:
            if not column.primary_key:
                assert made[column.name]["nullable"] == column.nullable, column
                assert made[column.name]["type"].python_type is kind_of(column, engine), column
        unique = [constraint["column_names"] for constraint in inspector.get_unique_constraints(name)]
        wanted = [item for item in table.constraints if isinstance(item, sa.UniqueConstraint)]
        assert unique == [[column.name for column in constraint.columns] for constraint in wanted]
        references = {
            (*key["constrained_columns"], key["referred_table"]) for key in inspector.get_foreign_keys(name)
        }
        assert references == {(key.parent.name, key.column.table.name) for key in table.foreign_keys}
        primary = inspector.get_pk_constraint(name)["constrained_columns"]
        assert primary == [column.name for column in table.primary_key]


def kind_of(column: sa.Column[Any], engine: sa.Engine) -> type:
    """The kind of values that the database has to hold for a column."""
    if isinstance(column.type, AnyText):
        return bytes if engine.dialect.name == "postgresql" else str
    return column.type.python_type


def test_migrations_are_applied_once_and_in_order(
    database: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(database) as store:
        stored = store.create("", "user0", model="chat")
    with monkeypatch.context() as newer:
        newer.setattr("chat_server.store.database.migrate", partial(migrate, migrations=(*MIGRATIONS, NEXT)))
        for _ in range(2):
            with Store.open(database) as store:
                assert store.get("", "user0") == stored
    with engine.begin() as connection:
        assert stored_version(connection) == 2
        connection.exec_driver_sql("UPDATE chat_session SET title = NULL")
    with pytest.raises(StoreVersionError, match="has version 2 and was made by a newer program"):
        Store.open(database)


def test_new_store_has_the_newest_version(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert stored_version(connection) == 0
        migrate(connection, (*MIGRATIONS, NEXT))
        assert stored_version(connection) == 2


def test_migration_that_fails_leaves_the_store_as_it_was(
    database: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(database) as store:
        stored = store.create("", "user0", model="chat")
    wrong = NEXT + "; ALTER TABLE nothing ADD COLUMN title TEXT"
    with monkeypatch.context() as newer:
        newer.setattr("chat_server.store.database.migrate", partial(migrate, migrations=(*MIGRATIONS, wrong)))
        with pytest.raises(sa.exc.DBAPIError):
            Store.open(database)
    with Store.open(database) as store:
        assert store.get("", "user0") == stored
    assert "title" not in [column["name"] for column in sa.inspect(engine).get_columns("chat_session")]
