"""The pieces of the training recipe that need no torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from programs import run_program
from reference.llama import ReferenceLlama
from shared_files import story_model
from train_story.bits_per_byte import bits_per_byte
from train_story.packing import PAD_ID, pack
from train_story.samples import repeats_itself, sampled_stories
from train_story.story_tokenizer import EOS_TOKEN, train_tokenizer

from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.tokenizer import Tokenizer


def test_packing_keeps_every_story_whole_and_begins_each_row_with_one() -> None:
    rng = np.random.default_rng(3)
    documents = [
        [100 + number] + [200] * int(length) for number, length in enumerate(rng.integers(1, 60, 50))
    ]
    rows = pack(documents, 64, np.random.default_rng(1))
    found = []
    for row in rows:
        assert row[0] >= 100 and row[0] < 200
        text = [int(token) for token in row if token != PAD_ID]
        starts = [place for place, token in enumerate(text) if token < 200] + [len(text)]
        found += [text[start:end] for start, end in zip(starts, starts[1:], strict=False)]
    assert sorted(found) == sorted(documents)
    assert rows.shape[0] <= 1.1 * sum(map(len, documents)) / 64 + 1
    assert (pack(documents, 64, np.random.default_rng(1)) == rows).all()


def test_a_story_longer_than_a_row_is_cut() -> None:
    assert pack([[7] * 100], 64, np.random.default_rng(0)).tolist() == [[7] * 64]


@pytest.mark.parametrize("text", ["Tom and Lily", "你好，世界", "🙂👩‍👩‍👧", "a\n\tb", "", "<|end|>"])
def test_the_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = train_tokenizer(["Once upon a time there was a cat. " * 20], 300)
    ids = tokenizer.encode(text).ids
    assert ids[0] == 1 and tokenizer.decode(ids[1:], skip_special_tokens=False) == text
    assert tokenizer.token_to_id(EOS_TOKEN) == 2


def test_bits_per_byte_are_those_of_the_reference() -> None:
    folder = story_model()
    stories = ["Tom and Lily like to play.", "The dog is sad — 你好."]
    tokenizer, checkpoint = Tokenizer.from_pretrained(folder), Checkpoint.open(folder)
    # bf16 is the upper half of a float32.
    weights = {
        name: (checkpoint[name].astype(np.uint32) << 16).view(np.float32) for name in checkpoint.tensors
    }
    reference = ReferenceLlama(LlamaConfig.from_pretrained(folder), weights)
    nats = 0.0
    for text in stories:
        ids = tokenizer.encode(text)
        logits = reference.forward(ids)
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        nats -= sum(math.log(chances[place, token]) for place, token in enumerate(ids[1:]))
    size = sum(len(text.encode()) for text in stories)
    assert bits_per_byte(folder, stories) == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_a_long_text_is_scored_in_windows_and_every_byte_counts() -> None:
    """Beyond the context each token is scored once, with at least half a context before it."""
    folder = story_model()
    whole = bits_per_byte(folder, ["The cat sat on the mat. " * 150])
    assert 0 < whole < bits_per_byte(folder, ["The cat sat on the mat. "])


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("He ran. He ran. He ran. The end.", True),
        ("He ran. He ran. She sat. He ran.", False),
        ("Why? Why? Why?", True),
        ("", False),
    ],
)
def test_three_times_the_same_sentence_in_a_row(text: str, repeats: bool) -> None:
    assert repeats_itself(text) is repeats


def test_sampled_stories_are_those_that_story_teller_tells() -> None:
    (_, first), (seed, second) = sampled_stories(story_model(), 2)
    assert first.text != second.text and seed == 1
    told = run_program("story_teller", ["-m", str(story_model()), "--seed", "1"])
    assert told.out == f"Once upon a time{second.text}\n"


def test_the_story_model_is_small_enough_for_a_repository() -> None:
    folder: Path = story_model()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000
    assert (folder / "README.md").is_file()
