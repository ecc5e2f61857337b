"""Markdown as blocks: which are complete in a text that still grows, and what one looks like."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import get_character_cell_size
from rich.console import Console, JustifyMethod
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import Segment

from lm_cli.terminal import printable

Line = list[Segment]

NARROWEST = 8
"""Cells below which no line is made shorter."""


class _LeftHeading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _ChatMarkdown(Markdown):
    """Headings begin where everything begins, also the first."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
    }


@cache
def parser(inline: bool = True) -> MarkdownIt:
    """CommonMark with tables, in which nothing that a model wrote is hidden.

    HTML is shown as text, and so is ``[name]: address``, which CommonMark takes out of the text.
    Without ``inline`` only blocks are looked for.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    return markdown.disable(["reference"] if inline else ["reference", "inline"])


def split(text: str) -> tuple[list[str], str]:
    """The blocks at the beginning that no further text can change, and the rest.

    Only whole lines decide: a ``#`` at the end may yet become a heading or a ``#hashtag``.
    """
    *lines, last = text.split("\n")
    blocks = _blocks(lines)
    if not blocks or not _is_closed(blocks[-1], lines):
        blocks = blocks[:-1]
    sources = _sources(blocks, lines)
    cut = _end(blocks[-1]) if blocks else 0
    return sources, "\n".join([*lines[cut:], last])


def _blocks(lines: list[str]) -> list[Token]:
    """The tokens that open the outermost blocks; ``map`` has the lines of each."""
    return [token for token in parser(inline=False).parse("\n".join(lines)) if token.level == 0 and token.map]


def _sources(blocks: list[Token], lines: list[str]) -> list[str]:
    starts = [0, *map(_end, blocks)]
    return ["\n".join(lines[start : _end(block)]) for start, block in zip(starts, blocks, strict=False)]


def _end(block: Token) -> int:
    return block.map[1] if block.map else 0


def _is_closed(block: Token, lines: list[str]) -> bool:
    """Whether the last of the blocks is complete after so many whole lines."""
    if block.type in ("heading_open", "hr"):
        # Underlined headings end with their underline, the others with their only line.
        return True
    # A blank line ends a paragraph for good; lists, quotes and tables may go on after it.
    return block.type == "paragraph_open" and _end(block) < len(lines)


def render(source: str, console: Console, label: str = "") -> list[Line]:
    """``source`` as lines for ``console``: its blocks with a blank line between each two.

    ``label`` is put before the first word, or on a line of its own before what is no paragraph.
    """
    lines: list[Line] = []
    source_lines = source.split("\n")
    for block in _sources(_blocks(source_lines), source_lines):
        rendered = _render_block(block, console, "" if lines else label)
        lines += [[], *rendered] if lines and rendered else rendered
    return lines


def _render_block(source: str, console: Console, label: str) -> list[Line]:
    markdown = _ChatMarkdown("", hyperlinks=False, code_theme="ansi_dark")
    markdown.parsed = _as_in_a_chat(parser().parse(source))
    lines: list[Line] = []
    if label and not _put_first(label, markdown.parsed):
        lines.append([Segment(label.rstrip())])
    lines += _fitting(markdown, console)
    # Character references such as &#13; became characters after the text was cleaned.
    return [[segment._replace(text=printable(segment.text)) for segment in line] for line in lines]


def _fitting(markdown: Markdown, console: Console) -> list[Line]:
    """Lines that are not too wide either where joined emoji are shown as their parts."""
    width = console.width
    while True:
        options = console.options.update_width(width)
        lines = _trimmed(console.render_lines(markdown, options, pad=False))
        excess = max((_widest(line) for line in lines), default=0) - console.width
        if excess <= 0 or width == NARROWEST:
            return lines
        width = max(width - excess, NARROWEST)


def _widest(line: Line) -> int:
    """Cells that a terminal takes for the line if it joins nothing."""
    return sum(get_character_cell_size(character) for segment in line for character in segment.text)


def _as_in_a_chat(tokens: list[Token]) -> list[Token]:
    """A line break of the model's is one on the screen, unlike in documents; a picture is what it says."""
    for token in tokens:
        for child in token.children or []:
            if child.type == "softbreak":
                child.type = "hardbreak"
            elif child.type == "image":
                child.type, child.tag, child.children = "text", "", None
                child.content = f"![{child.content}]({child.attrs.get('src', '')})"
    return tokens


def _put_first(label: str, tokens: list[Token]) -> bool:
    if len(tokens) < 2 or tokens[0].type != "paragraph_open" or tokens[1].children is None:
        return False
    tokens[1].children.insert(0, Token("text", "", 0, content=label))
    return True


def _trimmed(lines: list[Line]) -> list[Line]:
    """Without the blanks that only fill the screen: above, below, and to the right."""
    lines = [_without_padding(line) for line in lines]
    first, last = 0, len(lines)
    while first < last and _is_blank(lines[first]):
        first += 1
    while last > first and _is_blank(lines[last - 1]):
        last -= 1
    return lines[first:last]


def _without_padding(line: Line) -> Line:
    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        last = kept.pop()
        if text := last.text.rstrip():
            return [*kept, last._replace(text=text)]
    return kept


def _is_blank(line: Line) -> bool:
    return not "".join(segment.text for segment in line).strip()
