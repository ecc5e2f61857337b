"""The time of a decode step by parts: products of weights, attention, small operators, the rest."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import numpy as np

from bench.profile_report import Bound, Pass, Profile, median_parts
from bench.stopwatch import Stopwatch
from bench.targets import CHAT
from bench.token_ids import spread_ids
from lm_core import linear, ops, rotary
from lm_core.kv_cache import KVCache
from lm_core.linear import Linear, make_linear
from lm_core.model import Llama
from lm_core.workspace import Workspace

PRODUCTS = "products of weights"
CONVERSION = "bf16 widened for them"
ATTENTION_PRODUCTS = "attention: products"
ATTENTION = "attention: softmax and the rest"
OPERATORS = "norms, rotary, swiglu"
CACHE = "embedding and cache"
PARTS = (PRODUCTS, CONVERSION, ATTENTION_PRODUCTS, ATTENTION, OPERATORS, CACHE)

WATCHED = {
    Linear: {"decode": PRODUCTS},
    ops: {
        "row_attention": ATTENTION,
        "rms_norm": OPERATORS,
        "apply_rotary": OPERATORS,
        "rotary_factors": OPERATORS,
        "swiglu": OPERATORS,
    },
    rotary.RotaryTables: {"rows": OPERATORS},
    KVCache: {"reserve": CACHE, "write": CACHE, "visible": CACHE, "advance": CACHE},
    linear.Float32Linear: {"rows": CACHE},
    linear.Bfloat16Linear: {"rows": CACHE},
}
IN_ATTENTION = dict.fromkeys(("matmul", "matvec"), ATTENTION_PRODUCTS)
IN_LINEAR = dict.fromkeys(("left_shift", "bitwise_and"), CONVERSION)

TARGET = 0.85
"""For the chat model; a small one's products are done before NumPy has been called."""

EMPTY_CALLS = 2000


def measure(model: Path, dtype: str, context: int, tokens: int, repeats: int) -> Profile:
    """Decode ``tokens`` tokens after ``context``, in turns with and without instruments."""
    llama = Llama.from_pretrained(model, dtype)
    cache = llama.new_cache()
    context = min(context, llama.config.context_length - tokens)
    if context < 1:
        raise ValueError(f"{tokens} tokens and one before them do not fit into the model's context")
    llama.forward(spread_ids(context, llama.config.vocab_size), cache)
    ids = spread_ids(tokens, llama.config.vocab_size)

    def decode() -> float:
        cache.truncate(context)
        start = perf_counter()
        for token in ids:
            llama.forward([token], cache)
        return perf_counter() - start

    decode()
    alone, passes = [], []
    for _ in range(repeats):
        alone.append(decode())
        stopwatch = Stopwatch()
        with ExitStack() as stack:
            stack.enter_context(stopwatch.watching(WATCHED))
            stack.enter_context(stopwatch.watching_numpy(ops, IN_ATTENTION))
            stack.enter_context(stopwatch.watching_numpy(linear, IN_LINEAR))
            whole = decode()
        passes.append(Pass.of(stopwatch, whole))
    parts = median_parts(passes, PARTS, tokens)
    calls = {part: passes[0].calls.get(part, 0) / tokens for part in PARTS}
    name, storage = model.resolve().name, llama.dtype
    undisturbed = statistics.median(alone) / tokens
    return Profile(
        title=f"{name}, {storage}: one decode step after {context} to {context + tokens} tokens",
        parts=parts,
        calls=calls,
        whole=sum(parts.values()),
        undisturbed=undisturbed,
        bounds=_bounds(parts, calls, undisturbed, storage, TARGET if name in CHAT else None),
    )


def _bounds(
    parts: dict[str, float],
    calls: dict[str, float],
    undisturbed: float,
    storage: str,
    target: float | None,
) -> list[Bound]:
    whole = sum(parts.values())
    products = parts[PRODUCTS] + parts[CONVERSION]
    attention = parts[ATTENTION_PRODUCTS]
    # What a product of next to no weights takes is no arithmetic: it is Python on the way to BLAS.
    on_the_way = calls[PRODUCTS] * seconds_of_empty_product(storage)
    # Whatever the instruments cost may have been booked to the products, but to nothing else.
    measuring = max(0.0, whole - undisturbed)
    return [
        Bound(
            "BLAS and conversion, attention's products included",
            (products + attention) / whole,
            at_least=target,
        ),
        Bound("without attention's products", products / whole),
        Bound(
            "at the least: less all that measuring costs, and the Python on the way to each product",
            max(0.0, products - on_the_way - measuring) / (whole - measuring),
        ),
    ]


def seconds_of_empty_product(storage: str) -> float:
    """The median time of a product of two weights, which is next to nothing but the call."""
    kind = np.uint16 if storage == "bf16" else np.float32
    layer, x = make_linear([np.zeros((1, 2), dtype=kind)]), np.zeros((1, 2), dtype=np.float32)
    workspace, times = Workspace(), []
    for _ in range(EMPTY_CALLS):
        start = perf_counter()
        layer.decode(x, workspace)
        times.append(perf_counter() - start)
    return statistics.median(times)
