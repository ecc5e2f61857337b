"""A terminal for tests: a real pty with a program on it, and an emulated screen that shows what it wrote."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import pyte
from shared_files import PROJECT

SECONDS = 30
SCROLLBACK = 10_000
# The emulator ignores what follows a joiner; a terminal that does not join shows the parts.
JOINERS = {0x200D: None, 0xFE0F: None}

ANSWER = re.compile(r"Assistant: (?![-\\|/] )\S")

PASTE_ON = "\x1b[?2004h"
"""Every prompt switches the terminal's bracketed paste on."""

ENTER, CTRL_C, CTRL_D, UP, CTRL_U = "\r", "\x03", "\x04", "\x1b[A", "\x15"


class Screen:
    """An emulated terminal: what was written becomes what a person sees."""

    def __init__(self, columns: int, rows: int) -> None:
        self.text = ""
        """Everything that was written, control sequences included."""
        self._screen = pyte.HistoryScreen(columns, rows, history=SCROLLBACK, ratio=0.01)
        self._stream = pyte.Stream(self._screen)

    def feed(self, text: str) -> None:
        """Write ``text``."""
        self.text += text
        self._stream.feed(text.translate(JOINERS))

    def reply_to(self, reply: Callable[[str], None]) -> None:
        """Where answers to questions go, such as where the cursor is."""
        self._screen.write_process_input = reply

    @property
    def lines(self) -> list[str]:
        """What a person sees, scrolled back to the beginning; without empty lines at the end."""
        lines = ["".join(cell.data for cell in line).rstrip() for line in self.cells]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def cells(self) -> list[list[pyte.screens.Char]]:
        """The same with colours and weights, and with empty lines at the end.

        The second cell of a wide character is empty.
        """
        columns, rows = range(self._screen.columns), range(self._screen.lines)
        lines = [*self._screen.history.top, *(self._screen.buffer[row] for row in rows)]
        return [[line[column] for column in columns] for line in lines]


class Terminal:
    """``python arguments`` on a terminal of a given size."""

    def __init__(
        self,
        arguments: Sequence[str],
        columns: int = 80,
        rows: int = 24,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=PROJECT,
            env={**kept, "PYTHONUTF8": "1", "TERM": "xterm-256color", **(environment or {})},
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(terminal)
        self.screen = Screen(columns, rows)
        self.screen.reply_to(lambda data: self._send(data.encode()))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    @property
    def attributes(self) -> list[Any]:
        """How the terminal treats keys, as ``termios.tcgetattr`` has it."""
        return termios.tcgetattr(self._controller)

    @property
    def text(self) -> str:
        """Everything the program has written, control sequences included."""
        return self.screen.text

    @property
    def lines(self) -> list[str]:
        """What a person sees, see :attr:`Screen.lines`."""
        return self.screen.lines

    @property
    def last_line(self) -> str:
        """Where the cursor most likely is."""
        return self.lines[-1] if self.lines else ""

    def type(self, text: str) -> None:
        """Press the keys of ``text``."""
        self.type_bytes(text.encode())

    def type_bytes(self, data: bytes) -> None:
        """Send what no keyboard of a UTF-8 terminal would."""
        while data:
            _, writable, _ = select.select([], [self._controller], [], 0.05)
            if writable:
                data = data[os.write(self._controller, data[:1024]) :]
            self._read(0)

    def enter(self, line: str) -> None:
        """Type a line and press Enter."""
        self.type(line + ENTER)

    def paste(self, text: str) -> None:
        """As a terminal pastes: in brackets, so that nothing in the text acts as a key."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
        """Read until ``condition`` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or not self._read(0.2) and self.process.poll() is not None:
                while self._read(0):
                    pass
                if condition():
                    return
                shown = "\n".join(self.lines)
                raise AssertionError(f"waited in vain for {what}; the terminal shows:\n{shown}")

    def expect(self, text: str) -> None:
        """Read until ``text`` is on the screen."""
        self.wait(lambda: any(text in line for line in self.lines), repr(text))

    def expect_prompt(self, turns: int) -> None:
        """Read until the program asks for the next question, and has asked for it with this number."""
        self.wait(lambda: self.last_line == f"You({turns})>", f"the prompt You({turns})>")

    def say(self, line: str, turns: int) -> None:
        """Enter a line, and wait for the prompt ``You(turns)> `` that follows what comes of it."""
        prompts = self.text.count(PASTE_ON)
        self.enter(line)
        self.wait(lambda: self.text.count(PASTE_ON) > prompts, f"the prompt after {line!r}")
        self.expect_prompt(turns)

    def expect_answer(self) -> None:
        """Read until some of an answer is there, and not only the spinner that goes before it."""
        self.wait(lambda: ANSWER.match(self.last_line) is not None, "the beginning of an answer")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type(CTRL_C)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        if self._controller >= 0:
            os.close(self._controller)
        self._controller = -1

    def end(self, line: str | None = None, seconds: float = SECONDS) -> int:
        """Enter a line, if any, and wait for the program to leave: its exit code."""
        if line is not None:
            self.enter(line)
        deadline = time.monotonic() + seconds
        while self._read(0.2) or self.process.poll() is None:
            if time.monotonic() > deadline:
                shown = "\n".join(self.lines)
                raise AssertionError(f"the program does not end; the terminal shows:\n{shown}")
        return self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal."""
        self.process.send_signal(number)

    def _read(self, seconds: float) -> bool:
        readable, _, _ = select.select([self._controller], [], [], seconds)
        if not readable:
            return False
        try:
            data = os.read(self._controller, 65536)
        except OSError:
            # Linux says so when the last program on the terminal has gone.
            return False
        if not data:
            return False
        self.screen.feed(self._decoder.decode(data))
        return True

    def _send(self, data: bytes) -> None:
        os.write(self._controller, data)


def take_terminal() -> None:
    """In a new process: let its stdin be the terminal whose keys are its signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Who runs the tests in the background ignores Ctrl-C, and so would everything started from there.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
