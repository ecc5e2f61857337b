"""The store: sessions as heads of a parent-linked tree of turns.

A turn is written once and never changed.  Reverting moves a session's head to an earlier turn and
deletes nothing; a fork is a new head in the same tree and shares its past.  Every change of a
session names the version it starts from, and is refused where the session has another one by then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from chat_server.store import queries
from chat_server.store.address import database_url
from chat_server.store.database import Database
from chat_server.store.errors import Conflict, DuplicateRequest, SessionExists, SessionNotFound, StoreDamaged
from chat_server.store.queries import Row
from chat_server.store.records import FoundRequest, NewTurn, StoredSession, StoredTurn
from chat_server.store.tables import SESSION, TURN
from chat_server.store.turn_rows import (
    broken_chain,
    check_chain,
    check_text,
    from_microseconds,
    snapshot,
    stored_turn,
    to_microseconds,
    turn_values,
)
from lm_core.errors import InvalidParameter
from lm_core.model import PREFILL_CHUNK

VERSION_BITS = 32
"""A session's versions begin with its key, so that no two sessions, also of the same id, ever share one."""


def utc_now() -> datetime:
    """The time that sessions and turns are stamped with."""
    return datetime.now(UTC)


class Store:
    """Sessions in a database.  Every method may be called from any thread and blocks until it is done.

    A change is on disk when its method returns, and either wholly there or not at all.  Beside
    what each method names, all may raise :class:`StoreUnavailable` and :class:`StoreDamaged`,
    and ``InvalidParameter`` for text that no database can hold (a lone surrogate).
    """

    @classmethod
    def open(cls, database: str | None = None, *, clock: Callable[[], datetime] = utc_now) -> Store:
        """Open a store, make it where there is none, and bring an older one up to date.

        Args:
            database: ``sqlite:///path``, ``postgresql+psycopg://user@host/name``, or the path of a
                SQLite file.  By default ``chat.sqlite`` in the user's data folder, which is made;
                any other folder must exist.
            clock: the time now, in UTC.

        Raises:
            InvalidParameter: ``database`` is not an address of a supported database.
            StoreUnavailable, StoreDamaged, StoreVersionError: it cannot be opened, and why.
        """
        return cls(Database(database_url(database)), clock)

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        """Use :meth:`open` instead, which takes an address."""
        self._database = database
        self._clock = clock

    @property
    def location(self) -> str:
        """Where the store is, for logs: the path of its file, or its URL without the password."""
        return self._database.location

    def close(self) -> None:
        """Let go of the database.  No other method may be called from now on."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- sessions -------------------------------------------------------------------------------

    def create(
        self,
        owner: str,
        session_id: str,
        *,
        model: str,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> StoredSession:
        """A new session without turns.

        Args:
            system: the message before all others.
            sampling: the session's own defaults, which the store keeps and does not read.
            prefill_chunk: what its snapshot has until the first turn, which knows its own.

        Raises:
            SessionExists: the owner has one of that id.
        """
        check_text("model", model, nul=False)
        check_text("system", system)
        with self._database.write() as connection:
            _require_free(connection, owner, session_id)
            return self._insert(
                connection,
                owner=owner,
                id=session_id,
                model=model,
                system=system,
                sampling=_to_json("sampling", sampling or {}),
                prefill_chunk=prefill_chunk,
            )

    def get(self, owner: str, session_id: str) -> StoredSession:
        """A session of this owner.

        Raises:
            SessionNotFound: the owner has no session of that id.
        """
        with self._database.read() as connection:
            return _session(_find(connection, owner, session_id))

    def sessions(self, owner: str) -> list[StoredSession]:
        """All sessions of this owner, newest first."""
        with self._database.read() as connection:
            return [_session(row) for row in queries.sessions_of(connection, owner)]

    def count(self) -> int:
        """How many sessions there are, of all owners."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(SESSION)).scalar_one()

    def history(self, owner: str, session_id: str) -> tuple[StoredSession, list[StoredTurn]]:
        """A session with the turns that are in force, first to last, as of one moment.

        Raises:
            SessionNotFound: the owner has no session of that id.
            StoreDamaged: a turn is not what was stored.
        """
        session, rows = self._load(owner, session_id)
        return _session(session), [stored_turn(row) for row in rows]

    def snapshot(self, owner: str, session_id: str) -> tuple[StoredSession, dict[str, Any]]:
        """A session with what ``Session.snapshot`` gave after its last turn, for ``Session.rebuild``.

        Raises:
            SessionNotFound: the owner has no session of that id.
            StoreDamaged: a turn is not what was stored.
        """
        session, rows = self._load(owner, session_id)
        return _session(session), snapshot(session, rows)

    def find_request(self, owner: str, session_id: str, request_id: str) -> FoundRequest | None:
        """The turn that this session took for ``request_id``, reverted or not; None if there is none.

        A fork does not know the requests of the session it comes from.

        Raises:
            SessionNotFound: the owner has no session of that id.
        """
        check_text("request_id", request_id)
        with self._database.read() as connection:
            session = _find(connection, owner, session_id)
            row = queries.find_request(connection, session["key"], request_id)
            if row is None:
                return None
            in_force = queries.ancestor(connection, session["head"], row["position"])
        return FoundRequest(stored_turn(row), reverted=in_force != row["key"])

    # -- changes --------------------------------------------------------------------------------

    def append_turn(
        self, owner: str, session_id: str, version: int, new: NewTurn
    ) -> tuple[StoredSession, StoredTurn]:
        """Add a turn after the last one.  It is on disk when this returns.

        Raises:
            SessionNotFound: the owner has no session of that id.
            Conflict: the session is not at ``version``.
            DuplicateRequest: the session has a turn of that ``request_id``, reverted or not.
            InvalidParameter: the turn does not follow the session's last one.
        """
        check_text("question", new.turn.question)
        check_text("text", new.turn.text)
        check_text("rendered", new.added_rendered)
        check_text("request_id", new.request_id)
        check_text("request_hash", new.request_hash)
        with self._database.write() as connection:
            session = _find(connection, owner, session_id)
            if new.request_id is not None and queries.find_request(
                connection, session["key"], new.request_id
            ):
                raise DuplicateRequest(session_id, new.request_id)
            _require_version(session, version)
            _require_successor(session, new)
            values = turn_values(new, self._clock(), session["head_checksum"] or b"")
            place = {"parent": session["head"], "tree": session["tree"], "session": session["key"]}
            head = _inserted_key(connection, TURN, {**place, **values})
            _change(connection, session, head=head, prefill_chunk=new.prefill_chunk)
            return _session(_find(connection, owner, session_id)), stored_turn(values)

    def revert(self, owner: str, session_id: str, version: int, turn: int) -> StoredSession:
        """Go back to the state before turn ``turn``; ``0 <= turn < number of turns``.

        Raises:
            SessionNotFound: the owner has no session of that id.
            Conflict: the session is not at ``version``.
            InvalidParameter: there is no such turn.
        """
        with self._database.write() as connection:
            session = _find(connection, owner, session_id)
            _require_version(session, version)
            _require_turn(turn, session["turns"] - 1, session["turns"])
            _change(connection, session, head=_head_before(connection, session, turn))
            return _session(_find(connection, owner, session_id))

    def fork(
        self,
        owner: str,
        session_id: str,
        new_id: str,
        turn: int | None = None,
        *,
        version: int | None = None,
    ) -> StoredSession:
        """A new session that continues from before ``turn`` of this one, and shares its past.

        Args:
            turn: from 0 to the number of turns, which means now, as None does.
            version: refuse where the session is at another one; None does not care.

        Raises:
            SessionNotFound: the owner has no session of that id.
            SessionExists: the owner has a session ``new_id``.
            Conflict: the session is not at ``version``.
            InvalidParameter: there is no such turn.
        """
        with self._database.write() as connection:
            session = _find(connection, owner, session_id)
            _require_version(session, version)
            _require_free(connection, owner, new_id)
            turns = session["turns"] if turn is None else turn
            _require_turn(turns, session["turns"], session["turns"])
            return self._insert(
                connection,
                owner=owner,
                id=new_id,
                tree=session["tree"],
                model=session["model"],
                system=session["system"],
                sampling=session["sampling"],
                prefill_chunk=session["prefill_chunk"],
                head=_head_before(connection, session, turns),
                parent=session_id,
                parent_turn=turns,
            )

    def remove(self, owner: str, session_id: str, *, version: int | None = None) -> None:
        """Delete a session and the turns that no other session shares.

        Args:
            version: refuse where the session is at another one; None does not care.

        Raises:
            SessionNotFound: the owner has no session of that id.
            Conflict: the session is not at ``version``.
        """
        with self._database.write() as connection:
            session = _find(connection, owner, session_id)
            _require_version(session, version)
            connection.execute(sa.delete(SESSION).where(SESSION.c.key == session["key"]))
            queries.delete_unshared_turns(connection, session["tree"])

    def _load(self, owner: str, session_id: str) -> tuple[Row, list[Row]]:
        with self._database.read() as connection:
            session = _find(connection, owner, session_id)
            rows = queries.chain(connection, session["head"])
        check_chain(session_id, rows, session["turns"])
        return session, rows

    def _insert(self, connection: sa.Connection, **values: Any) -> StoredSession:
        unknown = {"tree": 0, "version": 0, "created_at": to_microseconds(self._clock())}
        key = _inserted_key(connection, SESSION, {**unknown, **values})
        known = {"tree": values.get("tree", key), "version": key << VERSION_BITS}
        connection.execute(sa.update(SESSION).where(SESSION.c.key == key).values(**known))
        return _session(_find(connection, values["owner"], values["id"]))


def _session(row: Row) -> StoredSession:
    try:
        sampling = json.loads(row["sampling"])
    except ValueError as error:
        raise StoreDamaged(
            f"session {row['id']!r} is damaged: its sampling defaults are not JSON; "
            "remove it, or restore the store from a backup"
        ) from error
    return StoredSession(
        id=row["id"],
        owner=row["owner"],
        model=row["model"],
        created_at=from_microseconds(row["created_at"]),
        system=row["system"],
        sampling=sampling,
        turns=row["turns"],
        tokens=row["tokens"],
        version=row["version"],
        parent=row["parent"],
        parent_turn=row["parent_turn"],
    )


def _find(connection: sa.Connection, owner: str, session_id: str) -> Row:
    check_text("id", session_id, nul=False)
    row = queries.find_session(connection, owner, session_id)
    if row is None:
        raise SessionNotFound(session_id)
    return row


def _require_free(connection: sa.Connection, owner: str, session_id: str) -> None:
    check_text("id", session_id, nul=False)
    if queries.find_session(connection, owner, session_id) is not None:
        raise SessionExists(session_id)


def _require_version(session: Row, version: int | None) -> None:
    if version is not None and session["version"] != version:
        raise Conflict(session["id"], version, session["version"])


def _require_turn(turn: int, highest: int, turns: int) -> None:
    if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn <= highest:
        raise InvalidParameter("turn", f"turn is {turn!r}; the session has {turns} turns, from 0 on")


def _require_successor(session: Row, new: NewTurn) -> None:
    undo = new.turn.undo
    if (new.index, undo.kept_tokens + len(undo.replaced_tokens)) != (session["turns"], session["tokens"]):
        raise InvalidParameter(
            "turn",
            f"turn {new.index} does not follow the last one of session {session['id']!r}, "
            f"which has {session['turns']} turns of {session['tokens']} tokens",
        )


def _head_before(connection: sa.Connection, session: Row, turn: int) -> int | None:
    """The key of the turn that comes before ``turn``; None before the first."""
    if turn == 0:
        return None
    key = queries.ancestor(connection, session["head"], turn - 1)
    if key is None:
        raise broken_chain(session["id"])
    return key


def _change(connection: sa.Connection, session: Row, **values: Any) -> None:
    changed = {**values, "version": session["version"] + 1}
    connection.execute(sa.update(SESSION).where(SESSION.c.key == session["key"]).values(**changed))


def _inserted_key(connection: sa.Connection, table: sa.Table, values: Row) -> int:
    inserted = connection.execute(sa.insert(table).values(**values)).inserted_primary_key
    if inserted is None:
        raise TypeError("the database did not tell the key of a new row")
    return int(inserted[0])


def _to_json(param: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidParameter(param, f"{param} cannot be written as JSON: {error}") from error
