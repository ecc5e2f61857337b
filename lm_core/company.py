"""Sessions that decode in company: one pass for many, and each gets the bits it would get alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lm_core.session import Session

F32 = npt.NDArray[np.float32]


def misses_one_token(session: Session) -> bool:
    """Whether all that is missing from the cache is the last token, which was never computed before."""
    return session.cache.length == session.schedule.length == len(session.tokens) - 1


def decode_together(sessions: Sequence[Session]) -> F32:
    """What :meth:`Session.compute` does for each of these sessions, in one pass over the weights.

    Args:
        sessions: B different sessions of one model; each :func:`misses_one_token`.

    Returns:
        float32 logits ``[B, V]`` that follow each session's last token.

    Raises:
        ValueError: a session misses more than one token, or none; nothing has changed.
    """
    if not all(misses_one_token(session) for session in sessions):
        raise ValueError("only sessions that miss exactly one new token can decode together")
    llama = sessions[0].language_model.llama
    logits = llama.forward_batch(
        [session.tokens[-1] for session in sessions], [session.cache for session in sessions]
    )
    for session in sessions:
        session.schedule.append(1)
    return logits
