from __future__ import annotations

import re

import pytest

from bench import kernels


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "REPEATS", 1)
    monkeypatch.setattr(kernels.blas, "set_threads", lambda _: None)


def _rates(line: str) -> list[float]:
    return [float(rate) for rate in re.findall(r"([\d.]+) (?:GB?|GFLOP)/s", line)]


def test_each_size_has_a_line_with_its_rate() -> None:
    lines = [
        *kernels.products(rows=(64, 800)),
        *kernels.tiles(rows=(64,), streamed=256),
        *kernels.prompts(rows=(3,), matrix_rows=40),
        *kernels.conversions(rows=(64,), streamed=256),
        *kernels.layers(rows=(2,), matrices=2, matrix_rows=64),
    ]
    assert [len(_rates(line)) for line in lines] == [2, 2, 2, 2, 3, 2, 2], lines
    assert "460,800 weights" in lines[1]


def test_the_shortest_time_counts() -> None:
    calls = []
    assert 0 < kernels.seconds_of(lambda: calls.append(1), least=0.001) < 0.001
    assert len(calls) > 1
