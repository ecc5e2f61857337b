"""Rotary tables against the papers' formulas, position by position and pair by pair."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import KINDS
from comparisons import assert_same_bits
from reference.llama import attention_factor, frequency

from lm_core.config import LlamaConfig
from lm_core.rotary import RotaryTables, inverse_frequencies

ROPE_KINDS = ["llama", "linear", "dynamic", "dynamic_within", "llama3", "yarn", "yarn_implicit", "yarn_tuned"]

every_type = pytest.mark.parametrize("kind", ROPE_KINDS)


def config_of(kind: str) -> LlamaConfig:
    return LlamaConfig.from_dict(KINDS[kind].config)


@every_type
@pytest.mark.parametrize("length", [0, 1, 96, 97, 300, 5000])
def test_frequencies(kind: str, length: int) -> None:
    """Every type at lengths within and past what the model was trained on; only one type cares."""
    config = config_of(kind)
    frequencies, factor = inverse_frequencies(config, length)
    expected = [frequency(config, pair, length) for pair in range(config.head_dim // 2)]
    np.testing.assert_allclose(frequencies, expected, rtol=1e-12)
    assert factor == pytest.approx(attention_factor(config), rel=1e-12)
    past = config.rope.rope_type == "dynamic" and length > config.max_position_embeddings
    assert np.allclose(frequencies, inverse_frequencies(config)[0], rtol=1e-12) == (not past)


@pytest.mark.parametrize("theta", [1.5, 10.0, 1e4, 1e8])
@pytest.mark.parametrize("original", [2, 64, 4096, 1 << 20])
@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (1.0, 1.0), (0.5, 0.25), (1.0, 32.0)])
def test_extremes_of_yarn(theta: float, original: int, fast: float, slow: float) -> None:
    """Bounds outside of the head, in the wrong order, or both in one place, are still bounds."""
    rope = replace(
        config_of("yarn").rope,
        rope_theta=theta,
        original_max_position_embeddings=original,
        beta_fast=fast,
        beta_slow=slow,
    )
    config = replace(config_of("yarn"), rope=rope)
    frequencies, _ = inverse_frequencies(config)
    np.testing.assert_allclose(frequencies, [frequency(config, pair, 0) for pair in range(8)], rtol=1e-9)


@every_type
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 90), (37, 38), (510, 520), (700, 701)])
def test_rows(kind: str, start: int, stop: int) -> None:
    """Cosines and sines of position times frequency, rounded once; past the first table too."""
    config = replace(config_of(kind), max_position_embeddings=1024)
    cos, sin = RotaryTables(config).rows(start, stop, stop)
    positions = np.arange(start, stop)
    angles = [[p * frequency(config, pair, stop) for pair in range(config.head_dim // 2)] for p in positions]
    factor = attention_factor(config)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_allclose(cos, factor * np.cos(angles), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sin, factor * np.sin(angles), rtol=1e-6, atol=1e-7)


@every_type
def test_growth_changes_no_bit(kind: str) -> None:
    """A table that was grown, in any steps, is the table made at once: reverts meet the same bits."""
    config = replace(config_of(kind), max_position_embeddings=4096)
    grown, whole = RotaryTables(config), RotaryTables(config)
    first = [array.copy() for array in grown.rows(0, 512, 512)]
    for stop in (513, 514, 1500, 4096):
        grown.rows(stop - 1, stop, stop)
    for early, late, at_once in zip(first, grown.rows(0, 512, 4096), whole.rows(0, 4096, 4096), strict=True):
        assert_same_bits(late, early)
        assert_same_bits(at_once[:512], early)
    for stepwise, at_once in zip(grown.rows(900, 4096, 4096), whole.rows(900, 4096, 4096), strict=True):
        assert_same_bits(stepwise, at_once)


def test_a_table_is_made_once() -> None:
    """Rows are slices of it; dynamic RoPE past its trained length alone is made for each call."""
    plain = RotaryTables(config_of("llama"))
    assert np.shares_memory(plain.rows(3, 9, 9)[0], plain.rows(5, 20, 20)[0])
    dynamic = RotaryTables(config_of("dynamic"))
    within, past = dynamic.rows(3, 9, 96)[0], dynamic.rows(3, 9, 97)[0]
    assert np.shares_memory(within, dynamic.rows(3, 9, 9)[0])
    assert not np.shares_memory(within, past) and not np.array_equal(within, past)


def test_threads_that_grow_one_table_do_not_meet() -> None:
    """Each gets its own rows, however far the others have grown the table meanwhile."""
    config = replace(config_of("llama"), max_position_embeddings=20_000)
    tables, expected = RotaryTables(config), RotaryTables(config).rows(0, 20_000, 20_000)
    wrong: list[int] = []
    start = threading.Barrier(4)

    def read(offset: int) -> None:
        start.wait()
        for stop in range(600 + offset, 20_000, 977):
            rows: tuple[npt.NDArray[np.float32], ...] = tables.rows(stop - 40, stop, stop)
            if not all(
                np.array_equal(row, whole[stop - 40 : stop])
                for row, whole in zip(rows, expected, strict=True)
            ):
                wrong.append(stop)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
