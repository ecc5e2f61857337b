"""Comparing two sessions bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from chat_revert.proof import Check
from lm_core.errors import LanguageModelError
from lm_core.session import Session

F32 = npt.NDArray[np.float32]


def compare_sessions(actual: Session, expected: Session) -> list[Check]:
    """Tokens, cached keys and values, and next logits of a session against what it should be.

    Nothing changes in either session but that a lost cache is restored.  Each check needs those
    before it, so the first difference is the last one told.
    """
    checks = [compare_tokens("tokens", actual.tokens, expected.tokens)]
    comparisons = [_compare_lengths]
    if actual.tokens:
        comparisons += [_compare_caches, _compare_logits]
    for compare in comparisons:
        if not checks[-1].equal:
            break
        try:
            checks.append(compare(actual, expected))
        except LanguageModelError as error:
            checks.append(Check("session", False, f"it cannot be used any more: {error}"))
    return checks


def compare_last_answers(actual: Session, expected: Session) -> Check:
    """The newest turn of both sessions, which was seeded alike."""
    name, mine, theirs = "next answer", actual.turns[-1], expected.turns[-1]
    if mine.prompt_tokens != theirs.prompt_tokens:
        return Check(
            name, False, f"its prompt has {mine.prompt_tokens} tokens, it should have {theirs.prompt_tokens}"
        )
    check = compare_tokens(name, actual.tokens[mine.prompt_tokens :], expected.tokens[theirs.prompt_tokens :])
    return replace(check, detail=f"{check.detail} (seed {theirs.params.seed})")


def compare_tokens(name: str, actual: Sequence[int], expected: Sequence[int]) -> Check:
    """Two sequences of token ids."""
    for position, (mine, theirs) in enumerate(zip(actual, expected, strict=False)):
        if mine != theirs:
            return Check(name, False, f"token {position} is {mine}, it should be {theirs}")
    if len(actual) != len(expected):
        return Check(name, False, f"there are {len(actual)} tokens, there should be {len(expected)}")
    return Check(name, True, f"{len(actual):,} token ids equal")


def next_logits(session: Session) -> F32:
    """What the model expects after the session's last token, computed on a copy: ``[V]`` float32."""
    copy = session.fork()
    logits = None
    while logits is None:
        if copy.cache.length == len(copy.tokens):
            # Everything is cached, which leaves the last token's logits to be computed once more.
            copy.schedule.cut(copy.cache.length - 1)
            copy.cache.truncate(copy.cache.length - 1)
        logits = copy.compute()
    return logits


def _compare_lengths(actual: Session, expected: Session) -> Check:
    actual.restore()
    expected.restore()
    mine, theirs = actual.cache.length, expected.cache.length
    if mine != theirs:
        return Check("cache length", False, f"{mine} tokens are cached, there should be {theirs}")
    if actual.schedule.spans != expected.schedule.spans:
        return Check("cache length", False, "the cached tokens are recorded as computed in other spans")
    return Check("cache length", True, f"{mine:,} of {len(actual.tokens):,} tokens cached in both")


def _compare_caches(actual: Session, expected: Session) -> Check:
    name, length = "keys and values", actual.cache.length
    config = actual.language_model.llama.config
    compared = 0
    for layer in range(config.num_hidden_layers):
        pairs = zip(actual.cache.view(layer, 0, length), expected.cache.view(layer, 0, length), strict=True)
        for kind, (mine, theirs) in zip(("key", "value"), pairs, strict=True):
            different = _first_difference(mine, theirs)
            if different is not None:
                head, position, _ = different
                return Check(
                    name, False, f"layer {layer}, head {head}: the {kind} of token {position} differs"
                )
            compared += mine.nbytes
    return Check(name, True, f"{compared:,} bytes equal, in {config.num_hidden_layers} layers")


def _compare_logits(actual: Session, expected: Session) -> Check:
    mine, theirs = next_logits(actual), next_logits(expected)
    different = _first_difference(mine, theirs)
    if different is not None:
        (token,) = different
        return Check(
            "next logits", False, f"that of token {token} is {mine[token]!r}, it should be {theirs[token]!r}"
        )
    return Check("next logits", True, f"{mine.size:,} float32 numbers equal")


def _first_difference(actual: F32, expected: F32) -> tuple[int, ...] | None:
    """The index of the first number whose bits differ."""
    different = np.ascontiguousarray(actual).view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)
    if not different.any():
        return None
    return tuple(int(index) for index in np.unravel_index(int(different.argmax()), different.shape))
