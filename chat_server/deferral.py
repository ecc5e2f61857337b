"""A quicker start: what only the OpenAPI document needs is made when somebody asks for it."""

from __future__ import annotations

from pydantic import BaseModel


def import_fastapi() -> None:
    """Import FastAPI, its classes for the parts of an OpenAPI document unfinished.

    Their validators take as long to make as a tenth of the server's whole start, and pydantic makes
    those that are wanted on first use.  FastAPI has no setting for it, so for the time of its import
    it is the default of all of pydantic's classes.
    """
    BaseModel.model_config["defer_build"] = True
    try:
        import fastapi  # noqa: F401 - the first import is what counts
    finally:
        del BaseModel.model_config["defer_build"]
