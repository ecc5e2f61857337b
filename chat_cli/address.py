"""Where a server is, and with which key: checked before anything is sent."""

from __future__ import annotations

from ipaddress import ip_address

import httpx

from lm_core.errors import InvalidParameter


def checked_url(url: str) -> str:
    """``url`` without a slash at its end.

    Raises:
        InvalidParameter: it is not one of a server.
    """
    try:
        parsed = httpx.URL(url.rstrip("/"))
        # What the look-up of names does first.
        parsed.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidParameter("url", f"the server's URL {url!r} cannot be read: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise InvalidParameter("url", f"the server's URL is {url!r}; it must look like http://127.0.0.1:8000")
    return str(parsed)


def checked_key(key: str) -> str:
    """``key`` as it is.

    Raises:
        InvalidParameter: it has characters that no header can carry.
    """
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidParameter("api_key", "the API key has characters that no header can carry")
    return key


def is_on_this_machine(url: str) -> bool:
    """Whether ``url`` leads to the loopback interface, where no proxy is on the way."""
    host = httpx.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
