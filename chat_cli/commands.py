"""The commands: their names, their help, and which verb of :class:`~chat_cli.chat.Chat` each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chat_cli.chat import Chat, Leave
from chat_cli.client import ChatClient
from chat_cli.errors import ChatError
from chat_cli.sampling_settings import NAMES
from lm_cli.terminal import printable


@dataclass(frozen=True)
class Command:
    """``run`` gets the rest of the line, which is not blank where ``required`` says so."""

    usage: str
    help: str
    run: Callable[[Chat, str], None]
    required: bool = False

    @property
    def name(self) -> str:
        """What follows the colon."""
        return self.usage.split()[0]

    @property
    def takes_argument(self) -> bool:
        """Whether something may follow the name."""
        return self.usage != self.name


def _leave(_chat: Chat, _argument: str) -> None:
    raise Leave


def _fork(chat: Chat, argument: str) -> None:
    new_id, _, ith = argument.partition(" ")
    chat.fork(new_id, ith.strip())


def _set(chat: Chat, argument: str) -> None:
    name, blank, value = argument.partition(" ")
    if "=" in name:
        name, _, beginning = name.partition("=")
        value = beginning + blank + value
    chat.set(name, value.strip())


def _help(chat: Chat, _argument: str) -> None:
    width = max(len(command.usage) for command in COMMANDS)
    chat.display.system("Commands:")
    for command in COMMANDS:
        chat.display.system(f":{command.usage:{width}}  {command.help}")
    chat.display.system(f"NAME is {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    chat.display.system('"""several lines"""  or Alt-Enter; ::text asks a question that begins with a colon')


COMMANDS: Sequence[Command] = (
    Command("history", "show everything that was said", lambda chat, _: chat.history()),
    Command("revert_to i", "go back to the state before question i", lambda chat, rest: chat.revert_to(rest)),
    Command("undo", "take the last question and its answer back", lambda chat, _: chat.undo()),
    Command("regen", "ask the last question again", lambda chat, _: chat.regenerate()),
    Command("edit [TEXT]", "change the last question", lambda chat, rest: chat.edit(rest)),
    Command("fork NEWID [i]", "copy the session, or what was before question i", _fork, required=True),
    Command("sessions", "list the sessions", lambda chat, _: chat.sessions()),
    Command("switch ID", "go to another session", lambda chat, rest: chat.switch(rest), required=True),
    Command("set [NAME VALUE]", "how answers are made, as in :set temperature 0.2", _set),
    Command(
        "system [TEXT]", "set the system message of an empty session", lambda chat, rest: chat.system(rest)
    ),
    Command("stats [on|off]", "figures after each answer", lambda chat, rest: chat.stats(rest)),
    Command("save FILE", "as Markdown, or as JSON", lambda chat, rest: chat.save(rest), required=True),
    Command("remove", "delete the session and leave", lambda chat, _: chat.remove()),
    Command("help", "show this", _help),
    Command("exit", "leave; the session stays", _leave),
)

BY_NAME = {command.name: command for command in COMMANDS}


def run_command(chat: Chat, line: str) -> None:
    """Carry out ``line``, which begins with a colon.

    Raises:
        Leave: the user wants to go.
        LanguageModelError: it did not work.
    """
    words = line[1:].strip().split(maxsplit=1)
    name, argument = (words[0].lower() if words else ""), (words[1].strip() if len(words) > 1 else "")
    command = BY_NAME.get(name)
    if command is None:
        unknown = f"Unknown command: {name}; " if name else ""
        chat.display.system(f"{unknown}:help shows all")
    elif (command.required and not argument) or (argument and not command.takes_argument):
        # An argument is never ignored: ":remove other" must not remove this session.
        chat.display.system(f"Say it like this: :{command.usage}")
    else:
        command.run(chat, argument)


def candidates(connect: Callable[[], ChatClient], name: str) -> Sequence[str]:
    """What could follow a command, for completion.  ``connect`` opens a connection that waits for nothing."""
    if name == "set":
        return NAMES
    if name == "stats":
        return ("on", "off")
    if name == "switch":
        try:
            with connect() as client:
                return [printable(session.id) for session in client.sessions()]
        except ChatError:
            # Completion is a courtesy; the command itself will say what is wrong.
            return ()
    return ()
