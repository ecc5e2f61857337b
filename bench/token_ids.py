"""The tokens that every engine is measured on."""

from __future__ import annotations


def spread_ids(count: int, vocab_size: int) -> list[int]:
    """``count`` ids spread over the vocabulary, the same for every engine and every run.

    Which tokens they are does not change the work; 7919 is a prime, so that they do not repeat soon.
    The first three ids are left out: they are usually special.
    """
    first = min(3, vocab_size - 1)
    return [first + (index * 7919) % (vocab_size - first) for index in range(count)]
