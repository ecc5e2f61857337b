"""Sessions that decode in company: one pass for many, and each gets the bits it would get alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lm_core.kv_cache import KVCache
from lm_core.session import Session
from lm_core.speculation import MOST_ROWS

F32 = npt.NDArray[np.float32]


def misses_one_token(session: Session) -> bool:
    """Whether all that is missing from the cache is the last token, which was never computed before."""
    return session.cache.length == session.schedule.length == len(session.tokens) - 1


def decode_together(sessions: Sequence[Session]) -> F32:
    """What :meth:`Session.compute` does for each of these sessions, in one pass over the weights.

    Where there are fewer than ``MOST_ROWS``, those that speculate share the rows that are left:
    what a session's :meth:`Session.foreseen` then gives, it gives at once.

    Args:
        sessions: B different sessions of one model; each :func:`misses_one_token`.

    Returns:
        float32 logits ``[B, V]`` that follow each session's last token.

    Raises:
        ValueError: a session misses more than one token, or none; nothing has changed.
    """
    if not all(misses_one_token(session) for session in sessions):
        raise ValueError("only sessions that miss exactly one new token can decode together")
    ids: list[int] = []
    caches: list[KVCache] = []
    drafts: list[tuple[int, list[int]]] = []
    for number, session in enumerate(sessions):
        waiting = len(sessions) - number
        share = (MOST_ROWS - len(ids) - waiting) // waiting
        draft = [] if session.speculation is None else session.speculation.draft(session.tokens, share)
        drafts.append((len(ids), draft))
        ids += [session.tokens[-1], *draft]
        caches += [session.cache] * (1 + len(draft))
    logits = sessions[0].language_model.llama.forward_batch(ids, caches)
    for session, (row, draft) in zip(sessions, drafts, strict=True):
        session.schedule.append(1)
        if session.speculation is not None and draft:
            session.speculation.hold(draft, logits[row + 1 : row + 1 + len(draft)], session.cache)
    return logits if len(ids) == len(sessions) else logits[[row for row, _ in drafts]]
