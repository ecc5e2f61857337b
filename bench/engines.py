"""The engines that are measured, and what of them is installed here."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.workers import EngineSpec


def _own_first_token(model: Path) -> list[str]:
    return [sys.executable, "-m", "story_teller", "-m", str(model), "-n", "1"]


def _transformers_first_token(model: Path) -> list[str]:
    return [sys.executable, "-m", "bench.transformers_first_token", str(model)]


OWN = EngineSpec("rewindlm", "bench.own_engine", first_token=_own_first_token)

ROOFLINE = EngineSpec("roofline", "bench.roofline")

PEERS = (
    EngineSpec(
        "transformers",
        "bench.transformers_peer",
        requires=("torch", "transformers"),
        first_token=_transformers_first_token,
    ),
    EngineSpec("llama.cpp", "bench.llama_cpp_peer", requires=("llama_cpp", "gguf")),
)
