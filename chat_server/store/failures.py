"""What the databases' own errors mean, in words for a person."""

from __future__ import annotations

import sqlite3

import sqlalchemy.exc

from chat_server.store.errors import (
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

BUSY = StoreBusy, "is held by another program; try again, or end that program"
READ_ONLY = StoreReadOnly, "cannot be written; check the permissions of its file and folder"
FULL = StoreFull, "has no space left to grow; free some on its disk"
DAMAGED = StoreDamaged, "is damaged; restore it from a backup, or name another database"
NOT_A_DATABASE = StoreDamaged, "is not a database; name another file"
NOT_OPENED = StoreUnavailable, "cannot be opened; check that its folder exists and can be written"
DISK_FAILED = StoreUnavailable, "cannot be read or written: the disk reports an error"
DENIED = StoreUnavailable, "refuses the user; check name, password and permissions in the database's address"
UNREACHABLE = StoreUnavailable, "cannot be reached; check the address and that the database server runs"

Meaning = tuple[type[StoreError], str]

# Primary result codes, https://sqlite.org/rescode.html
_SQLITE: dict[int, Meaning] = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_IOERR: DISK_FAILED,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_CANTOPEN: NOT_OPENED,
    sqlite3.SQLITE_NOTADB: NOT_A_DATABASE,
}

# Codes and classes of them, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL: dict[str, Meaning] = {
    "08": UNREACHABLE,
    "25006": READ_ONLY,
    "28": DENIED,
    "3D": (StoreUnavailable, "does not exist; make it with createdb"),
    "42501": DENIED,
    "53100": FULL,
    "53": (StoreUnavailable, "has no resources left; try again later"),
    "55P03": BUSY,
    "57014": BUSY,
    "57": UNREACHABLE,
    "58": DISK_FAILED,
    "XX": DAMAGED,
}


def explain(error: sqlalchemy.exc.SQLAlchemyError, store: str, opening: bool) -> StoreError | None:
    """The error to raise instead, whose sentence begins with ``store``; None if it tells of a bug.

    What a server says of a connection it refuses is told while ``opening``, when only its user reads it.
    """
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return StoreBusy(f"{store} has too many callers at once; try again")
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return None
    meaning = _meaning(error)
    if meaning == UNREACHABLE and opening:
        # The last words of "connection failed: ... failed: FATAL:  role "me" does not exist".
        reason = str(error.orig).partition("\n")[0].rpartition("failed: ")[2]
        return StoreUnavailable(f"{store} cannot be reached: {' '.join(reason.split())}")
    return meaning[0](f"{store} {meaning[1]}") if meaning else None


def _meaning(error: sqlalchemy.exc.DBAPIError) -> Meaning | None:
    original = error.orig
    if isinstance(original, sqlite3.Error):
        # The low byte is the kind, the rest details.  Text that is not UTF-8 is found by Python and has none.
        code = getattr(original, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return _SQLITE.get(code & 0xFF)
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    # A PostgreSQL server that was never reached, or has gone away, has no code to give.
    if error.connection_invalidated or isinstance(error, sqlalchemy.exc.OperationalError):
        return UNREACHABLE
    return None
