"""The engine: one thread that alone touches the model, the caches and the samplers.

Its life is :meth:`LocalEngine.step`: start whom the scheduler lets in, decode one token for every
session that is that far, compute one piece of one prompt, and tell the event loop what came of it.
A piece is a chunk of a new prompt, or of what an evicted session has to get back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from chat_server.jobs import (
    Cancelled,
    Deliver,
    EngineStatus,
    Event,
    Failed,
    Finished,
    Job,
    SessionKey,
    Text,
)
from chat_server.scheduler import Key, Scheduler
from chat_server.store import NewTurn
from lm_core.company import decode_together, misses_one_token
from lm_core.language_model import LanguageModel
from lm_core.session import Session
from lm_core.turn_in_progress import TurnInProgress

F32 = npt.NDArray[np.float32]

PREFILL_CHUNK = 128
"""Prompt tokens per piece: what a session that decodes may have to wait for.  GEMM is nearly as
fast as with larger chunks.  Sessions remember the chunks they were computed in."""

Post = Callable[[Callable[[], None]], object]
"""Runs a function on the event loop's thread: ``loop.call_soon_threadsafe``."""

logger = logging.getLogger(__name__)


@dataclass
class Resident:
    """A session in memory, as of one version in the store."""

    session: Session
    version: int


@dataclass
class Running:
    """A job between its start and its end."""

    job: Job
    session: Session
    turn: TurnInProgress


class LocalEngine:
    """An :class:`chat_server.jobs.Engine` in this process."""

    def __init__(
        self,
        language_model: LanguageModel,
        scheduler: Scheduler,
        post: Post,
        prefill_chunk: int = PREFILL_CHUNK,
        speculate: bool = False,
    ) -> None:
        self._language_model = language_model
        self._scheduler = scheduler
        self._post = post
        self._prefill_chunk = prefill_chunk
        self._speculate = speculate
        probe = language_model.llama.new_cache(1)
        self._smallest_capacity = language_model.llama.new_cache().capacity
        self._bytes_per_token = probe.nbytes
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._outbox: list[tuple[Deliver, Event]] = []
        self._delivers: dict[int, Deliver] = {}
        self._waiting: dict[int, Job] = {}
        self._running: dict[int, Running] = {}
        self._residents: dict[Key, Resident] = {}
        self._status = EngineStatus()
        self._evictions = self._rebuilds = self._steps = 0
        self._decoded_tokens = self._prefilled_tokens = 0
        self._drafted_tokens = self._accepted_tokens = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # -- what the event loop calls ----------------------------------------------------------------

    @property
    def status(self) -> EngineStatus:
        """As of the end of the last step."""
        return self._status

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; jobs that are left are cancelled.  Blocks until it has ended."""
        self._inbox.put(self._stop)
        self._thread.join()

    def submit(self, job: Job, deliver: Deliver) -> None:
        """See :class:`Engine`."""
        self._inbox.put(partial(self._submit, job, deliver))

    def cancel(self, ticket: int) -> None:
        """See :class:`Engine`."""
        self._inbox.put(partial(self._cancel, ticket))

    def settle(self, key: SessionKey, version: int | None) -> None:
        """See :class:`Engine`."""
        self._inbox.put(partial(self._settle, key, version))

    def revert(self, key: SessionKey, version: int, turn: int, new_version: int) -> None:
        """See :class:`Engine`."""
        self._inbox.put(partial(self._revert, key, version, turn, new_version))

    def fork(self, key: SessionKey, version: int, new: SessionKey, new_version: int, turn: int) -> None:
        """See :class:`Engine`."""
        self._inbox.put(partial(self._fork, key, version, new, new_version, turn))

    def forget(self, key: SessionKey) -> None:
        """See :class:`Engine`."""
        self._inbox.put(partial(self._forget, key))

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped:
            if not self._running and not self._waiting:
                # Nothing to do until something is asked for.
                self._obey(self._inbox.get())
            try:
                self.step()
            # What goes wrong for one job is dealt with there; this is a mistake in the engine itself,
            # after which it still has to answer everybody.
            except Exception as error:
                logger.exception("the engine failed in a step")
                self._fail_all(error)
                self._publish()

    def step(self) -> None:
        """Schedule, run, emit."""
        while not self._inbox.empty():
            self._obey(self._inbox.get())
        while (start := self._scheduler.next_start()) is not None:
            self._drop(start.evicted)
            self._begin(start.ticket)
        self._steps += 1
        self._decode()
        self._compute_piece()
        self._publish()

    def _obey(self, order: Callable[[], None]) -> None:
        try:
            order()
        # An order that cannot be followed must not end the turns of others.
        except Exception:
            logger.exception("the engine cannot follow an order")

    def _decode(self) -> None:
        """A token for every session whose prompt is computed, all of them together."""
        company = [self._running[ticket] for ticket in self._scheduler.decoding()]
        if not company:
            return
        try:
            logits = decode_together([running.session for running in company])
        except Exception as error:
            for running in company:
                self._fail(running, error)
            return
        self._decoded_tokens += len(company)
        for running, row in zip(company, logits, strict=True):
            self._accept(running, row)

    def _compute_piece(self) -> None:
        """One chunk of one prompt."""
        ticket = self._scheduler.next_prefill()
        if ticket is None:
            return
        running = self._running[ticket]
        before = running.session.cache.length
        try:
            logits = running.session.compute()
        except Exception as error:
            self._fail(running, error)
            return
        self._prefilled_tokens += running.session.cache.length - before
        if logits is not None:
            self._scheduler.prefilled(ticket)
            self._accept(running, logits)

    def _accept(self, running: Running, logits: F32) -> None:
        """Choose the token that follows, and those after it whose logits were computed ahead."""
        speculation = running.session.speculation
        if speculation is not None:
            self._drafted_tokens += speculation.ahead
        self._choose(running, logits)
        while not running.turn.ended and (foreseen := running.session.foreseen()) is not None:
            self._decoded_tokens += 1
            self._accepted_tokens += 1
            self._choose(running, foreseen)

    def _choose(self, running: Running, logits: F32) -> None:
        """Choose the token that follows, tell it, and see whether it was the last."""
        try:
            token = running.turn.accept(logits)
            if not running.turn.ended and not misses_one_token(running.session):
                raise RuntimeError("a session that decodes must miss exactly one token")
        except Exception as error:
            self._fail(running, error)
            return
        if token.text and running.job.tell_text:
            self._emit(running.job.ticket, Text(token.text))
        if running.turn.ended:
            self._finish(running)

    # -- the life of a job ------------------------------------------------------------------------

    def _submit(self, job: Job, deliver: Deliver) -> None:
        self._delivers[job.ticket] = deliver
        self._waiting[job.ticket] = job
        self._scheduler.enqueue(job.ticket, job.key, self._bytes_needed(job))

    def _begin(self, ticket: int) -> None:
        job = self._waiting.pop(ticket)
        try:
            session = self._session(job)
            turn = session.begin(job.prompt, job.params, max_new_tokens=job.max_new_tokens, stop=job.stop)
        except Exception as error:
            self._residents.pop(job.key, None)
            self._drop(self._scheduler.end(ticket, 0))
            self._end(ticket, Failed(error))
            return
        running = self._running[ticket] = Running(job, session, turn)
        try:
            # All at once, so that the budget is kept and nothing is copied while tokens flow.
            session.cache.reserve(self._end_of(job))
        except Exception as error:
            self._fail(running, error)

    def _session(self, job: Job) -> Session:
        """The session in memory, or the stored one, whose cache comes back as it is computed."""
        resident = self._residents.get(job.key)
        if resident is None or resident.version != job.version:
            session = Session.from_snapshot(self._language_model, job.snapshot)
            session.prefill_chunk = self._prefill_chunk
            session.speculate = self._speculate
            if session.turns:
                self._rebuilds += 1
            resident = self._residents[job.key] = Resident(session, job.version)
        return resident.session

    def _finish(self, running: Running) -> None:
        session, job = running.session, running.job
        session.finish(running.turn)
        record = NewTurn.last_of(session, job.prompt_kind, job.request_id, job.request_hash)
        if session.cache.capacity > max(self._smallest_capacity, 2 * session.cache.length):
            # Room for an answer that turned out short belongs to others.
            session.cache = session.cache.copy_prefix(session.cache.length)
        self._release(running)
        self._end(job.ticket, Finished(record))

    def _fail(self, running: Running, error: Exception) -> None:
        self._give_up(running, Failed(error))

    def _give_up(self, running: Running, event: Event) -> None:
        running.session.abort(running.turn)
        self._release(running)
        self._end(running.job.ticket, event)

    def _release(self, running: Running) -> None:
        del self._running[running.job.ticket]
        self._drop(self._scheduler.end(running.job.ticket, running.session.cache.nbytes))

    def _fail_all(self, error: Exception) -> None:
        for running in list(self._running.values()):
            self._fail(running, error)

    def _drop(self, evicted: list[Key]) -> None:
        for key in evicted:
            del self._residents[key]
            self._evictions += 1

    def _cancel(self, ticket: int) -> None:
        if self._scheduler.withdraw(ticket):
            del self._waiting[ticket]
            self._end(ticket, Cancelled())
        elif ticket in self._running:
            self._give_up(self._running[ticket], Cancelled())

    # -- what happens to a session between turns ----------------------------------------------------

    def _settle(self, key: SessionKey, version: int | None) -> None:
        resident = self._residents.get(key)
        if resident is None:
            return
        if version is not None:
            resident.version = version
        else:
            resident.session.revert(len(resident.session.turns) - 1)

    def _revert(self, key: SessionKey, version: int, turn: int, new_version: int) -> None:
        resident = self._residents.get(key)
        if resident is not None and resident.version == version:
            resident.session.revert(turn)
            resident.version = new_version

    def _fork(self, key: SessionKey, version: int, new: SessionKey, new_version: int, turn: int) -> None:
        resident = self._residents.get(key)
        if resident is not None and resident.version == version:
            fork = resident.session.fork(turn)
            fork.prefill_chunk = self._prefill_chunk
            self._residents[new] = Resident(fork, new_version)
            self._drop(self._scheduler.keep(new, fork.cache.nbytes))

    def _forget(self, key: SessionKey) -> None:
        if self._residents.pop(key, None) is not None:
            self._scheduler.forget(key)

    # -- telling ----------------------------------------------------------------------------------

    def _emit(self, ticket: int, event: Event) -> None:
        self._outbox.append((self._delivers[ticket], event))

    def _end(self, ticket: int, event: Event) -> None:
        self._emit(ticket, event)
        del self._delivers[ticket]

    def _publish(self) -> None:
        """Hand everything to the event loop, in one call."""
        scheduler = self._scheduler
        self._status = EngineStatus(
            running=len(self._running),
            waiting=scheduler.waiting,
            kv_bytes=scheduler.kv_bytes,
            caches=len(self._residents),
            evictions=self._evictions,
            rebuilds=self._rebuilds,
            steps=self._steps,
            decoded_tokens=self._decoded_tokens,
            prefilled_tokens=self._prefilled_tokens,
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
        )
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            self._post(partial(_deliver, outbox))

    def _stop(self) -> None:
        self._stopped = True
        for ticket in [*self._waiting, *self._running]:
            self._cancel(ticket)

    def _end_of(self, job: Job) -> int:
        """Tokens that the session holds at most when the job has ended."""
        length = job.prompt.kept + len(job.prompt.added) + job.max_new_tokens
        return min(length, self._language_model.llama.config.context_length)

    def _bytes_needed(self, job: Job) -> int:
        """Bytes of cache that the job holds at most; a cache that grows at least doubles."""
        resident = self._residents.get(job.key)
        capacity = self._smallest_capacity if resident is None else resident.session.cache.capacity
        if (end := self._end_of(job)) > capacity:
            capacity = min(max(end, 2 * capacity), self._language_model.llama.config.context_length)
        return capacity * self._bytes_per_token


def _deliver(outbox: list[tuple[Deliver, Event]]) -> None:
    for deliver, event in outbox:
        deliver(event)
