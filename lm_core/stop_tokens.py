"""The tokens that end an answer, gathered from the three places where a model folder names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_core.config import LlamaConfig, read_json_object
from lm_core.errors import ConfigError
from lm_core.tokenizer import Tokenizer

GENERATION_CONFIG = "generation_config.json"


def stop_token_ids(path: str | Path, config: LlamaConfig, tokenizer: Tokenizer) -> frozenset[int]:
    """The end tokens of ``generation_config.json`` (an int or a list), or else of ``config.json``,
    and the tokenizer's own.

    Raises:
        ConfigError: ``generation_config.json`` is malformed or names a token that does not exist.
    """
    folder = Path(path)
    ids: list[Any] = list(config.eos_token_ids)
    if (folder / GENERATION_CONFIG).is_file():
        named = read_json_object(folder, GENERATION_CONFIG).get("eos_token_id")
        if named is not None:
            ids = named if isinstance(named, list) else [named]
    for index in ids:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < config.vocab_size:
            raise ConfigError(
                f"{GENERATION_CONFIG} has eos_token_id {index!r}; "
                f"it must be a token id below {config.vocab_size}"
            )
    own = tokenizer.eos_token_id
    return frozenset(ids if own is None else [*ids, own])
