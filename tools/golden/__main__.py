"""``python -m golden``: write ``tests/golden/*.npz``, what ``transformers`` computes for test checkpoints.

    PYTHONPATH=tools:tests:. python -m golden --out tests/golden --story models/story

Needs the ``parity`` extra.  The tests rebuild the same checkpoints and compare the engine with
these files, so that they need neither ``torch`` nor ``transformers``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from checkpoints import GREEDY_TOKENS, KINDS, TEXT_LENGTH, RandomCheckpoint, fixed_text
from torch_oracle import TransformersOracle

STORY_TEXT = (
    "Once upon a time, there was a little girl named Lily. She had a small red boat and she loved to play"
    " with it by the river. One sunny day, the boat floated away. Lily was sad and began to cry. A kind "
    'duck saw her and said, "Do not worry, I can help you!" The duck swam fast and pushed the boat back '
    "to the shore. Lily smiled and gave the duck some bread. They played together until the sun went "
    "down. The next morning, Lily and her mom went back to the river to find the duck. They looked behind"
    " the big tree and under the bridge, but the duck was not there. Then they heard a happy sound. The "
    'duck was in the water with three baby ducks! Lily laughed and clapped her hands. "Mom, look at the '
    'babies!" she said. Her mom smiled and took a picture. From that day on, Lily came to the river every'
    " week, and she always brought some bread for her friends. The baby ducks grew big and strong, and "
    "they learned to swim just like their mother."
)
STORY_STRIDE = 10
"""All logits of every tenth position are kept; of the others, the most likely token."""

NARROWEST_LEAD = 4e-4
"""Of the largest logit.  Twice what the engine's logits may differ by: an engine within its bound finds the
same greedy tokens.  A checkpoint whose tokens lead by less needs another seed."""


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to."
)
@click.option(
    "--story", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The story model's folder."
)
@click.option("--only", multiple=True, type=click.Choice(sorted(KINDS)), help="Write these kinds alone.")
def main(out: Path, story: Path | None, only: tuple[str, ...]) -> None:
    """Write one golden file for each kind of checkpoint, and one for the story model."""
    out.mkdir(parents=True, exist_ok=True)
    for name, kind in KINDS.items():
        if kind.golden is None and (not only or name in only):
            with tempfile.TemporaryDirectory() as folder:
                write_kind(name, RandomCheckpoint(kind).write(Path(folder)), out)
    if story is not None:
        write_story(story, out)


def write_kind(name: str, folder: Path, out: Path) -> None:
    """Logits ``[200, V]`` of the fixed text, and the greedy tokens that follow it."""
    oracle, text = TransformersOracle(folder), fixed_text()
    greedy, lead = oracle.greedy(text, GREEDY_TOKENS)
    arrays = {"logits": oracle.logits(text), "greedy": np.array(greedy, dtype=np.int64)}
    if name == "dynamic":
        # Past the trained length the frequencies depend on how the text was cut into calls.
        arrays["logits_one_by_one"] = np.concatenate(list(oracle.chunked_logits(text, [1] * len(text))))
    _report(name, lead)
    np.savez_compressed(out / f"{name}.npz", **arrays)


def write_story(folder: Path, out: Path) -> None:
    """The story model on 200 tokens of a story: some logits, every most likely token, greedy tokens."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    text = tokenizer(STORY_TEXT)["input_ids"][:TEXT_LENGTH]
    if len(text) < TEXT_LENGTH:
        raise click.ClickException(f"the story text has {len(text)} tokens; it needs {TEXT_LENGTH}")
    oracle = TransformersOracle(folder)
    greedy, lead = oracle.greedy(text, GREEDY_TOKENS)
    logits = oracle.logits(text)
    _report("story", lead)
    np.savez_compressed(
        out / "story.npz",
        text=np.array(text, dtype=np.int64),
        logits=logits[::STORY_STRIDE],
        argmax=logits.argmax(axis=-1),
        largest=np.abs(logits).max(),
        greedy=np.array(greedy, dtype=np.int64),
    )


def _report(name: str, lead: float) -> None:
    click.echo(f"{name}: narrowest greedy lead {lead:.2g} of the largest logit")
    if lead < NARROWEST_LEAD:
        raise click.ClickException(
            f"{name}: a greedy token leads by {lead:.2g} only; choose another seed or text"
        )


if __name__ == "__main__":
    main()
