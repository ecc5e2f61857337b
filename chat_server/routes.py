"""The routes of the contract.  Each reads a body, asks the service, and forms the answer."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chat_server import documents
from chat_server.answers import history_fields, session_fields, turn_fields
from chat_server.bodies import (
    ID_PATTERN,
    TOKEN_IDS,
    TURN,
    CreateSession,
    Detokenize,
    Fork,
    Revert,
    Sampling,
    Tokenize,
    parse,
    parse_session_id,
)
from chat_server.errors import NotFound, Unavailable
from chat_server.forms import TEXT, json_body, media_type, question, raw_body, read
from chat_server.metrics import CONTENT_TYPE
from chat_server.service import ChatService
from chat_server.state import ServerState
from chat_server.streams import MEDIA_TYPE, DisconnectWatch, EventStream
from chat_server.turns import TurnRequest

router = APIRouter()

SessionPath = Annotated[str, Path(alias="id", description="Name of a session.", examples=["user0"])]
_ID = re.compile(ID_PATTERN.removesuffix("$") + r"\Z")


def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


# FastAPI runs what is not async in threads of its own.
async def _service(request: Request) -> ChatService:
    service = _state(request).service
    if service is None:
        raise Unavailable(
            "loading", "the model is being loaded; try again soon", headers={"Retry-After": "1"}
        )
    return service


async def _owner(request: Request) -> str:
    owner: str = request.scope["state"]["owner"]
    return owner


async def _session_id(session_id: SessionPath) -> str:
    if _ID.match(session_id) is None:
        raise NotFound("session_not_found", f"there is no session {session_id[:128]!r}")
    return session_id


Service = Annotated[ChatService, Depends(_service)]
Owner = Annotated[str, Depends(_owner)]
SessionId = Annotated[str, Depends(_session_id)]


@router.post("/createSession", status_code=201, **documents.CREATE_SESSION)
async def create_session(request: Request, service: Service, owner: Owner) -> Response:
    """Create a session.  The body is its id as plain text, or a JSON object."""
    if media_type(request) in (TEXT, None):
        body = CreateSession(id=parse_session_id(await request.body()), system=None, sampling=None)
    else:
        body = await json_body(request, CreateSession)
    stored = await service.create(owner, body)
    return JSONResponse(session_fields(stored, service.context_length), 201)


@router.get("/sessions", **documents.SESSIONS)
async def sessions(service: Service, owner: Owner) -> Response:
    """All sessions, newest first."""
    stored = await service.sessions(owner)
    return JSONResponse({"sessions": [session_fields(one, service.context_length) for one in stored]})


@router.get("/history/{id}", **documents.HISTORY)
async def history(session_id: SessionId, service: Service, owner: Owner) -> Response:
    """A session with its turns."""
    stored, turns = await service.history(owner, session_id)
    return JSONResponse(history_fields(stored, turns, service.context_length))


@router.put("/generate/{id}", **documents.GENERATE)
async def generate(request: Request, session_id: SessionId, service: Service, owner: Owner) -> Response:
    """Take a turn.  The body is a JSON object with a question, or an array of token ids: the whole
    context.  With ``stream``, or ``Accept: text/event-stream``, an object is answered by events:
    ``token``s, and at the end ``done`` with the turn object or ``error`` with the error object."""
    ticket = service.admission.enter()
    try:
        turn, gives_ids = await _turn(request)
    except BaseException:
        service.admission.leave(None)
        raise
    generation = service.generate(owner, session_id, turn, ticket)
    watch = DisconnectWatch(request, generation)
    streaming = False
    try:
        await generation.accepted()
        if turn.stream:
            streaming = True
            return EventStream(generation, watch)
        done = await generation.result()
    finally:
        if not streaming:
            watch.end()
    return JSONResponse(done.new_tokens if gives_ids else turn_fields(done.turn))


async def _turn(request: Request) -> tuple[TurnRequest, bool]:
    """What the body asks for, and whether it wants token ids for an answer, as it is made of them."""
    raw = await raw_body(request, b"[")
    if raw is not None:
        ids = await read(request, partial(parse, TOKEN_IDS, param="content"), raw)
        return TurnRequest(ids, Sampling()), True
    body, digest = await question(request)
    accepts_stream = MEDIA_TYPE in request.headers.get("accept", "").lower()
    return TurnRequest.from_body(body, digest, accepts_stream if body.stream is None else body.stream), False


@router.put("/revert/{id}", **documents.REVERT)
async def revert(request: Request, session_id: SessionId, service: Service, owner: Owner) -> Response:
    """Go back to the state before a turn.  The body is a JSON object, or the turn's number alone."""
    raw = await raw_body(request, b"-0123456789")
    if raw is not None:
        _, tokens = await service.revert(owner, session_id, parse(TURN, raw, "turn"))
        return JSONResponse(tokens)
    body = await json_body(request, Revert)
    stored, _ = await service.revert(owner, session_id, body.turn, body.expected_turn)
    return JSONResponse(session_fields(stored, service.context_length))


@router.post("/fork/{id}", status_code=201, **documents.FORK)
async def fork(request: Request, session_id: SessionId, service: Service, owner: Owner) -> Response:
    """A new session that continues from the state before a turn of this one."""
    stored = await service.fork(owner, session_id, await json_body(request, Fork))
    return JSONResponse(session_fields(stored, service.context_length), 201)


@router.delete("/removeSession/{id}", **documents.REMOVE_SESSION)
async def remove_session(session_id: SessionId, service: Service, owner: Owner) -> Response:
    """Delete a session."""
    await service.remove(owner, session_id)
    return JSONResponse({"id": session_id, "removed": True})


@router.post("/tokenize", **documents.TOKENIZE)
async def tokenize(request: Request, service: Service) -> Response:
    """Token ids of a text."""
    body = await json_body(request, Tokenize)
    return JSONResponse({"tokens": await service.tokenize(body.content, bool(body.special))})


@router.post("/detokenize", **documents.DETOKENIZE)
async def detokenize(request: Request, service: Service) -> Response:
    """The text of token ids."""
    body = await json_body(request, Detokenize)
    return JSONResponse({"content": await service.detokenize(body.tokens)})


@router.get("/health", **documents.HEALTH)
async def health(request: Request) -> Response:
    """Whether the server takes requests, and what it is doing."""
    state = _state(request)
    fields: dict[str, Any] = {
        "status": state.status,
        "model": None,
        "dtype": None,
        "threads": state.threads,
        "sessions": 0,
        "kv_bytes": 0,
        "queue": 0,
    }
    if (service := state.service) is not None:
        engine = service.engine.status
        fields |= {
            "model": service.language_model.name,
            "dtype": service.language_model.llama.dtype,
            "sessions": await service.count(),
            "kv_bytes": engine.kv_bytes,
            "queue": service.queued,
        }
    return JSONResponse(fields, 200 if state.status == "ok" else 503)


@router.get("/metrics", **documents.METRICS)
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(_state(request).metrics.text(), media_type=CONTENT_TYPE)
