"""Several threads and several programs on one store: each change happens once, and none is seen by halves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from stand_in_turns import empty_snapshot, plain_snapshot, session_of

from chat_server.store import (
    Conflict,
    DuplicateRequest,
    NewTurn,
    SessionExists,
    SessionNotFound,
    Store,
    StoredSession,
    StoredTurn,
    StoreError,
)

EMPTY = empty_snapshot(None, 256)
THREADS = 4


@pytest.fixture(params=["one store", "a store each"])
def stores(request: pytest.FixtureRequest, database: str) -> Iterator[list[Store]]:
    """A store for each thread: the same one, or its own as another program would have."""
    opened = [Store.open(database) for _ in range(1 if request.param == "one store" else THREADS)]
    yield opened * (THREADS // len(opened))
    for store in opened:
        store.close()


def race(stores: list[Store], call: Callable[[Store], object]) -> list[object]:
    """What the same call gives to each thread, all beginning at once: a result or the store's error."""
    start = threading.Barrier(len(stores))

    def run(store: Store) -> object:
        start.wait()
        try:
            return call(store)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(len(stores)) as threads:
        return list(threads.map(run, stores))


def append(store: Store, version: int, new: NewTurn) -> tuple[StoredSession, StoredTurn]:
    return store.append_turn("", "user0", version, new)


def test_one_of_all_takes_each_turn(stores: list[Store]) -> None:
    stored, snapshot = stores[0].create("", "user0", model="chat", prefill_chunk=256), EMPTY
    for turn in range(5):
        snapshot = plain_snapshot(snapshot, [turn])
        new, version = NewTurn.last_of(session_of(snapshot), "text"), stored.version
        results = race(stores, partial(append, version=version, new=new))
        winners = [result for result in results if isinstance(result, tuple)]
        losers = [result for result in results if isinstance(result, Conflict)]
        assert (len(winners), len(losers)) == (1, THREADS - 1)
        (stored, _) = winners[0]
        assert stores[0].snapshot("", "user0") == (stored, snapshot)


def test_same_request_is_one_turn(stores: list[Store]) -> None:
    stored = stores[0].create("", "user0", model="chat")
    new = NewTurn.last_of(session_of(plain_snapshot(EMPTY, [1])), "text", "r1")
    results = race(stores, lambda store: store.append_turn("", "user0", stored.version, new))
    assert sum(isinstance(result, tuple) for result in results) == 1
    assert sum(isinstance(result, DuplicateRequest) for result in results) == THREADS - 1


def test_one_of_all_creates_removes_and_reverts(stores: list[Store]) -> None:
    results = race(stores, lambda store: store.create("", "user0", model="chat"))
    assert sum(isinstance(result, SessionExists) for result in results) == THREADS - 1
    new = NewTurn.last_of(session_of(plain_snapshot(EMPTY, [1])), "text")
    stored, _ = stores[0].append_turn("", "user0", stores[0].get("", "user0").version, new)
    results = race(stores, lambda store: store.revert("", "user0", stored.version, 0))
    assert sum(isinstance(result, Conflict) for result in results) == THREADS - 1
    results = race(stores, lambda store: store.remove("", "user0"))
    assert sum(isinstance(result, SessionNotFound) for result in results) == THREADS - 1


def test_readers_see_whole_turns(stores: list[Store]) -> None:
    snapshots = [EMPTY]
    for turn in range(10):
        snapshots.append(plain_snapshot(snapshots[-1], [turn] * 50))
    stored = stores[0].create("", "user0", model="chat", prefill_chunk=256)
    done = threading.Event()

    def read(store: Store) -> int:
        reads = 0
        while not done.is_set() or reads == 0:
            seen, snapshot = store.snapshot("", "user0")
            assert snapshot == snapshots[seen.turns]
            assert seen.tokens == 50 * seen.turns
            reads += 1
        return reads

    with ThreadPoolExecutor(THREADS) as threads:
        readers = [threads.submit(read, store) for store in stores[1:]]
        try:
            for snapshot in snapshots[1:]:
                new = NewTurn.last_of(session_of(snapshot), "text")
                stored, _ = stores[0].append_turn("", "user0", stored.version, new)
            stores[0].revert("", "user0", stored.version, 4)
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_readers_see_a_session_whole_or_not_at_all_while_it_is_removed(stores: list[Store]) -> None:
    first = plain_snapshot(EMPTY, [1])
    new = NewTurn.last_of(session_of(first), "text")
    done = threading.Event()

    def read(store: Store) -> None:
        while not done.is_set():
            try:
                stored, snapshot = store.snapshot("", "user0")
            except SessionNotFound:
                continue
            assert snapshot == (first if stored.turns else EMPTY)

    with ThreadPoolExecutor(THREADS) as threads:
        readers = [threads.submit(read, store) for store in stores[1:]]
        try:
            for _ in range(12):
                stored = stores[0].create("", "user0", model="chat", prefill_chunk=256)
                stores[0].append_turn("", "user0", stored.version, new)
                stores[0].remove("", "user0")
        finally:
            done.set()
        for reader in readers:
            reader.result()


def test_a_fork_is_whole_or_not_at_all_while_its_origin_is_removed(stores: list[Store]) -> None:
    first = plain_snapshot(EMPTY, [1])
    new = NewTurn.last_of(session_of(first), "text")
    for _ in range(4):
        stored = stores[0].create("", "user0", model="chat", prefill_chunk=256)
        stores[0].append_turn("", "user0", stored.version, new)
        remover = threading.Lock()

        def fork_or_remove(store: Store, remover: threading.Lock = remover) -> object:
            if remover.acquire(blocking=False):
                return store.remove("", "user0")
            return store.fork("", "user0", f"fork-{threading.get_ident()}")

        for result in race(stores, fork_or_remove):
            assert result is None or isinstance(result, SessionNotFound | StoredSession)
        for fork in stores[0].sessions(""):
            assert stores[0].snapshot("", fork.id)[1] == first
            stores[0].remove("", fork.id)
    assert stores[0].count() == 0
