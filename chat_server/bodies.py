"""What clients may send: every field with its bounds, and no field beside these."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from chat_server.errors import InvalidRequest
from lm_core.sampler import LARGEST_SEED

ID_PATTERN = r"^[A-Za-z0-9._@:\-]{1,128}$"
"""Session ids, and ``request_id``s."""

LARGEST_BODY = 1 << 20
"""Bytes of any request's body."""
LARGEST_COUNT = (1 << 31) - 1
MOST_STOPS = 16
MOST_TOKENS = 1 << 16
"""Token ids to decode at once."""
LONGEST_STOP = 256
MOST_MISTAKES = 100
"""Describing each of so many mistakes takes longer than finding them."""
LONGEST_NAME = 128
"""Characters of a field's name that an error repeats."""

NO_NUL = r"^[^\x00]*$"
SessionId = Annotated[str, Field(pattern=ID_PATTERN, description="Name of a session.", examples=["user0"])]
UserText = Annotated[str, Field(max_length=LARGEST_BODY, pattern=NO_NUL)]


def _whole(value: object) -> object:
    """JSON has one kind of number: 3.0 is as whole as 3."""
    return int(value) if type(value) is float and value.is_integer() else value


def _all_whole(values: object) -> object:
    if isinstance(values, list) and any(type(value) is float for value in values):
        return [_whole(value) for value in values]
    return values


# The bounds inside: outside of the conversion they would be in no JSON schema.
Whole = Annotated[int, Field(ge=0, le=LARGEST_COUNT), BeforeValidator(_whole)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), BeforeValidator(_whole)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
TokenIds = Annotated[
    list[TokenId],
    Field(max_length=LARGEST_BODY, fail_fast=True, description="Token ids of the model's vocabulary."),
    BeforeValidator(_all_whole),
]
TurnIndex = Annotated[Whole, Field(description="A turn; they count from 0.")]


class Body(BaseModel):
    """A JSON object of known fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Sampling(Body):
    """How answers are made.  What is left out is as the session, or else the server, has it."""

    max_tokens: Annotated[Positive | None, Field(description="New tokens at most.")] = None
    temperature: Annotated[float | None, Field(ge=0, le=100, description="0 is greedy.")] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[Whole | None, Field(description="0 keeps all tokens.")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=100, description="1 is none.")] = None
    seed: Annotated[Seed | None, Field(description="Left out, one is drawn; the turn object names it.")] = (
        None
    )
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP, pattern=NO_NUL)]] | None,
        Field(
            max_length=MOST_STOPS,
            fail_fast=True,
            description="Texts that end the answer and are not part of it.",
        ),
    ] = None


class CreateSession(Body):
    """A new session."""

    id: SessionId
    system: UserText | None = Field(None, description="The message that stands before all others.")
    sampling: Sampling | None = Field(None, description="The session's own defaults.")


class Generate(Sampling):
    """A question to a session."""

    content: Annotated[UserText, Field(min_length=1, description="What the user says.")]
    stream: bool | None = Field(None, description="Answer with an event stream.")
    expected_turn: Annotated[
        TurnIndex | None, Field(description="Refuse where the session has another number of turns.")
    ] = None
    request_id: Annotated[
        str | None,
        Field(pattern=ID_PATTERN, description="The same id with the same body never takes a second turn."),
    ] = None


class Revert(Body):
    """Go back to the state before a turn."""

    turn: TurnIndex
    expected_turn: TurnIndex | None = None


class Fork(Body):
    """A new session that continues from before a turn of another one."""

    id: SessionId
    turn: Annotated[TurnIndex | None, Field(description="Left out, or the number of turns: now.")] = None


class Tokenize(Body):
    """A text to encode."""

    content: UserText
    special: bool | None = Field(
        None, description="Read control tokens, as <|im_end|>, as what they are instead of as text."
    )


class Detokenize(Body):
    """Token ids to decode."""

    tokens: Annotated[TokenIds, Field(max_length=MOST_TOKENS)]


Parsed = TypeVar("Parsed")

TOKEN_IDS: TypeAdapter[list[int]] = TypeAdapter(
    Annotated[TokenIds, Field(min_length=1)], config=ConfigDict(strict=True)
)
TURN: TypeAdapter[int] = TypeAdapter(TurnIndex, config=ConfigDict(strict=True))
SESSION_ID: TypeAdapter[str] = TypeAdapter(SessionId, config=ConfigDict(strict=True))


def parse(kind: type[Parsed] | TypeAdapter[Parsed], body: bytes, param: str | None = None) -> Parsed:
    """Read a body.

    Args:
        kind: what it has to be.
        param: what the whole of it is called, where it is no object.

    Raises:
        InvalidRequest: it is not; ``param`` names the field that is wrong first.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        parsed = adapter.validate_json(body)
    except ValidationError as error:
        if error.error_count() > MOST_MISTAKES:
            # Of a list only the first mistake is looked for, so these are all fields.
            raise InvalidRequest(
                "unknown_field", f"{error.error_count()} fields are not valid; /docs lists those there are"
            ) from None
        first = error.errors(include_url=False, include_input=False)[0]
        raise _invalid(first, param) from None
    if isinstance(parsed, Body):
        json.loads(body, object_pairs_hook=_refuse_repeated)
    return parsed


def _refuse_repeated(fields: list[tuple[str, Any]]) -> None:
    """Of two fields of one name, one would be accepted and ignored."""
    names: set[str] = set()
    for name, _ in fields:
        if name in names:
            raise InvalidRequest("repeated_field", f"the field {name!r} is there twice; leave one out", name)
        names.add(name)


def parse_session_id(body: bytes) -> str:
    """Read a body that is nothing but a session's id.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return SESSION_ID.validate_python(body.decode("utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise InvalidRequest("invalid_value", f"id is not valid: {_NOT_MATCHED[ID_PATTERN]}", "id") from None


_NOT_MATCHED = {
    ID_PATTERN: "use 1 to 128 characters of A-Z a-z 0-9 . _ - @ :",
    NO_NUL: "it has a NUL character; leave it out",
}
"""What a person is told whose text does not match one of the patterns."""

_CODES = {"json_invalid": "invalid_json", "missing": "missing_field", "extra_forbidden": "unknown_field"}


def _invalid(error: ErrorDetails, param: str | None) -> InvalidRequest:
    """One sentence about the first thing that is wrong."""
    names = [str(part) for part in error["loc"] if isinstance(part, str)]
    param = ".".join(names)[:LONGEST_NAME] or param
    code = _CODES.get(error["type"], "invalid_value")
    if code == "unknown_field":
        return InvalidRequest(code, f"there is no field {param!r}; leave it out", param)
    if code == "missing_field":
        return InvalidRequest(code, f"the field {param!r} is missing", param)
    if code == "invalid_json":
        reason = error["msg"].removeprefix("Invalid JSON: ")
        return InvalidRequest(code, f"the body is not valid JSON: {reason}", param)
    pattern = error.get("ctx", {}).get("pattern", "")
    reason = _NOT_MATCHED.get(pattern) or error["msg"][0].lower() + error["msg"][1:]
    return InvalidRequest(code, f"{param or 'the body'} is not valid: {reason}", param)


def json_schemas() -> dict[str, Any]:
    """The schema of every body, by name, for the OpenAPI document."""
    bodies: list[type[Body]] = [CreateSession, Generate, Revert, Fork, Tokenize, Detokenize, Sampling]
    schemas: dict[str, Any] = {}
    for body in bodies:
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
    return schemas
