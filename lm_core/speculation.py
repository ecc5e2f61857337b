"""Prompt-lookup speculation: tokens that are likely to come are computed ahead, and no bit changes.

A model often repeats what its context already has: names, a quotation, the code that it edits.  So
the text so far says what may come next (prompt lookup, Saxena 2023), and one pass of several
decode rows computes the last token and those guesses: consecutive rows get the bits of single
steps, and a pass of several rows takes less time than as many passes.  Each token is still chosen
from its own logits, penalties and random number included.  While that is the guessed one, the next
logits are there already; at the first other one, what was computed after it is forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lm_core.kv_cache import KVCache
from lm_core.model import Llama

F32 = npt.NDArray[np.float32]

NGRAM = 3
"""Tokens that must have occurred before, in this order, for a guess at what follows them."""

MOST_ROWS = 8
"""Rows of one pass, for all sequences together: more would make each wait too long for its tokens."""

ROW_COST = 0.5
"""What a further row adds to a pass, measured in passes of one row: 0.2 (bf16) to 0.5 (float32)."""

FIRST_CREDIT = 0.5
"""Passes that a turn may lose on guesses before the first of them was right."""

CREDIT_PER_PASS = 1 / 128
"""What may be lost on top of that, so that guessing resumes once a text repeats itself."""

MOST_CREDIT = MOST_ROWS * ROW_COST
"""Gains beyond this are not gambled away when a text ceases to repeat itself."""


class NgramDrafter:
    """Guesses how one sequence goes on: as it went on after the latest place that reads like its end.

    Time and memory are constant per token.
    """

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}
        """N-gram of tokens to the position after its latest occurrence that has a next token."""
        self._indexed = NGRAM

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to ``most`` tokens that may follow; none where the end of ``tokens`` is new.

        Successive calls may only append to ``tokens``.  The longer the two places read alike, the
        further they are trusted to: half as many tokens are drafted as agree.
        """
        for position in range(self._indexed, len(tokens)):
            self._follows[tuple(tokens[position - NGRAM : position])] = position
        self._indexed = max(self._indexed, len(tokens))
        position = self._follows.get(tuple(tokens[-NGRAM:]), 0)
        if position == 0:
            return []
        most = min(most, _count_alike(tokens, position, 2 * most) // 2)
        draft = list(tokens[position : position + most])
        while len(draft) < most:
            # The place overlaps the end: what repeats goes on repeating.
            draft.append(draft[len(draft) - (len(tokens) - position)])
        return draft


class Speculation:
    """Runs ahead of one sequence while tokens are appended to it, up to ``end`` tokens in all.

    Between calls the cache holds what it would hold without: rows computed ahead lie past its
    length, where nothing counts, until the token they were computed for is chosen.

    Guesses are paid from a credit that right ones fill, so a text that never repeats itself costs
    next to nothing: ``FIRST_CREDIT`` and ``CREDIT_PER_PASS`` at most.
    """

    def __init__(self, end: int = sys.maxsize) -> None:
        self.end = end
        """The most tokens that the sequence may come to have; whoever appends them sets it."""
        self.drafted = 0
        """Tokens that were computed on a guess."""
        self.accepted = 0
        """Those of them that were then chosen."""
        self._drafter = NgramDrafter()
        self._credit = FIRST_CREDIT
        self._ahead: list[tuple[int, F32]] = []
        """Tokens computed ahead, last one first, with the logits that follow each."""
        self._place: tuple[KVCache, int, int] | None = None
        """Where the next of them lies."""

    @property
    def ahead(self) -> int:
        """How many tokens were computed ahead and may still be chosen."""
        return len(self._ahead)

    def next_logits(self, model: Llama, tokens: Sequence[int], cache: KVCache) -> F32:
        """The logits ``[V]`` that follow the last token, the only one that the cache lacks until now.

        On any error the cache is as it was.
        """
        logits = self.foreseen(tokens, cache)
        if logits is not None:
            return logits
        draft = self.draft(tokens, MOST_ROWS - 1)
        if not draft:
            return model.forward(tokens[-1:], cache)
        rows = model.forward_batch([tokens[-1], *draft], [cache] * (1 + len(draft)))
        self.hold(draft, rows[1:], cache)
        first: F32 = rows[0]
        return first

    def foreseen(self, tokens: Sequence[int], cache: KVCache) -> F32 | None:
        """The same if it was computed ahead, which takes no time; None if it was not."""
        if not self._ahead:
            return None
        token, logits = self._ahead.pop()
        if token != tokens[-1] or cache.length != len(tokens) - 1 or self._place != _place_in(cache):
            self._ahead.clear()
            return None
        cache.advance(1)
        self._place = _place_in(cache)
        self.accepted += 1
        self._credit += 1.0
        return logits

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to ``most`` tokens to compute together with the last one; then call :meth:`hold`."""
        self._credit = min(self._credit + CREDIT_PER_PASS, MOST_CREDIT)
        # The last token that there may be is chosen, but never computed.
        most = min(most, self.end - len(tokens) - 1, int(self._credit / ROW_COST))
        return self._drafter.draft(tokens, most) if most > 0 else []

    def hold(self, draft: Sequence[int], logits: F32, cache: KVCache) -> None:
        """Keep what a pass computed for ``draft``: the last rows of ``cache`` and their logits ``[T, V]``."""
        cache.truncate(cache.length - len(draft))
        self._ahead = list(zip(draft, logits, strict=True))[::-1]
        self._place = _place_in(cache)
        self.drafted += len(draft)
        self._credit -= ROW_COST * len(draft)


def _place_in(cache: KVCache) -> tuple[KVCache, int, int]:
    """Where a cache goes on, by its length and its capacity: growing keeps nothing that lies ahead."""
    return cache, cache.length, cache.capacity


def _count_alike(tokens: Sequence[int], position: int, most: int) -> int:
    """How many tokens before ``position`` are those at the end: ``NGRAM`` are, more up to ``most`` may."""
    count = NGRAM
    while count < most and count < position and tokens[position - 1 - count] == tokens[-1 - count]:
        count += 1
    return count
