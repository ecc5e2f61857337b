"""What the user can do, with everything that is shown about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from chat_cli.conversation import Conversation
from chat_cli.display import Display
from chat_cli.errors import Conflict, ConnectionLost, NotFound
from chat_cli.records import PastTurn
from chat_cli.sampling_settings import change, describe
from chat_cli.transcript import save
from lm_core.errors import LanguageModelError

LARGEST_ITH = (1 << 64) - 1
EditLine = Callable[[str, str], str | None]


def _cannot_edit(prompt: str, text: str) -> str | None:  # noqa: ARG001
    return None


class Leave(Exception):
    """The user wants to go."""


class Chat:
    """A conversation, shown.  Its methods are the program's verbs."""

    def __init__(
        self,
        conversation: Conversation,
        display: Display,
        edit_line: EditLine = _cannot_edit,
        stats: bool = False,
    ) -> None:
        """``edit_line(prompt, text)`` lets the user change a text; None means that it cannot."""
        self.conversation = conversation
        self.display = display
        self._edit_line = edit_line
        self._stats = stats
        self._unanswered: str | None = None
        """The last question, if no answer to it was stored."""

    @property
    def prompt(self) -> str:
        """What stands before the next question."""
        return f"You({self.conversation.turns})> "

    # -- asking ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Continue or begin the session, if that has not been done."""
        if not self.conversation.opened:
            self.conversation.open()

    def greet(self) -> None:
        """Begin, and say where the session stands if it is not new."""
        self.begin()
        turns = self.conversation.turns
        if turns:
            self.display.system(
                f"Session {self.conversation.id} continues after {_count(turns, 'question')}; "
                ":history shows it"
            )

    def ask(self, content: str) -> None:
        """Ask, and show the answer as it is made.

        Raises:
            ChatError: there is no answer; the session is as it was.
            KeyboardInterrupt: the user stopped it; the session is as it was.
        """
        self._unanswered = content
        self.begin()
        stored = self._settle()
        if stored is not None and stored.user == content:
            self._unanswered = None
            return
        try:
            with self.display.answer() as view, self.conversation.ask(content) as answer:
                for text in answer:
                    view.push(text)
        except Conflict as conflict:
            raise self._explained(conflict) from conflict
        except NotFound as error:
            session_id = self.conversation.id
            raise NotFound(f"{error}; was it removed? :switch {session_id} begins it anew") from error
        if answer.turn is None:
            raise ConnectionLost("the connection to the server was lost in mid-answer")
        self._unanswered = None
        self.display.answered(answer.turn, self._stats)

    def regenerate(self) -> None:
        """Ask the last question again, in place of its answer."""
        question = self._take_back_last_question()
        if question is None:
            self.display.system("There is no question to ask again")
        else:
            self.ask(question)

    def edit(self, text: str) -> None:
        """Ask the last question with other words, in place of it."""
        self.begin()
        question = self._last_question()
        if question is None:
            self.display.system("There is no question to edit")
            return
        edited = text or self._edit_line(self.prompt if self._unanswered else self._last_prompt(), question)
        if edited is None:
            self.display.system("Say it in the same line: :edit TEXT")
        elif not edited.strip():
            self.display.system("Nothing is changed")
        else:
            self._take_back_last_question()
            self.ask(edited)

    # -- going back and elsewhere ---------------------------------------------------------------

    def revert_to(self, argument: str) -> None:
        """Go back to the state before a turn."""
        ith = _u64(argument)
        if ith is None:
            self.display.system("Invalid ith: should be of u64")
            return
        self.begin()
        self._settle()
        if ith >= self.conversation.turns:
            self.display.system("Invalid ith: out of range")
            return
        self._revert(ith)

    def undo(self) -> None:
        """Take the last question and its answer back."""
        self.begin()
        self._settle()
        if self.conversation.turns == 0:
            self.display.system("There is nothing to undo")
            return
        self._revert(self.conversation.turns - 1)

    def fork(self, new_id: str, argument: str) -> None:
        """A copy of the session, or of its beginning, under another id."""
        ith = _u64(argument) if argument else None
        if argument and ith is None:
            self.display.system("Invalid ith: should be of u64")
            return
        self.begin()
        forked = self.conversation.fork(new_id, ith)
        self.display.system(
            f"Forked {forked.id} with {_count(forked.turns, 'question')}; :switch {forked.id} goes there"
        )

    def switch(self, session_id: str) -> None:
        """Go to another session, and begin it if there is none."""
        begun = self.conversation.switch(session_id)
        self._unanswered = None
        turns = self.conversation.turns
        self.display.system(
            f"Session {session_id} is new" if begun else f"Session {session_id}, {_count(turns, 'question')}"
        )

    def sessions(self) -> None:
        """List what the server has, newest first."""
        sessions = self.conversation.client.sessions()
        self.display.system(f"{_count(len(sessions), 'session')}:")
        for session in sessions:
            here = "*" if session.id == self.conversation.id else " "
            self.display.system(
                f"{here} {session.id}  {_count(session.turns, 'question')}, "
                f"{session.tokens} of {session.context_length} tokens"
            )

    def remove(self) -> None:
        """Delete the session and leave."""
        self.begin()
        self.conversation.remove()
        self.display.system(f"Session {self.conversation.id} is removed")
        raise Leave

    # -- looking and setting --------------------------------------------------------------------

    def history(self) -> None:
        """Everything that was said."""
        self.begin()
        self._settle()
        self.display.history(self.conversation.history())

    def save(self, name: str) -> None:
        """Write everything that was said to a file."""
        self.begin()
        history = self.conversation.history()
        # Unlike Path's, this expanduser leaves a ~ of nobody as it is.
        path = Path(os.path.expanduser(name))
        save(history, path)
        self.display.system(f"Saved {_count(len(history.turns), 'question')} to {path}")

    def set(self, name: str, value: str) -> None:
        """Change how answers are made, or show it."""
        if name and not value:
            self.display.system("Say the value too: :set NAME VALUE, or :set NAME default")
            return
        if name:
            self.conversation.sampling = change(self.conversation.sampling, name, value)
        self.display.system(f"Settings: {describe(self.conversation.sampling)}")

    def system(self, text: str) -> None:
        """Set the system message of a session in which nothing was asked yet, or show it."""
        self.begin()
        if not text:
            current = self.conversation.system
            self.display.system("There is no system message" if current is None else current)
        elif self.conversation.turns:
            self.display.system(
                "The system message stands before the first question; :revert_to 0 first, "
                "or :switch to a new session"
            )
        else:
            self.conversation.restart(text)
            self.display.system("The system message is set")

    def stats(self, argument: str) -> None:
        """Whether figures follow each answer."""
        if argument not in ("", "on", "off"):
            self.display.system("Say :stats on or :stats off")
            return
        self._stats = argument == "on" if argument else not self._stats
        self.display.system(f"Figures after each answer: {'on' if self._stats else 'off'}")

    # -- details --------------------------------------------------------------------------------

    def _revert(self, turn: int) -> None:
        try:
            self.conversation.revert(turn)
        except Conflict as conflict:
            raise self._explained(conflict) from conflict
        self._unanswered = None
        self.display.system(f"Reverted to the state before {turn}th generation")

    def _last_question(self) -> str | None:
        if self._unanswered is not None:
            return self._unanswered
        turns = self.conversation.history().turns
        return turns[-1].user if turns else None

    def _last_prompt(self) -> str:
        return f"You({self.conversation.turns - 1})> "

    def _take_back_last_question(self) -> str | None:
        """The last question, with its turn reverted if it had become one."""
        self.begin()
        self._settle()
        question = self._last_question()
        if question is not None and self._unanswered is None:
            try:
                self.conversation.revert(self.conversation.turns - 1)
            except Conflict as conflict:
                raise self._explained(conflict) from conflict
            self._unanswered = question
        return question

    def _settle(self) -> PastTurn | None:
        """After a lost connection: show the answer if it was stored nevertheless."""
        stored = self.conversation.settle()
        if stored is not None:
            self._unanswered = None
            self.display.system("The answer was stored before the connection was lost:")
            self.display.said(stored.user, stored.assistant)
        return stored

    def _explained(self, conflict: Conflict) -> LanguageModelError:
        """That the session has moved on, if that is the reason: another client did it, or an answer
        was stored in the moment in which it was stopped."""
        before, now = self.conversation.turns, self.conversation.refresh()
        if before == now:
            return conflict
        return Conflict(
            f"the session has {_count(now, 'question')} now, not {before}: something was stored in the "
            "meantime; :history shows it, then ask again",
            status=conflict.status,
        )


def _u64(text: str) -> int | None:
    """A number as the original reads one: decimal digits, perhaps after a plus, below 2^64."""
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= len(str(LARGEST_ITH)) and int(digits) <= LARGEST_ITH else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
