from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench import report
from bench.rows import Line, Reference, Row
from bench.samples import Samples
from bench.targets import TARGETS, target_of


def _generate_row(ours: float, theirs: float) -> Row:
    return Row(
        "sampled f32",
        "generate 200 tokens",
        "tokens/s",
        True,
        (
            Line("rewindlm", Samples((ours,))),
            Line("transformers", Samples((theirs,))),
            Line("original", reference=Reference("original", 1160.0, "measured once")),
        ),
    )


def _printed(model: str, *rows: Row) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=160).print(report.table(model, rows))
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_the_table_shows_medians_ratios_origins_and_targets_in_plain_text() -> None:
    lines = _printed("story", _generate_row(4640.0, 464.0))
    assert "rewindlm 4,640 tokens/s 4,640 – 4,640" in lines
    assert "transformers 464 tokens/s 464 – 464 10 target ≥ 8 ×: met" in lines
    assert "original 1,160 tokens/s 4 measured once; target ≥ 5 ×: missed" in lines


def test_a_missing_peer_is_a_line_that_says_so() -> None:
    row = Row(
        "decode f32", "decode", "tokens/s", True, (Line("transformers", absence="not installed (torch)"),)
    )
    assert "transformers – not installed (torch)" in _printed("story", row)


def test_a_target_counts_for_its_models_only() -> None:
    row = _generate_row(100.0, 100.0)
    assert target_of("stories15M", row, row.lines[1]) is None
    assert target_of("story", row, row.lines[1]) is not None


def test_a_target_that_cannot_be_compared_is_neither_met_nor_missed() -> None:
    row = Row(
        "sampled f32",
        "generate",
        "tokens/s",
        True,
        (Line("rewindlm", Samples((5.0,))), Line("transformers", absence="not installed (torch)")),
    )
    target = target_of("story", row, row.lines[1])
    assert target is not None and target.is_met(row, row.lines[1]) is None


@pytest.mark.parametrize(("seconds", "met"), [(0.5, True), (0.51, False)])
def test_cold_start_has_an_absolute_bound(seconds: float, met: bool) -> None:
    row = Row("cold-start", "cold start", "s", False, (Line("rewindlm", Samples((seconds,))),))
    target = target_of("any", row, row.lines[0])
    assert target in TARGETS and target.is_met(row, row.lines[0]) is met


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (100.0, "100"), (9.876, "9.88"), (0.01234, "0.0123")]
)
def test_numbers_have_three_significant_digits_or_are_whole(value: float, text: str) -> None:
    assert report.number(value) == text
