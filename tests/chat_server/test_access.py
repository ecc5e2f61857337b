"""Who may ask: keys, host names, slow and numerous connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import httpx
import pytest
from chat_server_process import ServerProcess

from chat_server.cli import chat_server
from chat_server.errors import InvalidRequest, Unauthenticated
from chat_server.gate import Hosts, Keys
from lm_cli.program import run

StartServer = Callable[..., ServerProcess]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_each_key_sees_its_own_sessions(start_server: StartServer) -> None:
    server = start_server("--api-key", "one", environment={"CHAT_SERVER_API_KEY": "ignored"})
    server.stop()
    server = start_server(environment={"CHAT_SERVER_API_KEY": "one, two"})
    with server.client() as client:
        assert client.get("/health").status_code == 200
        for headers in (
            {},
            bearer("three"),
            {"Authorization": "one"},
            {"Authorization": "Basic one"},
        ):
            for path in ("/sessions", "/docs", "/openapi.json", "/metrics", "/nowhere"):
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
                assert refused.json()["error"]["type"] == "authentication_error"
        for key in ("one", "two"):
            created = client.post("/createSession", json={"id": "mine"}, headers=bearer(key))
            assert created.status_code == 201
        client.post("/createSession", json={"id": "only-one"}, headers=bearer("one"))
        assert len(client.get("/sessions", headers=bearer("two")).json()["sessions"]) == 1

        def answers(name: str) -> list[tuple[int, str]]:
            told = [
                client.get(f"/history/{name}", headers=bearer("two")),
                client.put(f"/generate/{name}", json={"content": "x"}, headers=bearer("two")),
                client.put(f"/revert/{name}", json={"turn": 0}, headers=bearer("two")),
                client.post(f"/fork/{name}", json={"id": "new"}, headers=bearer("two")),
                client.delete(f"/removeSession/{name}", headers=bearer("two")),
            ]
            return [(answer.status_code, answer.text.replace(name, "NAME")) for answer in told]

        # A foreign session and a missing one cannot be told apart.
        assert answers("only-one") == answers("missing")
        assert client.get("/history/only-one", headers=bearer("one")).status_code == 200
        assert "security" in client.get("/openapi.json", headers=bearer("one")).json()
    assert server.stop() == 0


def test_keys_are_compared_whole() -> None:
    keys = Keys(["secret", "schlüssel"])
    owner = keys.owner("Bearer secret")
    assert len(owner) == 64 and "secret" not in owner
    # Headers come as Latin-1; a key that is not ASCII was sent as UTF-8.
    assert keys.owner("bearer " + "schlüssel".encode().decode("latin-1")) != owner
    for wrong in ("Bearer secre", "Bearer secret1", "Bearer", "", None, "Token secret"):
        with pytest.raises(Unauthenticated):
            keys.owner(wrong)
    assert Keys([]).owner(None) == ""
    # The byte 0xFF, as an argument that is no text arrives.
    assert Keys(["\udcff"]).owner("Bearer \xff")


@pytest.mark.parametrize(
    ("bound", "allowed", "header", "accepted"),
    [
        ("127.0.0.1", [], "localhost:8000", True),
        ("127.0.0.1", [], "LOCALHOST", True),
        ("127.0.0.1", [], "127.0.0.1", True),
        ("127.0.0.1", [], "[::1]:8000", True),
        ("127.0.0.1", [], "evil.example", False),
        ("127.0.0.1", [], "localhost.evil.example", False),
        ("127.0.0.1", [], "", False),
        ("127.0.0.1", [], None, False),
        ("127.0.0.1", [], "192.168.0.7", False),
        ("127.0.0.1", ["chat.example"], "chat.example:443", True),
        ("127.0.0.1", ["*"], "anything", True),
        ("0.0.0.0", [], "192.168.0.7:8000", True),
        ("0.0.0.0", [], "evil.example", False),
        ("chat.lan", [], "chat.lan", True),
    ],
)
def test_host_names(bound: str, allowed: list[str], header: str | None, accepted: bool) -> None:
    hosts = Hosts(bound, allowed)
    if accepted:
        hosts.check(header)
    else:
        with pytest.raises(InvalidRequest) as refused:
            hosts.check(header)
        assert refused.value.status == 421


def test_another_host_is_refused(client: httpx.Client) -> None:
    answer = client.get("/health", headers={"Host": "evil.example"})
    assert answer.status_code == 421 and answer.json()["error"]["code"] == "invalid_host"
    long = client.get("/health", headers={"Host": "x" * 5000})
    assert long.status_code == 421 and len(long.content) < 1000
    cors = client.options("/sessions", headers={"Origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in cors.headers)


def test_slow_requests(start_server: StartServer) -> None:
    """Head and body must come in time, a dribble does not extend it; an idle connection is closed."""
    server = start_server("--request-timeout", "0.4")
    head = b"PUT /generate/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
    with server.client() as fast:
        for sent in (b"GET /hea", head + b'{"content"', b""):
            with connect(server) as connection:
                connection.sendall(sent)
                started = time.monotonic()
                answer = read_all(connection)
                assert answer.startswith(b"HTTP/1.1 408 "), (sent, answer)
                assert b'"code": "request_timeout"' in answer and time.monotonic() - started < 20
                assert fast.get("/health").status_code == 200
        with connect(server) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(9000).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"GET /hea")
            assert b"HTTP/1.1 408 " in read_all(connection)
    assert server.stop() == 0
    assert not any("ERROR" in line for line in server.log)


def test_the_number_of_connections(start_server: StartServer) -> None:
    server = start_server("--max-connections", "3")
    with connect(server) as one, connect(server) as two, connect(server) as three:
        for connection in (one, two, three):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(9000).startswith(b"HTTP/1.1 200 ")
        with connect(server) as four:
            answer = read_all(four)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in answer
    with server.client() as client:
        client.get("/health").raise_for_status()
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], ["--api-key"]),
        (["--host", "::"], ["--insecure"]),
        (["--api-key", ""], ["empty"]),
        (["--kv-budget", "lots"], ["512M"]),
        (["--temperature", "nan"], ["temperature"]),
        (["--max-running", "0"], ["--max-running"]),
        (["--grace", "-1"], ["--grace"]),
    ],
)
def test_wrong_usage(options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(chat_server, "chat-server", ["-m", "models/story", "--port", "0", *options]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert all(word in told.err for word in words), told.err
