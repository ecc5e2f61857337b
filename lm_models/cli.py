"""The commands of ``lm-models``; each is one call."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lm_cli.options import EXIT_CODES, debug_option, version_option

HELP = f"""Fetch, convert, describe and check model folders.

\b
Examples:
  lm-models list
  lm-models pull chat
  lm-models pull HuggingFaceTB/SmolLM2-360M-Instruct
  lm-models convert model.gguf models/mine
  lm-models inspect models/chat
  lm-models verify models/chat

Every option can also be set as an environment variable, as in LM_MODELS_INSPECT_JSON=1.

{EXIT_CODES}
"""


@click.group(
    "lm-models",
    help=HELP,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@debug_option()
@version_option()
@click.pass_context
def lm_models(context: click.Context, debug: bool) -> None:  # noqa: ARG001 - read by lm_cli.program.run
    if context.invoked_subcommand is None:
        raise click.UsageError("name a command: list, pull, convert, inspect or verify")


@lm_models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def list_models(as_json: bool) -> None:
    """Show the models that are known by name, and any others that were pulled.

    \b
    Examples:
      lm-models list
      lm-models list --json
    """
    from lm_models.locate import known_models

    models = known_models()
    if as_json:
        click.echo(json.dumps({"models": [asdict(model) for model in models]}, ensure_ascii=False))
        return
    width = max(len(model.name) for model in models)
    for model in models:
        place = model.folder or f"not here; fetch it with: lm-models pull {model.name}"
        click.echo(f"{model.name:{width}}  {model.description} ({model.licence})")
        click.echo(f"{'':{width}}  {place}")


@lm_models.command()
@click.argument("name", metavar="NAME-or-hub-id")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Folder to make.  [default: NAME in the models folder]",
)
def pull(name: str, target: Path | None) -> None:
    """Fetch a model into a folder.

    What was interrupted goes on where it stopped when it is run again.  NAME is a name that "list" shows,
    a path that ends in one, or OWNER/NAME of the Hugging Face hub.

    \b
    Examples:
      lm-models pull chat
      lm-models pull models/chat
      lm-models pull HuggingFaceTB/SmolLM2-360M-Instruct --to models/larger
    """
    from lm_models.locate import find_model
    from lm_models.progress import terminal_progress
    from lm_models.pull import pull as pull_model

    manifest, folder = find_model(name)
    try:
        click.echo(str(pull_model(manifest, target or folder, terminal_progress())))
    except KeyboardInterrupt:
        click.echo("stopped; run the command again to go on", err=True)
        raise


@lm_models.command()
@click.argument("file", metavar="FILE.gguf", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def convert(file: Path, folder: Path) -> None:
    """Make a model folder, in float32, of a GGUF file.

    \b
    Example:
      lm-models convert SmolLM2-135M-Instruct.Q4_1.gguf models/mine
    """
    from lm_models.progress import terminal_progress
    from lm_models.pull import convert as convert_model

    click.echo(str(convert_model(file, folder, terminal_progress())))


@lm_models.command()
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def inspect(folder: str, as_json: bool) -> None:
    """Describe the model in a folder.

    \b
    Examples:
      lm-models inspect models/chat
      lm-models inspect models/chat --json
    """
    from lm_models.inspection import inspect_model
    from lm_models.locate import model_folder

    description = inspect_model(model_folder(folder, pull=False))
    if as_json:
        click.echo(json.dumps(description, ensure_ascii=False))
        return
    width = max(len(key) for key in description)
    for key, value in description.items():
        click.echo(f"{key.replace('_', ' '):{width}}  {_readable(key, value)}")


@lm_models.command()
@click.argument("folder", metavar="DIR")
def verify(folder: str) -> None:
    """Check the contents of a folder.

    Every byte is compared with SHA256SUMS, where that is there, and the parts with each other.

    \b
    Example:
      lm-models verify models/chat
    """
    from lm_models.locate import model_folder
    from lm_models.progress import terminal_progress
    from lm_models.verification import verify as verify_model

    path = model_folder(folder, pull=False)
    for line in verify_model(path, terminal_progress()):
        click.echo(line)
    click.echo(f"{path} is in order")


def _readable(key: str, value: Any) -> str:
    from lm_models.progress import megabytes

    if key == "source":
        return _source(value)
    if key == "rope":
        return f"{value['type']}, theta {value['theta']}"
    if key == "bytes":
        return f"{megabytes(value)} ({value:,} bytes)"
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _source(origin: dict[str, str] | None) -> str:
    match origin:
        case {"kind": "hub", "repository": repository, "commit": commit}:
            return f"the hub, {repository} at commit {commit}"
        case {"kind": "wheel", "distribution": distribution, "version": version, "gguf": gguf}:
            return f"the Python package index, {gguf} of {distribution} {version}"
        case {"kind": "gguf", "gguf": gguf, "sha256": digest}:
            return f"{gguf}, sha256 {digest}"
    return "not stated"
