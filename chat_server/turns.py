"""A turn on its way from a request to the store, and the locks that keep a session's turns apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from chat_server.bodies import Generate, Sampling
from chat_server.errors import RequestError
from chat_server.jobs import Text
from chat_server.store import PromptKind, StoredTurn


@dataclass(frozen=True)
class TurnRequest:
    """What a client asked for, whichever of its forms it used."""

    prompt: str | list[int]
    """A question, or the whole context as token ids."""
    sampling: Sampling
    request_id: str | None = None
    request_hash: str = ""
    expected_turn: int | None = None
    stream: bool = False

    @property
    def kind(self) -> PromptKind:
        """How the store tells the two forms apart."""
        return "messages" if isinstance(self.prompt, str) else "tokens"

    @classmethod
    def from_body(cls, body: Generate, request_hash: str, stream: bool) -> TurnRequest:
        """The request of a JSON object."""
        sampling = Sampling.model_construct(**{name: getattr(body, name) for name in Sampling.model_fields})
        return cls(body.content, sampling, body.request_id, request_hash, body.expected_turn, stream)


@dataclass(frozen=True)
class Done:
    """The turn as it is in the store."""

    turn: StoredTurn
    new_tokens: list[int]
    """The ids that were generated; empty where an earlier turn of the same request is told again."""


class Generation:
    """A turn that is being taken: a route reads from it, the service writes to it."""

    def __init__(self) -> None:
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told: asyncio.Queue[Text | Done | RequestError] = asyncio.Queue()
        self.task: asyncio.Task[None]
        """What takes the turn; set once by :meth:`run_as`."""
        self.reason: RequestError | None = None
        """Why it was cancelled."""

    # -- for routes -------------------------------------------------------------------------------

    async def accepted(self) -> None:
        """Wait until nothing but the engine can fail any more; raises the error of a check that did."""
        await self._accepted

    async def next(self) -> Text | Done:
        """The next piece of text, or the end; raises the error that ended it instead."""
        told = await self._told.get()
        if isinstance(told, RequestError):
            raise told
        return told

    async def result(self) -> Done:
        """Wait for the end; raises the error that ended it instead."""
        while not isinstance(told := await self.next(), Done):
            pass
        return told

    def cancel(self, reason: RequestError) -> None:
        """Give it up within one token, unless it is being stored already."""
        if self.reason is None and not self.task.done():
            self.reason = reason
            self.task.cancel()

    # -- for the service --------------------------------------------------------------------------

    def run_as(self, taking: Coroutine[Any, Any, None]) -> None:
        """Have ``taking`` take the turn, in a task of its own."""
        self.task = asyncio.get_running_loop().create_task(taking)

    def accept(self) -> None:
        """All checks have been passed."""
        if not self._accepted.done():
            self._accepted.set_result(None)

    def tell(self, told: Text | Done) -> None:
        """Pass on what has come."""
        self.accept()
        self._told.put_nowait(told)

    def fail(self, error: RequestError) -> None:
        """End in an error."""
        if self._accepted.done():
            self._told.put_nowait(error)
        else:
            self._accepted.set_exception(error)
            # Nobody waits where the client has gone; that is no mistake to be warned of.
            self._accepted.exception()


class SessionLocks:
    """One lock for each session that somebody uses.  Who came first is served first."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, owner: str, session_id: str) -> AsyncIterator[None]:
        """Keep every other change of this session out."""
        lock = self._locks.get((owner, session_id))
        if lock is None:
            lock = self._locks[(owner, session_id)] = asyncio.Lock()
        async with lock:
            yield


async def uninterrupted(work: asyncio.Future[Any]) -> Any:
    """Wait for ``work`` to the end, even where the waiting task is cancelled meanwhile."""
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise
        except Exception:
            break
    return work.result()
