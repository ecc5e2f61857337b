"""The engine, step by step and without its thread: what happens in which step, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from shared_files import story_model

from chat_server.engine import LocalEngine
from chat_server.jobs import Cancelled, Event, Failed, Finished, Job, SessionKey, Text
from chat_server.scheduler import Scheduler
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session

CHUNK = 16


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    return LanguageModel.from_pretrained(story_model())


class Driver:
    """An engine whose steps the test takes, and what it told about each job."""

    def __init__(self, language_model: LanguageModel, max_running: int = 4, kv_budget: int = 1 << 30) -> None:
        self.language_model = language_model
        self.scheduler = Scheduler(max_running, kv_budget)
        self.engine = LocalEngine(language_model, self.scheduler, lambda call: call(), CHUNK)
        self.told: dict[int, list[Event]] = {}

    def submit(
        self,
        ticket: int,
        text: str,
        session: Session | None = None,
        new_tokens: int = 5,
        seed: int = 1,
        version: int = 0,
        tell_text: bool = True,
    ) -> Job:
        session = Session(self.language_model) if session is None else session
        job = Job(
            ticket=ticket,
            key=SessionKey("", f"s{ticket % 100}", datetime(2026, 1, 1, tzinfo=UTC).isoformat()),
            version=version,
            snapshot=session.snapshot(),
            prompt=session.prepare(text),
            prompt_kind="text",
            params=SamplingParams(seed=seed),
            max_new_tokens=new_tokens,
            stop=(),
            request_id=str(ticket),
            request_hash="",
            tell_text=tell_text,
        )
        self.told[ticket] = []
        self.engine.submit(job, self.told[ticket].append)
        return job

    def run(self) -> None:
        self.engine.step()
        while self.engine.status.running or self.engine.status.waiting:
            self.engine.step()

    def finished(self, ticket: int) -> Finished:
        *texts, last = self.told[ticket]
        assert all(isinstance(event, Text) for event in texts) and isinstance(last, Finished)
        assert "".join(event.text for event in texts if isinstance(event, Text)) == last.record.turn.text
        return last


def alone(language_model: LanguageModel, text: str, new_tokens: int = 5, seed: int = 1) -> Session:
    """The session that takes this turn by itself, in chunks of the same size."""
    session = Session(language_model)
    session.prefill_chunk = CHUNK
    for _ in session.generate(text, SamplingParams(seed=seed), max_new_tokens=new_tokens):
        pass
    return session


def test_each_gets_what_it_gets_alone(language_model: LanguageModel) -> None:
    driver = Driver(language_model, max_running=2)
    texts = ["Once upon a time", "The cat " * 30, "Tom", "A big red ball " * 9]
    for ticket, text in enumerate(texts):
        driver.submit(ticket, text, seed=ticket, new_tokens=4 + ticket)
    driver.engine.step()
    assert driver.engine.status.running == 2 and driver.engine.status.waiting == 2
    driver.run()
    for ticket, text in enumerate(texts):
        expected = alone(language_model, text, 4 + ticket, ticket)
        record = driver.finished(ticket).record
        assert list(record.added_tokens) == expected.tokens
        assert record.added_spans == expected.schedule.spans


def test_nobody_is_told_what_nobody_wants_to_see(language_model: LanguageModel) -> None:
    """A turn that is not streamed wakes the event loop once, and is the same turn."""
    driver = Driver(language_model)
    driver.submit(0, "Once upon a time", seed=5, new_tokens=12)
    driver.submit(1, "Once upon a time", seed=5, new_tokens=12, tell_text=False)
    driver.run()
    (alone,) = driver.told[1]
    assert isinstance(alone, Finished)
    assert alone.record.turn.text == driver.finished(0).record.turn.text


def test_a_long_prompt_stalls_nobody_for_more_than_a_chunk(language_model: LanguageModel) -> None:
    driver = Driver(language_model)
    driver.submit(0, "Once", new_tokens=40)
    driver.engine.step()
    driver.submit(1, "word " * 100, new_tokens=2)
    for _ in range(4):
        before = driver.engine.status
        driver.engine.step()
        after = driver.engine.status
        assert after.decoded_tokens == before.decoded_tokens + 1
        assert after.prefilled_tokens == before.prefilled_tokens + CHUNK
    driver.run()
    assert list(driver.finished(0).record.added_tokens) == alone(language_model, "Once", 40).tokens


def test_cancelling_in_prefill_stops_within_a_chunk(language_model: LanguageModel) -> None:
    driver = Driver(language_model)
    job = driver.submit(0, "word " * 100)
    driver.engine.step()
    driver.engine.cancel(job.ticket)
    driver.engine.step()
    assert driver.told[0] == [Cancelled()]
    assert driver.engine.status.prefilled_tokens == CHUNK and driver.engine.status.running == 0
    # The session is as it was; what was computed of the prompt is gone with it.
    driver.submit(100, "Once upon a time")
    driver.run()
    assert list(driver.finished(100).record.added_tokens) == alone(language_model, "Once upon a time").tokens


def test_cancelling_in_decode_and_in_the_queue(language_model: LanguageModel) -> None:
    driver = Driver(language_model, max_running=1)
    driver.submit(0, "Once", new_tokens=40)
    driver.submit(1, "Once")
    for _ in range(3):
        driver.engine.step()
    decoded = driver.engine.status.decoded_tokens
    assert decoded == 2
    driver.engine.cancel(1)
    driver.engine.cancel(0)
    driver.engine.step()
    assert driver.engine.status.decoded_tokens == decoded
    assert driver.told[1] == [Cancelled()] and driver.told[0][-1] == Cancelled()
    # Cancelling what has ended does nothing.
    driver.engine.cancel(0)
    driver.engine.step()
    assert driver.told[0].count(Cancelled()) == 1


@pytest.mark.parametrize("settled", ["stored", "not stored", "evicted"])
def test_a_finished_turn_counts_once_it_is_stored(language_model: LanguageModel, settled: str) -> None:
    driver = Driver(language_model, kv_budget=1 if settled == "evicted" else 1 << 30)
    first = alone(language_model, "Once upon a time")
    job = driver.submit(0, "Once upon a time")
    driver.run()
    driver.engine.settle(job.key, None if settled == "not stored" else 1)
    if settled == "not stored":
        driver.submit(100, "Once upon a time", version=0)
        driver.run()
        assert list(driver.finished(100).record.added_tokens) == first.tokens
        assert driver.engine.status.rebuilds == 0
        return
    driver.submit(100, " Then", first, version=1)
    driver.run()
    for _ in first.generate(" Then", SamplingParams(seed=1), max_new_tokens=5):
        pass
    added = driver.finished(100).record.added_tokens
    assert first.tokens[-len(added) :] == list(added)
    assert driver.engine.status.rebuilds == (1 if settled == "evicted" else 0)
    assert driver.engine.status.caches == (0 if settled == "evicted" else 1)


def test_a_session_of_another_version_is_rebuilt(language_model: LanguageModel) -> None:
    """Another process has changed it in the store: what is in memory is worth nothing."""
    driver = Driver(language_model)
    job = driver.submit(0, "Once upon a time")
    driver.run()
    driver.engine.settle(job.key, 1)
    other = alone(language_model, "A dog")
    driver.submit(100, " ran", other, version=7)
    driver.run()
    for _ in other.generate(" ran", SamplingParams(seed=1), max_new_tokens=5):
        pass
    added = driver.finished(100).record.added_tokens
    assert other.tokens[-len(added) :] == list(added)


def test_revert_fork_and_forget(language_model: LanguageModel) -> None:
    driver = Driver(language_model)
    job = driver.submit(0, "Once upon a time")
    driver.run()
    driver.engine.settle(job.key, 1)
    fork = SessionKey("", "s7", job.key.created)
    driver.engine.fork(job.key, 1, fork, 5, 1)
    driver.engine.fork(job.key, 99, SessionKey("", "unknown", ""), 5, 1)
    driver.engine.revert(job.key, 1, 0, 2)
    driver.engine.step()
    assert driver.engine.status.caches == 2
    first = alone(language_model, "Once upon a time")
    driver.submit(107, " Then", first, version=5)
    driver.submit(100, "A dog", version=2)
    driver.run()
    assert driver.engine.status.rebuilds == 0
    assert list(driver.finished(100).record.added_tokens) == alone(language_model, "A dog").tokens
    driver.engine.forget(fork)
    driver.engine.step()
    assert driver.engine.status.caches == 1


def test_the_budget_counts_what_is_held(language_model: LanguageModel) -> None:
    driver = Driver(language_model)
    job = driver.submit(0, "Once upon a time", new_tokens=300)
    driver.engine.step()
    held = driver.scheduler.kv_bytes
    assert held >= 300 * language_model.llama.new_cache(1).nbytes
    driver.engine.cancel(0)
    driver.engine.step()
    assert driver.engine.status.kv_bytes <= held
    driver.engine.forget(job.key)
    driver.engine.step()
    assert driver.engine.status.kv_bytes == 0


@pytest.mark.parametrize("method", ["forward", "forward_batch"])
def test_a_failure_is_told_and_leaves_the_others_alone(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    driver = Driver(language_model)
    driver.submit(0, "Once upon a time", new_tokens=20)
    driver.engine.step()
    genuine: Callable[..., Any] = getattr(language_model.llama, method)

    def broken(*_arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(language_model.llama, method, broken)
    driver.submit(1, "The cat " * 20, new_tokens=3)
    driver.engine.step()
    monkeypatch.setattr(language_model.llama, method, genuine)
    driver.run()
    hurt, spared = (1, 0) if method == "forward" else (0, 1)
    last = driver.told[hurt][-1]
    assert isinstance(last, Failed) and isinstance(last.error, MemoryError)
    text, new_tokens = [("Once upon a time", 20), ("The cat " * 20, 3)][spared]
    assert list(driver.finished(spared).record.added_tokens) == alone(language_model, text, new_tokens).tokens


def test_the_thread_takes_turns_and_stops(language_model: LanguageModel) -> None:
    driver = Driver(language_model)
    driver.engine.start()
    driver.submit(0, "Once upon a time", new_tokens=400)
    driver.submit(1, "Once upon a time", new_tokens=400)
    driver.engine.stop()
    for events in driver.told.values():
        assert isinstance(events[-1], Cancelled | Finished)
