"""Each operator against the float64 reference: one line a case, through one helper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import operators as reference

from lm_core import blas, ops

F32 = npt.NDArray[np.float32]

BOUND = 3e-6
"""Relative to the largest number of the result: a few dozen roundings of float32."""


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> F32:
    """Normal numbers, the same at every run."""
    return (np.random.RandomState(seed + sum(shape)).standard_normal(shape) * scale).astype(np.float32)


def check(op: Callable[..., F32], oracle: Callable[..., Any], *arguments: Any, bound: float = BOUND) -> None:
    """``op`` gives what ``oracle`` gives in float64, within ``bound``, and leaves its arguments alone."""
    before = [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]
    result = op(*arguments)
    expected = oracle(*(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in before))
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= bound * max(1e-30, np.abs(expected).max())
    for argument, original in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, original, err_msg="an operator changed its argument")


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (3, 45), (17, 312)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_rms_norm(shape: tuple[int, int], scale: float) -> None:
    """Small rows show whether epsilon is inside the root, large ones whether squares overflow."""
    check(ops.rms_norm, reference.rms_norm, random(*shape, scale=scale), random(shape[1], seed=1), 1e-5)


def rotated(x: F32, cos: F32, sin: F32) -> F32:
    """The operator as the forward pass uses it: tables of angles, made into factors first."""
    return ops.apply_rotary(x, *ops.rotary_factors(cos, sin))


@pytest.mark.parametrize("T, heads, d", [(1, 1, 2), (1, 6, 26), (5, 3, 16), (40, 2, 64)])
def test_apply_rotary(T: int, heads: int, d: int) -> None:
    """A table with an attention factor is not a rotation: it must be applied as it is."""
    check(
        rotated,
        reference.apply_rotary,
        random(T, heads, d),
        random(T, d // 2, seed=1),
        random(T, d // 2, seed=2),
    )


def test_apply_rotary_reads_a_slice_of_projected_heads() -> None:
    """The forward pass gives it queries and keys inside a wider array: not contiguous."""
    heads = random(7, 5, 16)
    check(rotated, reference.apply_rotary, heads[:, :3], random(7, 8, seed=1), random(7, 8, seed=2))


@pytest.mark.parametrize("shape", [(1,), (9,), (2, 3, 33), (4, 1000)])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e30])
def test_softmax(shape: tuple[int, ...], scale: float) -> None:
    """Large numbers overflow where the largest is not subtracted first."""
    check(ops.softmax, reference.softmax, random(*shape, scale=scale), bound=1e-5)


def test_softmax_of_masked_numbers() -> None:
    """Minus infinity is a weight of zero."""
    x = np.array([[0.0, -np.inf, 1.0]], dtype=np.float32)
    assert ops.softmax(x)[0, 1] == 0.0
    assert ops.softmax(x).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("T, F", [(1, 1), (1, 53), (6, 128)])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_swiglu(T: int, F: int, scale: float) -> None:
    """Gates of a size where float32 exponentials are still finite, and beyond."""
    check(ops.swiglu, reference.swiglu, random(T, 2 * F, scale=scale), bound=1e-5)


def test_swiglu_of_extreme_gates() -> None:
    """Very negative gates overflow the exponential and must close, without a warning or NaN."""
    gate_up = np.array([[-1e4, -200.0, -88.8, 0.0, 200.0, 1.0, 2.0, 3.0, 4.0, 5.0]], dtype=np.float32)
    np.testing.assert_allclose(ops.swiglu(gate_up), [[0.0, 0.0, 0.0, 0.0, 1000.0]], atol=1e-30)


@pytest.mark.parametrize("H, K, d", [(1, 1, 2), (4, 4, 16), (4, 2, 16), (6, 1, 26)])
@pytest.mark.parametrize("S", [1, 2, 65, 512, 600])
@pytest.mark.parametrize("small_products", [False, True])
def test_row_attention(
    H: int, K: int, d: int, S: int, small_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every grouping of heads, over short and long contexts, whatever BLAS is good at.

    Keys lie in a larger cache, as they do in the forward pass.
    """
    monkeypatch.setattr(blas, "has_small_products", lambda: small_products)
    keys, values = random(K, S + 9, d, seed=1), random(K, S + 9, d, seed=2)
    query = random(H, d, scale=3)
    check(ops.row_attention, reference.row_attention, query, keys[:, :S], values[:, :S])


@pytest.mark.parametrize("window", [None, 1, 40, 5000])
@pytest.mark.parametrize(
    "T, S", [(1, 1), (2, 2), (1, 300), (5, 77), (255, 300), (256, 256), (257, 257), (600, 640)]
)
def test_causal_attention(T: int, S: int, window: int | None) -> None:
    """Query blocks that end before, at and after their size; windows shorter and longer than the text."""
    check_causal_attention(T, S, window, heads=(2, 1), d=8)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    T=st.integers(1, 600),
    cached=st.integers(0, 300),
    window=st.none() | st.integers(1, 700),
    heads=st.sampled_from([(1, 1), (2, 2), (3, 1), (4, 2)]),
)
def test_causal_attention_of_any_size(
    T: int, cached: int, window: int | None, heads: tuple[int, int]
) -> None:
    """Mixed sizes, so that a block's first visible position falls anywhere."""
    check_causal_attention(T, T + cached, window, heads, d=6)


def check_causal_attention(T: int, S: int, window: int | None, heads: tuple[int, int], d: int) -> None:
    """Keys lie in a larger cache, as they do in the forward pass."""
    H, K = heads
    keys, values = random(K, S + 9, d, scale=2, seed=1), random(K, S + 9, d, seed=2)
    check(
        ops.causal_attention,
        reference.causal_attention,
        random(T, H, d, scale=2),
        keys[:, :S],
        values[:, :S],
        window,
    )


def test_the_two_attentions_agree() -> None:
    """Prefill and decode compute the same thing by different products."""
    query, keys, values = random(1, 4, 16), random(2, 50, 16, seed=1), random(2, 50, 16, seed=2)
    np.testing.assert_allclose(
        ops.row_attention(query[0], keys, values),
        ops.causal_attention(query, keys, values)[0],
        rtol=1e-5,
        atol=1e-6,
    )
