"""Every row of one model: which processes it takes, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.cold_start import seconds_to_output
from bench.engines import OWN, ROOFLINE
from bench.lengths import Lengths
from bench.roofline import streamed_bytes
from bench.rows import Contender, Reference, Row, measure_lines
from bench.server_rows import ServerRows
from bench.serving import PEAK_MEMORY
from bench.settings import Settings
from bench.token_rows import TokenRows
from bench.workers import EngineSpec, Worker, WorkerError

ROWS = (
    "bandwidth",
    "decode",
    "greedy",
    "sampled",
    "prefill",
    "batch",
    "context",
    "speculation",
    "rebuild",
    "revert",
    "storage",
    "memory",
    "cold-start",
    "server",
    "latency",
    "ready",
    "overload",
)
"""What ``--only`` names, in the order it is measured."""

WITH_PEERS = {"decode", "greedy", "sampled", "prefill"}
"""Rows for which the peers have to be running."""

MEMORY_REPEATS = 2
"""A peak hardly varies, and each repeat starts every engine anew."""


class ModelRun:
    """The measurements of one model folder.  ``facts`` by storage are known once its rows are."""

    def __init__(self, model: Path, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self.facts: dict[str, dict[str, Any]] = {}

    def rows(self, wanted: Sequence[str] = ROWS) -> Iterator[Row]:
        """Measure and yield row after row.

        Raises:
            WorkerError: this engine or the roofline cannot be started.
        """
        with ExitStack() as stack:
            roofline = stack.enter_context(self._worker(ROOFLINE, "f32"))
            if "bandwidth" in wanted:
                yield self._bandwidth(roofline)
            yield from self._in_storage("f32", wanted, roofline)
            facts = self.facts["f32"]
            # Where float32 weights stay in the cache, bf16 only costs time: nobody would choose it.
            if facts["stored_as_bf16"] or facts["weight_bytes"] > roofline.facts["last_level_cache_bytes"]:
                yield from self._in_storage("bf16", wanted, roofline)
        if "cold-start" in wanted:
            yield self._cold_start()
        yield from ServerRows(self._model, self._settings, facts).rows(wanted)

    def _in_storage(self, dtype: str, wanted: Sequence[str], roofline: Worker) -> Iterator[Row]:
        with ExitStack() as stack:
            own = stack.enter_context(self._worker(OWN, dtype))
            self.facts[dtype] = own.facts
            peers = (
                [self._peer(stack, spec, dtype) for spec in self._settings.peers]
                if WITH_PEERS & set(wanted)
                else []
            )
            rows = TokenRows(self._model.name, dtype, own, peers, self._settings)
            if "decode" in wanted:
                yield rows.decode(roofline)
            if "greedy" in wanted:
                yield rows.greedy()
            if "sampled" in wanted:
                yield rows.sampled()
            if "prefill" in wanted:
                yield from rows.prefill()
            if "batch" in wanted:
                yield from rows.batch()
            if "context" in wanted:
                yield rows.context()
            if "speculation" in wanted:
                yield from rows.speculation()
            if "rebuild" in wanted:
                yield rows.rebuild()
            # Going back has nothing to do with how the weights are stored.
            if "revert" in wanted and dtype == "f32":
                yield rows.revert()
            if "storage" in wanted and dtype == "bf16":
                yield rows.storage(stack.enter_context(self._worker(OWN, "f32")))
        if "memory" in wanted:
            yield self._memory(dtype)
            yield self._prompt_memory(dtype)

    def _bandwidth(self, roofline: Worker) -> Row:
        def reading(place: str, size: int) -> Contender:
            return Contender(
                f"from {place}", lambda: size / roofline.ask("read", self._settings.seconds, size=size) / 1e9
            )

        cache_bytes = int(roofline.facts["last_level_cache_bytes"])
        sizes = {"memory": streamed_bytes(cache_bytes), "cache": cache_bytes // 16}
        return Row(
            key="bandwidth",
            title="weights read by float32 matrix-vector products",
            unit="GB/s",
            higher_is_better=True,
            lines=measure_lines([reading(*item) for item in sizes.items()], self._settings.repeats),
            comparison="none",
            details={"bytes": sizes, "last_level_cache_bytes": cache_bytes},
        )

    def _memory(self, dtype: str) -> Row:
        lengths = Lengths.within(self.facts[dtype]["context_length"])

        def peak(spec: EngineSpec) -> Callable[[], float]:
            def measure() -> float:
                with self._worker(spec, dtype) as worker:
                    worker.ask("sampled", prompt=lengths.prompt, count=lengths.generated)
                    return worker.ask(PEAK_MEMORY) / (1 << 20)

            return measure

        return Row(
            key=f"memory {dtype}",
            title=f"peak resident memory, {lengths.generated} tokens generated, {dtype}",
            unit="MiB",
            higher_is_better=False,
            lines=measure_lines(
                [self._contender(spec, peak(spec)) for spec in (OWN, *self._settings.peers)],
                min(MEMORY_REPEATS, self._settings.repeats),
                [self._needed(dtype, lengths.prompt + lengths.generated, "this text's")],
            ),
        )

    def _prompt_memory(self, dtype: str) -> Row:
        """What a long prompt takes beside its keys and values must not grow with its square."""
        count = Lengths.within(self.facts[dtype]["context_length"]).long_prompt

        def peak() -> float:
            with self._worker(OWN, dtype) as worker:
                worker.ask("prefill", count=count)
                return worker.ask(PEAK_MEMORY) / (1 << 20)

        return Row(
            key=f"prompt-memory {dtype}",
            title=f"peak resident memory, prompt of {count:,} tokens, {dtype}",
            unit="MiB",
            higher_is_better=False,
            # Once: it takes seconds, and a peak hardly varies.
            lines=measure_lines(
                [Contender(OWN.name, peak, warm_up=lambda: 0.0)],
                1,
                [self._needed(dtype, count, "the prompt's")],
            ),
        )

    def _needed(self, dtype: str, tokens: int, whose: str) -> Reference:
        """What no engine can do without: the weights, and the keys and values of so many tokens."""
        facts = self.facts[dtype]
        needed = facts["checkpoint_bytes"] + facts["kv_bytes_per_token"] * tokens
        return Reference("checkpoint", needed / (1 << 20), f"the weights' files, and {whose} keys and values")

    def _cold_start(self) -> Row:
        def seconds(command: list[str]) -> Callable[[], float]:
            return lambda: seconds_to_output(command)

        return Row(
            key="cold-start",
            title="process start to first token of a story",
            unit="s",
            higher_is_better=False,
            lines=measure_lines(
                [
                    self._contender(spec, seconds(spec.first_token(self._model)))
                    for spec in (OWN, *self._settings.peers)
                    if spec.first_token is not None
                ],
                self._settings.repeats,
            ),
        )

    def _worker(self, spec: EngineSpec, dtype: str) -> Worker:
        return Worker(spec, self._model, dtype, self._settings.threads)

    def _contender(self, spec: EngineSpec, measure: Callable[[], float]) -> Contender:
        absence = self._settings.absence(spec)
        return Contender(spec.name, None if absence else measure, absence)

    def _peer(self, stack: ExitStack, spec: EngineSpec, dtype: str) -> Worker | Contender:
        absence = self._settings.absence(spec)
        if absence:
            return Contender(spec.name, None, absence)
        try:
            return stack.enter_context(self._worker(spec, dtype))
        except WorkerError as error:
            return Contender(spec.name, None, f"failed: {error}")
