"""A model so small that measuring everything takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from checkpoints import OLDER, VOCAB_SIZE, Kind, RandomCheckpoint
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

CONTEXT = 64
WORDS = ["<unk>", "<s>", "</s>", "Once", "upon", "a", "time"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = Kind({**OLDER, "max_position_embeddings": CONTEXT}, seed=5)
    folder = RandomCheckpoint(kind).write(tmp_path_factory.mktemp("tiny"))
    words = WORDS + [f"word{index}" for index in range(len(WORDS), VOCAB_SIZE)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
