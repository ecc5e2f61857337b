from __future__ import annotations

from collections.abc import Callable

from bench.rows import Comparison, Contender, Reference, Row, measure_lines
from bench.workers import WorkerError


def _figures(*values: float) -> Callable[[], float]:
    """Returns the first value for the untimed trial, the others for the repeats."""
    remaining = list(values)
    return lambda: remaining.pop(0)


def _row(
    *contenders: Contender,
    comparison: Comparison = "first line against each",
    higher_is_better: bool = True,
    references: tuple[Reference, ...] = (),
) -> Row:
    lines = measure_lines(contenders, repeats=3, references=references)
    return Row("decode f32", "decode", "tokens/s", higher_is_better, lines, comparison)


def test_ratios_of_rates_compare_the_first_line_with_each_other_one_by_medians() -> None:
    row = _row(
        Contender("ours", _figures(1.0, 90.0, 100.0, 500.0)),
        Contender("peer", _figures(1.0, 20.0, 25.0, 30.0)),
        references=(Reference("original", 50.0, "measured elsewhere"),),
    )
    ours, peer, original = row.lines
    assert row.ratio(ours) is None
    assert row.ratio(peer) == 4.0
    assert row.ratio(original) == 2.0


def test_ratios_of_times_are_above_one_where_the_first_line_is_shorter() -> None:
    row = _row(
        Contender("ours", _figures(9.0, 0.5, 0.5, 0.5)),
        Contender("peer", _figures(9.0, 2.0, 2.0, 2.0)),
        higher_is_better=False,
    )
    assert row.ratio(row.lines[1]) == 4.0


def test_a_row_of_variants_compares_each_line_with_the_first() -> None:
    row = _row(
        Contender("1 session", _figures(0.0, 10.0, 10.0, 10.0)),
        Contender("8 sessions", _figures(0.0, 25.0, 25.0, 25.0)),
        comparison="each line against the first",
    )
    assert row.ratio(row.lines[1]) == 2.5


def test_a_missing_peer_keeps_its_line_and_says_why() -> None:
    row = _row(
        Contender("ours", _figures(1.0, 1.0, 1.0, 1.0)), Contender("peer", None, "not installed (torch)")
    )
    entry = row.as_json()["lines"][1]
    assert entry == {"label": "peer", "median": None, "ratio": None, "absence": "not installed (torch)"}


def test_a_peer_that_fails_its_trial_is_absent_and_the_others_are_measured() -> None:
    def fail() -> float:
        raise WorkerError("RuntimeError: no kernel for this")

    row = _row(Contender("ours", _figures(1.0, 7.0, 7.0, 7.0)), Contender("peer", fail))
    assert row.lines[0].median == 7.0
    assert row.lines[1].absence == "failed: RuntimeError: no kernel for this"


def test_json_holds_the_raw_repeats_without_the_trial() -> None:
    row = _row(Contender("ours", _figures(1.0, 3.0, 5.0, 4.0)))
    assert row.as_json()["lines"] == [
        {"label": "ours", "median": 4.0, "ratio": None, "best": 5.0, "samples": [3.0, 5.0, 4.0]}
    ]
