"""Story text: reading, cleaning, the held-out split, and the removal of whatever overlaps it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT_SEPARATOR = "<|endoftext|>"
HELD_OUT_STORIES = 200
SHORTEST_STORY = 120
"""Characters.  Anything shorter is a fragment cut off at the edge of a file."""
OVERLAP_WORDS = 12
"""A training story that shares this many consecutive words with a held-out one is dropped."""

_TYPOGRAPHY = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "..."})
_MOJIBAKE = re.compile("â€.?")
_MOJIBAKE_REPAIRS = {
    "â€œ": '"',
    "â€\x9d": '"',
    "â€": '"',
    "â€™": "'",
    "â€˜": "'",
    "â€“": "-",
    "â€”": "-",
    "â€¦": "...",
}


@dataclass(frozen=True)
class Corpus:
    """Cleaned stories, split.

    ``original`` and ``generated`` are for training; ``held_out`` is original text that no
    training story overlaps.
    """

    original: list[str]
    generated: list[str]
    held_out: list[str]


def clean(text: str) -> str:
    """Repair the usual mojibake, use plain quotes, and collapse blank space inside lines."""
    text = _MOJIBAKE.sub(_repair_mojibake, text).translate(_TYPOGRAPHY)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _repair_mojibake(match: re.Match[str]) -> str:
    found = match.group()
    return _MOJIBAKE_REPAIRS.get(found, _MOJIBAKE_REPAIRS["â€"] + found[2:])


def original_stories(folder: Path) -> list[str]:
    """The TinyStories texts of ``folder/*.txt``, cleaned and without exact duplicates.

    The first and the last document of each file may be cut in two by the split into files,
    so they are left out.
    """
    stories: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        documents = path.read_text(encoding="utf-8").split(DOCUMENT_SEPARATOR)
        stories += [clean(document) for document in documents[1:-1]]
    return list(_worth_keeping(stories))


def generated_stories(path: Path) -> list[str]:
    """The complete stories of a JSON-lines file of objects with ``text`` and ``complete``."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return list(_worth_keeping(clean(row["text"]) for row in rows if row["complete"]))


def _worth_keeping(stories: Iterable[str]) -> Iterator[str]:
    return (story for story in dict.fromkeys(stories) if len(story) >= SHORTEST_STORY)


def load_corpus(data: Path) -> Corpus:
    """Read ``data/tinystories/*.txt`` and ``data/generated_stories.jsonl`` and split them.

    The held-out stories are the ones whose SHA-256 sorts first: the choice depends on the
    text alone, so it survives reordering and additions.
    """
    originals = original_stories(data / "tinystories")
    by_digest = sorted(originals, key=lambda story: hashlib.sha256(story.encode()).digest())
    held_out = by_digest[:HELD_OUT_STORIES]
    forbidden = {run for story in held_out for run in _word_runs(story)}

    def unseen(stories: Iterable[str]) -> list[str]:
        return [story for story in stories if forbidden.isdisjoint(_word_runs(story))]

    return Corpus(unseen(originals), unseen(generated_stories(data / "generated_stories.jsonl")), held_out)


_COMMON_OPENING = re.compile(r"^(once upon a time|one day)\b.{0,80}?[.!?]", re.IGNORECASE)


def _word_runs(story: str) -> Iterator[tuple[str, ...]]:
    """Every run of ``OVERLAP_WORDS`` words, skipping the formulaic first sentence."""
    words = re.findall(r"\w+", _COMMON_OPENING.sub("", story).lower())
    return zip(*(words[offset:] for offset in range(OVERLAP_WORDS)), strict=False)
