"""Making a folder so that it is whole or absent, whatever happens meanwhile.

Everything is made in a hidden folder beside the target, ``.NAME.partial``, which one process at a time
may hold.  What is finished is written through to the disk and then moved into place by one rename.  A
process that is killed leaves the hidden folder, and the next one goes on with what is in it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lm_core.errors import ModelError
from lm_models.errors import PullError
from lm_models.progress import Progress, SilentProgress

_LOCK = "lock"


class Staging:
    """The hidden folder in which one target is made, held by this process."""

    def __init__(self, target: Path, folder: Path, lock: int) -> None:
        self.target = target
        self.folder = folder
        self.lock = lock
        """Descriptor of the lock; a child process that inherits it keeps others away until it ends."""

    def subfolder(self, name: str) -> Path:
        """A folder in the hidden folder, with what an earlier run left in it."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    @contextmanager
    def fresh_subfolder(self, name: str) -> Iterator[Path]:
        """An empty folder in the hidden folder, for what no other run can go on with: an error removes it."""
        path = self.folder / name
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
        try:
            yield self.subfolder(name)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def publish(self, finished: Path) -> None:
        """Move a finished subfolder to the target by one rename.

        Raises:
            PullError: the target is there meanwhile, and is not an empty folder.
        """
        for entry in finished.iterdir():
            _write_through(entry)
        _write_through(finished)
        try:
            # Over a folder that is not empty this fails, so nothing is ever overwritten.
            os.rename(finished, self.target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise PullError(f"{self.target} exists already; remove it first") from error
            raise
        _write_through(self.target.parent)


@contextmanager
def staging(target: Path, progress: Progress, *, resumable: bool) -> Iterator[Staging]:
    """Hold the hidden folder of ``target``; wait while another process holds it.

    At the end it is removed, unless it is ``resumable``, the target is not there, and another run
    could go on with what is in it.
    """
    target = Path(os.path.abspath(target))
    missing_parents = [parent for parent in target.parents if not parent.exists()]
    folder = hidden_folder(target)
    try:
        lock = _hold(folder, progress)
        keep = resumable
        try:
            yield Staging(target, folder, lock)
        except ModelError:
            # The model itself is at fault, so running it again would fail again.
            keep = False
            raise
        finally:
            if is_filled(target) or not keep or not _has_contents(folder):
                _remove(folder)
            os.close(lock)
    finally:
        for parent in missing_parents:
            # Only what is empty goes.
            with suppress(OSError):
                parent.rmdir()


def hidden_folder(target: Path) -> Path:
    """The folder beside ``target`` in which it is made."""
    target = Path(os.path.abspath(target))
    return target.parent / f".{target.name}.partial"


def clear_leftovers(target: Path) -> None:
    """Remove what a process left that was killed just after it had moved ``target`` into place."""
    if hidden_folder(target).is_dir():
        # On a medium that cannot be written there is nothing to do, and no harm.
        with suppress(OSError), staging(target, SilentProgress(), resumable=True):
            pass


def is_filled(folder: Path) -> bool:
    """Whether ``folder`` is there and has something in it."""
    return folder.is_dir() and any(folder.iterdir())


def require_space(folder: Path, size: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        PullError: fewer than ``size`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise PullError(
            f"only {free / 1e6:.0f} MB are free on the disk and {size / 1e6:.0f} MB are needed; "
            "make room or choose another folder"
        )


def _hold(folder: Path, progress: Progress) -> int:
    """The locked descriptor of the lock file in ``folder``, which is made if it is not there."""
    # Imported here so that whoever uses a model that is there does not wait for it.
    from filelock import lock_descriptor

    told = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            # Its last holder finished and removed the folder between these two lines.
            continue
        try:
            if not lock_descriptor(lock, blocking=False):
                if not told:
                    progress.note("another process is making this model; waiting for it")
                told = True
                lock_descriptor(lock)
            if _is_current(lock, folder / _LOCK):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _is_current(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one at ``path``: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _has_contents(folder: Path) -> bool:
    return any(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != _LOCK)


def _remove(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink()
    # The lock goes last: while it is there, a waiting process finds it and sees the finished target.
    with suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


def _write_through(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
