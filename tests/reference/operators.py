"""The operators of a layer, in float64 and in the plainest form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def rms_norm(x: F64, weight: F64, eps: float) -> F64:
    """``[T, D] -> [T, D]``."""
    return np.array([row / np.sqrt((row**2).mean() + eps) * weight for row in x])


def apply_rotary(x: F64, cos: F64, sin: F64) -> F64:
    """``[T, heads, d] -> [T, heads, d]``: pairs (i, i + d/2) as complex numbers."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)[:, None, :]
    return np.concatenate((turned.real, turned.imag), axis=-1)


def softmax(x: F64) -> F64:
    """``[..., N] -> [..., N]``."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def swiglu(gate_up: F64) -> F64:
    """``[T, 2F] -> [T, F]``."""
    gate, up = gate_up[:, : gate_up.shape[1] // 2], gate_up[:, gate_up.shape[1] // 2 :]
    return gate * (0.5 * (1 + np.tanh(gate / 2))) * up


def row_attention(query: F64, keys: F64, values: F64) -> F64:
    """``[H, d]`` over ``[K, S, d]`` ``-> [H · d]``."""
    group = len(query) // len(keys)
    heads = []
    for head, q in enumerate(query):
        weights = softmax(keys[head // group] @ q / np.sqrt(len(q)))
        heads.append(weights @ values[head // group])
    return np.concatenate(heads)


def causal_attention(query: F64, keys: F64, values: F64, window: int | None = None) -> F64:
    """``[T, H, d]`` over ``[K, S, d]`` ``-> [T, H · d]``: each token by itself."""
    T, S = len(query), keys.shape[1]
    rows = []
    for row in range(T):
        stop = S - T + row + 1
        start = 0 if window is None else max(0, stop - window)
        rows.append(row_attention(query[row], keys[:, start:stop], values[:, start:stop]))
    return np.array(rows)


def linear(x: F64, weight: F64, bias: F64 | None = None) -> F64:
    """``[T, in] -> [T, out]``."""
    return x @ weight.T + (0.0 if bias is None else bias)
