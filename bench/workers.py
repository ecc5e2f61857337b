"""The measuring side of a worker: one engine with one model, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
"""Workers run here, so that ``-m bench....`` finds this package wherever the run was started."""


class WorkerError(Exception):
    """An engine could not be started, or an operation failed in it.  The message is one line."""


@dataclass(frozen=True)
class EngineSpec:
    """An engine that may or may not be installed here.

    ``module`` is the program of its worker; ``requires`` are the packages without which it cannot
    run.  ``first_token`` makes the command that prints one token of a story told by the model in a
    folder.
    """

    name: str
    module: str
    requires: tuple[str, ...] = ()
    first_token: Callable[[Path], list[str]] | None = None

    def absence(self) -> str:
        """Why it cannot run here; empty if it can.  Imports nothing."""
        missing = [package for package in self.requires if find_spec(package) is None]
        return f"not installed ({', '.join(missing)})" if missing else ""


class Worker:
    """A running engine.  Use as a context manager, which ends the process.

    Raises:
        WorkerError: the engine does not start with this model.
    """

    def __init__(self, spec: EngineSpec, model: Path, dtype: str, threads: int) -> None:
        self.spec = spec
        self.dtype = dtype
        self._complaints = tempfile.TemporaryFile()
        command = [sys.executable, "-m", spec.module, str(model), dtype, str(threads)]
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        # With PIPE both are there; the check is for the type checker.
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerError(f"{spec.name}: no pipes to its process")
        self._requests, self._replies = self._process.stdin, self._process.stdout
        try:
            self.facts: dict[str, Any] = self._receive()["facts"]
        except BaseException:
            self.close()
            raise

    def ask(self, operation: str, seconds: float = 0.0, **arguments: int) -> float:
        """The mean figure of one operation, repeated inside the worker for ``seconds``, at least once.

        Raises:
            WorkerError: the operation failed, or the process ended.
        """
        request = {"operation": operation, "arguments": arguments, "seconds": seconds}
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        reply = self._receive()
        if "error" in reply:
            raise WorkerError(str(reply["error"]))
        return float(reply["value"])

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.terminate()
        # Also closes the pipes.
        self._process.communicate()
        self._complaints.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise WorkerError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        """The last line of the process's stderr: usually the exception that ended it."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"{self.spec.name} ended: {lines[-1] if lines else 'without a word'}"
