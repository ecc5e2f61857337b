"""How many tokens are measured on a model: the usual numbers where its context holds them."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_TOKENS = 16
"""Decoded at each of the growing contexts."""


@dataclass(frozen=True)
class Lengths:
    """All counts are tokens."""

    context: int
    """Cached before decoding is measured."""
    decoded: int
    prompt: int
    """Of a story: "Once upon a time" is about this long."""
    generated: int
    prefilled: tuple[int, ...]
    contexts: tuple[int, ...]
    """Cached before the same decoding is measured at growing contexts."""
    reverted: tuple[int, ...]
    """Lengths of the sessions whose last turn is reverted."""
    speculated: int
    """Generated with and without speculation."""
    answered: int
    """Of one answer of the server."""
    long_prompt: int
    """Whose memory is measured."""

    @classmethod
    def within(cls, context_length: int) -> Lengths:
        """For a model of this context."""
        prompt = min(5, context_length // 4)
        return cls(
            context=min(32, context_length // 4),
            decoded=min(128, context_length // 2),
            prompt=prompt,
            generated=min(200, context_length - prompt - 1),
            prefilled=_up_to(context_length, (32, 256, 512)),
            contexts=_up_to(context_length - CONTEXT_TOKENS, (128, 1024, 4096, 8192 - CONTEXT_TOKENS)),
            reverted=_up_to(context_length, (100, 500, 4000)),
            speculated=min(64, context_length // 4),
            answered=min(32, context_length // 4),
            long_prompt=min(4096, context_length),
        )


def _up_to(most: int, usual: tuple[int, ...]) -> tuple[int, ...]:
    """The usual lengths that fit, or else half of what does."""
    return tuple(length for length in usual if length <= most) or (most // 2,)
