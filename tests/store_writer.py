"""A program that writes to a store until it is killed: ``python store_writer.py DATABASE SEED``.

Before each change it prints a line ``TURNS GOAL``: it is certain of so many turns and goes for so
many.  What a turn says follows from its number, so that the killer knows what must be there.
"""

from __future__ import annotations

import random
import sys

from stand_in_turns import Snapshot, empty_snapshot, plain_snapshot, session_of

from chat_server.store import NewTurn, Store

SESSION = "written"
LARGEST = 12
"""Turns after which it goes back."""
TOKENS = 3000
"""Per turn, so that writing one takes several pages."""


def main(database: str, seed: int) -> None:
    """Write for ever: mostly turns, and now and then a revert, a fork and its removal."""
    chance = random.Random(seed)
    snapshots = [snapshot_of(0)]
    for turn in range(LARGEST):
        snapshots.append(next_snapshot(snapshots[-1], turn))
    with Store.open(database) as store:
        if store.count() == 0:
            store.create("", SESSION, model="chat", prefill_chunk=256)
        stored = store.get("", SESSION)
        while True:
            turns = stored.turns
            if turns == LARGEST or (turns and chance.random() < 0.2):
                goal = chance.randrange(turns)
                announce(turns, goal)
                stored = store.revert("", SESSION, stored.version, goal)
            elif chance.random() < 0.1:
                announce(turns, turns)
                store.fork("", SESSION, f"fork {turns}")
                store.remove("", f"fork {turns}")
            else:
                announce(turns, turns + 1)
                new = NewTurn.last_of(session_of(snapshots[turns + 1]), "messages")
                stored, _ = store.append_turn("", SESSION, stored.version, new)


def snapshot_of(turns: int) -> Snapshot:
    """What the session is after so many turns."""
    snapshot = empty_snapshot(None, 256)
    for turn in range(turns):
        snapshot = next_snapshot(snapshot, turn)
    return snapshot


def next_snapshot(snapshot: Snapshot, turn: int) -> Snapshot:
    """What it is after one more."""
    return plain_snapshot(snapshot, [turn] * TOKENS, f"Answer {turn}. " * 100)


def announce(turns: int, goal: int) -> None:
    """Tell the killer, at once."""
    sys.stdout.write(f"{turns} {goal}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
