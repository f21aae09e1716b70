"""The library of finished pictures: lists and searches, changes of many at once, boards, thumbnails, ZIP files."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Query, Response
from starlette.responses import StreamingResponse

from gesso.api.assets import kept_upload
from gesso.api.bodies import json_body
from gesso.api.context import Call, Calling, is_id
from gesso.api.cursors import opened, sealed
from gesso.api.files import ENDINGS, POLICY
from gesso.api.gallery_schemas import (
    ArchiveBody,
    BoardBody,
    BoardList,
    BoardResource,
    ChangedPictures,
    ChangesBody,
    LibraryDays,
    LibraryPage,
    board_json,
    library_json,
    page_json,
)
from gesso.api.operations import Media, Routes, operation
from gesso.api.problems import HttpError, JsonAnswer, not_found
from gesso.api.schemas import AssetResource, asset_json
from gesso.api.submitting import refused
from gesso.errors import GessoError
from gesso.serving.gallery import MAX_SKIP, Filter, GalleryPicture
from gesso.serving.thumbnails import CONTENT_TYPE, SIDES

router = Routes()
TAG, BOARDS = "Pictures", "Boards"
SMALL = 0.02  # what a thumbnail counts for against the rate
MAX_SLUG = 40  # characters of a prompt in the name of a file
EXAMPLE_ID = "01M8MH9MX9E20SA7BXW3B5T9Q4-0"


# ---- pictures --------------------------------------------------------------------------------------------------------


@operation(
    router,
    "GET",
    "/v1/images",
    id="listImages",
    rule="read",
    tag=TAG,
    summary="Finished pictures, newest first",
    answer=LibraryPage,
)
def list_images(
    call: Calling,
    q: Annotated[
        str | None,
        Query(max_length=500, description="Words that all occur in prompts or settings; also seed:7, steps:20, ..."),
    ] = None,
    starred: Annotated[bool, Query(description="Only those with a star.")] = False,
    deleted: Annotated[bool, Query(description="Those that can be brought back, in place of the others.")] = False,
    board: Annotated[str | None, Query(max_length=48, description="Only those on this board.")] = None,
    model: Annotated[str | None, Query(max_length=255, description="Only those of this model.")] = None,
    job: Annotated[str | None, Query(max_length=48, description="Only those of this job.")] = None,
    batch: Annotated[str | None, Query(max_length=255, description="Only those of this batch.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    skip: Annotated[int, Query(ge=0, le=MAX_SKIP, description="How many to leave out, from the cursor on.")] = 0,
    cursor: Annotated[str | None, Query(max_length=255, description="next_cursor, or top, of a page before.")] = None,
) -> Response:
    """Your pictures, page by page; with the scope admin, everybody's. `top` and `skip` lead to any part of the list."""
    folder = call.context.settings.folder
    try:
        wanted = Filter(
            owner=call.owner,
            query=q or "",
            starred=starred,
            deleted=deleted,
            board=board,
            model=model,
            job=job,
            batch=batch,
        )
        page = call.context.gallery.list(wanted, limit=limit, skip=skip, cursor=opened(folder, cursor))
    except GessoError as error:
        raise refused(error) from None
    return JsonAnswer(page_json(page) | {"next_cursor": sealed(folder, page.cursor), "top": sealed(folder, page.top)})


@operation(
    router,
    "GET",
    "/v1/images/days",
    id="listImageDays",
    rule="read",
    tag=TAG,
    summary="On which days pictures were finished",
    answer=LibraryDays,
)
def list_days(
    call: Calling,
    q: Annotated[str | None, Query(max_length=500, description="As for the list of pictures.")] = None,
    starred: Annotated[bool, Query(description="Only those with a star.")] = False,
    deleted: Annotated[bool, Query(description="Those that can be brought back, in place of the others.")] = False,
    board: Annotated[str | None, Query(max_length=48, description="Only those on this board.")] = None,
    east: Annotated[
        int, Query(ge=-1440, le=1440, description="Minutes by which the clock that counts is ahead of UTC.")
    ] = 0,
) -> Response:
    """The same list as that of pictures, as numbers a day: for going to a date in a long one."""
    try:
        wanted = Filter(owner=call.owner, query=q or "", starred=starred, deleted=deleted, board=board)
        found = call.context.gallery.days(wanted, east=60 * east)
    except GessoError as error:
        raise refused(error) from None
    days = [{"day": str(date(1970, 1, 1) + timedelta(days=day)), "images": count} for day, count in found]
    return JsonAnswer({"days": days})


@operation(
    router,
    "POST",
    "/v1/images/changes",
    id="changeImages",
    rule="draw",
    tag=TAG,
    summary="Give stars, delete, bring back, put on boards",
    answer=ChangedPictures,
    body=ChangesBody,
    body_example={"images": [EXAMPLE_ID], "starred": True},
    errors=(404,),
)
def change_images(call: Calling, body: Annotated[ChangesBody, Depends(json_body(ChangesBody))]) -> Response:
    """Change many pictures in one step. A deleted picture is in no list, and can be brought back for 7 days.

    Pictures with a star or on a board stay when the time of their jobs is over.
    """
    if body.starred is None and body.deleted is None and body.add_to is None and body.remove_from is None:
        detail = "nothing to change: give starred, deleted, add_to or remove_from"
        raise HttpError(400, "invalid_field", detail, field="starred")
    try:
        changed = call.context.gallery.edit(
            body.images,
            call.owner,
            starred=body.starred,
            deleted=body.deleted,
            add_to=body.add_to,
            remove_from=body.remove_from,
        )
    except GessoError as error:
        raise refused(error) from None
    there = {picture.id for picture in changed}
    missing = [id for id in dict.fromkeys(body.images) if id not in there]
    return JsonAnswer({"images": [library_json(picture) for picture in changed], "missing": missing})


@operation(
    router,
    "POST",
    "/v1/images/archive",
    id="archiveImages",
    rule="read",
    tag=TAG,
    summary="Pictures and their settings as a ZIP file",
    answer=Media(("application/zip",), {"type": "string", "format": "binary"}),
    body=ArchiveBody,
    body_example={"images": [EXAMPLE_ID]},
    errors=(404,),
)
def archive_images(call: Calling, body: Annotated[ArchiveBody, Depends(json_body(ArchiveBody))]) -> Response:
    """Each picture as it is, and a JSON file of the same name with its model, settings and recipe. What is not here is
    left out. It is written as it is read, so it may be large."""
    found = call.context.gallery.named(body.images, call.owner)
    if not found:
        raise HttpError(404, "not_found", "none of these pictures is here", field="images")
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return StreamingResponse(
        _zipped(call, found),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="gesso-{when}-{len(found)}-pictures.zip"'},
    )


class _Pipe(io.RawIOBase):
    """A file that hands over what was written to it since the last time."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data, self.parts = b"".join(self.parts), []
        return data


def _zipped(call: Call, found: tuple[GalleryPicture, ...]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for number, picture in enumerate(found, 1):
            if call.context.is_stopping:
                return  # the file ends too early, which programs see
            try:
                data = call.context.blobs.read(picture.output.digest)
                recipe = call.context.store.output(picture.id, call.owner).recipe
            except GessoError:  # deleted meanwhile
                continue
            name = f"{number:04d}-{_slug(picture.prompt)}-{picture.output.seed}"
            settings = {
                "id": picture.id,
                "model": picture.model,
                "created_at": library_json(picture)["created_at"],
                "settings": recipe.get("request"),
                "recipe": dict(recipe),
            }
            at = datetime.fromtimestamp(max(picture.created_at, 315_532_800.0), UTC).timetuple()[:6]  # ZIP begins 1980
            for ending, content, kind in (
                (ENDINGS.get(picture.output.content_type, "bin"), data, zipfile.ZIP_STORED),
                ("json", json.dumps(settings, indent=1, ensure_ascii=False).encode(), zipfile.ZIP_DEFLATED),
            ):
                info = zipfile.ZipInfo(f"{name}.{ending}", at)
                info.compress_type = kind
                archive.writestr(info, content)
            yield pipe.taken()
    yield pipe.taken()


def _slug(prompt: str) -> str:
    """The beginning of a prompt as a part of a file's name, on every system."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.casefold()[: 4 * MAX_SLUG]).strip("-")[:MAX_SLUG].strip("-") or "picture"


@operation(
    router,
    "GET",
    "/v1/images/{id}/thumbnail",
    id="getThumbnail",
    rule="read",
    tag=TAG,
    summary="A picture, small",
    answer=Media((CONTENT_TYPE,), {"type": "string", "format": "binary"}),
    also={304: "As you have it."},
    cost=SMALL,
)
def get_thumbnail(
    call: Calling,
    id: str,
    size: Annotated[int, Query(ge=16, le=SIDES[-1], description="Of the longer side: 128, 256 or 512 pixels.")] = 256,
) -> Response:
    """WebP, at least as large as is asked for, unless the picture is smaller. It never changes."""
    if not is_id(id):
        raise not_found("picture")
    try:
        output = call.context.store.output(id, call.owner)
        side = next(one for one in SIDES if one >= size)
        headers = {
            "ETag": f'"{output.digest}-{side}"',
            "Cache-Control": "private, max-age=31536000, immutable",
            "Content-Security-Policy": POLICY,
            "Vary": "Authorization",
        }
        known = call.request.headers.get("if-none-match", "")
        if headers["ETag"] in [text.strip().removeprefix("W/") for text in known.split(",")]:
            return Response(status_code=304, headers=headers)
        data = call.context.thumbnails.get(output.digest, side)
    except GessoError as error:
        if error.code in ("output_missing", "missing"):
            raise not_found("picture") from None
        raise HttpError.of(error, 500) from None
    return Response(data, headers=headers, media_type=CONTENT_TYPE)


@operation(
    router,
    "POST",
    "/v1/images/{id}/asset",
    id="createAssetOfImage",
    rule="draw",
    tag=TAG,
    summary="Draw from a finished picture",
    status=201,
    answer=AssetResource,
    also={200: "It was taken before."},
    errors=(507,),
)
def create_asset_of_image(call: Calling, id: str) -> Response:
    """Make an uploaded picture of a finished one, as a source, a mask or a control image of new jobs."""
    if not is_id(id):
        raise not_found("picture")
    try:
        data = call.context.blobs.read(call.context.store.output(id, call.owner).digest)
    except GessoError as error:
        raise (not_found("picture") if error.code in ("output_missing", "missing") else HttpError.of(error)) from None
    upload, is_new = kept_upload(call, data, "")
    return JsonAnswer(asset_json(upload), 201 if is_new else 200, headers={"Location": f"/v1/assets/{upload.id}"})


# ---- boards ----------------------------------------------------------------------------------------------------------


@operation(
    router, "GET", "/v1/boards", id="listBoards", rule="read", tag=BOARDS, summary="All boards", answer=BoardList
)
def list_boards(call: Calling) -> Response:
    """Your boards, oldest first; with the scope admin, everybody's."""
    return JsonAnswer({"boards": [board_json(board) for board in call.context.gallery.boards(call.owner)]})


@operation(
    router,
    "POST",
    "/v1/boards",
    id="createBoard",
    rule="draw",
    tag=BOARDS,
    summary="Make a board",
    status=201,
    answer=BoardResource,
    body=BoardBody,
    body_example={"name": "Cars"},
)
def create_board(call: Calling, body: Annotated[BoardBody, Depends(json_body(BoardBody))]) -> Response:
    """An empty board. Several may have the same name."""
    try:
        board = call.context.gallery.add_board(call.new_owner, body.name)
    except GessoError as error:
        raise refused(error) from None
    return JsonAnswer(board_json(board), 201, headers={"Location": f"/v1/boards/{board.id}"})


@operation(
    router,
    "POST",
    "/v1/boards/{id}",
    id="renameBoard",
    rule="draw",
    tag=BOARDS,
    summary="Rename a board",
    answer=BoardResource,
    body=BoardBody,
    body_example={"name": "Fast cars"},
)
def rename_board(call: Calling, id: str, body: Annotated[BoardBody, Depends(json_body(BoardBody))]) -> Response:
    """Its pictures stay on it."""
    if not is_id(id):
        raise not_found("board")
    try:
        return JsonAnswer(board_json(call.context.gallery.rename_board(id, body.name, call.owner)))
    except GessoError as error:
        raise refused(error) from None


@operation(
    router,
    "DELETE",
    "/v1/boards/{id}",
    id="deleteBoard",
    rule="draw",
    tag=BOARDS,
    summary="Forget a board",
    status=204,
)
def delete_board(call: Calling, id: str) -> Response:
    """The board is gone; its pictures stay."""
    if not is_id(id):
        raise not_found("board")
    try:
        call.context.gallery.delete_board(id, call.owner)
    except GessoError as error:
        raise refused(error) from None
    return Response(status_code=204)
