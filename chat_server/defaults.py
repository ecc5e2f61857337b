"""How answers are made: the request says, or else its session, or else the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chat_server.bodies import Sampling
from lm_core.sampler import SamplingParams


@dataclass(frozen=True)
class Manner:
    """How one answer is made."""

    params: SamplingParams
    max_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Defaults:
    """The server's own."""

    params: SamplingParams
    max_tokens: int

    def overridden(self, session: Mapping[str, Any], request: Sampling) -> Manner:
        """The manner of one turn: ``session`` is what its creator chose, ``request`` what it says itself."""
        chosen: dict[str, Any] = {**vars(self.params), "max_tokens": self.max_tokens, "stop": ()}
        chosen |= session
        chosen |= {name: value for name, value in vars(request).items() if value is not None}
        max_tokens, stop = chosen.pop("max_tokens"), tuple(chosen.pop("stop"))
        return Manner(SamplingParams(**chosen), max_tokens, stop)
