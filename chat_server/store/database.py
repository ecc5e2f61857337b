"""A database of either kind, as transactions that read and transactions that write, one at a time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.exc

from chat_server.store.address import is_file, is_memory, prepare_file
from chat_server.store.errors import StoreBusy, StoreDamaged, StoreUnavailable, StoreVersionError
from chat_server.store.failures import BUSY, DAMAGED, explain
from chat_server.store.migrations import migrate, stored_version

BUSY_SECONDS = 5.0
"""How long a transaction waits for other programs."""
CHECK_SECONDS = 0.5
"""How long opening a file looks for damage.  A page it did not come to is checked when it is read."""
WRITER_LOCK = 0x7265_7769_6E64_6C6D
"""The key of PostgreSQL's advisory lock that every writer holds ("rewindlm")."""


class Database:
    """An open database whose tables are of the present version.

    Raises:
        StoreUnavailable, StoreDamaged, StoreVersionError: it cannot be opened, and why.
    """

    def __init__(self, url: sa.URL) -> None:
        self.location = (url.database if is_file(url) else None) or url.render_as_string(hide_password=True)
        self._sqlite = url.get_backend_name() == "sqlite"
        self._writing = threading.Lock()
        if is_file(url):
            prepare_file(Path(url.database or ""))
        reading: dict[str, Any] = {"sqlite_begin": "BEGIN"}
        writing: dict[str, Any] = {"sqlite_begin": "BEGIN IMMEDIATE"}
        if self._sqlite:
            self._engine = _sqlite_engine(url)
        else:
            self._engine = _postgresql_engine(url)
            reading, writing = {"isolation_level": "REPEATABLE READ"}, {"isolation_level": "READ COMMITTED"}
        self._readers = self._engine.execution_options(**reading)
        self._writers = self._engine.execution_options(**writing)
        self._subject, self._opening = f"the store {self.location}", True
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise
        # From here on messages may reach a client, who must not learn of the host's files.
        self._subject, self._opening = "the session store", False

    def _prepare(self) -> None:
        with self.read() as connection, self._named():
            # Nothing may be written to a database of another program, not even its journal mode.
            stored_version(connection)
        if self._sqlite:
            self._use_write_ahead_log()
        else:
            self._require_unicode()
        with self.write() as connection, self._named():
            migrate(connection)
        if self._sqlite:
            self._look_for_damage()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees the database as of one moment and changes nothing."""
        with self._explained(), self._readers.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer overlaps.  When it has ended without an error, it is on disk."""
        if not self._writing.acquire(timeout=BUSY_SECONDS):
            raise StoreBusy(f"{self._subject} {BUSY[1]}")
        try:
            with self._explained(), self._writers.begin() as connection:
                if not self._sqlite:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
                yield connection
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close every connection; SQLite then folds its log into the file."""
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlalchemy.exc.SQLAlchemyError as error:
            explained = explain(error, self._subject, self._opening)
            if explained is None:
                raise
            raise explained from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What is wrong with the tables, said of this store."""
        try:
            yield
        except (StoreDamaged, StoreVersionError) as error:
            raise type(error)(f"{self._subject} {error}") from error

    def _use_write_ahead_log(self) -> None:
        """Readers and the writer then do not wait for each other.  Where it is impossible, they do."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with self._explained(), self._engine.connect() as connection:
                    if connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "delete":
                        connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar_one()
                return
            except StoreBusy:
                # Another program opens the file at this moment; SQLite does not wait for that by itself.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _require_unicode(self) -> None:
        with self.read() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise StoreUnavailable(
                f"{self._subject} has the encoding {encoding}, which cannot hold every text; "
                "make a database with UTF8"
            )

    def _look_for_damage(self) -> None:
        deadline = time.monotonic() + CHECK_SECONDS
        with self._explained(), self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            if not isinstance(driver, sqlite3.Connection):
                raise TypeError(f"expected SQLite's driver, not {type(driver)}")
            driver.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            try:
                intact = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one() == "ok"
            except sqlalchemy.exc.OperationalError as error:
                if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                    raise
                intact = True
            finally:
                driver.set_progress_handler(None, 0)
        if not intact:
            raise StoreDamaged(f"{self._subject} {DAMAGED[1]}")


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    # A database in memory is that of one connection, which then serves one caller after the other.
    pool: dict[str, Any] = (
        {"poolclass": sa.QueuePool, "pool_size": 1, "max_overflow": 0} if is_memory(url) else {}
    )
    arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=arguments, **pool)

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # Transactions are begun below; the driver's own begin late and without a lock.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        statement = connection.get_execution_options().get("sqlite_begin")
        if statement is not None:
            connection.exec_driver_sql(statement)

    return engine


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    arguments = {"connect_timeout": int(BUSY_SECONDS), "application_name": "chat-server"}
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    try:
        engine = sa.create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise StoreUnavailable(
            'the driver of PostgreSQL is missing; install it with: pip install "rewindlm[postgres]"'
        ) from error

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        with closing(connection.cursor()) as cursor:
            # Asked for, since a server's configuration may have relaxed it: what is committed is on disk.
            cursor.execute("SET synchronous_commit = on")
            cursor.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
        connection.commit()

    return engine
