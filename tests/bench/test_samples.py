from __future__ import annotations

import pytest

from bench.samples import Samples, advantage, take_turns


def test_a_disturbed_repeat_moves_the_spread_but_not_the_median() -> None:
    samples = Samples((10.0, 11.0, 2.0, 10.5, 10.2))
    assert samples.median == 10.2
    assert (samples.low, samples.high) == (2.0, 11.0)


def test_the_best_repeat_is_the_highest_rate_or_the_shortest_time() -> None:
    samples = Samples((3.0, 1.0, 2.0))
    assert samples.best(higher_is_better=True) == 3.0
    assert samples.best(higher_is_better=False) == 1.0


@pytest.mark.parametrize(("higher_is_better", "expected"), [(True, 0.25), (False, 4.0)])
def test_an_advantage_above_one_is_better_whichever_way_the_unit_counts(
    higher_is_better: bool, expected: float
) -> None:
    assert advantage(0.5, 2.0, higher_is_better) == expected


def test_engines_take_turns_repeat_by_repeat() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    first, second = take_turns([lambda: measure("A"), lambda: measure("B")], repeats=3)
    assert order == ["A", "B", "A", "B", "A", "B"]
    assert first.values == (1.0, 3.0, 5.0)
    assert second.values == (2.0, 4.0, 6.0)
