"""Killed in the middle of writing, a store has all that it confirmed, and nothing by halves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import store_writer
from postgresql_server import PostgreSQL
from shared_files import PROJECT

from chat_server.store import Store

KILLS = int(os.environ.get("STORE_KILLS", "2"))
"""How often each test kills; more by hand."""
SECONDS = 60


@contextmanager
def running_writer(database: str, seed: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that writes, and what it says."""
    folders = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    process = subprocess.Popen(
        [sys.executable, store_writer.__file__, database, str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folders},
    )
    with process:
        if process.stdout is None:
            raise ValueError("the process has no output to read")
        yield process, process.stdout
        process.kill()
        process.wait(SECONDS)


def last_line(said: IO[str], lines: int) -> str:
    """The last of the next ``lines`` lines."""
    line = ""
    for _ in range(lines):
        line = said.readline()
        assert line, "the writer ended by itself"
    return line


def check(database: str, line: str) -> None:
    """The store holds what the writer was certain of, or what it was about to store."""
    certain, goal = (int(word) for word in line.split())
    with Store.open(database) as store:
        sessions = {stored.id: stored for stored in store.sessions("")}
        stored = sessions.pop(store_writer.SESSION)
        assert stored.turns in (certain, goal)
        expected = store_writer.snapshot_of(stored.turns)
        assert store.snapshot("", stored.id) == (stored, expected)
        # A fork may have been made and not yet removed.
        assert set(sessions) <= {f"fork {certain}"}
        for fork in sessions:
            assert store.snapshot("", fork)[1] == expected
            store.remove("", fork)


def test_writer_is_killed(database: str) -> None:
    chance = random.Random(0)
    for kill in range(KILLS):
        with running_writer(database, seed=kill) as (process, said):
            line = last_line(said, chance.randrange(1, 40))
            process.send_signal(signal.SIGKILL)
            rest = said.read().splitlines()
        # What it managed to say before it died counts, too; a line is written whole or not at all.
        check(database, rest[-1] if rest else line)


def test_server_is_killed(postgresql: PostgreSQL) -> None:
    database = postgresql.new_schema()
    with running_writer(database, seed=0) as (process, said):
        line = last_line(said, 20)
        postgresql.stop()
        try:
            rest = said.read().splitlines()
            assert process.wait(SECONDS) != 0
        finally:
            postgresql.start()
    check(database, rest[-1] if rest else line)
