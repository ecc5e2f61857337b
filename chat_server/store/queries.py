"""Finding sessions and following the tree of turns."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from chat_server.store.tables import SESSION, TURN

Row = dict[str, Any]
"""Column names and values."""

_SESSIONS = sa.select(
    SESSION,
    sa.func.coalesce(TURN.c.position + 1, 0).label("turns"),
    sa.func.coalesce(TURN.c.tokens, 0).label("tokens"),
    TURN.c.checksum.label("head_checksum"),
).select_from(SESSION.outerjoin(TURN, SESSION.c.head == TURN.c.key))


def _path() -> sa.CTE:
    """The turns from ``:head`` back to the position ``:stop``."""
    path = (
        sa.select(TURN.c.key, TURN.c.parent, TURN.c.position)
        .where(TURN.c.key == sa.bindparam("head"))
        .cte("path", recursive=True)
    )
    before = TURN.alias("before")
    # Positions fall by one at each step, so that even a damaged tree has no endless path.
    step = sa.and_(before.c.key == path.c.parent, before.c.position == path.c.position - 1)
    return path.union_all(
        sa.select(before.c.key, before.c.parent, before.c.position).where(
            step, before.c.position >= sa.bindparam("stop")
        )
    )


_PATH = _path()
_CHAIN = sa.select(TURN).join(_PATH, TURN.c.key == _PATH.c.key).order_by(TURN.c.position)
_ANCESTOR = sa.select(_PATH.c.key).where(_PATH.c.position == sa.bindparam("stop"))
_SESSION = _SESSIONS.where(SESSION.c.owner == sa.bindparam("owner"), SESSION.c.id == sa.bindparam("id"))
# Newest first: keys only grow, while a clock can be set back.
_SESSIONS_OF = _SESSIONS.where(SESSION.c.owner == sa.bindparam("owner")).order_by(SESSION.c.key.desc())
_REQUEST = sa.select(TURN).where(
    TURN.c.session == sa.bindparam("session_key"), TURN.c.request_id == sa.bindparam("request_id")
)


def find_session(connection: sa.Connection, owner: str, session_id: str) -> Row | None:
    """An owner's session, with the figures of its last turn."""
    return _first(connection.execute(_SESSION, {"owner": owner, "id": session_id}))


def sessions_of(connection: sa.Connection, owner: str) -> list[Row]:
    """All sessions of an owner, newest first."""
    return [row._asdict() for row in connection.execute(_SESSIONS_OF, {"owner": owner})]


def chain(connection: sa.Connection, head: int | None) -> list[Row]:
    """The turns from the first to ``head``, in one query whose time is proportional to their number."""
    if head is None:
        return []
    return [row._asdict() for row in connection.execute(_CHAIN, {"head": head, "stop": 0})]


def ancestor(connection: sa.Connection, head: int | None, position: int) -> int | None:
    """The key of the turn at ``position`` on the way to ``head``; None where there is none."""
    if head is None:
        return None
    found: int | None = connection.scalar(_ANCESTOR, {"head": head, "stop": position})
    return found


def find_request(connection: sa.Connection, session_key: int, request_id: str) -> Row | None:
    """The turn that a session took for a request."""
    return _first(connection.execute(_REQUEST, {"session_key": session_key, "request_id": request_id}))


def delete_unshared_turns(connection: sa.Connection, tree: int) -> None:
    """Delete the turns of a tree that no session of it has taken, nor built on."""
    owners = sa.select(SESSION.c.key).where(SESSION.c.tree == tree)
    garbage = sa.delete(TURN).where(TURN.c.tree == tree)
    if connection.execute(owners.limit(1)).first() is not None:
        heads = sa.select(SESSION.c.head).where(SESSION.c.tree == tree)
        # Reverted turns of a session stay as long as it does.
        wanted = sa.or_(TURN.c.session.in_(owners), TURN.c.key.in_(heads))
        kept = sa.select(TURN.c.key, TURN.c.parent).where(TURN.c.tree == tree, wanted).cte(recursive=True)
        before = TURN.alias("before")
        kept = kept.union(sa.select(before.c.key, before.c.parent).where(before.c.key == kept.c.parent))
        garbage = garbage.where(TURN.c.key.not_in(sa.select(kept.c.key)))
    connection.execute(garbage)


def _first(result: sa.CursorResult[Any]) -> Row | None:
    row = result.one_or_none()
    return None if row is None else row._asdict()
