"""What every request passes before the app sees it: host, key, size and time of its body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_server.bodies import LARGEST_BODY, LONGEST_NAME
from chat_server.errors import (
    InvalidRequest,
    RequestError,
    ServerFault,
    Unauthenticated,
    Unavailable,
    as_request_error,
)
from chat_server.large_work import LARGE_BODY, LargeWork

OPEN_PATHS = ("/health",)
"""What may be asked without a key."""
TURNS, TURN_ROUTE = "/generate/", "/generate/{id}"
"""What takes a turn: paths that begin so, with PUT; and how the figures name them."""
KNOWN_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"

DISCARD_SECONDS = 5.0
"""How long a body that nobody wants is thrown away, so that its sender gets to read the answer."""
UNTRUSTED_DISCARD_SECONDS = 0.1
"""The same of who has no key, names another host, or was too slow."""
UNWANTED_BODY = (413, 429, 503)
"""What the others are refused with whose body is not read."""

logger = logging.getLogger(__name__)

RequestCounter = Callable[[str, str, int], None]
RefuseTurn = Callable[[], None]
"""Raises what a turn is refused with that could not be taken on now."""


class Keys:
    """The API keys.  Who uses one is known by its hash."""

    def __init__(self, keys: Sequence[str]) -> None:
        # Bytes of an argument or a variable that are no text come as lone surrogates.
        self._digests = [hashlib.sha256(key.encode(errors="surrogateescape")).digest() for key in keys]

    def owner(self, authorization: str | None) -> str:
        """Who sends this ``Authorization`` header; "" where no keys are set.

        Raises:
            Unauthenticated: it holds no valid key.
        """
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        # Latin-1 gives back the header's bytes, and comparing hashes takes the same time for any key.
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        valid = [digest for digest in self._digests if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not valid:
            raise Unauthenticated(
                "invalid_api_key",
                "a valid API key is needed; send it as 'Authorization: Bearer KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return given.hex()


class Hosts:
    """The names by which the server may be called: a web page must not reach it by one of its own."""

    def __init__(self, bound: str, allowed: Sequence[str]) -> None:
        self._names = {name.lower().strip("[]") for name in (*LOOPBACK_HOSTS, bound, *allowed)}
        # Who listens on all addresses may be called by any of them; a page cannot fake an address.
        self._any_address = bound in ("0.0.0.0", "::", "")

    def check(self, header: str | None) -> None:
        """Raises :class:`InvalidRequest` (421) for a ``Host`` that is not this server."""
        name = _host_name(header or "")
        if ANY_HOST in self._names or name in self._names or (self._any_address and _is_address(name)):
            return
        raise InvalidRequest(
            "invalid_host",
            f"this server is not {name[:LONGEST_NAME]!r}; start it with --allowed-host to allow that name",
            status=421,
        )


def _host_name(header: str) -> str:
    """The name in a ``Host`` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@dataclass
class _Answer:
    """Keeps track of what has been answered."""

    send: Send
    status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)


class Gate:
    """Wraps the app.  Bodies are read here, whole and bounded, before the app is called.

    What an overloaded server does not take on is refused here, where it costs least: a turn for which
    there is no place, and a large body beside too many others, before it is read.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        hosts: Hosts,
        request_timeout: float,
        count: RequestCounter,
        refuse_turn: RefuseTurn,
        large_bodies: LargeWork,
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._request_timeout = request_timeout
        self._count = count
        self._refuse_turn = refuse_turn
        self._large_bodies = large_bodies
        self._receiving: set[asyncio.Timeout] = set()
        self._ended = False

    def end(self) -> None:
        """From now on wait for nothing that a client has yet to send."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for limit in self._receiving:
            if not limit.expired():
                limit.reschedule(now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        takes_turn = scope["method"] == "PUT" and scope["path"].startswith(TURNS)
        body_read = False
        try:
            self._hosts.check(headers.get("host"))
            owner = "" if scope["path"] in OPEN_PATHS else self._keys.owner(headers.get("authorization"))
            scope["state"]["owner"] = owner
            if (size := _declared_size(headers)) > LARGEST_BODY:
                raise _too_large()
            if size <= LARGE_BODY:
                body = await self._body(receive)
            else:
                if takes_turn:
                    self._refuse_turn()
                with self._large_bodies.place():
                    body = await self._body(receive)
            if body is None:
                return
            body_read = True
            if takes_turn:
                # A small body has come along with its head; once it is read, the connection can stay open.
                self._refuse_turn()
            await self._app(scope, _replay(body, receive), answer)
        except RequestError as error:
            await self._refuse(error, answer, None if body_read else receive)
        except Exception as error:
            # A mistake: the app may have answered it, and leaves it to be logged here.
            logger.exception("a request failed", extra={"method": scope["method"], "path": scope["path"]})
            if answer.status is None:
                await self._refuse(as_request_error(error), answer, None)
        finally:
            route = getattr(scope.get("route"), "path", TURN_ROUTE if takes_turn else "other")
            method = scope["method"] if scope["method"] in KNOWN_METHODS else "other"
            if answer.status is not None:
                self._count(method, route, answer.status)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone."""
        body = bytearray()
        try:
            async with self._time_to_send(self._request_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > LARGEST_BODY:
                        raise _too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            if self._ended:
                raise Unavailable(
                    "draining", "the server is shutting down; try again later", headers={"Retry-After": "5"}
                ) from None
            raise InvalidRequest(
                "request_timeout",
                f"the request did not arrive within {self._request_timeout:g} s",
                status=408,
            ) from None

    async def _refuse(self, error: RequestError, send: Send, unread: Receive | None) -> None:
        """Send an error; a body that was not read ends the connection, once its sender could read why."""
        if isinstance(error, ServerFault):
            logger.error("%s", error)
        body, headers = error_answer(error)
        if unread is None:
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        # The client has all of it now, but the connection stays open while it is still sending.
        await send({"type": "http.response.body", "body": body, "more_body": True})
        try:
            unwanted = error.status in UNWANTED_BODY
            async with self._time_to_send(DISCARD_SECONDS if unwanted else UNTRUSTED_DISCARD_SECONDS):
                while (message := await unread())["type"] == "http.request" and message.get("more_body"):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})

    @asynccontextmanager
    async def _time_to_send(self, seconds: float) -> AsyncIterator[None]:
        """What a client may take to send something; raises ``TimeoutError`` when it, or the server, ends."""
        async with asyncio.timeout(0 if self._ended else seconds) as limit:
            self._receiving.add(limit)
            try:
                yield
            finally:
                self._receiving.discard(limit)


def _declared_size(headers: dict[str, str]) -> int:
    """Bytes of the body, as far as the head tells: one in pieces may become as large as any."""
    if "transfer-encoding" in headers:
        return LARGEST_BODY
    declared = headers.get("content-length", "0")
    return int(declared) if declared.isascii() and declared.isdigit() else 0


def _too_large() -> InvalidRequest:
    return InvalidRequest("body_too_large", f"the body is larger than {LARGEST_BODY} bytes", status=413)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, and then only what comes after it: the end of the connection."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def error_answer(error: RequestError) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of an error."""
    body = json.dumps(error.body(), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    return body, [(name.lower().encode(), value.encode()) for name, value in headers.items()]
