"""The corpus of the story model: cleaning, and a held-out set that nothing overlaps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from shared_files import SHARED
from train_story.corpus import HELD_OUT_STORIES, OVERLAP_WORDS, SHORTEST_STORY, clean, load_corpus

FILLER = "and then they all went home together to eat a very big cake with cream and berries "


def story(number: int) -> str:
    """A text whose every run of words is its own."""
    return " ".join(f"word{number}x{place}" for place in range(40)) + "."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    originals = [story(number) for number in range(HELD_OUT_STORIES + 30)]
    # Twice the same, and one that is too short; the first and last may be cut, so they do not count.
    documents = ["cut off", *originals, originals[3], "short", "cut off"]
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories" / "a.txt").write_text("<|endoftext|>".join(documents), encoding="utf-8")
    held_out = load_corpus_without_generated(tmp_path, originals)
    rows = [
        {"text": story(9000), "complete": True},
        {"text": story(9001), "complete": False},
        # It quotes a held-out story, in other letters.
        {
            "text": FILLER + " ".join(held_out.split()[:OVERLAP_WORDS]).upper() + " " + FILLER,
            "complete": True,
        },
        {"text": FILLER + " ".join(held_out.split()[: OVERLAP_WORDS - 1]) + " " + FILLER, "complete": True},
    ]
    (tmp_path / "generated_stories.jsonl").write_text(
        "\n".join(json.dumps(row) for row in rows), encoding="utf-8"
    )
    return tmp_path


def load_corpus_without_generated(folder: Path, originals: list[str]) -> str:
    (folder / "generated_stories.jsonl").write_text("", encoding="utf-8")
    corpus = load_corpus(folder)
    assert sorted(corpus.held_out + corpus.original) == sorted(originals)
    return corpus.held_out[0]


def test_the_split_holds_out_200_stories_and_drops_what_overlaps_them(data: Path) -> None:
    corpus = load_corpus(data)
    assert len(corpus.held_out) == HELD_OUT_STORIES and len(corpus.original) == 30
    assert len(corpus.generated) == 2
    assert story(9000) in corpus.generated and not any("WORD" in text for text in corpus.generated)


def test_the_split_depends_on_the_texts_alone(data: Path) -> None:
    before = load_corpus(data).held_out
    file = data / "tinystories" / "a.txt"
    documents = file.read_text(encoding="utf-8").split("<|endoftext|>")
    file.write_text("<|endoftext|>".join(reversed(documents)), encoding="utf-8")
    assert load_corpus(data).held_out == before


def test_cleaning_repairs_quotes_and_blanks() -> None:
    assert (
        clean("â€œHi,â€\x9d  said\tTom.\n\n\nâ€™Tis “fine” – or…") == '"Hi," said Tom.\n\'Tis "fine" - or...'
    )


@pytest.mark.soak
def test_no_training_text_of_the_real_corpus_overlaps_the_held_out_stories() -> None:
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("../shared/data is not there")
    corpus = load_corpus(data)

    def runs(text: str) -> set[str]:
        words = re.findall(r"\w+", text.lower())
        # Two words more than the rule's twelve, and beginnings left in: simpler than the rule itself.
        return {" ".join(words[start : start + 30]) for start in range(len(words) - 29)}

    held_out = set().union(*map(runs, corpus.held_out))
    assert len(corpus.held_out) == HELD_OUT_STORIES
    assert all(len(text) >= SHORTEST_STORY for text in corpus.original + corpus.generated)
    assert not any(runs(text) & held_out for text in corpus.original + corpus.generated)
