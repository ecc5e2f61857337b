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
from prompt_toolkit.history import FileHistory, History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from chat_cli.line_reader import is_open, unfenced

Candidates = Callable[[str], Sequence[str]]
"""The arguments that a command could take, by the command's name."""
Tell = Callable[[str], None]
"""Shows a line of the program's own."""


class PromptReader:
    """A line editor.  Ctrl-C clears the line and does nothing else; Ctrl-D on an empty one ends."""

    echoes = True

    def __init__(
        self, history_file: Path, commands: Sequence[str], candidates: Candidates, tell: Tell
    ) -> None:
        """``history_file`` keeps what was typed; where it cannot, that is told, and nothing else is lost."""
        self._tell = tell
        self._history = _Kept(history_file)
        self._session: PromptSession[str] = PromptSession(
            history=self._history,
            completer=_CommandCompleter(commands, candidates),
            # As in a shell: below the line, without keeping room free for a menu.
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            enable_history_search=False,
            # Ctrl-Z, as in a shell.
            enable_suspend=True,
            multiline=Condition(lambda: is_open(get_app().current_buffer.text)),
            prompt_continuation=_continuation,
            key_bindings=_key_bindings(),
            output=_output(),
        )
        self._tell_of_history()

    def read(self, prompt: str) -> str:
        """What was typed.

        Raises:
            EOFError: Ctrl-D on an empty line.
        """
        return self._read(prompt, "")

    def edit(self, prompt: str, text: str) -> str | None:
        """``text`` as it was when Enter was pressed; empty to leave everything as it is."""
        try:
            return self._read(prompt, text)
        except EOFError:
            return ""

    def _read(self, prompt: str, text: str) -> str:
        typed = self._session.prompt(FormattedText([("bold", prompt)]), default=text)
        self._tell_of_history()
        return unfenced(typed)

    def _tell_of_history(self) -> None:
        error = self._history.new_error()
        if error is not None:
            self._tell(f"What you type is not remembered for the next time: {error}")


class _Kept(History):
    """What was typed, in memory, and in a file as long as that works."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file: FileHistory | None = None
        self._error: OSError | None = None
        self._earlier: list[str] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Questions are nobody else's business.
            path.touch(mode=0o600)
            self._file = FileHistory(str(path))
            self._earlier = list(self._file.load_history_strings())
        except OSError as error:
            self._give_up(error)

    def load_history_strings(self) -> Iterable[str]:
        """What earlier runs left, newest first."""
        return self._earlier

    def store_string(self, string: str) -> None:
        """Keep a line for the next run."""
        try:
            if self._file is not None:
                self._file.store_string(string)
        except OSError as error:
            # The question itself must not fail because of a full disk.
            self._give_up(error)

    def new_error(self) -> OSError | None:
        """Why the file is no longer used, once."""
        error, self._error = self._error, None
        return error

    def _give_up(self, error: OSError) -> None:
        self._file, self._error = None, error


def _output() -> Output:
    """The terminal, which is not asked where its cursor is.

    Nothing here needs to know, and a terminal that does not answer gets a warning between two questions.
    """
    output = create_output()
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False
    return output


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
