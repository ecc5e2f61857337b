"""The conversation on a terminal: Markdown that is rendered while it is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import ControlType, Segment
from rich.text import Text

from chat_cli.display import LABEL, AnswerView, TranscriptDisplay, Trimmed
from chat_cli.markdown_blocks import Line, render, split
from lm_cli.terminal import printable

SHORTEST_FRAME = 0.05
"""Seconds from one drawing of what is open to the next."""
PAUSE = 4
"""How many times as long as a drawing took the next one waits at least.

A long table takes longer to draw than a token to come; the server may need the processor, too.
"""


class TerminalDisplay(TranscriptDisplay):
    """Finished blocks are printed once and scroll away; only the one being written is redrawn."""

    def __init__(self, console: Console, label: str = LABEL) -> None:
        """``label`` stands before every answer."""
        self._console = console
        self._label = label

    def question(self, prompt: str, text: str) -> None:
        """For questions that come from a file or a pipe."""
        self._print_as_typed(Text(prompt + printable(text)))

    @contextmanager
    def answer(self) -> Iterator[AnswerView]:
        """A spinner until there is text, then the text."""
        view = _TerminalAnswer(self._console, self._label)
        try:
            yield view
        except BaseException:
            view.close(failed=True)
            raise
        view.close()

    def said(self, question: str, answer: str) -> None:
        """The question as it was typed, and the answer rendered."""
        self._print_as_typed(Text.assemble(("You: ", "bold"), printable(question)))
        view = _TerminalAnswer(self._console, self._label, waiting=False)
        view.push(answer)
        view.close()

    def system(self, text: str) -> None:
        """``System: `` and the text."""
        self._console.print(Text.assemble(("System: ", "bold cyan"), printable(text)))

    def error(self, text: str) -> None:
        """Like :meth:`system`, but more visible."""
        self._console.print(Text.assemble(("System: ", "bold red"), printable(text)))

    def _print_as_typed(self, text: Text) -> None:
        # The terminal breaks the line, as it did when the text was typed.
        self._console.print(text, soft_wrap=True)


class _TerminalAnswer:
    """An answer on its way to the screen.

    What is still open may be taller than the screen; then its end is shown, and all of it is
    printed once it is complete.  So the lines that scroll away are always final ones.
    """

    def __init__(self, console: Console, label: str, waiting: bool = True) -> None:
        self._console = console
        self._trimmed = Trimmed()
        self._open = ""
        self._label = label
        self._first = True
        self._tail = _Tail(console)
        self._next_frame = 0.0
        self._spinner = _spinner(console, label) if waiting else None
        if self._spinner is not None:
            self._spinner.start()

    def push(self, text: str) -> None:
        """Add to the answer, and redraw what is open unless that was just done."""
        text = self._trimmed.push(text)
        if not text:
            return
        self._stop_spinner()
        self._open += text
        finished, self._open = split(self._open) if "\n" in text else ([], self._open)
        began = time.monotonic()
        if finished or began >= self._next_frame:
            final = [line for block in finished for line in self._finished(block)]
            self._tail.redraw(final, self._rendered(self._open))
            ended = time.monotonic()
            self._next_frame = max(began + SHORTEST_FRAME, ended + PAUSE * (ended - began))

    def close(self, failed: bool = False) -> None:
        """Leave everything that came on the screen, for good."""
        self._stop_spinner()
        lines = self._rendered(self._open)
        if not lines and self._first and not failed:
            lines = [[Segment(self._label.rstrip())]]
        self._tail.redraw(lines, [])
        self._open = ""

    def _finished(self, block: str) -> list[Line]:
        lines = self._rendered(block)
        self._first = False
        return lines

    def _rendered(self, source: str) -> list[Line]:
        """One block or more, with a blank line before what is not the first."""
        lines = render(source, self._console, self._label if self._first else "")
        return lines if self._first or not lines else [[], *lines]

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def _spinner(console: Console, label: str) -> Progress:
    """The elapsed time, drawn by a thread of its own, that leaves nothing behind."""
    spinner = Progress(
        TextColumn(label.rstrip()),
        # ASCII, which every terminal has.
        SpinnerColumn("line"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    spinner.add_task("")
    return spinner


class _Tail:
    """The lines at the end of the screen that are not final, and are drawn again and again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: list[Line] = []

    def redraw(self, final: list[Line], lines: list[Line]) -> None:
        """Put ``final`` in place of the tail, for good, and below it ``lines`` as the new tail.

        Of ``lines`` only the last are drawn, as many as the screen holds: no cursor comes back to a
        line that has scrolled away.
        """
        shown = lines[-max(self._console.height - 1, 1) :]
        # One write, so that no frame shows half of it.
        with self._console:
            if self._drawn:
                self._console.control(_erasing(self._height()))
            self._console.print(_Lines(final, shown), end="")
        self._drawn = shown

    def _height(self) -> int:
        """The rows that the tail takes now.

        A terminal that was made narrower since has broken the lines that no longer fit.
        """
        columns = max(self._console.width, 1)
        widths = (Segment.get_line_length(line) for line in self._drawn)
        return sum(max(-(-width // columns), 1) for width in widths)


def _erasing(height: int) -> Control:
    """From the end of the last of so many rows to the beginning of the first, with nothing left."""
    up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
    return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *(up * (height - 1)))


class _Lines:
    """Lines that are rendered already; after the last of ``tail`` the cursor stays."""

    def __init__(self, final: list[Line], tail: list[Line]) -> None:
        self._final, self._tail = final, tail

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:  # noqa: ARG002
        for line in self._final:
            yield from line
            yield Segment.line()
        for number, line in enumerate(self._tail):
            if number:
                yield Segment.line()
            yield from line
