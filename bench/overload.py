"""The row of an overloaded server: how soon it refuses what it cannot take on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.burst import Burst, burst
from bench.rows import Line, Row
from bench.samples import Samples
from bench.server_load import percentile
from bench.server_process import ServerProcess
from bench.workers import WorkerError

RUNNING, QUEUED = 4, 8
ASKED = 10 * (RUNNING + QUEUED)
"""Ten times as many turns as the server takes on."""
MOST_TOKENS = 16
"""Of each answer."""


def overload(model: Path, threads: int, repeats: int, tokens: int) -> Row:
    """A server of its own, and turns for it, all at one moment; answers have ``tokens`` tokens, or fewer.

    A server that does not start is told in the row.

    Raises:
        WorkerError: something else than 200 and 429 came of it, or not all answers came.
    """
    options = ("--max-running", str(RUNNING), "--max-queue", str(QUEUED))
    try:
        server = ServerProcess(model, threads, options)
    except WorkerError as error:
        return _row(Line("429, the last", absence=f"failed: {error}"))
    with server:
        url, bursts = server.client.base_url, []
        for turn in range(1 + repeats):
            # New ones each time, so that all prompts are of one length.
            names = [f"{turn}-{number}" for number in range(ASKED)]
            for name in names:
                server.client.post("/createSession", json={"id": name})
            try:
                bursts.append(burst((url.host, url.port or 80), names, min(tokens, MOST_TOKENS)))
            except OSError as error:
                raise WorkerError(f"an overloaded server did not answer: {error}") from error
    for one in bursts:
        if one.others != {200} or not one.refusals:
            raise WorkerError(f"an overloaded server answered {sorted(one.others)}")

    def line(label: str, figure: Callable[[Burst], float]) -> Line:
        # The first burst warms up: code, connections and weights.
        return Line(label, Samples(tuple(1e3 * figure(one) for one in bursts[1:])))

    return _row(
        line("429, half of them", lambda one: percentile(one.refusals, 50)),
        line("429, the last", lambda one: max(one.refusals)),
        line("/health, the slowest", lambda one: max(one.health)),
    )


def _row(*lines: Line) -> Row:
    return Row(
        key="overload",
        title=f"chat-server: {ASKED} turns asked for at once, where {RUNNING + QUEUED} are taken on",
        unit="ms",
        higher_is_better=False,
        lines=lines,
        comparison="none",
    )
