"""Sessions come and go; memory, threads and file handles stay.

``REWINDLM_CYCLES`` says how many; ten thousand take some minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import httpx
import pytest
from chat_server_process import ServerProcess

StartServer = Callable[..., ServerProcess]

CYCLES = int(os.environ.get("REWINDLM_CYCLES", "25"))
WARM_UP = 40


def cycle(client: httpx.Client, index: int) -> None:
    name = f"cycle-{index}"
    body = {"content": f"Question {index}", "max_tokens": 4, "request_id": f"r{index}"}
    assert client.post("/createSession", json={"id": name}).status_code == 201
    for turn in range(2):
        more = {"request_id": f"r{index}-{turn}", "stream": turn == 1}
        assert client.put(f"/generate/{name}", json=body | more).status_code == 200
    assert client.put(f"/revert/{name}", json={"turn": 1}).status_code == 200
    assert client.delete(f"/removeSession/{name}").status_code == 200


@pytest.mark.soak
def test_cycles_leave_nothing_behind(start_server: StartServer) -> None:
    server = start_server()

    def figures() -> tuple[int, int, int]:
        return server.status("VmRSS"), server.status("Threads"), server.open_files()

    with server.client() as client:
        for index in range(WARM_UP):
            cycle(client, index)
        memory, threads, files = figures()
        for index in range(CYCLES):
            cycle(client, WARM_UP + index)
        now_memory, now_threads, now_files = figures()
        assert client.get("/sessions").json() == {"sessions": []}
        assert client.get("/health").json()["kv_bytes"] == 0
    # The pools of threads and of database connections may still have grown to their bound.
    assert now_threads <= threads + 8 and now_files <= files + 24
    # Kilobytes: what the allocator and SQLite's cache may still take, whatever the number of cycles.
    assert now_memory <= memory + 16_000, (memory, now_memory)
    assert server.stop() == 0
