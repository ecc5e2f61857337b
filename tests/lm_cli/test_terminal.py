"""What a model says must not command the terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from lm_cli.terminal import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Once upon a time", "Once upon a time"),
        ("a\n\tb", "a\n\tb"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07", "]0;title"),
        ("\x9b31mred", "31mred"),
        ("a\rb\x08c\x7f", "abc"),
        ("\x00\x0b\x0c\x0e\x1f\x80\x9f", ""),
        ("好🙂é\u0301\xa0", "好🙂é\u0301\xa0"),
        ("", ""),
    ],
)
def test_control_characters_are_left_out(text: str, expected: str) -> None:
    """C0 and C1, escape and delete; line breaks, tabs and every letter stay."""
    assert printable(text) == expected


def test_nothing_else_is_left_out() -> None:
    """Of all of Unicode, exactly category Cc goes, but for the two."""
    everything = [chr(code) for code in range(sys.maxunicode + 1)]
    kept = [letter for letter in everything if letter in "\n\t" or unicodedata.category(letter) != "Cc"]
    assert printable("".join(everything)) == "".join(kept)
