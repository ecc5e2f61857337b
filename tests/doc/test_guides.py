"""The guides as a reader sees them, in both languages."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from shared_files import PROJECT

GUIDES = ["README.md", "README.zh.md", "doc/Instructions.md", "doc/Instructions.zh.md"]


@pytest.mark.parametrize("guide", GUIDES)
def test_emphasis_is_rendered(guide: str) -> None:
    """After a wide colon, which Markdown takes for punctuation, the second asterisk was shown as one."""
    tokens = MarkdownIt("commonmark").enable("table").parse((PROJECT / guide).read_text(encoding="utf-8"))
    texts = [child.content for token in tokens for child in token.children or [] if child.type == "text"]
    assert texts and not [text for text in texts if "*" in text or "`" in text]
