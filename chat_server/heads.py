"""Heads of HTTP messages: what the parser lets through and no server should, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence

import httptools

from chat_server.errors import InvalidRequest

LARGEST_HEAD = 1 << 16
"""Bytes."""
VERSIONS = ("1.0", "1.1")

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""


def check_head(method: bytes, url: bytes, version: str, headers: Headers) -> None:
    """Raises :class:`InvalidRequest` for a head that is too large, or none of HTTP/1."""
    if len(url) + sum(len(name) + len(value) for name, value in headers) > LARGEST_HEAD:
        raise head_too_large()
    if version not in VERSIONS:
        raise invalid_http("this is HTTP/1.1, and HTTP/1.0")
    if method == b"CONNECT":
        raise invalid_http("this is no proxy")
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise invalid_http("a request has one Host header")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        raise invalid_http("a body may come in chunks, but in no other encoding")


def path_and_query(url: bytes) -> tuple[bytes, bytes]:
    """Of a request's target, which may be a whole URL.

    Raises:
        InvalidRequest: it is none.
    """
    if url.startswith(b"/") or url == b"*":
        path, _, query = url.partition(b"?")
        return path, query
    try:
        parts = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError as error:
        raise invalid_http("the request's target is not valid") from error
    return parts.path or b"/", parts.query or b""


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head again, without the wish to go on in another protocol."""
    first_line = b"%s %s HTTP/%s\r\n" % (method, url, version.encode())
    return written(first_line, [header for header in headers if header[0] != b"upgrade"])


def written(first_line: bytes, headers: Headers) -> bytes:
    """A head as it is sent; ``first_line`` has its end already."""
    return b"".join([first_line, *(b"%s: %s\r\n" % header for header in headers), b"\r\n"])


def invalid_http(message: str) -> InvalidRequest:
    """What anything is told that is no HTTP."""
    return InvalidRequest("invalid_http", message)


def head_too_large() -> InvalidRequest:
    """What is told whose head goes on and on, or its trailer."""
    return InvalidRequest(
        "head_too_large", f"the request's head is larger than {LARGEST_HEAD} bytes", status=431
    )
