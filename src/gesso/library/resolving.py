"""Resolves what the user typed to a model: a name, a path, part of a hash, or an hf: name."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from gesso.checkpoints.hashing import sha256_of
from gesso.errors import GessoError
from gesso.library.builtin import BUILTIN_MODELS, builtin_entries
from gesso.library.containers import PYTORCH, container, usable_copy
from gesso.library.entry import BUILTIN, IN_FOLDER, LibraryEntry, ModelFile
from gesso.library.folders import ENDINGS, MODEL_INDEX
from gesso.library.library import MISSING, Library

HUB_PREFIX = "hf:"
PART_CONFIG = "config.json"  # of a part that the diffusers library wrote into a folder of its own
MIN_HASH = 8  # hexadecimal digits
_HASH = re.compile(rf"[0-9a-fA-F]{{{MIN_HASH},64}}")
_SHOWN = 6  # close matches and candidates in a message


def resolve(
    name: str | Path,
    library: Library | None = None,
    *,
    kinds: Collection[str] = ("checkpoint",),
    offline: bool = False,
) -> str | Path:
    """The built-in name or the path that `Engine.load` takes, for a model as the user names it.

    In this order: the name of a built-in model; a path; a name in the library; a name in the registered folders, which
    is that of a file with or without its ending and with as many folders above it as tell it apart; at least eight
    digits of a SHA-256, or an AutoV3. A hub's name begins with "hf:". Letters' case decides only between names that
    differ in nothing else.

    kinds    what will do; a path is taken as it is
    offline  a hub's name must have been fetched before
    A PyTorch file is converted to safetensors, once, and the copy is what is returned.
    Raises GessoError with close matches where nothing fits, and with all of them where several do.
    """
    text = str(name)
    if text in BUILTIN_MODELS:
        return text
    if "\0" in text or not text.strip():
        raise GessoError(
            "the model's name is empty or has a NUL character; give a name, a file or a folder", code="invalid_name"
        )
    if text.startswith(HUB_PREFIX):
        if library is None:
            raise GessoError(f"{text}: hf: names need a library to store the files in", code="invalid_name")
        from gesso.library.hub import fetch

        return fetch(library, text, offline=offline).path
    if is_path(text):
        return _openable(Path(text), library)
    entry = find(text, library.entries(), kinds) if library is not None else None
    if entry is None:
        data = {"path": text} if _is_like_path(text) else {"value": text}
        raise GessoError(
            _unknown(text, library, kinds), code="missing" if _is_like_path(text) else "unknown_name", data=data
        )
    if entry.name in BUILTIN_MODELS:
        return entry.name
    if entry.problem == MISSING:
        raise GessoError(f"{entry.name}: its file is {MISSING} ({entry.path}). Is its disk there?", code="missing")
    return _openable(entry.path, library, entry)


def _openable(path: Path, library: Library | None, entry: LibraryEntry | None = None) -> Path:
    """The path; of a PyTorch file its safetensors copy, where there is a library to keep it in."""
    if library is None or container(path) not in PYTORCH:
        return path
    known = library.hashed(entry).files[0].sha256 if entry is not None else None
    return usable_copy(library.root, path, known)


def is_path(text: str) -> bool:
    """Whether this is a file, or a folder that holds a model or one part of a model, such as a VAE.

    Raises GessoError where that cannot be told.
    """
    path = Path(text)
    try:
        if path.is_dir():
            return any((path / name).is_file() for name in (MODEL_INDEX, PART_CONFIG))
        return path.exists()
    except OSError as error:
        raise GessoError(f"{text[:200]}: cannot be read ({error.strerror})", code="unreadable") from error


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiu' else 'a'} {word}"


def find(
    text: str, entries: Sequence[LibraryEntry], kinds: Collection[str] | None = ("checkpoint",)
) -> LibraryEntry | None:
    """The one model of that name; None if there is none. kinds: None means all.

    Raises GessoError if there are several, or only models of other kinds.
    """
    own = [entry for entry in entries if entry.origin != IN_FOLDER]
    named = _named(text, own) or _named(text, entries) or _hashed(text, entries)
    matches = [entry for entry in named if kinds is None or _is_of(entry, kinds)]
    if named and not matches:
        first = named[0]
        if first.problem is not None:
            raise GessoError(f"{first.path}: {first.problem}", code="unreadable", data={"path": str(first.path)})
        found = first.what if first.kind == "other" else f"{_a(first.kind)} ({first.what})"
        raise GessoError(f"{text}: is {found}, expected a {_or(kinds)}", code="wrong_kind")
    if len(matches) > 1 and not _same(matches):
        lines = "; ".join(_label(entry) for entry in matches[:_SHOWN])
        more = f" and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
        raise GessoError(
            f"{text}: {len(matches)} models have this name: {lines}{more}. Give a path or a hash", code="ambiguous_name"
        )
    return matches[0] if matches else None


def find_by_hashes(digests: Iterable[str], library: Library, name: str = "", limit: int = 4) -> LibraryEntry | None:
    """The model whose files have these SHA-256 digests, or begin with these digits, for a recipe whose file is gone.

    Only hashes that are known count; besides, models of that name are hashed, `limit` of them at most.
    """
    prefixes = [digest.lower() for digest in digests]
    if not prefixes or any(not _HASH.fullmatch(digest) for digest in prefixes):
        return None

    def fits(entry: LibraryEntry) -> bool:
        return all(any((file.sha256 or "").startswith(digest) for file in entry.files) for digest in prefixes)

    entries = [entry for entry in library.entries() if entry.problem is None]
    likely = [entry for entry in entries if name and name in (entry.name, entry.path.name) and _unhashed(entry)]
    return next(filter(fits, entries), None) or next(filter(fits, map(library.hashed, likely[:limit])), None)


def _unhashed(entry: LibraryEntry) -> bool:
    return any(file.sha256 is None for file in entry.files)


def _named(text: str, entries: Iterable[LibraryEntry]) -> list[LibraryEntry]:
    """Those of that name; where case alone tells them apart, the ones with the given case."""
    folded = _key(text)
    loose = [entry for entry in entries if any(_is_called(entry, name, folded) for name in _names(entry))]
    exact = [entry for entry in loose if any(name == text or name.endswith(f"/{text}") for name in _names(entry))]
    return exact or loose


def _names(entry: LibraryEntry) -> tuple[str, ...]:
    """What people call it: the name, and the path with and without its ending."""
    return (entry.name, entry.path.as_posix(), entry.path.with_suffix("").as_posix())


def _is_called(entry: LibraryEntry, name: str, folded: str) -> bool:
    """Of a path, any number of last parts will do: "tiny", "sub/tiny.safetensors"."""
    return _key(name) == folded or (name != entry.name and _key(name).endswith(f"/{folded}"))


def _key(name: str) -> str:
    return name.casefold().replace("\\", "/")


def _hashed(text: str, entries: Iterable[LibraryEntry]) -> list[LibraryEntry]:
    if not _HASH.fullmatch(text):
        return []
    digits = text.lower()
    return [
        entry
        for entry in entries
        if any(
            _sha256(entry, file).startswith(digits)
            or (file.autov3 is not None and file.autov3 == digits[:12] == digits)
            for file in entry.files
        )
    ]


def _sha256(entry: LibraryEntry, file: ModelFile) -> str:
    """The hash as far as it is known; that of a built-in model, which no library has hashed, is computed: 0.05 s."""
    return sha256_of(file.path) if file.sha256 is None and entry.origin == BUILTIN else file.sha256 or ""


def _is_of(entry: LibraryEntry, kinds: Collection[str]) -> bool:
    # A PyTorch file in a folder of everything does not show what it is.
    return entry.kind in kinds or (entry.kind == "other" and entry.layout in ("pickle", "gguf"))


def _same(entries: list[LibraryEntry]) -> bool:
    """Copies of the same bytes: any of them will do."""
    hashes = {tuple(file.sha256 for file in entry.files) for entry in entries}
    return len(hashes) == 1 and None not in next(iter(hashes))


def _label(entry: LibraryEntry) -> str:
    digits = f", hash {entry.model_hash}" if entry.model_hash else ""
    return f"{entry.path} ({entry.kind}{digits})"


def _or(kinds: Collection[str] | None) -> str:
    return " or ".join(kinds or ())


def _stem(name: str) -> str:
    """ "folder/ink.safetensors" -> "ink"; what is no ending of a model stays."""
    name = name.rpartition("/")[2]
    return next((name[: -len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), name)


def _is_like_path(text: str) -> bool:
    return text.lower().endswith(ENDINGS) or "/" in text


def _unknown(text: str, library: Library | None, kinds: Collection[str]) -> str:
    path = Path(text)
    if path.is_dir():
        return (
            f"{text}: is a folder without {MODEL_INDEX}, so it is not a model. To use the models in it: gesso models "
            f"add-folder {text}"
        )
    entries = builtin_entries() if library is None else library.entries()
    names = {name for entry in entries if _is_of(entry, kinds) for name in (entry.name, entry.path.name)}
    # Without the endings: they are long, and would make all names of files alike.
    near = difflib.get_close_matches(_stem(text), {_stem(name) for name in names}, n=_SHOWN, cutoff=0.6)
    close = [name for stem in near for name in sorted(names, key=len) if _stem(name) == stem]
    if len(text) >= 3:
        close += sorted(name for name in names - set(close) if text.casefold() in name.casefold())[:_SHOWN]
    meant = f" Did you mean {', '.join(repr(name) for name in close[:_SHOWN])}?" if close else ""
    what = "no such file or folder" if _is_like_path(text) else "not found: no model, file, folder or hash matches"
    files = "a .safetensors file or a diffusers folder" if "checkpoint" in kinds else "a file"
    return f"{text[:200]}: {what}.{meant} `gesso models list` shows the known models; otherwise give {files}"
