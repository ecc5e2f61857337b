"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from chat_server.jobs import EngineStatus
from chat_server.store import StoredTurn

PREFIX = "chat_server_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Metrics:
    """One server's figures, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            PREFIX + "requests",
            "Answers by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._tokens = Counter(
            PREFIX + "generated_tokens", "Tokens of stored turns.", registry=self._registry
        )
        self._first_token = Histogram(
            PREFIX + "time_to_first_token_seconds",
            "From the start of a turn's computation to its first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rate = Histogram(
            PREFIX + "tokens_per_second",
            "Tokens per second of a turn.",
            buckets=_RATES,
            registry=self._registry,
        )

    def watch(self, status: Callable[[], EngineStatus], queued: Callable[[], int]) -> None:
        """Report an engine, too; ``queued`` is how many turns wait for it."""
        self._registry.register(_EngineCollector(status, queued))

    def request(self, method: str, route: str, status: int) -> None:
        """An answer was begun."""
        self._requests.labels(method, route, str(status)).inc()

    def turn(self, turn: StoredTurn) -> None:
        """A turn was stored."""
        self._tokens.inc(turn.generated_tokens)
        self._first_token.observe(turn.prompt_seconds)
        if turn.generated_tokens > 1 and turn.generation_seconds > 0:
            self._rate.observe((turn.generated_tokens - 1) / turn.generation_seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, status: Callable[[], EngineStatus], queued: Callable[[], int]) -> None:
        self._status = status
        self._queued = queued

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, text, value in (
            ("running", "Turns that are being computed.", status.running),
            ("queue", "Turns that wait.", self._queued()),
            ("kv_bytes", "Bytes of keys and values.", status.kv_bytes),
            ("caches", "Sessions whose keys and values are in memory.", status.caches),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value)
        for name, text, value in (
            ("evictions", "Caches dropped to keep the budget.", status.evictions),
            ("rebuilds", "Caches computed again.", status.rebuilds),
            ("steps", "Steps of the engine.", status.steps),
            ("decoded_tokens", "Tokens computed one by one.", status.decoded_tokens),
            ("prefilled_tokens", "Tokens computed in chunks.", status.prefilled_tokens),
            ("drafted_tokens", "Tokens computed ahead on a guess.", status.drafted_tokens),
            ("accepted_tokens", "Tokens computed ahead that were then chosen.", status.accepted_tokens),
        ):
            yield CounterMetricFamily(PREFIX + name, text, value)
