"""The time of telling a story by parts: the model's forward pass, and everything around it."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from bench.profile_report import Bound, Pass, Profile, median_parts
from bench.stopwatch import Stopwatch
from bench.targets import STORY
from lm_cli.terminal import printable
from lm_core.model import Llama
from lm_core.sampler import Sampler, SamplingParams
from lm_core.tokenizer import StreamDecoder
from story_teller.story import Story, StoryTeller

FORWARD = "forward pass"
SAMPLER = "choosing the token"
DECODER = "its text"
WRITING = "writing it"
PARTS = (FORWARD, SAMPLER, DECODER, WRITING)

# All of them, since a pass may compute several tokens; none calls another one.
MODEL = {Llama: dict.fromkeys(("forward", "forward_batch", "replay"), FORWARD)}
AROUND = {Sampler: {"sample": SAMPLER}, StreamDecoder: {"push": DECODER}}

PROMPT = "Once upon a time"
TARGET = 0.30


def measure(model: Path, dtype: str, tokens: int, repeats: int) -> Profile:
    """Tell a story with ``story-teller``'s own settings, in turns with and without instruments.

    ``tokens`` are at most so many: a story that ends earlier is told to its end.
    """
    teller = StoryTeller(model, dtype)
    # The program's defaults, and a seed, so that every repeat tells the same story.
    params = SamplingParams(temperature=1.0, top_k=4, top_p=0.9, seed=7)
    # To nowhere, but through the system as to a terminal.
    with open(os.devnull, "w", encoding="utf-8") as out:

        def write(text: str) -> None:
            out.write(printable(text))
            out.flush()

        def tell(stopwatch: Stopwatch | None = None) -> Story:
            writer = write if stopwatch is None else stopwatch.wrapped(WRITING, write)
            return teller.tell(PROMPT, params, tokens, writer)

        tell()
        undisturbed, forward, passes = [], [], []
        for _ in range(repeats):
            undisturbed.append(_seconds(tell()))
            # The share that is wanted rests on one instrument alone.
            stopwatch = Stopwatch()
            with stopwatch.watching(MODEL):
                alone = Pass.of(stopwatch, _seconds(tell()))
            forward.append(alone.seconds[FORWARD] / alone.whole)
            stopwatch = Stopwatch()
            with stopwatch.watching(MODEL), stopwatch.watching(AROUND):
                story = tell(stopwatch)
            passes.append(Pass.of(stopwatch, _seconds(story)))
    told = len(story.tokens) + (story.finish_reason == "stop")
    parts = median_parts(passes, PARTS, told)
    name = model.resolve().name
    return Profile(
        title=f"{name}: one of {told} tokens of a story by story-teller, prompt included",
        parts=parts,
        calls={part: passes[0].calls.get(part, 0) / told for part in PARTS},
        whole=sum(parts.values()),
        undisturbed=statistics.median(undisturbed) / told,
        bounds=[
            Bound(
                "outside the forward pass",
                1 - statistics.median(forward),
                below=TARGET if name in STORY else None,
            )
        ],
    )


def _seconds(story: Story) -> float:
    """Of the whole loop, from the prompt's first pass to the last token's text."""
    return story.prompt_seconds + story.generation_seconds
