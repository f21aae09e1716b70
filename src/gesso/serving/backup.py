"""Backups of a server: its queue and its pictures, taken while it works, and restored into an empty place.

    queue.sqlite3   the database as it was at one moment, copied by SQLite itself; of PostgreSQL: queue.dump, by pg_dump
    blobs/          the pictures that it names, each checked against its hash
    backup.json     when, of what, by which gesso
    secret          only where asked for: with it and the database, keys can be guessed at; so keep it apart

Rows first, bytes second: what the database names at that moment was stored before. A picture that its owner deletes
while the backup runs may be gone when it is its turn, and then its row is taken out of the copy as well, or, of
PostgreSQL, when it is restored.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, select, text
from sqlalchemy.engine import make_url

from gesso import __version__
from gesso.errors import GessoError
from gesso.files import atomic_file, hidden_name, sync_folder
from gesso.serving.blobs import BlobStore
from gesso.serving.database import Database
from gesso.serving.keys import SECRET_FILE
from gesso.serving.secret_file import LINK_FILE
from gesso.serving.settings import ServeSettings
from gesso.serving.storage import Blobs, open_blobs
from gesso.serving.store import JobStore
from gesso.serving.tables import REVISION, job_uploads, jobs, outputs, uploads

ABOUT, FILE, DUMP, PICTURES = "backup.json", "queue.sqlite3", "queue.dump", "blobs"
SECRETS = (SECRET_FILE, LINK_FILE)
_STEP_PAGES = 1024  # that SQLite copies before it lets others write
_LOST = ("missing", "damaged")


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What was done.

    pictures  that the database names; copied: of these, now; the others were there from before
    deleted   that their owners deleted meanwhile, and are not in it
    damaged   whose bytes are not what was stored; they are left out, too
    """

    folder: Path
    jobs: int
    pictures: int
    copied: int
    deleted: int
    damaged: tuple[str, ...] = ()


def back_up(settings: ServeSettings, folder: Path, *, with_secret: bool = False) -> Backup:
    """Copy the server's queue and pictures into a folder, which may hold an older backup: only what is new is copied.

    The server may work meanwhile. Raises GessoError: the server's database cannot be used, the folder cannot be
    written, or pg_dump is missing or fails.
    """
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise GessoError(
            f"{url.database}: no queue of a server is there. Choose its folder with `home`",
            code="missing",
            field="home",
        )
    source = open_blobs(settings.pictures_address, settings.folder / "copies")
    target = BlobStore(folder / PICTURES)  # makes the folder
    database = Database(settings.database_url)
    try:
        if database.is_sqlite:
            _copy_sqlite(Path(str(url.database)), folder / FILE)
            names, num_jobs = _of_file(folder / FILE)
        else:
            names, num_jobs = _dump(database, folder / DUMP)
    finally:
        database.close()
    copied, gone, damaged = _copy(source, target, names)
    if gone and database.is_sqlite:
        copy = JobStore(folder / FILE)
        _forget(copy, gone)
        copy.close()
        _one_file(folder / FILE)
    target.sweep(lambda digests: names & set(digests), grace_seconds=-1.0)
    for name in SECRETS if with_secret else ():
        if (settings.folder / name).exists():
            _write(folder / name, (settings.folder / name).read_bytes(), mode=0o600)
    about = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gesso": __version__,
        "revision": REVISION,
        "database": FILE if database.is_sqlite else DUMP,
        "jobs": num_jobs,
        "pictures": len(names) - len(gone),
    }
    _write(folder / ABOUT, json.dumps(about, indent=1).encode() + b"\n")
    return Backup(
        folder=folder,
        jobs=num_jobs,
        pictures=len(names),
        copied=copied,
        deleted=len(gone) - len(damaged),
        damaged=tuple(sorted(damaged)),
    )


def restore(folder: Path, settings: ServeSettings) -> Backup:
    """Put a backup where a server keeps its things: into an empty folder, or an empty database of PostgreSQL.

    An older gesso's backup is brought up to date. What was being drawn goes back to the queue. Raises GessoError for a
    folder that is no backup, and where something is already.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        kind = str(about["database"])
    except (OSError, ValueError, KeyError, TypeError):
        raise GessoError(f"{folder}: no backup of a server; {ABOUT} is not there or damaged", code="damaged") from None
    url = make_url(settings.database_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite != (kind == FILE):
        was, now = ("SQLite", "PostgreSQL") if kind == FILE else ("PostgreSQL", "SQLite")
        raise GessoError(
            f"{folder}: a backup of {was}, and `database` is {now}. Choose a database of that kind",
            code="mismatch",
            field="database",
        )
    settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    source, target = BlobStore(folder / PICTURES), open_blobs(settings.pictures_address, settings.folder / "copies")
    if is_sqlite:
        _place(folder / FILE, Path(str(url.database)))
    else:
        _load(folder / DUMP, settings.database_url)
    store = JobStore(settings.database_url)
    try:
        with store.database.reading() as connection:
            names, num_jobs = _named(connection)
        copied, gone, damaged = _copy(source, target, names)
        _forget(store, gone)
        store.put_back_all()
    finally:
        store.close()
    for name in SECRETS:
        if (folder / name).exists() and not (settings.folder / name).exists():
            _write(settings.folder / name, (folder / name).read_bytes(), mode=0o600)
    return Backup(
        folder=folder,
        jobs=num_jobs,
        pictures=len(names),
        copied=copied,
        deleted=len(gone) - len(damaged),
        damaged=tuple(sorted(damaged)),
    )


# ---- pictures --------------------------------------------------------------------------------------------------------


def _named(connection: Connection) -> tuple[set[str], int]:
    """The digests that a database names, and how many jobs it has."""
    names = set(connection.scalars(select(outputs.c.digest)))
    names |= set(connection.scalars(select(uploads.c.digest)))
    return names, len(connection.execute(select(jobs.c.seq)).all())


def _copy(source: Blobs, target: Blobs, names: Iterable[str]) -> tuple[int, set[str], set[str]]:
    """Copy blobs that are not there yet. -> how many, which could not be, and which of these because of damage"""
    copied, gone, damaged = 0, set[str](), set[str]()
    for digest in sorted(names):
        try:
            target.read(digest)  # as it should be: a backup that was made over a broken one is whole
            continue
        except GessoError as error:
            if error.code not in _LOST:
                raise
        try:
            target.put(source.read(digest))
            copied += 1
        except GessoError as error:
            if error.code not in _LOST:
                raise
            gone.add(digest)
            if error.code == "damaged":
                damaged.add(digest)
    return copied, gone, damaged


def _forget(store: JobStore, gone: set[str]) -> None:
    """Take out the rows of pictures whose bytes are not there."""
    if not gone:
        return
    with store.database.writing() as connection:
        for digest in sorted(gone):
            connection.execute(delete(outputs).where(outputs.c.digest == digest))
            held = select(uploads.c.id).where(uploads.c.digest == digest)
            connection.execute(
                delete(jobs).where(jobs.c.id.in_(select(job_uploads.c.job).where(job_uploads.c.upload.in_(held))))
            )
            connection.execute(delete(uploads).where(uploads.c.digest == digest))


# ---- SQLite ----------------------------------------------------------------------------------------------------------


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that others write to, as it is at one moment."""
    hidden = hidden_name(target)
    try:
        with closing(sqlite3.connect(source, timeout=30)) as here, closing(sqlite3.connect(hidden)) as there:
            here.backup(there, pages=_STEP_PAGES, sleep=0.01)
        _one_file(hidden)
        hidden.chmod(0o600)  # prompts, and secrets of webhooks
        with open(hidden, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(hidden, target)
        sync_folder(target.parent)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise GessoError(f"{target}: the queue cannot be copied there ({why})", code="unwritable") from error
    finally:
        for part in (hidden, Path(f"{hidden}-wal"), Path(f"{hidden}-shm"), Path(f"{hidden}-journal")):
            part.unlink(missing_ok=True)


def _one_file(path: Path) -> None:
    """Without a file beside it that belongs to it. Raises GessoError for a database that is damaged."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        found = connection.execute("PRAGMA integrity_check").fetchone()
    if found != ("ok",):
        raise GessoError(f"{path}: the copy of the queue is damaged ({found[0]})", code="damaged")


def _of_file(path: Path) -> tuple[set[str], int]:
    with closing(sqlite3.connect(path)) as connection:
        names = {row[0] for row in connection.execute("SELECT digest FROM outputs UNION SELECT digest FROM uploads")}
        return names, connection.execute("SELECT count(*) FROM jobs").fetchone()[0]


def _place(source: Path, target: Path) -> None:
    """Put a copy where a server will find it, and where none is yet."""
    try:
        _check_file(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target, overwrite=False) as handle, open(source, "rb") as given:
            shutil.copyfileobj(given, handle)
    except FileExistsError:
        raise GessoError(
            f"{target}: there is a queue already, and it is not replaced. Choose another folder with `home`",
            code="name_taken",
            field="home",
        ) from None
    except OSError as error:
        raise GessoError(f"{target}: cannot be written ({error.strerror})", code="unwritable") from error


def _check_file(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        found = (str(error),)
    if found != ("ok",):
        raise GessoError(f"{path}: the copy of the queue is damaged ({found[0]})", code="damaged")


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------


def _dump(database: Database, target: Path) -> tuple[set[str], int]:
    """Dump a database, and what it names at the same moment."""
    with database.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            snapshot = str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())
            found = _named(connection)
            hidden = hidden_name(target)
            try:
                words = ["--format=custom", "--no-owner", f"--snapshot={snapshot}", f"--file={hidden}"]
                _run("pg_dump", words, database.engine.url.render_as_string(hide_password=False))
                hidden.chmod(0o600)
                os.replace(hidden, target)
                sync_folder(target.parent)
            finally:
                hidden.unlink(missing_ok=True)
    return found


def _load(source: Path, url: str) -> None:
    from sqlalchemy import create_engine, inspect

    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        held = inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if held:
        raise GessoError(
            f"`database` has tables already ({held[0]}), and they are not replaced. Make an empty one: createdb NAME",
            code="name_taken",
            field="database",
        )
    _run("pg_restore", ["--no-owner", "--exit-on-error", "--single-transaction", str(source)], url)


def _run(program: str, words: list[str], url: str) -> None:
    """Run a tool of PostgreSQL on a database. Its password is put where no list of processes shows it."""
    parsed = make_url(url)
    environment = dict(os.environ)
    if parsed.password is not None:
        environment["PGPASSWORD"] = str(parsed.password)
    plain = parsed.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    try:
        done = subprocess.run(
            [program, f"--dbname={plain}", *words], env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise GessoError(
            f"{program} is not installed. It comes with PostgreSQL's clients (Debian: postgresql-client)", code="system"
        ) from None
    if done.returncode != 0:
        raise GessoError(f"{program} failed: {' '.join(done.stderr.split())[:500]}", code="database_unusable")


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    try:
        with atomic_file(path) as handle:
            if hasattr(os, "fchmod"):  # not on Windows
                os.fchmod(handle.fileno(), mode)
            handle.write(data)
    except OSError as error:
        raise GessoError(f"{path}: cannot be written ({error.strerror})", code="unwritable") from error
