"""Finds the files that a request names: among those passed, the built-in ones, and the library."""

import difflib
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from gesso.arguments import check_number, check_text, check_type
from gesso.errors import GessoError, short
from gesso.library.entry import LibraryEntry
from gesso.library.library import MISSING, Library
from gesso.library.resolving import find, find_by_hashes
from gesso.request.checks import unknown_data
from gesso.request.embedded import embedded_extras
from gesso.request.finder import KIND_NAMES, Kind, check_files, check_kind
from gesso.request.recipe import ExtraFile

# A finder's kinds -> those of the library.
LIBRARY_KINDS: Mapping[Kind, tuple[str, ...]] = {
    "lora": ("lora",),
    "embedding": ("embedding",),
    "control": ("controlnet", "t2i_adapter", "ip_adapter"),
    "upscaler": ("upscaler",),
    "image_encoder": ("clip_vision",),
}
_ALIAS = "ss_output_name"  # what kohya's trainer called a file, which A1111 takes for a second name
_SHOWN = 6


class LibraryFinder:
    """A `request.finder.Finder`. Names are file names without their ending; letters' case does not matter.

    files  by kind and name; they come before all others, and those of the library before those built into gesso
    fresh  seconds for which a scan of the library is reused; for a name that is not in it, or whose file is gone, the
           library is scanned again at once. A scan costs 0.1 ms per file and reads only new or changed files.
    """

    def __init__(
        self, library: Library, files: Mapping[Kind, Mapping[str, Path]] | None = None, *, fresh: float = 5.0
    ) -> None:
        check_type("library", library, Library, "a Library, such as gesso.Library('folder')")
        check_number("fresh", fresh, "seconds")
        self.library, self.files, self.fresh = library, files if files is not None else {}, fresh
        check_files("files", self.files)
        self._last_scan: tuple[float, tuple[LibraryEntry, ...]] | None = None  # when, and what was there

    def find(self, kind: Kind, name: str) -> Path:
        """The file of that name. Raises GessoError with close names where there is none, and where several are."""
        check_kind(kind)
        check_text("name", name, "the name of a file")
        if (path := _named(name, self.files.get(kind, {}))) is not None:
            return path
        if (builtin := _named(name, embedded_extras(kind))) is not None:
            with suppress(GessoError):  # several of the name, or one of another kind
                entry = self._known(kind, name, self._entries())
                return entry.path if entry is not None and entry.path.exists() else builtin
            return builtin
        entry = self._known(kind, name, self._entries())
        if entry is None or not entry.path.exists():
            entry = self._known(kind, name, self._look())
        if entry is None:
            known = sorted(self.names(kind))
            close = difflib.get_close_matches(name[:64], known, n=_SHOWN)
            hint = "The library has none"
            if close:
                hint = f"Did you mean {' or '.join(map(short, close))}?"
            elif known:
                hint = f"Known: {', '.join(map(short, known[:_SHOWN]))}{', ...' if len(known) > _SHOWN else ''}"
            raise GessoError(
                f"no {KIND_NAMES[kind]} named {short(name)}. {hint}",
                code="unknown_name",
                data={**unknown_data(name, known), "kind": kind},
            )
        if entry.problem == MISSING:
            raise GessoError(
                f"{entry.name}: its file is {MISSING} ({entry.path}). Is the disk mounted?", code="missing"
            )
        return entry.path

    def names(self, kind: Kind) -> Collection[str]:
        """All names of a kind."""
        check_kind(kind)
        entries = (entry.path.stem for entry in self._entries() if entry.kind in LIBRARY_KINDS[kind])
        return {*self.files.get(kind, {}), *embedded_extras(kind), *entries}

    def of_recipe(self, extra: ExtraFile) -> Path | None:
        """The file that a recipe names, by its hash wherever it is now, else by its name; None if there is neither."""
        kind = next((kind for kind in LIBRARY_KINDS if kind == extra.kind), None)
        if kind is None:
            return None
        if extra.name not in self.files.get(kind, {}):
            entry = find_by_hashes([extra.sha256], self.library, extra.name)
            if entry is not None:
                return entry.path
        try:
            return self.find(kind, extra.name)
        except GessoError:
            return None

    def _entries(self) -> tuple[LibraryEntry, ...]:
        if self._last_scan is None or time.monotonic() - self._last_scan[0] > self.fresh:
            return self._look()
        return self._last_scan[1]

    def _look(self) -> tuple[LibraryEntry, ...]:
        entries = self.library.entries()
        self._last_scan = time.monotonic(), entries
        return entries

    @staticmethod
    def _known(kind: Kind, name: str, entries: tuple[LibraryEntry, ...]) -> LibraryEntry | None:
        if (entry := find(name, entries, LIBRARY_KINDS[kind])) is not None:
            return entry
        of_kind = (entry for entry in entries if entry.kind in LIBRARY_KINDS[kind])
        return next(
            (entry for entry in of_kind if entry.metadata.get(_ALIAS, "").casefold() == name.casefold() != ""), None
        )


def _named(name: str, files: Mapping[str, Path]) -> Path | None:
    """The file of that name in any case of letters."""
    folded = {own.casefold(): path for own, path in files.items()}
    return folded.get(name.casefold())
