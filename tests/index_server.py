"""A Python package index on this machine that sends a wheel by halves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from local_server import serving


@dataclass
class Index:
    """One wheel, sent up to its middle until ``go_on`` is set."""

    wheel: Path
    url: str = ""
    half_sent: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    downloads: int = 0


@contextmanager
def running_index(wheel: Path) -> Iterator[Index]:
    """An index on a free port of the loopback interface."""
    index = Index(wheel)

    class Handler(_Handler):
        pass

    Handler.index = index
    with serving(Handler) as url:
        index.url = f"{url}/simple"
        try:
            yield index
        finally:
            index.go_on.set()


class _Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        wheel = self.index.wheel
        if self.path == "/simple/tiny-models/":
            self._send("text/html", f'<a href="/{wheel.name}">{wheel.name}</a>'.encode())
        elif self.path == f"/{wheel.name}":
            self.index.downloads += 1
            self._send("application/octet-stream", wheel.read_bytes(), by_halves=True)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output clean."""

    def _send(self, kind: str, data: bytes, by_halves: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        middle = len(data) // 2
        self.wfile.write(data[:middle])
        self.wfile.flush()
        if by_halves:
            self.index.half_sent.set()
            self.index.go_on.wait(120)
        self.wfile.write(data[middle:])
