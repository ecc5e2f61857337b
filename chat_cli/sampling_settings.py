"""``:set``: sampling parameters by name, as text."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from chat_cli.records import Sampling
from lm_core.errors import InvalidParameter

NAMES = tuple(field.name for field in fields(Sampling))
WHOLE = ("max_tokens", "top_k", "seed")
DEFAULT = "default"


def change(sampling: Sampling, name: str, value: str) -> Sampling:
    """``sampling`` with one parameter set; ``default`` leaves it to the server again.

    Whether a number is in range is the server's to say.

    Raises:
        InvalidParameter: there is no such parameter, or the value is not of its type.
    """
    name = name.replace("-", "_").lower()
    if name not in NAMES:
        raise InvalidParameter("name", f"there is no setting {name!r}; there are {', '.join(NAMES)}")
    changed: dict[str, Any] = {name: None if value.lower() == DEFAULT else _parsed(name, value)}
    return replace(sampling, **changed)


def describe(sampling: Sampling) -> str:
    """The settings that differ from the server's, for a person."""
    chosen = [f"{name} {_shown(value)}" for name, value in sampling.fields().items()]
    return ", ".join(chosen) if chosen else "all as the server has them"


def _parsed(name: str, value: str) -> int | float | tuple[str, ...]:
    if name == "stop":
        return (value,)
    try:
        number = int(value) if name in WHOLE else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        kind = "whole number" if name in WHOLE else "number"
        raise InvalidParameter(name, f"{name} is {value!r}; it must be a {kind}, or {DEFAULT!r}")
    return number


def _shown(value: object) -> str:
    return " ".join(map(repr, value)) if isinstance(value, list) else str(value)
