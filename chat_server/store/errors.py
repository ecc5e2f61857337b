"""Everything that can go wrong with the store.

::

    LanguageModelError
    └── StoreError
        ├── StoreUnavailable        it cannot be opened, read or written
        │   ├── StoreBusy           another process has held it for too long; trying again may help
        │   ├── StoreReadOnly       it can be read but not written
        │   └── StoreFull           there is no space left
        ├── StoreDamaged            it is not a database, or not one that can be trusted
        ├── StoreVersionError       a newer program, or another one, has made it
        ├── SessionNotFound         the owner has no session of that name
        ├── SessionExists           the owner already has one
        ├── Conflict                the session has changed since it was read
        └── DuplicateRequest        the session already has a turn of that request

The messages of errors that can occur once a store is open name no file and no host, so that a
server may send them to a client.  After any of them the store is as it was before the call.
"""

from __future__ import annotations

from lm_core.errors import LanguageModelError


class StoreError(LanguageModelError):
    """The root of what the store raises, next to ``InvalidParameter`` for arguments out of range."""


class StoreUnavailable(StoreError):
    """The store cannot be opened, read or written."""


class StoreBusy(StoreUnavailable):
    """Another process has held the store for longer than the time-out."""


class StoreReadOnly(StoreUnavailable):
    """The store, or its folder, cannot be written."""


class StoreFull(StoreUnavailable):
    """There is no space left for the store to grow."""


class StoreDamaged(StoreError):
    """The file is not a database, or its content contradicts itself."""


class StoreVersionError(StoreError):
    """The database was made by a newer program, or by another one."""


class SessionNotFound(StoreError):
    """The owner has no session of that id; whether another owner has one cannot be told from it."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"there is no session {session_id!r}")
        self.session_id = session_id


class SessionExists(StoreError):
    """The owner already has a session of that id."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"there is a session {session_id!r} already; choose another id or remove that one")
        self.session_id = session_id


class Conflict(StoreError):
    """The session has changed since the version that the caller knows."""

    def __init__(self, session_id: str, expected: int, actual: int) -> None:
        super().__init__(f"session {session_id!r} has changed meanwhile; read it again and repeat")
        self.session_id = session_id
        self.expected = expected
        self.actual = actual


class DuplicateRequest(StoreError):
    """The session already has a turn, perhaps a reverted one, with this ``request_id``."""

    def __init__(self, session_id: str, request_id: str) -> None:
        super().__init__(f"session {session_id!r} already has a turn of request {request_id!r}")
        self.session_id = session_id
        self.request_id = request_id
