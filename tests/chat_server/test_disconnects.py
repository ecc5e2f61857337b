"""A client that goes away: the work stops, no turn is stored, the neighbours notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from chat_server_process import ServerProcess, with_model
from shared_files import story_model

ENDLESS = {"content": "Once upon a time", "max_tokens": 150, "temperature": 2.0, "top_p": 1.0, "top_k": 0}


@pytest.fixture(scope="module")
def busy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two sessions at a time, so that the third has to wait."""
    model = story_model()
    database = tmp_path_factory.mktemp("busy") / "chat.sqlite"
    process = ServerProcess(model, database, *with_model(model), "--max-running", "2", "--log-level", "debug")
    yield process
    assert process.stop() == 0
    assert not any("ERROR" in line for line in process.log), process.log


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must become so; a test that waits in vain is ended by its timeout."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def requested(server: ServerProcess, session: str) -> bool:
    return f"Turn requested for session {session}" in server.events()


def cancelled(server: ServerProcess, session: str) -> bool:
    return f"Generation cancelled for session {session}: the client went away" in server.events()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["queue", "computation"])
def test_a_client_that_goes_away(busy_server: ServerProcess, stream: bool, phase: str) -> None:
    server = busy_server
    body = {**ENDLESS, "stream": stream, "seed": 3}
    alone, left, fresh, *neighbours = (
        f"{role}-{phase}-{stream}" for role in ("alone", "left", "fresh", "one", "two", "three", "four")
    )

    async def leave() -> None:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=60) as stays,
            httpx.AsyncClient(base_url=server.url, timeout=60) as goes,
        ):

            async def turn(session: str, **more: object) -> dict[str, Any]:
                answer = await stays.put(f"/generate/{session}", json={**ENDLESS, "seed": 9, **more})
                return {name: answer.json()[name] for name in ("content", "usage", "finish_reason")}

            for name in (alone, left, fresh, *neighbours):
                await stays.post("/createSession", json={"id": name})
            expected = await turn(alone)
            # Behind four others it has to wait; beside one it is computed at once.
            names = neighbours if phase == "queue" else neighbours[:1]
            beside = [asyncio.create_task(turn(name)) for name in names]
            await until(lambda: all(requested(server, name) for name in names))
            request = asyncio.create_task(goes.put(f"/generate/{left}", json=body))
            await until(lambda: requested(server, left))
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            await goes.aclose()
            await until(lambda: cancelled(server, left))
            assert await asyncio.gather(*beside) == [expected] * len(beside)
            history = (await stays.get(f"/history/{left}")).json()
            assert history["turns"] == [] and history["tokens"] == 0
            # The same request can be sent again, and is answered as if nothing had been.
            again = {"content": body["content"], "max_tokens": 5}
            assert await turn(left, **again) == await turn(fresh, **again)

    asyncio.run(leave())


def test_the_work_stops_within_a_token(server: ServerProcess, client: httpx.Client, session_id: str) -> None:
    """A stream that is left after a few tokens costs a few tokens, not all of them."""
    before = server.metric("decoded_tokens_total")
    with (
        server.client() as goes,
        goes.stream("PUT", f"/generate/{session_id}", json={**ENDLESS, "stream": True}) as answer,
    ):
        for index, _ in enumerate(answer.iter_lines()):
            if index == 6:
                break
    asyncio.run(until(lambda: cancelled(server, session_id)))
    decoded = server.metric("decoded_tokens_total") - before
    # The client itself needs time to go, in which the story model makes a token in half a millisecond.
    assert decoded < 140
    assert client.get(f"/history/{session_id}").json()["turns"] == []
