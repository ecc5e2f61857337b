"""Many clients at once: each gets what it would get alone, token for token, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from chat_server_process import ServerProcess
from shared_files import chat_model, story_model

StartServer = Callable[..., ServerProcess]


def questions(number: int, new_tokens: int) -> list[dict[str, object]]:
    """Different lengths, seeds, temperatures and penalties, so that every client's work is its own."""
    words = [
        "Once upon a time",
        "Tom and Lily saw a big red ball.",
        "Why?",
        "A dog and a cat " * 9,
        "The sun",
    ]
    return [
        {
            "content": f"{words[index % len(words)]} {index}",
            "max_tokens": new_tokens + index % 5,
            "seed": index,
            "temperature": (0.0, 0.7, 1.5)[index % 3],
            "repetition_penalty": (1.0, 1.2)[index % 2],
        }
        for index in range(number)
    ]


async def talk(
    client: httpx.AsyncClient, name: str, turns: list[dict[str, object]]
) -> list[tuple[str, int, str]]:
    """Take turns in a session; what each answered, in full."""
    assert (await client.post("/createSession", json={"id": name})).status_code == 201
    answers = []
    for body in turns:
        answer = await client.put(f"/generate/{name}", json=body)
        assert answer.status_code == 200, answer.text
        turn = answer.json()
        answers.append((turn["content"], turn["usage"]["completion_tokens"], turn["finish_reason"]))
    return answers


async def company_and_alone(url: str, clients: int, new_tokens: int) -> None:
    bodies = questions(clients, new_tokens)
    async with httpx.AsyncClient(
        base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)
    ) as client:
        conversations = [[body, {**body, "content": "And then?"}] for body in bodies]
        together = await asyncio.gather(
            *(talk(client, f"together-{index}", turns) for index, turns in enumerate(conversations))
        )
        for index, turns in enumerate(conversations):
            alone = await talk(client, f"alone-{index}", turns)
            assert alone == together[index], f"client {index} felt the others"


@pytest.mark.soak
def test_32_clients_on_the_story_model(start_server: StartServer) -> None:
    """Twice as many as run at once, in less room than their caches take."""
    server = start_server("--kv-budget", "6M", model=story_model())
    asyncio.run(company_and_alone(server.url, clients=32, new_tokens=8))
    assert server.metric("evictions_total") > 0 and server.metric("rebuilds_total") > 0
    assert server.stop() == 0


@pytest.mark.slow
def test_32_clients_on_the_chat_model(start_server: StartServer) -> None:
    server = start_server("--kv-budget", "200M", model=chat_model())
    asyncio.run(company_and_alone(server.url, clients=32, new_tokens=10))
    assert server.stop() == 0


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(story_model, marks=pytest.mark.soak),
        pytest.param(chat_model, marks=pytest.mark.slow),
    ],
)
def test_eviction_and_restart_change_nothing(
    start_server: StartServer, tmp_path: Path, model: Callable[[], Path]
) -> None:
    """The same conversation with its cache, without it at every turn, and across restarts."""
    turns = questions(3, 6)

    def converse(server: ServerProcess, name: str, bodies: list[dict[str, object]]) -> list[str]:
        with server.client() as client:
            client.post("/createSession", json={"id": name})
            return [client.put(f"/generate/{name}", json=body).json()["content"] for body in bodies]

    undisturbed = start_server(model=model(), database=tmp_path / "undisturbed.sqlite")
    expected = converse(undisturbed, "kept", turns)
    undisturbed.stop()

    # No cache is ever kept in so little room.
    server = start_server("--kv-budget", "1", model=model())
    assert converse(server, "evicted", turns) == expected
    assert server.metric("rebuilds_total") == len(turns) - 1
    assert server.metric("caches") == 0
    server.stop()

    for index, body in enumerate(turns):
        server = start_server(model=model())
        assert converse(server, "restarted", [body]) == expected[index : index + 1]
        server.kill()
