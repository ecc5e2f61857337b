"""The ASGI application: routes, errors in one form, the OpenAPI document, and its pages."""

from __future__ import annotations

import copy
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from chat_server import documents
from chat_server.errors import InvalidRequest, NotFound, RequestError, ServerFault, as_request_error
from chat_server.gate import error_answer
from chat_server.routes import router
from chat_server.state import ServerState
from lm_core.errors import LanguageModelError

PAGES = Path(fastapi_offline.__file__).parent / "static"
"""Swagger UI as a package brings it along."""
SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"
OWN_CONTENT_ALONE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The browser sees to it that the page asks no other server for anything."""

DESCRIPTION = """\
A chat server whose sessions revert, fork and survive crashes without one bit of difference.
A session takes turns (`PUT /generate/{id}`); turns count from 0, and `PUT /revert/{id}` goes back to
the state before one of them. Every error has the form of `ErrorObject`.
"""

logger = logging.getLogger(__name__)


def make_app(state: ServerState, with_keys: bool) -> FastAPI:
    """The application over ``state``, which is filled while the server starts."""
    app = FastAPI(
        title="chat-server",
        description=DESCRIPTION,
        version=version("rewindlm"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = state
    app.include_router(router)
    app.add_exception_handler(RequestError, _answer_error)
    app.add_exception_handler(LanguageModelError, _answer_error)
    app.add_exception_handler(MemoryError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_exception_handler(Exception, _answer_mistake)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="chat-server",
            swagger_js_url=f"/docs/static/{SCRIPT}",
            swagger_css_url=f"/docs/static/{STYLE}",
            swagger_favicon_url=f"/docs/static/{ICON}",
            # Otherwise Swagger UI sends the document's address to a validator on the internet.
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers["Content-Security-Policy"] = OWN_CONTENT_ALONE
        return page

    @app.get("/docs/static/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        if name not in (SCRIPT, STYLE, ICON):
            raise HTTPException(404)
        return FileResponse(PAGES / name)

    fastapi_document = app.openapi

    def openapi() -> dict[str, Any]:
        # FastAPI keeps its document; the model, and so its limits, may come later.
        return documents.completed(copy.deepcopy(fastapi_document()), with_keys, _limits(state))

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _limits(state: ServerState) -> documents.ModelLimits | None:
    if (service := state.service) is None:
        return None
    vocab_size = service.language_model.llama.config.vocab_size
    return documents.ModelLimits(vocab_size, service.context_length)


async def _answer_error(request: Request, problem: Exception) -> Response:
    error = _request_error(problem)
    # One that comes as an answer already has been logged by whoever made it one.
    if isinstance(error, ServerFault) and error is not problem:
        where = {"method": request.method, "path": request.url.path}
        logger.error("a request failed", exc_info=problem, extra=where)
    return _response(error)


async def _answer_mistake(_request: Request, problem: Exception) -> Response:
    """What nobody expected is raised again after this, and logged by the gate."""
    return _response(_request_error(problem))


def _response(error: RequestError) -> Response:
    body, headers = error_answer(error)
    response = Response(body, error.status)
    response.raw_headers = headers
    return response


def _request_error(problem: Exception) -> RequestError:
    if isinstance(problem, HTTPException):
        if problem.status_code == 404:
            return NotFound("route_not_found", "there is no such route; /docs lists them")
        if problem.status_code == 405:
            return InvalidRequest(
                "method_not_allowed",
                "the route does not know this method",
                status=405,
                headers=problem.headers,
            )
        return InvalidRequest("invalid_request", str(problem.detail), status=problem.status_code)
    if isinstance(problem, RequestValidationError):
        return InvalidRequest("invalid_value", "the request is not valid; /docs says what is")
    return as_request_error(problem)
