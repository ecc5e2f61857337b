"""Where the store is: what ``--database`` may say, and the default place."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import sqlalchemy as sa
import sqlalchemy.exc

from chat_server.store.errors import StoreReadOnly, StoreUnavailable
from lm_core.errors import InvalidParameter

FILE_NAME = "chat.sqlite"

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def database_url(database: str | None) -> sa.URL:
    """The address of a database from what a user wrote; see :meth:`Store.open`.

    Raises:
        InvalidParameter: it is not the address of a supported database.
        StoreUnavailable: the default folder cannot be made.
    """
    if database is None:
        return sa.URL.create("sqlite+pysqlite", database=str(default_file()))
    if not database.strip() or "\0" in database:
        raise InvalidParameter("database", "database is empty; give a URL or the path of a file")
    if "://" not in database:
        return sa.URL.create("sqlite+pysqlite", database=database)
    try:
        url = sa.make_url(database)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The address may hold a password, so it is not repeated.
        raise InvalidParameter(
            "database",
            "database is not a URL like sqlite:///chat.sqlite or postgresql+psycopg://user@host/name",
        ) from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise InvalidParameter(
            "database",
            f"database is of the kind {url.drivername!r}; it must be sqlite or postgresql+psycopg",
        )
    return url.set(drivername=driver)


def default_file() -> Path:
    """The SQLite file in the user's data folder, which is made, and open to nobody else."""
    folder = Path(platformdirs.user_data_dir("rewindlm", appauthor=False))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the folder {folder} for the sessions cannot be made ({error.strerror}); "
            "name another place with --database"
        ) from error
    return folder / FILE_NAME


def is_file(url: sa.URL) -> bool:
    """Whether it is a plain SQLite file, rather than memory, a ``file:`` URI, or a server."""
    name = url.database or ""
    return (
        url.get_backend_name() == "sqlite" and name not in ("", ":memory:") and not name.startswith("file:")
    )


def is_memory(url: sa.URL) -> bool:
    """Whether it is a SQLite database that ends with the program."""
    return url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:"


def prepare_file(path: Path) -> None:
    """Make an empty file where there is none, readable by its owner alone: conversations are private.

    Raises:
        StoreUnavailable: there cannot be a file of that name.
    """
    if path.is_dir():
        raise StoreUnavailable(f"the store {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise StoreUnavailable(
            f"the store {path} cannot be opened: there is no folder {path.parent}; make it first"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except PermissionError as error:
        raise StoreReadOnly(
            f"the store {path} cannot be written; check the permissions of the file and its folder"
        ) from error
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be opened: {error.strerror}") from error
