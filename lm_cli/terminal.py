"""Text from a model, made fit for a terminal."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 and C1 controls but newline and tab: a model must not move the cursor or set a title."""


def printable(text: str) -> str:
    """``text`` without control characters; line breaks and tabs stay."""
    return _CONTROL.sub("", text)
