"""Pictures by the names that ComfyUI gives them: uploads by name, folder and kind, results by the id in their name.

A name never becomes a path: uploads are rows with a name, and a result is found by the id that stands in its name.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image
from sqlalchemy import select
from starlette.responses import Response

from gesso.api.context import Call
from gesso.api.files import ENDINGS, picture_response
from gesso.api.problems import HttpError, not_found
from gesso.api.uploads import add_upload
from gesso.errors import GessoError, short
from gesso.serving.jobs import Output, Upload
from gesso.serving.rows import upload_of
from gesso.serving.tables import uploads
from gesso.surfaces.surface import png

KINDS = ("input", "temp", "output")
ASSET = "asset:"  # before the id of an upload or a result, in place of a name
MAX_SAME = 1000  # pictures with names that differ by their numbers alone
RIVALS = 50  # uploads of the same name at the same moment
MAX_NAME = 100  # characters of a name or a folder
MAX_LISTED = 200  # uploads that LoadImage chooses from
_RESULT = re.compile(r"(?:.*_)?([0-9A-Za-z]{1,40}-[0-9]{1,4})_\.(?:png|jpg|webp|avif)", re.DOTALL)
_KIND = re.compile(r"(.*) \[(input|temp|output)\]", re.DOTALL)
_PREVIEW = re.compile(r"(webp|jpeg)(?:;([0-9]{1,3}))?")


@dataclass(frozen=True)
class FileName:
    """name, subfolder and type, as ComfyUI names a file."""

    name: str
    subfolder: str = ""
    kind: str = "input"

    def __str__(self) -> str:
        """As rows have it, and as graphs write it: sub/cat.png [temp]"""
        path = f"{self.subfolder}/{self.name}" if self.subfolder else self.name
        return path if self.kind == "input" else f"{path} [{self.kind}]"

    def to_json(self) -> dict[str, str]:
        """As in answers."""
        return {"filename": self.name, "subfolder": self.subfolder, "type": self.kind}


def parsed(text: str, kind: str = "input") -> FileName:
    """A name as a graph writes it. Raises HttpError."""
    if match := _KIND.fullmatch(text):
        text, kind = match[1], match[2]
    folder, _, name = text.replace("\\", "/").rpartition("/")
    return checked(name, folder, kind)


def checked(name: str, subfolder: str, kind: str) -> FileName:
    """A name that a file may have. Raises HttpError."""
    folder = subfolder.replace("\\", "/").strip("/")
    for what, text in (("filename", name), ("subfolder", folder)):
        parts = text.split("/")
        if len(text) > MAX_NAME or not (text == "" or text.isprintable()) or any(part in (".", "..") for part in parts):
            raise HttpError(400, "invalid_name", f"{what} is {short(text)}, expected a plain name", field=what)
    if not name or "/" in name or "\\" in name:
        raise HttpError(
            400, "invalid_name", f"filename is {short(name)}, expected the name of a file", field="filename"
        )
    if kind not in KINDS:
        raise HttpError(400, "unknown_name", f"type is {short(kind)}, expected {', '.join(KINDS)}", field="type")
    return FileName(name, folder, kind)


# ---- results ---------------------------------------------------------------------------------------------------------


def result_name(prefix: str, kind: str, output: Output) -> FileName:
    """What a finished picture is called.  prefix: of its output node, with folders"""
    folder, _, stem = prefix.replace("\\", "/").rpartition("/")
    ending = ENDINGS.get(output.content_type, "png")
    return FileName(f"{stem}_{output.id}_.{ending}", folder.strip("/"), kind)


def find_result(call: Call, name: FileName) -> Output | None:
    """The finished picture of whoever asks, by its name."""
    match = _RESULT.fullmatch(name.name)
    if match is None:
        return None
    try:
        return call.context.store.output(match[1], call.owner)
    except GessoError:
        return None


# ---- uploads ---------------------------------------------------------------------------------------------------------


def find_upload(call: Call, name: FileName) -> Upload | None:
    """The newest upload of whoever asks that is called so."""
    mine = (uploads.c.owner == call.new_owner, uploads.c.name == str(name))
    statement = select(uploads).where(*mine).order_by(uploads.c.id.desc()).limit(1)
    with call.context.store.database.reading() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else upload_of(row)


def upload_names(call: Call) -> list[str]:
    """The names of the newest uploads of whoever asks, sorted."""
    mine = (uploads.c.owner == call.new_owner, uploads.c.name != "")
    statement = select(uploads.c.name).where(*mine).order_by(uploads.c.id.desc()).limit(MAX_LISTED)
    with call.context.store.database.reading() as connection:
        return sorted({name for name in connection.scalars(statement) if not _KIND.fullmatch(name)})


def find_picture(call: Call, text: str) -> Upload | None:
    """The picture that LoadImage names: an upload, a result by "name [output]", or either by its id."""
    if text.startswith(ASSET):
        try:
            return call.context.store.get_upload(text.removeprefix(ASSET), call.new_owner)
        except GessoError:
            name = FileName(f"{text.removeprefix(ASSET)}_.png", "", "output")
    else:
        try:
            name = parsed(text)
        except HttpError:
            return None
    if (found := find_upload(call, name)) is not None:
        return found
    output = find_result(call, name)
    if output is None:
        return None
    return Upload(
        id="",  # it is made an upload when a job draws from it
        owner=call.new_owner,
        name=str(name),
        content_type=output.content_type,
        nbytes=output.nbytes,
        width=output.width,
        height=output.height,
        digest=output.digest,
        created_at=0.0,
    )


def keep_named(call: Call, image: Image.Image, name: FileName, *, overwrite: bool) -> tuple[Upload, FileName]:
    """Keep a decoded picture under a name, or under another one where that is taken. Raises HttpError."""
    context, owner = call.context, call.new_owner
    data, seconds = png(image), context.settings.keep_uploads
    stem, dot, ending = name.name.rpartition(".")
    numbered = (f"{stem or ending} ({number}){dot}{ending if stem else ''}" for number in range(1, MAX_SAME))
    names = [name] if overwrite else [name, *(replace(name, name=other) for other in numbered)]
    free = len(names) - 1  # where all are taken, the last is so twice
    try:
        digest = context.blobs.put(data)
        for number, one in enumerate(names):
            if (known := find_upload(call, one)) is None:
                free = number
                break
            if known.digest == digest:
                return context.store.keep_upload(owner, digest, seconds, id=known.id) or known, one
    except GessoError as error:
        raise HttpError.of(error) from None
    first, *others = (str(one) for one in names[free : free + RIVALS])
    upload = add_upload(call, digest, len(data), image.size, first, seconds=seconds, other_names=others)
    return upload, next(one for one in names if str(one) == upload.name)


def opened(call: Call, upload: Upload) -> Image.Image:
    """A stored picture. Raises HttpError."""
    try:
        image = Image.open(io.BytesIO(call.context.blobs.read(upload.digest)))
        image.load()
    except GessoError as error:
        raise HttpError.of(error, 500) from None
    return image


# ---- GET /view -------------------------------------------------------------------------------------------------------


def view(call: Call, query: Mapping[str, str]) -> Response:
    """The bytes of a picture, whole or as a preview. Raises HttpError."""
    name = parsed(query.get("filename", ""), query.get("type", "output"))
    folder = query.get("subfolder", "")
    name = checked(name.name, "/".join(part for part in (folder, name.subfolder) if part), name.kind)
    output = find_result(call, name)
    upload = None if output is not None else find_upload(call, name)
    found = output or upload
    if found is None:
        raise not_found("picture")
    channel, preview = query.get("channel", "rgba"), _PREVIEW.fullmatch(query.get("preview", ""))
    if channel not in ("rgb", "rgba", "a"):
        raise HttpError(400, "unknown_name", f"channel is {short(channel)}, expected rgb, rgba or a", field="channel")
    if channel == "rgba" and preview is None:
        return picture_response(call, found.digest, found.content_type, found.id)
    try:
        image: Image.Image = Image.open(io.BytesIO(call.context.blobs.read(found.digest)))
    except GessoError as error:
        raise HttpError.of(error, 500) from None
    if channel == "rgb":
        image = image.convert("RGB")
    elif channel == "a":
        alpha = image.convert("RGBA").getchannel("A")
        image = Image.new("RGBA", image.size)
        image.putalpha(alpha)
    kind, quality = (preview[1], min(max(int(preview[2] or 90), 1), 100)) if preview else ("png", 90)
    buffer = io.BytesIO()
    flat = image.convert("RGB") if kind == "jpeg" else image
    flat.save(buffer, kind.upper(), quality=quality)
    return Response(buffer.getvalue(), media_type=f"image/{kind}")
