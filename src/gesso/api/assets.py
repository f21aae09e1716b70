"""Uploads: pictures that requests draw from. What is kept are our own bytes, never the sender's."""

import re

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from gesso.api.context import Call, Calling, found
from gesso.api.files import picture_response
from gesso.api.operations import Media, Routes, operation
from gesso.api.pictures import normalised
from gesso.api.problems import HttpError, JsonAnswer
from gesso.api.schemas import AssetResource, asset_json
from gesso.api.submitting import refused
from gesso.api.uploads import keep_bytes
from gesso.errors import GessoError
from gesso.serving.jobs import Upload

router = Routes()
TAG = "Uploads"
_BOUNDARY = re.compile(r'multipart/form-data\s*;\s*boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,70})"?\s*', re.IGNORECASE)
MAX_NAME = 100
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP."},
                        "name": {"type": "string", "maxLength": MAX_NAME, "description": "What you call it."},
                    },
                },
            }
        },
    }
}


@operation(
    router,
    "POST",
    "/v1/assets",
    id="createAsset",
    rule="draw",
    tag=TAG,
    summary="Upload a picture",
    status=201,
    answer=AssetResource,
    also={200: "The same picture was uploaded before."},
    errors=(507,),
    extra=FORM,
)
async def create_asset(call: Calling, request: Request) -> Response:
    """A picture to start from, a mask or a control image. It is decoded and encoded anew: what is stored is a PNG
    without the sender's metadata."""
    data, name = await form_file(request)
    async with call.context.decoding:
        upload, is_new = await run_in_threadpool(kept_upload, call, data, name)
    return JsonAnswer(asset_json(upload), 201 if is_new else 200, headers={"Location": f"/v1/assets/{upload.id}"})


async def form_file(request: Request) -> tuple[bytes, str]:
    """The file and its name, of a form that holds nothing else. Raises HttpError."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise HttpError(415, "unsupported_media_type", "the body must be multipart/form-data with a part named file")
    if not _BOUNDARY.fullmatch(kind):
        raise HttpError(400, "invalid_request", "Content-Type: expected one boundary of up to 70 characters")
    limit = request.app.state.context.settings.max_upload
    try:
        async with request.form(max_files=1, max_fields=1, max_part_size=4096) as form:
            names = [name for name, _ in form.multi_items()]
            file, name = form.get("file"), form.get("name", "")
            if unknown := sorted(set(names) - {"file", "name"}):
                detail = "the form has parts other than file and name"
                raise HttpError(400, "invalid_field", detail, field=unknown[0][:64])
            if not isinstance(file, UploadFile) or len(set(names)) < len(names):
                raise HttpError(
                    400, "invalid_field", "the form needs one part named file, with a file name", field="file"
                )
            if not isinstance(name, str) or len(name) > MAX_NAME or not (name == "" or name.isprintable()):
                detail = f"name: expected up to {MAX_NAME} printable characters"
                raise HttpError(400, "invalid_field", detail, field="name")
            data = await file.read()
    except HttpError:
        raise
    except Exception as error:  # the parser raises errors of several kinds for forms that are none
        if type(error).__name__ in ("HTTPException", "MultiPartException", "MultipartParseError"):
            raise HttpError(400, "invalid_request", "the body is not a valid form") from None
        raise
    if len(data) > limit:
        raise HttpError(413, "too_large", f"file: more than {limit} bytes", field="file", data={"high": limit})
    return data, name


def kept_upload(call: Call, data: bytes, name: str) -> tuple[Upload, bool]:
    """A strange picture as the caller's own, and whether it is new. Blocks. Raises HttpError."""
    encoded, width, height = normalised(data)
    return keep_bytes(call, encoded, (width, height), name, seconds=call.context.settings.keep_uploads)


@operation(
    router,
    "GET",
    "/v1/assets/{id}",
    id="getAsset",
    rule="read",
    tag=TAG,
    summary="An uploaded picture",
    answer=AssetResource,
)
def get_asset(call: Calling, id: str) -> Response:
    """What is known of it."""
    return JsonAnswer(asset_json(_upload(call, id)))


@operation(
    router,
    "GET",
    "/v1/assets/{id}/content",
    id="getAssetContent",
    rule="read",
    tag=TAG,
    summary="The bytes of an uploaded picture",
    answer=Media(("image/png",), {"type": "string", "format": "binary"}),
    also={302: "At another address, for a while.", 304: "As you have it."},
    errors=(416,),
)
def get_asset_content(call: Calling, id: str) -> Response:
    """The PNG that was made of it."""
    upload = _upload(call, id)
    return picture_response(call, upload.digest, upload.content_type, upload.id)


@operation(
    router,
    "DELETE",
    "/v1/assets/{id}",
    id="deleteAsset",
    rule="draw",
    tag=TAG,
    summary="Forget an uploaded picture",
    status=204,
    errors=(409,),
)
def delete_asset(call: Calling, id: str) -> Response:
    """It is gone when the answer comes, unless a job draws from it."""
    _upload(call, id)
    try:
        call.context.store.delete_upload(id, call.owner)
    except GessoError as error:
        raise refused(error) from None
    return Response(status_code=204)


def _upload(call: Call, id: str) -> Upload:
    return found(call, id, "uploaded picture", call.context.store.get_upload)
