"""FastAPI's own classes are finished when the OpenAPI document asks for them, all others at once."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from chat_server.deferral import import_fastapi
import_fastapi()
from fastapi.openapi.models import OpenAPI
from pydantic import BaseModel
from chat_server.app import make_app
from chat_server.bodies import CreateSession
from chat_server.state import ServerState
print(OpenAPI.__pydantic_complete__, CreateSession.__pydantic_complete__, dict(BaseModel.model_config))
print(make_app(ServerState(1), False).openapi()["openapi"], OpenAPI.__pydantic_complete__)
"""


def test_the_document_is_made_when_it_is_asked_for() -> None:
    """In a process of its own: in this one FastAPI has been imported before."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False True {}", "3.1.0 True"], done.stderr
    assert done.stderr == ""
