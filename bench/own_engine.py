"""This engine as a worker: ``python -m bench.own_engine MODEL DTYPE THREADS``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bench.serving import Operation, operations_of, serve
from bench.texts import ORDINARY, REPEATING
from bench.token_ids import spread_ids
from lm_core import blas

if TYPE_CHECKING:
    from lm_core.kv_cache import KVCache
    from lm_core.language_model import LanguageModel
    from lm_core.sampler import SamplingParams
    from lm_core.session import Session

FLOAT32_BYTES = 4

REVERTED = 40
"""Tokens of the turn that is reverted: their ids are deleted, whatever came before."""

FLUSHED_BYTES = 64 << 20
"""More than any cache holds."""

REVERTS = 20
"""Reverts of one pass: one takes microseconds."""


class OwnOperations:
    """What is measured.  Each method returns the seconds of one pass; preparing is not counted."""

    def __init__(self, language_model: LanguageModel) -> None:
        self._language_model = language_model
        self._llama = language_model.llama
        self._vocab_size = language_model.llama.config.vocab_size
        # Prepared once for all repeats: what takes seconds to compute is only cut back.
        self._cache_of = cache(self._new_cache)
        self._session_of = cache(self._new_session)

    def decode(self, context: int, count: int, sessions: int = 1) -> float:
        """``count`` forward passes of one token for each of ``sessions`` sequences; no token is chosen."""
        caches = [self._cache_of(context, index) for index in range(sessions)]
        for one in caches:
            one.truncate(context)
        rows = [[token] * sessions for token in spread_ids(count, self._vocab_size)]
        start = perf_counter()
        for row in rows:
            self._llama.forward_batch(row, caches)
        return perf_counter() - start

    def prefill(self, count: int) -> float:
        """A prompt of ``count`` tokens, to the logits of its last position."""
        ids = spread_ids(count, self._vocab_size)
        cache = self._llama.new_cache()
        start = perf_counter()
        self._llama.forward(ids, cache)
        return perf_counter() - start

    def greedy(self, prompt: int, count: int) -> float:
        """A prompt and the ``count`` most likely tokens after it."""
        return self._generate(prompt, count, _params(temperature=0.0))

    def sampled(self, prompt: int, count: int) -> float:
        """A prompt and ``count`` sampled tokens, by the settings that stories are told with."""
        return self._generate(prompt, count, _params())

    def continued(self, repeating: int, ahead: int, count: int) -> float:
        """``count`` tokens after a text and a first one; with ``ahead``, by prompt-lookup speculation.

        A text that repeats itself is continued greedily, so that it goes on repeating; another one
        with sampling, so that it does not begin to.
        """
        from lm_core.generation import generate

        context_length = self._llama.config.context_length
        ids = self._language_model.tokenizer.encode(REPEATING if repeating else ORDINARY)
        generation = generate(
            self._llama,
            ids[-(context_length - count - 1) :],
            _params(temperature=0.0 if repeating else 1.0),
            max_new_tokens=count + 1,
            speculate=bool(ahead),
        )
        next(generation)
        start = perf_counter()
        for _ in generation:
            pass
        return perf_counter() - start

    def turn(self, prompt: int, count: int) -> float:
        """A session's turn: what it takes to generate ``count`` tokens again."""
        start = perf_counter()
        self._new_session(prompt, count)
        return perf_counter() - start

    def rebuild(self, prompt: int, count: int) -> float:
        """The lost cache of that session, brought back bit for bit."""
        session = self._session_of(prompt, count)
        session.evict()
        start = perf_counter()
        session.restore()
        return perf_counter() - start

    def revert(self, length: int) -> float:
        """Back to before the last turn, of a few tokens, of a session of ``length`` tokens."""
        session = self._session_of(length - min(REVERTED, length // 2) - 1, 1)
        if len(session.turns) == 1:
            question = spread_ids(length - 1 - len(session.tokens), self._vocab_size)
            _take_turn(session, session.tokens + question, 1, _params())
        seconds = 0.0
        filler = bytes(FLUSHED_BYTES)
        for _ in range(REVERTS):
            fork = session.fork()
            # Copying a long session leaves the processor's caches cold: do so after a short one too.
            bytearray(filler)
            start = perf_counter()
            fork.revert(1)
            seconds += perf_counter() - start
        return seconds / REVERTS

    def _generate(self, prompt: int, count: int, params: SamplingParams) -> float:
        from lm_core.generation import generate

        ids = spread_ids(prompt, self._vocab_size)
        start = perf_counter()
        produced = sum(1 for _ in generate(self._llama, ids, params, max_new_tokens=count))
        seconds = perf_counter() - start
        if produced != count:
            raise RuntimeError(f"{produced} tokens were generated instead of {count}")
        return seconds

    def _new_cache(self, length: int, index: int) -> KVCache:
        if index:
            return self._cache_of(length, 0).copy_prefix(length)
        cache = self._llama.new_cache()
        self._llama.forward(spread_ids(length, self._vocab_size), cache)
        return cache

    def _new_session(self, prompt: int, count: int) -> Session:
        from lm_core.session import Session

        session = Session(self._language_model)
        _take_turn(session, spread_ids(prompt, self._vocab_size), count, _params())
        return session


def _params(temperature: float = 1.0) -> SamplingParams:
    from lm_core.sampler import SamplingParams

    return SamplingParams(temperature, top_k=4, top_p=0.9, seed=7)


def _take_turn(session: Session, prompt: list[int], count: int, params: SamplingParams) -> None:
    for _ in session.generate(prompt, params, max_new_tokens=count):
        pass


def open_engine(model: Path, dtype: str, threads: int) -> tuple[dict[str, Any], Mapping[str, Operation]]:
    """Load ``model``.  Must run before NumPy is imported, which is when the kernels are chosen."""
    blas.prepare()
    from lm_core.checkpoint import Checkpoint
    from lm_core.language_model import LanguageModel
    from lm_core.model import Llama
    from lm_core.tokenizer import Tokenizer

    blas.set_threads(threads)
    tensors = Checkpoint.open(model).tensors.values()
    llama = Llama.from_pretrained(model, dtype=dtype)
    config = llama.config
    facts = {
        "stored_as_bf16": any(tensor.dtype == "BF16" for tensor in tensors),
        "checkpoint_bytes": sum(file.stat().st_size for file in {tensor.file for tensor in tensors}),
        "weight_bytes": llama.nbytes,
        "kv_bytes_per_token": (
            2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * FLOAT32_BYTES
        ),
        "context_length": config.context_length,
        "blas": str(blas.describe()),
    }
    # Nothing ends a turn early: every engine makes exactly as many tokens as it is asked for.
    language_model = LanguageModel(
        model.name, llama, Tokenizer.from_pretrained(model), template=None, stop_token_ids=frozenset()
    )
    return facts, operations_of(OwnOperations(language_model))


def main(arguments: list[str]) -> None:
    """Serve until the parent is done."""
    model, dtype, threads = arguments
    serve(lambda: open_engine(Path(model), dtype, int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
