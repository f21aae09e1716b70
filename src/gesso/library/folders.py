"""Folders of models that other tools made: which layout they have, and which files in them are models."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gesso.errors import GessoError, shorten
from gesso.library.containers import CONVERTED
from gesso.library.entry import KIND_FOLDERS
from gesso.library.extra_paths import read_extra_paths
from gesso.library.places import A1111, COMFYUI, Place

LAYOUTS = ("auto", "a1111", "comfyui", "plain")

ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
MODEL_INDEX = "model_index.json"
EXTRA_PATHS = "extra_model_paths.yaml"
MAX_DEPTH = 8
_MADE_UP = ("/proc/", "/sys/", "/dev/")  # by the system: reading there may not end
MAX_FILES = 500_000  # files and folders looked at in one place, which takes two seconds on a disk that is warm
MANY_FILES = 50_000  # from which looking there is told to be slow


@dataclass(frozen=True)
class Candidate:
    """A weight file, or a diffusers folder, that lies in a place."""

    path: Path
    kind: str | None


def find_layout(folder: Path, layout: str = "auto") -> tuple[Path, str]:
    """The folder that the layout counts from, and the layout. "plain": any folder, searched as a whole.

    Raises GessoError for what is no folder, and where a named layout does not fit.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    folder = folder.absolute()
    if folder.name == EXTRA_PATHS and folder.is_file():  # the list itself, as ComfyUI's own option takes it
        folder, layout = folder.parent, "comfyui"
    if not folder.is_dir():
        raise GessoError(
            f"{folder}: {'is a file, expected a folder' if folder.exists() else 'no such folder'}",
            code="missing",
            data={"path": str(folder)},
        )
    # People give the installation or its folder "models".
    bases = [folder, folder.parent] if folder.name == "models" else [folder]
    tests: dict[str, Callable[[Path], bool]] = {
        "a1111": lambda base: (base / "models/Stable-diffusion").is_dir(),
        "comfyui": lambda base: (base / "models/checkpoints").is_dir() or (base / EXTRA_PATHS).is_file(),
    }
    for name, test in tests.items():
        if layout in ("auto", name):
            for base in bases:
                if test(base):
                    return base, name
    if layout == "a1111":
        raise GessoError(
            f"{folder}: has no models/Stable-diffusion, so it is not a folder of A1111 or Forge",
            code="wrong_kind",
            data={"path": str(folder)},
        )
    if layout == "comfyui":
        raise GessoError(
            f"{folder}: has neither models/checkpoints nor {EXTRA_PATHS}, so it is not a folder of ComfyUI",
            code="wrong_kind",
            data={"path": str(folder)},
        )
    _refuse_everything(folder, layout)
    return folder, "plain"


def _refuse_everything(folder: Path, layout: str) -> None:
    """Raises GessoError for folders that hold far more than models; a home folder can be named as plain."""
    whole = folder.resolve()
    if whole == whole.parent or f"{whole}/".startswith(_MADE_UP):
        what = "is the root of a file system" if whole == whole.parent else "is made up by the system"
        raise GessoError(
            f"{folder}: {what}. Register the folders of models in it, one by one",
            code="too_large",
            data={"path": str(folder)},
        )
    home = Path.home().resolve()
    if layout == "auto" and whole in (home, home.parent):
        what = "is your home folder" if whole == home else "holds the home folders"
        raise GessoError(
            f"{folder}: {what}, and every command would search it for models. Register the folders of models in it, "
            "or search it all the same with `layout=plain`",
            code="too_large",
            data={"path": str(folder)},
        )


def places(base: Path, layout: str) -> list[Place]:
    """Where models lie in a registered folder; those that are there now. Raises GessoError for a bad list of paths."""
    if layout == "plain":
        return [Place(base, None)]
    table = A1111 if layout == "a1111" else COMFYUI
    places = [Place(base / name, kind) for name, kind in table.items()]
    if layout == "comfyui" and (base / EXTRA_PATHS).is_file():
        extra = read_extra_paths(base / EXTRA_PATHS)
        places = [*(p.place for p in extra if p.default), *places, *(p.place for p in extra if not p.default)]
    return _distinct(place for place in places if place.path.is_dir())


def own_places(root: Path) -> list[Place]:
    """Where models lie in the library itself: in the folders of the kinds, or as people drop them into it."""
    places = [Place(root / name, kind) for kind, name in KIND_FOLDERS.items()]
    places.append(Place(root, None, but_in=frozenset({*KIND_FOLDERS.values(), CONVERTED})))
    return [place for place in places if place.path.is_dir()]


def candidates(
    place: Place,
    on_skip: Callable[[str], object] = lambda why: None,
    on_look: Callable[[int], object] = lambda count: None,
) -> Iterator[Candidate]:
    """Weight files and diffusers folders below a place, sorted by name. Links are followed, circles are not.

    A folder of diffusers is one model. Hidden files are left out, and so is what cannot be a model: pipes and sockets,
    links that lead nowhere or to what the system makes up, names that are not UTF-8; on_skip is told of those, and
    on_look how many entries each folder has. Opens no file. Raises GessoError for a place with more files than
    MAX_FILES.
    """
    visited: set[tuple[int, int]] = set()
    looked_at = 0

    def walk(folder: Path, depth: int) -> Iterator[Candidate]:
        nonlocal looked_at
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            return  # not readable, or gone meanwhile: nothing to offer there
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        looked_at += len(entries)
        on_look(len(entries))
        if looked_at > MAX_FILES:
            raise GessoError(
                f"{place.path}: more than {MAX_FILES:,} files; register the model folders inside it",
                code="too_large",
                data={"path": str(place.path)},
            )
        if any(entry.name == MODEL_INDEX for entry in entries):
            yield Candidate(folder, place.kind)
            return
        for entry in entries:
            if entry.name.startswith(".") or (depth == 0 and entry.name in place.but_in):
                continue
            if entry.is_file(follow_symlinks=False) and not entry.name.lower().endswith(ENDINGS):
                continue  # most of what a folder of everything holds; the listing itself says that it is a file
            is_folder, problem = _look(entry)
            if problem is not None:
                if is_folder or entry.name.lower().endswith(ENDINGS):
                    on_skip(f"{shorten(entry.path)}: skipped: {problem}")
            elif is_folder:
                if depth < MAX_DEPTH:
                    yield from walk(Path(entry.path), depth + 1)
            elif entry.name.lower().endswith(ENDINGS):
                # The VAE that belongs to a checkpoint lies beside it under this name.
                own = "vae" if ".vae." in entry.name.lower() and place.kind == "checkpoint" else place.kind
                yield Candidate(Path(entry.path), own)

    yield from walk(place.path, 0)


def _distinct(places: Iterable[Place]) -> list[Place]:
    """Each folder once: some file systems do not tell VAE from vae, and lists repeat themselves."""
    kept: dict[str, Place] = {}
    for place in places:
        kept.setdefault(os.path.realpath(place.path), place)
    return list(kept.values())


def _look(entry: "os.DirEntry[str]") -> tuple[bool, str | None]:
    """Whether an entry is a folder, and what keeps it from being used, if anything does."""
    try:
        mode = entry.stat().st_mode
        if not _is_text(entry.name):
            return stat.S_ISDIR(mode), "its name is not UTF-8. Rename it"
        leads_to = os.path.realpath(entry.path) if entry.is_symlink() else ""
    except OSError as error:
        return False, f"cannot be read ({error.strerror})"
    if f"{leads_to}/".startswith(_MADE_UP):  # the folder /proc itself, too
        return stat.S_ISDIR(mode), f"is a link to {shorten(leads_to)}"
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        return False, "is not a regular file"
    return stat.S_ISDIR(mode), None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
