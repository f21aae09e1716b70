"""Finished pictures: their bytes, and how they were made."""

from fastapi import Response

from gesso.api.context import Call, Calling, found
from gesso.api.files import CONTENT_TYPES, picture_response
from gesso.api.gallery_schemas import PictureMetadata, library_json
from gesso.api.operations import Media, Routes, operation
from gesso.api.problems import JsonAnswer, not_found
from gesso.api.schemas import picture_json
from gesso.errors import GessoError
from gesso.serving.jobs import Output

router = Routes()
TAG = "Pictures"


@operation(
    router,
    "GET",
    "/v1/images/{id}",
    id="getImage",
    rule="read",
    tag=TAG,
    summary="The bytes of a picture",
    answer=Media(CONTENT_TYPES, {"type": "string", "format": "binary"}),
    also={206: "The part that Range asks for.", 302: "At another address, for a while.", 304: "As you have it."},
    errors=(416,),
    extra={
        "parameters": [
            {
                "name": "Range",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "example": "bytes=0-1023",
            },
            {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}},
        ]
    },
    cost=0.1,
)
def get_image(call: Calling, id: str) -> Response:
    """The file, with its recipe inside. It never changes, so it may be kept for as long as one likes."""
    output = _output(call, id)
    return picture_response(call, output.digest, output.content_type, output.id)


@operation(
    router,
    "GET",
    "/v1/images/{id}/metadata",
    id="getImageMetadata",
    rule="read",
    tag=TAG,
    summary="How a picture was made",
    answer=PictureMetadata,
)
def get_image_metadata(call: Calling, id: str) -> Response:
    """Its recipe: all that `gesso replay` needs to draw it again."""
    output = _output(call, id)
    try:
        picture = call.context.gallery.get(id, call.owner)
        work = call.context.store.get(picture.job, call.owner).work
    except GessoError:  # deleted this moment
        raise not_found("picture") from None
    return JsonAnswer(
        {
            "id": output.id,
            "picture": picture_json(output),
            "library": library_json(picture),
            "settings": output.recipe.get("request"),
            "submitted": dict(work.request),
            "assets": dict(work.assets),
            "recipe": dict(output.recipe),
        }
    )


def _output(call: Call, id: str) -> Output:
    return found(call, id, "picture", call.context.store.output)
