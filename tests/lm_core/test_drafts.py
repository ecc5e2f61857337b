"""What is drafted, and that guessing costs little where nothing repeats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.speculation import CREDIT_PER_PASS, FIRST_CREDIT, MOST_ROWS, ROW_COST, NgramDrafter, Speculation


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    tokens=st.lists(st.integers(0, 2), max_size=60),
    most=st.integers(1, 8),
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=20),
)
def test_the_latest_place_that_reads_alike(tokens: list[int], most: int, steps: list[int]) -> None:
    """Found by search, whenever it was asked before; half as many tokens as agree, and the period goes on."""

    def searched(tokens: list[int]) -> list[int]:
        for place in range(len(tokens) - 1, 2, -1):
            if tokens[place - 3 : place] == tokens[-3:]:
                alike = 3
                while tokens[: place - alike] and tokens[place - 1 - alike] == tokens[-1 - alike]:
                    alike += 1
                goes_on = tokens.copy()
                for index in range(most):
                    goes_on.append(goes_on[place + index])
                return goes_on[len(tokens) :][: alike // 2]
        return []

    drafter = NgramDrafter()
    for length in [*itertools.accumulate(steps), len(tokens)]:
        if length <= len(tokens):
            assert drafter.draft(tokens[:length], most) == searched(tokens[:length])


class _Replayed:
    """A model that has no numbers: its rows are the positions of a text that is known."""

    def __init__(self, text: list[int], prompt: int) -> None:
        self.text, self.passes, self.rows = text, 0, 0
        self.speculation = Speculation(len(text))
        cache = _Length(prompt - 1)
        for length in range(prompt, len(text)):
            assert self.speculation.next_logits(self, text[:length], cache) is not None  # type: ignore[arg-type]
            assert cache.length == length

    def forward(self, tokens: list[int], cache: _Length) -> list[int]:
        return self.forward_batch(tokens, [cache])

    def forward_batch(self, tokens: list[int], caches: list[_Length]) -> list[int]:
        self.passes, self.rows = self.passes + 1, self.rows + len(tokens)
        assert len(tokens) <= MOST_ROWS
        caches[0].length += len(tokens)
        assert caches[0].length < len(self.text)
        return tokens

    @property
    def cost(self) -> float:
        """In passes of one row."""
        return self.passes + ROW_COST * (self.rows - self.passes)


class _Length:
    """A cache of nothing but its length."""

    capacity = 0

    def __init__(self, length: int) -> None:
        self.length = length

    def truncate(self, length: int) -> None:
        self.length = length

    def advance(self, count: int) -> None:
        self.length += count


def test_text_that_repeats_takes_several_tokens_a_pass() -> None:
    text = np.random.RandomState(1).randint(0, 1000, 80).tolist()
    copied = _Replayed(text * 2, prompt=84)
    assert copied.passes < 76 / 4 and copied.speculation.accepted == 76 - copied.passes
    period = _Replayed([1, 2] * 200, prompt=8)
    assert period.passes < 392 / 6


def test_text_that_does_not_repeat_costs_nothing() -> None:
    text = list(range(500))
    assert _Replayed(text, prompt=10).rows == 490


@pytest.mark.parametrize("alphabet", [2, 3, 5])
def test_text_that_misleads_costs_little(alphabet: int) -> None:
    """N-grams come back all the time and mean nothing: the credit bounds what is lost, whatever comes."""
    text = np.random.RandomState(2).randint(0, alphabet, 2000).tolist()
    misled = _Replayed(text, prompt=10)
    assert misled.speculation.drafted > 20
    assert misled.cost <= 1990 * (1 + CREDIT_PER_PASS) + FIRST_CREDIT


def test_guessing_resumes_after_a_long_misleading_text() -> None:
    random = np.random.RandomState(3)
    misleading = random.randint(0, 2, 600).tolist()
    passage = random.randint(10, 1000, 100).tolist()
    resumed = _Replayed([*passage, *misleading, *passage, *passage], prompt=110)
    assert resumed.speculation.accepted > 120
