"""The operators of a Llama layer: pure functions of float32 arrays.

Axis letters are those of ``doc/shapes.md``: T new tokens, S cached and new ones, D hidden,
H / K query / key-value heads, G = H / K, d head size, F feed-forward.

Each gives a row the same bits whatever other rows it is computed with, except
:func:`causal_attention`, whose matrix products are GEMM; :func:`row_attention` is its exact twin.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lm_core import blas

F32 = npt.NDArray[np.float32]

QUERY_BLOCK = 64
"""Queries scored at once in :func:`causal_attention`, for the heads that share keys: few enough that
the scores of a usual prompt stay in a core's own cache, and nearly nothing is scored only to be
hidden.  It bounds the memory to ``4 · G · QUERY_BLOCK · S`` bytes."""

LONG_CONTEXT = 384
"""Positions from which :func:`row_attention` does not leave all keys of a head to one product."""

KEY_BLOCK = 128
"""Positions of one product in a long context, where BLAS has kernels for small products."""

BLOCK_SIZE = 1 << 16
"""Numbers that :func:`swiglu` takes through all its operations at a time: 256 KB, a part of a core's
own cache."""

_ONE = np.float32(1.0)


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """``[T, D] -> [T, D]``: divide each row by its root mean square (Zhang & Sennrich, 2019)."""
    one_over_size = np.float32(1.0 / x.shape[-1])
    # vecdot is one dot product per row, so a row never meets another one's rounding.
    if len(x) == 1:
        # A row alone needs no arrays of one number: the same roundings in half the time.
        row = x[0]
        root = np.sqrt(np.vecdot(row, row) * one_over_size + np.float32(eps))
        normed: F32 = row * (_ONE / root) * weight
        return normed[None]
    roots = np.sqrt(np.vecdot(x, x) * one_over_size + np.float32(eps))
    y: F32 = x * (_ONE / roots)[:, None]
    y *= weight
    return y


def rotary_factors(cos: F32, sin: F32) -> tuple[F32, F32]:
    """What :func:`apply_rotary` multiplies with, made once for all layers.

    Cosines and sines ``[T, d/2]`` ``->`` cosines ``[T, 1, 1, d/2]`` and signed sines ``[T, 1, 2, d/2]``.
    """
    signed_sin = np.concatenate((-sin, sin), axis=1)
    return cos[:, None, None], signed_sin.reshape(len(sin), 1, 2, -1)


def apply_rotary(x: F32, cos: F32, signed_sin: F32) -> F32:
    """Rotate each head of ``x [T, heads, d]`` by its position's :func:`rotary_factors`.

    Element *i* is paired with element *i + d/2*, as in the published Llama weights.
    """
    halves = x.reshape(x.shape[0], x.shape[1], 2, -1)
    rotated = halves * cos
    rotated += halves[:, :, ::-1] * signed_sin
    return rotated.reshape(x.shape)


def softmax(x: F32) -> F32:
    """``[..., N] -> [..., N]``: exponentials that sum to one along the last axis."""
    # The largest exponential is 1, so nothing overflows.
    exponentials: F32 = np.exp(x - x.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


def swiglu(gate_up: F32) -> F32:
    """``[T, 2F] -> [T, F]``: ``silu(gate) · up`` with the gate in the first half (Shazeer, 2020)."""
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    y = np.empty((T, F), dtype=np.float32)
    step = max(1, BLOCK_SIZE // F)
    # exp overflows to infinity for gates below -88, and x / inf is the zero that silu tends to.
    with np.errstate(over="ignore"):
        for start in range(0, T, step):
            gate, up = gate_up[start : start + step, :F], gate_up[start : start + step, F:]
            block = y[start : start + step]
            np.negative(gate, out=block)
            np.exp(block, out=block)
            block += _ONE
            np.divide(gate, block, out=block)
            block *= up
    return y


def row_attention(query: F32, keys: F32, values: F32) -> F32:
    """One token's attention: ``[H, d]`` over ``[K, S, d]`` keys and values ``-> [H · d]``.

    All S positions are visible.  The shapes of the products depend on S alone, so the bits do too.
    """
    K, S, d = keys.shape
    grouped = query.reshape(K, -1, d) * np.float32(d**-0.5)
    if S < LONG_CONTEXT:
        out = _attend(np.matmul(grouped, keys.swapaxes(1, 2)), values)
    # Large products rearrange all keys first, for the few queries of a group.
    elif grouped.shape[1] > 1 and blas.has_small_products():
        out = _attend_by_blocks(grouped, keys, values)
    else:
        out = _attend(np.matvec(keys[:, None], grouped), values)
    return out.reshape(-1)


def causal_attention(query: F32, keys: F32, values: F32, window: int | None = None) -> F32:
    """Attention of the last T of S positions: ``[T, H, d]`` over ``[K, S, d]`` ``-> [T, H · d]``.

    A token sees itself and what came before it, at most ``window`` positions in all.
    """
    T, H, d = query.shape
    K, S, _ = keys.shape
    G = H // K
    # [T, H, d] -> [K, G, T, d]: the heads that share keys become one tall matrix.
    grouped = (query * np.float32(d**-0.5)).reshape(T, K, G, d).transpose(1, 2, 0, 3)
    out = np.empty((T, K, G, d), dtype=np.float32)
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        first = 0 if window is None else max(0, S - T + start + 1 - window)
        last = S - T + stop
        mask = _causal_mask(stop - start, last - first, window)
        for head in range(K):
            queries = grouped[head, :, start:stop].reshape(-1, d)
            scores = np.matmul(queries, keys[head, first:last].T)
            by_query = scores.reshape(G, stop - start, last - first)
            by_query[:, :, last - first - mask.shape[1] :] += mask
            attended = _attend(scores, values[head, first:last])
            out[start:stop, head] = attended.reshape(G, stop - start, d).swapaxes(0, 1)
    return out.reshape(T, H * d)


def _attend(scores: F32, values: F32) -> F32:
    """Softmax of ``scores [..., N, S]`` over S, times ``values [..., S, d]`` ``-> [..., N, d]``."""
    weights = _to_weights(scores)
    # Dividing after the product touches d numbers per query instead of S.
    out: F32 = np.matmul(weights, values)
    out /= np.add.reduce(weights, axis=-1, keepdims=True)
    return out


def _attend_by_blocks(queries: F32, keys: F32, values: F32) -> F32:
    """``[K, G, d]`` over ``[K, S, d]`` ``-> [K, G, d]``, reading a block of keys once for all queries."""
    K, S, d = keys.shape
    G, whole = queries.shape[1], S - S % KEY_BLOCK
    scores = np.empty((K, G, S), dtype=np.float32)
    # [K, G, S] -> [K, S / KEY_BLOCK, G, KEY_BLOCK], a view.
    by_block = scores[:, :, :whole].reshape(K, G, -1, KEY_BLOCK).swapaxes(1, 2)
    np.matmul(queries[:, None], _blocks(keys[:, :whole]).swapaxes(2, 3), out=by_block)
    np.matmul(queries, keys[:, whole:].swapaxes(1, 2), out=scores[:, :, whole:])
    weights = _to_weights(scores)
    out: F32 = np.matmul(by_block, _blocks(values[:, :whole])).sum(axis=1)
    out += np.matmul(weights[:, :, whole:], values[:, whole:])
    out /= np.add.reduce(weights, axis=-1, keepdims=True)
    return out


def _blocks(positions: F32) -> F32:
    """``[K, S, d] -> [K, S / KEY_BLOCK, KEY_BLOCK, d]``, a view."""
    return positions.reshape(len(positions), -1, KEY_BLOCK, positions.shape[2])


def _to_weights(scores: F32) -> F32:
    """The numerators of a softmax over the last axis, in place: the scores are nobody else's."""
    # The ufunc itself: its method takes a way around, through Python that has left the core's cache.
    np.subtract(scores, np.maximum.reduce(scores, axis=-1, keepdims=True), out=scores)
    np.exp(scores, out=scores)
    return scores


def _causal_mask(T: int, S: int, window: int | None) -> F32:
    """What hides the future: 0 where the last T of S positions may look, -inf elsewhere.

    ``[T, T]`` for the last T of the S keys, the only ones that could be hidden; with a window, ``[T, S]``.
    """
    seen = T if window is None else S
    distance = np.arange(seen - T, seen)[:, None] - np.arange(seen)[None, :]
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return np.where(hidden, np.float32(-np.inf), np.float32(0.0))
