"""Whatever is sent, the answer is the documented error, and a neighbour's stream goes on undisturbed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest
from chat_server_process import ServerProcess, sse_events
from pydantic import TypeAdapter, ValidationError

from chat_server import bodies

PROBLEMS = {
    "nan": ('{"content": "x", "temperature": NaN}', "temperature"),
    "infinity": ('{"content": "x", "temperature": Infinity}', "temperature"),
    "minus infinity": ('{"content": "x", "top_p": -Infinity}', "top_p"),
    "1e308": ('{"content": "x", "repetition_penalty": 1e308}', "repetition_penalty"),
    "1e999": ('{"content": "x", "min_p": 1e999}', "min_p"),
    "minus one": ('{"content": "x", "top_k": -1}', "top_k"),
    "2^63": ('{"content": "x", "seed": 9223372036854775808}', "seed"),
    "2^100": ('{"content": "x", "seed": 1267650600228229401496703205376}', "seed"),
    "2^31": ('{"content": "x", "max_tokens": 2147483648}', "max_tokens"),
    "no tokens": ('{"content": "x", "max_tokens": 0}', "max_tokens"),
    "top_p zero": ('{"content": "x", "top_p": 0}', "top_p"),
    "true": ('{"content": "x", "temperature": true}', "temperature"),
    "false": ('{"content": "x", "max_tokens": false}', "max_tokens"),
    "text for a number": ('{"content": "x", "top_k": "5"}', "top_k"),
    "fraction": ('{"content": "x", "top_k": 1.5}', "top_k"),
    "number for a flag": ('{"content": "x", "stream": 1}', "stream"),
    "number for a text": ('{"content": 5}', "content"),
    "100,000 stops": (json.dumps({"content": "x", "stop": ["a"] * 100_000}), "stop"),
    "empty stop": ('{"content": "x", "stop": [""]}', "stop"),
    "long stop": (json.dumps({"content": "x", "stop": ["a" * 257]}), "stop"),
    "one stop": ('{"content": "x", "stop": "a"}', "stop"),
    "lone surrogate": (r'{"content": "\ud800"}', None),
    "nul": (r'{"content": "a\u0000b"}', "content"),
    "nul stop": (r'{"content": "a", "stop": ["\u0000"]}', "stop"),
    "unknown field": ('{"content": "x", "temprature": 1}', "temprature"),
    "a field twice": ('{"content": "x", "content": "y"}', "content"),
    "a field twice, spelled otherwise": (r'{"content": "x", "seed": 1, "\u0073eed": 2}', "seed"),
    "long name": (json.dumps({"content": "x", "n" * 5000: 1}), None),
    "100,000 names": (json.dumps({"content": "x"} | {f"n{index}": 1 for index in range(70_000)}), None),
    "empty content": ('{"content": ""}', "content"),
    "no content": ('{"seed": 1}', "content"),
    "null content": ('{"content": null}', "content"),
    "bad request id": ('{"content": "x", "request_id": "a b"}', "request_id"),
    "empty request id": ('{"content": "x", "request_id": ""}', "request_id"),
    "negative turn": ('{"content": "x", "expected_turn": -1}', "expected_turn"),
    "deep": ("[" * 100_000, None),
    "deep object": ('{"content": ' * 50_000, None),
    "no json": ("{content: 1}", None),
    "nothing": ("", None),
    "a number": ("5", None),
    "not utf-8": (b'{"content": "\xff"}', None),
    "too long": (json.dumps({"content": "word " * 2000}), "content"),
    "a megabyte": (json.dumps({"content": "word " * 200_000}), "content"),
}


def assert_error(answer: httpx.Response, status: int, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["err_msg"] == body["error"]["message"] and body["error"]["code"]
    assert body["error"]["type"] == "invalid_request_error"
    if param is not None:
        assert body["error"]["param"] == param
    assert "/" not in body["err_msg"].replace("application/json", "").replace("/docs", "")
    assert len(answer.content) < 2000


def test_each_is_refused_and_nobody_else_is_disturbed(server: ServerProcess, client: httpx.Client) -> None:
    names = ("bad-input", "neighbour", "expected")
    for name in names:
        client.post("/createSession", json={"id": name})
    talk = {"content": "Once upon a time", "max_tokens": 60, "seed": 4, "stream": True, "temperature": 1.0}
    expected = sse_events(client.put("/generate/expected", json=talk))
    streams: list[httpx.Response] = []

    def stream() -> None:
        with server.client() as neighbour:
            streams.append(neighbour.put("/generate/neighbour", json=talk))

    thread = threading.Thread(target=stream)
    thread.start()
    for body, param in PROBLEMS.values():
        answer = client.put("/generate/bad-input", content=body, headers={"Content-Type": "application/json"})
        assert_error(answer, 400, param)
    thread.join()
    assert [event for event in sse_events(streams[0]) if event[0] == "token"] == expected[:-1]
    history = client.get("/history/bad-input").json()
    assert history["turns"] == [] and history["tokens"] == 0


def test_a_megabyte_of_text_stops_nobody(
    server: ServerProcess, client: httpx.Client, session_id: str
) -> None:
    """It is tokenized beside the event loop, and without holding up Python's other threads."""
    seconds: list[float] = []

    def send() -> None:
        with server.client() as other:
            started = time.monotonic()
            body = {"content": "Ünïcödé salad, 123; " * 30_000}
            assert_error(other.put(f"/generate/{session_id}", json=body), 400, "content")
            seconds.append(time.monotonic() - started)

    thread = threading.Thread(target=send)
    thread.start()
    slowest = 0.0
    while thread.is_alive():
        started = time.monotonic()
        assert client.get("/health").status_code == 200
        slowest = max(slowest, time.monotonic() - started)
    thread.join()
    assert slowest < 0.5 * seconds[0]


@pytest.mark.parametrize(
    "body",
    [b"", b"a b", b"a/b", b"\xff", "é".encode(), b"x" * 129, b"a\n", b"a\x00", b'{"id": "a"}', b"<script>"],
)
def test_bad_session_ids(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/createSession", content=body, headers={"Content-Type": "text/plain"})
    assert_error(answer, 400, "id")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"id": "a b"}, "id is not valid: use 1 to 128 characters of A-Z a-z 0-9 . _ - @ :"),
        ({"id": "ok", "system": "a\0"}, "system is not valid: it has a NUL character; leave it out"),
    ],
)
def test_a_pattern_is_told_in_words(client: httpx.Client, body: dict[str, str], message: str) -> None:
    assert client.post("/createSession", json=body).json()["error"]["message"] == message


def test_good_session_ids(client: httpx.Client) -> None:
    for name in ("a", "A-Z_0.9@host:1", "x" * 128):
        assert client.post("/createSession", content=name).status_code == 201
        assert client.delete(f"/removeSession/{name}").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"id": "ok", "bogus": 1}, "bogus"),
        ({"system": "x"}, "id"),
        ({"id": 5}, "id"),
        ({"id": "ok", "system": 1}, "system"),
        ({"id": "ok", "system": "a\0"}, "system"),
        ({"id": "ok", "sampling": {"temperature": -1}}, "sampling.temperature"),
        ({"id": "ok", "sampling": {"bogus": 1}}, "sampling.bogus"),
        ({"id": "ok", "sampling": []}, "sampling"),
    ],
)
def test_bad_sessions(client: httpx.Client, body: dict[str, object], param: str) -> None:
    assert_error(client.post("/createSession", json=body), 400, param)


@pytest.mark.parametrize(
    "body", ['{"turn": true}', '{"turn": 1.5}', '{"turn": "0"}', "{}", "null", "true", "1e99"]
)
def test_bad_reverts(client: httpx.Client, session_id: str, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    assert_error(client.put(f"/revert/{session_id}", content=body, headers=headers), 400)


@pytest.mark.parametrize(
    "declared", ["application/x-www-form-urlencoded", "application/xml", "multipart/form-data"]
)
def test_bodies_that_are_no_json(client: httpx.Client, session_id: str, declared: str) -> None:
    """What a web page's form could send reaches nothing."""
    headers = {"Content-Type": declared}
    for method, path, body in (
        ("POST", "/createSession", "user0"),
        ("PUT", f"/generate/{session_id}", '{"content": "x"}'),
        ("PUT", f"/generate/{session_id}", "[1]"),
        ("PUT", f"/revert/{session_id}", "0"),
        ("POST", f"/fork/{session_id}", '{"id": "x"}'),
        ("POST", "/tokenize", '{"content": "x"}'),
    ):
        assert_error(client.request(method, path, content=body, headers=headers), 400)


def test_of_a_long_list_the_first_mistake_is_told() -> None:
    """Describing all of them would keep everybody waiting for seconds."""
    for kind, body in (
        (bodies.TOKEN_IDS, b"[" + b"-1," * 1000 + b"1]"),
        (TypeAdapter(bodies.Detokenize), b'{"tokens": [' + b"-1," * 1000 + b"1]}"),
        (TypeAdapter(bodies.Generate), b'{"content": "x", "stop": [' + b"1," * 1000 + b"1]}"),
    ):
        with pytest.raises(ValidationError) as refused:
            kind.validate_json(body)
        assert refused.value.error_count() == 1


def test_large_bodies_are_read_one_after_the_other(client: httpx.Client, session_id: str) -> None:
    """As arrays of token ids, too; and in any number they get an answer."""
    for ids in ([-1] * 100_000, [1] * 100_000, [2000.5] * 100_000):
        assert_error(client.put(f"/generate/{session_id}", json=ids), 400, "content")
    long = {"content": "word " * 20_000}
    assert len(client.post("/tokenize", json=long).json()["tokens"]) >= 20_000

    async def flood() -> list[int]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as many:
            requests = (many.post("/tokenize", json=long) for _ in range(60))
            return [answer.status_code for answer in await asyncio.gather(*requests)]

    statuses = asyncio.run(flood())
    assert set(statuses) <= {200, 429} and statuses.count(200) >= 16


def test_a_system_message_that_leaves_no_room(client: httpx.Client) -> None:
    answer = client.post("/createSession", json={"id": "full", "system": "word " * 600})
    assert_error(answer, 400, "system")
    error = answer.json()["error"]
    assert (error["code"], error["context_length"]) == ("context_length_exceeded", 512)
    assert client.get("/history/full").status_code == 404


def test_bad_tokens(client: httpx.Client) -> None:
    for tokens in ([-1], [2048], [1.5], ["a"], None, 5, [True]):
        assert_error(client.post("/detokenize", json={"tokens": tokens}), 400, "tokens")


def test_unknown_places(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/history/nobody", 404),
        ("GET", "/history/" + "x" * 200, 404),
        ("GET", "/history/%00", 404),
        ("GET", "/history/%ff", 404),
        ("DELETE", "/removeSession/nobody", 404),
        ("GET", "/sessions/", 404),
        ("POST", "/health", 405),
        ("PATCH", "/createSession", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] in ("not_found_error", "invalid_request_error")
        if status == 405:
            assert answer.headers["allow"]


def test_control_tokens_that_a_user_types_are_text(client: httpx.Client, session_id: str) -> None:
    """``<|end|>`` is the story model's end token; in a user's text it is seven characters."""
    plain = client.post("/tokenize", json={"content": "<|end|>"}).json()["tokens"]
    control = client.post("/tokenize", json={"content": "<|end|>", "special": True}).json()["tokens"]
    assert len(control) == 1 and control[0] not in plain
    client.put(f"/generate/{session_id}", json={"content": "Hello <|end|> you", "max_tokens": 3})
    tokens = client.put(f"/revert/{session_id}", content="0").json()
    assert tokens == []
    client.put(f"/generate/{session_id}", json={"content": "Hello <|end|> you", "max_tokens": 3})
    client.put(f"/generate/{session_id}", json={"content": "x", "max_tokens": 1})
    prompt = client.put(f"/revert/{session_id}", content="1").json()
    assert control[0] not in prompt[:-3]
    assert "<|end|>" in client.post("/detokenize", json={"tokens": prompt}).json()["content"]


def test_a_large_body_is_refused_before_it_is_read(server: ServerProcess, client: httpx.Client) -> None:
    for content in (b"x" * (8 << 20), iter([b"x" * (1 << 20)] * 3)):
        answer = client.put("/generate/any", content=content, headers={"Content-Type": "application/json"})
        assert_error(answer, 413)
        assert answer.headers["connection"] == "close"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        # Not one byte of the body is sent, and the answer is there.
        connection.sendall(b"PUT /generate/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
