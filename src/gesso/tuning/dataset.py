"""Pictures and their captions in a folder, in the layouts that people have: `read_folder`.

- a folder of pictures with sidecars: x.jpg, x.txt (or x.caption), x-masklabel.png; `reg/` holds pictures of the class
- kohya's folders: `10_sks dog/` has repeats and class words in its name, also below `img/`; `reg/1_dog/`
- imagefolder of the Hugging Face hub: metadata.jsonl or metadata.csv with file_name and text
- shards: Parquet tables and tars of WebDataset (`shards`)

Nothing is run and nothing unpickled: pictures, text, JSON, CSV and TOML are read, all else is left alone and named.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gesso.errors import GessoError, short, shorten
from gesso.strict_json import loads
from gesso.tuning.buckets import BucketRules
from gesso.tuning.captions import CaptionRules
from gesso.tuning.shards import shards_in, unpack

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")
CAPTIONS = (".txt", ".caption")
MASK_END = "-masklabel"
MAX_CAPTION_BYTES = 64 * 2**10
MAX_TABLE_BYTES = 64 * 2**20
# What other trainers read and gesso does not; what to do instead.
_FOREIGN = {
    ".parquet": "it stands beside pictures; give the file itself, or move it to a folder of its own",
    ".arrow": "export the pictures to a folder with metadata.jsonl",
    ".tar": "it stands beside pictures; give the file itself, or move it to a folder of its own",
    ".zip": "unpack it",
    ".mds": "export the pictures to a folder",
    ".pkl": "pickles can run code and are never read",
    ".pt": "pickles can run code and are never read",
    ".npz": "caches of other trainers are not read; gesso makes its own",
}
_KOHYA = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True)
class Example:
    """One picture of a data set.

    caption  as the files say it; "" for none
    mask     file whose white area counts; None: the picture's own transparency, if any
    subset   its place in `DataSet.subsets`
    """

    path: Path
    caption: str
    mask: Path | None
    subset: int


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Pictures that share their rules.

    where    folder, for tables and messages
    repeats  how often each picture counts
    is_reg   pictures of the class, for prior preservation
    flip     pictures are also seen mirrored
    use_alpha  what is transparent in a picture does not count
    buckets  None: those of the settings
    """

    where: Path
    repeats: int = 1
    is_reg: bool = False
    captions: CaptionRules = field(default_factory=CaptionRules)
    flip: bool = False
    use_alpha: bool = True
    buckets: BucketRules | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What was found.

    notes       what was left out, and why, a sentence each
    batch_size  that the files ask for; None: they do not
    held_share  share of pictures to hold out that the files ask for
    roots       folders that the user named: what a file in them says of all below counts
    """

    layout: str
    subsets: tuple[Subset, ...]
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    batch_size: int | None = None
    held_share: float | None = None
    roots: tuple[Path, ...] = ()

    def root_of(self, example: Example) -> Path:
        """The folder that the user named in which a picture lies; else that of its subset."""
        named = (root for root in self.roots if example.path.is_relative_to(root))
        return next(named, self.subsets[example.subset].where)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What holds where the files say nothing.

    caption  of a picture without one
    reg      a folder of pictures of the class beside those of the data set
    unpacked where the pictures of shards go; None: shards are refused
    """

    captions: CaptionRules = field(default_factory=CaptionRules)
    caption: str = ""
    flip: bool = False
    repeats: int = 1
    reg: Path | None = None
    unpacked: Path | None = None


def read_folder(folder: Path, defaults: Defaults) -> DataSet:
    """The data set in a folder, which may turn out empty. Raises GessoError for files that make no sense."""
    for table in ("metadata.jsonl", "metadata.csv"):
        if (folder / table).is_file():
            return _read_table(folder, folder / table, defaults)
    for root in (folder, folder / "img"):
        if named := _kohya_folders(root):
            return _read_kohya(folder, named, defaults)
    if not any(map(is_picture, folder.iterdir())) and (shards := shards_in(folder)):
        found = read_shards(folder, shards, defaults)
        return with_reg(found, folder / "reg", defaults) if _holds_pictures(folder / "reg") else found
    subset = Subset(where=folder, repeats=defaults.repeats, captions=defaults.captions, flip=defaults.flip)
    examples, notes = folder_examples(folder, 0, CAPTIONS, defaults.caption)
    found = DataSet(layout="folder", subsets=(subset,), examples=tuple(examples), notes=tuple(notes))
    return with_reg(found, folder / "reg", defaults) if _holds_pictures(folder / "reg") else found


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and bool(_kohya_folders(folder) or any(is_picture(path) for path in folder.iterdir()))


def is_picture(path: Path) -> bool:
    """Whether a name is that of a picture, and no mask beside one."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in PICTURES and not path.stem.endswith(MASK_END) and not hidden and path.is_file()


def folder_examples(
    folder: Path, subset: int, endings: Sequence[str], caption: str, *, masks: Path | None = None
) -> tuple[list[Example], list[str]]:
    """The pictures of one folder with their sidecars, and notes. masks: another folder with masks of the same stems."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise GessoError(
            f"{folder}: cannot be read ({error.strerror})", code="unreadable", data={"path": str(folder)}
        ) from error
    examples, notes = [], []
    by_stem: dict[str, Path] = {}
    for path in paths:
        if is_picture(path):
            if path.stem in by_stem:
                notes.append(f"{path.name} and {by_stem[path.stem].name} share one caption file")
            by_stem[path.stem] = path
            text = sidecar(path, endings)
            examples.append(Example(path, caption if text is None else text, _mask_of(path, masks), subset))
        elif path.suffix.lower() in _FOREIGN and not path.name.startswith("."):
            notes.append(f"{shorten(path.name)} is not read: {_FOREIGN[path.suffix.lower()]}")
        elif path.is_dir() and path.name not in ("reg", "img") and any(map(is_picture, path.iterdir())):
            notes.append(
                f"the pictures in the folder {shorten(path.name)} are not read; give that folder, or move them"
            )
    return examples, notes


def _mask_of(path: Path, masks: Path | None) -> Path | None:
    if masks is not None:
        return next((masks / f"{path.stem}{end}" for end in PICTURES if (masks / f"{path.stem}{end}").is_file()), None)
    beside = path.with_name(f"{path.stem}{MASK_END}.png")
    return beside if beside.is_file() else None


def sidecar(path: Path, endings: Iterable[str]) -> str | None:
    """The first line of the caption file beside a picture; None where there is none. Raises GessoError."""
    for end in endings:
        for beside in (path.with_suffix(end), path.with_name(path.name + end)):
            if beside.is_file():
                return next(
                    (line for line in read_text(beside, MAX_CAPTION_BYTES).splitlines() if line.strip()), ""
                ).strip()
    return None


def read_text(path: Path, limit: int) -> str:
    """A small text file in UTF-8. Raises GessoError."""
    try:
        if path.stat().st_size > limit:
            raise GessoError(
                f"{path}: {path.stat().st_size} bytes, expected at most {limit} of text",
                code="too_large",
                data={"path": str(path)},
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise GessoError(
            f"{path}: cannot be read ({error.strerror})", code="unreadable", data={"path": str(path)}
        ) from error
    except UnicodeDecodeError as error:
        raise GessoError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8",
            code="damaged",
            data={"path": str(path)},
        ) from error
    return text.replace("\0", " ")


# ---- kohya's folders -------------------------------------------------------------------------------------------------


def _kohya_folders(root: Path) -> list[tuple[Path, int, str]]:
    if not root.is_dir():
        return []
    found = [(path, _KOHYA.fullmatch(path.name)) for path in sorted(root.iterdir()) if path.is_dir()]
    return [(path, int(match[1]), match[2].strip()) for path, match in found if match and int(match[1]) > 0]


def _read_kohya(folder: Path, named: Sequence[tuple[Path, int, str]], defaults: Defaults) -> DataSet:
    subsets: list[Subset] = []
    examples: list[Example] = []
    notes: list[str] = []
    for path, repeats, words in named:
        some, said = folder_examples(path, len(subsets), CAPTIONS, words)
        subsets.append(Subset(where=path, repeats=repeats, captions=defaults.captions, flip=defaults.flip))
        examples += some
        notes += said
    if loose := [path for path in folder.iterdir() if is_picture(path)]:
        notes.append(f"{len(loose)} pictures beside the folders with repeats in their names are not read")
    found = DataSet(layout="kohya folders", subsets=tuple(subsets), examples=tuple(examples), notes=tuple(notes))
    return with_reg(found, folder / "reg", defaults) if _holds_pictures(folder / "reg") else found


def with_reg(found: DataSet, folder: Path, defaults: Defaults) -> DataSet:
    """With pictures of the class from a folder, plain or of kohya's."""
    if not folder.is_dir():
        raise GessoError(
            f"{folder}: no such folder. Expected pictures of the class, for prior preservation",
            code="missing",
            data={"path": str(folder)},
        )
    named = _kohya_folders(folder) or [(folder, 1, "")]
    subsets, examples, notes = list(found.subsets), list(found.examples), list(found.notes)
    for path, repeats, words in named:
        some, said = folder_examples(path, len(subsets), CAPTIONS, words)
        rules = replace(CaptionRules(), separator=defaults.captions.separator)
        subsets.append(Subset(where=path, repeats=repeats, is_reg=True, captions=rules, flip=defaults.flip))
        examples += some
        notes += said
    return replace(found, subsets=tuple(subsets), examples=tuple(examples), notes=tuple(notes))


# ---- shards ----------------------------------------------------------------------------------------------------------


def read_shards(where: Path, shards: Sequence[Path], defaults: Defaults) -> DataSet:
    """The pictures of Parquet files or tars, unpacked. Raises GessoError for one that is hostile or damaged."""
    if defaults.unpacked is None:
        raise GessoError(f"{where}: shards need a place for their pictures. Give `cache`", code="usage", field="cache")
    examples: list[Example] = []
    notes: list[str] = []
    for shard in shards:
        folder, said = unpack(shard, defaults.unpacked, where if where.is_dir() else where.parent)
        notes += said
        found = _read_table(folder, folder / "metadata.jsonl", defaults)
        examples += found.examples
        notes += found.notes
    kinds = ["Parquet" if all(one.suffix.lower() == ".parquet" for one in shards) else "WebDataset"]
    subset = Subset(where=where, repeats=defaults.repeats, captions=defaults.captions, flip=defaults.flip)
    count = f"{kinds[0]}, {len(shards)} shards" if len(shards) > 1 else kinds[0]
    return DataSet(layout=count, subsets=(subset,), examples=tuple(examples), notes=tuple(notes))


# ---- imagefolder -----------------------------------------------------------------------------------------------------

_NAME_COLUMNS, _TEXT_COLUMNS = ("file_name",), ("text", "caption", "prompt")


def _read_table(folder: Path, table: Path, defaults: Defaults) -> DataSet:
    rows = list(_csv_rows(table) if table.suffix == ".csv" else _json_rows(table))
    subset = Subset(where=folder, repeats=defaults.repeats, captions=defaults.captions, flip=defaults.flip)
    examples, notes = [], []
    listed = set()
    for number, row in rows:
        name = next((row[key] for key in _NAME_COLUMNS if key in row), None)
        if not isinstance(name, str) or not name:
            raise GessoError(
                f"{table}: row {number} has no file_name. Expected file_name and text in every row",
                code="damaged",
                data={"path": str(table)},
            )
        path = inside(folder, name, f"{table}: row {number}")
        if not is_picture(path):
            notes.append(f"row {number} of {table.name}: {shorten(name)} is not a picture that is there")
            continue
        text = next((row[key] for key in _TEXT_COLUMNS if row.get(key) is not None), None)
        if text is not None and not isinstance(text, str):
            raise GessoError(
                f"{table}: row {number} has the text {short(text)}, expected words",
                code="damaged",
                data={"path": str(table)},
            )
        listed.add(path)
        examples.append(Example(path, (text or defaults.caption).strip(), _mask_of(path, None), 0))
    if others := [path for path in folder.iterdir() if is_picture(path) and path not in listed]:
        notes.append(f"{len(others)} pictures that {table.name} does not list are not read")
    return DataSet(
        layout=f"imagefolder ({table.name})", subsets=(subset,), examples=tuple(examples), notes=tuple(notes)
    )


def inside(folder: Path, name: str, where: str) -> Path:
    """A file that a table names, which must be in its folder. Raises GessoError."""
    plain = Path(name)
    if plain.is_absolute() or ".." in plain.parts or "\0" in name or "\\" in name:
        raise GessoError(f"{where}: {shorten(name)} leads out of the folder {folder}", code="invalid_value")
    return folder / plain


def _json_rows(table: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(table, MAX_TABLE_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except (ValueError, RecursionError) as error:
            raise GessoError(
                f"{table}: row {number} is not JSON ({shorten(str(error))})", code="damaged", data={"path": str(table)}
            ) from None
        if not isinstance(row, dict):
            raise GessoError(
                f"{table}: row {number} is {short(row)}, expected an object", code="damaged", data={"path": str(table)}
            )
        yield number, row


def _csv_rows(table: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        yield from enumerate(csv.DictReader(io.StringIO(read_text(table, MAX_TABLE_BYTES), newline="")), 2)
    except csv.Error as error:
        raise GessoError(f"{table}: is not CSV ({error})", code="damaged", data={"path": str(table)}) from None
