"""The index of the library, in one SQLite file. Standard library only.

It is a memory, not the truth: the truth are the files. Lost or deleted, it is built again from the library's folder;
only registrations of files and folders elsewhere have to be made again. Every change is one transaction, so that runs
side by side wait for each other and a crash leaves the old state or the new one.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gesso.checkpoints.hashing import Hashes
from gesso.errors import GessoError, shorten
from gesso.library.entry import LibraryEntry, ModelFile

FILE_NAME = "index.sqlite3"
VERSION = 1
PATIENCE = 30.0  # seconds to wait for another run that is writing

_SCHEMA = """
CREATE TABLE models (
  path TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, family TEXT, layout TEXT NOT NULL, what TEXT NOT NULL,
  dtypes TEXT NOT NULL, num_tensors INTEGER NOT NULL, num_params INTEGER NOT NULL, metadata TEXT NOT NULL,
  problem TEXT, origin TEXT NOT NULL, source TEXT, folder TEXT, added TEXT, files TEXT NOT NULL
);
CREATE TABLE hashes (
  path TEXT PRIMARY KEY, nbytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  sha256 TEXT NOT NULL, autov1 TEXT NOT NULL, autov3 TEXT
);
CREATE TABLE recorded (path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE folders (path TEXT PRIMARY KEY, layout TEXT NOT NULL, added TEXT NOT NULL);
CREATE TABLE pins (
  repo TEXT NOT NULL, revision TEXT NOT NULL, file TEXT NOT NULL, commit_id TEXT NOT NULL, path TEXT NOT NULL,
  PRIMARY KEY (repo, revision, file)
);
"""
_COLUMNS = (
    "path",
    "name",
    "kind",
    "family",
    "layout",
    "what",
    "dtypes",
    "num_tensors",
    "num_params",
    "metadata",
    "problem",
    "origin",
    "source",
    "folder",
    "added",
    "files",
)


@dataclass(frozen=True)
class Folder:
    """A registered folder."""

    path: Path
    layout: str
    added: str


@dataclass(frozen=True)
class Pin:
    """What a hub's name stood for when it was fetched."""

    commit: str
    path: Path


class Index:
    """One index file. Every call opens it anew, so an Index may be used from any thread and after a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # ---- models ------------------------------------------------------------------------------------------------------

    def models(self) -> list[LibraryEntry]:
        """All that is known, with the hashes that still fit the files as they were last seen."""
        with self._read() as db:
            if db is None:
                return []
            hashes = {row["path"]: row for row in db.execute("SELECT * FROM hashes")}
            return [_entry(row, hashes) for row in db.execute("SELECT * FROM models ORDER BY name, path")]

    def put(self, entries: Iterable[LibraryEntry], forget: Iterable[Path] = ()) -> None:
        """Adds entries or replaces those of the same path, and forgets others, in one transaction."""
        marks = ", ".join("?" * len(_COLUMNS))
        with self._write() as db:
            db.executemany("DELETE FROM models WHERE path = ?", [(str(path),) for path in forget])
            db.executemany(f"REPLACE INTO models ({', '.join(_COLUMNS)}) VALUES ({marks})", map(_row, entries))

    # ---- hashes ------------------------------------------------------------------------------------------------------

    def remember(self, path: Path, hashes: Hashes, *, at: str, record: bool) -> None:
        """Keeps hashes for as long as size and time of change stay.

        record: this is what `verify` is to find from now on; otherwise only where nothing was recorded before.
        """
        with self._write() as db:
            row = (str(path), hashes.nbytes, hashes.mtime_ns, hashes.sha256, hashes.autov1, hashes.autov3)
            db.execute("REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?)", row)
            how = "REPLACE" if record else "INSERT OR IGNORE"
            db.execute(f"{how} INTO recorded VALUES (?, ?, ?)", (str(path), hashes.sha256, at))

    def recorded(self, path: Path) -> str | None:
        """The SHA-256 that a file had when it was first hashed."""
        with self._read() as db:
            row = db and db.execute("SELECT sha256 FROM recorded WHERE path = ?", (str(path),)).fetchone()
        return str(row["sha256"]) if row else None

    def forget_files(self, paths: Iterable[Path]) -> None:
        """Hashes of files that are no longer of interest."""
        with self._write() as db:
            for table in ("hashes", "recorded"):
                db.executemany(f"DELETE FROM {table} WHERE path = ?", [(str(path),) for path in paths])

    # ---- folders and the hub -----------------------------------------------------------------------------------------

    def folders(self) -> list[Folder]:
        """In the order of their registration."""
        with self._read() as db:
            rows = db.execute("SELECT * FROM folders ORDER BY added, rowid").fetchall() if db else []
        return [Folder(Path(row["path"]), row["layout"], row["added"]) for row in rows]

    def put_folder(self, folder: Folder) -> None:
        """Registers it, or changes its layout."""
        with self._write() as db:
            values = (str(folder.path), folder.layout, folder.added)
            db.execute(
                "INSERT INTO folders VALUES (?, ?, ?) ON CONFLICT (path) DO UPDATE SET layout = excluded.layout", values
            )

    def forget_folder(self, path: Path) -> int:
        """The folder and the models that were found in it; returns how many those were."""
        with self._write() as db:
            db.execute("DELETE FROM folders WHERE path = ?", (str(path),))
            return db.execute("DELETE FROM models WHERE folder = ? AND origin = 'folder'", (str(path),)).rowcount

    def pin(self, repo: str, revision: str, file: str) -> Pin | None:
        """What was fetched under that name before."""
        with self._read() as db:
            question = "SELECT * FROM pins WHERE repo = ? AND revision = ? AND file = ?"
            row = db and db.execute(question, (repo, revision, file)).fetchone()
        return Pin(row["commit_id"], Path(row["path"])) if row else None

    def put_pin(self, repo: str, revision: str, file: str, pin: Pin) -> None:
        """Remembers what a name stands for."""
        with self._write() as db:
            db.execute("REPLACE INTO pins VALUES (?, ?, ?, ?, ?)", (repo, revision, file, pin.commit, str(pin.path)))

    def forget_pins(self, path: Path) -> None:
        """All names that led to this model."""
        with self._write() as db:
            db.execute("DELETE FROM pins WHERE path = ?", (str(path),))

    # ---- the file itself ---------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection | None]:
        """None where there is no index yet: reading makes no file."""
        with self._explained():
            if not self.path.exists():
                yield None
                return
            db = self._open()
            try:
                db.execute("BEGIN")
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # another run is just making it
                    yield None
                else:
                    yield db
            finally:
                db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all or nothing."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            db = self._open()
            try:
                db.execute("BEGIN IMMEDIATE")
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
                yield db
                db.execute("COMMIT")
                is_new = False
            finally:
                db.close()  # what is not committed never was
                with suppress(OSError):
                    if is_new and self.path.stat().st_size == 0:  # on a full disk: no index is better than an empty one
                        self.path.unlink()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except BaseException:
            db.close()
            raise
        if version not in (0, VERSION):
            db.close()
            raise GessoError(
                f"{self.path}: made by a newer gesso (version {version}). Update gesso",
                code="newer_version",
                data={"path": str(self.path)},
            )
        return db

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            advice = "Another gesso may be using it; try again" if "lock" in text else "Is its folder writable?"
            raise GessoError(
                f"{self.path}: the library's index cannot be used ({text}). {advice}",
                code="damaged",
                data={"path": str(self.path)},
            ) from None
        except sqlite3.DatabaseError as error:
            raise GessoError(
                f"{self.path}: the library's index is damaged ({error}). Move it away: gesso then finds the models "
                "in the library again, but files and folders used in place must be added again",
                code="damaged",
                data={"path": str(self.path)},
            ) from None
        except UnicodeEncodeError as error:
            raise GessoError(
                f"{shorten(str(error.object))}: its name is not UTF-8, so it cannot be remembered. Rename it",
                code="invalid_name",
            ) from None
        except OSError as error:
            raise GessoError(
                f"{self.path}: cannot be used ({error.strerror or error})",
                code="damaged",
                data={"path": str(self.path)},
            ) from None


def _row(entry: LibraryEntry) -> tuple[Any, ...]:
    return (
        str(entry.path),
        entry.name,
        entry.kind,
        entry.family,
        entry.layout,
        entry.what,
        json.dumps(entry.dtypes),
        entry.num_tensors,
        entry.num_params,
        json.dumps(dict(entry.metadata)),
        entry.problem,
        entry.origin,
        entry.source,
        str(entry.folder) if entry.folder else None,
        entry.added,
        json.dumps([[file.name, str(file.path), file.nbytes, file.mtime_ns] for file in entry.files]),
    )


def _entry(row: sqlite3.Row, hashes: Mapping[str, sqlite3.Row]) -> LibraryEntry:
    files = []
    for name, path, nbytes, mtime_ns in json.loads(row["files"]):
        file = ModelFile(name=name, path=Path(path), nbytes=nbytes, mtime_ns=mtime_ns)
        known = hashes.get(path)
        if known is not None and (known["nbytes"], known["mtime_ns"]) == (nbytes, mtime_ns):
            file = replace(file, sha256=known["sha256"], autov1=known["autov1"], autov3=known["autov3"])
        files.append(file)
    return LibraryEntry(
        name=row["name"],
        path=Path(row["path"]),
        kind=row["kind"],
        family=row["family"],
        layout=row["layout"],
        what=row["what"],
        dtypes=tuple(json.loads(row["dtypes"])),
        num_tensors=row["num_tensors"],
        num_params=row["num_params"],
        files=tuple(files),
        metadata=json.loads(row["metadata"]),
        problem=row["problem"],
        origin=row["origin"],
        source=row["source"],
        folder=Path(row["folder"]) if row["folder"] else None,
        added=row["added"],
    )
