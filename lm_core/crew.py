"""Cores that share a loop whose rounds are NumPy calls, where BLAS would use one core.

NumPy lets go of Python's lock while it computes, so threads of Python compute side by side.  They
take the rounds in turn, whoever is free: a core that something else is using takes fewer.  What
a round computes, and where it writes, depends on its index alone, so no bit depends on who takes
it, or on how many there are.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from lm_core import blas

MOST_HELPERS = 7
"""Beside the calling thread.  Each is woken by itself, which takes microseconds."""

Round = Callable[[int], object]


def share(work: Round, rounds: int, alone: bool = False) -> None:
    """Call ``work(0)`` to ``work(rounds - 1)``, each once, and return when all are done.

    As many threads take part as BLAS may use (:func:`lm_core.blas.set_threads`); the calling one does
    it ``alone`` where that is too little to wake others for.  A second caller at the same time,
    or a round that shares again, works alone too.  Errors of a round are raised,
    after which further rounds may not have been called, but none is still running.
    """
    _crew.share(work, rounds, alone)


class _Job:
    """Rounds that whoever is free takes next."""

    def __init__(self, work: Round, rounds: int) -> None:
        self._work = work
        # A deque gives each number to one thread, also where there is no lock around all of Python.
        self._left = deque(range(rounds))
        self.error: BaseException | None = None

    def take_part(self) -> None:
        """Return when no round is left to be begun."""
        work, next_round = self._work, self._left.popleft
        try:
            while True:
                try:
                    index = next_round()
                except IndexError:
                    return
                work(index)
        except BaseException as error:
            self.close()
            if self.error is None:
                self.error = error

    def close(self) -> None:
        """Begin no further round."""
        self._left.clear()


class _Helper:
    """A thread that sleeps until it is given a job."""

    def __init__(self) -> None:
        self._job: _Job | None = None
        self._awake, self._done = threading.Lock(), threading.Lock()
        self._awake.acquire()
        self._done.acquire()
        threading.Thread(target=self._live, name="crew", daemon=True).start()

    def begin(self, job: _Job) -> None:
        self._job = job
        self.wake()

    def wake(self) -> None:
        """Once too often does no harm."""
        _open(self._awake)

    def wait(self) -> None:
        """Return when the job is done."""
        # The lock may be open since an earlier job that nobody had to wait for.
        while self._job is not None:
            self._done.acquire()

    def _live(self) -> None:
        while True:
            self._awake.acquire()
            if self._job is not None:
                self._job.take_part()
                self._job = None
                _open(self._done)


def _open(lock: threading.Lock) -> None:
    if lock.locked():
        lock.release()


class _Crew:
    """The helpers of a process, begun when they are first needed."""

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []
        self._busy = threading.Lock()

    def share(self, work: Round, rounds: int, alone: bool) -> None:
        wanted = 0 if alone else min(rounds, blas.threads(), MOST_HELPERS + 1) - 1
        if wanted < 1 or not self._busy.acquire(blocking=False):
            for index in range(rounds):
                work(index)
            return
        try:
            while len(self._helpers) < wanted:
                self._helpers.append(_Helper())
            _run(_Job(work, rounds), self._helpers[:wanted])
        finally:
            self._busy.release()


def _run(job: _Job, helpers: list[_Helper]) -> None:
    try:
        for helper in helpers:
            helper.begin(job)
        job.take_part()
    except BaseException:
        # A signal: one helper may have been given the job without being woken.
        job.close()
        for helper in helpers:
            helper.wake()
        raise
    finally:
        _wait(job, helpers)
    if job.error is not None:
        raise job.error


def _wait(job: _Job, helpers: list[_Helper]) -> None:
    """Whatever happens, return only when nobody writes any more."""
    interruption: BaseException | None = None
    waiting = deque(helpers)
    while waiting:
        try:
            waiting[0].wait()
            waiting.popleft()
        except BaseException as error:
            job.close()
            interruption = error
    if interruption is not None:
        raise interruption


_crew = _Crew()


def _forget() -> None:
    """A forked process has none of the threads."""
    global _crew
    _crew = _Crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
