"""A turn that is being generated: choosing tokens, making text of them, and knowing when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lm_core.language_model import LanguageModel
from lm_core.sampler import Sampler, SamplingParams
from lm_core.turn import FinishReason, Turn, Undo

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GeneratedToken:
    """A new token and the text that is certain with it, which may belong to earlier tokens."""

    token_id: int
    text: str


class TurnInProgress:
    """The state of one turn between its prompt and its end.  Appends to the session's tokens."""

    def __init__(
        self,
        language_model: LanguageModel,
        tokens: list[int],
        question: str | None,
        rendered: str | None,
        params: SamplingParams,
        end: int,
        stop: tuple[str, ...],
        undo: Undo,
    ) -> None:
        self.undo = undo
        self._language_model = language_model
        self._tokens = tokens
        self._question, self._rendered = question, rendered
        self._prompt_tokens = len(tokens)
        self._end = end
        self._sampler = Sampler(params)
        self._decoder = language_model.tokenizer.stream(tokens)
        # The text with control tokens, as the next rendering of the conversation will have it.
        self._raw_decoder = language_model.tokenizer.stream(tokens, skip_special_tokens=False)
        self._raw_text: list[str] = []
        self._stops = StopTexts(stop)
        self._finish_reason: FinishReason | None = None
        self._started = time.perf_counter()
        self._first_token_at = self._started
        self._ended_at = self._started

    @property
    def ended(self) -> bool:
        """Whether the last token has been made."""
        return self._finish_reason is not None

    def accept(self, logits: F32) -> GeneratedToken:
        """Choose the next token from ``logits [V]`` float32, append it, and see whether it ends the turn."""
        token = self._sampler.sample(logits, self._tokens)
        if len(self._tokens) == self._prompt_tokens:
            self._first_token_at = time.perf_counter()
        self._tokens.append(token)
        self._raw_text.append(self._raw_decoder.push(token))
        if token in self._language_model.stop_token_ids:
            self._finish_reason = "stop"
            text = self._stops.rest()
        else:
            text = self._stops.push(self._decoder.push(token))
            if self._stops.found:
                self._finish_reason = "stop"
            elif len(self._tokens) >= self._end:
                self._finish_reason = "length"
                text += self._stops.rest()
        self._ended_at = time.perf_counter()
        return GeneratedToken(token, text)

    def finished(self) -> Turn:
        """The record of the turn, once it has ended."""
        if self._finish_reason is None:
            raise RuntimeError("the turn has not ended")
        return Turn(
            question=self._question,
            text=self._stops.text,
            rendered=None if self._rendered is None else self._rendered + "".join(self._raw_text),
            finish_reason=self._finish_reason,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self.undo.cached_tokens,
            generated_tokens=len(self._tokens) - self._prompt_tokens,
            prompt_seconds=self._first_token_at - self._started,
            generation_seconds=self._ended_at - self._first_token_at,
            params=replace(self._sampler.params, seed=self._sampler.seed),
            undo=self.undo,
        )


class StopTexts:
    """Ends a text before the first of several stop texts that is complete in it.

    Holds back what could be the beginning of one.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self._shown: list[str] = []
        self.found = False

    @property
    def text(self) -> str:
        """Everything shown so far."""
        return "".join(self._shown)

    def push(self, text: str) -> str:
        """Add ``text`` and return what can be shown."""
        if not self._stop:
            return self._show(text)
        held = self._held + text
        # Of several, the one that is complete first: that does not depend on how tokens cut the text.
        found = [(start + len(stop), start) for stop in self._stop if (start := held.find(stop)) >= 0]
        if found:
            self.found, self._held = True, ""
            return self._show(held[: min(found)[1]])
        keep = max(_overlap(held, stop) for stop in self._stop)
        self._held = held[len(held) - keep :]
        return self._show(held[: len(held) - keep])

    def rest(self) -> str:
        """What was held back, once it is certain that nothing follows."""
        held, self._held = self._held, ""
        return self._show(held)

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that is a beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
