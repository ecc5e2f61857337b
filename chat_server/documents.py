"""What the OpenAPI document says of each route: every body, every status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chat_server import answers
from chat_server.bodies import ID_PATTERN, json_schemas

_ERRORS = {
    400: "The request is malformed, or a value is out of range; `param` names it.",
    401: "No valid API key was sent (where the server has keys).",
    404: "There is no such session.",
    405: "The route does not know this method.",
    408: "The request did not arrive in time.",
    409: "It does not fit what the session is now.",
    413: "The body is larger than 1 MiB.",
    421: "The `Host` header names another server.",
    422: "The `request_id` was used before with another body.",
    429: "The server has as much to do as it takes on; `Retry-After` says when to try again.",
    431: "The request's head is larger than 64 KiB.",
    500: "The server made a mistake.",
    503: "The server is loading, shutting down, or cannot reach its store; try again later.",
}
_ALWAYS = (400, 401, 408, 413, 421, 431, 500, 503)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def _document(
    success: int, answer: dict[str, Any], *errors: int, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Arguments of a route's decorator."""
    responses: dict[int, Any] = {success: answer}
    # A large body may find too many others waiting to be read.
    busy = () if body is None else (429,)
    for status in sorted({*_ALWAYS, *errors, *busy}):
        # Named rather than given as a model, which FastAPI would look into once for each status and route.
        error = {"application/json": _object("ErrorObject")}
        responses[status] = {"description": _ERRORS[status], "content": error}
        if status in (429, 503):
            responses[status]["headers"] = _RETRY_AFTER
    document: dict[str, Any] = {"responses": responses, "response_model": None}
    if body is not None:
        document["openapi_extra"] = {"requestBody": {"required": True, "content": body}}
    return document


def _object(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"oneOf": list(schemas)}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_RAW_ID = {"text/plain": {"schema": {"type": "string", "pattern": ID_PATTERN}, "example": "user0"}}

CREATE_SESSION = _document(
    201,
    {"model": answers.SessionObject, "description": "The new session."},
    409,
    body=_RAW_ID | {"application/json": _object("CreateSession")},
)
SESSIONS = _document(200, {"model": answers.SessionList, "description": "All sessions, newest first."})
HISTORY = _document(200, {"model": answers.HistoryObject, "description": "The session and its turns."}, 404)
GENERATE = _document(
    200,
    {
        "description": "The turn object; an event stream; or, for an array, the new token ids.",
        "content": {
            "application/json": _either(_ref("TurnObject"), {**_TOKEN_IDS, "minItems": 0}),
            "text/event-stream": {"schema": {"type": "string"}},
        },
    },
    404,
    409,
    422,
    body={"application/json": _either(_ref("Generate"), _ref("TokenIds"))},
)
REVERT = _document(
    200,
    {
        "description": "The session; or, for a bare number, the token ids that remain.",
        "content": {
            "application/json": _either(_ref("SessionObject"), {**_TOKEN_IDS, "minItems": 0}),
        },
    },
    404,
    409,
    body={"application/json": _either(_ref("Revert"), {"type": "integer", "minimum": 0})},
)
FORK = _document(
    201,
    {"model": answers.SessionObject, "description": "The new session."},
    404,
    409,
    body={"application/json": _object("Fork")},
)
REMOVE_SESSION = _document(200, {"model": answers.RemovedObject, "description": "It is gone."}, 404)
TOKENIZE = _document(
    200,
    {"model": answers.TokensObject, "description": "Its token ids."},
    body={"application/json": _object("Tokenize")},
)
DETOKENIZE = _document(
    200,
    {"model": answers.ContentObject, "description": "Their text."},
    body={"application/json": _object("Detokenize")},
)
HEALTH = _document(200, {"model": answers.HealthObject, "description": "The server takes requests."})
HEALTH["responses"][503] = {
    "model": answers.HealthObject | answers.ErrorObject,
    "description": "It is loading or shutting down; or it has too many connections, or no store.",
    "headers": _RETRY_AFTER,
}
METRICS = _document(
    200, {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
)


@dataclass(frozen=True)
class ModelLimits:
    """What requests may hold depends on the model."""

    vocab_size: int
    context_length: int


def completed(document: dict[str, Any], with_keys: bool, limits: ModelLimits | None) -> dict[str, Any]:
    """FastAPI's document with what it cannot know: bodies that the routes read themselves, keys, and
    the model's limits, once there is a model."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    # The turn object is an answer of one of two forms, which no route declares as its model.
    schemas |= json_schemas() | _turn_schemas() | {"TokenIds": _TOKEN_IDS}
    if limits is not None:
        token = {"type": "integer", "minimum": 0, "maximum": limits.vocab_size - 1}
        schemas["TokenIds"] = {**_TOKEN_IDS, "items": token, "maxItems": limits.context_length - 1}
        schemas["Detokenize"]["properties"]["tokens"]["items"] = token
    for path in document["paths"].values():
        for operation in path.values():
            # FastAPI adds its own 422, which no route ever answers with.
            if not _uses_422(operation):
                operation["responses"].pop("422", None)
    if with_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _turn_schemas() -> dict[str, Any]:
    schema = answers.TurnObject.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "TurnObject": schema}


def _uses_422(operation: dict[str, Any]) -> bool:
    schema = (
        operation["responses"].get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    )
    return bool(schema == _ref("ErrorObject"))
