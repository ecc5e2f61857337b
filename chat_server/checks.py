"""Everything that can be wrong with a turn, found before it begins.  Blocks: for worker threads."""

from __future__ import annotations

from chat_server.defaults import Defaults
from chat_server.errors import Conflicting, InvalidRequest, context_exceeded
from chat_server.jobs import Job, SessionKey
from chat_server.store import Store, StoredSession, StoredTurn
from chat_server.turns import Done, TurnRequest
from lm_core.errors import ContextLengthExceeded, TemplateError
from lm_core.language_model import LanguageModel
from lm_core.session import Session


class Checks:
    """Compares requests with the model and with what the store knows."""

    def __init__(
        self, language_model: LanguageModel, store: Store, defaults: Defaults, context_length: int
    ) -> None:
        self.language_model = language_model
        self.context_length = context_length
        self._store = store
        self._defaults = defaults

    def checked(
        self, ticket: int, owner: str, session_id: str, request: TurnRequest, request_id: str
    ) -> Job | Done:
        """The turn, ready for the engine; or, where this request has had its turn already, that one.

        Raises:
            RequestError, LanguageModelError: what is wrong with it.
        """
        if request.request_id is not None:
            found = self._store.find_request(owner, session_id, request.request_id)
            if found is not None:
                return _told_again(found.turn, found.reverted, request)
        stored, snapshot = self._store.snapshot(owner, session_id)
        check_turn(stored, request.expected_turn)
        if stored.model != self.language_model.name:
            raise Conflicting(
                "model_mismatch",
                f"session {session_id!r} was made with the model {stored.model!r}, "
                f"and this server runs {self.language_model.name!r}",
            )
        if not isinstance(request.prompt, str):
            if len(request.prompt) >= self.context_length:
                raise ContextLengthExceeded(len(request.prompt), self.context_length)
            self.check_ids(request.prompt, "content")
        session = Session.from_snapshot(self.language_model, snapshot)
        question = request.prompt
        prompt = session.prepare(session.messages(question) if isinstance(question, str) else question)
        length = prompt.kept + len(prompt.added)
        if length >= self.context_length:
            raise ContextLengthExceeded(length, self.context_length)
        manner = self._defaults.overridden(stored.sampling, request.sampling)
        return Job(
            ticket=ticket,
            key=session_key(stored),
            version=stored.version,
            snapshot=snapshot,
            prompt=prompt,
            prompt_kind=request.kind,
            params=manner.params,
            max_new_tokens=min(manner.max_tokens, self.context_length - length),
            stop=manner.stop,
            request_id=request_id,
            request_hash=request.request_hash,
            tell_text=request.stream,
        )

    def check_system(self, system: str) -> None:
        """A system message that no turn could follow is refused now, and not at the first turn."""
        session = Session(self.language_model, system)
        try:
            length = len(session.prepare(session.messages("?")).added)
        except TemplateError as error:
            raise InvalidRequest("template_error", str(error), "system") from error
        if length >= self.context_length:
            raise context_exceeded(ContextLengthExceeded(length, self.context_length), "system")

    def check_ids(self, ids: list[int], param: str) -> None:
        """Refuse what is not in the vocabulary."""
        vocab_size = self.language_model.llama.config.vocab_size
        if ids and max(ids) >= vocab_size:
            raise InvalidRequest(
                "invalid_value", f"token id {max(ids)} is not in the vocabulary of {vocab_size}", param
            )


def session_key(stored: StoredSession) -> SessionKey:
    """What the engine calls this session."""
    return SessionKey(stored.owner, stored.id, stored.created_at.isoformat())


def check_turn(stored: StoredSession, expected_turn: int | None) -> None:
    """Refuse where the session has another number of turns than the client expects."""
    if expected_turn is not None and expected_turn != stored.turns:
        raise Conflicting(
            "turn_conflict",
            f"session {stored.id!r} has {stored.turns} turns, not {expected_turn}; read it again and repeat",
            "expected_turn",
        )


def another_body(request: TurnRequest) -> InvalidRequest:
    """The answer to a ``request_id`` that was used before for something else."""
    return InvalidRequest(
        "request_id_reused",
        f"request {request.request_id!r} was sent before with another body; use a new request_id",
        "request_id",
        status=422,
    )


def _told_again(turn: StoredTurn, reverted: bool, request: TurnRequest) -> Done:
    """The turn of a request that came before."""
    if turn.request_hash != request.request_hash:
        raise another_body(request)
    if reverted:
        raise Conflicting(
            "request_reverted",
            f"the turn of request {request.request_id!r} has been reverted; use a new request_id",
            "request_id",
        )
    return Done(turn, [])
