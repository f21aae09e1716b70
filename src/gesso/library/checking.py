"""Verification: whether the files of a model are still those that were imported."""

import logging
from dataclasses import dataclass
from pathlib import Path

from gesso.checkpoints.hashing import OnBytes, hash_file
from gesso.errors import GessoError
from gesso.library.entry import BUILTIN, LibraryEntry
from gesso.library.library import Library, now

log = logging.getLogger(__name__)

GOOD = ("ok", "recorded")


@dataclass(frozen=True)
class FileReport:
    """What became of one file.

    status  "ok": as recorded; "recorded": hashed for the first time, from now on this is what it has to be;
            "changed": readable, but other bytes; "damaged": not a file that can be read; "missing"
    detail  in words; "" where there is nothing to add
    """

    name: str
    path: Path
    status: str
    sha256: str | None
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the file may be used."""
        return self.status in GOOD


def verify(
    library: Library, entry: LibraryEntry, *, accept: bool = False, on_bytes: OnBytes = lambda count: None
) -> list[FileReport]:
    """Verify every file of a model: its header, and all its bytes against the recorded SHA-256.

    accept  record what the files are now
    """
    reports = []
    for file in entry.files:
        if not file.path.exists():
            reports.append(FileReport(file.name, file.path, "missing", None, "missing"))
            continue
        expected = library.index.recorded(file.path)
        try:
            hashes = hash_file(file.path, on_bytes)
            _check_header(file.path, entry)
        except GessoError as error:
            detail = error.one_line.removeprefix(f"{file.path}: ")
            reports.append(FileReport(file.name, file.path, "damaged", None, detail))
            continue
        if entry.origin == BUILTIN:
            stated = entry.metadata.get("modelspec.hash_sha256", "").removeprefix("0x")
            same = hashes.autov3 is not None and stated.startswith(hashes.autov3)
            detail = "" if same else "differs from the one that this version of gesso ships; reinstall gesso"
            reports.append(FileReport(file.name, file.path, "ok" if same else "changed", hashes.sha256, detail))
        elif expected in (None, hashes.sha256) or accept:
            if library.index.path.exists():
                library.index.remember(file.path, hashes, at=now(), record=accept)
            status = "ok" if expected == hashes.sha256 else "recorded"
            reports.append(FileReport(file.name, file.path, status, hashes.sha256))
        else:
            detail = f"sha256 is {hashes.sha256[:16]}..., expected {str(expected)[:16]}..."
            reports.append(FileReport(file.name, file.path, "changed", hashes.sha256, detail))
    for report in reports:
        log.log(logging.DEBUG if report.good else logging.INFO, "verified %r: %s", str(report.path), report.status)
    return reports


def _check_header(path: Path, entry: LibraryEntry) -> None:
    if entry.layout in ("pickle", "gguf") or not path.name.lower().endswith((".safetensors", ".sft")):
        return
    from gesso.checkpoints.safetensors_file import open_safetensors

    open_safetensors(path)
