"""Data sets in shards: Parquet tables, and tars of WebDataset. Their pictures are unpacked once into a cache.

A shard becomes a folder of pictures with a metadata.jsonl, under the SHA-256 of its bytes; what is in it gets names of
our own. Only pictures and words are taken. Pickles (.pkl, .pt, ...) can run code and are never read, and a tar with
links, devices or names that lead out of it is refused as a whole: who packs those means harm.
"""

import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gesso.checkpoints.hashing import sha256_of
from gesso.errors import GessoError, shorten
from gesso.extras import missing_extra
from gesso.files import atomic_file, hidden_name
from gesso.pictures.picture_file import MAX_FILE_BYTES
from gesso.strict_json import loads
from gesso.tuning.marks import TDMREP, Reservations

SHARDS = (".parquet", ".tar", ".tar.gz", ".tgz")
TEXTS = ("text", "caption", "prompt")  # keys and columns with captions, the first that is there
PICTURE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
PATH_COLUMNS = ("file_name", "path", "image_path", "file_path")
MAX_SAMPLES, MAX_MEMBERS = 20_000, 200_000
MAX_WORDS = 2**20  # bytes of a text or JSON member
MAX_UNPACKED = 64 * 2**30  # bytes of the pictures of one shard
KEEP_SECONDS = 30 * 24 * 3600.0  # an unpacked shard that nobody used for so long is removed
SPARE_DISK = 256 * 2**20
_SIGNS = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)
_MASKS = ("mask.png", "masklabel.png", "seg.png")
_PICKLES = ("pkl", "pickle", "pyd", "pt", "pth", "npy", "npz", "ten", "tb", "cbor", "mp")


@dataclass
class Sample:
    """One picture of a shard: bytes of the file or its path beside the shard, words, bytes of its mask."""

    picture: bytes | str
    text: str | None
    mask: bytes | None = None


def is_shard(path: Path) -> bool:
    """Whether a name is that of a shard."""
    return path.name.lower().endswith(SHARDS) and not path.name.startswith(".") and path.is_file()


def shards_in(folder: Path) -> list[Path]:
    """The shards in a folder, or in the folder data/ or train/ in it, as the Hugging Face hub has them."""
    for place in (folder, folder / "data", folder / "train"):
        if place.is_dir() and (found := sorted(path for path in place.iterdir() if is_shard(path))):
            return found
    return []


def unpack(path: Path, cache: Path, root: Path) -> tuple[Path, list[str]]:
    """The folder in which the pictures of a shard are, with a metadata.jsonl; and notes. Raises GessoError.

    root: folder of the data set, up to which reservations count
    """
    target = cache / sha256_of(path)[:32]
    table = target / "metadata.jsonl"
    if not table.exists():
        _forget(cache)
        partial = hidden_name(target)
        try:
            partial.mkdir(parents=True)
            _write(path, partial)
            with suppress(OSError):  # another process was quicker
                os.rename(partial, target)
        except OSError as error:
            raise GessoError(
                f"{partial.parent}: the pictures of {path.name} cannot be unpacked there ({error.strerror}). Choose "
                "another place with `cache`, or free some space",
                code="unwritable",
                field="cache",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        os.utime(target)
    _take_rule(path, root, target / TDMREP)
    notes = (target / "notes.json").read_text(encoding="utf-8")
    return target, [f"{path.name}: {note}" for note in json.loads(notes)]


def _take_rule(path: Path, root: Path, rules: Path) -> None:
    """What is said of a shard where it lies is said of its pictures, wherever they are unpacked."""
    if Reservations()(path, root):
        with atomic_file(rules) as file:
            file.write(json.dumps([{"location": "/*", "tdm-reservation": 1}]).encode())
    else:
        rules.unlink(missing_ok=True)


def _forget(cache: Path) -> None:
    """Remove what was unpacked and not used for long."""
    for old in cache.iterdir() if cache.is_dir() else ():
        with suppress(OSError):
            if old.is_dir() and time.time() - old.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(old)


def _write(path: Path, folder: Path) -> None:
    notes: list[str] = []
    samples = _parquet(path, notes) if path.suffix.lower() == ".parquet" else _tar(path, notes)
    total = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for number, sample in enumerate(samples):
            if number >= MAX_SAMPLES:
                raise GessoError(
                    f"{path}: more than {MAX_SAMPLES} pictures", code="too_large", data={"path": str(path)}
                )
            data = sample.picture if isinstance(sample.picture, bytes) else _beside(path, sample.picture)
            end = _ending(data)
            if end is None:
                notes.append(f"picture {number + 1} is of no known format, and left out")
                continue
            total += len(data) + len(sample.mask or b"")
            if total > MAX_UNPACKED or shutil.disk_usage(folder).free < len(data) + SPARE_DISK:
                raise GessoError(
                    f"{folder.parent}: no room for the pictures of {path.name}, {total / 2**30:.1f} GiB so far. Free "
                    "some space, or choose another place with `cache`",
                    code="disk_full",
                    field="cache",
                )
            name = f"{number + 1:06}{end}"
            (folder / name).write_bytes(data)
            if sample.mask is not None:
                (folder / f"{number + 1:06}-masklabel.png").write_bytes(sample.mask)
            row = {"file_name": name} | ({"text": " ".join(sample.text.split())} if sample.text is not None else {})
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "notes.json").write_text(json.dumps(_several(notes), ensure_ascii=False), encoding="utf-8")


def _several(notes: Sequence[str], most: int = 8) -> list[str]:
    rest = len(notes) - most
    return [*notes[:most], *([f"and {rest} more of this kind"] if rest > 0 else [])]


def _ending(data: bytes) -> str | None:
    """The ending for the format that the first bytes show."""
    if len(data) > MAX_FILE_BYTES:
        return None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    return next((end for sign, end in _SIGNS if data.startswith(sign)), None)


def _beside(path: Path, name: str) -> bytes:
    """A picture that a table names, which must be in its folder. Raises GessoError."""
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or "\0" in name or "\\" in name or "://" in name:
        raise GessoError(
            f"{path}: the picture {shorten(name)} is not in its folder. gesso downloads nothing; put it there",
            code="invalid_value",
            data={"path": str(path)},
        )
    try:
        return (path.parent / plain).read_bytes()
    except OSError:
        return b""


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet(path: Path, notes: list[str]) -> Iterator[Sample]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra(f"{path}: reading Parquet", "pyarrow", "parquet", error) from None
    try:
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        picture = next((name for name in PICTURE_COLUMNS if name in names), None)
        place = next((name for name in PATH_COLUMNS if name in names), None)
        text = next((name for name in TEXTS if name in names), None)
        wanted = picture or place
        if wanted is None:
            raise GessoError(
                f"{path}: has no column of pictures among {shorten(', '.join(names))}. Expected image, or file_name",
                code="wrong_kind",
                data={"path": str(path)},
            )
        if text is None:
            notes.append(f"no column of captions; expected {', '.join(TEXTS)}")
        columns = [wanted, *([text] if text else [])]
        for batch in table.iter_batches(batch_size=16, columns=columns):
            for row in batch.to_pylist():
                yield Sample(_cell(path, row[wanted]), row[text] if text and isinstance(row[text], str) else None)
    except GessoError:
        raise
    except Exception as error:  # pyarrow's many kinds
        raise GessoError(
            f"{path}: is not a readable Parquet file ({shorten(str(error))})", code="damaged", data={"path": str(path)}
        ) from None


def _cell(path: Path, value: Any) -> bytes | str:
    """Bytes, a path, or the struct of both that the hub's datasets have."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    return value if isinstance(value, bytes | str) and value else b""


# ---- WebDataset ------------------------------------------------------------------------------------------------------


def _tar(path: Path, notes: list[str]) -> Iterator[Sample]:
    """Members with one name up to the first dot are a sample: key.jpg, key.txt or key.json, key.mask.png."""
    key, parts, pickles = "", dict[str, bytes](), 0
    try:
        with tarfile.open(path, "r:" if path.suffix == ".tar" else "r:gz") as tar:
            for number, member in enumerate(tar):
                if number >= MAX_MEMBERS:
                    raise GessoError(f"{path}: more than {MAX_MEMBERS} members", code="too_large")
                _check_member(path, member)
                if member.isdir():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, end = name.partition(".")
                end = end.lower()
                if not stem or folder.rpartition("/")[2].startswith("."):
                    continue
                if end.rpartition(".")[2] in _PICKLES:
                    pickles += 1
                    continue
                if f"{folder}/{stem}" != key and parts:
                    yield from _sample(path, key, parts, notes)
                    parts = {}
                key = f"{folder}/{stem}"
                if _is_wanted(end):
                    most = MAX_FILE_BYTES if end not in ("txt", "caption", "json") else MAX_WORDS
                    if member.size > most:
                        notes.append(f"{shorten(member.name)} has {member.size} bytes, and is left out")
                        continue
                    file = tar.extractfile(member)
                    parts[end] = file.read(most + 1) if file is not None else b""
            if parts:
                yield from _sample(path, key, parts, notes)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise GessoError(
            f"{path}: is not a readable tar ({shorten(str(error))})", code="damaged", data={"path": str(path)}
        ) from None
    if pickles:
        notes.append(f"{pickles} members are pickles or arrays, which can run code or hold no picture; not read")


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    plain = PurePosixPath(member.name)
    what = None
    if not (member.isreg() or member.isdir()):
        what = "a link" if member.issym() or member.islnk() else "no plain file"
    elif plain.is_absolute() or ".." in plain.parts or "\0" in member.name or "\\" in member.name:
        what = "a name that leads out of the tar"
    if what is not None:
        raise GessoError(
            f"{path}: the member {shorten(member.name)} is {what}. Such a tar is not read; pack plain files",
            code="damaged",
            data={"path": str(path)},
        )


def _is_wanted(end: str) -> bool:
    pictures = ("jpg", "jpeg", "png", "webp", "avif", "bmp", "tif", "tiff", "gif")
    return end in (*pictures, "txt", "caption", "json", *_MASKS)


def _sample(path: Path, key: str, parts: dict[str, bytes], notes: list[str]) -> Iterator[Sample]:
    mask = next((parts.pop(end) for end in _MASKS if end in parts), None)
    words = next((parts.pop(end) for end in ("txt", "caption") if end in parts), None)
    table = parts.pop("json", None)
    pictures = [value for end, value in parts.items() if end not in ("txt", "caption")]
    if not pictures:
        return
    if len(pictures) > 1:
        notes.append(f"{shorten(key.strip('/'))} has {len(pictures)} pictures; the first is taken")
    text = None if words is None else words.decode("utf-8", errors="replace")
    if text is None and table is not None:
        try:
            values = loads(table.decode("utf-8"))
        except (ValueError, RecursionError):
            raise GessoError(
                f"{path}: {shorten(key.strip('/'))}.json is not JSON", code="damaged", data={"path": str(path)}
            ) from None
        found = next((values[name] for name in TEXTS if name in values), None) if isinstance(values, dict) else None
        text = found if isinstance(found, str) else None
    yield Sample(pictures[0], text, mask)
