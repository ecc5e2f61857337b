"""Which tensors a model must have, and their shapes: the checkpoint is compared with this list first."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.errors import CheckpointError

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"

_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Old exports carry the rotary frequencies, which follow from the configuration."""


def embedding_name(checkpoint: Checkpoint, config: LlamaConfig) -> str:
    """The tensor that holds the embedding: some tied models are stored with the head's name alone."""
    only_head = EMBEDDING not in checkpoint and HEAD in checkpoint
    return HEAD if config.tie_word_embeddings and only_head else EMBEDDING


def expected_shapes(config: LlamaConfig, embedding: str = EMBEDDING) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a model of this configuration: names and shapes."""
    hidden, feed_forward = config.hidden_size, config.intermediate_size
    query_rows = config.num_attention_heads * config.head_dim
    key_rows = config.num_key_value_heads * config.head_dim
    projections = {
        "self_attn.q_proj": (query_rows, hidden, config.qkv_bias),
        "self_attn.k_proj": (key_rows, hidden, config.qkv_bias),
        "self_attn.v_proj": (key_rows, hidden, config.qkv_bias),
        "self_attn.o_proj": (hidden, query_rows, config.o_bias),
        "mlp.gate_proj": (feed_forward, hidden, config.mlp_bias),
        "mlp.up_proj": (feed_forward, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, feed_forward, config.mlp_bias),
    }
    yield embedding, (config.vocab_size, hidden)
    yield FINAL_NORM, (hidden,)
    if not config.tie_word_embeddings:
        yield HEAD, (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        for name, (rows, columns, has_bias) in projections.items():
            yield f"{prefix}{name}.weight", (rows, columns)
            if has_bias:
                yield f"{prefix}{name}.bias", (rows,)


def check_tensors(checkpoint: Checkpoint, config: LlamaConfig) -> None:
    """Refuse a checkpoint that does not fit its configuration, before any memory is taken.

    Raises:
        CheckpointError: names the first missing or left-over tensor, or wrong shape.
    """
    stored = checkpoint.tensors
    embedding = embedding_name(checkpoint, config)
    # Counted, not collected: a damaged configuration may ask for far more tensors than there are.
    missing = (name for name, _ in expected_shapes(config, embedding) if name not in stored)
    first = next(missing, None)
    if first is not None:
        raise CheckpointError(
            f"the weights lack {first!r}{_and_more(sum(1 for _ in missing))}; config.json asks for it"
        )
    expected = dict(expected_shapes(config, embedding))
    tied_copy = {HEAD} if config.tie_word_embeddings else set()
    left_over = sorted(
        name for name in stored.keys() - expected.keys() - tied_copy if not _DERIVED.fullmatch(name)
    )
    if left_over:
        raise CheckpointError(
            f"the weights hold {left_over[0]!r}{_and_more(len(left_over) - 1)}, "
            "which config.json has no place for"
        )
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise CheckpointError(
                f"the weights hold {name!r} with shape {list(stored[name].shape)}; "
                f"config.json asks for {list(shape)}"
            )


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""
