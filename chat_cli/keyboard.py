"""The keyboard while nobody reads it: what is typed then is kept for the next prompt, and not shown."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

try:
    import termios
except ImportError:  # Windows has consoles of another kind.
    termios = None  # type: ignore[assignment]

LOCAL_FLAGS = 3
"""Where ``tcgetattr`` has the flags that say whether keys are shown."""


@contextmanager
def unseen_keys(terminal: int) -> Iterator[None]:
    """Keys do not appear on the terminal of file descriptor ``terminal`` unless a prompt shows them.

    Shown at once, they would stand in the middle of an answer, and Enter would move the cursor of who
    draws it.  Ctrl-C interrupts as ever.  However the block is left, also by a polite kill, the
    terminal is what it was.
    """
    if termios is None:
        yield
        return
    before = termios.tcgetattr(terminal)
    unseen = before.copy()
    # Without ICANON half a line is already there for the next prompt, too.
    unseen[LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)
    kills = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, unseen)
        yield
    finally:
        _restore(terminal, before)
        for number, handler in kills.items():
            signal.signal(number, handler)


def _restore(terminal: int, attributes: list[Any]) -> None:
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
    except termios.error:
        # The terminal itself has gone.
        pass


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
