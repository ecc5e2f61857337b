from __future__ import annotations

import sys

import pytest

from bench.cold_start import seconds_to_output
from bench.workers import WorkerError


def test_a_program_that_writes_takes_some_time() -> None:
    assert 0 < seconds_to_output([sys.executable, "-c", "print('Once')"]) < 60


def test_a_program_that_fails_is_an_error_with_its_last_line() -> None:
    with pytest.raises(WorkerError, match="exit code 1: no model here"):
        seconds_to_output([sys.executable, "-c", "import sys; sys.exit('no model here')"])


def test_a_program_that_writes_nothing_has_no_first_token() -> None:
    with pytest.raises(WorkerError, match="exit code 0: no output"):
        seconds_to_output([sys.executable, "-c", "pass"])
