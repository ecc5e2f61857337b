"""Bits per byte: how well a model predicts text, comparable between tokenizers.

Computed by this project's own engine, so that the figure is about what users run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_core.language_model import LanguageModel


def bits_per_byte(folder: Path, stories: Sequence[str]) -> float:
    """Negative log2 likelihood of ``stories`` in their UTF-8 bytes.

    Each story begins the sequence anew, after the BOS token.  What does not fit into the context is
    scored in further windows, each of which sees half a context of what came before.  The end token
    is not scored: not every model was trained with one.
    """
    language_model = LanguageModel.from_pretrained(folder, dtype="f32")
    nats = sum(_negative_log_likelihood(language_model, story) for story in stories)
    return nats / math.log(2) / sum(len(story.encode()) for story in stories)


def _negative_log_likelihood(language_model: LanguageModel, story: str) -> float:
    llama = language_model.llama
    ids = np.array(language_model.encode_text(story))
    window, total, scored = llama.config.context_length, 0.0, 1
    while scored < len(ids):
        start = 0 if scored == 1 else scored - window // 2
        inputs, targets = ids[start : start + window], ids[start + 1 : start + 1 + window]
        inputs = inputs[: len(targets)]
        logits = llama.forward(inputs, llama.new_cache(), all_positions=True).astype(np.float64)
        highest = logits.max(axis=-1, keepdims=True)
        normalizers = np.log(np.exp(logits - highest).sum(axis=-1)) + highest[:, 0]
        losses = normalizers - logits[np.arange(len(targets)), targets]
        total += float(losses[scored - start - 1 :].sum())
        scored = start + 1 + len(targets)
    return total
