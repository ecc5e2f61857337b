"""Your answers.  Replace each ``raise NotImplementedError``, then run ``python doc/exercises/check.py``.

The guide is doc/Instructions.md; the letters of the shapes are those of doc/shapes.md.  All arrays
are float32 and so is what you return, unless something else is said.
"""

import numpy as np  # noqa: F401 - for the answers


def softmax(x):
    """1. ``[..., N] -> [..., N]``: exponentials that sum to one along the last axis."""
    raise NotImplementedError


def rms_norm(x, weight, eps):
    """2. ``[T, D] -> [T, D]``: each row by its root mean square, times ``weight [D]``."""
    raise NotImplementedError


def rotate(x, positions, theta):
    """3. ``[T, heads, d] -> [T, heads, d]``: rotary embedding; row *t* stands at ``positions[t]``."""
    raise NotImplementedError


def swiglu(gate, up):
    """4. ``[T, F]`` twice ``-> [T, F]``: ``silu(gate) · up``."""
    raise NotImplementedError


def attention(query, keys, values):
    """5. ``[T, H, d]`` over ``[S, K, d]`` keys and values ``-> [T, H · d]``: the last T of S positions."""
    raise NotImplementedError


def forward(weights, config, token_ids):
    """6. Logits ``[T, V]``.  ``weights`` has the arrays of model.safetensors by their names."""
    raise NotImplementedError


class Cache:
    """7. Keys and values ``[length, K, d]`` of one layer, without computing anything twice."""

    def __init__(self):
        self.length = 0
        raise NotImplementedError

    def append(self, keys, values):
        """Keep ``[T, K, d]`` keys and values of T more tokens."""
        raise NotImplementedError

    def view(self):
        """All that is kept: ``(keys, values)``, each ``[length, K, d]``."""
        raise NotImplementedError

    def truncate(self, length):
        """Forget everything but the first ``length`` tokens, without copying what stays."""
        raise NotImplementedError


def choose(logits, temperature, top_k, top_p, uniform):
    """8. The id of the next token, from ``logits [V]`` and one random number ``0 <= uniform < 1``."""
    raise NotImplementedError


def uniform(seed, position):
    """9. A random number ``0 <= u < 1`` that depends on the seed and the token's position alone."""
    raise NotImplementedError


def reusable(cached, wanted):
    """10. How many cached tokens still serve: token ids in the cache, token ids of the new context."""
    raise NotImplementedError
