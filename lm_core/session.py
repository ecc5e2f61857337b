"""A session: a sequence of tokens that grows by turns and can go back to any of them, exactly.

There is one rule: compute ``tokens[cache.length:]``.  Prefill, chunked prefill, decoding, resuming
after a crash and continuing after a revert are all :meth:`Session.compute`, called until nothing is
missing.  The schedule remembers how each cached token was computed, so that a lost cache comes back
with the same bits (``doc/exactness.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lm_core.errors import ContextLengthExceeded, InvalidParameter
from lm_core.kv_cache import KVCache
from lm_core.language_model import LanguageModel
from lm_core.model import PREFILL_CHUNK, REPLAY_ROWS
from lm_core.prompt import PreparedPrompt, Prompt, prepare_prompt
from lm_core.sampler import SamplingParams
from lm_core.schedule import Schedule
from lm_core.snapshot import SNAPSHOT_VERSION as SNAPSHOT_VERSION
from lm_core.snapshot import Snapshot
from lm_core.speculation import Speculation
from lm_core.turn import Turn, Undo
from lm_core.turn_in_progress import GeneratedToken, TurnInProgress

F32 = npt.NDArray[np.float32]


class Session:
    """One conversation with a model.

    >>> session = Session(LanguageModel.from_pretrained("models/chat"))
    >>> for token in session.ask("Are apples red?"):
    ...     print(token.text, end="", flush=True)
    >>> session.revert(0)
    """

    def __init__(self, language_model: LanguageModel, system: str | None = None) -> None:
        """An empty session.  ``system`` is the message that :meth:`ask` puts before all others."""
        self.language_model = language_model
        self.system = system
        self.tokens: list[int] = []
        """The transcript.  The last of them may not be cached yet."""
        self.cache: KVCache = language_model.llama.new_cache()
        self.schedule = Schedule()
        """How ``tokens[:schedule.length]`` were computed; the cache may hold fewer, never more."""
        self.turns: list[Turn] = []
        self.prefill_chunk = PREFILL_CHUNK
        """Prompt tokens per :meth:`compute`.  It decides bits, so forks and snapshots keep it."""
        self.speculate = False
        """Whether turns compute likely tokens ahead.  It decides no bits, so snapshots do not keep it."""
        self.speculation: Speculation | None = None
        """Of the turn in progress."""

    # -- taking turns ---------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        params: SamplingParams | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[GeneratedToken]:
        """Put a user's message to the conversation so far and yield the answer; see :meth:`generate`."""
        return self.generate(self.messages(question), params, max_new_tokens=max_new_tokens, stop=stop)

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation as messages: the system's, each turn's question and answer, and a new question."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question or ""})
            messages.append({"role": "assistant", "content": turn.text})
        messages.append({"role": "user", "content": question})
        return messages

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[GeneratedToken]:
        """Take a turn: yield each token as it is made, then keep the turn.

        Closing the iterator early, or any error, leaves the session as it was before the turn.

        Args:
            prompt: messages (the whole conversation), a text to append, or token ids (the whole
                context); see :func:`lm_core.prompt.prepare_prompt`.
            params: how to choose tokens.
            max_new_tokens: at most so many; by default, what the context holds.
            stop: texts that end the answer where they first occur, and are not part of it.

        Raises:
            InvalidParameter, TemplateError: the prompt cannot be used.
            ContextLengthExceeded: the prompt leaves no room for an answer.
        """
        generation = self._run(self.begin(prompt, params, max_new_tokens=max_new_tokens, stop=stop))
        # Up to the first "yield": from there on, closing it undoes the turn, even before a token is made.
        next(generation)
        return cast(Iterator[GeneratedToken], generation)

    def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Render and tokenize ``prompt`` for :meth:`begin`, reading the session and changing nothing.

        Arguments and errors are those of :meth:`generate`, but for the length of the context.
        """
        rendered = self.turns[-1].rendered if self.turns else None
        return prepare_prompt(self.language_model, prompt, self.tokens, rendered)

    def begin(
        self,
        prompt: Prompt | PreparedPrompt,
        params: SamplingParams | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> TurnInProgress:
        """Start a turn without computing anything, for callers that run many sessions in step.

        Drive it by :meth:`compute` and :meth:`TurnInProgress.accept`, then end it by exactly one
        of :meth:`finish` and :meth:`abort`.  Arguments and errors are those of :meth:`generate`.
        """
        if max_new_tokens is not None and max_new_tokens < 1:
            raise InvalidParameter(
                "max_new_tokens", f"max_new_tokens is {max_new_tokens}; it must be at least 1"
            )
        if not all(stop):
            raise InvalidParameter("stop", "a stop text is empty; leave it out")
        prepared = prompt if isinstance(prompt, PreparedPrompt) else self.prepare(prompt)
        context_length = self.language_model.llama.config.context_length
        length = prepared.kept + len(prepared.added)
        if length == 0:
            raise InvalidParameter("prompt", "the prompt has no tokens; give at least one")
        if length >= context_length:
            raise ContextLengthExceeded(length, context_length)
        # At least the last token has to be computed, for its logits.
        reusable = self.schedule.repeatable_length(min(prepared.kept, length - 1, self.schedule.length))
        undo = Undo(
            kept_tokens=prepared.kept,
            replaced_tokens=self.tokens[prepared.kept :],
            cached_tokens=reusable,
            kept_spans=(kept_spans := self.schedule.untouched(reusable)),
            replaced_spans=self.schedule.spans_from(kept_spans),
        )
        end = context_length if max_new_tokens is None else min(context_length, length + max_new_tokens)
        self.tokens[prepared.kept :] = prepared.added
        self._forget_after(reusable)
        self.speculation = Speculation(end) if self.speculate else None
        return TurnInProgress(
            language_model=self.language_model,
            tokens=self.tokens,
            question=prepared.question,
            rendered=prepared.rendered,
            params=params or SamplingParams(),
            end=end,
            stop=tuple(stop),
            undo=undo,
        )

    def compute(self) -> F32 | None:
        """Do the next piece of what is missing from the cache: a chunk, a token, or a lost span.

        Returns:
            float32 logits ``[V]`` that follow the last token, or None while more is missing.
        """
        llama, start = self.language_model.llama, self.cache.length
        if start < self.schedule.length:
            span = self.schedule.next_span(start)
            if span.kind == "prefill":
                logits = llama.forward(self.tokens[start : start + span.count], self.cache)
            else:
                logits = llama.replay(self.tokens[start : start + min(span.count, REPLAY_ROWS)], self.cache)
        elif self.speculation is not None and start == len(self.tokens) - 1:
            logits = self.speculation.next_logits(llama, self.tokens, self.cache)
            self.schedule.append(1)
        else:
            chunk = self.tokens[start : start + self.prefill_chunk]
            logits = llama.forward(chunk, self.cache)
            self.schedule.append(len(chunk))
        return logits if self.cache.length == len(self.tokens) else None

    def foreseen(self) -> F32 | None:
        """What :meth:`compute` would return, where that takes no time because it was computed ahead."""
        logits = None if self.speculation is None else self.speculation.foreseen(self.tokens, self.cache)
        if logits is not None:
            self.schedule.append(1)
        return logits

    def finish(self, turn: TurnInProgress) -> Turn:
        """Keep a turn that has ended."""
        self.speculation = None
        self.turns.append(turn.finished())
        return self.turns[-1]

    def abort(self, turn: TurnInProgress) -> None:
        """Give a turn up: the session is as it was before it."""
        self.speculation = None
        self._undo(turn.undo)

    def _run(self, turn: TurnInProgress) -> Iterator[GeneratedToken | None]:
        try:
            yield None
            while not turn.ended:
                logits = self.compute()
                if logits is not None:
                    yield turn.accept(logits)
        except BaseException:
            self.abort(turn)
            raise
        self.finish(turn)

    # -- going back -----------------------------------------------------------------------------

    def revert(self, turn: int) -> None:
        """Go back to the state before turn ``turn``, as if it and all later ones had never been.

        Nothing is computed: keys and values that a later turn replaced come back with the next turn.

        Raises:
            InvalidParameter: there is no such turn.
        """
        self._check_turn(turn, len(self.turns) - 1)
        while len(self.turns) > turn:
            self._undo(self.turns.pop().undo)

    def fork(self, turn: int | None = None) -> Session:
        """A new session that continues from before ``turn`` (by default, from now), sharing nothing.

        Raises:
            InvalidParameter: there is no such turn; the number of turns means now.
        """
        turn = len(self.turns) if turn is None else turn
        self._check_turn(turn, len(self.turns))
        fork = Session.__new__(Session)
        fork.language_model, fork.system = self.language_model, self.system
        fork.tokens, fork.turns = self.tokens.copy(), self.turns.copy()
        fork.schedule, fork.prefill_chunk = Schedule(self.schedule.spans), self.prefill_chunk
        fork.speculate, fork.speculation = self.speculate, None
        # A borrowed cache, so that going back copies no more than what is kept.
        fork.cache = self.cache.copy_prefix(self._cached_before(turn))
        if turn < len(self.turns):
            fork.revert(turn)
        return fork

    def _check_turn(self, turn: int, last: int) -> None:
        if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn <= last:
            raise InvalidParameter(
                "turn", f"turn is {turn!r}; the session has {len(self.turns)} turns, from 0 on"
            )

    def _cached_before(self, turn: int) -> int:
        return min([self.cache.length, *(taken.undo.cached_tokens for taken in self.turns[turn:])])

    def _undo(self, undo: Undo) -> None:
        self.tokens[undo.kept_tokens :] = undo.replaced_tokens
        valid = min(self.cache.length, undo.cached_tokens)
        self.schedule.replace(undo.kept_spans, undo.replaced_spans)
        self.cache.truncate(self.schedule.repeatable_length(min(valid, self.schedule.length)))

    def _forget_after(self, length: int) -> None:
        self.schedule.cut(length)
        self.cache.truncate(min(self.cache.length, length))

    # -- losing and finding ---------------------------------------------------------------------

    def evict(self) -> None:
        """Drop the cache and its memory.  The next turn, or :meth:`restore`, brings it back exactly."""
        self.cache = self.language_model.llama.new_cache()

    def restore(self) -> None:
        """Compute what the cache has lost, and no more."""
        while self.cache.length < self.schedule.length:
            self.compute()

    def snapshot(self) -> dict[str, Any]:
        """Everything but the cache, as plain data that JSON can hold and a store can keep."""
        return Snapshot(
            self.system, self.prefill_chunk, self.tokens, self.schedule.spans, self.turns
        ).to_dict()

    @classmethod
    def from_snapshot(cls, language_model: LanguageModel, snapshot: Mapping[str, Any]) -> Session:
        """The session of a snapshot with an empty cache, which the next turn fills.

        Raises:
            InvalidParameter: the snapshot is of another version or another model, or is damaged.
        """
        read = Snapshot.from_dict(snapshot, language_model.llama.config)
        session = cls(language_model, read.system)
        session.prefill_chunk = read.prefill_chunk
        session.tokens, session.turns = read.tokens, read.turns
        session.schedule = Schedule(read.spans)
        return session

    @classmethod
    def rebuild(cls, language_model: LanguageModel, snapshot: Mapping[str, Any]) -> Session:
        """The session of a snapshot with its cache, bit for bit; see :meth:`from_snapshot`."""
        session = cls.from_snapshot(language_model, snapshot)
        session.restore()
        return session
