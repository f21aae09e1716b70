"""The database of the queue: SQLite in a file by default, PostgreSQL by its URL.

Writing takes one transaction at a time, as SQLite has it anyway and PostgreSQL by an advisory lock: what is read in a
transaction that writes still holds when it commits, so that no rule of the queue depends on isolation levels.

A commit of SQLite does not wait for the disk, which takes milliseconds: who needs it waits afterwards, when the next
writer is at work already, and one fsync serves all who wait. See `sync.DiskSync`.
"""

import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)

from gesso.errors import GessoError
from gesso.extras import missing_extra
from gesso.serving.logs import NowAndThen
from gesso.serving.sync import DiskSync
from gesso.serving.tables import REVISION

BUSY_SECONDS = 30.0  # that a writer waits for others
_TURN_SECONDS = 0.001  # between two attempts to write, where another process does
PATIENCE = 20.0  # seconds in which work is tried again while a database restarts
_LOCK = 0x67657373  # of PostgreSQL, for those who write to the queue
# Of PostgreSQL: it shuts down, has crashed, starts; a connection failed; two transactions stood in each other's way.
_PASSING = ("57P01", "57P02", "57P03", "08000", "08001", "08003", "08006", "40001", "40P01")
_VERSION = "gesso_queue"  # table that says which migrations were applied

T = TypeVar("T")
log = logging.getLogger(__name__)


class Database:
    """Connections to the queue's database, its transactions and its clock. Any number of threads may use one.

    url       a path of a SQLite file, or an URL: sqlite:///queue.db, postgresql://user@host/name
    on_write  called after each change, by the thread that made it: others see it now
    Opening makes the tables, or brings them up to date. Raises GessoError for an URL that cannot be used, a database
    that does not answer, and one that a newer gesso has written (code newer_version).
    """

    def __init__(self, url: str | Path) -> None:
        self._url = _parsed(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.engine = _engine(self._url)
        self.on_write: list[Callable[[], None]] = []
        self._turn = Lock() if self.is_sqlite else nullcontext()  # threads need not fight for what is one at a time
        self._sync = DiskSync(Path(f"{self._url.database}-wal"), self._checkpoint) if self.is_sqlite else None
        self._watch_lock = Lock()
        self._watching: Connection | None = None
        self._silence = NowAndThen(log, logging.WARNING)
        self._clock_name: str = ""
        self._clock: Callable[[], float] | None = None  # PostgreSQL has its own
        if self.is_sqlite:
            self._clock_name, self._clock = _lease_clock()
        try:
            self.again(self._prepare)
        except BaseException:
            self.engine.dispose()
            raise

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections."""
        with self._watch_lock:
            if self._watching is not None:
                self._watching.close()
                self._watching = None
        if self._sync is not None:
            self._sync.close()
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads one state of the database."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that writes, alone. It is committed when the block ends well.

        durable  on the disk when the block is left; else it may be lost when the machine loses its power, no sooner
        """
        with self.committing(durable=durable) as connection:
            yield connection
        if durable:
            self.sync()

    @contextmanager
    def committing(self, *, durable: bool = True) -> Iterator[Connection]:
        """As `writing`, but what SQLite has committed is on the disk after the next `sync`, and seen by others before.

        durable  of PostgreSQL: on the disk when the block is left
        """
        with self._turn, self.engine.connect() as connection:
            connection = connection.execution_options(gesso_write=True)
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                    if not durable:
                        connection.execute(text("SET LOCAL synchronous_commit TO OFF"))
                yield connection

    def sync(self) -> None:
        """Wait until all that was committed is on the disk. Raises GessoError where the disk does not take it."""
        if self._sync is None:
            return
        try:
            self._sync.wait()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full() from error
            raise GessoError(
                f"the disk of {self.name} does not keep what is written ({error.strerror}). Check the disk",
                code="database_unusable",
                data={"database": self.name},
            ) from error

    def sync_soon(self) -> None:
        """Bring all that was committed to the disk within a moment, and do not wait for it."""
        if self._sync is not None:
            self._sync.soon()

    def _checkpoint(self) -> None:
        """Move what was committed from the log into the database, and to the disk. Raises OSError."""
        try:
            with self._turn, self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(FULL)").one()
        except DBAPIError as error:
            raise OSError(errno.EIO, _reason(error)) from error
        if busy:
            raise OSError(errno.EIO, "another process reads the log")

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads in one transaction; tried again as `again` does."""

        def once() -> T:
            with self.reading() as connection:
                return work(connection)

        return self.again(once)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """What `work` does in one transaction that writes, see `writing`; tried again as `again` does."""

        def once() -> T:
            with self.writing(durable=durable) as connection:
                return work(connection)

        result = self.again(once)
        self.tell()
        return result

    def tell(self) -> None:
        """Call those who want to know of changes."""
        for call in self.on_write:
            call()

    def again(self, work: Callable[[], T]) -> T:
        """What `work` returns; it is tried again while the database is busy or restarts, for some seconds.

        The work may have been committed when it is tried again: it must find out, or not mind. Raises GessoError:
        disk_full, database_unusable.
        """
        begin, pause = time.monotonic(), 0.05
        while True:
            try:
                return work()
            except (IntegrityError, ProgrammingError):  # bugs
                raise
            except DBAPIError as error:
                if time.monotonic() - begin > PATIENCE or not self._may_pass(error):
                    raise self._known(error) from error
                self._silence.tell(f"the database of the queue does not answer, trying again: {_reason(error)}")
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _may_pass(self, error: DBAPIError) -> bool:
        if self.is_sqlite:
            return _sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        state = getattr(error.orig, "sqlstate", None)
        is_gone = isinstance(error, OperationalError | InterfaceError) and state is None
        return is_gone or error.connection_invalidated or state in _PASSING

    def _known(self, error: DBAPIError) -> GessoError:
        if (self.is_sqlite and _sqlite_code(error) == sqlite3.SQLITE_FULL) or getattr(
            error.orig, "sqlstate", ""
        ) == "53100":
            return self._full()
        return GessoError(
            f"the queue's database {self.name} cannot be used ({_reason(error)}). Check its place and rights",
            code="database_unusable",
            data={"database": self.name},
        )

    def _full(self) -> GessoError:
        return GessoError(f"the disk of {self.name} is full. Make room, then try again", code="disk_full")

    def changes(self) -> str:
        """A mark that is another one whenever something was committed, by whatever process. Costs microseconds."""
        # SQLite counts the commits of other connections, and this one commits nothing. A snapshot of PostgreSQL lists
        # the transactions that it does not see.
        return str(self.glance("PRAGMA data_version" if self.is_sqlite else "SELECT pg_current_snapshot()::text"))

    def glance(self, sql: str) -> Any:
        """The one value of a statement that reads a little. Of SQLite it costs microseconds, and need not be waited
        for."""
        return self.again(partial(self._glance, sql))

    def _glance(self, sql: str) -> Any:
        with self._watch_lock:
            if self._watching is None:
                self._watching = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                if self.is_sqlite:
                    driver = self._watching.connection.driver_connection
                    assert driver is not None
                    try:
                        return driver.execute(sql).fetchone()[0]
                    except sqlite3.Error:
                        pass  # once more, for an error of SQLAlchemy's
                return self._watching.exec_driver_sql(sql).scalar_one()
            except DBAPIError:
                self._watching.close()
                self._watching = None
                raise

    @property
    def lease_clock(self) -> str:
        """Which clock `lease_time` is of: a lease by another clock (before the machine started anew) has lapsed."""
        return self._clock_name

    def lease_time(self, connection: Connection) -> float:
        """Seconds by a clock that nobody sets and all who share the database share.

        On one machine it is that of its kernel; PostgreSQL's server tells its own.
        """
        if self._clock is not None:
            return self._clock()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    # ---- tables ------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self.is_sqlite:
            self._use_wal()
        with self.reading() as connection:
            self._check_encoding(connection)
            if self._revision(connection) == REVISION:
                return
        with self.writing() as connection:  # another process may have been faster, so look once more
            revision = self._revision(connection)
            if revision == REVISION:
                return
            if revision is not None and revision > REVISION:
                raise GessoError(
                    f"{self.name}: its tables are of revision {revision}, this gesso knows {REVISION} and older. "
                    "Use the gesso that wrote it, or a newer one",
                    code="newer_version",
                    data={"revision": revision, "known": REVISION},
                )
            _migrate(connection)
            if not self.is_sqlite:
                return
        with self.reading() as connection:  # a database that is damaged is told now and not in the middle of a night
            assert self._revision(connection) == REVISION

    def _check_encoding(self, connection: Connection) -> None:
        """Raises GessoError for one that cannot hold every prompt."""
        encoding = "UTF8" if self.is_sqlite else connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise GessoError(
                f"{self.name}: its encoding is {encoding}, expected UTF8. Make it anew with: "
                "createdb --encoding UTF8 --template template0 NAME",
                code="database_unusable",
                data={"database": self.name, "encoding": encoding},
            )

    def _use_wal(self) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() != "wal":
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    def _revision(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table(_VERSION):
            return None
        return connection.execute(text(f"SELECT version_num FROM {_VERSION}")).scalar_one_or_none()


def _migrate(connection: Connection) -> None:
    """Apply the migrations that are missing, within the transaction of the connection."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("gesso.serving") / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _VERSION
    command.upgrade(config, REVISION)


def _parsed(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise GessoError(
            "`database`: not an URL of a database; expected a file, sqlite:///FILE or postgresql://USER@HOST/NAME",
            code="invalid_value",
            field="database",
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql") or parsed.database in (None, "", ":memory:"):
        raise GessoError(
            f"`database` {parsed.render_as_string()}: expected a file, sqlite:///FILE or postgresql://USER@HOST/NAME",
            code="invalid_value",
            field="database",
        )
    return parsed


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            # As many connections as threads may ask for; those beyond the first few are closed again.
            arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
            engine = create_engine(url, connect_args=arguments, pool_size=8, max_overflow=120, pool_use_lifo=True)
            event.listen(engine, "connect", _connect_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        # Of a database without an encoding the driver would give bytes for texts.
        encoding = {"client_encoding": "utf8"}
        return create_engine(url, connect_args=encoding, pool_pre_ping=True, pool_size=10, max_overflow=20)
    except (ImportError, NoSuchModuleError):
        raise missing_extra("PostgreSQL", "psycopg", "postgres") from None


def _connect_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -512")  # KiB of each connection: the kernel has the pages as well
    connection.execute("PRAGMA synchronous = NORMAL")  # commits are brought to the disk by `Database.sync`


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    driver = connection.connection.driver_connection
    assert driver is not None
    if not options.get("gesso_write"):
        driver.execute("BEGIN")
        return
    driver.execute("PRAGMA busy_timeout = 0")  # SQLite sleeps up to 0.1 s, and others slip in meanwhile
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # raises the error as SQLAlchemy's
                break
        time.sleep(_TURN_SECONDS)
    driver.execute(f"PRAGMA busy_timeout = {round(BUSY_SECONDS * 1000)}")


def _lease_clock() -> tuple[str, Callable[[], float]]:
    """A name and a clock: the kernel's since its start, which no one sets; where there is none, the one on the wall."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return "wall", time.time


def _sqlite_code(error: DBAPIError) -> int:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF


def _reason(error: DBAPIError) -> str:
    """What the driver says, on one line."""
    return " ".join(str(error.orig).split())[:300]
