"""A proof: what was compared and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was compared.  ``detail`` says how much was equal, or the first difference."""

    name: str
    equal: bool
    detail: str


@dataclass(frozen=True)
class Proof:
    """What a scene showed."""

    blocks: Mapping[str, str]
    """Texts to show before the proof, by their titles."""
    checks: Sequence[Check]
    subject: str
    """What is proved if every check is equal, as a clause."""

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return all(check.equal for check in self.checks)
