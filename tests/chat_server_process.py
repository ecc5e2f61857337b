"""A chat-server in a process of its own, behind a real socket."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx
from shared_files import PROJECT

SECONDS = 60
"""More than anything here takes; a server that hangs fails the test instead of the run."""


class ServerProcess:
    """Started by its constructor, ready when that returns, and free of warnings."""

    def __init__(
        self,
        model: Path,
        database: Path,
        *options: str,
        environment: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self.database = database
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-m", "chat_server"),
                # One thread: threads that wait for each other are slow on a machine that does other work.
                *("-m", str(model), "--port", "0", "--database", str(database), "--threads", "1", *options),
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONUTF8": "1", **(environment or {})},
        )
        self.log: list[str] = []
        """Lines of stderr so far."""
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.url = ""
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until it says where it listens, or has ended."""
        assert self._listening.wait(SECONDS), self.log
        assert self.url, self.log

    def client(self, **options: object) -> httpx.Client:
        """A client of its own connections."""
        return httpx.Client(base_url=self.url, timeout=SECONDS, **options)  # type: ignore[arg-type]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it and wait; returns the exit code, and the log is complete."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self.process.stdout is not None and self.process.stderr is not None
        assert self.process.stdout.read() == ""
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def kill(self) -> None:
        """End it as a power cut would."""
        self.stop(signal.SIGKILL)

    def events(self) -> list[str]:
        """The sentences of the log, without time, level and details."""
        found = [re.match(r"\[\S+ [A-Z]+ chat_server\] (.*?)(?: \([^)]*\))?$", line) for line in self.log]
        return [match[1] for match in found if match]

    def status(self, name: str) -> int:
        """A figure of ``/proc/PID/status``, as VmRSS in kB or Threads."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def caught_signals(self) -> int:
        """A bit for each signal that it handles itself."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^SigCgt:\s+([0-9a-f]+)", text, re.MULTILINE)
        return int(found[1], 16) if found else 0

    def processor_seconds(self) -> float:
        """What it has computed so far, in all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """File handles that it holds."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def metric(self, name: str) -> float:
        """A figure of ``/metrics``."""
        with self.client() as client:
            text = client.get("/metrics").text
        found = re.search(rf"^chat_server_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            found = re.search(r"Listening on (http://\S+?)(\"|$)", line.rstrip("\n"))
            if found:
                self.url = found[1]
                self._listening.set()
        self._listening.set()


def sse_events(response: httpx.Response) -> list[tuple[str, str]]:
    """``(event, data)`` of a whole event stream."""
    events = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], fields["data"]))
    return events


def with_model(model: Path) -> Sequence[str]:
    """Options for a model that may have no chat template of its own."""
    text = (model / "tokenizer_config.json").read_text()
    has_template = "chat_template" in text or (model / "chat_template.jinja").is_file()
    return () if has_template else ("--chat-template", "plain")
