"""Threads that share a loop: each round once, errors and signals lose nothing, nobody waits for ever."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from time import monotonic

import pytest
from shared_files import PROJECT

from lm_core import blas, crew
from lm_core.crew import share


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one also where there is one core; and a crew of this test's own."""
    monkeypatch.setattr(blas, "_threads", 3)
    monkeypatch.setattr(crew, "_crew", crew._Crew())


def meeting(parties: int) -> threading.Barrier:
    """What ``parties`` threads pass only together: that they run side by side needs no luck."""
    return threading.Barrier(parties, timeout=30)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 100])
def test_each_round_once(rounds: int) -> None:
    """However many there are, and again with the same threads."""
    for _ in range(50):
        calls: Counter[int] = Counter()
        share(lambda index, calls=calls: calls.update([index]), rounds)  # type: ignore[misc]
        assert calls == Counter(range(rounds))


def test_threads_take_part() -> None:
    """Three rounds that wait for each other can only end if three threads have one each."""
    together = meeting(3)
    threads = set()

    def work(_index: int) -> None:
        threads.add(threading.get_ident())
        together.wait()

    share(work, 3)
    assert len(threads) == 3
    assert threading.get_ident() in threads


def test_one_thread_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread to compute with, the loop is a loop."""
    monkeypatch.setattr(blas, "_threads", 1)
    order: list[int] = []
    share(order.append, 20)
    assert order == list(range(20))
    assert crew._crew._helpers == []


def test_threads_are_begun_once() -> None:
    """Sleeping ones are woken, not replaced."""
    share(lambda _index: None, 3)
    before = threading.active_count()
    for _ in range(20):
        share(lambda _index: None, 3)
    assert threading.active_count() == before


@pytest.mark.parametrize("rounds", [1, 2, 3, 40])
def test_an_error_of_any_thread_is_raised(rounds: int) -> None:
    """And nothing is still running then; the next loop works as if nothing had been."""
    running: set[int] = set()

    def work(index: int) -> None:
        running.add(index)
        try:
            if index == rounds - 1:
                raise MemoryError("no room")
        finally:
            running.remove(index)

    for _ in range(20):
        with pytest.raises(MemoryError, match="no room"):
            share(work, rounds)
        assert not running
    calls: Counter[int] = Counter()
    share(lambda index: calls.update([index]), 30)
    assert calls == Counter(range(30))


def test_an_index_error_of_the_work_is_not_the_end_of_the_rounds() -> None:
    """The rounds' own end is told apart from a mistake in one."""

    def work(index: int) -> None:
        if index == 1:
            [][index]

    with pytest.raises(IndexError):
        share(work, 3)


def test_a_round_may_share() -> None:
    """It does its own loop alone: its helpers are all at work."""
    calls: Counter[tuple[int, int]] = Counter()
    share(lambda outer: share(lambda inner: calls.update([(outer, inner)]), 5), 4)
    assert calls == Counter((outer, inner) for outer in range(4) for inner in range(5))


def test_two_callers_at_once() -> None:
    """The second works alone and waits for nobody."""
    started, go_on = meeting(2), threading.Event()
    calls: Counter[str] = Counter()

    def slow(index: int) -> None:
        if index == 0:
            started.wait()
            assert go_on.wait(30)
        calls["slow"] += 1

    first = threading.Thread(target=share, args=(slow, 3))
    first.start()
    started.wait()
    threads = set()

    def quick(_index: int) -> None:
        threads.add(threading.get_ident())
        calls["quick"] += 1

    share(quick, 10)
    assert threads == {threading.get_ident()}
    go_on.set()
    first.join(30)
    assert calls == {"slow": 3, "quick": 10}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where who runs the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(os.name != "posix", reason="signals to a thread")
@pytest.mark.parametrize("rounds_before", [0, 1, 5])
def test_an_interruption_waits_for_who_still_works(rounds_before: int) -> None:
    """Ctrl-C in the caller: the others end their round, and the crew works on."""
    main = threading.main_thread()
    assert threading.current_thread() is main and main.ident is not None
    begun: set[int] = set()
    ended: set[int] = set()
    spinning: list[int] = []
    signals = itertools.count()
    deadline = monotonic() + 30

    def work(index: int) -> None:
        begun.add(index)
        # Nobody waits for a lock here: a signal shortly before such a wait would not end it.
        if threading.current_thread() is not main:
            while not spinning and monotonic() < deadline:
                pass
            if next(signals) == 0:
                assert main.ident is not None
                signal.pthread_kill(main.ident, signal.SIGINT)
        elif index >= rounds_before:
            spinning.append(index)
            while monotonic() < deadline:
                pass
        ended.add(index)

    with pytest.raises(KeyboardInterrupt):
        share(work, 1000)
    # The main thread's own round was cut short, and no other.
    assert len(begun - ended) == 1
    calls: Counter[int] = Counter()
    share(lambda index: calls.update([index]), 30)
    assert calls == Counter(range(30))


FORKING = """
import os, sys
from lm_core import crew

def work(index):
    done.append(index)

done = []
crew.blas._threads = 3
crew.share(work, 30)
child = os.fork()
if child == 0:
    done.clear()
    crew.share(work, 30)
    os._exit(0 if sorted(done) == list(range(30)) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_a_crew_of_its_own() -> None:
    """Threads do not survive a fork: the child must not wait for them."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], cwd=PROJECT, timeout=60, check=True)


def test_what_is_too_little_is_done_alone() -> None:
    """Nobody is woken, and the rounds come in their order."""
    order: list[int] = []
    share(order.append, 20, alone=True)
    assert order == list(range(20))
    assert crew._crew._helpers == []
