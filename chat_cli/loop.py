"""Read, evaluate, print, until the user leaves."""

from __future__ import annotations

from chat_cli.chat import Chat, Leave
from chat_cli.commands import run_command
from chat_cli.errors import ServerUnreachable
from chat_cli.line_reader import LineReader
from lm_core.errors import LanguageModelError


def converse(chat: Chat, reader: LineReader) -> bool:
    """Answer every line of ``reader``.  False if anything failed.

    Whatever goes wrong is told in one line, and the next question may be asked.  Ctrl-C stops what
    is being done where somebody is there to go on, and ends the program elsewhere.

    Raises:
        ServerUnreachable: nobody is there to start a server.
    """
    good = _attempt(chat, reader, None)
    if not good and not reader.echoes:
        return False
    while True:
        line = ""
        try:
            line = reader.read(chat.prompt)
            if not line.strip():
                continue
            if not reader.echoes:
                chat.display.question(chat.prompt, line)
            good = _attempt(chat, reader, line) and good
        except (EOFError, Leave):
            return good
        except KeyboardInterrupt:
            # Pressed when the answer had just ended, or in the middle of saying that it was stopped.
            if not reader.echoes:
                raise
            if line:
                chat.display.system("Stopped")


def _attempt(chat: Chat, reader: LineReader, line: str | None) -> bool:
    """Carry out one line, or begin the session.  False if it failed."""
    command = line is not None and line.startswith(":") and not line.startswith("::")
    try:
        if line is None:
            chat.greet()
        elif command:
            run_command(chat, line)
        else:
            chat.ask(line.removeprefix(":"))
    except KeyboardInterrupt:
        if not reader.echoes:
            raise
        if command or line is None:
            # Whether it was carried out is unknown: the server is asked before the next thing is done.
            chat.conversation.opened = False
            chat.display.system("Stopped")
        else:
            chat.display.system("Stopped; the session is as it was before")
    except ServerUnreachable as error:
        if not reader.echoes:
            # The next line would fail as well.
            raise
        chat.display.error(_sentence(error))
        return False
    except LanguageModelError as error:
        chat.display.error(_sentence(error))
        return False
    return True


def _sentence(error: Exception) -> str:
    """The error in one line, whatever its text is."""
    return " ".join(str(error).split())
