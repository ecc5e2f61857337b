"""What the command line decides, as one value."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from chat_server.defaults import Defaults

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(\d+)([KMG]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """How one server runs.  Durations are in seconds."""

    model: str
    """A folder, a known model's name, or a hub id."""
    pull: bool
    dtype: str
    threads: int | None
    speculate: bool
    template: str | None
    """A fallback template's name, or a file; None for the model's own."""
    host: str
    port: int
    database: str | None
    api_keys: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    max_running: int
    max_queue: int
    kv_budget: int
    """Bytes."""
    context_length: int | None
    grace: float
    request_timeout: float
    max_connections: int
    defaults: Defaults


def parse_size(text: str) -> int:
    """Bytes: ``1000000``, ``512M`` or ``2G``, in powers of 1024.

    Raises:
        ValueError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a number of bytes, as 1000000, 512M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def quarter_of_memory() -> int:
    """Bytes; of a container's memory where it is smaller than the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(file, encoding="ascii") as stream:
                total = min(total, int(stream.read()))
        except (OSError, ValueError):
            continue
    return total // 4
