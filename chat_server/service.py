"""What the server does, whatever the routes look like: sessions, turns, and what goes on between them.

The store is the truth.  A turn is read from it, taken by the engine, and written to it before
anybody is told that it is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from chat_server.admission import Admission
from chat_server.bodies import CreateSession, Fork
from chat_server.checks import Checks, another_body, check_turn, session_key
from chat_server.defaults import Defaults
from chat_server.errors import (
    Conflicting,
    InvalidRequest,
    RequestError,
    ServerFault,
    Unavailable,
    as_request_error,
)
from chat_server.jobs import Cancelled, Engine, Event, Failed, Finished, Job, Text
from chat_server.large_work import LARGE_TEXT, LargeWork
from chat_server.metrics import Metrics
from chat_server.store import Store, StoredSession, StoredTurn
from chat_server.turns import Done, Generation, SessionLocks, TurnRequest, uninterrupted
from lm_core.language_model import LanguageModel

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LULL = 3
"""Turns of the event loop before a check, which is mostly Python and keeps its lock from the loop: who came
at the same time and found no place has been told so by then."""
CLIENT_GONE = InvalidRequest("client_gone", "the client went away")


class ChatService:
    """Sessions of many clients.  Every method belongs to the event loop's thread."""

    def __init__(
        self,
        language_model: LanguageModel,
        engine: Engine,
        store: Store,
        admission: Admission,
        defaults: Defaults,
        context_length: int,
        executor: Executor,
        checkers: Executor,
        texts: LargeWork,
        metrics: Metrics,
    ) -> None:
        self.language_model = language_model
        self.context_length = context_length
        self.engine = engine
        self.admission = admission
        self._store = store
        self._checks = Checks(language_model, store, defaults, context_length)
        self._executor = executor
        self._checkers = checkers
        self._texts = texts
        self._metrics = metrics
        self._locks = SessionLocks()
        self._generations: set[Generation] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._pending: dict[tuple[str, str, str], str] = {}

    # -- sessions ---------------------------------------------------------------------------------

    async def create(self, owner: str, body: CreateSession) -> StoredSession:
        """A new session."""
        self._begin_change()

        def create() -> StoredSession:
            if body.system is not None:
                self._checks.check_system(body.system)
            sampling = body.sampling.model_dump(exclude_none=True) if body.sampling is not None else None
            return self._store.create(
                owner, body.id, model=self.language_model.name, system=body.system, sampling=sampling
            )

        stored = await self._with_text(body.system, create)
        logger.info("Session created: %s", stored.id, extra={"session": stored.id})
        return stored

    async def sessions(self, owner: str) -> list[StoredSession]:
        """All of this owner, newest first."""
        return await self._in_thread(lambda: self._store.sessions(owner))

    async def count(self) -> int:
        """Sessions of all owners."""
        # In a thread of its own: who asks how the server does must not wait for its work.
        return await asyncio.to_thread(self._store.count)

    async def history(self, owner: str, session_id: str) -> tuple[StoredSession, list[StoredTurn]]:
        """A session with its turns."""
        return await self._in_thread(lambda: self._store.history(owner, session_id))

    async def revert(
        self, owner: str, session_id: str, turn: int, expected_turn: int | None = None
    ) -> tuple[StoredSession, list[int]]:
        """Go back to the state before ``turn``; also returns the tokens that remain."""
        self._begin_change()

        def revert() -> tuple[StoredSession, StoredSession, list[int]]:
            before = self._store.get(owner, session_id)
            check_turn(before, expected_turn)
            if turn >= before.turns:
                raise InvalidRequest(
                    "invalid_value",
                    f"turn is {turn}; the session has {before.turns} turns, from 0 on",
                    "turn",
                )
            self._store.revert(owner, session_id, before.version, turn)
            after, snapshot = self._store.snapshot(owner, session_id)
            return before, after, snapshot["tokens"]

        async with self._locks.hold(owner, session_id):
            before, after, tokens = await self._change(revert)
            self.engine.revert(session_key(before), before.version, turn, after.version)
        logger.info(
            "Revert session %s to the state before %dth generation",
            session_id,
            turn,
            extra={"session": session_id, "turn": turn},
        )
        return after, tokens

    async def fork(self, owner: str, session_id: str, body: Fork) -> StoredSession:
        """A new session that continues from a state of another one."""
        self._begin_change()

        def fork() -> tuple[StoredSession, StoredSession, int]:
            origin = self._store.get(owner, session_id)
            turn = origin.turns if body.turn is None else body.turn
            new = self._store.fork(owner, session_id, body.id, turn, version=origin.version)
            return origin, new, turn

        async with self._locks.hold(owner, session_id):
            origin, new, turn = await self._change(fork)
            self.engine.fork(session_key(origin), origin.version, session_key(new), new.version, turn)
        logger.info(
            "Session forked: %s from %s before %dth generation",
            new.id,
            session_id,
            turn,
            extra={"session": new.id, "parent": session_id, "turn": turn},
        )
        return new

    async def remove(self, owner: str, session_id: str) -> None:
        """Delete a session."""
        self._begin_change()

        def remove() -> StoredSession:
            stored = self._store.get(owner, session_id)
            self._store.remove(owner, session_id)
            return stored

        async with self._locks.hold(owner, session_id):
            self.engine.forget(session_key(await self._change(remove)))
        logger.info("Session removed: %s", session_id, extra={"session": session_id})

    # -- text and tokens --------------------------------------------------------------------------

    async def tokenize(self, content: str, special: bool) -> list[int]:
        """Token ids of a text, whose control tokens are text unless ``special``."""

        def encode() -> list[int]:
            text = content if special else self.language_model.disarmed(content)
            return self.language_model.encode_rendered(text)

        return await self._with_text(content, encode)

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of token ids, control tokens included."""
        self._checks.check_ids(tokens, "tokens")
        tokenizer = self.language_model.tokenizer
        return await self._in_thread(lambda: tokenizer.decode(tokens, skip_special_tokens=False))

    # -- turns ------------------------------------------------------------------------------------

    def generate(self, owner: str, session_id: str, request: TurnRequest, ticket: int) -> Generation:
        """Start to take a turn that was admitted as ``ticket``, which is left when it ends.

        Raises:
            Conflicting: the same request is being answered at this moment.
            InvalidRequest: another one of the same ``request_id`` is (422).
        """
        pending = (owner, session_id, request.request_id or uuid.uuid4().hex)
        if pending in self._pending:
            self.admission.leave(None)
            if self._pending[pending] != request.request_hash:
                raise another_body(request)
            raise Conflicting(
                "request_in_progress",
                f"request {request.request_id!r} is being answered already",
                "request_id",
            )
        logger.debug("Turn requested for session %s", session_id, extra={"request_id": pending[2]})
        self._pending[pending] = request.request_hash
        generation = Generation()
        self._generations.add(generation)
        generation.run_as(self._take_turn(generation, ticket, owner, session_id, request, pending[2]))

        def ended(task: asyncio.Task[None]) -> None:
            del self._pending[pending]
            self._generations.discard(generation)
            # A task that is cancelled before it began has not said so itself.
            if task.cancelled():
                generation.fail(generation.reason or CLIENT_GONE)
                self.admission.leave(None)

        generation.task.add_done_callback(ended)
        return generation

    @property
    def turns_in_progress(self) -> int:
        """Turns that run or wait."""
        return len(self._generations)

    @property
    def queued(self) -> int:
        """Turns that wait: for the engine, or for another turn of their session."""
        return max(0, self.admission.admitted - self.engine.status.running)

    async def idle(self) -> None:
        """Wait until no turn runs or waits, nor anything else that changes the store."""
        while tasks := [*(generation.task for generation in self._generations), *self._changes]:
            await asyncio.wait(tasks)

    def cancel_all(self, reason: RequestError) -> None:
        """Give every turn up."""
        for generation in list(self._generations):
            generation.cancel(reason)

    async def _take_turn(
        self,
        generation: Generation,
        ticket: int,
        owner: str,
        session_id: str,
        request: TurnRequest,
        request_id: str,
    ) -> None:
        started, seconds = time.monotonic(), None
        log = {"session": session_id, "request_id": request_id}
        try:
            async with self._locks.hold(owner, session_id):
                job = await self._with_text(
                    request.prompt, self._checks.checked, ticket, owner, session_id, request, request_id
                )
                if isinstance(job, Done):
                    logger.info("Repeated request for session %s: turn told again", session_id, extra=log)
                    generation.tell(job)
                    return
                generation.accept()
                done = await self._run(generation, job)
            seconds = time.monotonic() - started
            generation.tell(done)
            self._metrics.turn(done.turn)
            logger.info(
                "Generated tokens for session %s",
                session_id,
                extra=log | {"turn": done.turn.index, "tokens": done.turn.generated_tokens},
            )
        except asyncio.CancelledError:
            error = generation.reason or CLIENT_GONE
            generation.fail(error)
            logger.info("Generation cancelled for session %s: %s", session_id, error, extra=log)
        except Exception as problem:
            error = as_request_error(problem)
            generation.fail(error)
            if isinstance(error, ServerFault):
                logger.error("Generation failed for session %s", session_id, exc_info=problem, extra=log)
            else:
                logger.info("Generation refused for session %s: %s", session_id, error, extra=log)
        finally:
            self.admission.leave(seconds)

    async def _run(self, generation: Generation, job: Job) -> Done:
        """Have the engine take the turn, and store it."""
        events = asyncio.Queue[Event]()
        self.engine.submit(job, events.put_nowait)
        try:
            event = await events.get()
            while isinstance(event, Text):
                generation.tell(event)
                event = await events.get()
        except asyncio.CancelledError:
            self.engine.cancel(job.ticket)
            # The session stays locked until the engine has let go of it.
            while isinstance(event := await events.get(), Text):
                pass
            if isinstance(event, Finished):
                self.engine.settle(job.key, None)
            raise
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Cancelled):
            raise Unavailable("cancelled", "the turn was given up; send it again")
        try:
            after, turn = await self._change(
                self._store.append_turn, job.key.owner, job.key.id, job.version, event.record
            )
        except BaseException:
            self.engine.settle(job.key, None)
            raise
        self.engine.settle(job.key, after.version)
        return Done(turn, list(event.record.added_tokens[-turn.generated_tokens :]))

    def _begin_change(self) -> None:
        """Take on what the present task does to the store, beside turns."""
        self.admission.refuse_while_draining()
        task = asyncio.current_task()
        if task is not None:
            self._changes.add(task)
            task.add_done_callback(self._changes.discard)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, work, *arguments)

    async def _with_text(
        self, text: str | list[int] | None, work: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Like :meth:`_in_thread`, for what may tokenize ``text``."""
        if text is not None and len(text) > LARGE_TEXT:
            return await self._texts.run(work, *arguments)
        for _ in range(LULL):
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._checkers, work, *arguments)

    async def _change(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Like :meth:`_in_thread`, for what changes the store: its outcome is waited for in any case."""
        loop = asyncio.get_running_loop()
        result: Result = await uninterrupted(loop.run_in_executor(self._executor, work, *arguments))
        return result
