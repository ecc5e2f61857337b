"""A proof on paper: for people, or as JSON."""

from __future__ import annotations

import json

from chat_revert.proof import Proof
from lm_cli.terminal import printable


def as_text(proof: Proof) -> str:
    """The blocks, a line for each check, and the verdict."""
    parts = [f"{title}:\n{printable(text)}\n" for title, text in proof.blocks.items()]
    width = max(len(check.name) for check in proof.checks)
    parts.append("Proof:")
    for check in proof.checks:
        verdict = "equal    " if check.equal else "DIFFERENT"
        parts.append(f"  {check.name:<{width}}  {verdict}  {check.detail}")
    verdict = "Proved: " if proof.holds else "Failed: it is not so that "
    return "\n".join([*parts, f"{verdict}{proof.subject}."])


def as_json(proof: Proof, seed: int) -> str:
    """The same as one object."""
    checks = [{"name": check.name, "equal": check.equal, "detail": check.detail} for check in proof.checks]
    return json.dumps(
        {"equal": proof.holds, "seed": seed, "blocks": dict(proof.blocks), "proof": checks},
        ensure_ascii=False,
    )
