"""How everything is measured in one run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.engines import OWN, PEERS
from bench.workers import EngineSpec


@dataclass(frozen=True)
class Settings:
    """The same for every model, engine and row."""

    repeats: int = 5
    seconds: float = 0.3
    """The least time of one repeat: short work is repeated within it and averaged."""
    threads: int = 1
    peers: tuple[EngineSpec, ...] = PEERS
    peers_left_out: str = ""
    """Why the peers are not measured; empty when they are."""

    def absence(self, spec: EngineSpec) -> str:
        """Why ``spec`` is not measured; empty when it is."""
        return "" if spec is OWN else self.peers_left_out or spec.absence()
