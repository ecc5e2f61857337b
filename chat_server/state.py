"""What the routes need to know of the server they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chat_server.large_work import LargeWork
from chat_server.metrics import Metrics
from chat_server.service import ChatService


@dataclass
class ServerState:
    """Filled while the server starts, read by the routes."""

    threads: int
    """Of BLAS."""
    metrics: Metrics = field(default_factory=Metrics)
    bodies: LargeWork = field(default_factory=lambda: LargeWork("bodies"))
    texts: LargeWork = field(default_factory=lambda: LargeWork("texts"))
    service: ChatService | None = None
    """None while the model is being loaded."""

    @property
    def status(self) -> Literal["ok", "loading", "draining"]:
        """What ``/health`` says."""
        if self.service is None:
            return "loading"
        return "draining" if self.service.admission.draining else "ok"

    def refuse_turn(self) -> None:
        """Refuse what cannot be taken on now, as :meth:`Admission.refuse_when_full` does."""
        if self.service is not None:
            self.service.admission.refuse_when_full()
