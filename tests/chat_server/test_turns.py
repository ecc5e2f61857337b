"""Turns over HTTP: what they say of themselves, seeds, sampling, idempotency, optimistic concurrency."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from chat_server_process import ServerProcess, sse_events


def generate(
    client: httpx.Client, session: str, content: str = "Once upon a time", **more: object
) -> httpx.Response:
    return client.put(f"/generate/{session}", json={"content": content, "max_tokens": 8, "seed": 1, **more})


def test_the_turn_object(client: httpx.Client, session_id: str) -> None:
    turn = generate(client, session_id).json()
    assert turn["turn"] == 0 and turn["finish_reason"] in ("stop", "length")
    assert turn["usage"]["completion_tokens"] <= 8 and turn["usage"]["cached_tokens"] == 0
    assert turn["usage"]["prompt_tokens"] > 3
    assert turn["seed"] == 1 and turn["request_id"]
    assert all(value >= 0 for value in turn["timings"].values())
    second = generate(client, session_id, "More?").json()
    assert second["turn"] == 1 and second["usage"]["cached_tokens"] > 0
    history = client.get(f"/history/{session_id}").json()
    assert history["tokens"] == second["usage"]["prompt_tokens"] + second["usage"]["completion_tokens"]
    assert history["turns"][1]["usage"] == second["usage"]
    assert history["context_length"] == 512 and history["model"] == "story"


def test_streaming_gives_the_same_turn_piece_by_piece(client: httpx.Client, session_id: str) -> None:
    whole = generate(client, session_id, max_tokens=20).json()
    client.put(f"/revert/{session_id}", json={"turn": 0})
    streamed = generate(client, session_id, max_tokens=20, stream=True)
    assert streamed.status_code == 200
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = sse_events(streamed)
    assert [name for name, _ in events] == ["token"] * (len(events) - 1) + ["done"]
    pieces = [json.loads(data)["text"] for _, data in events[:-1]]
    done = json.loads(events[-1][1])
    assert "".join(pieces) == done["content"] == whole["content"] and len(pieces) > 5
    assert done["usage"] == whole["usage"]


def test_accept_asks_for_a_stream(client: httpx.Client, session_id: str) -> None:
    headers = {"Accept": "text/event-stream"}
    body = {"content": "Hello", "max_tokens": 2}
    assert sse_events(client.put(f"/generate/{session_id}", json=body, headers=headers))[-1][0] == "done"
    plain = client.put(f"/generate/{session_id}", json={**body, "stream": False}, headers=headers)
    assert plain.json()["turn"] == 1


def test_checks_come_before_the_stream(client: httpx.Client, session_id: str) -> None:
    for status, answer in (
        (404, generate(client, "nobody", stream=True)),
        (409, generate(client, session_id, stream=True, expected_turn=3)),
        (400, generate(client, session_id, "word " * 600, stream=True)),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"


def test_a_prompt_that_does_not_fit(client: httpx.Client, session_id: str) -> None:
    error = generate(client, session_id, "word " * 600).json()["error"]
    assert error["code"] == "context_length_exceeded" and error["param"] == "content"
    assert error["context_length"] == 512 and error["prompt_tokens"] > 600
    full = generate(client, session_id, "word " * 200, max_tokens=100_000).json()
    assert full["finish_reason"] in ("length", "stop")
    used = full["usage"]
    assert used["prompt_tokens"] + used["completion_tokens"] <= 512
    assert full["finish_reason"] == "stop" or used["prompt_tokens"] + used["completion_tokens"] == 512


def test_the_seed_that_was_drawn_is_told(client: httpx.Client, session_id: str) -> None:
    drawn = generate(client, session_id, seed=None, temperature=1.5).json()
    client.put(f"/revert/{session_id}", json={"turn": 0})
    again = generate(client, session_id, seed=drawn["seed"], temperature=1.5).json()
    assert again["content"] == drawn["content"] and 0 <= drawn["seed"] < 1 << 63


def test_a_whole_number_is_whole_however_it_is_spelled(client: httpx.Client, session_id: str) -> None:
    """JSON has one kind of number, and the OpenAPI document promises no more of an integer."""
    whole = generate(client, session_id, seed=5, max_tokens=4, top_k=3).json()
    client.put(f"/revert/{session_id}", json={"turn": 0.0})
    again = generate(client, session_id, seed=5.0, max_tokens=4.0, top_k=3.0, expected_turn=0.0).json()
    assert (again["content"], again["seed"]) == (whole["content"], 5)


def test_penalties_and_temperatures_of_almost_nothing(client: httpx.Client, session_id: str) -> None:
    """Numbers that float32 cannot divide by are in range, too."""
    for index, more in enumerate(({}, {"temperature": 1e-320}, {"top_p": 5e-324, "top_k": 0})):
        turn = generate(client, session_id, repetition_penalty=1e-300, **more)
        assert (turn.status_code, turn.json()["turn"]) == (200, index)


def test_requests_override_sessions_override_the_server(client: httpx.Client) -> None:
    sampling = {"temperature": 0.0, "max_tokens": 3, "stop": ["zzz"]}
    created = client.post(
        "/createSession", json={"id": "own-sampling", "system": "Be brief.", "sampling": sampling}
    )
    assert created.json()["system"] == "Be brief."
    body = {"content": "Once upon a time"}
    first = client.put("/generate/own-sampling", json=body).json()
    assert first["usage"]["completion_tokens"] <= 3
    client.put("/revert/own-sampling", json={"turn": 0})
    # Greedy needs no seed to be the same again; a request's own length wins.
    longer = client.put("/generate/own-sampling", json={**body, "max_tokens": 6}).json()
    assert longer["content"].startswith(first["content"])
    assert longer["usage"]["completion_tokens"] == 6


def test_stop_texts(client: httpx.Client, session_id: str) -> None:
    whole = generate(client, session_id, max_tokens=30).json()["content"]
    cut = whole[len(whole) // 2 : len(whole) // 2 + 3]
    client.put(f"/revert/{session_id}", json={"turn": 0})
    stopped = generate(client, session_id, max_tokens=30, stop=[cut]).json()
    assert stopped["content"] == whole[: whole.index(cut)] and stopped["finish_reason"] == "stop"


def test_a_request_id_takes_one_turn(client: httpx.Client, session_id: str) -> None:
    first = generate(client, session_id, request_id="a")
    again = generate(client, session_id, request_id="a")
    assert (again.status_code, again.json()) == (200, first.json())
    streamed = sse_events(generate(client, session_id, request_id="a", stream=True))
    assert json.loads(streamed[-1][1]) == first.json()
    assert "".join(json.loads(data)["text"] for _, data in streamed[:-1]) == first.json()["content"]
    assert len(client.get(f"/history/{session_id}").json()["turns"]) == 1

    other = generate(client, session_id, "Another body", request_id="a")
    assert (other.status_code, other.json()["error"]["param"]) == (422, "request_id")
    client.put(f"/revert/{session_id}", json={"turn": 0})
    reverted = generate(client, session_id, request_id="a")
    assert (reverted.status_code, reverted.json()["error"]["code"]) == (409, "request_reverted")


def test_reverting(client: httpx.Client, session_id: str) -> None:
    for index in range(3):
        generate(client, session_id, f"Question {index}")
    assert client.put(f"/revert/{session_id}", json={"turn": 1, "expected_turn": 2}).status_code == 409
    assert client.put(f"/revert/{session_id}", json={"turn": 3}).status_code == 400
    reverted = client.put(f"/revert/{session_id}", json={"turn": 1, "expected_turn": 3})
    assert (reverted.status_code, reverted.json()["turns"]) == (200, 1)


def test_forking(client: httpx.Client, session_id: str) -> None:
    answers = [generate(client, session_id, f"Question {index}").json()["content"] for index in range(2)]
    fork = f"{session_id}-fork"
    assert client.post(f"/fork/{session_id}", json={"id": fork, "turn": 3}).status_code == 400
    assert client.post("/fork/nobody", json={"id": fork}).status_code == 404
    assert client.post(f"/fork/{session_id}", json={"id": session_id}).status_code == 409
    made = client.post(f"/fork/{session_id}", json={"id": fork, "turn": 1})
    assert (made.status_code, made.json()["turns"], made.json()["parent"]) == (201, 1, session_id)
    # It continues as the original did.
    assert generate(client, fork, "Question 1").json()["content"] == answers[1]
    now = client.post(f"/fork/{session_id}", json={"id": f"{fork}-now", "turn": 2}).json()
    assert now["turns"] == 2
    assert client.delete(f"/removeSession/{session_id}").status_code == 200
    assert len(client.get(f"/history/{fork}").json()["turns"]) == 2


def test_a_session_of_the_same_name_starts_anew(client: httpx.Client) -> None:
    for _ in range(2):
        client.post("/createSession", json={"id": "phoenix"})
        assert generate(client, "phoenix").json()["usage"]["cached_tokens"] == 0
        assert client.delete("/removeSession/phoenix").status_code == 200


def test_tokens_and_text(client: httpx.Client) -> None:
    text = "Once upon a time, é 你好 🙂"
    tokens = client.post("/tokenize", json={"content": text}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": tokens}).json()["content"] == text
    assert client.post("/detokenize", json={"tokens": []}).json()["content"] == ""
    assert client.post("/tokenize", json={"content": ""}).json()["tokens"] == []


def test_sessions_newest_first(client: httpx.Client) -> None:
    for name in ("older", "newer"):
        client.post("/createSession", json={"id": name})
    names = [session["id"] for session in client.get("/sessions").json()["sessions"]]
    assert names.index("newer") < names.index("older")


def test_racing_clients(server: ServerProcess, client: httpx.Client, session_id: str) -> None:
    """Of several that expect the same turn exactly one gets it."""

    async def race() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as both:
            for turn in range(6):
                body = {"content": f"Turn {turn}", "max_tokens": 3, "expected_turn": turn}
                answers = await asyncio.gather(
                    *(both.put(f"/generate/{session_id}", json=body) for _ in range(3))
                )
                assert sorted(answer.status_code for answer in answers) == [200, 409, 409]

    asyncio.run(race())
    assert len(client.get(f"/history/{session_id}").json()["turns"]) == 6


def test_the_same_request_twice_at_once(server: ServerProcess, client: httpx.Client, session_id: str) -> None:
    async def send_both() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as both:
            body = {"content": "Twice", "max_tokens": 30, "request_id": "twice"}
            answers = await asyncio.gather(
                *(both.put(f"/generate/{session_id}", json=body) for _ in range(2))
            )
            return sorted(answer.status_code for answer in answers)

    assert asyncio.run(send_both()) in ([200, 200], [200, 409])
    assert len(client.get(f"/history/{session_id}").json()["turns"]) == 1


def test_a_request_id_for_something_else_while_it_is_being_answered(
    server: ServerProcess, session_id: str
) -> None:
    async def send_both() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as both:
            bodies = ({"content": word, "max_tokens": 30, "request_id": "r"} for word in ("One", "Two"))
            return list(
                await asyncio.gather(*(both.put(f"/generate/{session_id}", json=body) for body in bodies))
            )

    answers = sorted(asyncio.run(send_both()), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 422]
    assert answers[1].json()["error"]["code"] == "request_id_reused"


@pytest.mark.parametrize("what", ["turn", "revert", "fork"])
def test_requests_to_one_session_never_interleave(
    server: ServerProcess, client: httpx.Client, session_id: str, what: str
) -> None:
    """The second waits for the first, whatever it is."""
    generate(client, session_id)

    async def send_both() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as both:
            long = asyncio.create_task(
                both.put(
                    f"/generate/{session_id}", json={"content": "Go on", "max_tokens": 100, "temperature": 2}
                )
            )
            while (await both.get("/health")).json()["queue"] == 0 and not long.done():
                if server.metric("running"):
                    break
            second = {
                "turn": lambda: both.put(
                    f"/generate/{session_id}", json={"content": "And?", "max_tokens": 2}
                ),
                "revert": lambda: both.put(f"/revert/{session_id}", json={"turn": 1}),
                "fork": lambda: both.post(f"/fork/{session_id}", json={"id": f"{session_id}-f"}),
            }[what]()
            return list(await asyncio.gather(long, second))

    first, second = asyncio.run(send_both())
    assert first.status_code == 200 and second.status_code in (200, 201)
    assert first.json()["turn"] == 1
    assert second.json()["turn" if what == "turn" else "turns"] == {"turn": 2, "revert": 1, "fork": 2}[what]
