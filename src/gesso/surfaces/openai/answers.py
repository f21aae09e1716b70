"""From jobs to what OpenAI's client reads: answers, events of a stream, models, moderations. Pure translators."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from gesso.library.entry import BUILTIN, LibraryEntry
from gesso.serving.jobs import Job, Output
from gesso.surfaces.openai.reading import Asked

# gesso counts no tokens, and asks for no money.
USAGE: Mapping[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
NOT_JUDGED = (
    "Nothing was judged: this server has no safety model yet. `flagged` is false because nothing was looked at, "
    "not because anything was found to be harmless."
)


def images_response(
    job: Job, asked: Asked, notes: Sequence[str], data: Mapping[str, bytes], address: Callable[[Output], str]
) -> dict[str, Any]:
    """The answer with all pictures. Besides OpenAI's keys, each has its seed and id, and `gesso` says what to know.

    data     bytes by the ids of the pictures
    address  of a picture, for those who want addresses
    """
    pictures = [
        {
            "b64_json": None if asked.as_url else base64.b64encode(data[output.id]).decode("ascii"),
            "url": address(output) if asked.as_url else None,
            "revised_prompt": None,
            "id": output.id,
            "seed": output.seed,
        }
        for output in job.outputs
    ]
    return {
        "created": int(job.created_at),
        "data": pictures,
        **look(job.outputs[0].width, job.outputs[0].height, asked),
        "usage": USAGE,
        "safety_identifier": asked.user,
        "svg_usage": None,
        "gesso": about(job, notes),
    }


def look(width: int, height: int, asked: Asked) -> dict[str, Any]:
    """What every answer says of its pictures."""
    return {
        "size": f"{width}x{height}",
        "quality": asked.quality,
        "background": "opaque",
        "output_format": asked.format,
    }


def about(job: Job, notes: Sequence[str]) -> dict[str, Any]:
    """What gesso adds to an answer: the job, the model, and what the user should know."""
    told = [str(notice["message"]) for output in job.outputs for notice in output.notices]
    return {"job": job.id, "model": job.work.model, "notices": list(dict.fromkeys([*notes, *told]))}


def event(kind: str, data: Mapping[str, Any]) -> bytes:
    """One event of a stream; its name is its type."""
    text = json.dumps({"type": kind, **data}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()


def partial_image(job: Job, asked: Asked, size: tuple[int, int], index: int, preview: bytes) -> dict[str, Any]:
    """A picture on its way.  preview: as the worker made it, which may be smaller than the picture"""
    return {
        "b64_json": base64.b64encode(as_format(preview, asked)).decode("ascii"),
        "partial_image_index": index,
        "created_at": int(job.created_at),
        **look(*size, asked),
    }


def completed(job: Job, asked: Asked, notes: Sequence[str], output: Output, data: bytes) -> dict[str, Any]:
    """A finished picture."""
    return {
        "b64_json": base64.b64encode(data).decode("ascii"),
        "created_at": int(job.created_at),
        **look(output.width, output.height, asked),
        "usage": USAGE,
        "safety_identifier": asked.user,
        "id": output.id,
        "seed": output.seed,
        "gesso": about(job, notes),
    }


def as_format(preview: bytes, asked: Asked) -> bytes:
    """A preview in the format that was asked for."""
    image = Image.open(io.BytesIO(preview), formats=("JPEG", "PNG", "WEBP"))
    if asked.format == (image.format or "").lower():
        return preview
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, asked.format.upper())
    return buffer.getvalue()


def output_format(asked: Asked) -> dict[str, Any]:
    """How the files are written, as jobs say it."""
    if asked.format == "png":
        return {"format": "png"}
    return {"format": asked.format, "quality": max(asked.compression, 1)}


def model_object(entry: LibraryEntry) -> dict[str, Any]:
    """A model as the client lists it."""
    newest = max((file.mtime_ns for file in entry.files), default=0) // 10**9
    owner = "gesso" if entry.origin == BUILTIN else "library"
    return {"id": entry.name, "object": "model", "created": newest, "owned_by": owner, "shutdown_date": None}


def moderation(ident: str, inputs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The answer to a question that nobody here can answer: nothing is flagged, and it says why.

    inputs  of each the types of its parts: "text", "image"
    """
    result = {
        "flagged": False,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, 0.0),
        "category_applied_input_types": {name: [] for name in CATEGORIES},
        "judged": False,
    }
    return {"id": ident, "model": "none", "results": [result for _ in inputs], "notice": NOT_JUDGED}
