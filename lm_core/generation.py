"""Generation: the loop of forward pass and choice."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from lm_core.errors import ContextLengthExceeded, InvalidParameter
from lm_core.kv_cache import KVCache
from lm_core.model import Llama
from lm_core.sampler import Sampler, SamplingParams
from lm_core.speculation import Speculation


def generate(
    model: Llama,
    prompt: Sequence[int],
    params: SamplingParams | None = None,
    *,
    max_new_tokens: int | None = None,
    stop_token_ids: Container[int] = (),
    cache: KVCache | None = None,
    speculate: bool | Speculation = False,
) -> Iterator[int]:
    """Yield the token ids that follow ``prompt``, one as soon as it is chosen.

    Ends after a token of ``stop_token_ids``, which is yielded, after ``max_new_tokens``, or when
    the context is full.  ``cache`` may hold a prefix of the prompt, which is then not computed
    again; the tokens computed are added to it.  With ``speculate``, tokens that are likely to come are
    computed ahead, which changes nothing but the time it takes; a ``Speculation`` of the caller's
    counts them.

    Raises:
        InvalidParameter: the prompt is empty, or shorter than what the cache holds, or not a single
            new token is asked for.
        ContextLengthExceeded: the prompt leaves no room for a single new token.
    """
    cache = model.new_cache() if cache is None else cache
    tokens = list(prompt)
    context_length = model.config.context_length
    if len(tokens) <= cache.length:
        raise InvalidParameter(
            "prompt", f"the prompt has {len(tokens)} tokens, but {cache.length} are cached already"
        )
    if len(tokens) >= context_length:
        raise ContextLengthExceeded(len(tokens), context_length)
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InvalidParameter("max_new_tokens", f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    sampler = Sampler(params or SamplingParams())
    end = context_length if max_new_tokens is None else min(context_length, len(tokens) + max_new_tokens)
    speculation = Speculation() if speculate is True else speculate or None
    if speculation is not None:
        speculation.end = end
    while len(tokens) < end:
        # Whatever is not cached yet: the prompt at first, then the token just chosen.
        if speculation is not None and cache.length == len(tokens) - 1:
            logits = speculation.next_logits(model, tokens, cache)
        else:
            logits = model.forward(tokens[cache.length :], cache)
        token = sampler.sample(logits, tokens)
        tokens.append(token)
        yield token
        if token in stop_token_ids:
            return
