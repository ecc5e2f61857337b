"""What is in a model folder, for people and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_core.chat_template import ChatTemplate
from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.stop_tokens import stop_token_ids
from lm_core.tokenizer import Tokenizer
from lm_models.origin import read_origin


def inspect_model(folder: Path) -> dict[str, Any]:
    """A description of the model in JSON values.  Sizes are counts of numbers, ``bytes`` is of the weights.

    Raises:
        ModelError: the folder is not that of a supported model.
    """
    config = LlamaConfig.from_pretrained(folder)
    checkpoint = Checkpoint.open(folder)
    tensors = checkpoint.tensors.values()
    tokenizer = Tokenizer.from_pretrained(folder)
    return {
        "folder": str(folder),
        "source": read_origin(folder),
        "architecture": config.architecture,
        "parameters": sum(checkpoint[name].size for name in checkpoint.tensors),
        "bytes": sum(file.stat().st_size for file in {tensor.file for tensor in tensors}),
        "dtypes": sorted({tensor.dtype for tensor in tensors}),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_size": config.head_dim,
        "context_length": config.context_length,
        "sliding_window": max((window for window in config.sliding_windows if window), default=None),
        "rope": {"type": config.rope.rope_type, "theta": config.rope.rope_theta},
        "tied_embeddings": config.tie_word_embeddings,
        "vocabulary": config.vocab_size,
        "tokens": tokenizer.vocab_size,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.bos_token_id,
        "end_token_ids": sorted(stop_token_ids(folder, config, tokenizer)),
        "special_tokens": len(tokenizer.special_ids),
        "chat_template": ChatTemplate.find(folder) is not None,
    }
