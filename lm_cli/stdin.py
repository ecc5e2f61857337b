"""A text that comes whole from stdin, where a program's argument is "-"."""

from __future__ import annotations

import sys

import click


def read_text(what: str) -> str:
    """All of stdin without the byte order mark and the line break around it.

    ``what`` it is goes into the message.

    Raises:
        click.UsageError: it is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the {what} on stdin is not UTF-8 text: {error}") from error
