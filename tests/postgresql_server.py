"""A PostgreSQL server of the tests' own: in a temporary folder, on a socket in it, and on no port."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

USER = "rewindlm"
SECONDS = 60


class PostgreSQL:
    """A running server."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        self._names = (f"store_{number}" for number in itertools.count())

    def url(self, database: str, user: str = USER) -> str:
        """The address of one of its databases."""
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"

    def new_database(self, options: str = "") -> str:
        """The address of a new, empty database."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def new_schema(self) -> str:
        """The address of a new, empty schema: to a program the same, and made much faster."""
        name = next(self._names)
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the administrator."""
        engine = sa.create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def initialize(self) -> None:
        """Make the server's files."""
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # What it holds need not outlive the machine, so it need not wait for the disk.
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self) -> None:
        """End it at once, as a power cut would."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str | Path) -> None:
        # A pipe would be kept open by the server that pg_ctl leaves behind.
        with (self.folder / "out").open("ab") as out:
            finished = subprocess.run(
                [self._programs / program, *arguments],
                # The server refuses to run as root.
                user=_unprivileged_user(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        if finished.returncode != 0:
            raise RuntimeError(f"{program} failed: {(self.folder / 'out').read_text()}")


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """A server for as long as the block runs; the test is skipped where it cannot be had."""
    pytest.importorskip("psycopg", reason="the postgres extra is not installed")
    programs = _programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server on this machine (Debian: postgresql)")
    # Not pytest's own folder, which only its user may enter, and whose name is too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    user = _unprivileged_user()
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    server = PostgreSQL(folder, programs)
    with _cleaned_up(folder, programs):
        server.initialize()
        server.start()
        yield server


@contextmanager
def _cleaned_up(folder: Path, programs: Path) -> Iterator[None]:
    """End the server and delete its folder after the block, also if this process is killed within it."""
    clean_up = 'read -r _; "$0"/pg_ctl -D "$1"/data -m immediate stop; rm -rf "$1"'
    guard = subprocess.Popen(
        ["sh", "-c", clean_up, programs, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=_unprivileged_user(),
        cwd="/",
        # Whoever kills a whole process group is not to kill this one.
        start_new_session=True,
    )
    try:
        yield
    finally:
        # The end of its input is what it waits for.
        guard.communicate(timeout=SECONDS)


def _programs() -> Path | None:
    """The folder of the server's programs, which Debian does not put on the path."""
    found = shutil.which("initdb")
    places = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def _unprivileged_user() -> str | None:
    """Who runs the server where this process is root; None where it can itself."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
