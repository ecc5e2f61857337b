"""``llama.cpp`` as a worker: ``python -m bench.llama_cpp_peer MODEL DTYPE N``.

Its C functions are called one by one, as ``llama-cpp-python`` makes them available, so that no
Python of that package is part of the figures.  Settings are llama.cpp's own defaults, but for the
number of threads.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.serving import Operation, operations_of, serve
from bench.token_ids import spread_ids

LONGEST_CONTEXT = 1024
"""As much as any row needs: keys and values of all of it are set aside at once, and count as memory."""

BATCH = 512
"""Prompt tokens that are computed at once: its default, and what this engine does."""


class LlamaCppOperations:
    """The operations of :class:`bench.own_engine.OwnOperations` that ``llama.cpp`` has, done its way."""

    def __init__(self, context: Any, vocab_size: int) -> None:
        import llama_cpp

        self._library: Any = llama_cpp
        self._context = context
        self._memory = self._library.llama_get_memory(context)
        self._vocab_size = vocab_size

    def decode(self, context: int, count: int) -> float:
        """``count`` evaluations of one token each, with its own cache."""
        self._forget()
        self._evaluate(spread_ids(context, self._vocab_size))
        ids = spread_ids(count, self._vocab_size)
        start = perf_counter()
        for token in ids:
            self._evaluate([token])
        return perf_counter() - start

    def prefill(self, count: int) -> float:
        """A prompt, to the logits of its last position alone."""
        ids = spread_ids(count, self._vocab_size)
        self._forget()
        start = perf_counter()
        self._evaluate(ids)
        return perf_counter() - start

    def greedy(self, prompt: int, count: int) -> float:
        """A prompt and the ``count`` most likely tokens after it."""
        return self._generate(prompt, count, [self._library.llama_sampler_init_greedy()])

    def sampled(self, prompt: int, count: int) -> float:
        """A prompt and ``count`` tokens, with the sampling that stories are told with."""
        library = self._library
        return self._generate(
            prompt,
            count,
            [
                library.llama_sampler_init_top_k(4),
                library.llama_sampler_init_top_p(0.9, 1),
                library.llama_sampler_init_temp(1.0),
                library.llama_sampler_init_dist(7),
            ],
        )

    def _generate(self, prompt: int, count: int, samplers: list[Any]) -> float:
        library = self._library
        chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        for sampler in samplers:
            # The chain owns them from now on.
            library.llama_sampler_chain_add(chain, sampler)
        self._forget()
        ids = spread_ids(prompt, self._vocab_size)
        start = perf_counter()
        for _ in range(count):
            self._evaluate(ids)
            ids = [library.llama_sampler_sample(chain, self._context, -1)]
        seconds = perf_counter() - start
        library.llama_sampler_free(chain)
        return seconds

    def _evaluate(self, ids: list[int]) -> None:
        """Add tokens after those in its cache; it makes logits of the last one only."""
        for start in range(0, len(ids), BATCH):
            chunk = ids[start : start + BATCH]
            tokens = (ctypes.c_int32 * len(chunk))(*chunk)
            code = self._library.llama_decode(
                self._context, self._library.llama_batch_get_one(tokens, len(chunk))
            )
            if code:
                raise RuntimeError(f"llama_decode returned {code}")
        # It works on while the next call is prepared, unless it is waited for.
        self._library.llama_synchronize(self._context)

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._memory, False)


def open_engine(model: Path, dtype: str, threads: int) -> tuple[dict[str, Any], Mapping[str, Operation]]:
    """Write the same weights as GGUF and load that.

    Raises:
        RuntimeError: it cannot be loaded.
    """
    import llama_cpp

    from lm_core.config import LlamaConfig

    config = LlamaConfig.from_pretrained(model)
    llama_cpp.llama_backend_init()
    # The file stays mapped after it is deleted, so nothing is left behind however this process ends.
    with tempfile.TemporaryDirectory(prefix="bench-gguf-") as folder:
        file = Path(folder) / "model.gguf"
        # In a process of its own, whose memory is not counted as the engine's.
        subprocess.run([sys.executable, "-m", "bench.gguf_export", str(model), dtype, str(file)], check=True)
        loaded = llama_cpp.llama_model_load_from_file(
            str(file).encode(), llama_cpp.llama_model_default_params()
        )
    if not loaded:
        raise RuntimeError("llama.cpp cannot load the model")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = min(LONGEST_CONTEXT, config.context_length)
    settings.n_batch = settings.n_ubatch = BATCH
    settings.n_threads = settings.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(loaded, settings)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context")
    return {}, operations_of(LlamaCppOperations(context, config.vocab_size))


def main(arguments: list[str]) -> None:
    """Serve until the parent is done."""
    model, dtype, threads = arguments
    serve(lambda: open_engine(Path(model), dtype, int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
