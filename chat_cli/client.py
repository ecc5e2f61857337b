"""A client for every route of chat-server.

A request that may safely be sent again is sent again: what only reads, and a question, whose
``request_id`` makes the server return the stored turn instead of making another.  Everything else
is sent once, and :class:`~chat_cli.errors.ConnectionLost` says that its outcome is unknown.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from chat_cli.address import checked_key, checked_url, is_on_this_machine
from chat_cli.answer_stream import AnswerStream
from chat_cli.errors import (
    ConnectionLost,
    ServerUnreachable,
    TooManyRequests,
    UnexpectedReply,
    refusal,
)
from chat_cli.records import Health, History, Sampling, SessionInfo, Turn
from lm_core.errors import InvalidParameter

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_SECONDS = 5.0
IDLE_CONNECTION_SECONDS = 2.0
"""Servers close idle connections after about five; a younger one is never found closed."""
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 10.0


class ChatClient:
    """A connection to one server.  Safe to share between threads.

    Every method raises :class:`~chat_cli.errors.ChatError`; its docstring names the kinds that
    belong to it.  Common to all are ``ServerUnreachable``, ``ConnectionLost``, ``UnexpectedReply``,
    ``AuthenticationFailed``, ``ServerFailed`` and ``ServerUnavailable``.

    >>> with ChatClient() as client:
    ...     client.create_session("user0")
    ...     with client.stream("user0", "Are apples red?") as answer:
    ...         for text in answer:
    ...             print(text, end="", flush=True)
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        silence: float = 60.0,
        patience: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: where chat-server listens.
            api_key: sent as a bearer token.
            silence: seconds without a byte after which the server is given up.  An answer may take
                as long as it likes: the server sends comments while it computes.
            patience: seconds to wait in all while the server's queue is full.
            transport: another way to the server, for tests.

        Raises:
            InvalidParameter: the URL, the key or a proxy of the environment cannot be used.
        """
        if not silence > 0:
            raise InvalidParameter("silence", f"silence is {silence!r}; it must be above 0 seconds")
        self.url = checked_url(url)
        self._silence, self._patience = silence, patience
        # A proxy of the environment is none for a server on this machine.
        self._http = _http_client(
            trust_env=not is_on_this_machine(self.url),
            base_url=self.url,
            headers={"Authorization": f"Bearer {checked_key(api_key)}"} if api_key else {},
            timeout=httpx.Timeout(silence, connect=min(CONNECT_SECONDS, silence)),
            limits=httpx.Limits(keepalive_expiry=IDLE_CONNECTION_SECONDS),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections.  An answer that is still being made is stopped."""
        self._http.close()

    # -- sessions -------------------------------------------------------------------------------

    def create_session(
        self, session_id: str, system: str | None = None, sampling: Sampling | None = None
    ) -> SessionInfo:
        """A new session.

        Raises:
            InvalidRequest: the id is not 1-128 characters of ``A-Z a-z 0-9 . _ - @ :``.
            Conflict: there is one of that id.
        """
        body: dict[str, Any] = {"id": session_id}
        if system is not None:
            body["system"] = system
        if sampling is not None and sampling.fields():
            body["sampling"] = sampling.fields()
        return SessionInfo.from_json(self._send("POST", "/createSession", body))

    def sessions(self) -> list[SessionInfo]:
        """All sessions, newest first."""
        body = self._read("GET", "/sessions")
        if not isinstance(body, dict) or not isinstance(body.get("sessions"), list):
            raise UnexpectedReply("the server's reply is not a list of sessions")
        return [SessionInfo.from_json(session) for session in body["sessions"]]

    def history(self, session_id: str) -> History:
        """A session and its turns.

        Raises:
            NotFound: there is no such session.
        """
        return History.from_json(self._read("GET", _path("history", session_id)))

    def revert(self, session_id: str, turn: int, expected_turn: int | None = None) -> SessionInfo:
        """Go back to the state before ``turn``.

        Raises:
            InvalidRequest: there is no such turn.
            NotFound: there is no such session.
            Conflict: the session has not ``expected_turn`` turns.
        """
        body = {"turn": turn} | ({} if expected_turn is None else {"expected_turn": expected_turn})
        return SessionInfo.from_json(self._send("PUT", _path("revert", session_id), body))

    def revert_tokens(self, session_id: str, turn: int) -> list[int]:
        """The original's wire form of :meth:`revert`: returns the token ids that remain."""
        return _token_ids(self._send("PUT", _path("revert", session_id), turn))

    def fork(self, session_id: str, new_id: str, turn: int | None = None) -> SessionInfo:
        """A new session that continues from before ``turn``, by default from now.

        Raises:
            InvalidRequest: there is no such turn, or the new id cannot be one.
            NotFound: there is no such session.
            Conflict: the new id is taken.
        """
        body: dict[str, Any] = {"id": new_id} | ({} if turn is None else {"turn": turn})
        return SessionInfo.from_json(self._send("POST", _path("fork", session_id), body))

    def remove_session(self, session_id: str) -> None:
        """Delete a session.

        Raises:
            NotFound: there is no such session.
        """
        self._send("DELETE", _path("removeSession", session_id))

    # -- answers --------------------------------------------------------------------------------

    @contextmanager
    def stream(
        self,
        session_id: str,
        content: str,
        sampling: Sampling | None = None,
        *,
        expected_turn: int | None = None,
        request_id: str | None = None,
    ) -> Iterator[AnswerStream]:
        """Ask, and read the answer as it is made.  Leaving the block stops an unfinished answer.

        Asking again with the same ``request_id`` and the same rest returns the turn if it was
        stored; without one a new one is drawn, which protects the attempts of this call alone.

        Raises:
            PromptTooLong: the conversation does not fit into the context any more.
            InvalidRequest: a value is out of range; ``param`` names it.
            NotFound: there is no such session.
            Conflict: the session has not ``expected_turn`` turns, or is answering this very request.
            TooManyRequests: the queue was full for longer than ``patience``.
        """
        body: dict[str, Any] = {"content": content, "stream": True}
        body["request_id"] = request_id or uuid.uuid4().hex
        if expected_turn is not None:
            body["expected_turn"] = expected_turn
        if sampling is not None:
            body |= sampling.fields()
        response = self._open("PUT", _path("generate", session_id), body, repeatable=True)
        try:
            with self._translated():
                yield AnswerStream(response)
        finally:
            response.close()

    def generate(
        self,
        session_id: str,
        content: str,
        sampling: Sampling | None = None,
        *,
        expected_turn: int | None = None,
        request_id: str | None = None,
    ) -> Turn:
        """Ask, and return the turn when it is stored.  Arguments and errors are :meth:`stream`'s."""
        with self.stream(
            session_id, content, sampling, expected_turn=expected_turn, request_id=request_id
        ) as answer:
            return answer.read()

    def generate_tokens(self, session_id: str, tokens: Sequence[int]) -> list[int]:
        """The original's wire form: the whole context as token ids; returns the new ones."""
        return _token_ids(self._send("PUT", _path("generate", session_id), list(tokens)))

    # -- text and state -------------------------------------------------------------------------

    def tokenize(self, content: str) -> list[int]:
        """The token ids of a text."""
        body = self._read("POST", "/tokenize", {"content": content})
        return _token_ids(body.get("tokens") if isinstance(body, dict) else None)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        body = self._read("POST", "/detokenize", {"tokens": list(tokens)})
        if not isinstance(body, dict) or not isinstance(body.get("content"), str):
            raise UnexpectedReply("the server's reply has no content")
        return str(body["content"])

    def health(self) -> Health:
        """How the server is.

        Raises:
            ServerUnavailable: it is loading its model, or shutting down.
        """
        body = self._read("GET", "/health")
        if not isinstance(body, dict) or "status" not in body:
            raise UnexpectedReply(f"what answers at {self.url} is not chat-server")
        return Health(str(body["status"]), body.get("model"), body)

    def metrics(self) -> str:
        """The server's counters, as Prometheus reads them."""
        return self._exchange("GET", "/metrics", None, repeatable=True).text

    def openapi(self) -> dict[str, Any]:
        """The server's description of itself."""
        body = self._read("GET", "/openapi.json")
        if not isinstance(body, dict):
            raise UnexpectedReply("the server's reply is not an OpenAPI document")
        return body

    # -- the wire -------------------------------------------------------------------------------

    def _read(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that a request replies which changes nothing, and may be sent again."""
        return _decoded(self._exchange(method, path, body, repeatable=True))

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that a request replies which is sent once."""
        return _decoded(self._exchange(method, path, body, repeatable=False))

    def _exchange(self, method: str, path: str, body: Any, repeatable: bool) -> httpx.Response:
        response = self._open(method, path, body, repeatable)
        try:
            with self._translated():
                response.read()
        finally:
            response.close()
        return response

    def _open(self, method: str, path: str, body: Any, repeatable: bool) -> httpx.Response:
        """The reply with its status checked and its body unread."""
        deadline = time.monotonic() + self._patience
        lost: ConnectionLost | None = None
        while True:
            try:
                with self._translated():
                    return self._open_once(method, path, body)
            except TooManyRequests as refused:
                wait = min(max(refused.retry_after or 1.0, SHORTEST_WAIT), LONGEST_WAIT)
                # The server did nothing, so that anything may be sent again.
                if time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
            except ConnectionLost as error:
                if lost is not None or not repeatable:
                    raise
                lost = error
            except ServerUnreachable as error:
                if lost is None:
                    raise
                # That the server has gone by now says nothing about what it did before.
                raise lost from error

    def _open_once(self, method: str, path: str, body: Any) -> httpx.Response:
        content = None if body is None else _encoded(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        response = self._http.send(
            self._http.build_request(method, path, content=content, headers=headers), stream=True
        )
        if response.is_success:
            return response
        try:
            response.read()
            try:
                described = response.json()
            except ValueError:
                described = None
            raise refusal(described, response.status_code, response.headers.get("retry-after"))
        finally:
            response.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The errors of the wire as those of this package."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            reason = "" if "refused" in str(error) or not str(error) else f" ({error})"
            raise ServerUnreachable(
                f"no server answers at {self.url}{reason}; start chat-server, or name another with -u"
            ) from error
        except httpx.TimeoutException as error:
            raise ConnectionLost(
                f"the server at {self.url} has been silent for {self._silence:g} seconds"
            ) from error
        except httpx.TransportError as error:
            raise ConnectionLost(f"the connection to {self.url} was lost") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise UnexpectedReply(f"the reply of {self.url} cannot be read: {error}") from error


def _path(route: str, session_id: str) -> str:
    # An id with other characters is the server's to refuse, not to be taken for another path.
    return f"/{route}/{quote(session_id, safe='@:', errors='replace')}"


def _http_client(**options: Any) -> httpx.Client:
    try:
        return httpx.Client(**options)
    except (ValueError, ImportError, OSError) as error:
        # What else the constructor reads is the environment: proxies and files of certificates.
        raise InvalidParameter(
            "environment", f"a proxy or certificate setting of the environment cannot be used: {error}"
        ) from error


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter("content", "the text has characters that are not valid Unicode") from error
    except ValueError as error:
        raise InvalidParameter("sampling", "a number is not finite; JSON cannot carry it") from error


def _decoded(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise UnexpectedReply(f"{response.url} replied with something that is not JSON: {error}") from error


def _token_ids(body: Any) -> list[int]:
    if not isinstance(body, list) or not all(type(token) is int for token in body):
        raise UnexpectedReply("the server's reply is not an array of token ids")
    return body
