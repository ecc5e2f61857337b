"""The application without a network: what it says while it loads, and of its own mistakes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from chat_server.admission import Admission
from chat_server.app import make_app
from chat_server.errors import ServerFault
from chat_server.gate import Gate, Hosts, Keys
from chat_server.large_work import LARGE_BODY, MOST_WAITING
from chat_server.state import ServerState
from chat_server.store import StoreBusy, StoreDamaged

Ask = Callable[[httpx.AsyncClient], Awaitable[None]]


def gate_of(state: ServerState) -> Gate:
    """The gate of an app over ``state``, for everybody."""
    app = make_app(state, False)
    return Gate(app, Keys([]), Hosts("", ["*"]), 5.0, state.metrics.request, state.refuse_turn, state.bodies)


def with_app(state: ServerState, ask: Ask) -> None:
    """Run ``ask`` with a client of an app over ``state``."""
    gate = gate_of(state)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate({**scope, "state": {}}, receive, send)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            await ask(client)

    asyncio.run(run())


class FailingService:
    """Every listing of sessions comes to the same end."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def sessions(self, _owner: str) -> Any:
        raise self.error


def test_while_loading_every_route_says_so() -> None:
    """The port answers before the model is there."""

    async def ask(client: httpx.AsyncClient) -> None:
        health = await client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "loading"
        for method, path in (("GET", "/sessions"), ("POST", "/createSession"), ("PUT", "/generate/a")):
            answer = await client.request(method, path)
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
            assert answer.headers["retry-after"]
        assert (await client.get("/openapi.json")).status_code == 200

    with_app(ServerState(1), ask)


@pytest.mark.parametrize(
    ("error", "status", "kind", "logged"),
    [
        (ValueError("secret /etc/passwd"), 500, "server_error", True),
        (StoreDamaged("a turn is not what was stored"), 500, "server_error", True),
        (StoreBusy("another process holds the store"), 503, "unavailable_error", False),
        (MemoryError(), 503, "unavailable_error", False),
        # Whoever made an answer of it has logged it.
        (ServerFault("internal_error", "the server made a mistake"), 500, "server_error", False),
    ],
)
def test_mistakes_and_damage(
    error: Exception, status: int, kind: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A client learns what it can act on, the log learns the rest, once."""
    state = ServerState(1)
    state.service = FailingService(error)  # type: ignore[assignment]

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.get("/sessions")
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        assert "secret" not in answer.text and "Traceback" not in answer.text

    with caplog.at_level(logging.ERROR):
        with_app(state, ask)
    assert len(caplog.records) == logged
    assert all(record.exc_info for record in caplog.records)


class FullService:
    """One turn is taken, and there is no room for another."""

    def __init__(self) -> None:
        self.admission = Admission(max_running=1, max_queue=0)
        self.admission.enter()


def refused(state: ServerState, path: str, size: int) -> list[Message]:
    """What is sent to who asks with a body of ``size`` bytes, none of which may be read before that."""
    sent: list[Message] = []

    async def receive() -> Message:
        assert sent or size <= LARGE_BODY
        return {"type": "http.request", "body": b"{" * size, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": path,
        "headers": [(b"host", b"localhost"), (b"content-length", str(size).encode())],
        "state": {},
    }
    asyncio.run(gate_of(state)(scope, receive, send))
    return sent


@pytest.mark.parametrize("size", [100, LARGE_BODY + 1])
def test_a_full_server_does_not_look_at_the_body(size: int) -> None:
    state = ServerState(1)
    state.service = FullService()  # type: ignore[assignment]
    start = refused(state, "/generate/a", size)[0]
    headers = dict(start["headers"])
    assert start["status"] == 429 and int(headers[b"retry-after"]) >= 1
    # What is left unread of a large body ends the connection.
    assert (headers.get(b"connection") == b"close") is (size > LARGE_BODY)
    assert b'requests_total{method="PUT",route="/generate/{id}",status="429"} 1.0' in state.metrics.text()


def test_a_large_body_beside_too_many_others_is_not_read() -> None:
    state = ServerState(1)
    with ExitStack() as others:
        for _ in range(MOST_WAITING):
            others.enter_context(state.bodies.place())
        start = refused(state, "/tokenize", LARGE_BODY + 1)[0]
    assert start["status"] == 429 and dict(start["headers"])[b"retry-after"] == b"1"
