"""Rows of a whole chat-server: what clients get over real sockets, and what the process takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.lengths import Lengths
from bench.overload import overload
from bench.rows import Contender, Line, Reference, Row, measure_lines
from bench.samples import Samples
from bench.server_load import Load, Traffic, percentile
from bench.server_process import ServerProcess, packages_memory
from bench.settings import Settings
from bench.workers import WorkerError

SESSIONS = (1, 2, 4, 8, 16)
LATENCY_SESSIONS = (1, 8, 16)
PERCENTILES = (50, 95, 99)

ANSWERS = 4
"""Of one repeat, at least: one session gives them one after the other."""

MOST_REPEATS = 3
"""A repeat of all loads takes ten seconds or more on the chat model, and a start takes one."""

WARM_UP_TOKENS = 2
"""Enough to read all weights and to open all connections."""

NAME = "chat-server"
PACKAGES = "its packages"
"""With the tokenizer, and what "checkpoint" counts: less than that no server made of them can take."""


class ServerRows:
    """The rows of one model's server.

    ``facts`` are those of this engine's worker with float32 weights.  The server is started when
    the first row needs it, and keeps the storage that a user gets.
    """

    def __init__(self, model: Path, settings: Settings, facts: dict[str, Any]) -> None:
        self._model, self._settings, self._facts = model, settings, facts
        self._tokens = Lengths.within(facts["context_length"]).answered
        self._repeats = min(MOST_REPEATS, settings.repeats)
        self._traffic: dict[int, list[Traffic]] = {}
        self._starts: list[float] = []

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """Those that are wanted; a server that does not start is told.

        Raises:
            WorkerError: it started, and then did not do its work.
        """
        if {"server", "latency", "ready"} & set(wanted):
            yield from self._of_one_server(wanted)
        if "overload" in wanted:
            yield overload(self._model, self._settings.threads, self._repeats, self._tokens)

    def _of_one_server(self, wanted: Sequence[str]) -> Iterator[Row]:
        try:
            server = self._start()
        except WorkerError as error:
            yield self._start_row(Line(NAME, absence=f"failed: {error}"))
            return
        with server:
            load = Load(server.client)
            if "server" in wanted:
                yield self._throughput(load, SESSIONS)
                yield self._together()
                yield self._memory(server)
            if "latency" in wanted:
                if not self._traffic:
                    self._throughput(load, LATENCY_SESSIONS)
                yield from self._latency()
        if "ready" in wanted:
            yield self._ready()

    def _throughput(self, load: Load, loads: Sequence[int]) -> Row:
        """Tokens of all sessions, and on the way the traffic that latency is read from."""

        def at(sessions: int) -> Contender:
            kept = self._traffic.setdefault(sessions, [])

            def measure() -> float:
                kept.append(load.run(sessions, self._tokens, answers=ANSWERS, seconds=self._settings.seconds))
                return kept[-1].tokens_per_second

            return Contender(
                _label(sessions),
                measure,
                warm_up=lambda: load.run(sessions, WARM_UP_TOKENS).tokens_per_second,
            )

        return Row(
            key="server",
            title=f"chat-server: {self._tokens} tokens for each session that asks at once, tokens of all",
            unit="tokens/s",
            higher_is_better=True,
            lines=measure_lines([at(sessions) for sessions in loads], self._repeats),
            comparison="each line against the first",
            # Answers that ended early would make the loads unequal; who doubts can see it.
            details={
                "tokens_of_each_answer": {
                    _label(sessions): sorted(answer.tokens for answer in traffic[-1].answers)
                    for sessions, traffic in self._traffic.items()
                    if traffic
                }
            },
        )

    def _together(self) -> Row:
        """The same traffic without prompts, first come and last gone: what batching alone gains."""
        return Row(
            key="server-decode",
            title="chat-server: the same, only while every session has begun and none has ended",
            unit="tokens/s",
            higher_is_better=True,
            lines=tuple(_decoding(sessions, traffic) for sessions, traffic in self._traffic.items()),
            comparison="each line against the first",
        )

    def _latency(self) -> Iterator[Row]:
        """How long clients waited in the same traffic."""
        yield self._percentiles(
            "first-token",
            "chat-server: from a request to its first text, sessions that ask at once",
            lambda traffic: [answer.to_first for answer in traffic.answers],
        )
        yield self._percentiles(
            "between-tokens",
            "chat-server: from one text to the next, sessions that ask at once",
            lambda traffic: [pause for answer in traffic.answers for pause in answer.between],
        )

    def _percentiles(self, key: str, title: str, times: Callable[[Traffic], list[float]]) -> Row:
        lines, counts = [], {}
        for sessions in LATENCY_SESSIONS:
            repeats = [found for traffic in self._traffic.get(sessions, ()) if (found := times(traffic))]
            counts[_label(sessions)] = [len(found) for found in repeats]
            for share in PERCENTILES:
                label = f"{_label(sessions)}, p{share}"
                if repeats:
                    figures = tuple(1e3 * percentile(found, share) for found in repeats)
                    lines.append(Line(label, Samples(figures)))
                else:
                    lines.append(Line(label, absence="not measured"))
        return Row(
            key=key,
            title=title,
            unit="ms",
            higher_is_better=False,
            lines=tuple(lines),
            comparison="none",
            details={"values_of_each_repeat": counts},
        )

    def _ready(self) -> Row:
        """Starting it again and again; the first start, of the server of the other rows, counts."""
        while len(self._starts) < self._repeats:
            self._start().close()
        return self._start_row(Line(NAME, Samples(tuple(self._starts))))

    def _start_row(self, line: Line) -> Row:
        return Row(
            key="ready",
            title='chat-server: process start to a /health that says "ok"',
            unit="s",
            higher_is_better=False,
            lines=(line,),
            comparison="none",
        )

    def _memory(self, server: ServerProcess) -> Row:
        """The peak of all loads, beside what the weights and the largest load's tokens take."""
        largest = max(
            (sum(answer.session_tokens for answer in answers), sessions)
            for sessions, traffic in self._traffic.items()
            for repeat in traffic
            for answers in repeat.rounds
        )
        tokens, sessions = largest
        needed = self._facts["checkpoint_bytes"] + tokens * self._facts["kv_bytes_per_token"]
        return Row(
            key="server-memory",
            title=f"chat-server: peak resident memory, up to {sessions} sessions at once",
            unit="MiB",
            higher_is_better=False,
            lines=measure_lines(
                [
                    Contender(NAME, lambda: server.peak_memory() / (1 << 20)),
                    Contender(PACKAGES, lambda: (needed + packages_memory(self._model)) / (1 << 20)),
                ],
                1,
                [
                    Reference(
                        "checkpoint",
                        needed / (1 << 20),
                        f"the weights' files, and the keys and values of {tokens:,} tokens",
                    )
                ],
            ),
        )

    def _start(self) -> ServerProcess:
        server = ServerProcess(self._model, self._settings.threads)
        self._starts.append(server.seconds_to_ready)
        return server


def _decoding(sessions: int, traffic: Sequence[Traffic]) -> Line:
    rates = tuple(repeat.decoded_per_second for repeat in traffic)
    if all(rates):
        return Line(_label(sessions), Samples(rates))
    return Line(_label(sessions), absence="answers this short are never all under way at once")


def _label(sessions: int) -> str:
    return f"{sessions} session{'s' if sessions > 1 else ''}"
