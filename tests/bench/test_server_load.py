"""The clients of the server's rows, against servers that are played; a real one is in ``test_run``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bench.server_load import Answer, Load, Traffic, percentile
from bench.server_rows import ServerRows
from bench.settings import Settings
from bench.workers import WorkerError

DONE = {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 0}}


def _event(name: str, data: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


TOKEN = _event("token", {"text": "a river"})


def _load(answer: Callable[[], httpx.Response], seen: list[str] | None = None) -> Load:
    def respond(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(f"{request.method} {request.url.path}")
        return answer() if request.url.path.startswith("/generate") else httpx.Response(200, json={})

    return Load(httpx.Client(transport=httpx.MockTransport(respond), base_url="http://server"))


def test_every_text_has_its_time_and_the_server_counts_the_tokens() -> None:
    # Two events in one piece, and one cut in two.
    pieces = [TOKEN + TOKEN, TOKEN[:9], TOKEN[9:], b": keep-alive\n\n", _event("done", DONE)]
    seen: list[str] = []
    load = _load(lambda: httpx.Response(200, content=iter(pieces)), seen)
    traffic = load.run(2, tokens=3, answers=4)
    assert [len(answers) for answers in traffic.rounds] == [2, 2]
    for answer in traffic.answers:
        assert len(answer.texts) == 3 and len(list(answer.between)) == 2
        assert (answer.tokens, answer.session_tokens) == (3, 10)
        assert answer.sent <= answer.texts[0] <= answer.ended and answer.to_first >= 0
    assert traffic.tokens_per_second == 12 / traffic.seconds
    assert sorted(seen[-2:]) == ["DELETE /removeSession/bench-2", "DELETE /removeSession/bench-3"]


def test_the_time_together_begins_with_the_last_and_ends_with_the_first() -> None:
    early = Answer(sent=0.0, texts=(1.0, 2.0, 3.0, 4.0), ended=4.5, tokens=4, session_tokens=9)
    late = Answer(sent=0.0, texts=(2.0, 3.0, 4.0, 5.0, 6.0), ended=6.5, tokens=5, session_tokens=9)
    traffic = Traffic(((early, late),))
    # From 2 to 4: two texts of each.
    assert traffic.decoded_per_second == 4 / 2
    assert traffic.tokens_per_second == 9 / 6.5
    after = Answer(sent=0.0, texts=(5.0, 6.0), ended=6.5, tokens=2, session_tokens=9)
    assert Traffic(((early, after),)).decoded_per_second == 0


@pytest.mark.parametrize(
    ("status", "pieces", "message"),
    [
        (429, [b'{"error": {"message": "too many turns"}}'], "status 429: too many turns"),
        (502, [b"<html>"], "status 502: no reason given"),
        (200, [TOKEN, _event("error", {"error": {"message": "shut down"}})], "chat-server: shut down"),
        (200, [TOKEN], "ended an answer without saying so"),
    ],
)
def test_an_answer_that_fails_is_an_error_of_one_line(status: int, pieces: list[bytes], message: str) -> None:
    load = _load(lambda: httpx.Response(status, content=iter(pieces)))
    with pytest.raises(WorkerError, match=message):
        load.run(1, tokens=3)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert [percentile(values, share) for share in (50, 95, 99)] == [100.0, 190.0, 198.0]
    assert percentile([7.0], 99) == 7.0


def test_a_server_that_does_not_start_leaves_its_last_words(tmp_path: Path) -> None:
    rows = ServerRows(tmp_path, Settings(repeats=1, seconds=0.0), {"context_length": 64})
    (row,) = rows.rows(["server", "latency", "ready"])
    assert row.key == "ready" and "failed: chat-server ended: " in row.lines[0].absence
    assert "there is no model" in row.lines[0].absence
