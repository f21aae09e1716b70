"""Importing: a file or a diffusers folder into the library, checked before it has a name there.

What is copied goes into a quarantine first, is read and hashed there, and takes its place in one step. So a run that is
stopped leaves nothing half-done, and nothing unchecked is ever found by name.
"""

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.checkpoints.errors import ModelFileError, examples
from gesso.checkpoints.hashing import BLOCK, Hashes, hash_file
from gesso.errors import GessoError
from gesso.files import give_name, sync_folder
from gesso.library.builtin import BUILTIN_MODELS
from gesso.library.containers import PYTORCH, container, to_safetensors
from gesso.library.entry import IN_FOLDER, IN_PLACE, KIND_FOLDERS, KINDS, LINKED, OWNED, LibraryEntry
from gesso.library.folders import MODEL_INDEX
from gesso.library.library import Library, make_entry, model_name, now

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

WAYS = ("copy", "link", "in-place")
QUARANTINE = ".quarantine"
STALE = 24 * 3600.0  # seconds after which what a killed run left in quarantine is cleared away
ROOM = 64 * 2**20  # bytes that stay free on the disk
COPIED = (".safetensors", ".json", ".txt", ".model")  # of a diffusers folder; what else lies there stays there
MAX_NAME_BYTES = 200

OnProgress = Callable[[str, int, int], object]  # what is being done, bytes done, bytes in all


@dataclass(frozen=True)
class ImportResult:
    """entry: the model in the library. new: False where the same bytes were there already."""

    entry: LibraryEntry
    new: bool


def import_model(
    library: Library,
    source: str | Path,
    *,
    name: str | None = None,
    way: str = "copy",
    kind: str | None = None,
    allow_nonfinite: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> ImportResult:
    """Import a model into the library.

    source           a safetensors, GGUF or PyTorch file of any kind, or a diffusers folder; a PyTorch file becomes a
                     safetensors file on the way
    name             what to call it; the file's name without its ending where None
    way              copy, link (a symbolic link in the library) or in-place (known by its path alone)
    kind             one of KINDS, for a file that does not show what it is
    allow_nonfinite  take weights with NaN or infinity as well
    Reads all weights once or twice. Raises GessoError: what was wrong, and nothing is changed then.
    """
    if way not in WAYS or (kind is not None and kind not in KINDS):
        raise ValueError(f"way {way!r}, kind {kind!r}: expected one of {', '.join(WAYS)}; {', '.join(KINDS)}")
    source = Path(os.path.abspath(source))
    _require_model(source)
    first = make_entry(source, kind, IN_PLACE)
    if first.layout != "pickle":
        require_readable(first, source, kind)
    elif way != "copy":
        raise GessoError(
            f"{source}: is a PyTorch file, which gesso converts to safetensors. Import it as a copy",
            code="unsupported",
            data={"path": str(source)},
        )
    name = check_name(name or model_name(source))
    _require_free(library, name, source, first)
    if way == "copy":
        return _copy(library, first, name, kind, allow_nonfinite=allow_nonfinite, on_progress=on_progress)
    if not allow_nonfinite:
        check_finite(first, on_progress)
    hashes = _hash(first, on_progress)
    if (same := _same_bytes(library, hashes)) is not None:
        return ImportResult(same, new=False)
    with _taken_back(library) as made:
        entry = first
        if way == "link":
            target = _target(library, entry, name)
            if not (target.is_symlink() and target.resolve() == source.resolve()):  # as a killed run left it
                if target.is_symlink() or target.exists():
                    raise _taken(target)
                made.append(target)
                _link(source, target)
            files = tuple(replace(file, path=target / file.name if source.is_dir() else target) for file in entry.files)
            entry = replace(entry, path=target, files=files, origin=LINKED)
        return _register(library, replace(entry, name=name, source=str(source)), hashes)


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=source.is_dir())
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        raise GessoError(
            f"{target}: cannot create a link ({error.strerror}). Try `in_place`",
            code="unwritable",
            data={"path": str(target)},
        ) from None


def check_name(name: str) -> str:
    """A name that every file system takes and that cannot be mistaken for a path or an option. Raises GessoError."""
    name = name.strip()
    bad = [char for char in name if not char.isprintable() or char in '/\\:*?"<>|']
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
    if (
        not name
        or bad
        or name.startswith((".", "-"))
        or name.endswith(".")
        or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES
        or name.partition(".")[0].casefold() in reserved
    ):
        raise GessoError(
            f"{name[:80]!r} cannot be the name of a model. Choose another with `name`", code="invalid_name"
        )
    if name in BUILTIN_MODELS:
        raise GessoError(f"{name!r} is the built-in model. Choose another name with `name`", code="name_taken")
    return name


def remove(library: Library, entry: LibraryEntry) -> None:
    """Remove a model from the library. Files of the library are deleted; files used in place are only unregistered.

    Raises GessoError for models of registered folders, which are the other tool's, and for built-in ones.
    """
    if entry.origin == IN_FOLDER:
        raise GessoError(
            f"{entry.path}: is in the registered folder {entry.folder}, whose files gesso does not change. Delete "
            f"the file yourself, or unregister the folder: gesso models remove {entry.folder}",
            code="protected",
            data={"path": str(entry.path)},
        )
    if entry.origin == OWNED:
        _delete(library, entry.path)
    elif entry.origin == LINKED:
        entry.path.unlink(missing_ok=True)
    elif entry.name in BUILTIN_MODELS:
        raise GessoError(f"{entry.name}: is built into gesso and cannot be removed", code="protected")
    library.index.put([], [entry.path])
    library.index.forget_files([file.path for file in entry.files])
    library.index.forget_pins(entry.path)
    log.info("removed %r (%s, %s)", entry.name, entry.kind, entry.origin)


def _delete(library: Library, path: Path) -> None:
    """The name goes in one step, the bytes after it."""
    with _quarantine(library) as room:
        try:
            os.replace(path, room / path.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise GessoError(
                f"{path}: cannot be deleted ({error.strerror})", code="unwritable", data={"path": str(path)}
            ) from None


# ---- checks ----------------------------------------------------------------------------------------------------------


def _require_model(source: Path) -> None:
    if not source.exists():
        raise ModelFileError("missing", source, "no such file or folder")
    if source.is_dir() and not (source / MODEL_INDEX).is_file():
        raise GessoError(
            f"{source}: has no {MODEL_INDEX}, so it is not a model. To use a folder of models in place: gesso models "
            f"add-folder {source}",
            code="wrong_kind",
            data={"path": str(source)},
        )


def require_readable(entry: LibraryEntry, source: Path, kind: str | None) -> None:
    """Raises GessoError for what cannot be read, and for what is no model unless its kind was given."""
    if entry.problem is not None:
        from gesso.checkpoints.detect import describe

        describe(source)  # raises what is wrong
        raise GessoError(f"{source}: {entry.problem}", code="damaged", data={"path": str(source)})
    if entry.kind == "other" and kind is None:
        raise GessoError(
            f"{source}: looks like {entry.what}. If it is a model, give its kind with `kind`: {', '.join(KINDS)}",
            code="wrong_kind",
            data={"path": str(source)},
        )


def _require_free(library: Library, name: str, source: Path, first: LibraryEntry) -> None:
    for entry in library.index.models():
        if entry.origin != IN_FOLDER and entry.name.casefold() == name.casefold() and entry.path != source:
            if entry.source == str(source) or (entry.source is None and entry.origin in (OWNED, LINKED)):
                continue  # the same again, or what a killed run left: told by its bytes later
            if (
                entry.nbytes == first.nbytes
                and _same_bytes(library, _hash(first, lambda what, done, total: None)) is not None
            ):
                return
            raise GessoError(
                f"{name}: a model of this name already exists ({entry.path}). Choose another with `name`",
                code="name_taken",
            )


def _same_bytes(library: Library, hashes: list[Hashes]) -> LibraryEntry | None:
    digests = {one.sha256 for one in hashes}
    for other in library.index.models():
        if other.origin != IN_FOLDER and other.path.exists() and {file.sha256 for file in other.files} == digests:
            return other
    return None


def check_finite(entry: LibraryEntry, on_progress: OnProgress) -> None:
    """Reads all weights but those of GGUF. Raises ModelFileError with the reason "nonfinite"."""
    if entry.layout == "gguf":
        return
    from gesso.checkpoints.weight_file import open_weights

    total, done = entry.nbytes, 0
    for model_file in entry.files:
        file = open_weights(model_file.path)
        bad: list[str] = []
        with file.reader() as reader:
            for name, info in file.tensors.items():
                if info.dtype.is_floating_point and not _is_finite(reader[name]):
                    bad.append(name)
                done += info.nbytes
                on_progress("checking", done, total)
        if bad:
            message = f"{len(bad)} tensors hold NaN or infinity: {examples(bad)}. Add `allow_nonfinite` to import it"
            raise ModelFileError("nonfinite", model_file.path, message)


def _is_finite(tensor: "Tensor") -> bool:
    """Without a copy where torch has minima for the format, in pieces otherwise."""
    flat = tensor.reshape(-1)
    if flat.numel() == 0:
        return True
    if flat.dtype.itemsize == 1:  # 8-bit floats: no arithmetic on them
        return all(bool(piece.float().isfinite().all()) for piece in flat.split(2**22))
    low, high = flat.aminmax()
    return bool(low.isfinite()) and bool(high.isfinite())


# ---- the way in ------------------------------------------------------------------------------------------------------


@contextmanager
def _quarantine(library: Library) -> Iterator[Path]:
    """A folder of its own for one import, on the library's disk; gone afterwards with all that is left in it."""
    parent = library.root / QUARANTINE
    room = parent / secrets.token_hex(8)
    try:
        room.mkdir(parents=True)
    except OSError as error:
        raise GessoError(
            f"{library.root}: cannot write there ({error.strerror})",
            code="unwritable",
            data={"path": str(library.root)},
        ) from None
    try:
        for other in parent.iterdir():
            if other != room and time.time() - other.stat().st_mtime > STALE:
                shutil.rmtree(other, ignore_errors=True)
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _copy(
    library: Library,
    first: LibraryEntry,
    name: str,
    kind: str | None,
    *,
    allow_nonfinite: bool,
    on_progress: OnProgress,
) -> ImportResult:
    source = first.path
    with _taken_back(library) as made:
        with _quarantine(library) as room:
            inside = room / _file_name(first, name)
            try:
                if first.layout == "pickle":
                    on_progress("converting", 0, first.nbytes)
                    to_safetensors(source, inside)
                else:
                    _copy_bytes(source, inside, on_progress)
                    _convert_parts(first, inside, on_progress)
                entry = make_entry(inside, kind, OWNED)
                require_readable(entry, inside, kind)
                if not allow_nonfinite:
                    check_finite(entry, on_progress)
            except ModelFileError as error:  # people know the file by its own place
                raise ModelFileError(error.reason, source, error.message.partition(": ")[2]) from None
            except GessoError as error:
                message, data = error.message.replace(str(inside), str(source)), {**error.data, "path": str(source)}
                raise GessoError(message, code=error.code, field=error.field, data=data) from None
            hashes = _hash(entry, on_progress)
            if (same := _same_bytes(library, hashes)) is not None:
                return ImportResult(same, new=False)
            target = _target(library, entry, name)
            if (there := _there(target, inside, entry, hashes)) is not None:
                hashes = there
            elif target.exists():
                raise _taken(target)
            else:
                made.append(target)
                _place(inside, target)
        return _register(library, make_entry(target, kind, OWNED, name=name, source=str(source)), hashes)


@contextmanager
def _taken_back(library: Library) -> Iterator[list[Path]]:
    """Takes the paths that the block lists; they go again, and what the index knows of them, where it is stopped."""
    made: list[Path] = []
    try:
        yield made
    except BaseException as error:
        if isinstance(error, GessoError) and error.code == "name_taken":  # meanwhile, by another run: not ours
            raise
        for path in made:
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            with suppress(GessoError):
                library.index.put([], [path])
                library.index.forget_files([path])
        raise


def _there(target: Path, inside: Path, entry: LibraryEntry, hashes: list[Hashes]) -> list[Hashes] | None:
    """The hashes of the model in its place, where a killed run left the same one that the index does not know."""
    if not target.exists():
        return None
    try:
        found = [hash_file(target / file.path.relative_to(inside)) for file in entry.files]
    except (GessoError, OSError):
        return None
    return found if [one.sha256 for one in found] == [one.sha256 for one in hashes] else None


def _target(library: Library, entry: LibraryEntry, name: str) -> Path:
    return library.root / KIND_FOLDERS[entry.kind] / _file_name(entry, name)


def _file_name(entry: LibraryEntry, name: str) -> str:
    return name if entry.path.is_dir() else f"{name}{'.gguf' if entry.layout == 'gguf' else '.safetensors'}"


def _copy_bytes(source: Path, target: Path, on_progress: OnProgress) -> None:
    """A file, or the files of a diffusers folder. The copies are safe on the disk before this returns."""
    if source.is_dir():
        names = [file.relative_to(source) for file in sorted(source.rglob("*")) if file.suffix.lower() in COPIED]
        pairs = [(source / name, target / name) for name in names if (source / name).is_file()]
    else:
        pairs = [(source, target)]
    total = sum(path.stat().st_size for path, _ in pairs)
    if shutil.disk_usage(target.parent).free < total + ROOM:
        raise GessoError(
            f"{source}: {total / 1e6:,.0f} MB do not fit on the library's disk ({target.parents[2]}), of which "
            f"{ROOM / 2**20:.0f} MB stay free. Use the model in place with `in_place`",
            code="disk_full",
            data={"path": str(source)},
        )
    done = 0
    try:
        for path, copy in pairs:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "rb") as reading, open(copy, "xb") as writing:
                while block := reading.read(BLOCK):
                    writing.write(block)
                    done += len(block)
                    on_progress("copying", done, total)
                writing.flush()
                os.fsync(writing.fileno())
    except OSError as error:
        raise GessoError(
            f"{source}: cannot be copied into the library ({error.strerror or error})",
            code="unwritable",
            data={"path": str(source)},
        ) from None


def _convert_parts(entry: LibraryEntry, inside: Path, on_progress: OnProgress) -> None:
    """The parts of a diffusers folder that are PyTorch files, as safetensors under the names that these have."""
    for file in entry.files:
        if container(file.path) in PYTORCH:
            on_progress("converting", 0, file.nbytes)
            name = file.path.stem.removeprefix("pytorch_")  # as transformers calls its files
            to_safetensors(file.path, inside / Path(file.name).with_name(f"{name}.safetensors"))


def _place(inside: Path, target: Path) -> None:
    """From the quarantine to its name in one step, replacing nothing. Raises GessoError where the name is taken."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if inside.is_dir():
            if target.exists():
                raise _taken(target)
            os.rename(inside, target)
        else:
            give_name(inside, target)
        sync_folder(target.parent)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        raise GessoError(
            f"{target}: cannot be written ({error.strerror})", code="unwritable", data={"path": str(target)}
        ) from None


def _taken(target: Path) -> GessoError:
    return GessoError(
        f"{target}: a model of this name already exists. Choose another with `name`",
        code="name_taken",
        data={"path": str(target)},
    )


def _hash(entry: LibraryEntry, on_progress: OnProgress) -> list[Hashes]:
    """Of each file, in their order."""
    total, done = entry.nbytes, 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress("hashing", done, total)

    return [hash_file(file.path, on_bytes) for file in entry.files]


def _register(library: Library, entry: LibraryEntry, hashes: list[Hashes]) -> ImportResult:
    """The row is last: a model without one is found again by its place, one with a row is whole."""
    library.index.put([entry])
    for file, file_hashes in zip(entry.files, hashes, strict=True):
        library.index.remember(file.path, file_hashes, at=now(), record=True)
    known = next(other for other in library.index.models() if other.path == entry.path)
    log.info("imported %r: %s, %d bytes, from %r", known.name, known.kind, known.nbytes, entry.source)
    return ImportResult(known, new=True)
