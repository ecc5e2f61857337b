"""The client library: every route of a real server, and every way in which a server can fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from chat_clients import ChatServer

from chat_cli.client import ChatClient
from chat_cli.conversation import Conversation
from chat_cli.errors import (
    AuthenticationFailed,
    ChatError,
    Conflict,
    ConnectionLost,
    InvalidRequest,
    NotFound,
    PromptTooLong,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServerUnreachable,
    TooManyRequests,
    UnexpectedReply,
)
from chat_cli.records import Sampling
from lm_core.errors import InvalidParameter

FEW = Sampling(max_tokens=4, temperature=0.0)
TURN = {
    "turn": 0,
    "content": "yes",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": 0},
    "timings": {"prompt_ms": 1, "prompt_per_second": 1, "predicted_ms": 1, "predicted_per_second": 1},
    "request_id": "r",
}
SESSION = {
    "id": "a",
    "model": "m",
    "created_at": "t",
    "turns": 0,
    "tokens": 0,
    "context_length": 9,
    "system": None,
}


@pytest.fixture
def client(server: ChatServer) -> Iterator[ChatClient]:
    with server.client() as client:
        yield client


# -- a real server ------------------------------------------------------------------------------


def test_every_route(client: ChatClient, session_id: str) -> None:
    begun = client.create_session(session_id, "Be kind.", Sampling(seed=3))
    assert (begun.id, begun.turns, begun.system, begun.parent) == (session_id, 0, "Be kind.", None)
    turn = client.generate(session_id, "One", FEW)
    assert (turn.index, turn.usage.completion_tokens) == (0, 4)
    history = client.history(session_id)
    assert [(past.user, past.assistant) for past in history.turns] == [("One", turn.content)]
    assert session_id in [session.id for session in client.sessions()]
    forked = client.fork(session_id, f"{session_id}-fork")
    assert (forked.turns, forked.parent) == (1, session_id)
    assert client.revert(session_id, 0, expected_turn=1).turns == 0
    client.remove_session(session_id)
    with pytest.raises(NotFound):
        client.history(session_id)
    assert client.detokenize(client.tokenize("Once upon a time")) == "Once upon a time"
    assert client.health().status == "ok"
    assert "chat_server_" in client.metrics()
    assert (
        "/generate/{session_id}" in client.openapi()["paths"] or "/generate/{id}" in client.openapi()["paths"]
    )


def test_the_wire_form_of_the_original(client: ChatClient, session_id: str) -> None:
    client.create_session(session_id)
    context = client.tokenize("Once upon a time")
    new = client.generate_tokens(session_id, context)
    assert new
    # What remains before turn 0 is nothing.
    assert client.revert_tokens(session_id, 0) == []


def test_the_text_of_a_stream_is_the_content_of_its_turn(client: ChatClient, session_id: str) -> None:
    client.create_session(session_id)
    with client.stream(session_id, "One", FEW, expected_turn=0) as answer:
        pieces = list(answer)
    assert answer.turn is not None and "".join(pieces) == answer.turn.content and len(pieces) > 1
    assert client.history(session_id).turns[0].assistant == answer.turn.content


def test_leaving_a_stream_early_stores_nothing(client: ChatClient, session_id: str) -> None:
    client.create_session(session_id)
    with client.stream(session_id, "One", Sampling(max_tokens=480, temperature=100.0)) as answer:
        next(iter(answer))
    turn = client.generate(session_id, "Two", FEW, expected_turn=0)
    assert turn.index == 0 and [past.user for past in client.history(session_id).turns] == ["Two"]


def test_the_same_request_is_answered_once(client: ChatClient, session_id: str) -> None:
    client.create_session(session_id)
    first = client.generate(session_id, "One", Sampling(max_tokens=4), expected_turn=0, request_id="same")
    again = client.generate(session_id, "One", Sampling(max_tokens=4), expected_turn=0, request_id="same")
    assert first.content == again.content and again.request_id == "same"
    assert client.history(session_id).session.turns == 1
    with pytest.raises(InvalidRequest) as refused:
        client.generate(session_id, "Two", Sampling(max_tokens=4), expected_turn=0, request_id="same")
    assert refused.value.status == 422


def test_what_a_real_server_refuses(client: ChatClient, session_id: str) -> None:
    client.create_session(session_id)
    with pytest.raises(Conflict):
        client.create_session(session_id)
    with pytest.raises(InvalidRequest) as bad:
        client.generate(session_id, "One", Sampling(top_p=7.0))
    assert (bad.value.param, bad.value.status) == ("top_p", 400)
    with pytest.raises(Conflict):
        client.generate(session_id, "One", FEW, expected_turn=5)
    with pytest.raises(PromptTooLong) as long:
        client.generate(session_id, "word " * 2000)
    assert long.value.context_length == 512 and (long.value.prompt_tokens or 0) > 512
    for call in (
        lambda: client.revert(session_id, 0),
        lambda: client.fork(session_id, "no/id"),
        lambda: client.create_session("no id"),
    ):
        with pytest.raises(InvalidRequest):
            call()
    with pytest.raises(NotFound):
        client.remove_session("no such/../session?x#y")


def test_a_key_is_sent_and_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    from shared_files import story_model

    database = tmp_path_factory.mktemp("keys") / "sessions.db"
    with ChatServer(story_model(), database, "--api-key", "secret") as server:
        with ChatClient(server.url, "secret") as right:
            right.create_session("a")
        for key in (None, "wrong"):
            with ChatClient(server.url, key) as wrong, pytest.raises(AuthenticationFailed):
                wrong.sessions()


def test_a_lost_answer_that_was_stored_is_found_again(client: ChatClient, session_id: str) -> None:
    conversation = Conversation(client, session_id, None, FEW)
    assert conversation.open()

    class Cut(Exception):
        pass

    # The answer comes whole, the connection is lost before the client can know.
    with pytest.raises(ConnectionLost), conversation.ask("One") as answer:
        list(answer)
        answer.turn = None
        raise ConnectionLost("lost")
    assert conversation.turns == 0
    stored = conversation.settle()
    assert stored is not None and stored.user == "One" and conversation.turns == 1
    assert conversation.settle() is None


def test_the_same_question_after_a_loss_is_the_same_request(client: ChatClient, session_id: str) -> None:
    conversation = Conversation(client, session_id, None, FEW)
    conversation.open()
    with pytest.raises(ConnectionLost), conversation.ask("One") as answer:
        list(answer)
        answer.turn = None
        raise ConnectionLost("lost")
    with conversation.ask("One") as again:
        list(again)
    assert again.turn is not None and conversation.turns == 1
    assert client.history(session_id).session.turns == 1


# -- a server that misbehaves -------------------------------------------------------------------

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler, **options: float) -> ChatClient:
    return ChatClient("http://server", transport=httpx.MockTransport(handler), **options)


def refuse(status: int, kind: str, **headers: str) -> httpx.Response:
    error = {"message": "the reason", "type": kind, "param": "p", "code": "c"}
    return httpx.Response(status, json={"error": error, "err_msg": "the reason"}, headers=headers)


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", InvalidRequest),
        (408, "invalid_request_error", InvalidRequest),
        (413, "invalid_request_error", InvalidRequest),
        (422, "invalid_request_error", InvalidRequest),
        (401, "authentication_error", AuthenticationFailed),
        (404, "not_found_error", NotFound),
        (409, "conflict_error", Conflict),
        (500, "server_error", ServerFailed),
        (503, "unavailable_error", ServerUnavailable),
    ],
)
def test_every_documented_error_has_an_exception(
    status: int, kind: str, expected: type[RequestRefused]
) -> None:
    with client_of(lambda _: refuse(status, kind)) as client, pytest.raises(expected) as refused:
        client.sessions()
    assert type(refused.value) is expected
    assert (str(refused.value), refused.value.status) == ("the reason", status)
    assert (refused.value.param, refused.value.code) == ("p", "c")


def test_an_error_in_the_middle_of_a_stream_has_the_same_exception() -> None:
    body = (
        'event: token\ndata: {"text": "a"}\n\nevent: error\ndata: '
        + refuse(500, "server_error").text
        + "\n\n"
    )
    with client_of(lambda _: events(body)) as client, client.stream("a", "x") as answer:
        pieces = iter(answer)
        assert next(pieces) == "a"
        with pytest.raises(ServerFailed, match="the reason"):
            next(pieces)


def events(body: str) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body.encode())


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, text="<html>hello</html>", headers={"Content-Type": "text/html"}),
        httpx.Response(200, text="{", headers={"Content-Type": "application/json"}),
        httpx.Response(404, text="not found"),
        httpx.Response(502, json={"error": "bad gateway"}),
        httpx.Response(500, json={"error": {"type": "other"}}),
        httpx.Response(307, headers={"Location": "http://elsewhere"}),
        httpx.Response(200, json={"id": "a"}),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=None),
        events('event: token\ndata: {"tex": "a"}\n\n'),
        events("event: token\ndata: a\n\n"),
        events("event: done\ndata: {}\n\n"),
        events('event: error\ndata: "x"\n\n'),
    ],
)
def test_another_program_on_that_port_is_told_from_a_server(reply: httpx.Response) -> None:
    with client_of(lambda _: reply) as client:
        for call in (lambda: client.history("a"), lambda: client.generate("a", "x"), client.sessions):
            with pytest.raises((UnexpectedReply, ConnectionLost)):
                call()
        with pytest.raises(UnexpectedReply):
            client.health()


def test_a_stream_that_ends_without_its_turn_is_a_lost_connection() -> None:
    for body in ("", ": waiting\n\n", 'event: token\ndata: {"text": "a"}\n\n', "event: done\ndata: {"):
        with client_of(lambda _, body=body: events(body)) as client, pytest.raises(ConnectionLost):  # type: ignore[misc]
            client.generate("a", "x")


def test_line_separators_and_comments_in_a_stream_are_no_ends() -> None:
    text = "a\u2028b\u2029c\x85d"
    turn = json.dumps({**TURN, "content": text}, ensure_ascii=False)
    piece = json.dumps({"text": text}, ensure_ascii=False)
    body = f": prefill\n\nevent: token\ndata: {piece}\n\n:\n\nevent: done\ndata: {turn}\n\n"
    with client_of(lambda _: events(body)) as client, client.stream("a", "x") as answer:
        assert list(answer) == [text]
    assert answer.turn is not None and answer.turn.content == text


class Flaky:
    """Fails as told, then replies."""

    def __init__(self, failures: list[Exception | httpx.Response], reply: httpx.Response) -> None:
        self.failures, self.reply = failures, reply
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.content)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        return self.reply


def done() -> httpx.Response:
    return events(f"event: done\ndata: {json.dumps(TURN)}\n\n")


def test_a_question_is_sent_again_with_its_request_id_and_once_only() -> None:
    flaky = Flaky([httpx.ReadError("gone")], done())
    with client_of(flaky) as client:
        assert client.generate("a", "x").content == "yes"
    assert len(flaky.bodies) == 2 and flaky.bodies[0] == flaky.bodies[1]
    assert json.loads(flaky.bodies[0])["request_id"]
    twice = Flaky([httpx.ReadError("gone"), httpx.ReadError("gone")], done())
    with client_of(twice) as client, pytest.raises(ConnectionLost):
        client.generate("a", "x")


def test_a_server_that_goes_away_in_between_leaves_the_outcome_open() -> None:
    flaky = Flaky([httpx.ReadError("gone"), httpx.ConnectError("refused")], done())
    with client_of(flaky) as client, pytest.raises(ConnectionLost):
        client.generate("a", "x")


def test_what_changes_a_session_is_never_sent_twice() -> None:
    for call in (
        lambda client: client.revert("a", 0),
        lambda client: client.fork("a", "b"),
        lambda client: client.create_session("a"),
        lambda client: client.remove_session("a"),
        lambda client: client.generate_tokens("a", [1]),
    ):
        flaky = Flaky([httpx.RemoteProtocolError("gone")], httpx.Response(200, json=SESSION))
        with client_of(flaky) as client, pytest.raises(ConnectionLost):
            call(client)
        assert len(flaky.bodies) == 1


def test_a_full_queue_is_waited_for_as_long_as_patience_lasts() -> None:
    full = refuse(429, "rate_limit_error", **{"Retry-After": "0.05"})
    flaky = Flaky([full, full], done())
    with client_of(flaky) as client:
        assert client.generate("a", "x").content == "yes"
    assert len(flaky.bodies) == 3
    hours = refuse(429, "rate_limit_error", **{"Retry-After": "3600"})
    with client_of(lambda _: hours, patience=0.0) as client, pytest.raises(TooManyRequests) as refused:
        client.generate("a", "x")
    assert refused.value.retry_after == 3600


@pytest.mark.parametrize(
    ("failure", "expected", "words"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), ServerUnreachable, "start chat-server"),
        (httpx.ConnectTimeout("slow"), ServerUnreachable, "http://server"),
        (httpx.ReadTimeout("slow"), ConnectionLost, "silent for 7 seconds"),
        (httpx.WriteError("gone"), ConnectionLost, "lost"),
        (httpx.DecodingError("gzip"), UnexpectedReply, "gzip"),
    ],
)
def test_the_errors_of_the_wire(failure: Exception, expected: type[ChatError], words: str) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise failure

    with client_of(handler, silence=7.0) as client, pytest.raises(expected, match=words):
        client.sessions()


def test_what_no_request_can_carry_is_refused_before_it_is_sent() -> None:
    with client_of(lambda _: done()) as client:
        with pytest.raises(InvalidParameter, match="Unicode"):
            client.generate("a", "\ud800")
        with pytest.raises(InvalidParameter, match="finite"):
            client.generate("a", "x", Sampling(temperature=float("nan")))
    for url in (
        "",
        "server:8000",
        "ftp://server",
        "http://",
        "http://host:port",
        "http://..",
        "http://a?b",
        "http://a#b",
    ):
        with pytest.raises(InvalidParameter, match="URL"):
            ChatClient(url)


def test_an_id_that_is_no_unicode_is_the_servers_to_refuse(client: ChatClient) -> None:
    with pytest.raises(RequestRefused):
        client.history("\udcff")
