"""The built-in models, as library entries. Standard library only; the files are our own, so they are trusted."""

import json
from functools import cache
from importlib import resources
from pathlib import Path

from gesso.library.entry import BUILTIN, LibraryEntry, ModelFile
from gesso.request.embedded import EMBEDDED_EXTRAS, embedded_extras

BUILTIN_MODELS = {"gesso-mini": "gesso-mini.safetensors"}  # as `runtime.engine.EMBEDDED`; a test compares them
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


@cache
def builtin_entries() -> tuple[LibraryEntry, ...]:
    """One entry per model; those whose file this installation lacks are left out."""
    data = resources.files("gesso") / "data"
    entries = (_entry(name, Path(str(data / file))) for name, file in BUILTIN_MODELS.items())
    return tuple(entry for entry in entries if entry is not None)


@cache
def builtin_adapters() -> tuple[LibraryEntry, ...]:
    """The LoRA and ControlNets that come with the package. Not in a library's entries: a finder knows them itself."""
    found = ((kind, name, path) for kind in EMBEDDED_EXTRAS for name, path in embedded_extras(kind).items())
    entries = (_entry(name, path, kind=_KINDS.get(kind, kind), what=_WHAT[kind]) for kind, name, path in found)
    return tuple(entry for entry in entries if entry is not None)


_KINDS = {"control": "controlnet"}  # of a finder -> of the library
_WHAT = {"control": "a ControlNet", "lora": "a LoRA"}


def _entry(name: str, path: Path, *, kind: str = "checkpoint", what: str = "a gesso model") -> LibraryEntry | None:
    try:
        status = path.stat()
        with open(path, "rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    except (OSError, ValueError):
        return None
    metadata = header.pop("__metadata__", {})
    counts = [_product(entry["shape"]) for entry in header.values()]
    return LibraryEntry(
        name=name,
        path=path,
        kind=kind,
        family="gesso-mini",
        layout="native",
        what=what,
        dtypes=tuple(sorted({_DTYPES.get(entry["dtype"], entry["dtype"].lower()) for entry in header.values()})),
        num_tensors=len(counts),
        num_params=sum(counts),
        files=(ModelFile(name=path.name, path=path, nbytes=status.st_size, mtime_ns=status.st_mtime_ns),),
        metadata={key: value for key, value in metadata.items() if not key.startswith("gesso.")},
        origin=BUILTIN,
    )


def _product(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
