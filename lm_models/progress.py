"""Telling how far a pull is: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

Advance = Callable[[int], None]
"""Called with the number of bytes that were just done."""

_BAR_WIDTH, _NUMBERS_WIDTH = 20, 38
"""Columns of a terminal."""


class Progress(Protocol):
    """Where a pull reports to."""

    def note(self, text: str) -> None:
        """One line about what happens next."""

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """A piece of work of ``total`` bytes, of which an earlier run did ``done`` already."""


class SilentProgress:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Says nothing."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:  # noqa: ARG002
        """Says nothing."""
        yield lambda size: None  # noqa: ARG005


class PlainProgress:
    """Lines for logs: at the start, then at most one in ``interval`` seconds, and at the end."""

    def __init__(
        self, stream: TextIO, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._interval = interval
        self._clock = clock

    def note(self, text: str) -> None:
        """Writes the line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Writes ``title``, how much is done now and then, and that it is done."""
        self.note(f"{title}: {f'{megabytes(done)} of ' if done else ''}{megabytes(total)}")
        count, told = done, self._clock()

        def advance(size: int) -> None:
            nonlocal count, told
            count += size
            now = self._clock()
            if now - told >= self._interval:
                told = now
                self.note(f"{title}: {megabytes(count)} of {megabytes(total)}")

        yield advance
        self.note(f"{title}: done")


class RichProgress:
    """A bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    def note(self, text: str) -> None:
        """Writes the line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Draws the bar; it stays on the screen, full, when the work is done."""
        from rich import progress as columns
        from rich.table import Column

        # On a narrow terminal the title gives way, not the numbers.
        width = max(16, self._console.width - _BAR_WIDTH - _NUMBERS_WIDTH)
        title_column = Column(max_width=width, no_wrap=True, overflow="ellipsis")
        with columns.Progress(
            columns.TextColumn("{task.description}", markup=False, table_column=title_column),
            columns.BarColumn(bar_width=_BAR_WIDTH),
            columns.DownloadColumn(),
            columns.TransferSpeedColumn(),
            columns.TimeRemainingColumn(),
            console=self._console,
        ) as display:
            task = display.add_task(title, total=total, completed=done)
            yield lambda size: display.update(task, advance=size)
            display.update(task, completed=total)


def terminal_progress(stream: TextIO | None = None) -> Progress:
    """A bar where ``stream`` (stderr) is a terminal, lines otherwise."""
    stream = sys.stderr if stream is None else stream
    return RichProgress(stream) if stream.isatty() else PlainProgress(stream)


def megabytes(size: int) -> str:
    """Bytes for people, in powers of ten."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
