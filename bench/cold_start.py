"""Time from the start of a process to what it writes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from time import perf_counter

from bench.workers import PROJECT, WorkerError


def seconds_to_output(command: list[str]) -> float:
    """Seconds from starting ``command`` to the last byte it writes to stdout.

    For a program that writes one token of a story this is the time a reader waits for it; what the
    program does afterwards, to end, is not counted.

    Raises:
        WorkerError: the command fails, or writes nothing.
    """
    environment = dict(os.environ)
    # An installed program has its bytecode cached; so has this one after its first, untimed run.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as complaints:
        started = last_output = perf_counter()
        with subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            bufsize=0,
        ) as process:
            output = process.stdout
            while output is not None and output.read(65536):
                last_output = perf_counter()
        if process.returncode or last_output == started:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines()
            raise WorkerError(f"exit code {process.returncode}: {lines[-1] if lines else 'no output'}")
    return last_output - started
