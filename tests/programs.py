"""Running the programs as a user does: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from shared_files import PROJECT

SECONDS = 60


@dataclass(frozen=True)
class Result:
    """What a program left behind."""

    code: int
    out: str
    err: str

    def assert_one_line_error(self, code: int, *words: str) -> None:
        """It failed with ``code``, printed nothing else, and said ``words`` in one line on stderr."""
        assert (self.code, self.out) == (code, ""), (self.out, self.err)
        assert self.err.count("\n") == 1 and "error: " in self.err, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, self.err


def run_program(
    package: str,
    arguments: Sequence[str | bytes],
    stdin: bytes = b"",
    environment: dict[str, str] | None = None,
) -> Result:
    """Run ``python -m package`` to its end."""
    finished = subprocess.run(
        [sys.executable, "-m", package, *arguments],
        input=stdin,
        capture_output=True,
        cwd=PROJECT,
        env={**os.environ, "PYTHONUTF8": "1", **(environment or {})},
        timeout=SECONDS,
        check=False,
    )
    return Result(finished.returncode, finished.stdout.decode(), finished.stderr.decode())
