"""The scheduler's bookkeeping: order, bounds, and which caches are dropped."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chat_server.scheduler import Scheduler


def started(scheduler: Scheduler) -> list[int]:
    tickets = []
    while (start := scheduler.next_start()) is not None:
        tickets.append(start.ticket)
    return tickets


def test_first_come_first_served() -> None:
    scheduler = Scheduler(max_running=2, kv_budget=100)
    for ticket in (3, 1, 2, 4):
        scheduler.enqueue(ticket, f"s{ticket}", 1)
    assert started(scheduler) == [1, 2]
    scheduler.end(2, 0)
    assert started(scheduler) == [3]
    assert scheduler.running == [1, 3] and scheduler.waiting == 1


def test_nobody_overtakes_one_who_waits_for_room() -> None:
    scheduler = Scheduler(max_running=4, kv_budget=10)
    scheduler.enqueue(1, "a", 6)
    scheduler.enqueue(2, "b", 6)
    scheduler.enqueue(3, "c", 1)
    assert started(scheduler) == [1]
    scheduler.end(1, 6)
    assert started(scheduler) == [2, 3]


def test_alone_one_always_runs() -> None:
    scheduler = Scheduler(max_running=4, kv_budget=10)
    scheduler.enqueue(1, "a", 99)
    assert started(scheduler) == [1]
    scheduler.enqueue(2, "b", 1)
    assert started(scheduler) == []
    # What is over the budget is not kept.
    assert scheduler.end(1, 99) == ["a"]
    assert started(scheduler) == [2]


def test_least_recently_used_caches_are_dropped() -> None:
    scheduler = Scheduler(max_running=1, kv_budget=10)
    for ticket, key in enumerate("abc"):
        scheduler.enqueue(ticket, key, 3)
        assert started(scheduler) == [ticket]
        assert scheduler.end(ticket, 3) == []
    scheduler.enqueue(10, "a", 3)
    assert started(scheduler) == [10]
    scheduler.end(10, 3)
    scheduler.enqueue(11, "d", 5)
    start = scheduler.next_start()
    assert start is not None and start.evicted == ["b", "c"]
    assert scheduler.kv_bytes == 8


def test_a_session_that_runs_again_does_not_count_twice() -> None:
    scheduler = Scheduler(max_running=1, kv_budget=10)
    scheduler.keep("a", 6)
    scheduler.keep("b", 3)
    scheduler.enqueue(1, "a", 7)
    start = scheduler.next_start()
    assert start is not None and start.evicted == [] and scheduler.kv_bytes == 10


def test_prompts_take_turns() -> None:
    scheduler = Scheduler(max_running=3, kv_budget=10)
    for ticket in (1, 2, 3):
        scheduler.enqueue(ticket, ticket, 1)
    assert started(scheduler) == [1, 2, 3]
    assert [scheduler.next_prefill() for _ in range(4)] == [1, 2, 3, 1]
    scheduler.prefilled(2)
    assert scheduler.decoding() == [2]
    assert [scheduler.next_prefill() for _ in range(2)] == [3, 1]


def test_withdrawing_from_the_queue() -> None:
    scheduler = Scheduler(max_running=1, kv_budget=10)
    scheduler.enqueue(1, "a", 1)
    scheduler.enqueue(2, "b", 1)
    assert started(scheduler) == [1]
    assert not scheduler.withdraw(1)
    assert scheduler.withdraw(2) and not scheduler.withdraw(2)
    scheduler.end(1, 1)
    assert started(scheduler) == []


class SchedulerMachine(RuleBasedStateMachine):
    """Whatever happens: bounds hold, order holds, and the books agree with a naive account."""

    BUDGET, RUNNING = 100, 3

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.RUNNING, self.BUDGET)
        self.next_ticket = 0
        self.waiting: dict[int, int] = {}
        self.running: dict[int, int] = {}
        self.caches: dict[int, int] = {}

    def evict(self, keys: list[object]) -> None:
        for key in keys:
            assert key not in self.running
            del self.caches[key]  # type: ignore[arg-type]

    @rule(nbytes=st.integers(1, 150))
    def enqueue(self, nbytes: int) -> None:
        self.next_ticket += 1
        self.waiting[self.next_ticket] = nbytes
        self.scheduler.enqueue(self.next_ticket, self.next_ticket, nbytes)

    @rule()
    def start(self) -> None:
        start = self.scheduler.next_start()
        if start is None:
            if self.waiting and len(self.running) < self.RUNNING:
                first = self.waiting[min(self.waiting)]
                assert self.running and first + sum(self.running.values()) > self.BUDGET
            return
        assert start.ticket == min(self.waiting)
        self.running[start.ticket] = self.waiting.pop(start.ticket)
        self.evict(start.evicted)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        nbytes = data.draw(st.integers(0, self.running.pop(ticket)))
        if nbytes:
            self.caches[ticket] = nbytes
        self.evict(self.scheduler.end(ticket, nbytes))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[ticket]
        assert self.scheduler.withdraw(ticket)

    @invariant()
    def books_agree(self) -> None:
        scheduler = self.scheduler
        assert scheduler.running == sorted(self.running) and len(self.running) <= self.RUNNING
        assert scheduler.waiting == len(self.waiting) and scheduler.idle == len(self.caches)
        used = sum(self.running.values()) + sum(self.caches.values())
        assert scheduler.kv_bytes == used
        assert used <= self.BUDGET or (len(self.running) == 1 and not self.caches)


TestScheduler = SchedulerMachine.TestCase
