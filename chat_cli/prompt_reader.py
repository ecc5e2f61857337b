"""Reading from a terminal: history across runs, completion, several lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from chat_cli.line_reader import is_open, unfenced

Candidates = Callable[[str], Sequence[str]]
"""The arguments that a command could take, by the command's name."""


class PromptReader:
    """A line editor.  Ctrl-C clears the line and does nothing else; Ctrl-D on an empty one ends."""

    echoes = True

    def __init__(self, history_file: Path | None, commands: Sequence[str], candidates: Candidates) -> None:
        """``history_file`` keeps what was typed; None keeps it for this run only.

        Raises:
            OSError: the file cannot be used.
        """
        history: History = InMemoryHistory()
        if history_file is not None:
            history_file.parent.mkdir(parents=True, exist_ok=True)
            # Questions are nobody else's business.
            history_file.touch(mode=0o600)
            history = FileHistory(str(history_file))
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=_CommandCompleter(commands, candidates),
            # As in a shell: below the line, without keeping room free for a menu.
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            enable_history_search=False,
            multiline=Condition(lambda: is_open(get_app().current_buffer.text)),
            prompt_continuation=_continuation,
            key_bindings=_key_bindings(),
        )

    def read(self, prompt: str) -> str:
        """What was typed.

        Raises:
            EOFError: Ctrl-D on an empty line.
        """
        return unfenced(self._session.prompt(FormattedText([("bold", prompt)])))

    def edit(self, prompt: str, text: str) -> str | None:
        """``text`` as it was when Enter was pressed; empty to leave everything as it is."""
        try:
            return unfenced(self._session.prompt(FormattedText([("bold", prompt)]), default=text))
        except EOFError:
            return ""


def _continuation(_width: int, _line: int, wrapped: int) -> str:
    """Before the second and later lines, but not where the terminal breaks a long one."""
    return "" if wrapped else "... "


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-c")
    @bindings.add("<sigint>")
    def _clear(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text:
            # It can be had back by the arrow key.
            buffer.reset(append_to_history=True)

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class _CommandCompleter(Completer):
    """Commands, and what may follow them."""

    def __init__(self, commands: Sequence[str], candidates: Candidates) -> None:
        self._commands = commands
        self._candidates = candidates
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Nothing unless the line begins with a colon."""
        text = document.text_before_cursor
        if not text.startswith(":"):
            return
        command, blank, argument = text[1:].partition(" ")
        if not blank:
            words: Sequence[str] = self._commands
            argument = command
        elif command == "save":
            yield from self._paths.get_completions(Document(argument), complete_event)
            return
        else:
            words = self._candidates(command)
        for word in words:
            if word.startswith(argument):
                yield Completion(word, start_position=-len(argument))
