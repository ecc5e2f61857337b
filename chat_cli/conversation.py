"""The client's side of a session: which one, how many turns it has, and the question in the air.

The server is the truth.  What is kept here is what is needed to ask safely: the number of turns,
sent along so that nobody's turn is overwritten, and the last question whose fate is unknown.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chat_cli.answer_stream import AnswerStream
from chat_cli.client import ChatClient
from chat_cli.errors import ChatError, Conflict, ConnectionLost, NotFound
from chat_cli.records import History, PastTurn, Sampling, SessionInfo


@dataclass(frozen=True)
class Question:
    """A question as it was sent."""

    content: str
    turn: int
    """How many turns came before it."""
    sampling: Sampling
    request_id: str


class Conversation:
    """One session at a time of one server."""

    def __init__(self, client: ChatClient, session_id: str, system: str | None, sampling: Sampling) -> None:
        """Nothing is sent before :meth:`open`.

        Args:
            client: the server.
            session_id: the session to continue, or to begin.
            system: the system message if the session has to be begun.
            sampling: how answers are to be made.
        """
        self.client = client
        self.id = session_id
        self.system = system
        self.sampling = sampling
        self.turns = 0
        self.opened = False
        self._unknown: Question | None = None

    # -- which session --------------------------------------------------------------------------

    def open(self) -> bool:
        """Continue the session, or begin it if there is none.  True if it was begun now.

        Raises:
            Conflict: it was begun before, with another system message; it is continued all the same.
        """
        try:
            self._continue()
            return False
        except NotFound:
            pass
        try:
            self._adopt(self.client.create_session(self.id, self.system))
            return True
        except Conflict:
            # Somebody else began it in between.
            self._continue()
            return False

    def switch(self, session_id: str) -> bool:
        """Go to another session; stay if that fails.  True if it was begun now."""
        other = Conversation(self.client, session_id, None, self.sampling)
        begun = other.open()
        self.id, self.system, self.turns, self.opened = other.id, other.system, other.turns, True
        self._unknown = None
        return begun

    def restart(self, system: str | None) -> None:
        """Begin the session, which has no turns, anew with another system message.

        Raises:
            ChatError: the message is refused; what comes next begins the session with the old one.
        """
        self.client.remove_session(self.id)
        before, self.opened, self.system = self.system, False, system
        try:
            self.open()
        except ChatError:
            self.system = before
            raise

    def fork(self, new_id: str, turn: int | None) -> SessionInfo:
        """A copy under another id; this conversation stays where it is."""
        return self.client.fork(self.id, new_id, turn)

    def remove(self) -> None:
        """Delete the session."""
        self.client.remove_session(self.id)
        self.opened = False

    # -- turns ----------------------------------------------------------------------------------

    @contextmanager
    def ask(self, content: str) -> Iterator[AnswerStream]:
        """Ask.  The turn is taken when the stream has ended with it; any error leaves the session alone.

        The same question after a lost connection is the same request, so it is never answered twice.
        """
        question = Question(content, self.turns, self.sampling, uuid.uuid4().hex)
        earlier = self._unknown
        if earlier is not None and (earlier.content, earlier.turn) == (content, self.turns):
            if earlier.sampling == self.sampling:
                question = earlier
        self._unknown = None
        try:
            with self.client.stream(
                self.id,
                content,
                self.sampling,
                expected_turn=question.turn,
                request_id=question.request_id,
            ) as answer:
                yield answer
                if answer.turn is not None:
                    self.turns = answer.turn.index + 1
        except ConnectionLost:
            self._unknown = question
            raise

    def settle(self) -> PastTurn | None:
        """After a lost connection: the turn, if the server had stored it.  Otherwise None."""
        question = self._unknown
        if question is None:
            return None
        history = self.client.history(self.id)
        if len(history.turns) <= question.turn:
            return None
        self._unknown = None
        self._adopt(history.session)
        turn = history.turns[question.turn]
        return turn if turn.user == question.content else None

    def refresh(self) -> int:
        """Ask the server how many turns there are, and adopt the number."""
        self._adopt(self.client.history(self.id).session)
        return self.turns

    def revert(self, turn: int) -> None:
        """Go back to the state before ``turn``."""
        try:
            self._adopt(self.client.revert(self.id, turn, self.turns))
        except ConnectionLost:
            self._find_out()
            if self.turns != turn:
                raise

    def history(self) -> History:
        """Everything that was said."""
        history = self.client.history(self.id)
        self._adopt(history.session)
        return history

    def _continue(self) -> None:
        wanted = self.system
        self._adopt(self.client.history(self.id).session)
        if wanted is not None and wanted != self.system:
            raise Conflict(
                f"the session {self.id} was begun with another system message; choose another id for this one"
            )

    def _find_out(self) -> None:
        """Whether a revert whose reply was lost has happened."""
        try:
            self.refresh()
        except ChatError:
            self.opened = False

    def _adopt(self, session: SessionInfo) -> None:
        self.turns, self.system, self.opened = session.turns, session.system, True
