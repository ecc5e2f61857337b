"""The original's walk-through over HTTP, with two clients, and the forms that its own client uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from chat_server_process import ServerProcess
from shared_files import chat_model, story_model

StartServer = Callable[..., ServerProcess]

APPLES, RABBIT, SKY = (
    "Are apples red?",
    "How many legs does a rabbit have?",
    "What is the color of the sky?",
)


def ask(client: httpx.Client, session: str, question: str, **more: object) -> dict[str, object]:
    answer = client.put(
        f"/generate/{session}", json={"content": question, "max_tokens": 8, "seed": 5, **more}
    )
    assert answer.status_code == 200, answer.text
    turn: dict[str, object] = answer.json()
    return turn


@pytest.mark.parametrize("model", [story_model, pytest.param(chat_model, marks=pytest.mark.soak)])
def test_nine_steps_with_two_clients(start_server: StartServer, model: Callable[[], Path]) -> None:
    server = start_server("-r", "1.176", model=model())
    with server.client() as one, server.client() as two:
        # 1, 2: each opens a session, as the original's client does.
        for client, name in ((one, "user0"), (two, "user1")):
            created = client.post("/createSession", content=name, headers={"Content-Type": "text/plain"})
            assert (created.status_code, created.json()["turns"]) == (201, 0)
        assert one.post("/createSession", content="user0").status_code == 409
        # 3, 4, 5: they talk in turns.
        first = ask(one, "user0", APPLES)
        ask(two, "user1", SKY)
        second = ask(one, "user0", RABBIT)
        assert (first["turn"], second["turn"]) == (0, 1)
        # 6: the history.
        history = one.get("/history/user0").json()
        assert [turn["user"] for turn in history["turns"]] == [APPLES, RABBIT]
        assert [turn["assistant"] for turn in history["turns"]] == [first["content"], second["content"]]
        # 7: back to before the second question.
        reverted = one.put("/revert/user0", json={"turn": 1})
        assert (reverted.status_code, reverted.json()["turns"]) == (200, 1)
        # 8: another question, as if the second had never been.
        third = ask(one, "user0", SKY)
        assert third["turn"] == 1
        two.post("/createSession", content="never")
        assert ask(two, "never", APPLES)["content"] == first["content"]
        assert ask(two, "never", SKY)["content"] == third["content"]
        # The other session has felt nothing of it.
        assert ask(two, "user1", APPLES)["turn"] == 1
        # 9: they remove their sessions.
        for client, name in ((one, "user0"), (two, "user1")):
            assert client.delete(f"/removeSession/{name}").status_code == 200
            assert client.get(f"/history/{name}").status_code == 404
    assert server.stop() == 0
    events = [event for event in server.events() if "never" not in event]
    assert events[0] == f"Model loaded from {model()}"
    assert events[3:] == [
        "Session created: user0",
        "Session created: user1",
        "Generated tokens for session user0",
        "Generated tokens for session user1",
        "Generated tokens for session user0",
        "Revert session user0 to the state before 1th generation",
        "Generated tokens for session user0",
        "Generated tokens for session user1",
        "Session removed: user0",
        "Session removed: user1",
        "Received SIGTERM, shutting down gracefully",
        "Graceful shutdown completed",
    ]


def test_the_originals_client(client: httpx.Client) -> None:
    """It keeps the history itself, sends the whole context as ids, and gets ids back; no header fits."""

    def send(method: str, path: str, body: str) -> httpx.Response:
        request = client.build_request(method, path, content=body)
        assert "content-type" not in request.headers
        return client.send(request)

    name = "originals-client"
    assert send("POST", "/createSession", name).status_code == 201
    assert send("POST", "/createSession", name).status_code == 409
    context = client.post("/tokenize", json={"content": "Once upon a time"}).json()["tokens"]
    generated = send("PUT", f"/generate/{name}", json.dumps(context))
    assert generated.status_code == 200
    first = generated.json()
    assert 1 <= len(first) <= 128 and all(isinstance(token, int) for token in first)
    context += first
    context += client.post("/tokenize", json={"content": " The end. A cat"}).json()["tokens"]
    second = send("PUT", f"/generate/{name}", json.dumps(context)).json()
    assert second
    history = client.get(f"/history/{name}").json()
    assert history["tokens"] == len(context) + len(second)
    assert [turn["user"] for turn in history["turns"]] == [None, None]
    assert history["turns"][1]["usage"]["cached_tokens"] >= len(context) // 2

    assert send("PUT", f"/revert/{name}", "2").status_code == 400
    assert send("PUT", f"/revert/{name}", "-1").status_code == 400
    assert send("PUT", f"/revert/{name}", "one").status_code == 400
    assert send("PUT", f"/revert/{name}", "").status_code == 400
    assert send("PUT", "/revert/nobody", "0").status_code == 404
    remaining = send("PUT", f"/revert/{name}", "1")
    assert remaining.status_code == 200
    assert remaining.json() == context[: len(remaining.json())]
    assert len(remaining.json()) == history["turns"][0]["usage"]["prompt_tokens"] + len(first)
    # Without reverting, a context with another past is as good.
    third = send("PUT", f"/generate/{name}", json.dumps(context[:3]))
    assert third.status_code == 200
    assert client.get(f"/history/{name}").json()["tokens"] == 3 + len(third.json())
    assert send("DELETE", f"/removeSession/{name}", "").status_code == 200


@pytest.mark.parametrize("body", ["[]", "[1, true]", "[1.5]", "[-1]", '["a"]', "[99999999]", "[1", "[[1]]"])
def test_bad_arrays(client: httpx.Client, session_id: str, body: str) -> None:
    answer = client.put(f"/generate/{session_id}", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["err_msg"] == answer.json()["error"]["message"]
    assert client.get(f"/history/{session_id}").json()["turns"] == []
