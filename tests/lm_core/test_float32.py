"""No silent float64: every intermediate of a forward pass is float32, which is half the memory and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checkpoints import fixed_text
from comparisons import assert_same_bits
from conftest import OpenModel
from float32_watch import Float64Found, only_float32

from lm_core import ops
from lm_core.model import Llama
from lm_core.rotary import RotaryTables

TEXT = fixed_text()
MODELS = [
    ("llama", "f32"),
    ("llama", "bf16"),
    ("bf16", "bf16"),
    ("odd_widths", "bf16"),
    ("biased", "f32"),
    ("mistral", "f32"),
    ("yarn_tuned", "f32"),
    ("dynamic", "f32"),
]

every_model = pytest.mark.parametrize("kind, dtype", MODELS)


def run(engine: Llama) -> list[Any]:
    """Prefill, prefill after prefill, decode, a batch, and replay."""
    first, second = engine.new_cache(), engine.new_cache()
    return [
        engine.forward(TEXT[:90], first, all_positions=True),
        engine.forward(TEXT[90:140], first),
        engine.forward(TEXT[140:141], first),
        engine.forward(TEXT[:2], second),
        engine.forward_batch(TEXT[:2], [first, second]),
        engine.replay(TEXT[:30], second),
        *first.view(1, 0, first.length),
    ]


@every_model
def test_every_intermediate_is_float32(kind: str, dtype: str, open_model: OpenModel) -> None:
    """Each array that any operation reads or makes; being watched changes no bit."""
    engine = open_model(kind, dtype)
    expected = run(engine)
    with only_float32():
        results = run(engine)
    for result, quiet in zip(results, expected, strict=True):
        assert result.dtype == np.float32
        assert_same_bits(np.asarray(result), np.asarray(quiet))


@every_model
def test_the_tables_are_float32(kind: str, dtype: str, open_model: OpenModel) -> None:
    """Rotary tables are computed in float64 and must be rounded before they meet queries and keys."""
    config = open_model(kind, dtype).config
    for table in RotaryTables(config).rows(0, 100, 100):
        assert table.dtype == np.float32


def wide_inside(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *rest: op((x * np.float64(1.0) + np.zeros(x.shape)).astype(np.float32), *rest)


def wide_conversion(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *rest: op(x.astype(np.float64).astype(np.float32), *rest)


def wide_in_place(op: Callable[..., Any]) -> Callable[..., Any]:
    def widened(x: Any, *rest: Any) -> Any:
        y = op(x, *rest)
        y += np.zeros(y.shape)
        return y

    return widened


@pytest.mark.parametrize("name", ["rms_norm", "apply_rotary", "swiglu", "row_attention", "causal_attention"])
@pytest.mark.parametrize("slip", [wide_inside, wide_conversion, wide_in_place])
def test_a_slip_is_noticed(
    name: str, slip: Callable[..., Any], open_model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch itself: float64 inside an operator, although it returns float32, is found."""
    monkeypatch.setattr(ops, name, slip(getattr(ops, name)))
    with pytest.raises(Float64Found), only_float32():
        run(open_model("llama"))


def test_a_wide_table_is_noticed(open_model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary tables that were left in float64 would widen every query and key."""
    rows = RotaryTables.rows
    monkeypatch.setattr(
        RotaryTables, "rows", lambda *arguments: tuple(table.astype(np.float64) for table in rows(*arguments))
    )
    with pytest.raises(Float64Found), only_float32():
        run(open_model("llama"))


def test_a_wide_buffer_is_noticed(open_model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output array that was made without a dtype is float64."""

    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def empty(self, shape: Any, dtype: Any = None) -> Any:  # noqa: ARG002
            return np.empty(shape)

    monkeypatch.setattr(ops, "np", Forgetful())
    with pytest.raises(Float64Found), only_float32():
        run(open_model("llama"))
