"""What only a PostgreSQL server can do to a store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from postgresql_server import PostgreSQL
from store_refusals import refusal

from chat_server.store import Store, StoreBusy, StoreReadOnly, StoreUnavailable, StoreVersionError


def test_password_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("chat_server.store.database.BUSY_SECONDS", 1.0)
    message = refusal(f"postgresql://me:secret@/chat?host={tmp_path}", StoreUnavailable)
    assert message.endswith("cannot be reached: No such file or directory") and "me:***@" in message
    assert "secret" not in message


def test_server_has_no_such_database(postgresql: PostgreSQL) -> None:
    message = refusal(postgresql.url("nothing"), StoreUnavailable)
    assert message.endswith('cannot be reached: FATAL: database "nothing" does not exist')


def test_server_does_not_know_the_user(postgresql: PostgreSQL) -> None:
    message = refusal(postgresql.url("postgres", user="mallory"), StoreUnavailable)
    assert message.endswith('cannot be reached: FATAL: role "mallory" does not exist')


def test_user_may_not_write(postgresql: PostgreSQL) -> None:
    postgresql.execute("CREATE ROLE reader LOGIN")
    message = refusal(postgresql.url("postgres", user="reader"), StoreUnavailable)
    assert "refuses the user" in message


def test_server_is_a_stand_by(postgresql: PostgreSQL) -> None:
    address = postgresql.new_schema().replace("options=", "options=-cdefault_transaction_read_only%3Don%20")
    assert "cannot be written" in refusal(address, StoreReadOnly)


def test_database_cannot_hold_all_texts(postgresql: PostgreSQL) -> None:
    address = postgresql.new_database("ENCODING 'LATIN1' TEMPLATE template0")
    assert "has the encoding LATIN1" in refusal(address, StoreUnavailable)


def test_other_programs_tables_are_no_trouble_unless_they_have_our_names(postgresql: PostgreSQL) -> None:
    address = postgresql.new_database()
    name = address.partition("@/")[2].partition("?")[0]
    postgresql.execute("CREATE TABLE bookmarks (url TEXT)", name)
    with Store.open(address) as store:
        store.create("", "user0", model="chat")
    postgresql.execute("DROP TABLE chat_store", name)
    assert "holds tables of another program (chat_session, chat_turn)" in refusal(address, StoreVersionError)


def test_another_program_holds_the_server(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat_server.store.database.BUSY_SECONDS", 0.05)
    address = postgresql.new_schema()
    with Store.open(address) as one, Store.open(address) as other:
        one.create("", "user0", model="chat")
        with other._database.write(), pytest.raises(StoreBusy, match="the session store is held by another"):
            one.remove("", "user0")
        one.remove("", "user0")


def test_what_has_been_stored_is_on_disk(postgresql: PostgreSQL) -> None:
    """Also where the administrator preferred speed."""
    address = postgresql.new_schema().replace("options=", "options=-csynchronous_commit%3Doff%20")
    with Store.open(address) as store, store._database.write() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_server_goes_and_comes_back(postgresql: PostgreSQL) -> None:
    with Store.open(postgresql.new_schema()) as store:
        stored = store.create("", "user0", model="chat")
        postgresql.stop()
        try:
            for call in (lambda: store.get("", "user0"), lambda: store.remove("", "user0")):
                with pytest.raises(StoreUnavailable, match="^the session store cannot be reached"):
                    call()
        finally:
            postgresql.start()
        assert store.get("", "user0") == stored


def test_driver_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refusal("postgresql://localhost/chat", StoreUnavailable)
    assert message == 'the driver of PostgreSQL is missing; install it with: pip install "rewindlm[postgres]"'
