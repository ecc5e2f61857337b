"""The measured side of a worker: reads requests, runs an engine's operations, replies with figures.

A request is one line of JSON, ``{"operation": "decode", "arguments": {...}, "seconds": 0.3}``, and
so is its reply, ``{"value": 0.021}`` or ``{"error": "..."}``.  The first line, sent when the engine
is ready, is ``{"facts": {...}}``.  Nothing here imports an engine or NumPy.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

PEAK_MEMORY = "peak_memory"
"""The operation that every worker has: the most bytes its process has had resident so far."""

Operation = Callable[..., float]
"""One pass of some work.  Prepares untimed, then returns a figure: usually the seconds it took."""


def operations_of(engine: object) -> dict[str, Operation]:
    """The public methods of ``engine`` by name."""
    return {
        name: getattr(engine, name)
        for name in vars(type(engine))
        if not name.startswith("_") and callable(getattr(engine, name))
    }


def serve(open_engine: Callable[[], tuple[dict[str, Any], Mapping[str, Operation]]]) -> None:
    """Open the engine, then answer requests until stdin closes.

    ``open_engine`` returns facts about the engine and its operations by name.
    """
    replies = _private_stdout()
    facts, operations = open_engine()
    _reply(replies, {"facts": facts})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            value = _measure(operations, request)
        # Whatever an engine raises belongs into its row, not into the end of the run.
        except Exception as error:
            _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        else:
            _reply(replies, {"value": value})


def _measure(operations: Mapping[str, Operation], request: Mapping[str, Any]) -> float:
    """The mean of as many passes as take the requested seconds together; at least one."""
    if request["operation"] == PEAK_MEMORY:
        return float(own_peak_resident_bytes())
    operation, arguments = operations[request["operation"]], request["arguments"]
    started = perf_counter()
    figures = [operation(**arguments)]
    while perf_counter() - started < request["seconds"]:
        figures.append(operation(**arguments))
    return sum(figures) / len(figures)


def own_peak_resident_bytes() -> int:
    """The most memory this process has ever had resident, mapped files included."""
    peak = peak_resident_bytes(Path("/proc/self/status"))
    if not peak:
        # Elsewhere the figure may include the parent's, from before this program was started.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return peak


def peak_resident_bytes(status: Path) -> int:
    """The same of any process, by its file in ``/proc``; 0 where there is none."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return 0
    return 1024 * int(found.group(1)) if found else 0


def _private_stdout() -> TextIO:
    """The pipe to the parent; whatever a library prints goes to stderr from now on."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(pipe, "w", encoding="utf-8")


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
