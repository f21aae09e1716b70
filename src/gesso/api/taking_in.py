"""Model files that a client sends, taken into the server's library."""

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from msgspec import Meta
from starlette.concurrency import run_in_threadpool

from gesso.api.cards import license_of, trigger_words
from gesso.api.checking import ADAPTER_KINDS, family_facts
from gesso.api.context import MIN_FREE, Call, Calling
from gesso.api.helper import Helper
from gesso.api.operations import Routes, operation
from gesso.api.problems import HttpError, JsonAnswer
from gesso.errors import one_line

router = Routes()
ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
SECONDS = 3600.0  # that checking and hashing a file may take
MAX_NAME = 150
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+")


@dataclass(frozen=True, kw_only=True)
class TakenModel:
    """A file that is in the library now."""

    name: Annotated[str, Meta(description="By which requests find it.")]
    kind: Annotated[str, Meta(description="checkpoint, lora, embedding, control, upscaler, vae, ...")]
    family: Annotated[str | None, Meta(description="The family of models that it is of, or fits.")]
    description: str
    use: Annotated[Literal["model", "adapter", "none"], Meta(description="What requests can name it as.")]
    is_new: Annotated[bool, Meta(description="false: the same file was there already.")]
    size_bytes: int
    sha256: str | None
    license: str | None
    trigger_words: tuple[str, ...]


@operation(
    router,
    "POST",
    "/v1/models",
    id="createModel",
    rule="admin",
    tag="Models",
    summary="Take a model file into the library",
    status=201,
    answer=TakenModel,
    also={200: "The same file was there already."},
    errors=(409, 507),
    extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def create_model(
    call: Calling,
    request: Request,
    name: Annotated[
        str, Query(min_length=1, max_length=MAX_NAME, description=f"Name of the file, ending in {', '.join(ENDINGS)}.")
    ],
) -> Response:
    """The body is the file itself. It is checked, hashed and recognised before it has a name in the library; what it
    was recognised as is in the answer. PyTorch files become safetensors files. `--max-model 0` switches this off."""
    context = call.context
    if not context.settings.max_model:
        raise HttpError(403, "forbidden", "this server takes no models; it was started with --max-model 0")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/octet-stream":
        detail = "the body must be the file itself: send Content-Type: application/octet-stream"
        raise HttpError(415, "unsupported_media_type", detail)
    stem = _checked(name)
    if context.taking_in.locked():
        raise HttpError(
            503, "overloaded", "another model is being taken in; try again later", headers={"Retry-After": "10"}
        )
    async with context.taking_in:
        folder = context.settings.folder / "incoming" / secrets.token_hex(8)
        try:
            path = folder / name
            await _received(call, request, path)
            taken = await run_in_threadpool(_take_in, call, path, stem)
        finally:
            await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
    return JsonAnswer(taken, 201 if taken["is_new"] else 200)


def _checked(name: str) -> str:
    """The name without its ending. Raises HttpError."""
    path = Path(name)
    if not _NAME.fullmatch(name) or name.startswith((".", "-")) or not path.stem.strip(". "):
        raise HttpError(400, "invalid_name", f"name: {one_line(name)[:80]!r} is no name of a file", field="name")
    if path.suffix.lower() not in ENDINGS:
        detail = f"name ends in {path.suffix[:20]!r}, expected one of {', '.join(ENDINGS)}"
        raise HttpError(400, "unsupported", detail, field="name")
    return path.stem


async def _received(call: Call, request: Request, path: Path) -> None:
    """The body as a file. Raises HttpError."""
    length = int(request.headers.get("content-length") or 0)
    path.parent.mkdir(parents=True, mode=0o700)
    if shutil.disk_usage(path.parent).free < 2 * length + MIN_FREE:  # here, and its copy in the library
        raise HttpError(507, "disk_full", "the disk of the server has no room for this file")
    try:
        with open(path, "xb") as handle:
            async for part in request.stream():
                await run_in_threadpool(handle.write, part)
    except OSError:
        raise HttpError(507, "disk_full", "the file cannot be written on the disk of the server") from None
    if not os.path.getsize(path):
        raise HttpError(400, "invalid_request", "the body is empty; send the file itself")


def _take_in(call: Call, path: Path, name: str) -> dict[str, Any]:
    checker = call.context.checker
    with contextlib.closing(Helper()) as helper:  # of its own: it may take minutes
        taken = helper.ask("take_in", seconds=SECONDS, library=str(checker.library.root), source=str(path), name=name)
    checker.look_again()
    entry = next(
        (
            one
            for one in checker.entries()
            if one.name == taken["name"] and one.kind == taken["kind"] and not one.problem
        ),
        None,
    )
    if entry is None:
        raise HttpError(500, "internal", "the model was taken in, and cannot be found")
    is_model = entry.kind == "checkpoint" and entry.family in family_facts()
    use = "model" if is_model else "adapter" if entry.kind in ADAPTER_KINDS else "none"
    return {
        "name": entry.name,
        "kind": entry.kind,
        "family": entry.family,
        "description": one_line(entry.what)[:500],
        "use": use,
        "is_new": taken["is_new"],
        "size_bytes": entry.nbytes,
        "sha256": entry.files[0].sha256 if len(entry.files) == 1 else None,
        "license": license_of(entry),
        "trigger_words": trigger_words(entry),
    }
