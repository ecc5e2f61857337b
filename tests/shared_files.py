"""Models that lie outside the repository, for tests alone: where one is absent, a test is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


def shared_model(name: str) -> Path:
    """The folder ``../shared/models/NAME``."""
    return _present(SHARED / "models" / name, f"../shared/models/{name}")


def story_model() -> Path:
    """The folder of the repository's own story model."""
    return _present(PROJECT / "models" / "story", "models/story")


def chat_model() -> Path:
    """The folder of the chat model, which is fetched and not in the repository."""
    elsewhere = os.environ.get("REWINDLM_CHAT_MODEL")
    folder = Path(elsewhere) if elsewhere else PROJECT / "models" / "chat"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("the weights of models/chat are not there; lm-models pull chat fetches them")
    return folder


def _present(folder: Path, name: str) -> Path:
    if not (folder / "config.json").is_file():
        pytest.skip(f"{name} is not there")
    return folder
