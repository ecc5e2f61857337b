"""Everything a request can be answered with that is not what it asked for.

::

    RequestError
    ├── InvalidRequest      400 by default; 405, 408, 413, 421, 422 and 431 are of the same type
    ├── Unauthenticated     401
    ├── NotFound            404
    ├── Conflicting         409
    ├── Busy                429
    ├── ServerFault         500
    └── Unavailable         503
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from chat_server import store
from lm_core.errors import ContextLengthExceeded, InvalidParameter, LanguageModelError, TemplateError


class RequestError(Exception):
    """An answer in the form of the error object."""

    status: int = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        """``details`` go into the error object beside the four fields that every one has."""
        super().__init__(message)
        self.code = code
        self.param = param
        self.status = self.status if status is None else status
        self.headers = dict(headers or {})
        self.details = details

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        message = str(self)
        error = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | self.details, "err_msg": message}


class InvalidRequest(RequestError):
    """The request is malformed, or asks for what cannot be."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(RequestError):
    """There is no valid key."""

    status = 401
    type = "authentication_error"


class NotFound(RequestError):
    """What it is about is not there, or not for this key."""

    status = 404
    type = "not_found_error"


class Conflicting(RequestError):
    """It does not fit what the session is now."""

    status = 409
    type = "conflict_error"


class Busy(RequestError):
    """The queue is full."""

    status = 429
    type = "rate_limit_error"


class ServerFault(RequestError):
    """A mistake in the server, or damage."""

    status = 500
    type = "server_error"


class Unavailable(RequestError):
    """Not now; it may be sent again."""

    status = 503
    type = "unavailable_error"


_STORE_CONFLICTS = {
    store.SessionExists: "session_exists",
    store.Conflict: "turn_conflict",
    store.DuplicateRequest: "request_repeated",
}


def context_exceeded(error: ContextLengthExceeded, param: str) -> InvalidRequest:
    """What a client is told whose ``param`` does not fit."""
    return InvalidRequest(
        "context_length_exceeded",
        str(error),
        param,
        prompt_tokens=error.tokens,
        context_length=error.context_length,
    )


def as_request_error(error: Exception) -> RequestError:
    """What a client is told about ``error``.  Of what nobody expected, it is told nothing."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, InvalidParameter):
        return InvalidRequest("invalid_value", str(error), error.param)
    if isinstance(error, ContextLengthExceeded):
        return context_exceeded(error, "content")
    if isinstance(error, TemplateError):
        return InvalidRequest("template_error", str(error), "content")
    if isinstance(error, store.SessionNotFound):
        return NotFound("session_not_found", str(error))
    for kind, code in _STORE_CONFLICTS.items():
        if isinstance(error, kind):
            return Conflicting(code, str(error))
    if isinstance(error, store.StoreUnavailable):
        return Unavailable("store_unavailable", str(error), headers={"Retry-After": "1"})
    if isinstance(error, MemoryError):
        return Unavailable(
            "out_of_memory", "there is not enough memory for this request now; try again later"
        )
    if isinstance(error, LanguageModelError):
        return ServerFault("server_error", str(error))
    return ServerFault("internal_error", "the server made a mistake; its log says more")
