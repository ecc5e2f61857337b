"""Cutting a growing text into finished blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from chat_cli.markdown_blocks import render, split

PIECES = [
    "a",
    " ",
    "\n",
    "\n\n",
    "# ",
    "- ",
    "1. ",
    "> ",
    "```\n",
    "|a|b|\n",
    "|-|-|\n",
    "---\n",
    "=",
    "    ",
    "*",
    "<b>",
]


def shown(source: str) -> list[str]:
    lines = render(source, Console(width=40, height=10, force_terminal=False))
    return ["".join(segment.text for segment in line) for line in lines]


def streamed(pieces: list[str]) -> list[str]:
    """The lines that are printed for good when the text comes in ``pieces``."""
    printed: list[str] = []
    rest = ""

    def finish(block: str) -> None:
        lines = shown(block)
        printed.extend(["", *lines] if printed and lines else lines)

    for piece in pieces:
        finished, rest = split(rest + piece)
        for block in finished:
            finish(block)
    finish(rest)
    return printed


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.data())
def test_what_is_printed_does_not_depend_on_how_the_text_was_cut(
    pieces: list[str], data: st.DataObject
) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=10)))
    again = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert streamed(pieces) == streamed(again) == streamed(list(text)) == shown(text)


@given(st.text(alphabet="ab #-*>|`\n1.=", max_size=60))
def test_a_cut_text_is_the_text(text: str) -> None:
    finished, rest = split(text)
    assert "\n".join([*finished, rest]) == text


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("one\n\n", 1),
        ("one\n", 0),
        ("# one\n", 1),
        ("# one", 0),
        ("one\n#", 0),
        ("one\n# two\n", 2),
        ("- one\n\n", 0),
        ("- one\n\ntwo\n\n", 2),
        ("```\n\n\n", 0),
        ("```\na\n```\nb\n\n", 2),
        ("one\n\n[a]: http://b\n\n", 2),
    ],
)
def test_a_block_is_finished_as_soon_as_nothing_can_change_it(text: str, blocks: int) -> None:
    assert len(split(text)[0]) == blocks


def test_nothing_that_was_written_is_hidden() -> None:
    text = "\n".join(shown("List<int> <br> &lt;\n\n<div>\nblock\n</div>\n\n[name]: http://address\n"))
    for word in ("List<int>", "<br>", "<div>", "block", "</div>", "[name]: http://address"):
        assert word in text
