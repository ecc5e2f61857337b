"""What the service asks of an engine, and what an engine tells it: plain data, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from chat_server.store import NewTurn, PromptKind
from lm_core.prompt import PreparedPrompt
from lm_core.sampler import SamplingParams


@dataclass(frozen=True)
class SessionKey:
    """One session for as long as it exists.  A later one of the same name has another key."""

    owner: str
    id: str
    created: str
    """When it was created, to the microsecond."""


@dataclass(frozen=True)
class Job:
    """One turn to take."""

    ticket: int
    """Grows with the order of arrival, and names the job."""
    key: SessionKey
    version: int
    """The version of the session in the store that ``snapshot`` was read at."""
    snapshot: Mapping[str, Any]
    """What ``lm_core.session.Session.from_snapshot`` reads."""
    prompt: PreparedPrompt
    prompt_kind: PromptKind
    params: SamplingParams
    max_new_tokens: int
    stop: tuple[str, ...]
    request_id: str
    request_hash: str
    tell_text: bool = True
    """Whether anybody wants to see the text while it is made."""


@dataclass(frozen=True)
class Text:
    """Text that is certain now."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The turn is complete.  It counts once the service has stored it and said so: ``Engine.settle``."""

    record: NewTurn


@dataclass(frozen=True)
class Cancelled:
    """The turn was given up, and the session is as it was."""


@dataclass(frozen=True)
class Failed:
    """The turn came to an error, and the session is as it was."""

    error: Exception


Event = Text | Finished | Cancelled | Failed
"""A job sends any number of :class:`Text`, if it is to, and then exactly one of the others."""

Deliver = Callable[[Event], None]
"""Called on the event loop's thread."""


@dataclass(frozen=True)
class EngineStatus:
    """What an engine was doing at one moment, and has done so far."""

    running: int = 0
    waiting: int = 0
    kv_bytes: int = 0
    caches: int = 0
    """Sessions with a cache in memory, running or idle."""
    evictions: int = 0
    rebuilds: int = 0
    steps: int = 0
    decoded_tokens: int = 0
    prefilled_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Engine(Protocol):
    """Takes turns.  No method blocks; all are called on the event loop's thread."""

    @property
    def status(self) -> EngineStatus:
        """What it is doing."""

    def submit(self, job: Job, deliver: Deliver) -> None:
        """Take a turn when it is this job's."""

    def cancel(self, ticket: int) -> None:
        """Give a job up within one token.  Does nothing once it has ended."""

    def settle(self, key: SessionKey, version: int | None) -> None:
        """The session's finished turn is stored as ``version``; or, with None, it never was."""

    def revert(self, key: SessionKey, version: int, turn: int, new_version: int) -> None:
        """The session, known at ``version``, was reverted to before ``turn`` and has a new version."""

    def fork(self, key: SessionKey, version: int, new: SessionKey, new_version: int, turn: int) -> None:
        """A session was forked from before ``turn`` of another one, known at ``version``."""

    def forget(self, key: SessionKey) -> None:
        """The session is gone."""
