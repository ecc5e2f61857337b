"""Where a conversation is shown: as plain text, as JSON, or (``terminal_display``) on a terminal."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TextIO

from chat_cli.records import History, Turn
from lm_cli.terminal import printable

LABEL = "Assistant: "


class AnswerView(Protocol):
    """An answer that is being made."""

    def push(self, text: str) -> None:
        """Show more of it."""


class Display(Protocol):
    """Everything the program shows."""

    def question(self, prompt: str, text: str) -> None:
        """A line that was read from somewhere that does not show it."""

    def answer(self) -> AbstractContextManager[AnswerView]:
        """The next answer.  What came of it stays, also after an error."""

    def answered(self, turn: Turn, stats: bool) -> None:
        """The answer is stored."""

    def history(self, history: History) -> None:
        """All questions and answers."""

    def said(self, question: str, answer: str) -> None:
        """A question and an answer of the past."""

    def system(self, text: str) -> None:
        """A line of the program's own."""

    def error(self, text: str) -> None:
        """A line about what went wrong."""


class Trimmed:
    """Text on its way to be shown: without control characters, and without blanks around it."""

    def __init__(self) -> None:
        self._begun = False
        self._blanks = ""

    def push(self, text: str) -> str:
        """What can be shown now."""
        text = self._blanks + printable(text)
        if not self._begun:
            text = text.lstrip()
        shown = text.rstrip()
        # Blanks at the end are shown only if something follows them.
        self._blanks = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown


def stats_line(turn: Turn) -> str:
    """How long an answer took, and whether it was cut."""
    usage, timings = turn.usage, turn.timings
    tokens = f"{usage.completion_tokens} token{'' if usage.completion_tokens == 1 else 's'}"
    cut = "; cut off by max_tokens or the end of the context" if turn.finish_reason == "length" else ""
    return (
        f"{tokens} at {timings.predicted_per_second:.1f} tokens/s, "
        f"after a prompt of {usage.prompt_tokens} tokens ({usage.cached_tokens} cached) "
        f"in {timings.prompt_ms / 1e3:.2f} s{cut}"
    )


class TranscriptDisplay(ABC):
    """A display that people read: what is the same for all of them."""

    @abstractmethod
    def said(self, question: str, answer: str) -> None:
        """A question and an answer of the past."""

    @abstractmethod
    def system(self, text: str) -> None:
        """A line of the program's own."""

    def answered(self, turn: Turn, stats: bool) -> None:
        """The figures, if wanted."""
        if stats:
            self.system(stats_line(turn))

    def history(self, history: History) -> None:
        """As the original prints it."""
        self.system("Chat history:")
        if history.session.system is not None:
            self.system(history.session.system)
        for turn in history.turns:
            self.said(turn.user, turn.assistant)
        self.system("Chat history ends.")


class PlainDisplay(TranscriptDisplay):
    """The transcript as text, for pipes and files: no colour, nothing redrawn."""

    def __init__(self, out: TextIO, err: TextIO, label: str = LABEL) -> None:
        """``label`` stands before every answer that is being made."""
        self._out, self._err, self._label = out, err, label

    def question(self, prompt: str, text: str) -> None:
        """As a terminal would show it."""
        self._line(prompt + printable(text))

    @contextmanager
    def answer(self) -> Iterator[AnswerView]:
        """Text as it comes."""
        view = _PlainAnswer(self._write, self._label)
        try:
            yield view
            view.begin()
        finally:
            view.end()

    def said(self, question: str, answer: str) -> None:
        """Two lines, or more where the texts have them."""
        self._line(f"You: {printable(question)}")
        self._line(f"{LABEL}{printable(answer).strip()}")

    def system(self, text: str) -> None:
        """``System: `` and the text."""
        self._line(f"System: {printable(text)}")

    def error(self, text: str) -> None:
        """One line on stderr, as of any program."""
        self._err.write(f"chat-cli: error: {printable(text)}\n")
        self._err.flush()

    def _line(self, text: str) -> None:
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class BareDisplay(PlainDisplay):
    """Answers alone: what ``chat-cli "one question"`` prints."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        super().__init__(out, err, label="")

    def answered(self, turn: Turn, stats: bool) -> None:
        """The figures on stderr, if wanted: stdout is the answer's."""
        if stats:
            self._err.write(f"{stats_line(turn)}\n")


class _PlainAnswer:
    def __init__(self, write: Callable[[str], None], label: str) -> None:
        self._write, self._label = write, label
        self._trimmed = Trimmed()
        self._begun = False

    def push(self, text: str) -> None:
        self.begin()
        self._write(self._trimmed.push(text))

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._write(self._label)

    def end(self) -> None:
        if self._begun:
            self._write("\n")


class JsonDisplay:
    """One JSON object a line, for programs: turns and sessions as the server sends them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def question(self, prompt: str, text: str) -> None:
        """The turn that follows says enough."""

    @contextmanager
    def answer(self) -> Iterator[AnswerView]:
        """Nothing before the answer is stored."""
        yield _NoView()

    def answered(self, turn: Turn, stats: bool) -> None:  # noqa: ARG002 - the turn has its figures
        """The turn object."""
        self._line(turn.raw)

    def history(self, history: History) -> None:
        """The session object with its turns."""
        self._line(history.session.raw)

    def said(self, question: str, answer: str) -> None:
        """An object of the two."""
        self._line({"user": question, "assistant": answer})

    def system(self, text: str) -> None:
        """``{"system": …}``"""
        self._line({"system": text})

    def error(self, text: str) -> None:
        """``{"error": …}``"""
        self._line({"error": text})

    def _line(self, value: Any) -> None:
        self._out.write(_UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False)) + "\n")
        self._out.flush()


_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")
"""What JSON may hold as it is, and a terminal or a reader of lines would act on."""


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class _NoView:
    def push(self, text: str) -> None:
        """Shown when it is whole."""
