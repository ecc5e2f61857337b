"""One line per event, whatever clients send."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
from chat_server_process import ServerProcess

from chat_server.logs import JsonFormatter, TextFormatter

StartServer = Callable[..., ServerProcess]

NASTY = "user\n[2026 INFO chat_server] forged\x1b[31m\u2028\u202e\x00"


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("chat_server.service", logging.INFO, "file", 1, message, None, None)
    vars(made).update(fields)
    return made


def test_text_lines() -> None:
    line = TextFormatter().format(record("Session created: user0", session="user0", request_id="r1"))
    stamp, sentence = line.split("] ", 1)
    assert stamp.endswith(" INFO chat_server") and stamp.startswith("[2")
    assert sentence == "Session created: user0 (request_id=r1)"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_nobody_forges_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record(f"Session created: {NASTY}", path=NASTY))
    assert line.isprintable() and "\n" not in line and "forged" in line


def test_a_trace_is_one_line_too() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        made = record("failed")
        made.exc_info = (type(error), error, error.__traceback__)
    assert "\n" not in TextFormatter().format(made)
    assert "Traceback" in json.loads(JsonFormatter().format(made))["trace"]


def test_json_lines(start_server: StartServer) -> None:
    server = start_server("--log-format", "json")
    with server.client() as client:
        client.post("/createSession", json={"id": "a"})
        client.put("/generate/a", json={"content": "x", "max_tokens": 2, "request_id": "r1"})
        client.put("/revert/a", json={"turn": 0})
    assert server.stop() == 0
    events = [json.loads(line) for line in server.log]
    assert all(event["time"] and event["level"] == "info" for event in events)
    generated = next(event for event in events if event["message"].startswith("Generated tokens"))
    assert generated["session"] == "a" and generated["request_id"] == "r1" and generated["turn"] == 0
    reverted = next(event for event in events if event["message"].startswith("Revert"))
    assert reverted["message"] == "Revert session a to the state before 0th generation"
