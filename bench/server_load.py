"""Many clients at once on a chat-server: every answer streamed over a socket of its own, with its times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, pairwise
from threading import Barrier
from time import perf_counter
from typing import Any

import httpx

from bench.workers import WorkerError

QUESTION = "Tell me a long story about a river that wanted to see the mountains."
"""Nothing that a model answers in a few words."""


@dataclass(frozen=True)
class Answer:
    """One streamed answer, in seconds of one clock."""

    sent: float
    texts: tuple[float, ...]
    """When each piece of text arrived: one for each token, but where several make one character."""
    ended: float
    tokens: int
    """As the server counts them."""
    session_tokens: int
    """Prompt and answer: what the session's cache holds."""

    @property
    def to_first(self) -> float:
        """From sending the request to the first text."""
        return self.texts[0] - self.sent

    @property
    def between(self) -> Iterator[float]:
        """From each text to the next."""
        return (later - earlier for earlier, later in pairwise(self.texts))


@dataclass(frozen=True)
class Traffic:
    """The answers of one measurement."""

    rounds: tuple[tuple[Answer, ...], ...]
    """The answers of each round, which were asked for at once."""

    @property
    def answers(self) -> list[Answer]:
        """All of them."""
        return [answer for answers in self.rounds for answer in answers]

    @property
    def seconds(self) -> float:
        """From the first request of each round to the end of its last answer."""
        return sum(_seconds(answers) for answers in self.rounds)

    @property
    def tokens_per_second(self) -> float:
        """Of all sessions together, prompts and waiting included."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    @property
    def decoded_per_second(self) -> float:
        """Texts of all sessions while every one of them decodes: nearly as many as tokens.

        0 where there was no such time.
        """
        texts, seconds = 0, 0.0
        for answers in self.rounds:
            # From when the last one has its first text until the first one has its last.
            start, stop = max(one.texts[0] for one in answers), min(one.texts[-1] for one in answers)
            if start < stop:
                texts += sum(start < text <= stop for answer in answers for text in answer.texts)
                seconds += stop - start
        return texts / seconds if seconds else 0.0


class Load:
    """Clients of one server.  Sessions are new each time, and seeded: every run asks for the same work."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._names = (f"bench-{number}" for number in count())

    def run(self, sessions: int, tokens: int, *, answers: int = 1, seconds: float = 0.0) -> Traffic:
        """Ask ``sessions`` sessions at once for ``tokens`` tokens each.

        Round after round, until there are ``answers`` answers and ``seconds`` have passed; a round
        ends with its last answer.

        Raises:
            WorkerError: the server refused a request, or did not answer it to the end.
        """
        rounds: list[tuple[Answer, ...]] = []
        spent = 0.0
        with ThreadPoolExecutor(sessions) as pool:
            while not rounds or len(rounds) * sessions < answers or spent < seconds:
                rounds.append(self._round(pool, sessions, tokens))
                spent += _seconds(rounds[-1])
        return Traffic(tuple(rounds))

    def _round(self, pool: ThreadPoolExecutor, sessions: int, tokens: int) -> tuple[Answer, ...]:
        names = [next(self._names) for _ in range(sessions)]
        for name in names:
            _checked(self._request("POST", "/createSession", json={"id": name}))
        together = Barrier(sessions)

        def ask(seed: int, name: str) -> Answer:
            together.wait()
            return self._ask(name, tokens, seed)

        try:
            return tuple(pool.map(ask, range(sessions), names))
        finally:
            for name in names:
                _checked(self._request("DELETE", f"/removeSession/{name}"))

    def _ask(self, name: str, tokens: int, seed: int) -> Answer:
        body = {"content": QUESTION, "max_tokens": tokens, "seed": seed, "stream": True}
        texts: list[float] = []
        pending = b""
        sent = perf_counter()
        try:
            with self._client.stream("PUT", f"/generate/{name}", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise WorkerError(_complaint(response))
                for chunk in response.iter_raw():
                    arrived = perf_counter()
                    *events, pending = (pending + chunk).split(b"\n\n")
                    texts += [arrived] * sum(event.startswith(b"event: token\n") for event in events)
                    last = next((event for event in events if _ends(event)), None)
                    if last is not None:
                        return _answer(sent, texts, arrived, last)
        except httpx.HTTPError as error:
            raise WorkerError(f"chat-server does not answer: {type(error).__name__}: {error}") from error
        raise WorkerError("chat-server ended an answer without saying so")

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **content)
        except httpx.HTTPError as error:
            raise WorkerError(f"chat-server does not answer: {type(error).__name__}: {error}") from error


def percentile(values: Sequence[float], share: int) -> float:
    """The smallest of the values that at least ``share`` per cent of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * share // 100) - 1)]


def _seconds(answers: Sequence[Answer]) -> float:
    return max(one.ended for one in answers) - min(one.sent for one in answers)


def _ends(event: bytes) -> bool:
    return event.startswith((b"event: done\n", b"event: error\n"))


def _answer(sent: float, texts: list[float], ended: float, event: bytes) -> Answer:
    """The whole answer, from the last event of its stream."""
    name, _, data = event.decode().partition("\ndata: ")
    fields = json.loads(data)
    if name == "event: error":
        raise WorkerError(f"chat-server: {fields['error']['message']}")
    usage = fields["usage"]
    made = int(usage["completion_tokens"])
    if not texts:
        # Nothing but the end token: the end is all that a client sees of it.
        texts = [ended]
    return Answer(sent, tuple(texts), ended, made, int(usage["prompt_tokens"]) + made)


def _checked(response: httpx.Response) -> None:
    if response.is_error:
        raise WorkerError(_complaint(response))


def _complaint(response: httpx.Response) -> str:
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = "no reason given"
    return f"chat-server: status {response.status_code}: {reason}"
