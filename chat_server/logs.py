"""One line per event, as text like the original's or as JSON; what clients send cannot forge a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

FIELDS = ("session", "parent", "request_id", "turn", "tokens", "method", "path", "status")
"""What an event may be about, beside its sentence."""


class TextFormatter(logging.Formatter):
    """``[2026-01-31T12:00:00.000Z INFO chat_server] Session created: user0``, then the request."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = f"[{_time(record)} {record.levelname} {record.name.partition('.')[0]}] {record.getMessage()}"
        known = _fields(record)
        # The sentence names the session already.
        known.pop("session", None)
        known.pop("parent", None)
        if known:
            line += f" ({', '.join(f'{name}={value}' for name, value in known.items())})"
        if record.exc_info:
            line += f" | {self.formatException(record.exc_info)}"
        return escaped(line)


class JsonFormatter(logging.Formatter):
    """One JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        # ASCII alone: no character of a client's can end a line or move a cursor.
        return json.dumps(event)


def configure(level: str, log_format: LogFormat) -> None:
    """Send the program's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    for name, lowest in (("chat_server", level.upper()), ("uvicorn", "ERROR"), ("asyncio", "ERROR")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(lowest)
        logger.propagate = False


def escaped(line: str) -> str:
    """``line`` with control characters, line separators and the like spelled out."""
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in line
    )


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: vars(record)[name] for name in FIELDS if name in vars(record)}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
