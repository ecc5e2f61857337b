"""``chat-server --speculate``: the same answers, alone and in company, in fewer steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from chat_server_process import ServerProcess
from shared_files import story_model

from chat_server.engine import LocalEngine
from chat_server.jobs import Cancelled, Event, Finished, Job, SessionKey, Text
from chat_server.scheduler import Scheduler
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session
from lm_core.speculation import MOST_ROWS, NgramDrafter

StartServer = Callable[..., ServerProcess]

REFRAIN = "The cat saw the big dog and the dog saw the big cat. " * 4
NEW_TOKENS = 40


async def answers(url: str, name: str, clients: int) -> list[dict[str, Any]]:
    """Two turns of each client, all at once, without what a clock or a name says."""

    async def talk(client: httpx.AsyncClient, index: int) -> list[dict[str, Any]]:
        session = f"{name}-{index}"
        assert (await client.post("/createSession", json={"id": session})).status_code == 201
        taken = []
        for content in (REFRAIN, "Again!"):
            body = {"content": content, "max_tokens": NEW_TOKENS, "seed": index, "temperature": 0.3 * index}
            turn = (await client.put(f"/generate/{session}", json=body)).json()
            taken.append({key: turn[key] for key in ("content", "finish_reason", "usage")})
        return taken

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return [
            turn
            for turns in await asyncio.gather(*(talk(client, index) for index in range(clients)))
            for turn in turns
        ]


def test_seeded_answers_are_the_same_alone_and_in_company(start_server: StartServer) -> None:
    server = start_server("--speculate", "-r", "1.0")
    together = asyncio.run(answers(server.url, "together", 3))
    drafted, accepted = server.metric("drafted_tokens_total"), server.metric("accepted_tokens_total")
    assert drafted >= accepted > 0
    alone = asyncio.run(answers(server.url, "alone", 1))
    assert alone == together[:2]
    assert server.stop() == 0
    plain = start_server("--no-speculate", "-r", "1.0", environment={"CHAT_SERVER_SPECULATE": "1"})
    assert asyncio.run(answers(plain.url, "plain", 3)) == together
    assert plain.metric("drafted_tokens_total") == 0
    assert plain.stop() == 0


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    return LanguageModel.from_pretrained(story_model())


@pytest.fixture(scope="module")
def expected(language_model: LanguageModel) -> Session:
    """What the jobs of these tests come to."""
    session = Session(language_model)
    for _ in session.generate(REFRAIN, SamplingParams(seed=1), max_new_tokens=NEW_TOKENS):
        pass
    return session


class Driver:
    """An engine whose steps the test takes, with jobs that are all alike, and what it told of each."""

    def __init__(self, language_model: LanguageModel, speculate: bool) -> None:
        self._language_model = language_model
        self.engine = LocalEngine(
            language_model, Scheduler(4, 1 << 30), lambda call: call(), 512, speculate=speculate
        )
        self.told: list[list[Event]] = []

    def submit(self) -> None:
        session, ticket = Session(self._language_model), len(self.told)
        self.told.append([])
        job = Job(
            ticket=ticket,
            key=SessionKey("", f"s{ticket}", datetime(2026, 1, 1, tzinfo=UTC).isoformat()),
            version=0,
            snapshot=session.snapshot(),
            prompt=session.prepare(REFRAIN),
            prompt_kind="text",
            params=SamplingParams(seed=1),
            max_new_tokens=NEW_TOKENS,
            stop=(),
            request_id=str(ticket),
            request_hash="",
        )
        self.engine.submit(job, self.told[-1].append)

    def run(self) -> None:
        self.engine.step()
        while self.engine.status.running or self.engine.status.waiting:
            self.engine.step()


def knowing(expected: Session) -> Callable[[object, Sequence[int], int], list[int]]:
    """A drafter that is never wrong."""
    return lambda _, tokens, most: list(expected.tokens[len(tokens) : len(tokens) + most])


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_step_brings_several_tokens_and_an_event_for_each(
    jobs: int, language_model: LanguageModel, expected: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, steps = [], []
    monkeypatch.setattr(NgramDrafter, "draft", knowing(expected))
    monkeypatch.setattr("lm_core.speculation.ROW_COST", 1e-9)
    for speculate in (False, True):
        driver = Driver(language_model, speculate)
        for _ in range(jobs):
            driver.submit()
        driver.run()
        for *texts, last in driver.told:
            assert isinstance(last, Finished) and list(last.record.added_tokens) == expected.tokens
            assert last.record.added_spans == expected.schedule.spans
            told.append([event.text for event in texts if isinstance(event, Text)])
        status = driver.engine.status
        steps.append(status.steps)
        # The last token of each is chosen and not computed, its first one follows the prompt.
        assert status.decoded_tokens == jobs * (NEW_TOKENS - 1)
        assert (status.accepted_tokens > 0) == speculate
        assert status.drafted_tokens == status.accepted_tokens
    assert all(texts == told[0] for texts in told)
    assert steps[1] < steps[0] / (MOST_ROWS // (jobs + 1))


def test_cancelling_a_session_that_is_ahead(
    language_model: LanguageModel, expected: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends before the next step, its session is as it was, and the others have not felt it."""
    monkeypatch.setattr(NgramDrafter, "draft", knowing(expected))
    driver = Driver(language_model, speculate=True)
    for _ in range(2):
        driver.submit()
    for _ in range(4):
        driver.engine.step()
    driver.engine.cancel(0)
    driver.engine.step()
    assert driver.told[0][-1] == Cancelled()
    driver.run()
    last = driver.told[1][-1]
    assert isinstance(last, Finished) and list(last.record.added_tokens) == expected.tokens
