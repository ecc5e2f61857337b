"""``python -m train_story``: from story text to ``models/story``, one command a stage.

python -m train_story fit --data DATA --work WORK
python -m train_story export --work WORK --out models/story
python -m train_story evaluate --data DATA models/story OTHER_MODEL...
"""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Train, export and judge the story model."""


@main.command()
@click.option(
    "--data", type=FOLDER, required=True, help="Folder with tinystories/ and generated_stories.jsonl."
)
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="For checkpoints."
)
def fit(data: Path, work: Path) -> None:
    """Train the tokenizer and the model; interrupted, it resumes from its last checkpoint."""
    from train_story.corpus import load_corpus
    from train_story.story_tokenizer import EOS_TOKEN, train_tokenizer
    from train_story.training import Recipe, train

    recipe = Recipe()
    work.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus(data)
    click.echo(f"{len(corpus.original)} original and {len(corpus.generated)} generated stories to train on")
    tokenizer = train_tokenizer(corpus.original + corpus.generated, recipe.vocab_size)
    tokenizer.save(str(work / "tokenizer.json"))
    end = int(tokenizer.token_to_id(EOS_TOKEN) or 0)
    original = [[*encoding.ids, end] for encoding in tokenizer.encode_batch(corpus.original)]
    generated = [[*encoding.ids, end] for encoding in tokenizer.encode_batch(corpus.generated)]
    train(original * recipe.original_repeats + generated, recipe, work / "checkpoint.pt", click.echo)


@main.command()
@click.option("--work", type=FOLDER, required=True, help="Where fit left its checkpoint.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model folder."
)
def export(work: Path, out: Path) -> None:
    """Write a finished model as bf16 safetensors with its tokenizer and settings."""
    from train_story.export import export_model

    export_model(work, out)


@main.command()
@click.option("--data", type=FOLDER, required=True, help="As for fit: the held-out stories come from it.")
@click.argument("models", nargs=-1, required=True, type=FOLDER)
def evaluate(data: Path, models: tuple[Path, ...]) -> None:
    """Bits per byte of each model on the 200 held-out original stories; lower is better."""
    from train_story.bits_per_byte import bits_per_byte
    from train_story.corpus import load_corpus

    held_out = load_corpus(data).held_out
    for model in models:
        click.echo(f"{bits_per_byte(model, held_out):.4f}  {model.name}")


@main.command()
@click.option("--count", default=50, show_default=True, help="Stories to sample.")
@click.option("--show", default=0, show_default=True, help="Print so many of them.")
@click.argument("model", type=FOLDER)
def sample(count: int, show: int, model: Path) -> None:
    """Tell stories with story-teller's defaults and count those that end, and that repeat themselves."""
    from train_story.samples import PROMPT, repeats_itself, sampled_stories

    ended = repeating = 0
    for seed, story in sampled_stories(model, count):
        ended += story.finish_reason == "stop"
        repeating += repeats_itself(story.text)
        if seed < show:
            click.echo(f"### Seed {seed}\n\n{PROMPT}{story.text}\n")
    click.echo(f"{ended} of {count} ended by themselves, {repeating} repeat a sentence three times in a row")


if __name__ == "__main__":
    main()
