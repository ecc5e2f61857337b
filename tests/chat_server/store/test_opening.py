"""Opening a store: where it is, what is refused, and in which words."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from stand_in_turns import empty_snapshot, plain_snapshot, session_of
from store_refusals import refusal

from chat_server.store import (
    NewTurn,
    Store,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    StoreVersionError,
)
from lm_core.errors import InvalidParameter

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions count for the block, which they do not for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everyone may enter and change."""
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


def full_store(path: Path, turns: int = 12) -> None:
    """A store of one session on several pages."""
    with Store.open(str(path)) as store:
        stored = store.create("", "user0", model="chat")
        snapshot = empty_snapshot(None, 256)
        for turn in range(turns):
            snapshot = plain_snapshot(snapshot, [turn] * 500)
            new = NewTurn.last_of(session_of(snapshot), "text")
            stored, _ = store.append_turn("", "user0", stored.version, new)


# -- where it is ------------------------------------------------------------------------------------


def test_default_place_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with Store.open() as store:
        assert store.location == f"{tmp_path}/data/rewindlm/chat.sqlite"
        store.create("", "user0", model="chat")
        folder = tmp_path / "data" / "rewindlm"
        # Conversations are nobody else's business, nor is what SQLite keeps beside them.
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert [file.name for file in folder.iterdir()] == ["chat.sqlite"]
    with Store.open() as store:
        assert store.count() == 1


def test_default_place_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("not a folder")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(StoreUnavailable, match="cannot be made .*; name another place with --database"):
        Store.open()


@pytest.mark.parametrize("address", ["{}/a.db", "sqlite:///{}/a.db", "sqlite+pysqlite:///{}/a.db"])
def test_file_is_named_by_path_or_url(tmp_path: Path, address: str) -> None:
    with Store.open(address.format(tmp_path)) as store:
        store.create("", "user0", model="chat")
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


def test_store_in_memory_is_new_each_time() -> None:
    for _ in range(2):
        with Store.open("sqlite://") as store:
            assert store.sessions("") == []
            store.create("", "user0", model="chat")
            assert store.get("", "user0").turns == 0


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "database is empty"),
        ("a\0b", "database is empty"),
        ("mysql://localhost/chat", "is of the kind 'mysql'; it must be sqlite or postgresql"),
        ("postgresql+asyncpg://localhost/chat", "'postgresql+asyncpg'"),
        ("://", "is not a URL like sqlite:///"),
        ("postgresql://me:secret@host:port/chat", "is not a URL"),
    ],
)
def test_address_of_no_supported_database(address: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        Store.open(address)
    assert words in str(refused.value) and "secret" not in str(refused.value)
    assert refused.value.param == "database"


# -- what is refused --------------------------------------------------------------------------------


def test_folder_is_missing(tmp_path: Path) -> None:
    message = refusal(tmp_path / "no" / "chat.sqlite", StoreUnavailable)
    assert message.endswith(f"there is no folder {tmp_path}/no; make it first")
    assert list(tmp_path.iterdir()) == []


def test_file_is_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path, StoreUnavailable) == f"the store {tmp_path} is a folder; name a file"


@pytest.mark.parametrize(
    "content", [b"a" * 100, b"Dear diary,\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_file_is_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chat.sqlite"
    path.write_bytes(content)
    assert "is not a database; name another file" in refusal(path, StoreDamaged)
    assert path.read_bytes() == content


def test_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    content = path.read_bytes()
    message = refusal(path, StoreVersionError)
    assert (
        "holds tables of another program (bookmarks); give the chat server a database of its own" in message
    )
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["places.sqlite"]


def test_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "chat.sqlite").touch()
    full_store(tmp_path / "chat.sqlite")


@pytest.mark.parametrize("page", range(6))
def test_page_was_overwritten(tmp_path: Path, page: int) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    content = bytearray(path.read_bytes())
    # Past the header of the file, so that it still is a database.
    start = max(100, page * len(content) // 6 // 4096 * 4096)
    content[start : start + 1000] = os.urandom(1000)
    path.write_bytes(content)
    assert "is damaged; restore it from a backup" in refusal(path, StoreDamaged)


@pytest.mark.parametrize("lost", [1, 4096, 3 * 4096 - 1, 8 * 4096])
def test_file_was_cut(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    # Half a page is a page: SQLite takes what is missing of it for zeros.
    os.truncate(path, (path.stat().st_size - lost) // 4096 * 4096)
    assert "is damaged" in refusal(path, StoreDamaged)


COLUMNS = [
    "answer",
    "question",
    "added_tokens",
    "added_spans",
    "params",
    "added_rendered",
    "kept_tokens",
]


@pytest.mark.parametrize("column", COLUMNS)
def test_content_that_was_changed_is_not_continued(tmp_path: Path, column: str) -> None:
    """SQLite cannot see this damage, and a wrong token would be a wrong conversation."""
    path = tmp_path / "chat.sqlite"
    full_store(path, turns=3)
    with closing(sqlite3.connect(path)) as connection, connection:
        value = connection.execute(f"SELECT {column} FROM chat_turn WHERE position = 1").fetchone()[0]
        changed = (
            value + 1 if isinstance(value, int) else value[:-1] + (b"!" if isinstance(value, bytes) else "!")
        )
        connection.execute(f"UPDATE chat_turn SET {column} = ? WHERE position = 1", (changed,))
    with Store.open(str(path)) as store:
        for read in (store.snapshot, store.history):
            with pytest.raises(
                StoreDamaged, match="turn 1 of session 'user0' is damaged.*revert the session to 1"
            ):
                read("", "user0")
        # The advice works.
        store.revert("", "user0", store.get("", "user0").version, 1)
        assert len(store.snapshot("", "user0")[1]["turns"]) == 1


@pytest.mark.parametrize("change", ["position = position + 1", "parent = NULL"])
def test_turn_that_cannot_be_found(tmp_path: Path, change: str) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path, turns=4)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE chat_turn SET {change} WHERE position = 2")
    with Store.open(str(path)) as store:
        version = store.get("", "user0").version
        for call in (
            lambda: store.snapshot("", "user0"),
            # To forget the whole conversation in silence would be the worst of all.
            lambda: store.revert("", "user0", version, 1),
            lambda: store.fork("", "user0", "user1", 1),
        ):
            with pytest.raises(StoreDamaged, match="session 'user0' is damaged: some of its turns cannot be"):
                call()
        store.revert("", "user0", version, 0)
        assert store.snapshot("", "user0")[1] == empty_snapshot(None, 256)


def test_store_of_a_newer_program(tmp_path: Path) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE chat_store SET version = 9")
    message = refusal(path, StoreVersionError)
    assert "has version 9 and was made by a newer program; this one reads versions up to 1" in message
    assert "update rewindlm" in message


def test_table_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE chat_session")
    assert "is damaged: it has no table chat_session" in refusal(path, StoreDamaged)


@pytest.mark.parametrize("change", ["answer = CAST(X'61FF' AS TEXT)", "params = CAST(X'61FF' AS TEXT)"])
def test_text_is_not_unicode(tmp_path: Path, change: str) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE chat_turn SET {change}")
    with Store.open(str(path)) as store, pytest.raises(StoreDamaged, match="^the session store is damaged"):
        store.history("", "user0")


def test_session_has_sampling_defaults_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE chat_session SET sampling = '{'")
    with Store.open(str(path)) as store:
        with pytest.raises(StoreDamaged, match="user0. is damaged: its sampling defaults are not JSON"):
            store.get("", "user0")
        store.remove("", "user0")
        assert store.sessions("") == []


@pytest.mark.parametrize("change", ["DELETE FROM chat_store", "UPDATE chat_store SET version = 0"])
def test_store_without_a_version(tmp_path: Path, change: str) -> None:
    path = tmp_path / "chat.sqlite"
    full_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    assert "does not say which version it has" in refusal(path, StoreDamaged)


# -- what can be read but not written ---------------------------------------------------------------


def test_file_cannot_be_written(open_folder: Path) -> None:
    path = open_folder / "chat.sqlite"
    full_store(path)
    path.chmod(0o444)
    with unprivileged():
        assert "cannot be written; check the permissions" in refusal(path, StoreReadOnly)


def test_folder_cannot_be_written(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with unprivileged():
        assert "cannot be written; check the permissions" in refusal(
            open_folder / "chat.sqlite", StoreReadOnly
        )


def test_folder_of_an_existing_file_cannot_be_written(open_folder: Path) -> None:
    """SQLite keeps its log beside the file."""
    path = open_folder / "chat.sqlite"
    full_store(path)
    path.chmod(0o666)
    open_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StoreUnavailable) as refused:
        Store.open(str(path))
    assert "check" in str(refused.value) and "folder" in str(refused.value)


def test_database_opened_for_reading_alone(tmp_path: Path) -> None:
    full_store(tmp_path / "chat.sqlite")
    message = refusal(f"sqlite:///file:{tmp_path}/chat.sqlite?mode=ro&uri=true", StoreReadOnly)
    assert "cannot be written" in message


# -- others are there -------------------------------------------------------------------------------


def test_another_program_holds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat_server.store.database.BUSY_SECONDS", 0.05)
    path = tmp_path / "chat.sqlite"
    with Store.open(str(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        stored = store.create("", "user0", model="chat")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy) as refused:
            store.remove("", "user0")
        # It may go to a client, so it does not name the file.
        assert (
            str(refused.value)
            == "the session store is held by another program; try again, or end that program"
        )
        assert store.get("", "user0") == stored
        assert "is held by another program" in refusal(path, StoreBusy)
        other.execute("ROLLBACK")
        store.remove("", "user0")


def test_many_open_a_new_store_at_once(database: str) -> None:
    def use(number: int) -> None:
        with Store.open(database) as store:
            store.create("", str(number), model="chat")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    with Store.open(database) as store:
        assert store.count() == 8


def test_disk_is_full(tmp_path: Path) -> None:
    """SQLite's own limit on pages fails as a disk without space does."""

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    path = tmp_path / "chat.sqlite"
    snapshots = [empty_snapshot(None, 256)]
    sa.event.listen(sa.Engine, "connect", limit)
    try:
        with Store.open(str(path)) as store:
            stored = store.create("", "user0", model="chat")
            with pytest.raises(StoreFull, match="^the session store has no space left to grow; free some"):
                while len(snapshots) < 100:
                    snapshots.append(plain_snapshot(snapshots[-1], [1] * 500))
                    new = NewTurn.last_of(session_of(snapshots[-1]), "text")
                    stored, _ = store.append_turn("", "user0", stored.version, new)
            # All that was confirmed is there, and it can be used and made smaller.
            assert store.snapshot("", "user0") == (stored, snapshots[-2])
            stored = store.revert("", "user0", stored.version, 1)
            assert store.snapshot("", "user0") == (stored, snapshots[1])
    finally:
        sa.event.remove(sa.Engine, "connect", limit)
    with Store.open(str(path)) as store:
        new = NewTurn.last_of(session_of(snapshots[2]), "text")
        stored, _ = store.append_turn("", "user0", stored.version, new)
        assert store.snapshot("", "user0") == (stored, snapshots[2])
