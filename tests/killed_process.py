"""Kills a process at a chosen one of the things it does to files, over and over, and looks at what is left.

Run as a program, because it forks: ``python killed_process.py PICKLE ROOT anew|chain STRIDE``.  The pickle
holds a manifest, which is pulled, or the path of a GGUF file, which is converted, to ``ROOT/model``.
"anew" begins with nothing for each kill, and kills at every step of the end, "chain" goes on with what the
last kill left.  Prints how many kills there were.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Every child would import these again.
import gguf  # noqa: F401
import huggingface_hub.file_download
import huggingface_hub.hf_api  # noqa: F401

from lm_models.checksums import read_sums, sha256_of
from lm_models.errors import PullError
from lm_models.manifest import Manifest
from lm_models.pull import convert, pull
from lm_models.verification import is_model

LAST_STEPS = 8
_CHANGES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "subprocess.Popen"})


class CountedSteps:
    """Counts every change to a file and every report of progress, and kills the process at the chosen one."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self.last = last

    def install(self) -> None:
        sys.addaudithook(self._heard)

    def step(self) -> None:
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and _writes(arguments)):
            self.step()

    # A progress that is a step too.

    def note(self, text: str) -> None:  # noqa: ARG002
        self.step()

    def bar(self, title: str, total: int, done: int = 0) -> CountedSteps:  # noqa: ARG002
        return self

    def __enter__(self) -> Callable[[int], None]:
        return lambda size: self.step()  # noqa: ARG005

    def __exit__(self, *error: object) -> None:
        self.step()


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) != 0


def make(source: Manifest | Path, root: Path, last: int | None) -> int | None:
    """Do the work in a child that is killed at step ``last``; its steps, or None if it was killed."""
    counted = root.parent / "counted"
    child = os.fork()
    if child == 0:
        steps = CountedSteps(last)
        steps.install()
        if isinstance(source, Manifest):
            pull(source, root / "model", steps)
        else:
            convert_anew(source, root / "model", steps)
        counted.write_text(str(steps.count))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status != 0:
        raise SystemExit(f"step {last}: the child failed")
    return int(counted.read_text())


def convert_anew(file: Path, folder: Path, steps: CountedSteps) -> None:
    """Conversion never replaces a folder, so it refuses what a killed one had finished."""
    try:
        convert(file, folder, steps)
    except PullError:
        if not is_model(folder):
            raise


def look(root: Path, last: int | None, finished: bool) -> None:
    """The model is whole or absent, and nothing but it is left when it is finished."""
    target = root / "model"
    if target.exists():
        sums = read_sums(target)
        if not sums or any(sha256_of(target / name) != digest for name, digest in sums.items()):
            raise SystemExit(f"step {last}: the folder is there and not whole")
    if finished and [entry.name for entry in root.iterdir()] != ["model"]:
        raise SystemExit(f"step {last}: left over: {sorted(entry.name for entry in root.iterdir())}")


def kill_anew(source: Manifest | Path, root: Path, stride: int) -> int:
    """Kill a fresh pull at every ``stride``-th step and at each of the last ones; how many there were."""
    steps = make(source, root, None)
    look(root, None, finished=True)
    chosen = [step for step in range(steps or 0) if step % stride == 0 or step >= (steps or 0) - LAST_STEPS]
    for step in chosen:
        shutil.rmtree(root)
        if make(source, root, step) is not None:
            raise SystemExit(f"step {step}: nobody was killed")
        look(root, step, finished=False)
        make(source, root, None)
        look(root, step, finished=True)
    return len(chosen)


def kill_chain(source: Manifest | Path, root: Path, stride: int) -> int:
    """Kill one pull again and again, each time ``stride`` steps later; how often that was."""
    kills = 0
    while make(source, root, kills * stride) is None:
        look(root, kills * stride, finished=False)
        kills += 1
    look(root, None, finished=True)
    return kills


def main() -> None:
    source = pickle.loads(Path(sys.argv[1]).read_bytes())
    kill = {"anew": kill_anew, "chain": kill_chain}[sys.argv[3]]
    print(kill(source, Path(sys.argv[2]), int(sys.argv[4])))  # noqa: T201


if __name__ == "__main__":
    main()
