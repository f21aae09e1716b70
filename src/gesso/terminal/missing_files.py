"""A path that leads nowhere, as people mistype it: the message says that the file is missing, and which is near.

The terminal's own user may see what is in a folder. A finder, whose names may come from strangers, does not look.
"""

import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from gesso.errors import GessoError, shorten
from gesso.request.finder import KIND_NAMES

ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")  # that names of models are typed with
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif")
MAX_LOOKED = 10_000  # entries of a folder, which may be one of everything
_ABSENT = ("no such file or folder", "no such file")


def is_like_path(text: str) -> bool:
    """Whether a name was meant as a path: it has a slash, or the ending of a file with weights."""
    return "/" in text or os.sep in text or text.lower().endswith(ENDINGS)


def with_near_file(error: GessoError) -> GessoError:
    """The same error; of one about a file that is missing, with the file that may be meant."""
    if error.data.get("kind") in KIND_NAMES and "known" in error.data:  # a finder's
        text = str(error.data.get("value", ""))
        if not is_like_path(text) or _exists(Path(text)):
            return error
        message = f"{shorten(text)}: no such file{_hint(Path(text))}, and {error.message}"
        return GessoError(message, code="missing", field=error.field, data={**error.data, "path": text})
    words = next((words for words in _ABSENT if f": {words}" in error.message), None)
    path = error.data.get("path")
    if error.code != "missing" or words is None or not isinstance(path, str) or "Did you mean" in error.message:
        return error
    message = error.message.replace(words, words + _hint(Path(path)), 1)
    return GessoError(message, code=error.code, field=error.field, data=error.data)


def _hint(path: Path) -> str:
    if not _exists(path.parent):
        return f" (there is no folder {shorten(str(path.parent))})"
    near = near_file(path)
    return "" if near is None else f" (did you mean {shorten(str(near))}?)"


def near_file(path: Path) -> Path | None:
    """The file beside a missing one that has its name with another ending, or nearly its name; None for none."""
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(
                one.name
                for one in islice(entries, MAX_LOOKED)
                if not one.name.startswith(".") and _are_alike(one.name, path.name) and one.is_file()
            )
    except (OSError, ValueError):
        return None
    names.sort(key=lambda name: Path(name).suffix.lower() != path.suffix.lower())
    stems: dict[str, str] = {}  # without the endings, which are long and would make all names alike
    for name in names:
        stems.setdefault(Path(name).stem.lower(), name)
    near = get_close_matches(path.stem.lower()[:64], stems, n=1)
    return path.with_name(stems[near[0]]) if near else None


def _are_alike(one: str, other: str) -> bool:
    """Whether two names are of files of one kind, as their endings tell; no ending may be any."""
    kinds = [_ending_of_kind(Path(name).suffix.lower()) for name in (one, other)]
    return kinds[0] == kinds[1] or (kinds[1] == "" and kinds[0] in (ENDINGS[0], _PICTURES[0]))


def _ending_of_kind(ending: str) -> str:
    return next((endings[0] for endings in (ENDINGS, _PICTURES) if ending in endings), ending)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
