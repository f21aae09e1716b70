"""The library: a folder of models, and files and folders registered elsewhere.

    <root>/checkpoints/, loras/, vae/, ...   models that were imported; also what the user puts there by hand
    <root>/.quarantine/                      what is being imported and is not yet checked
    <root>/index.sqlite3                     a memory of all that, see `index`

Nothing is made before something is imported or registered. A Library holds no open file and no lock between calls.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gesso.arguments import check_text, check_type
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import OnBytes, hash_file
from gesso.errors import GessoError, as_path, shorten
from gesso.library.builtin import builtin_entries
from gesso.library.entry import BUILTIN, HUB, IN_FOLDER, IN_PLACE, LINKED, OWNED, LibraryEntry, ModelFile
from gesso.library.examine import examine, files_of, is_unchanged
from gesso.library.folders import MANY_FILES, Candidate, candidates, find_layout, own_places, places
from gesso.library.index import FILE_NAME, Folder, Index
from gesso.notices import Notice

log = logging.getLogger(__name__)

MAX_SKIPPED = 20  # files that a listing names


@dataclass(frozen=True)
class Listing:
    """entries: all models, the built-in ones first. notes: what could not be read, for the user."""

    entries: tuple[LibraryEntry, ...]
    notes: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class _Sighting:
    """A candidate, and why it belongs to the library."""

    candidate: Candidate
    origin: str
    folder: Path | None


class Library:
    """The models of one user.

    root  the library's folder; it need not exist yet
    """

    def __init__(self, root: str | Path) -> None:
        self.root = as_path(root, "root").absolute()
        self.index = Index(self.root / FILE_NAME)

    @property
    def exists(self) -> bool:
        """Whether anything was imported or registered so far, or the user made the folder."""
        return self.root.is_dir()

    def listing(self) -> Listing:
        """All models as they are now.

        Looks at every folder again, but into those files alone that are new or changed: their headers are read and
        kept in the index. Raises GessoError where the index cannot be used.
        """
        known = {entry.path: entry for entry in self.index.models()}
        sightings, unseen, notes = self._look_around()
        fresh: list[LibraryEntry] = []
        kept: list[LibraryEntry] = []
        for path, sighting in sightings.items():
            if (old := known.get(path)) is not None and old.origin in (IN_PLACE, HUB):
                continue  # registered by itself, under its own name
            known.pop(path, None)
            if old is not None and _fits(old, sighting) and is_unchanged(old.files):
                kept.append(old)
            else:
                try:
                    fresh.append(_meet(sighting, old))
                except (GessoError, OSError) as error:  # one odd file does not hide the others
                    notes.append(Notice(f"{shorten(str(path))}: skipped: {_why(error)}", code="models_skipped"))
        gone: list[Path] = []
        for entry in known.values():
            if entry.origin in (IN_PLACE, HUB) or entry.folder in unseen:
                again = _look_again(entry)
                (fresh if again != entry and again.problem != MISSING else kept).append(again)
            else:
                gone.append(entry.path)
        if fresh or gone:
            try:
                self.index.put(fresh, gone)
                fresh = [entry for entry in self.index.models() if entry.path in {new.path for new in fresh}]
            except GessoError as error:  # a medium that cannot be written: what was found out is shown all the same
                notes.append(Notice(error.one_line, code="models_unseen", data=error.data))
        log.debug("scanned: %d models, %d new or changed, %d gone", len(kept) + len(fresh), len(fresh), len(gone))
        entries = sorted([*kept, *fresh], key=lambda entry: (entry.name.casefold(), str(entry.path)))
        return Listing((*builtin_entries(), *entries), tuple(notes))

    def entries(self) -> tuple[LibraryEntry, ...]:
        """`listing` without its notes."""
        return self.listing().entries

    def glance(self) -> Iterator[tuple[str, Path, str | None]]:
        """Name, path and kind of every model, the built-in ones first, without a look into a file.

        The kind of a file that is not in the index yet is that of its folder; None where that may hold any. Writes
        nothing. Raises GessoError where the index cannot be used.
        """
        known = {entry.path: entry for entry in self.index.models()}
        sightings, _, _ = self._look_around()
        registered = (entry for entry in known.values() if entry.origin in (IN_PLACE, HUB))
        yield from ((entry.name, entry.path, entry.kind) for entry in (*builtin_entries(), *registered))
        for path, sighting in sightings.items():
            entry = known.get(path)
            if entry is None:
                yield model_name(path), path, sighting.candidate.kind
            elif entry.origin not in (IN_PLACE, HUB):
                yield entry.name, path, entry.kind

    def folders(self) -> list[Folder]:
        """Those that were registered."""
        return self.index.folders()

    def add_folder(self, path: str | Path, layout: str = "auto") -> Folder:
        """Register a folder whose models are used in place, including those added later.

        layout  "a1111" (Forge as well), "comfyui" (with its extra_model_paths.yaml), "plain": any folder, searched as
                a whole; "auto" tells which
        Opens no file. Raises GessoError for what is no such folder, for a whole disk or home folder, and for more files
        than MAX_FILES.
        """
        check_text("layout", layout, "auto, a1111, comfyui or plain")
        base, layout = find_layout(as_path(path, "path"), layout)
        if base == self.root or self.root in base.parents:
            raise GessoError(f"{base}: is already part of the library", code="name_taken", data={"path": str(base)})
        for place in places(base, layout):  # a list of paths that cannot be read is told now, as are too many files
            for _ in candidates(place):
                pass
        folder = Folder(base, layout, now())
        self.index.put_folder(folder)
        log.info("registered the folder %r (%s)", str(base), layout)
        return folder

    def forget_folder(self, path: Path) -> int:
        """Unregister a folder; its files are kept. Returns how many models it had."""
        return self.index.forget_folder(as_path(path, "path"))

    def hashed(self, entry: LibraryEntry, on_bytes: OnBytes = lambda count: None) -> LibraryEntry:
        """The entry with the hashes of all its files; reads files that are new or changed.

        Raises ModelFileError where one cannot be read.
        """
        check_type("entry", entry, LibraryEntry, "a LibraryEntry, such as those of entries()")
        files: list[ModelFile] = []
        for file in entry.files:
            if file.sha256 is None or not is_unchanged((file,)):
                hashes = hash_file(file.path, on_bytes)
                file = replace(
                    file,
                    nbytes=hashes.nbytes,
                    mtime_ns=hashes.mtime_ns,
                    sha256=hashes.sha256,
                    autov1=hashes.autov1,
                    autov3=hashes.autov3,
                )
                if entry.origin != BUILTIN and self.index.path.exists():
                    self.index.remember(file.path, hashes, at=now(), record=False)
            files.append(file)
        return replace(entry, files=tuple(files))

    def _look_around(self) -> tuple[dict[Path, _Sighting], set[Path | None], list[Notice]]:
        """What lies in the library and in the registered folders; folders that cannot be looked into now; notes."""
        sightings: dict[Path, _Sighting] = {}
        taken: set[str] = set()  # the same file by another way is the same model
        unseen: set[Path | None] = set()
        notes: list[Notice] = []
        skipped: list[str] = []

        def see(candidates: Iterator[Candidate], folder: Path | None) -> None:
            for candidate in candidates:
                real = os.path.realpath(candidate.path)
                if real in taken:
                    continue
                taken.add(real)
                origin = IN_FOLDER if folder else LINKED if candidate.path.is_symlink() else OWNED
                sightings[candidate.path] = _Sighting(candidate, origin, folder)

        for place in own_places(self.root):
            see(candidates(place, skipped.append), None)
        for folder in self.folders():
            if not folder.path.is_dir():
                unseen.add(folder.path)
                text = f"{folder.path}: not found; `gesso models remove {folder.path}` unregisters it"
                notes.append(Notice(text, code="models_unseen", data={"path": str(folder.path)}))
                continue
            counts: list[int] = []
            try:
                for place in places(folder.path, folder.layout):
                    see(candidates(place, skipped.append, counts.append), folder.path)
            except GessoError as error:
                unseen.add(folder.path)
                notes.append(Notice(error.one_line, code="models_unseen", data=error.data))
            if (count := sum(counts)) > MANY_FILES:
                found = sum(sighting.folder == folder.path for sighting in sightings.values())
                text = (
                    f"{folder.path}: {count:,} files, of which {found:,} are models; every look for models goes "
                    "through all of them. Register the folders of models in it instead"
                )
                data = {"path": str(folder.path), "files": count, "models": found}
                notes.append(Notice(text, code="models_slow", data=data))
        notes += [Notice(text, code="models_skipped") for text in skipped[:MAX_SKIPPED]]
        if len(skipped) > MAX_SKIPPED:
            more = len(skipped) - MAX_SKIPPED
            notes.append(Notice(f"and {more} more files were skipped", code="models_skipped", data={"count": more}))
        return sightings, unseen, notes


MISSING = "missing"


def _why(error: GessoError | OSError) -> str:
    """What is wrong with a file, without its path."""
    if isinstance(error, ModelFileError):
        return error.detail
    return error.one_line.partition(": ")[2] if isinstance(error, GessoError) else error.strerror or str(error)


def now() -> str:
    """Date and time of day, ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def model_name(path: Path) -> str:
    """The name of a model from that of its file or folder."""
    return path.name if path.is_dir() else path.stem


def make_entry(
    path: Path,
    hint: str | None,
    origin: str,
    *,
    folder: Path | None = None,
    name: str | None = None,
    source: str | None = None,
    added: str | None = None,
) -> LibraryEntry:
    """Looks at a model and says what is known of it now.

    Raises GessoError where its files cannot be found.
    """
    facts = examine(path, hint)
    return LibraryEntry(
        name=name or model_name(path),
        path=path,
        kind=facts.kind,
        family=facts.family,
        layout=facts.layout,
        what=facts.what,
        dtypes=facts.dtypes,
        num_tensors=facts.num_tensors,
        num_params=facts.num_params,
        files=files_of(path),
        metadata=facts.metadata,
        problem=facts.problem,
        origin=origin,
        source=source,
        folder=folder,
        added=added or now(),
    )


def _fits(old: LibraryEntry, sighting: _Sighting) -> bool:
    return (old.origin, old.folder) == (sighting.origin, sighting.folder)


def _meet(sighting: _Sighting, old: LibraryEntry | None) -> LibraryEntry:
    candidate = sighting.candidate
    source, added = (old.source, old.added) if old is not None else (None, None)
    return make_entry(
        candidate.path, candidate.kind, sighting.origin, folder=sighting.folder, source=source, added=added
    )


def _look_again(entry: LibraryEntry) -> LibraryEntry:
    """A registered model as it is now."""
    if not entry.path.exists():
        return replace(entry, problem=MISSING)
    if is_unchanged(entry.files):
        return entry
    hint = None if entry.problem else entry.kind
    return make_entry(
        entry.path, hint, entry.origin, folder=entry.folder, name=entry.name, source=entry.source, added=entry.added
    )
