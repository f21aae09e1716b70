"""What is read out of a picture that somebody drops: its settings, and hints for control networks."""

import json
import tempfile
from dataclasses import dataclass
from dataclasses import field as made
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from msgspec import Meta
from starlette.concurrency import run_in_threadpool

from gesso.api.assets import FORM, form_file, kept_upload
from gesso.api.bodies import json_body
from gesso.api.context import Call, Calling, is_id
from gesso.api.gallery_schemas import PictureSettings
from gesso.api.operations import Routes, operation
from gesso.api.pictures import check_size
from gesso.api.preprocessors import Module, modules
from gesso.api.problems import HttpError, JsonAnswer
from gesso.api.schemas import AssetResource, asset_json
from gesso.errors import GessoError, one_line
from gesso.metadata.reading import READ_TOOLS, read_metadata
from gesso.pictures.reading import FORMATS, MAX_INPUT_PIXELS
from gesso.request.checks import MAX_SIDE, RequestError, nearest, unknown_data

router = Routes()
KINDS = ("PNG", "JPEG", "WEBP", "AVIF")
MAX_PAIRS, MAX_PAIR = 200, 4000
# Preprocessors that work with OpenCV, which is an extra.
WITH_OPENCV = ("canny", "softedge", "lineart", "scribble", "shuffle", "openpose")


# ---- settings --------------------------------------------------------------------------------------------------------


@operation(
    router,
    "POST",
    "/v1/metadata",
    id="readMetadata",
    rule="read",
    tag="Pictures",
    summary="The settings in a picture of any tool",
    answer=PictureSettings,
    extra=FORM,
)
async def read_picture_settings(call: Calling, request: Request) -> Response:
    """Read the settings that a PNG, JPEG, WebP or AVIF file of gesso or another tool carries, as a request. Nothing is
    kept. 400 no_settings where there are none."""
    data, _ = await form_file(request)
    async with call.context.decoding:
        return JsonAnswer(await run_in_threadpool(_settings, call, data))


def _settings(call: Call, data: bytes) -> dict[str, Any]:
    width, height = check_size(data, tuple(name for name in KINDS if name != "AVIF" or name in FORMATS))
    with tempfile.TemporaryDirectory(prefix="gesso-metadata-") as folder:  # the readers of gesso take files
        path = Path(folder, "picture")
        path.write_bytes(data)
        try:
            found = read_metadata(path)
        except GessoError as error:
            if error.code == "no_settings":
                detail = f"file: no settings that gesso reads, of {', '.join(READ_TOOLS)}"
                raise HttpError(400, error.code, detail, field="file") from None
            if isinstance(error, RequestError):
                raise HttpError(400, "damaged", f"file: {_without(error.one_line, path)}", field="file") from None
            raise HttpError(400, error.code, _without(error.one_line, path), field="file") from None
    return {
        "tool": one_line(found.tool)[:100],
        "model": one_line(found.model)[:MAX_PAIR],
        "model_hash": found.model_hash[:64],
        "model_here": _model_here(call, found.model, found.model_hash),
        "settings": found.request.to_dict(),
        "notices": [{"code": one.code, "message": str(one), "field": one.field, "data": {}} for one in found.notices],
        "pairs": {str(key)[:200]: str(value)[:MAX_PAIR] for key, value in list(found.pairs.items())[:MAX_PAIRS]},
        "recipe": None if found.recipe is None else json.loads(found.recipe.to_json()),
        "width": width,
        "height": height,
    }


def _without(text: str, path: Path) -> str:
    """An error without the place where the file lay for a moment."""
    return text.replace(f"{path}: ", "").replace(str(path), "the file")


def _model_here(call: Call, name: str, digits: str) -> str | None:
    """The same model in the library: by its hash where one is stored, else by its name."""
    models = list(call.context.checker.models())
    if digits:
        for entry in models:
            hashes = [text for file in entry.files for text in (file.sha256, file.autov1) if text]
            if any(text.startswith(digits.casefold()) for text in hashes):
                return entry.name
    stem = name.casefold().removesuffix(".safetensors").removesuffix(".ckpt")
    return next((entry.name for entry in models if stem and entry.name.casefold() == stem), None)


# ---- hints -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PreprocessorParameterJson:
    """A number that a preprocessor takes."""

    name: str
    help: str
    default: float
    low: float
    high: float
    whole: Annotated[bool, Meta(description="Whether it is a whole number.")]


@dataclass(frozen=True, kw_only=True)
class PreprocessorResource:
    """What makes a control image of a picture."""

    name: str
    help: str
    aliases: tuple[str, ...]
    needs_mask: Annotated[bool, Meta(description="It takes a mask, too.")]
    available: Annotated[bool, Meta(description="Whether what it needs is installed on this server.")]
    parameters: tuple[PreprocessorParameterJson, ...]


@dataclass(frozen=True, kw_only=True)
class PreprocessorList:
    """All preprocessors."""

    preprocessors: tuple[PreprocessorResource, ...]


@dataclass(frozen=True, kw_only=True)
class HintBody:
    """A control image to be made."""

    preprocessor: Annotated[str, Meta(min_length=1, max_length=100, description="See GET /v1/preprocessors.")]
    image: Annotated[str, Meta(min_length=1, max_length=48, description="Id of an uploaded picture.")]
    mask: Annotated[str, Meta(max_length=48, description="Id of one, where a mask is needed.")] | None = None
    width: Annotated[int, Meta(ge=16, le=MAX_SIDE, description="Of the picture that it is for, in pixels.")]
    height: Annotated[int, Meta(ge=16, le=MAX_SIDE)]
    parameters: Annotated[dict[str, float], Meta(description="By their names; others have their defaults.")] = made(
        default_factory=dict
    )


@operation(
    router,
    "GET",
    "/v1/preprocessors",
    id="listPreprocessors",
    rule="read",
    tag="Models",
    summary="What makes control images",
    answer=PreprocessorList,
)
def list_preprocessors(call: Calling) -> Response:
    """By the names that requests have for them, with their parameters."""
    has_opencv = find_spec("cv2") is not None
    found = [
        {
            "name": row.name,
            "help": row.help,
            "aliases": list(row.aliases),
            "needs_mask": row.needs_mask,
            "available": has_opencv or row.name not in WITH_OPENCV,
            "parameters": [
                {
                    "name": one.name,
                    "help": one.help,
                    "default": one.default,
                    "low": one.low,
                    "high": one.high,
                    "whole": one.whole,
                }
                for one in row.sliders
            ],
        }
        for row in modules().values()
    ]
    return JsonAnswer({"preprocessors": found})


@operation(
    router,
    "POST",
    "/v1/hints",
    id="createHint",
    rule="draw",
    tag="Uploads",
    summary="Make a control image of a picture",
    status=201,
    answer=AssetResource,
    body=HintBody,
    body_example={"preprocessor": "canny", "image": "01M8MH9MX9E20SA7BXW3B5T9Q4", "width": 256, "height": 256},
    also={200: "The same was made before."},
    errors=(507,),
)
def create_hint(call: Calling, body: Annotated[HintBody, Depends(json_body(HintBody))]) -> Response:
    """The control image that a job of this size would make, as an uploaded picture: look at it, then name its id as
    `hint:0` of a control without a preprocessor."""
    module = _module(body.preprocessor)
    _check_hint(body, module)
    image, mask = _upload(call, body.image, "image"), None if body.mask is None else _upload(call, body.mask, "mask")
    with tempfile.TemporaryDirectory(prefix="gesso-hint-") as folder:
        path = Path(folder, "made.png")
        call.context.helper.ask(
            "hint",
            seconds=120,
            name=module.name,
            image=str(image),
            mask=None if mask is None else str(mask),
            size=[body.width, body.height],
            parameters=body.parameters,
            made=str(path),
        )
        data = path.read_bytes()
    upload, is_new = kept_upload(call, data, f"{module.name} of a picture")
    return JsonAnswer(asset_json(upload), 201 if is_new else 200, headers={"Location": f"/v1/assets/{upload.id}"})


def _module(name: str) -> Module:
    """A preprocessor by its name or an alias. Raises HttpError."""
    known = modules()
    for row in known.values():
        if name.casefold() in (row.name, *row.aliases):
            return row
    detail = (
        f"preprocessor: nothing is called {one_line(name)!r}{nearest(name, known)}; GET /v1/preprocessors lists them"
    )
    raise HttpError(400, "unknown_name", detail, field="preprocessor", data=unknown_data(name, list(known)))


def _check_hint(body: HintBody, module: Module) -> None:
    """What the preprocessor would refuse without naming the field. Raises HttpError."""
    known = {slider.name: slider for slider in module.sliders}
    for key, value in body.parameters.items():
        if key not in known:
            detail = f"parameters: {module.name} has no parameter {one_line(key)[:40]!r}{nearest(key, known)}"
            raise HttpError(400, "unknown_name", detail, field="parameters", data=unknown_data(key, list(known)))
        low, high = known[key].low, known[key].high
        if not low <= value <= high or (known[key].whole and value != int(value)):
            kind = "a whole number from " if known[key].whole else ""
            detail = f"parameters.{key} is {value:g}, expected {kind}{low:g} to {high:g}"
            data = {"value": value, "low": low, "high": high}
            raise HttpError(400, "invalid_field", detail, field=f"parameters.{key}", data=data)
    if module.needs_mask and body.mask is None:
        raise HttpError(400, "mask_missing", f"mask: {module.name} needs one", field="mask")
    if body.mask is not None and not module.needs_mask:
        raise HttpError(400, "invalid_field", f"mask: {module.name} takes none; leave it out", field="mask")
    if body.width * body.height > MAX_INPUT_PIXELS:
        detail = f"width times height is {body.width * body.height}, expected at most {MAX_INPUT_PIXELS}"
        raise HttpError(400, "too_large", detail, field="width", data={"high": MAX_INPUT_PIXELS})


def _upload(call: Call, id: str, field: str) -> Path:
    """The file of an uploaded picture. Raises HttpError."""
    try:
        if is_id(id):
            upload = call.context.store.get_upload(id, call.owner)
            call.context.blobs.read(upload.digest)
            return call.context.blobs.path(upload.digest)
    except GessoError:
        pass
    detail = f"{field}: no uploaded picture {one_line(id)[:48]!r}; upload it first, then name its id"
    raise HttpError(400, "asset_missing", detail, field=field, data={"value": id[:64]})
