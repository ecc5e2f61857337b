"""The texts that prompt-lookup speculation is measured on."""

from __future__ import annotations

ORDINARY = (
    "Once upon a time there was a small house at the edge of a dark wood. An old woman lived in it "
    "with her cat and a garden full of herbs. One morning a boy came down the path with a letter in "
    "his hand. He had walked all night, his shoes were wet, and he was too shy to knock."
)
"""Nothing in it is said twice."""

REPEATING = 6 * "The red bird sat on the old fence and sang the song that it had learned from its mother. "
"""Models of any size go on with it word by word."""
