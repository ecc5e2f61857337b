"""The engine beside ``transformers`` itself, on every kind and on the real models that are at hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from checkpoints import GREEDY_TOKENS, KINDS, TEXT_LENGTH, fixed_text
from comparisons import assert_agrees
from conftest import CheckpointFolder
from decoding import greedy, in_chunks
from shared_files import shared_model, story_model

from lm_core.model import Llama
from lm_core.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch_oracle import TransformersOracle

# The oracles bring warnings of their own, which are not this project's to fix.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

REAL_MODELS: dict[str, Callable[[], Path]] = {
    "stories260K": lambda: shared_model("stories260K"),
    "stories15M": lambda: shared_model("stories15M"),
    "story-656k": lambda: shared_model("story-656k"),
    "story": story_model,
}


def open_both(folder: Path) -> tuple[Llama, TransformersOracle]:
    """The engine and its oracle over one folder."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from torch_oracle import TransformersOracle

    return Llama.from_pretrained(folder, dtype="f32"), TransformersOracle(folder)


def assert_parity(folder: Path, text: list[int], chunks: list[int]) -> None:
    """Uncached, one by one and chunked logits, and 64 greedy tokens."""
    model, oracle = open_both(folder)
    uncached = oracle.logits(text)
    for sizes in ([len(text)], [1] * len(text), chunks):
        # Dynamic RoPE depends on the calls, so the oracle is called in the same way.
        dynamic = model.config.rope.rope_type == "dynamic"
        expected = np.concatenate(list(oracle.chunked_logits(text, sizes))) if dynamic else uncached
        assert_agrees(in_chunks(model, text, sizes), expected)
    assert greedy(model, text, GREEDY_TOKENS) == oracle.greedy(text, GREEDY_TOKENS)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, checkpoint_folder: CheckpointFolder) -> None:
    """The random checkpoints, in the chunks of a fixed random cut."""
    cut = random.Random(kind).sample(range(1, TEXT_LENGTH), 9)
    bounds = [0, *sorted(cut), TEXT_LENGTH]
    chunks = [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]
    assert_parity(checkpoint_folder(kind), fixed_text(), chunks)


@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_models(name: str) -> None:
    """A story's first 192 tokens and more: real weights have the outliers that random ones lack."""
    folder = REAL_MODELS[name]()
    text = Tokenizer.from_pretrained(folder).encode(STORY)
    text = (text * (TEXT_LENGTH // len(text) + 1))[:TEXT_LENGTH]
    # The smallest of the models has a context of 256 tokens.
    assert_parity(folder, text[: 256 - GREEDY_TOKENS], [7, 64, 121])
    model, oracle = open_both(folder)
    assert_agrees(in_chunks(model, text, [TEXT_LENGTH]), oracle.logits(text))


def test_bf16_story_model_in_place() -> None:
    """Weights kept as bf16 are the weights that transformers widens."""
    folder = story_model()
    _, oracle = open_both(folder)
    model = Llama.from_pretrained(folder, dtype="bf16")
    text = np.random.RandomState(5).randint(0, model.config.vocab_size, TEXT_LENGTH).tolist()
    assert_agrees(in_chunks(model, text, [TEXT_LENGTH]), oracle.logits(text))


STORY = (
    "Once upon a time, there was a little girl named Lily. She had a small red boat and she loved to play"
    " with it by the river. One sunny day, the boat floated away. Lily was sad and began to cry. A kind "
    'duck saw her and said, "Do not worry, I can help you!" The duck swam fast and pushed the boat back '
    "to the shore. Lily smiled and gave the duck some bread. They played together until the sun went "
    "down, and then they went home."
)
