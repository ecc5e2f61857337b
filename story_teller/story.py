"""One story: the prompt, what the model adds to it, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lm_core.errors import ContextLengthExceeded, InvalidParameter
from lm_core.generation import generate
from lm_core.model import Llama
from lm_core.sampler import SamplingParams
from lm_core.speculation import Speculation
from lm_core.stop_tokens import stop_token_ids
from lm_core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Story:
    """What was told.  ``tokens`` are the generated ids, without the end token; times are in seconds."""

    prompt: str
    text: str
    prompt_tokens: int
    tokens: list[int]
    finish_reason: str
    """``stop``: the model ended the story; ``length``: it was cut by ``max_tokens`` or the context."""
    prompt_seconds: float
    generation_seconds: float
    drafted_tokens: int
    """Tokens computed ahead on a guess; 0 without speculation."""
    accepted_tokens: int
    """Those of them that were then chosen."""

    @property
    def prompt_per_second(self) -> float:
        """Prompt tokens per second, up to the choice of the first token."""
        return self.prompt_tokens / self.prompt_seconds

    @property
    def generated_per_second(self) -> float:
        """Tokens per second after the first; 0 where there was no second one."""
        later = len(self.tokens) - (self.finish_reason == "length")
        return later / self.generation_seconds if later > 0 and self.generation_seconds > 0 else 0.0


class StoryTeller:
    """A model with its tokenizer, ready to tell."""

    def __init__(self, folder: Path, dtype: str = "auto") -> None:
        """Load the model in ``folder``.

        Raises:
            ModelError: the folder cannot be used; the message says why.
        """
        self._model = Llama.from_pretrained(folder, dtype)
        self._tokenizer = Tokenizer.from_pretrained(folder)
        self._tokenizer.check_fits(self._model.config)
        self._bos = self._tokenizer.bos_token_id
        if self._bos is None:
            self._bos = self._model.config.bos_token_id
        stops = stop_token_ids(folder, self._model.config, self._tokenizer)
        # Some story models never learned an end token: for them the beginning of the next story is it.
        self._stops = stops if self._bos is None else stops | {self._bos}

    def check(self, prompt: str) -> None:
        """Refuse what cannot be continued, before anything is printed.

        Raises:
            InvalidParameter: the prompt is not text, or empty while the model has no token to begin with.
            ContextLengthExceeded: the prompt fills the context.
        """
        tokens, context_length = len(self._prompt_ids(prompt)), self._model.config.context_length
        if tokens >= context_length:
            raise ContextLengthExceeded(tokens, context_length)

    def tell(
        self,
        prompt: str,
        params: SamplingParams,
        max_tokens: int,
        write: Callable[[str], None],
        speculate: bool = False,
    ) -> Story:
        """Continue ``prompt`` and hand each piece of new text to ``write`` as soon as it is whole.

        ``speculate`` changes nothing but the time it takes.

        Raises what :meth:`check` raises.
        """
        prompt_ids = self._prompt_ids(prompt)
        decoder = self._tokenizer.stream(prompt_ids)
        pieces: list[str] = []
        tokens: list[int] = []
        finish_reason = "length"
        started = first_token_at = time.perf_counter()
        speculation = Speculation()
        generation = generate(
            self._model,
            prompt_ids,
            params,
            max_new_tokens=max_tokens,
            stop_token_ids=self._stops,
            speculate=speculate and speculation,
        )
        for count, token in enumerate(generation):
            if count == 0:
                first_token_at = time.perf_counter()
            if token in self._stops:
                finish_reason = "stop"
                break
            tokens.append(token)
            text = decoder.push(token)
            if text:
                pieces.append(text)
                write(text)
        ended = time.perf_counter()
        return Story(
            prompt=prompt,
            text="".join(pieces),
            prompt_tokens=len(prompt_ids),
            tokens=tokens,
            finish_reason=finish_reason,
            prompt_seconds=first_token_at - started,
            generation_seconds=ended - first_token_at,
            drafted_tokens=speculation.drafted,
            accepted_tokens=speculation.accepted,
        )

    def _prompt_ids(self, prompt: str) -> list[int]:
        ids = self._tokenizer.encode(prompt)
        if ids:
            return ids
        if self._bos is None:
            raise InvalidParameter(
                "prompt", "the prompt is empty and this model has no token to begin a text with"
            )
        return [self._bos]
