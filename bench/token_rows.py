"""Rows in tokens per second: running engines side by side, and this engine's variants of decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.lengths import CONTEXT_TOKENS, Lengths
from bench.roofline import streamed_bytes
from bench.rows import Comparison, Contender, Reference, Row, measure_lines
from bench.settings import Settings
from bench.workers import Worker

SESSIONS = (1, 2, 4, 8, 16)

BATCH_TOKENS = 32
"""Decoded per session in the batch row, which does the work of 31 sessions in one turn."""
LONG_CONTEXT = 1024
"""Cached in each session before its second batch row, where attention takes as long as the weights."""

ORIGINAL = Reference(
    "original",
    1160.0,
    "the Rust original on TinyStories-656K, sampled, its best build; measured once, not in this run",
)
STORY_MODELS = ("story", "story-656k")
"""Folders of the models whose speed that figure says something about."""


class TokenRows:
    """The rows of one model in one storage; ``peers`` are workers, or lines saying why there is none."""

    def __init__(
        self, model: str, dtype: str, own: Worker, peers: Sequence[Worker | Contender], settings: Settings
    ) -> None:
        self._model, self._dtype, self._settings = model, dtype, settings
        self._own, self._engines = own, (own, *peers)
        self._lengths = Lengths.within(own.facts["context_length"])

    def decode(self, roofline: Worker) -> Row:
        """Forward passes alone, beside what the machine's bandwidth would allow."""
        context, count = self._lengths.context, self._lengths.decoded
        cached_bytes = self._own.facts["kv_bytes_per_token"] * (context + count // 2)
        bytes_per_token = int(self._own.facts["weight_bytes"] + cached_bytes)
        cache_bytes = int(roofline.facts["last_level_cache_bytes"])
        in_cache = bytes_per_token <= cache_bytes
        size = bytes_per_token if in_cache else streamed_bytes(cache_bytes)

        def ideal() -> float:
            return size / roofline.ask("read", self._settings.seconds, size=size) / bytes_per_token

        return self._row(
            f"decode {self._dtype}",
            f"decode {count} tokens after {context}, {self._dtype}",
            [
                *self._rates("decode", count, context=context, count=count),
                Contender("roofline", ideal),
            ],
            details={"bytes_per_token": bytes_per_token, "roofline_from": "cache" if in_cache else "memory"},
        )

    def greedy(self) -> Row:
        """A prompt, forward passes, and the most likely token each time."""
        return self._generation("greedy", "greedy")

    def sampled(self) -> Row:
        """A whole story: prompt, forward passes and sampling."""
        references = [ORIGINAL] if self._model in STORY_MODELS and self._dtype == "f32" else []
        return self._generation("sampled", "top-k 4, top-p 0.9", references)

    def _generation(self, operation: str, how: str, references: Sequence[Reference] = ()) -> Row:
        prompt, count = self._lengths.prompt, self._lengths.generated
        return self._row(
            f"{operation} {self._dtype}",
            f"generate {count} tokens after {prompt}, {how}, {self._dtype}",
            self._rates(operation, count, prompt=prompt, count=count),
            references=references,
        )

    def prefill(self) -> Iterator[Row]:
        """Prompts of the usual lengths."""
        for count in self._lengths.prefilled:
            yield self._row(
                f"prefill {count} {self._dtype}",
                f"prefill {count} tokens, {self._dtype}",
                self._rates("prefill", count, count=count),
            )

    def batch(self) -> Iterator[Row]:
        """Several sessions decoding together, at their begin and behind a long context: tokens of all."""
        yield self._batch(f"batch {self._dtype}", self._lengths.context)
        if LONG_CONTEXT in self._lengths.contexts:
            yield self._batch(f"long batch {self._dtype}", LONG_CONTEXT)

    def _batch(self, key: str, context: int) -> Row:
        count = min(BATCH_TOKENS, self._lengths.decoded)
        return self._row(
            key,
            f"decode {count} tokens behind {context} in each session, all in one batch, {self._dtype}",
            [
                self._rate(
                    f"{sessions} session{'s' if sessions > 1 else ''}",
                    self._own,
                    "decode",
                    count * sessions,
                    context=context,
                    count=count,
                    sessions=sessions,
                )
                for sessions in SESSIONS
            ],
            comparison="each line against the first",
        )

    def context(self) -> Row:
        """Decoding behind more and more cached tokens."""
        return self._row(
            f"context {self._dtype}",
            f"decode {CONTEXT_TOKENS} tokens behind so many, {self._dtype}",
            [
                self._rate(
                    f"{context} tokens",
                    self._own,
                    "decode",
                    CONTEXT_TOKENS,
                    context=context,
                    count=CONTEXT_TOKENS,
                )
                for context in self._lengths.contexts
            ],
            comparison="each line against the first",
        )

    def speculation(self) -> Iterator[Row]:
        """Computing likely tokens ahead: what it gains where a text repeats itself, and costs elsewhere."""
        count = self._lengths.speculated
        for kind, how in (("ordinary", "sampled"), ("repeating", "greedy")):
            yield self._row(
                f"speculation {kind} {self._dtype}",
                f"generate {count} tokens of {kind} text, {how}, {self._dtype}",
                [
                    self._rate(
                        label,
                        self._own,
                        "continued",
                        count,
                        repeating=int(kind == "repeating"),
                        ahead=ahead,
                        count=count,
                    )
                    for ahead, label in enumerate(("one by one", "speculating"))
                ],
                comparison="each line against the first",
            )

    def rebuild(self) -> Row:
        """Getting a session's lost cache back, beside taking the turn again."""
        prompt, count = self._lengths.prompt, self._lengths.generated
        return self._row(
            f"rebuild {self._dtype}",
            f"rebuild a session of {count} generated tokens with the same bits, {self._dtype}",
            [
                self._rate("rebuild", self._own, "rebuild", count, prompt=prompt, count=count),
                self._rate("generate again", self._own, "turn", count, prompt=prompt, count=count),
            ],
        )

    def revert(self) -> Row:
        """Taking a short and a long session's last turn back."""

        def at(length: int) -> Contender:
            return Contender(f"{length} tokens", lambda: 1e6 * self._own.ask("revert", length=length))

        return Row(
            key="revert",
            title="revert the last turn, of 40 tokens, of a session of",
            unit="µs",
            higher_is_better=False,
            lines=measure_lines([at(length) for length in self._lengths.reverted], self._settings.repeats),
            comparison="each line against the first",
        )

    def storage(self, widened: Worker) -> Row:
        """bf16 weights beside the same weights widened to float32, for half the memory."""
        context, count = self._lengths.context, self._lengths.decoded
        return self._row(
            "storage",
            f"decode {count} tokens after {context}, by how the weights are kept",
            [
                self._rate(worker.dtype, worker, "decode", count, context=context, count=count)
                for worker in (widened, self._own)
            ],
            comparison="each line against the first",
        )

    def _rates(self, operation: str, tokens: int, **arguments: int) -> list[Contender]:
        return [
            self._rate(engine.spec.name, engine, operation, tokens, **arguments)
            if isinstance(engine, Worker)
            else engine
            for engine in self._engines
        ]

    def _rate(self, label: str, worker: Worker, operation: str, tokens: int, **arguments: int) -> Contender:
        """A contender for tokens per second, by an operation that returns its seconds."""
        return Contender(label, lambda: tokens / worker.ask(operation, self._settings.seconds, **arguments))

    def _row(
        self,
        key: str,
        title: str,
        contenders: Sequence[Contender],
        references: Sequence[Reference] = (),
        comparison: Comparison = "first line against each",
        details: dict[str, Any] | None = None,
    ) -> Row:
        return Row(
            key=key,
            title=title,
            unit="tokens/s",
            higher_is_better=True,
            lines=measure_lines(contenders, self._settings.repeats, references),
            comparison=comparison,
            details=details or {},
        )
