"""A chat-server on the model that is measured, in a process of its own, as a user would start it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from types import TracebackType

import httpx

from bench.serving import peak_resident_bytes
from bench.workers import PROJECT, WorkerError

START_SECONDS = 60.0
"""After which a server that does not get ready is given up."""

LOOK_SECONDS = 0.005
"""Between two looks for the address in the log."""

END_SECONDS = 30.0
"""The server's own grace period, after which it ends whatever runs."""

REQUEST_SECONDS = 120.0
"""In which every answer must have come on: one that hangs fails its row instead of the run."""


class ServerProcess:
    """Ready when its constructor returns.  Use as a context manager, which ends the process.

    Listens on a free port of 127.0.0.1 and keeps its sessions in a folder that goes with it.

    Raises:
        WorkerError: the server does not start with this model.
    """

    def __init__(self, model: Path, threads: int, options: Sequence[str] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-server-")
        self._log = tempfile.TemporaryFile()
        command = [
            *(sys.executable, "-m", "chat_server", "-m", str(model), "--no-pull", "--port", "0"),
            *("--database", str(Path(self._folder.name) / "sessions.db"), "--threads", str(threads)),
            *_template_options(model),
            *options,
        ]
        started = perf_counter()
        self._process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self.client = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False, limits=httpx.Limits())
        try:
            self.client.base_url = httpx.URL(self._address(started + START_SECONDS))
            self._check_health()
        except BaseException:
            self.close()
            raise
        self.seconds_to_ready = perf_counter() - started
        """From the start of the process to the first ``/health`` that says "ok"."""

    def peak_memory(self) -> float:
        """The most bytes that the process has had resident so far.

        Raises:
            WorkerError: the system does not tell.
        """
        peak = peak_resident_bytes(Path(f"/proc/{self._process.pid}/status"))
        if not peak:
            raise WorkerError("this system does not tell the memory of another process")
        return float(peak)

    def close(self) -> None:
        """End the process, wait for it, and delete its sessions."""
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _address(self, deadline: float) -> str:
        """Where the log says that it listens, which it says when the model is loaded."""
        while perf_counter() < deadline:
            ended = self._process.poll() is not None
            found = re.search(r"Listening on (http://\S+)", self._written())
            if found:
                return found.group(1)
            if ended:
                raise WorkerError(f"chat-server ended: {self._last_line()}")
            sleep(LOOK_SECONDS)
        raise WorkerError(f"chat-server was not ready after {START_SECONDS:g} s")

    def _check_health(self) -> None:
        try:
            health = self.client.get("/health")
        except httpx.HTTPError as error:
            raise WorkerError(f"chat-server does not answer: {type(error).__name__}") from error
        if health.status_code != httpx.codes.OK:
            raise WorkerError(f"chat-server is not well: status {health.status_code}")

    def _written(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _last_line(self) -> str:
        lines = self._written().strip().splitlines()
        return lines[-1] if lines else "without a word"


def _template_options(model: Path) -> tuple[str, ...]:
    """A model without a chat template gets the plainest one."""
    # Here, since templates are no business of runs without a server.
    from lm_core.chat_template import ChatTemplate

    return () if ChatTemplate.find(model) is not None else ("--chat-template", "plain")


def packages_memory(model: Path) -> float:
    """Bytes that the packages of a chat-server and the model's tokenizer take, and nothing else.

    Raises:
        WorkerError: the system does not tell, or they cannot be read.
    """
    command = [sys.executable, "-m", "bench.server_packages", str(model)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise WorkerError(done.stderr.strip().rpartition("\n")[2] or "it failed")
    return float(done.stdout.split()[0])
