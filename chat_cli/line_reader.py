"""Where lines are read from: a pipe or a file here, a terminal in ``prompt_reader``."""

from __future__ import annotations

from typing import BinaryIO, Protocol

import click

FENCE = '"""'


class LineReader(Protocol):
    """Reads what the user says."""

    echoes: bool
    """Whether what is read is on the screen already."""

    def read(self, prompt: str) -> str:
        """The next question or command.

        Raises:
            EOFError: there is none.
        """

    def edit(self, prompt: str, text: str) -> str | None:
        """``text`` as the user changes it; None where that cannot be done."""


def is_open(text: str) -> bool:
    '''Whether ``text`` begins with ``"""`` and the closing one has not come yet.'''
    stripped = text.strip()
    return stripped.startswith(FENCE) and (len(stripped) < 2 * len(FENCE) or not stripped.endswith(FENCE))


def unfenced(text: str) -> str:
    '''``text`` without the ``"""`` around it; without them a single line loses its outer blanks.'''
    stripped = text.strip()
    if stripped.startswith(FENCE) and not is_open(stripped):
        return stripped[len(FENCE) : -len(FENCE)].strip("\n")
    return stripped


class PipedReader:
    """Line by line from a binary stream, so that a byte that is no UTF-8 can be named."""

    echoes = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = 0

    def read(self, prompt: str) -> str:  # noqa: ARG002 - shown by whoever echoes the line
        """The next line, or several between triple quotes."""
        text = self._line()
        while is_open(text):
            try:
                text += "\n" + self._line()
            except EOFError:
                raise click.UsageError(f"stdin ends before the closing {FENCE}") from None
        return unfenced(text)

    def edit(self, prompt: str, text: str) -> str | None:  # noqa: ARG002
        """Nothing can be prefilled here."""
        return None

    def _line(self) -> str:
        line = self._stream.readline()
        if not line:
            raise EOFError
        self._number += 1
        try:
            # Editors of some systems put a byte order mark before the first line.
            return line.decode("utf-8-sig" if self._number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise click.UsageError(f"line {self._number} of stdin is not UTF-8 text: {error}") from error
