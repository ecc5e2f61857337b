"""Where a model folder came from, as written beside its weights in ``source.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE_FILE = "source.json"


def write_origin(folder: Path, origin: Mapping[str, str]) -> None:
    """Write ``source.json``."""
    text = json.dumps(origin, ensure_ascii=False, indent=2)
    (folder / SOURCE_FILE).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What ``source.json`` says; None for a folder that this program did not make."""
    try:
        origin = json.loads((folder / SOURCE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return origin if isinstance(origin, dict) else None
