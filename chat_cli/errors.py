"""What can go wrong between a client and the server.

::

    LanguageModelError
    └── ChatError
        ├── ServerUnreachable      no connection could be made: nothing was sent
        ├── ConnectionLost         the connection ended, or fell silent, before the reply was complete
        ├── UnexpectedReply        something answers there, but not as chat-server does
        └── RequestRefused         the server's own error object
            ├── InvalidRequest         400, 413, 422 and the like: invalid_request_error
            │   └── PromptTooLong      400, code context_length_exceeded
            ├── AuthenticationFailed   401: authentication_error
            ├── NotFound               404: not_found_error
            ├── Conflict               409: conflict_error
            ├── TooManyRequests        429: rate_limit_error
            ├── ServerFailed           500: server_error
            └── ServerUnavailable      503: unavailable_error

The message of each is one sentence for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_core.errors import LanguageModelError


class ChatError(LanguageModelError):
    """The root: catch this to catch everything that is not a bug."""


class ServerUnreachable(ChatError):
    """No connection could be made, so nothing was sent and nothing can have happened."""


class ConnectionLost(ChatError):
    """The connection ended before the reply was complete; the request may have been carried out."""


class UnexpectedReply(ChatError):
    """The reply is none that the contract knows."""


class RequestRefused(ChatError):
    """The server refused, and said why."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None where the error came in the middle of a stream."""
        self.param = param
        """The field that was wrong, as JSON spells it."""
        self.code = code
        self.retry_after = retry_after
        """Seconds after which the server suggests to try again."""
        self.details = dict(details or {})
        """The whole error object."""


class InvalidRequest(RequestRefused):
    """The request is malformed, or a value in it is out of range; ``param`` names it."""


class PromptTooLong(InvalidRequest):
    """The conversation and the question leave no room for an answer in the context."""

    @property
    def prompt_tokens(self) -> int | None:
        """How long the prompt is."""
        return _whole(self.details.get("prompt_tokens"))

    @property
    def context_length(self) -> int | None:
        """How long it may be."""
        return _whole(self.details.get("context_length"))


class AuthenticationFailed(RequestRefused):
    """The server wants an API key, or another one."""


class NotFound(RequestRefused):
    """There is no such session, or it belongs to another key."""


class Conflict(RequestRefused):
    """The session is not in the state that the request expects, or the id is taken."""


class TooManyRequests(RequestRefused):
    """The server's queue is full; ``retry_after`` says when to come back."""


class ServerFailed(RequestRefused):
    """A fault in the server."""


class ServerUnavailable(RequestRefused):
    """The server is loading its model, or shutting down."""


_BY_TYPE: dict[str, type[RequestRefused]] = {
    "invalid_request_error": InvalidRequest,
    "authentication_error": AuthenticationFailed,
    "not_found_error": NotFound,
    "conflict_error": Conflict,
    "rate_limit_error": TooManyRequests,
    "server_error": ServerFailed,
    "unavailable_error": ServerUnavailable,
}


def refusal(body: Any, status: int | None = None, retry_after: str | None = None) -> ChatError:
    """The exception for the server's error object ``{"error": {"message", "type", "param", "code"}}``."""
    found = body.get("error") if isinstance(body, dict) else None
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = _BY_TYPE.get(str(error.get("type")))
    if kind is None:
        return UnexpectedReply(f"the server replied with status {status}, and not as chat-server does")
    if kind is InvalidRequest and error.get("code") == "context_length_exceeded":
        kind = PromptTooLong
    return kind(
        str(error.get("message", "")),
        status=status,
        param=error.get("param"),
        code=error.get("code"),
        retry_after=_seconds(retry_after),
        details=error,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        # An HTTP date, which chat-server never sends.
        return None
