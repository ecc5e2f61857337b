"""HTTP as it is spoken on the wire, well and badly, over plain sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import httpx
import pytest
from chat_server_process import ServerProcess

from chat_server.heads import LARGEST_HEAD
from chat_server.protocol import MOST_UNANSWERED

StartServer = Callable[..., ServerProcess]

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST
LAST = HEALTH + b"Connection: close\r\n\r\n"
"""What makes the server close the connection, so that a test knows that it has read all."""
UPGRADE = b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b'5\r\n{"con\r\nd;of=text\r\ntent": "abc"}\r\n0\r\n'


def tokenize(*headers: bytes, body: bytes = b'{"content": "abc"}', version: bytes = b"1.1") -> bytes:
    """A request with a body; its length is told where ``headers`` do not say how it comes."""
    length = b"" if CHUNKED in headers else b"Content-Length: %d\r\n" % len(body)
    head = b"POST /tokenize HTTP/%s\r\n%sContent-Type: application/json\r\n" % (version, HOST)
    return head + length + b"".join(headers) + b"\r\n" + body


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def answers(told: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer of known length."""
    found = []
    while told:
        head, _, rest = told.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:])
        length = int(fields.get(b"content-length", 0))
        found.append((int(lines[0].split()[1]), rest[:length]))
        told = rest[length:]
    return found


def ask(server: ServerProcess, request: bytes) -> list[tuple[int, bytes]]:
    """The answers until the server closes the connection."""
    with connect(server) as connection:
        connection.sendall(request)
        return answers(read_all(connection))


def code(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]["code"]


def test_requests_in_a_row_are_answered_in_their_order(server: ServerProcess) -> None:
    told = ask(server, tokenize() + HEALTH + b"\r\n" + tokenize(CHUNKED, body=CHUNKS + b"\r\n") + LAST)
    assert [status for status, _ in told] == [200] * 4
    assert [b"tokens" in body for _, body in told] == [True, False, True, False]


def test_what_is_wrong_comes_after_what_was_right(server: ServerProcess) -> None:
    for wrong in (b"nonsense\r\n\r\n", tokenize(CHUNKED, body=b"no number\r\n")):
        *right, last = ask(server, HEALTH + b"\r\n" + tokenize() + wrong)
        assert [status for status, _ in right] == [200, 200] and code(last) == (400, "invalid_http")


def test_unanswered_requests_are_bounded(server: ServerProcess) -> None:
    *taken, refused = ask(server, (HEALTH + b"\r\n") * (MOST_UNANSWERED + 9))
    assert [status for status, _ in taken] == [200] * MOST_UNANSWERED
    assert code(refused) == (503, "too_much_at_once")


def test_a_client_that_asked_for_more_goes_away(start_server: StartServer) -> None:
    """What it asked for first is given up, too."""
    server = start_server()
    with server.client() as client:
        client.post("/createSession", json={"id": "a"})
        body = b'{"content": "Once", "max_tokens": 400, "stream": true}'
        with connect(server) as connection:
            head = b"PUT /generate/a HTTP/1.1\r\n%sContent-Type: application/json\r\n" % HOST
            connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) + HEALTH + b"\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        while server.metric("running"):
            pass
        assert client.get("/history/a").json()["turns"] == []
    assert server.stop() == 0


def test_a_head_has_a_bound(server: ServerProcess, client: httpx.Client) -> None:
    filling = b"x" * (LARGEST_HEAD // 2)
    for request in (
        HEALTH + b"X: %s\r\nY: %s\r\n\r\n" % (filling, filling),
        (HEALTH + b"X: %s%s" % (filling, filling))[: LARGEST_HEAD + 1],
        (b"GET /%s%s" % (filling, filling))[: LARGEST_HEAD + 1],
        b"\r\n" * (LARGEST_HEAD // 2 + 1),
    ):
        assert [code(answer) for answer in ask(server, request)] == [(431, "head_too_large")]
    assert client.get("/health", headers={"X": filling.decode()}).status_code == 200


def test_a_trailer_has_a_bound_and_no_meaning(server: ServerProcess) -> None:
    told = ask(server, tokenize(CHUNKED, body=CHUNKS + b"Host: evil.example\r\n\r\n") + LAST)
    assert [status for status, _ in told] == [200, 200]
    with connect(server) as connection:
        connection.sendall(tokenize(CHUNKED, body=CHUNKS + b"X: "))
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"x" * LARGEST_HEAD)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/0.9\r\n\r\n",
        b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://:x/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
        HEALTH + HOST + b"\r\n",
        HEALTH + b"X: a\0b\r\n\r\n",
        HEALTH + b"X : a\r\n\r\n",
        HEALTH + b"X: a\r\n b\r\n\r\n",
        tokenize(b"Content-Length: 18\r\n"),
        tokenize(b"Transfer-Encoding: gzip\r\n"),
        tokenize(CHUNKED, b"Content-Length: 5\r\n", body=CHUNKS + b"\r\n"),
        tokenize(CHUNKED.replace(b"chunked", b"gzip, chunked")),
        tokenize(CHUNKED, body=b"ffffffffffffffffff\r\n"),
    ],
)
def test_what_is_no_http(server: ServerProcess, request_: bytes) -> None:
    assert [code(answer) for answer in ask(server, request_)] == [(400, "invalid_http")]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/health?", 200),
        (b"/health?a=%zz&%00", 200),
        (b"/he%61lth", 200),
        (b"http://localhost/health", 200),
        (b"http://localhost", 404),
        (b"//health", 404),
        (b"*", 404),
        (b"/history/%00%ff%zz%", 404),
        (b'/history/{}|"<>^`\\', 404),
    ],
)
def test_targets(server: ServerProcess, target: bytes, status: int) -> None:
    request = b"GET %s HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (target, HOST)
    assert [status for status, _ in ask(server, request)] == [status]


@pytest.mark.parametrize(
    "request_",
    [
        HEALTH + UPGRADE + b"\r\n",
        LAST.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"close", b"Upgrade\r\nUpgrade: h2c"),
        tokenize(UPGRADE),
        tokenize(UPGRADE, CHUNKED, body=CHUNKS + b"\r\n"),
    ],
)
def test_nobody_has_to_grant_an_upgrade(server: ServerProcess, request_: bytes) -> None:
    assert [status for status, _ in ask(server, request_)] == [200]
    with connect(server) as connection:
        for byte in request_:
            connection.sendall(bytes([byte]))
        assert [status for status, _ in answers(read_all(connection))] == [200]


def test_a_body_is_asked_for(server: ServerProcess) -> None:
    expecting = tokenize(b"Expect: 100-continue\r\nConnection: close\r\n")
    head, body = expecting[:-18], expecting[-18:]
    with connect(server) as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert [status for status, _ in answers(read_all(connection))] == [200]
    # Not where it is there already, where nobody wants it, nor of a client that would not understand.
    assert [status for status, _ in ask(server, expecting)] == [200]
    large = head.replace(b"Content-Length: 18", b"Content-Length: 9000000")
    with connect(server) as connection:
        connection.sendall(large)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert [status for status, _ in ask(server, expecting.replace(b"HTTP/1.1", b"HTTP/1.0"))] == [200]


def test_http_1_0(server: ServerProcess, session_id: str) -> None:
    """It knows neither chunks nor connections that stay."""
    assert [status for status, _ in ask(server, b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n")] == [200]
    body = b'{"content": "x", "max_tokens": 2, "stream": true}'
    head = b"PUT /generate/%s HTTP/1.0\r\n%sContent-Type: application/json\r\n" % (session_id.encode(), HOST)
    with connect(server) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        answer_head, _, stream = read_all(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer_head.lower() and b"connection: close" in answer_head.lower()
    assert stream.startswith(b"event: token\ndata: ") and stream.endswith(b"}\n\n")


def test_a_head_alone_is_answered_with_one(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(LAST.replace(b"GET", b"HEAD"))
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ") and body == b""
