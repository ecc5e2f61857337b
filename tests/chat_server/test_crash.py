"""Killed at random moments: what was acknowledged is there, nothing half is, and the next answer is the same.

``REWINDLM_KILL_ROUNDS`` says how often; a hundred rounds take some minutes.  ``REWINDLM_KILL_MODEL=chat``
does it with the chat model.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from chat_server_process import ServerProcess
from shared_files import chat_model, story_model

StartServer = Callable[..., ServerProcess]

ROUNDS = int(os.environ.get("REWINDLM_KILL_ROUNDS", "2"))
MODEL = {"story": story_model, "chat": chat_model}[os.environ.get("REWINDLM_KILL_MODEL", "story")]
SESSIONS = 3


def body(session: int, turn: int) -> dict[str, object]:
    return {
        "content": f"Question {turn} of session {session}",
        "max_tokens": 12,
        "seed": 1000 * session + turn,
        "stream": True,
        "request_id": f"{session}-{turn}",
    }


class Talker(threading.Thread):
    """Talks in one session until the server is gone; remembers which turns were acknowledged."""

    def __init__(self, url: str, session: int, turn: int) -> None:
        super().__init__()
        self.url, self.session, self.turn = url, session, turn
        self.acknowledged = turn

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self.url, timeout=60) as client:
                while self.turn < 16:
                    with client.stream(
                        "PUT", f"/generate/s{self.session}", json=body(self.session, self.turn)
                    ) as answer:
                        for line in answer.iter_lines():
                            if line == "event: done":
                                self.turn += 1
                                self.acknowledged = self.turn
        except httpx.HTTPError:
            pass


@pytest.mark.soak
def test_kill_dash_nine(start_server: StartServer, tmp_path: Path) -> None:
    moments = random.Random(4)
    model = MODEL()
    reference = start_server(model=model, database=tmp_path / "reference.sqlite")
    with reference.client() as client:
        expected: dict[tuple[int, int], str] = {}

        def expect(session: int, turn: int) -> str:
            """What an undisturbed server answers."""
            while (session, turn) not in expected:
                known = sum(1 for key in expected if key[0] == session)
                if known == 0:
                    client.post("/createSession", json={"id": f"s{session}"})
                answer = client.put(f"/generate/s{session}", json={**body(session, known), "stream": False})
                expected[session, known] = answer.json()["content"]
            return expected[session, turn]

        turns = [0] * SESSIONS
        for round_number in range(ROUNDS):
            server = start_server(model=model)
            with server.client() as now:
                for session in range(SESSIONS):
                    now.post("/createSession", json={"id": f"s{session}"})
                    history = now.get(f"/history/s{session}").json()["turns"]
                    # Nothing acknowledged is missing; at most the turn that was under way is there beyond.
                    assert turns[session] <= len(history) <= turns[session] + 1, (round_number, session)
                    for index, turn in enumerate(history):
                        assert turn["assistant"] == expect(session, index)
                    turns[session] = len(history)
                    if len(history) >= 14:
                        now.put(f"/revert/s{session}", json={"turn": 0})
                        now.delete(f"/removeSession/s{session}")
                        now.post("/createSession", json={"id": f"s{session}"})
                        turns[session] = 0
            talkers = [Talker(server.url, session, turns[session]) for session in range(SESSIONS)]
            for talker in talkers:
                talker.start()
            # Somewhere in the life of the turn after so many more.
            target, deadline = sum(turns) + moments.randrange(6), time.monotonic() + 60
            while sum(talker.acknowledged for talker in talkers) < target and time.monotonic() < deadline:
                talkers[0].join(0.001)
            talkers[0].join(moments.uniform(0.0, 0.03))
            server.kill()
            for talker in talkers:
                talker.join()
            turns = [talker.acknowledged for talker in talkers]
        last = start_server(model=model)
        with last.client() as now:
            for session in range(SESSIONS):
                turn = len(now.get(f"/history/s{session}").json()["turns"])
                answer = now.put(f"/generate/s{session}", json={**body(session, turn), "stream": False})
                assert answer.json()["content"] == expect(session, turn)
        assert last.stop() == 0
