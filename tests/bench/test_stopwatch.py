from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bench.stopwatch import Stopwatch


class _Worked:
    def outer(self) -> str:
        time.sleep(0.02)
        return self.inner()

    def inner(self) -> str:
        time.sleep(0.01)
        return "done"


def test_a_function_is_booked_less_what_it_calls_and_is_itself_again_afterwards() -> None:
    original, stopwatch = _Worked.outer, Stopwatch()
    with stopwatch.watching({_Worked: {"outer": "out", "inner": "in", "no_such": "never"}}):
        assert _Worked().outer() == "done"
    assert _Worked.outer is original
    assert stopwatch.calls == {"out": 1, "in": 1}
    assert stopwatch.seconds["in"] >= 0.01
    assert stopwatch.seconds["out"] >= 0.02
    # Its own sleep alone, and not that of the other one.
    _Worked().outer()
    assert stopwatch.calls == {"out": 1, "in": 1}


def test_an_error_ends_a_call_as_well() -> None:
    stopwatch = Stopwatch()

    def fail() -> None:
        raise ValueError("no")

    failing = stopwatch.wrapped("failing", fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            failing()
    assert stopwatch.calls["failing"] == 2 and stopwatch.seconds["failing"] < 0.01


def test_another_thread_costs_this_one_nothing() -> None:
    stopwatch = Stopwatch()
    sleep = stopwatch.wrapped("sleep", time.sleep)
    thread = threading.Thread(target=sleep, args=(0.01,))
    thread.start()
    thread.join()
    assert not stopwatch.calls


def test_numpy_is_replaced_in_one_module_only() -> None:
    module, stopwatch = SimpleNamespace(np=np), Stopwatch()
    with stopwatch.watching_numpy(module, {"matmul": "products"}):
        assert module.np.matmul(np.eye(2), np.ones(2)).tolist() == [1.0, 1.0]
        assert module.np.float32 is np.float32
        np.matmul(np.eye(2), np.ones(2))
    assert module.np is np and stopwatch.calls == {"products": 1}
