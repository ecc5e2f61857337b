"""The server on PostgreSQL: killed, raced by another server, and left alone by its database."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest
from chat_server_process import ServerProcess
from postgresql_server import running_postgresql

StartServer = Callable[..., ServerProcess]


def ask(client: httpx.Client, question: str, **more: object) -> httpx.Response:
    return client.put("/generate/a", json={"content": question, "max_tokens": 6, "seed": 3, **more})


@pytest.mark.soak
def test_a_session_in_postgresql(start_server: StartServer) -> None:
    with running_postgresql() as postgresql:
        reference = start_server()
        with reference.client() as client:
            client.post("/createSession", json={"id": "a"})
            expected = [ask(client, question).json()["content"] for question in ("One", "Two", "Three")]
        reference.kill()

        database = postgresql.new_database()
        killed = start_server(database=database)
        with killed.client() as client:
            client.post("/createSession", json={"id": "a"})
            assert ask(client, "One").json()["content"] == expected[0]
        killed.kill()

        one, two = start_server(database=database), start_server(database=database)
        with one.client() as client, two.client() as other:
            assert ask(client, "Two").json()["content"] == expected[1]
            # Two servers take the same turn: the store gives it to one of them.
            statuses: list[int] = []

            def race(racer: httpx.Client) -> None:
                statuses.append(ask(racer, "Three", expected_turn=2).status_code)

            threads = [threading.Thread(target=race, args=(racer,)) for racer in (client, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(statuses) == [200, 409]
            history = other.get("/history/a").json()["turns"]
            assert [turn["assistant"] for turn in history] == expected

            postgresql.stop()
            for answer in (ask(client, "Four"), client.get("/health"), client.get("/sessions")):
                assert answer.status_code == 503 and answer.headers["retry-after"]
                assert answer.json()["error"]["code"] == "store_unavailable"
                assert str(postgresql.folder) not in answer.text
            postgresql.start()
            assert ask(client, "Four").json()["turn"] == 3
        for server in (one, two):
            assert server.stop() == 0
            assert not any("Traceback" in line for line in server.log), server.log
