"""A whole model folder that chats: random weights, a tokenizer known by heart, a template, an end token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from checkpoints import OLDER, Kind, RandomCheckpoint
from tiny_tokenizers import byte_fallback, byte_level

from lm_core.session import Session
from lm_core.turn_in_progress import GeneratedToken, TurnInProgress

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}"
    "{{ message['role'] + '\\n' + message['content'] + '</s>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)
CONTEXT_LENGTH = 512
END = 2
"""The end token of both kinds."""


def write_chat_model(folder: Path, kind: str = "byte_level") -> Path:
    """Write the model; ``kind`` is ``byte_level`` or ``byte_fallback``."""
    tokenizer = byte_level() if kind == "byte_level" else byte_fallback()
    beginning, end = ("<|begin|>", "<|im_end|>") if kind == "byte_level" else ("<s>", "</s>")
    config = {**OLDER, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": CONTEXT_LENGTH}
    RandomCheckpoint(Kind({**config, "bos_token_id": None, "eos_token_id": END}, seed=42)).write(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    settings = {
        "bos_token": beginning,
        "eos_token": end,
        "chat_template": CHATML if kind == "byte_level" else ZEPHYR,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    return folder


def answer(session: Session, turn: TurnInProgress, tokens: Sequence[int]) -> list[GeneratedToken]:
    """Drive a turn to its end with a model that wants to say exactly ``tokens``."""
    said = []
    for token in tokens:
        while session.compute() is None:
            pass
        said.append(turn.accept(wanting(session, token)))
        if turn.ended:
            break
    assert turn.ended and len(said) == len(tokens), "the turn did not end with the last of its tokens"
    return said


def wanting(session: Session, token: int) -> npt.NDArray[np.float32]:
    """Logits of a model that is certain of its next token."""
    logits = np.full(session.language_model.llama.config.vocab_size, -100.0, dtype=np.float32)
    logits[token] = 100.0
    return logits
