"""What the authors of models and adapters say of them, as cards show it. None of it is to be trusted."""

import base64
import binascii
import io
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from gesso.checkpoints.hashing import sha256_of
from gesso.errors import one_line
from gesso.library.entry import BUILTIN, LibraryEntry
from gesso.request.checks import parse_json_object

MAX_WORDS = 12
MAX_WORD = 100  # characters
MAX_NOTES = 2**16  # bytes of the .json file beside a LoRA
MAX_THUMBNAIL = 2**24  # bytes of a picture beside a model
SIDE = 384
ENDINGS = (".preview.png", ".preview.jpg", ".preview.webp", ".png", ".jpg", ".jpeg", ".webp")
EMBEDDED = "modelspec.thumbnail"
PICTURES = tuple(f"data:image/{kind};base64," for kind in ("png", "jpeg", "jpg", "webp"))


def text_of(entry: LibraryEntry, *names: str) -> str | None:
    """The first of these entries of a file's metadata that says anything."""
    for name in names:
        if value := one_line(str(entry.metadata.get(name, ""))).strip():
            return value[:500]
    return None


def license_of(entry: LibraryEntry) -> str | None:
    """Its licence, as its author names it."""
    return text_of(entry, "modelspec.license", "license", "ss_license")


def file_hash(entry: LibraryEntry) -> str | None:
    """The SHA-256 of its first file: as the library knows it; of what is built in, computed when first asked for."""
    file = entry.files[0] if entry.files else None
    if file is not None and file.sha256 is None and entry.origin == BUILTIN:
        return sha256_of(file.path)
    return file.sha256 if file is not None else None


def trigger_words(entry: LibraryEntry) -> list[str]:
    """Words that call what an adapter has learned: as its author says, else those that its training saw most often."""
    notes = entry.path.with_suffix(".json")
    text = ""
    with suppress(OSError, ValueError):
        if notes.is_file() and notes.stat().st_size <= MAX_NOTES:
            words = parse_json_object(notes.read_text(encoding="utf-8"), "notes").get("activation text")
            text = words if isinstance(words, str) else ""
    text = text or entry.metadata.get("modelspec.trigger_phrase", "")
    if text.strip():
        found = [part.strip() for part in one_line(text).split(",")]
    else:
        found = _most_frequent(entry.metadata.get("ss_tag_frequency", ""))
    return [word[:MAX_WORD] for word in dict.fromkeys(found) if word][:MAX_WORDS]


def _most_frequent(text: str) -> list[str]:
    """The words of kohya's table of tags in {folder: {tag: count}}."""
    counts: Counter[str] = Counter()
    with suppress(ValueError, AttributeError, RecursionError):
        for tags in json.loads(text).values():
            counts.update({one_line(str(tag)): int(count) for tag, count in tags.items() if isinstance(count, int)})
    return [tag for tag, _ in counts.most_common(MAX_WORDS)]


def thumbnail_url(kind: str, entry: LibraryEntry) -> str | None:
    """Where the picture of a card is; None where there is none.  kind: "model", or that of an adapter"""
    if not entry.metadata.get(EMBEDDED, "").startswith(PICTURES) and _beside(entry) is None:
        return None
    name = quote(entry.name, safe="")
    return f"/v1/models/{name}/thumbnail" if kind == "model" else f"/v1/adapters/{kind}/{name}/thumbnail"


def _beside(entry: LibraryEntry) -> Path | None:
    """A picture of the same name beside the file, as other tools put it there."""
    for ending in ENDINGS:
        path = entry.path.with_name(entry.path.stem + ending)
        if path.is_file():
            return path
    return None


def thumbnail(entry: LibraryEntry) -> bytes | None:
    """The picture of a card, decoded within bounds and encoded anew: WebP; None where there is none."""
    data = b""
    embedded = entry.metadata.get(EMBEDDED, "")
    if embedded.startswith(PICTURES):
        with suppress(binascii.Error, ValueError):
            data = base64.b64decode(embedded.partition(",")[2], validate=True)
    elif (path := _beside(entry)) is not None:
        with suppress(OSError), open(path, "rb") as handle:
            data = handle.read(MAX_THUMBNAIL + 1)
    if not data or len(data) > MAX_THUMBNAIL:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > 2**25:
                return None
            image.draft("RGB", (SIDE, SIDE))
            image.thumbnail((SIDE, SIDE), reducing_gap=2.0)
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=82, method=2)
            return buffer.getvalue()
    except Exception:  # decoders of strangers' files raise whatever they like
        return None
