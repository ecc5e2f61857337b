"""A small chat model of each kind of tokenizer, for everything above the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_language_model import write_chat_model

from lm_core.language_model import LanguageModel


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that chats, in ChatML over bytes.  Read only."""
    return write_chat_model(tmp_path_factory.mktemp("chat") / "byte_level")


@pytest.fixture(scope="session")
def chat_model(chat_folder: Path) -> LanguageModel:
    """The model in that folder."""
    return LanguageModel.from_pretrained(chat_folder)


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """One whose tokenizer puts a space before what begins a text, as SentencePiece does."""
    folder = tmp_path_factory.mktemp("chat") / "byte_fallback"
    return LanguageModel.from_pretrained(write_chat_model(folder, "byte_fallback"))
