"""``llama.cpp``, by ``llama-cpp-python``, as a worker: ``python -m bench.llama_cpp_peer MODEL DTYPE N``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.serving import Operation, operations_of, serve
from bench.token_ids import spread_ids

LONGEST_CONTEXT = 8192


class LlamaCppOperations:
    """The operations of :class:`bench.own_engine.OwnOperations` that ``llama.cpp`` has, done its way."""

    def __init__(self, model: Any, vocab_size: int) -> None:
        self._model = model
        self._vocab_size = vocab_size

    def decode(self, context: int, count: int) -> float:
        """``count`` evaluations of one token each, with its own cache."""
        self._model.reset()
        self._model.eval(spread_ids(context, self._vocab_size))
        ids = spread_ids(count, self._vocab_size)
        start = perf_counter()
        for token in ids:
            self._model.eval([token])
        return perf_counter() - start

    def prefill(self, count: int) -> float:
        """A prompt, to the logits of its last position alone."""
        ids = spread_ids(count, self._vocab_size)
        self._model.reset()
        start = perf_counter()
        self._model.eval(ids)
        return perf_counter() - start

    def greedy(self, prompt: int, count: int) -> float:
        """A prompt and the ``count`` most likely tokens after it."""
        return self._generate(prompt, count, temp=0.0)

    def sampled(self, prompt: int, count: int) -> float:
        """A prompt and ``count`` tokens, with the sampling that stories are told with."""
        return self._generate(prompt, count, temp=1.0, top_k=4, top_p=0.9, min_p=0.0)

    def _generate(self, prompt: int, count: int, **settings: Any) -> float:
        ids = spread_ids(prompt, self._vocab_size)
        # Otherwise the beginning that two prompts share is kept from the last time.
        self._model.reset()
        self._model.set_seed(7)
        start = perf_counter()
        generation = self._model.generate(ids, reset=True, repeat_penalty=1.0, **settings)
        for _ in range(count):
            next(generation)
        return perf_counter() - start


def open_engine(model: Path, dtype: str, threads: int) -> tuple[dict[str, Any], Mapping[str, Operation]]:
    """Write the same weights as GGUF and load that."""
    import llama_cpp

    from lm_core.config import LlamaConfig

    config = LlamaConfig.from_pretrained(model)
    # The file stays mapped after it is deleted, so nothing is left behind however this process ends.
    with tempfile.TemporaryDirectory(prefix="bench-gguf-") as folder:
        file = Path(folder) / "model.gguf"
        # In a process of its own, whose memory is not counted as the engine's.
        subprocess.run([sys.executable, "-m", "bench.gguf_export", str(model), dtype, str(file)], check=True)
        loaded = llama_cpp.Llama(
            str(file),
            n_ctx=min(LONGEST_CONTEXT, config.context_length),
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
    return {}, operations_of(LlamaCppOperations(loaded, config.vocab_size))


def main(arguments: list[str]) -> None:
    """Serve until the parent is done."""
    model, dtype, threads = arguments
    serve(lambda: open_engine(Path(model), dtype, int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
