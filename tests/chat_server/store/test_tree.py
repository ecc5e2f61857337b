"""The store against a model of it that copies everything: whatever is done, both hold the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stand_in_turns import Snapshot, empty_snapshot, session_of

from chat_server.store import (
    Conflict,
    DuplicateRequest,
    NewTurn,
    SessionExists,
    SessionNotFound,
    Store,
)
from lm_core.errors import InvalidParameter
from lm_core.sampler import LARGEST_SEED

OWNERS = st.sampled_from(["", "5f2b"])
REQUEST_IDS = st.sampled_from([None, "r1", "r2", "r\0"])
IDS = st.sampled_from(["user0", "user1", "a:b@c-d_e.f"])
TEXTS = st.one_of(
    st.sampled_from(
        ["", "Why?", "é 你好 🙂", "a\0b", "'; DROP TABLE chat_turn; --", "\r\n\t\x1b[2J", "\ufeff\u202e"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=6)
SPANS = st.lists(st.tuples(st.sampled_from(["prefill", "decode"]), st.integers(1, 5000)), max_size=3)
SECONDS = st.floats(0, 1e6) | st.integers(0, 9)
PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.floats(0, 100) | st.integers(0, 100),
        "top_k": st.integers(0, 1 << 31),
        "top_p": st.floats(0, 1, exclude_min=True),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0, 100, exclude_min=True),
        "seed": st.none() | st.integers(0, LARGEST_SEED),
    }
)


@st.composite
def next_snapshots(draw: st.DrawFn, before: Snapshot) -> Snapshot:
    """What a session might be after one more turn, which may change all of the past."""
    after = copy.deepcopy(before)
    kept = draw(st.integers(0, len(before["tokens"])))
    after["tokens"][kept:] = draw(TOKENS)
    kept_spans = draw(st.integers(0, len(before["spans"])))
    after["spans"][kept_spans:] = [list(span) for span in draw(SPANS)]
    after["prefill_chunk"] = draw(st.sampled_from([before["prefill_chunk"], 7]))
    rendered = (before["turns"][-1]["rendered"] or "") if before["turns"] else ""
    rendered_kept = draw(st.integers(0, len(rendered)))
    after["turns"].append(
        {
            "question": draw(st.none() | TEXTS),
            "text": draw(TEXTS),
            "rendered": draw(st.none() | TEXTS.map(lambda text: rendered[:rendered_kept] + text)),
            "finish_reason": draw(st.sampled_from(["stop", "length"])),
            "prompt_tokens": draw(st.integers(0, 1 << 31)),
            "cached_tokens": draw(st.integers(0, 1 << 31)),
            "generated_tokens": draw(st.integers(0, 1 << 31)),
            "prompt_seconds": draw(SECONDS),
            "generation_seconds": draw(SECONDS),
            "params": draw(PARAMS),
        }
    )
    turn = after["turns"][-1]
    turn["undo"] = {
        "kept_tokens": kept,
        "replaced_tokens": before["tokens"][kept:],
        "cached_tokens": turn["cached_tokens"],
        "kept_spans": kept_spans,
        "replaced_spans": tuple(
            {"kind": kind, "count": count} for kind, count in before["spans"][kept_spans:]
        ),
    }
    return after


@dataclass(frozen=True, eq=False)
class ModelTurn:
    """A turn of the model, which equals no other, whatever it says."""

    tree: int
    parent: ModelTurn | None
    snapshot: Snapshot
    request_id: str | None

    @property
    def path(self) -> list[ModelTurn]:
        """The turns from the first to this one."""
        return [*(self.parent.path if self.parent else []), self]


@dataclass
class ModelSession:
    """A session of the model: all it ever took, and where it is."""

    tree: int
    empty: Snapshot
    created: int
    version: int
    head: ModelTurn | None = None
    taken: list[ModelTurn] = field(default_factory=list)
    parent: tuple[str | None, int | None] = (None, None)

    @property
    def path(self) -> list[ModelTurn]:
        return self.head.path if self.head else []

    @property
    def snapshot(self) -> Snapshot:
        turns = self.head.snapshot if self.head else self.empty
        return {**turns, "prefill_chunk": self.empty["prefill_chunk"]}


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls, right ones and wrong ones."""

    database: str

    def __init__(self) -> None:
        super().__init__()
        self.store = Store.open(self.database)
        self.onlooker = sa.create_engine(self.database)
        self.model: dict[tuple[str, str], ModelSession] = {}
        self.sessions = 0
        self.stored: set[ModelTurn] = set()

    def teardown(self) -> None:
        for owner, session_id in self.model:
            self.store.remove(owner, session_id)
        # Nothing is left when nobody needs it, whoever shared what with whom.
        assert self.stored_turns() == 0
        self.onlooker.dispose()
        self.store.close()

    def stored_turns(self) -> int:
        with self.onlooker.connect() as connection:
            count: int = connection.exec_driver_sql("SELECT count(*) FROM chat_turn").scalar_one()
        return count

    def draw_session(self, data: st.DataObject) -> tuple[str, str, ModelSession]:
        owner, session_id = data.draw(st.sampled_from(sorted(self.model)))
        return owner, session_id, self.model[owner, session_id]

    # -- calls that succeed, or fail where they must --------------------------------------------

    @rule(owner=OWNERS, session_id=IDS, system=st.none() | TEXTS, chunk=st.integers(1, 512))
    def create(self, owner: str, session_id: str, system: str | None, chunk: int) -> None:
        def create() -> None:
            made = self.store.create(owner, session_id, model="chat", system=system, prefill_chunk=chunk)
            self.sessions += 1
            self.model[owner, session_id] = ModelSession(
                self.sessions, empty_snapshot(system, chunk), self.sessions, made.version
            )

        if (owner, session_id) in self.model:
            with pytest.raises(SessionExists):
                create()
        else:
            create()

    @initialize(data=st.data(), turns=st.integers(0, 3))
    def begin(self, data: st.DataObject, turns: int) -> None:
        self.create("", "user0", None, 256)
        for _ in range(turns):
            self.append(data, None)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), request_ids=st.lists(REQUEST_IDS, min_size=1, max_size=3))
    def append_several(self, data: st.DataObject, request_ids: list[str | None]) -> None:
        for request_id in request_ids:
            self.append(data, request_id)

    def append(self, data: st.DataObject, request_id: str | None) -> None:
        owner, session_id, session = self.draw_session(data)
        after = data.draw(next_snapshots(session.snapshot))
        new = NewTurn.last_of(session_of(after), "messages", request_id, "hash")
        if request_id is not None and any(turn.request_id == request_id for turn in session.taken):
            with pytest.raises(DuplicateRequest):
                self.store.append_turn(owner, session_id, session.version, new)
            return
        stored, turn = self.store.append_turn(owner, session_id, session.version, new)
        assert turn == self.store.history(owner, session_id)[1][-1]
        assert stored.version > session.version
        session.head = ModelTurn(session.tree, session.head, after, request_id)
        session.taken.append(session.head)
        self.stored.add(session.head)
        session.version = stored.version
        session.empty = {**session.empty, "prefill_chunk": after["prefill_chunk"]}

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        owner, session_id, session = self.draw_session(data)
        turn = data.draw(st.integers(-1, len(session.path)))
        if not 0 <= turn < len(session.path):
            with pytest.raises(InvalidParameter, match=f"turn is {turn}"):
                self.store.revert(owner, session_id, session.version, turn)
            return
        session.head = session.path[turn].parent
        stored = self.store.revert(owner, session_id, session.version, turn)
        assert stored.version > session.version
        session.version = stored.version

    @precondition(lambda self: self.model)
    @rule(data=st.data(), new_id=IDS)
    def fork(self, data: st.DataObject, new_id: str) -> None:
        owner, session_id, session = self.draw_session(data)
        turn = data.draw(st.none() | st.integers(0, len(session.path)))
        if (owner, new_id) in self.model:
            with pytest.raises(SessionExists):
                self.store.fork(owner, session_id, new_id, turn, version=session.version)
            return
        stored = self.store.fork(owner, session_id, new_id, turn, version=session.version)
        self.sessions += 1
        turns = len(session.path) if turn is None else turn
        head = session.path[turns - 1] if turns else None
        self.model[owner, new_id] = replace(
            session,
            created=self.sessions,
            version=stored.version,
            head=head,
            taken=[],
            parent=(session_id, turns),
        )

    @precondition(lambda self: self.model)
    @rule(data=st.data(), named=st.booleans())
    def remove(self, data: st.DataObject, named: bool) -> None:
        owner, session_id, session = self.draw_session(data)
        self.store.remove(owner, session_id, version=session.version if named else None)
        del self.model[owner, session_id]
        needed = {
            turn
            for other in self.model.values()
            for last in [*other.taken, *other.path]
            for turn in last.path
        }
        # Only a removal deletes, and only in its own tree: a fork that was reverted past its origin, which
        # is gone, still has what it reverted.
        self.stored = {turn for turn in self.stored if turn.tree != session.tree or turn in needed}

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def come_too_late(self, data: st.DataObject) -> None:
        owner, session_id, session = self.draw_session(data)
        stale = session.version - data.draw(st.sampled_from([1, 2, -1, 1 << 32]))
        new = NewTurn.last_of(session_of(data.draw(next_snapshots(session.snapshot))), "text")
        for call in (
            lambda: self.store.append_turn(owner, session_id, stale, new),
            lambda: self.store.revert(owner, session_id, stale, 0),
            lambda: self.store.fork(owner, session_id, "new", version=stale),
            lambda: self.store.remove(owner, session_id, version=stale),
        ):
            with pytest.raises(Conflict):
                call()

    @rule(data=st.data(), owner=OWNERS, session_id=IDS)
    def name_what_is_not_there(self, data: st.DataObject, owner: str, session_id: str) -> None:
        if (owner, session_id) in self.model:
            return
        new = NewTurn.last_of(session_of(data.draw(next_snapshots(empty_snapshot(None, 1)))), "text")
        for call in (
            lambda: self.store.get(owner, session_id),
            lambda: self.store.history(owner, session_id),
            lambda: self.store.snapshot(owner, session_id),
            lambda: self.store.find_request(owner, session_id, "r1"),
            lambda: self.store.append_turn(owner, session_id, 0, new),
            lambda: self.store.revert(owner, session_id, 0, 0),
            lambda: self.store.fork(owner, session_id, "new"),
            lambda: self.store.remove(owner, session_id),
        ):
            with pytest.raises(SessionNotFound):
                call()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store.open(self.database)

    # -- what is always true --------------------------------------------------------------------

    @invariant()
    def holds_the_same_sessions(self) -> None:
        assert self.store.count() == len(self.model)
        for owner in ("", "5f2b"):
            expected = {id: session for (whose, id), session in self.model.items() if whose == owner}
            listed = self.store.sessions(owner)
            newest_first = sorted(expected, key=lambda id: expected[id].created, reverse=True)
            assert [stored.id for stored in listed] == newest_first
            for stored in listed:
                session = expected[stored.id]
                assert (stored.turns, stored.tokens) == (len(session.path), len(session.snapshot["tokens"]))
                assert (stored.version, stored.owner) == (session.version, owner)
                assert (stored.parent, stored.parent_turn) == session.parent
                assert self.store.get(owner, stored.id) == stored

    @invariant()
    def gives_back_every_field(self) -> None:
        for (owner, session_id), session in self.model.items():
            _, snapshot = self.store.snapshot(owner, session_id)
            assert snapshot == session.snapshot
            assert session_of(snapshot).snapshot() == session.snapshot

    @invariant()
    def finds_requests(self) -> None:
        for (owner, session_id), session in self.model.items():
            taken = {turn.request_id: turn for turn in session.taken}
            for request_id in ("r1", "r\0"):
                found = self.store.find_request(owner, session_id, request_id)
                if request_id not in taken:
                    assert found is None
                    continue
                turn = taken[request_id]
                assert found is not None and found.reverted == (turn not in session.path)
                assert found.turn.index == len(turn.path) - 1
                assert found.turn.text == turn.snapshot["turns"][-1]["text"]

    @invariant()
    def deletes_what_nobody_needs_and_nothing_else(self) -> None:
        assert self.stored_turns() == len(self.stored)


def test_store_is_its_model(database: str) -> None:
    # A server is slower to ask than a file, and the code is the same.
    share = 2 if database.startswith("sqlite") else 4
    machine = type("Machine", (StoreMachine,), {"database": database})
    run_state_machine_as_test(machine, settings=settings(max_examples=settings().max_examples // share))
