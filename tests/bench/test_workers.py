from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving import PEAK_MEMORY
from bench.workers import EngineSpec, Worker, WorkerError

STAND_IN = EngineSpec("stand-in", "tests.bench.stand_in_engine")


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(STAND_IN, Path("some model"), "bf16", threads=3) as worker:
        yield worker


def test_a_worker_learns_its_model_storage_and_threads(worker: Worker) -> None:
    assert worker.facts == {"model": "some model", "dtype": "bf16", "threads": 3}


def test_what_a_library_prints_does_not_disturb_the_figures(worker: Worker) -> None:
    assert worker.ask("double", number=21) == 42.0
    assert worker.ask("double", seconds=0.01, number=4) == 8.0


def test_a_failing_operation_is_told_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="ValueError: no such thing"):
        worker.ask("fail")
    assert worker.ask("double", number=1) == 2.0


def test_a_worker_that_ends_leaves_its_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="stand-in ended: out of luck"):
        worker.ask("vanish")


def test_peak_memory_is_that_of_the_worker_in_bytes(worker: Worker) -> None:
    assert 1 << 20 < worker.ask(PEAK_MEMORY) < 1 << 30


def test_an_engine_that_cannot_start_says_why() -> None:
    with pytest.raises(WorkerError, match="No module named"):
        Worker(EngineSpec("nobody", "bench.no_such_module"), Path("."), "f32", threads=1)


def test_absence_names_the_missing_packages() -> None:
    assert (
        EngineSpec("peer", "bench.x", requires=("json", "no_such_one")).absence()
        == "not installed (no_such_one)"
    )
    assert EngineSpec("peer", "bench.x", requires=("json",)).absence() == ""
