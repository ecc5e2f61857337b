"""A small Hugging Face hub on this machine, with the routes that its client uses to fetch a model."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """Files by name; ``large`` ones are announced with their SHA-256, the others with their git blob id."""

    files: dict[str, bytes]
    large: set[str] = field(default_factory=lambda: {"model.safetensors"})
    private: bool = False
    without_digests: bool = False


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    """Names of files that are sent with one byte changed."""
    cut: set[str] = field(default_factory=set)
    """Names of files of which half is sent before the connection breaks, once."""
    ranges: bool = True
    """Whether a part of a file can be asked for."""
    instead: tuple[int, bytes] | None = None
    """The status and the page that every request gets instead of an answer."""
    stalled: str | None = None
    """Name of a file of which half is sent, once."""
    half_sent: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, and the Range header of each request."""

    def downloads(self, name: str) -> list[str | None]:
        """The Range headers of the requests that fetched a file."""
        return [
            range_ for method, path, range_ in self.requests if method == "GET" and path.endswith("/" + name)
        ]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of the loopback interface."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with serving(Handler) as url:
        hub.url = url
        try:
            yield hub
        finally:
            hub.go_on.set()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output clean."""

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.instead is not None:
            self._send_page(*self.hub.instead)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/[^/]+", path):
            self._answer_info(match[1])
        elif match := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path):
            self._answer_file(match[1], match[2], with_body)
        else:
            self._refuse(404, {})

    def _answer_info(self, name: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})
            return
        if repository.private:
            self._refuse(403, {"X-Error-Code": "GatedRepo"})
            return
        siblings = [_sibling(repository, file, data) for file, data in repository.files.items()]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer_file(self, name: str, file: str, with_body: bool) -> None:
        repository = self.hub.repositories.get(name)
        data = repository.files.get(file) if repository is not None else None
        if repository is None or data is None:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(data).hexdigest() if file in repository.large else git_blob_id(data)
        if file in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(match[1]) if self.hub.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if with_body:
            self._send(file, data[start:])

    def _send(self, file: str, data: bytes) -> None:
        try:
            if file in self.hub.cut:
                self.hub.cut.remove(file)
                data = data[: len(data) // 2]
                self.close_connection = True
            if file == self.hub.stalled:
                self.hub.stalled = None
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.hub.half_sent.set()
                self.hub.go_on.wait(120)
                data = data[len(data) // 2 :]
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send_page(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def git_blob_id(data: bytes) -> str:
    """The id that git gives to a file with these contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(repository: Repository, file: str, data: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file, "size": len(data)}
    if repository.without_digests:
        return sibling
    sibling["blobId"] = git_blob_id(data)
    if file in repository.large:
        sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return sibling
