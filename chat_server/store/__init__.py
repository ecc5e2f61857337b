"""The durable store of sessions: the truth that a KV cache is only a cache of.

>>> store = Store.open("sqlite:///chat.sqlite")
>>> stored = store.create("", "user0", model="chat")
>>> stored, turn = store.append_turn("", "user0", stored.version, NewTurn.last_of(session, "messages"))
>>> stored, snapshot = store.snapshot("", "user0")
>>> session = Session.rebuild(language_model, snapshot)
"""

from __future__ import annotations

from chat_server.store.errors import (
    Conflict,
    DuplicateRequest,
    SessionExists,
    SessionNotFound,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    StoreVersionError,
)
from chat_server.store.records import FoundRequest, NewTurn, PromptKind, StoredSession, StoredTurn
from chat_server.store.store import Store

__all__ = [
    "Conflict",
    "DuplicateRequest",
    "FoundRequest",
    "NewTurn",
    "PromptKind",
    "SessionExists",
    "SessionNotFound",
    "Store",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "StoreVersionError",
    "StoredSession",
    "StoredTurn",
]
