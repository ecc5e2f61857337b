"""What each call of the store gives and refuses, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from stand_in_turns import Snapshot, empty_snapshot, plain_snapshot, session_of

from chat_server.store import (
    Conflict,
    DuplicateRequest,
    NewTurn,
    PromptKind,
    SessionExists,
    SessionNotFound,
    Store,
    StoredSession,
)
from lm_core.errors import InvalidParameter, LanguageModelError
from lm_core.model import PREFILL_CHUNK
from lm_core.sampler import LARGEST_SEED
from lm_core.turn import Turn, Undo

NOON = datetime(2026, 3, 29, 12, 0, 0, 123457, tzinfo=UTC)
EMPTY = empty_snapshot(None, PREFILL_CHUNK)


def append(
    store: Store,
    stored: StoredSession,
    after: Snapshot,
    kind: PromptKind = "messages",
    request_id: str | None = None,
    request_hash: str | None = None,
) -> StoredSession:
    """Store the last turn of ``after``."""
    new = NewTurn.last_of(session_of(after), kind, request_id, request_hash)
    return store.append_turn(stored.owner, stored.id, stored.version, new)[0]


def test_new_session(database: str) -> None:
    with Store.open(database, clock=lambda: NOON) as store:
        stored = store.create(
            "key", "user0", model="chat", system="Be kind.", sampling={"top_p": 0.1, "top_k": 7}
        )
    assert stored == StoredSession(
        id="user0",
        owner="key",
        model="chat",
        created_at=NOON,
        system="Be kind.",
        sampling={"top_p": 0.1, "top_k": 7},
        turns=0,
        tokens=0,
        version=stored.version,
        parent=None,
        parent_turn=None,
    )
    with Store.open(database) as store:
        assert store.get("key", "user0") == stored
        assert store.snapshot("key", "user0") == (stored, empty_snapshot("Be kind.", PREFILL_CHUNK))
        assert store.history("key", "user0") == (stored, [])


def test_turn_comes_back_as_it_was(database: str) -> None:
    after = plain_snapshot(EMPTY, [1, 2**31 - 1, 0], "Yes.")
    after["turns"][0]["params"] |= {"seed": LARGEST_SEED, "temperature": 0.1 + 0.2, "min_p": 5e-324}
    after["turns"][0]["prompt_seconds"] = 1 / 3
    with Store.open(database, clock=lambda: NOON) as store:
        new = NewTurn.last_of(session_of(after), "tokens", "r1", "5f")
        stored = store.create("", "user0", model="chat")
        stored, turn = store.append_turn("", "user0", stored.version, new)
    with Store.open(database) as store:
        assert store.history("", "user0") == (stored, [turn])
        assert store.snapshot("", "user0") == (stored, after)
    assert (turn.index, turn.created_at, turn.request_id, turn.request_hash) == (0, NOON, "r1", "5f")
    assert (turn.prompt_kind, turn.question, turn.text) == ("tokens", "A question.", "Yes.")
    assert (turn.params.seed, turn.params.temperature) == (LARGEST_SEED, 0.1 + 0.2)
    assert (turn.params.min_p, turn.prompt_seconds) == (5e-324, 1 / 3)
    assert (stored.turns, stored.tokens) == (1, 3)


def test_newest_session_is_listed_first_even_if_the_clock_goes_back(database: str) -> None:
    times = [NOON, NOON - timedelta(hours=1), NOON, NOON]
    with Store.open(database, clock=lambda: times.pop(0)) as store:
        for name in ("a", "c", "b"):
            store.create("", name, model="chat")
        store.fork("", "a", "d")
        assert [stored.id for stored in store.sessions("")] == ["d", "b", "c", "a"]


def test_owners_do_not_see_each_other(store: Store) -> None:
    for owner in ("alice", "bob"):
        store.create(owner, "user0", model=owner)
    stored = store.create("alice", "secret", model="chat")
    append(store, stored, plain_snapshot(EMPTY, [1]), request_id="r1")
    assert [stored.id for stored in store.sessions("bob")] == ["user0"]
    assert store.get("bob", "user0").model == "bob"
    for call in calls_on(store, "bob", "secret", stored.version + 1):
        with pytest.raises(SessionNotFound) as foreign:
            call()
        with pytest.raises(SessionNotFound) as missing:
            store.get("bob", "never")
        # Not by a word does a foreign session differ from one that is not there.
        assert str(foreign.value) == str(missing.value).replace("never", "secret")
    store.remove("alice", "user0")
    assert store.get("bob", "user0").model == "bob"


def calls_on(store: Store, owner: str, session_id: str, version: int) -> list[Callable[[], object]]:
    """Every call that names a session."""
    new = NewTurn.last_of(session_of(plain_snapshot(EMPTY, [1])), "text")
    return [
        lambda: store.get(owner, session_id),
        lambda: store.history(owner, session_id),
        lambda: store.snapshot(owner, session_id),
        lambda: store.find_request(owner, session_id, "r1"),
        lambda: store.append_turn(owner, session_id, version, new),
        lambda: store.revert(owner, session_id, version, 0),
        lambda: store.fork(owner, session_id, "new"),
        lambda: store.remove(owner, session_id),
    ]


def test_request_is_remembered_when_its_turn_is_reverted_and_by_its_session_alone(store: Store) -> None:
    first = plain_snapshot(EMPTY, [1])
    stored = append(store, store.create("", "user0", model="chat"), first, request_id="r1", request_hash="5f")
    stored = append(store, stored, plain_snapshot(first, [2], "No."), request_id="r2")
    stored = store.revert("", "user0", stored.version, 1)
    store.fork("", "user0", "user1")
    one, two = (store.find_request("", "user0", request_id) for request_id in ("r1", "r2"))
    assert one is not None and (one.reverted, one.turn.index, one.turn.request_hash) == (False, 0, "5f")
    assert two is not None and (two.reverted, two.turn.index, two.turn.text) == (True, 1, "No.")
    assert store.find_request("", "user0", "r3") is None
    assert store.find_request("", "user1", "r1") is None
    with pytest.raises(DuplicateRequest, match="already has a turn of request 'r2'"):
        append(store, stored, plain_snapshot(first, [3]), request_id="r2")
    # What has replaced a reverted turn is at the same place, but is not it.
    append(store, stored, plain_snapshot(first, [4]), request_id="r4")
    two = store.find_request("", "user0", "r2")
    assert two is not None and two.reverted


def test_session_of_the_same_name_is_another_session(store: Store) -> None:
    """A program that still holds the removed one must not write into its successor."""
    removed = store.create("", "user0", model="chat")
    first = plain_snapshot(EMPTY, [1])
    append(store, removed, first, request_id="r1")
    store.remove("", "user0")
    store.create("", "user0", model="chat")
    with pytest.raises(Conflict):
        append(store, removed, first)
    assert store.find_request("", "user0", "r1") is None


def test_turn_must_follow_the_last_one(store: Store) -> None:
    first = plain_snapshot(EMPTY, [1, 2])
    stored = append(store, store.create("", "user0", model="chat"), first)
    for wrong in (first, plain_snapshot(plain_snapshot(first, [3]), [4]), plain_snapshot(EMPTY, [1])):
        with pytest.raises(InvalidParameter, match="does not follow the last one of session 'user0'"):
            append(store, stored, wrong)
    of_another_length = plain_snapshot(plain_snapshot(EMPTY, [1, 2, 3]), [4])
    with pytest.raises(InvalidParameter, match="does not follow"):
        append(store, stored, of_another_length)
    assert store.snapshot("", "user0") == (stored, first)


def test_turn_cannot_be_made_of_a_session_without_one() -> None:
    with pytest.raises(ValueError, match="no turn"):
        NewTurn.last_of(session_of(EMPTY), "text")


@pytest.mark.parametrize("turn", [-1, 1, True, 0.0, "0", 1 << 63])
def test_there_is_no_such_turn(store: Store, turn: int) -> None:
    stored = append(store, store.create("", "user0", model="chat"), plain_snapshot(EMPTY, [1]))
    with pytest.raises(InvalidParameter, match="the session has 1 turns, from 0 on"):
        store.revert("", "user0", stored.version, turn)
    if turn is not True and turn != 1:
        with pytest.raises(InvalidParameter, match="the session has 1 turns"):
            store.fork("", "user0", "new", turn)
    assert store.get("", "user0") == stored


def test_fork_tells_where_it_comes_from_also_when_that_is_gone(store: Store) -> None:
    first = plain_snapshot(EMPTY, [1])
    stored = append(store, store.create("", "user0", model="chat", sampling={"seed": 1}), first)
    append(store, stored, plain_snapshot(first, [2]))
    fork = store.fork("", "user0", "user1", 1)
    store.remove("", "user0")
    assert store.get("", "user1") == fork
    assert (fork.parent, fork.parent_turn, fork.turns, fork.sampling) == ("user0", 1, 1, {"seed": 1})
    assert store.snapshot("", "user1") == (fork, first)


def test_texts_of_all_characters_are_kept(store: Store) -> None:
    texts = [
        "\0",
        "a\0b",
        "\x1b[2J",
        "\r\n",
        "é",
        "e\u0301",
        "🙂",
        "\ufffe\uffff",
        "\U0010ffff",
        "'--",
        "\\x00",
        "",
    ]
    snapshot, stored = (
        empty_snapshot("\0", 9),
        store.create("", "user0", model="chat", system="\0", prefill_chunk=9),
    )
    for number, text in enumerate(texts):
        snapshot = plain_snapshot(snapshot, [number], text)
        snapshot["turns"][-1]["question"] = text
        stored = append(store, stored, snapshot, request_id=text, request_hash=text)
    assert store.snapshot("", "user0") == (stored, snapshot)
    assert [turn.request_hash for turn in store.history("", "user0")[1]] == texts


@pytest.mark.parametrize("field", ["question", "text", "rendered", "request_id", "system", "id", "model"])
def test_half_a_surrogate_pair_is_refused_by_name(store: Store, field: str) -> None:
    stored = store.create("", "user0", model="chat")
    broken = "a\ud83d"
    after = plain_snapshot(EMPTY, [1])
    calls: dict[str, Callable[[], object]] = {
        "system": lambda: store.create("", "user1", model="chat", system=broken),
        "id": lambda: store.create("", broken, model="chat"),
        "model": lambda: store.create("", "user1", model=broken),
        "request_id": lambda: append(store, stored, after, request_id=broken),
    }
    if field not in calls:
        after["turns"][0][field] = broken
    with pytest.raises(InvalidParameter, match="not valid Unicode.*surrogates") as refused:
        calls.get(field, lambda: append(store, stored, after))()
    assert refused.value.param == field
    assert store.sessions("") == [stored]


def test_nul_in_a_name_is_refused(store: Store) -> None:
    with pytest.raises(InvalidParameter, match="id contains the character U"):
        store.create("", "a\0", model="chat")
    with pytest.raises(InvalidParameter, match="id contains"):
        store.get("", "a\0")


@pytest.mark.parametrize("sampling", [{"top_p": float("nan")}, {"stop": {1, 2}}])
def test_sampling_must_be_json(store: Store, sampling: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match="sampling cannot be written as JSON") as refused:
        store.create("", "user0", model="chat", sampling=sampling)
    assert refused.value.param == "sampling"


def test_errors_are_of_the_common_tree(store: Store) -> None:
    store.create("", "user0", model="chat")
    with pytest.raises(
        LanguageModelError, match="there is a session 'user0' already; choose another id"
    ) as error:
        store.create("", "user0", model="chat")
    assert isinstance(error.value, SessionExists)
    with pytest.raises(LanguageModelError, match="there is no session 'user1'"):
        store.get("", "user1")


def test_long_conversation_is_read_in_as_few_queries_as_a_short_one(store: Store) -> None:
    live, stored = session_of(EMPTY), store.create("", "user0", model="chat")
    pattern = Turn.from_dict(plain_snapshot(EMPTY, [1])["turns"][0])
    queries = []
    for depth in (2, 120):
        while len(live.turns) < depth:
            kept = live.schedule.untouched(live.schedule.length)
            undo = Undo(len(live.tokens), [], 0, kept, live.schedule.spans_from(kept))
            live.tokens.append(len(live.turns))
            live.schedule.append(1)
            live.turns.append(replace(pattern, rendered=None, undo=undo))
            new = NewTurn.last_of(live, "text", f"r{len(live.turns)}")
            stored, _ = store.append_turn("", "user0", stored.version, new)
        with counted_queries() as counted:
            assert store.snapshot("", "user0") == (stored, live.snapshot())
        queries.append(len(counted))
    assert queries[0] == queries[1] <= 4
    found = store.find_request("", "user0", "r1")
    assert found is not None and not found.reverted
    live.revert(60)
    stored = store.revert("", "user0", stored.version, 60)
    assert store.snapshot("", "user0") == (stored, live.snapshot())


def test_a_turn_in_force_cannot_be_deleted_by_mistake(store: Store) -> None:
    """No call does it; the database itself would refuse."""
    append(store, store.create("", "user0", model="chat"), plain_snapshot(EMPTY, [1]))
    with pytest.raises(sa.exc.IntegrityError), store._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM chat_turn")
    assert store.get("", "user0").turns == 1


def test_what_has_been_stored_is_on_disk(tmp_path: Path) -> None:
    """No test can cut the power, so this one sees that SQLite is told to wait for the disk."""
    with Store.open(str(tmp_path / "chat.sqlite")) as store, store._database.write() as connection:
        # https://sqlite.org/pragma.html#pragma_synchronous: 2 is FULL
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


@contextmanager
def counted_queries() -> Iterator[list[str]]:
    """The statements that any engine is sent while the block runs."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
