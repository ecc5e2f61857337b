"""Sampled stories and what a reader would hold against them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lm_core.sampler import SamplingParams
from story_teller.story import Story, StoryTeller

PROMPT = "Once upon a time"
MAX_TOKENS = 500
DEFAULTS = {"temperature": 1.0, "top_k": 4, "top_p": 0.9}
"""Those of ``story-teller``."""


def sampled_stories(folder: Path, count: int) -> Iterator[tuple[int, Story]]:
    """``count`` stories with the seeds 0, 1, 2, …, as ``story-teller --seed N`` tells them."""
    teller = StoryTeller(folder)
    for seed in range(count):
        params = SamplingParams(**DEFAULTS, seed=seed)  # type: ignore[arg-type]
        yield seed, teller.tell(PROMPT, params, MAX_TOKENS, write=lambda _: None)


def repeats_itself(story: str) -> bool:
    """Whether the same sentence stands three times in a row."""
    sentences = [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+", story)]
    runs = zip(sentences, sentences[1:], sentences[2:], strict=False)
    return any(first == second == third for first, second, third in runs)
