"""Telling apart the forms in which the same request may come: JSON objects, and the original's raw ones."""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from starlette.requests import Request

from chat_server.bodies import Body, parse
from chat_server.errors import InvalidRequest

JSON, TEXT = "application/json", "text/plain"

AnyBody = TypeVar("AnyBody", bound=Body)


def media_type(request: Request) -> str | None:
    """The request's ``Content-Type`` without its parameters; None where there is none."""
    header = request.headers.get("content-type")
    return None if header is None else header.partition(";")[0].strip().lower()


async def json_body(request: Request, kind: type[AnyBody]) -> AnyBody:
    """A body that has to be a JSON object.

    Raises:
        InvalidRequest: it is not declared as JSON, or not what ``kind`` says.
    """
    if media_type(request) != JSON:
        raise InvalidRequest("invalid_content_type", f"send a JSON object, with 'Content-Type: {JSON}'")
    return parse(kind, await request.body())


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
