"""``transformers`` on torch as a worker: ``python -m bench.transformers_peer MODEL DTYPE THREADS``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.serving import Operation, operations_of, serve
from bench.token_ids import spread_ids


class TransformersOperations:
    """The operations of :class:`bench.own_engine.OwnOperations` that ``transformers`` has, done its way."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._vocab_size: int = model.config.vocab_size

    def decode(self, context: int, count: int, sessions: int = 1) -> float:
        """``count`` forward passes of one token each, with its own growing cache."""
        import torch

        with torch.inference_mode():
            past = self._model(self._ids(context, sessions), use_cache=True, logits_to_keep=1).past_key_values
            steps = [torch.full((sessions, 1), token) for token in spread_ids(count, self._vocab_size)]
            start = perf_counter()
            for step in steps:
                past = self._model(
                    step, past_key_values=past, use_cache=True, logits_to_keep=1
                ).past_key_values
            return perf_counter() - start

    def prefill(self, count: int) -> float:
        """A prompt, to the logits of its last position alone."""
        import torch

        with torch.inference_mode():
            ids = self._ids(count, 1)
            start = perf_counter()
            self._model(ids, use_cache=True, logits_to_keep=1)
            return perf_counter() - start

    def greedy(self, prompt: int, count: int) -> float:
        """``generate()`` without sampling; no end token, so that it makes exactly ``count``."""
        return self._generate(prompt, count, do_sample=False)

    def sampled(self, prompt: int, count: int) -> float:
        """``generate()`` with the sampling that stories are told with."""
        return self._generate(prompt, count, do_sample=True, temperature=1.0, top_k=4, top_p=0.9)

    def _generate(self, prompt: int, count: int, **settings: Any) -> float:
        import torch

        with torch.inference_mode():
            torch.manual_seed(7)
            ids = self._ids(prompt, 1)
            start = perf_counter()
            produced = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **settings
            )
            seconds = perf_counter() - start
        if produced.shape[1] != prompt + count:
            raise RuntimeError(f"{produced.shape[1] - prompt} tokens were generated instead of {count}")
        return seconds

    def _ids(self, count: int, sessions: int) -> Any:
        import torch

        return torch.tensor([spread_ids(count, self._vocab_size)] * sessions)


def load(model: Path, dtype: str, threads: int) -> Any:
    """The model in evaluation mode, with the settings that would stop generation early removed."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch_dtype = torch.bfloat16 if dtype == "bf16" else torch.float32
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch_dtype).eval()
    loaded.generation_config.eos_token_id = None
    loaded.generation_config.pad_token_id = 0
    # Settings of the model's own that would be warned of when they are not used.
    for name in ("temperature", "top_k", "top_p"):
        setattr(loaded.generation_config, name, None)
    return loaded


def open_engine(model: Path, dtype: str, threads: int) -> tuple[dict[str, Any], Mapping[str, Operation]]:
    """Load ``model`` in the wanted storage."""
    return {}, operations_of(TransformersOperations(load(model, dtype, threads)))


def main(arguments: list[str]) -> None:
    """Serve until the parent is done."""
    model, dtype, threads = arguments
    serve(lambda: open_engine(Path(model), dtype, int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
