"""Makes doc/pictures/*.svg from real runs of the programs, on terminals of the tests' making.

    make pictures ARGS='-m models/chat'

What a program wrote is what is drawn.  The line with the command is ours, the chat model's folder is
called models/chat wherever it lies, and the database has its name alone.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click
from chat_server_process import ServerProcess
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text
from terminal import Terminal

from lm_cli.program import run

PICTURES = Path(__file__).resolve().parents[1] / "doc" / "pictures"
COLUMNS, ROWS = 100, 50
COLOURS = {"brown": "yellow", "default": None}
"""Names of pyte that rich has not."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-m", "--model-dir", "model", default="models/chat", show_default=True, help="The chat model.")
def pictures(model: str) -> None:
    """Run the programs and draw what they show."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    _draw("story-teller", *_run("story_teller", "story-teller", ["-m", "models/story", "--seed", "6"]))
    command, lines = _run("chat_revert", "chat-revert", ["-m", model])
    _draw("chat-revert", command.replace(model, "models/chat"), lines)
    with tempfile.TemporaryDirectory() as folder:
        options = ["-n", "64", "--seed", "4"]
        server = ServerProcess(Path(model), Path(folder) / "sessions.db", *options)
        try:
            clients = _talk(server.url, folder)
        finally:
            server.stop()
        for number, lines in enumerate(clients):
            _draw(f"client{number}", f"chat-cli --id user{number}", lines)
        log = [line.replace(model, "models/chat").replace(f"{folder}{os.sep}", "") for line in server.log]
        lines = [_dimmed_time(line) for line in log]
        _draw("server", " ".join(["chat-server", *options]), lines, max(map(len, lines)))


def _run(package: str, program: str, arguments: Sequence[str]) -> tuple[str, list[Text]]:
    """A program on a terminal, to its end: the command as one types it, and what is to be seen."""
    with Terminal(["-m", package, *arguments], COLUMNS, ROWS) as terminal:
        code = terminal.end(seconds=600)
        if code:
            raise click.ClickException(f"{program} ended with code {code}:\n" + "\n".join(terminal.lines))
        return " ".join([program, *arguments]), _lines(terminal)


def _talk(url: str, folder: str) -> list[list[Text]]:
    """The original's walk-through with two clients."""

    def start(session_id: str) -> Terminal:
        arguments = ["-m", "chat_cli", "--id", session_id, "-u", url]
        return Terminal(arguments, COLUMNS, ROWS, {"XDG_STATE_HOME": folder})

    with start("user0") as client0, start("user1") as client1:
        for client in (client0, client1):
            client.expect_prompt(0)
        client0.say("Are apples red?", turns=1)
        client0.say("How many legs does a rabbit have?", turns=2)
        client1.say("Name three fruits as a list.", turns=1)
        client0.say(":history", turns=2)
        client0.say(":revert_to 1", turns=1)
        client0.say("What is the color of the sky?", turns=2)
        client1.say(":stats on", turns=1)
        client1.say("Which of them is the sweetest?", turns=2)
        for client in (client0, client1):
            client.end(":exit")
        return [_lines(client0), _lines(client1)]


def _lines(terminal: Terminal) -> list[Text]:
    lines = [
        Text.assemble(
            *(("".join(cell.data for cell in cells), style) for style, cells in groupby(line, key=_style))
        )
        for line in terminal.screen.cells
    ]
    for line in lines:
        line.rstrip()
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def _style(cell: Char) -> Style:
    colour = COLOURS.get(cell.fg, cell.fg)
    if colour and re.fullmatch("[0-9a-f]{6}", colour):
        colour = f"#{colour}"
    return Style(color=colour, bold=cell.bold, italic=cell.italics, underline=cell.underscore)


def _dimmed_time(line: str) -> Text:
    text = Text(line)
    text.highlight_regex(r"^\[[^\]]*\]", "dim")
    return text


def _draw(name: str, command: str, lines: list[Text], columns: int = COLUMNS) -> None:
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    for line in lines:
        console.print(line)
    svg = console.export_svg(title=name, unique_id=name)
    # Fonts are the reader's own: a picture that fetches something from elsewhere is none.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")
    click.echo(f"{PICTURES.name}/{name}.svg")


if __name__ == "__main__":
    sys.exit(run(pictures, "pictures"))
