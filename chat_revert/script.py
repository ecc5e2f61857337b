"""The script of the original's scene: the questions, and the titles of what is shown."""

from __future__ import annotations

FIRST, SECOND, THIRD = (
    "Are apples red?",
    "How many legs does a rabbit have?",
    "What is the color of the sky?",
)

PROMPT, ANSWER = "PROMPT", "ANSWER"
CORRECT_PROMPT, TRUE_PROMPT = "correct PROMPT after [revertion]", "true PROMPT after [revertion]"
"""The original's titles: what a session without the second turn holds, and what the reverted one does."""
SUBJECT = "the reverted session is the session that never had the second turn"
