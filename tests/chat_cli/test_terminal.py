"""What a person sees: whole characters, rendered Markdown, no colours where none are wanted."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from chat_clients import SHORT, ChatServer, Open
from rich.console import Console
from terminal import CTRL_D, ENTER, UP, Screen

from chat_cli import terminal_display
from chat_cli.markdown_blocks import render
from chat_cli.terminal_display import TerminalDisplay

CHINESE = "你好，世界！苹果是红色的吗？"
FAMILY = "👩‍👩‍👧 and 🏳️‍🌈"
HEBREW = "שלום עולם"
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")


@pytest.mark.parametrize("columns", [80, 20])
def test_unicode_goes_in_and_comes_out_whole(
    server: ChatServer, session_id: str, open_terminal: Open, columns: int
) -> None:
    texts = [CHINESE, FAMILY, HEBREW]
    terminal = open_terminal(server, session_id, *SHORT, columns=columns)
    for number, text in enumerate(texts):
        terminal.say(text, turns=number + 1)
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == texts
    before = len(terminal.text)
    terminal.say(":history", turns=3)
    # Lines are left to the terminal to break, so that what was written is whole.
    for text in texts:
        assert f"You: {text}" in re.sub(r"\x1b\[[0-9;]*m", "", terminal.text[before:])


def test_a_long_paste_is_taken_and_the_server_says_why_not(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.paste("apple " * 16_666 + "pear")
    terminal.say("", turns=0)
    assert any("context" in line for line in terminal.lines if line.startswith("System: "))
    terminal.say("And now?", turns=1)


def test_several_lines_by_quotes_by_paste_and_by_alt_enter(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.say('"""one' + ENTER + 'two"""', turns=1)
    terminal.paste("three\nfour")
    terminal.say("", turns=2)
    terminal.say("five\x1b\rsix", turns=3)
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == [
            "one\ntwo",
            "three\nfour",
            "five\nsix",
        ]


def test_commands_are_completed(server: ChatServer, session_id: str, open_terminal: Open) -> None:
    terminal = open_terminal(server, session_id)
    terminal.type(":his\t")
    terminal.wait(lambda: terminal.last_line == "You(0)> :history", "the completed command")
    terminal.interrupt()
    terminal.type(":set rep\t")
    terminal.wait(lambda: terminal.last_line.endswith(":set repetition_penalty"), "the completed name")
    terminal.interrupt()
    terminal.type(f":switch {session_id}\t")
    terminal.say("", turns=0)
    terminal.expect(f"System: Session {session_id}, 0 questions")


def test_what_was_typed_is_there_in_the_next_run_and_for_nobody_else(
    server: ChatServer, session_id: str, open_terminal: Open, tmp_path: Path
) -> None:
    first = open_terminal(server, session_id)
    first.say(":stats on", turns=0)
    first.type(CTRL_D)
    assert first.end() == 0
    second = open_terminal(server, session_id)
    second.type(UP)
    second.wait(lambda: second.last_line == "You(0)> :stats on", "the last run's line")
    (history,) = tmp_path.rglob("chat-cli-history")
    assert history.stat().st_mode & 0o077 == 0


def test_a_history_that_cannot_be_kept_is_told_and_stops_nothing(
    server: ChatServer, session_id: str, open_terminal: Open, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    terminal = open_terminal(server, session_id, environment={"XDG_STATE_HOME": str(tmp_path / "file")})
    assert terminal.lines[0].startswith("System: What you type is not remembered")
    terminal.say(":stats", turns=0)


def test_colours_unless_no_color(server: ChatServer, session_id: str, open_terminal: Open) -> None:
    with_colours = open_terminal(server, session_id)
    with_colours.say(":stats", turns=0)
    assert COLOUR.search(with_colours.text)
    without = open_terminal(server, session_id, *SHORT, environment={"NO_COLOR": "1"})
    for number, line in enumerate(("Hi", ":history", ":revert_to x", ":fork /")):
        without.say(line, turns=1)
        assert not COLOUR.search(without.text), number


def test_a_dumb_terminal_gets_text_alone(server: ChatServer, session_id: str, open_terminal: Open) -> None:
    terminal = open_terminal(server, session_id, *SHORT, environment={"TERM": "dumb"})
    terminal.enter("One")
    terminal.expect_prompt(1)
    with server.client() as client:
        (turn,) = client.history(session_id).turns
    assert f"Assistant: {turn.assistant.strip()}" in "\n".join(terminal.lines)


# What follows shows an answer that is written for the purpose: no model is needed to draw it.

MARKDOWN = f"""Apples are **often** red, `but` not always, and <b>this</b> stays.
A line break is one. {CHINESE}{CHINESE} {HEBREW}

# Colours

1. red
2. green
   - pale
   - dark

```python
def apple(colour):
    return [colour, "a string that is longer than twenty columns"]
```

| fruit | legs |
|-------|------|
| apple | none |

> A quotation.
{FAMILY} last {FAMILY}
"""

WORDS = (
    "Apples are often red, but not always, and <b>this</b> stays. A line break is one. שלום עולם Colours red "
    "green pale dark def apple(colour): return fruit legs apple none A quotation. and last"
).split()


def show(text: str, piece: int, columns: int, rows: int) -> Screen:
    """An answer that arrives in pieces of so many characters, and a line of the program's own."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=columns, height=rows, color_system="256")
    display = TerminalDisplay(console)
    with display.answer() as view:
        for start in range(0, len(text), piece):
            view.push(text[start : start + piece])
    display.system("end")
    screen = Screen(columns, rows)
    # What a terminal makes of the end of a line.
    screen.feed(written.getvalue().replace("\n", "\r\n"))
    return screen


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (80, 5), (20, 6), (33, 12)])
def test_markdown_is_shown_once_and_wholly_however_it_arrives(columns: int, rows: int) -> None:
    """Piece by piece, on screens that are smaller than the answer, it ends as if it had come at once."""
    at_once = show(MARKDOWN, len(MARKDOWN), columns, 200).lines
    shown = "\n".join(at_once)
    words = shown.replace("▌", " ").split()
    position = 0
    for word in WORDS if columns > 20 else ():
        position = words.index(word, position) + 1
    assert "**" not in shown and "`" not in shown and at_once[0].startswith("Assistant: Apples")
    assert at_once[-1] == "System: end"
    for piece in (1, 7):
        assert show(MARKDOWN, piece, columns, rows).lines == at_once


def test_a_picture_is_text_where_it_stands() -> None:
    """It came first, and the line that it was in lost its end."""
    text = "word " * 12 + "![a red apple](apple.png) and " + "more " * 12
    assert " ".join(show(text, 3, 60, 24).lines) == "Assistant: " + text.strip() + " System: end"


def test_a_heading_begins_where_everything_begins() -> None:
    assert show("Hi\n\n# One\n\n## Two\n", 1, 60, 24).lines == [
        "Assistant: Hi",
        *("", "One"),
        *("", "Two"),
        "System: end",
    ]


def test_a_terminal_that_is_made_narrower_shows_every_line_once() -> None:
    """The rows that a terminal breaks the open lines into were left there, and drawn once more below."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, height=24, color_system=None)
    display = TerminalDisplay(console)
    words = [f"word{number}" for number in range(40)]
    with display.answer() as view:
        view.push(" ".join(words[:30]))
        wide = Screen(80, 24)
        wide.feed(written.getvalue().replace("\n", "\r\n"))
        # What a terminal does: it breaks its lines again, and tells the program.
        narrow = Screen(30, 24)
        narrow.feed("\r\n".join(wide.lines))
        console.width = 30
        written.truncate(0)
        view.push(" " + " ".join(words[30:]))
    narrow.feed(written.getvalue().replace("\n", "\r\n"))
    assert " ".join(narrow.lines).split() == ["Assistant:", *words]
    assert max(map(len, narrow.lines)) <= 30


def test_drawing_a_long_block_leaves_time_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token drew all of a long table again, which took far longer than the token."""
    drawn: list[str] = []

    def slow(source: str, *arguments: Any) -> Any:
        drawn.append(source)
        clock[0] += 0.2
        return render(source, *arguments)

    clock = [0.0]
    monkeypatch.setattr(terminal_display, "render", slow)
    monkeypatch.setattr(terminal_display.time, "monotonic", lambda: clock[0])
    display = TerminalDisplay(Console(file=io.StringIO(), force_terminal=True, width=80, height=24))
    with display.answer() as view:
        for number in range(100):
            clock[0] += 0.1
            view.push(f"| {number} | x |\n" if number > 1 else ("| a | b |\n", "|---|---|\n")[number])
    # Ten seconds of tokens: a fifth of all the time goes into drawing.
    assert 10 <= len(drawn) <= 16 and "| 99 | x |" in drawn[-1]


def test_what_a_model_writes_cannot_control_the_terminal() -> None:
    attack = (
        "a\x1b[2J\x1b]0;title\x07b\x9b31mc\x08\x08 &#27;[31m &#8;&#13;d\x00\x7f\n\n```\n\x1b[8mhidden\n```"
    )
    terminal = show(attack, 2, 80, 24)
    harmless = re.sub(r"\x1b\[(?:[0-9;]*m|[0-9]*[AK]|\?25[hl])", "", terminal.text).replace("\r", "")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", harmless)
    assert any("hidden" in line for line in terminal.lines)


def test_an_answer_without_text_is_still_an_answer() -> None:
    assert show("", 1, 80, 24).lines == ["Assistant:", "System: end"]
    assert show("  \n ", 1, 80, 24).lines == ["Assistant:", "System: end"]
