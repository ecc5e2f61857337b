"""What the server says, as values: sessions, turns and their figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chat_cli.errors import UnexpectedReply


@dataclass(frozen=True)
class Sampling:
    """How an answer is to be made.  What is None is left to the session's or the server's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None

    def fields(self) -> dict[str, Any]:
        """The ones that were chosen, as JSON names them."""
        chosen = {name: value for name, value in vars(self).items() if value is not None}
        return chosen if self.stop is None else {**chosen, "stop": list(self.stop)}


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Prompt tokens that did not have to be computed."""


@dataclass(frozen=True)
class Timings:
    """Milliseconds and tokens per second."""

    prompt_ms: float
    prompt_per_second: float
    predicted_ms: float
    predicted_per_second: float


@dataclass(frozen=True)
class Turn:
    """An answer that the server has stored."""

    index: int
    """How many turns came before it."""
    content: str
    finish_reason: str
    """``stop``: the model ended it; ``length``: it was cut."""
    usage: Usage
    timings: Timings
    request_id: str | None
    raw: Mapping[str, Any] = field(repr=False)
    """The turn object as it came."""

    @classmethod
    def from_json(cls, body: Any) -> Turn:
        """The turn object of the contract.

        Raises:
            UnexpectedReply: it is not one.
        """
        with _Expecting("a turn"):
            return cls(
                index=int(body["turn"]),
                content=str(body["content"]),
                finish_reason=str(body["finish_reason"]),
                usage=_usage(body["usage"]),
                timings=Timings(**{name: float(body["timings"][name]) for name in _TIMINGS}),
                request_id=body.get("request_id"),
                raw=dict(body),
            )


@dataclass(frozen=True)
class PastTurn:
    """A question and its answer, as the history has them."""

    index: int
    user: str
    assistant: str
    finish_reason: str
    usage: Usage
    created_at: str


@dataclass(frozen=True)
class SessionInfo:
    """A session without what was said in it."""

    id: str
    model: str
    created_at: str
    turns: int
    tokens: int
    context_length: int
    system: str | None
    parent: str | None
    raw: Mapping[str, Any] = field(repr=False)
    """The session object as it came."""

    @classmethod
    def from_json(cls, body: Any) -> SessionInfo:
        """The session object of the contract.

        Raises:
            UnexpectedReply: it is not one.
        """
        with _Expecting("a session"):
            turns = body["turns"]
            return cls(
                id=str(body["id"]),
                model=str(body["model"]),
                created_at=str(body["created_at"]),
                # The history has the turns themselves where other replies have their number.
                turns=len(turns) if isinstance(turns, list) else int(turns),
                tokens=int(body["tokens"]),
                context_length=int(body["context_length"]),
                system=body.get("system"),
                parent=_parent(body.get("parent")),
                raw=dict(body),
            )


@dataclass(frozen=True)
class History:
    """A session with everything that was said in it."""

    session: SessionInfo
    turns: tuple[PastTurn, ...]

    @classmethod
    def from_json(cls, body: Any) -> History:
        """What ``GET /history/{id}`` replies.

        Raises:
            UnexpectedReply: it is not that.
        """
        session = SessionInfo.from_json(body)
        with _Expecting("a history"):
            turns = tuple(
                PastTurn(
                    index=int(turn["index"]),
                    user=str(turn["user"] or ""),
                    assistant=str(turn["assistant"]),
                    finish_reason=str(turn["finish_reason"]),
                    usage=_usage(turn["usage"]),
                    created_at=str(turn["created_at"]),
                )
                for turn in body["turns"]
            )
        return cls(session, turns)


@dataclass(frozen=True)
class Health:
    """How the server is."""

    status: str
    """``ok``, or why it takes no requests."""
    model: str | None
    raw: Mapping[str, Any] = field(repr=False)


_TIMINGS = ("prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second")


class _Expecting:
    """Turns the errors of reading a malformed object into the one of this package."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise UnexpectedReply(
                f"the server's reply is not {self._what} as chat-server describes it "
                f"({type(error).__name__}: {error}); are server and client of the same version?"
            ) from error


def _usage(body: Any) -> Usage:
    return Usage(
        prompt_tokens=int(body["prompt_tokens"]),
        completion_tokens=int(body["completion_tokens"]),
        cached_tokens=int(body["cached_tokens"]),
    )


def _parent(body: Any) -> str | None:
    """The parent's id, whether it comes alone or in an object that says more."""
    return str(body["id"]) if isinstance(body, dict) else body
