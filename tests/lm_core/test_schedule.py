"""The record of how cached tokens were computed."""

from __future__ import annotations

import pytest

from lm_core.schedule import Schedule, Span


def schedule(*counts: int) -> Schedule:
    made = Schedule()
    for count in counts:
        made.append(count)
    return made


def test_single_tokens_are_decoded_and_join_into_one_span() -> None:
    made = schedule(5, 1, 1, 7, 1)
    assert made.spans == (Span("prefill", 5), Span("decode", 2), Span("prefill", 7), Span("decode", 1))
    assert made.length == 15


@pytest.mark.parametrize(
    ("length", "repeatable"),
    [(0, 0), (4, 0), (5, 5), (6, 6), (7, 7), (8, 7), (13, 7), (14, 14), (15, 15), (99, 15)],
)
def test_a_chunk_is_kept_whole_or_not_at_all(length: int, repeatable: int) -> None:
    made = schedule(5, 1, 1, 7, 1)
    assert made.repeatable_length(length) == repeatable
    made.cut(repeatable)
    assert made.length == repeatable == sum(span.count for span in made.spans)


def test_cutting_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="inside a prefill chunk"):
        schedule(5, 1).cut(3)


def test_next_span_tells_what_to_repeat() -> None:
    made = schedule(5, 1, 1, 1, 7)
    assert made.next_span(0) == Span("prefill", 5)
    assert made.next_span(6) == Span("decode", 2)
    assert made.next_span(8) == Span("prefill", 7)
    with pytest.raises(ValueError, match="inside"):
        made.next_span(9)
    with pytest.raises(ValueError, match="past"):
        made.next_span(15)
