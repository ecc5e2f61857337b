"""Telling apart the forms in which the same request may come: JSON objects, and the original's raw ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from chat_server.bodies import Body, Generate, parse
from chat_server.errors import InvalidRequest
from chat_server.large_work import LARGE_BODY, LargeWork

JSON, TEXT = "application/json", "text/plain"

AnyBody = TypeVar("AnyBody", bound=Body)
Parsed = TypeVar("Parsed")


def media_type(request: Request) -> str | None:
    """The request's ``Content-Type`` without its parameters; None where there is none."""
    header = request.headers.get("content-type")
    return None if header is None else header.partition(";")[0].strip().lower()


async def json_body(request: Request, kind: type[AnyBody]) -> AnyBody:
    """A body that has to be a JSON object.

    Raises:
        InvalidRequest: it is not declared as JSON, or not what ``kind`` says.
        Busy: it is large, and so are too many others.
    """
    _require_json(request)
    return await read(request, partial(parse, kind), await request.body())


async def question(request: Request) -> tuple[Generate, str]:
    """A question with the hash that tells it from others.  Errors are those of :func:`json_body`."""
    _require_json(request)
    return await read(request, _question, await request.body())


def _question(body: bytes) -> tuple[Generate, str]:
    parsed = parse(Generate, body)
    return parsed, body_hash(parsed)


def _require_json(request: Request) -> None:
    if media_type(request) != JSON:
        raise InvalidRequest("invalid_content_type", f"send a JSON object, with 'Content-Type: {JSON}'")


async def read(request: Request, parse_it: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    """What ``parse_it`` makes of a body, without keeping others waiting.

    Raises:
        Busy: it is large, and so are too many others.
    """
    bodies: LargeWork = request.app.state.server.bodies
    return parse_it(body) if len(body) <= LARGE_BODY else await bodies.run(parse_it, body)


async def raw_body(request: Request, first: bytes) -> bytes | None:
    """The body, if it has the original's raw form: one that begins with one of ``first``, and is
    declared as JSON, as text, or not at all.  None if it is an object.

    Raises:
        InvalidRequest: it is declared as something else.
    """
    declared = media_type(request)
    if declared not in (JSON, TEXT, None):
        raise InvalidRequest("invalid_content_type", f"send JSON, with 'Content-Type: {JSON}'")
    body = await request.body()
    return body if declared != JSON or body.lstrip()[:1] in _single(first) else None


def _single(characters: bytes) -> set[bytes]:
    return {characters[index : index + 1] for index in range(len(characters))}


def body_hash(body: Body) -> str:
    """Tells whether two requests ask for the same; how the answer travels does not matter."""
    fields = body.model_dump(exclude={"request_id", "stream"}, exclude_none=True)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
