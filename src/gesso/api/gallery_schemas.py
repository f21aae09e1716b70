"""The JSON of the library of pictures: lists, changes, boards, and what is read from a dropped picture."""

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from gesso.api.schemas import Address, NoticeJson, Picture, Time, at
from gesso.serving.gallery import MAX_EDIT, MAX_NAME, Board, GalleryPage, GalleryPicture

MAX_ARCHIVE = 2000  # pictures of one ZIP file
_Id = Annotated[str, Meta(min_length=1, max_length=48, pattern="^[0-9A-Za-z_-]+$")]
_BoardName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


# ---- what is sent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ChangesBody:
    """What becomes of some pictures, all in one step."""

    images: Annotated[tuple[_Id, ...], Meta(min_length=1, max_length=MAX_EDIT, description="Ids.")]
    starred: Annotated[bool | None, Meta(description="Give them a star, or take it.")] = None
    deleted: Annotated[
        bool | None, Meta(description="true hides them; false brings them back, for 7 days. Then they are gone.")
    ] = None
    add_to: Annotated[_Id, Meta(description="Put them on this board.")] | None = None
    remove_from: Annotated[_Id, Meta(description="Take them from this board.")] | None = None


@dataclass(frozen=True, kw_only=True)
class ArchiveBody:
    """Which pictures a ZIP file has."""

    images: Annotated[tuple[_Id, ...], Meta(min_length=1, max_length=MAX_ARCHIVE, description="Ids.")]


@dataclass(frozen=True, kw_only=True)
class BoardBody:
    """A board."""

    name: _BoardName


@dataclass(frozen=True, kw_only=True)
class PriorityBody:
    """The place of a job among those of its owner."""

    priority: Annotated[int, Meta(ge=-10, le=10, description="Higher is sooner.")]


# ---- what comes back -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LibraryPicture:
    """A finished picture as the library has it."""

    id: str
    job: str
    batch: str | None
    created_at: Annotated[Time, Meta(description="When it was finished.")]
    model: str
    prompt: Annotated[str, Meta(description="As it was drawn, without flags and wildcards; up to 4000 characters.")]
    negative_prompt: str
    width: int
    height: int
    seed: Annotated[int, Meta(description="With the index it decides the noise. Up to 2^64 - 1.")]
    index: int
    content_type: str
    size_bytes: int
    starred: bool
    boards: Annotated[tuple[str, ...], Meta(description="Ids of the boards that it is on.")]
    deleted_at: Annotated[Time | None, Meta(description="Since when it is hidden.")]
    notices: Annotated[int, Meta(description="How many there are; its metadata has them.")]
    url: Address
    thumbnail_url: Address
    metadata_url: Address


@dataclass(frozen=True, kw_only=True)
class LibraryPage:
    """Some pictures, newest first."""

    images: tuple[LibraryPicture, ...]
    total: Annotated[int, Meta(description="How many the whole list has, from the cursor on.")]
    next_cursor: Annotated[str | None, Meta(description="For the next page; null on the last.")]
    top: Annotated[
        str,
        Meta(description="A cursor before the first picture: with `skip`, any part of the list as it is now."),
    ]


@dataclass(frozen=True, kw_only=True)
class LibraryDay:
    """A day on which pictures were finished."""

    day: Annotated[str, Meta(description="As 2026-11-30, by the clock that was asked for.")]
    images: Annotated[int, Meta(description="How many.")]


@dataclass(frozen=True, kw_only=True)
class LibraryDays:
    """How a list is spread over days, newest first. Their numbers add up to where in the list a day begins."""

    days: tuple[LibraryDay, ...]


@dataclass(frozen=True, kw_only=True)
class ChangedPictures:
    """Pictures as they are after a change."""

    images: tuple[LibraryPicture, ...]
    missing: Annotated[tuple[str, ...], Meta(description="Ids that are not here.")]


@dataclass(frozen=True, kw_only=True)
class PictureMetadata:
    """How a picture was made."""

    id: str
    picture: Picture
    library: LibraryPicture
    settings: Annotated[
        dict[str, Any] | None,
        Meta(description="The request of this picture alone, every field set; null where none is."),
    ]
    submitted: Annotated[dict[str, Any], Meta(description="The request of its job, as it was accepted.")]
    assets: Annotated[dict[str, str], Meta(description="Role -> id of an uploaded picture that it was drawn from.")]
    recipe: Annotated[dict[str, Any], Meta(description="All that is needed to draw it again; also inside the file.")]


@dataclass(frozen=True, kw_only=True)
class BoardResource:
    """A named collection of pictures."""

    id: str
    name: str
    created_at: Time
    pictures: Annotated[int, Meta(description="How many it has.")]
    cover: Annotated[str | None, Meta(description="Id of its newest picture.")]
    cover_url: Annotated[Address | None, Meta(description="Thumbnail of its newest picture.")]
    url: Address


@dataclass(frozen=True, kw_only=True)
class BoardList:
    """All boards, oldest first."""

    boards: tuple[BoardResource, ...]


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """The settings that a picture carries in its file, whichever tool made it."""

    tool: Annotated[str, Meta(description="gesso, A1111, ComfyUI, ...")]
    model: Annotated[str, Meta(description='Name of the model, as it is stored; "" where it is not.')]
    model_hash: str
    model_here: Annotated[str | None, Meta(description="The same model in this server's library.")]
    settings: Annotated[dict[str, Any], Meta(description="As `request` of a job; fields that are not stored are open.")]
    notices: Annotated[tuple[NoticeJson, ...], Meta(description="What gesso ignores or does differently.")]
    pairs: Annotated[dict[str, str], Meta(description="All settings as they are stored: text, not to be trusted.")]
    recipe: Annotated[dict[str, Any] | None, Meta(description="Where gesso drew it.")]
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class WorkerResource:
    """A worker process."""

    device: str
    models: Annotated[tuple[str, ...], Meta(description="That are loaded.")]
    seen_at: Time


@dataclass(frozen=True, kw_only=True)
class QueueResource:
    """How the queue stands."""

    paused: Annotated[bool, Meta(description="Whether your jobs wait until you resume.")]
    counts: Annotated[dict[str, int], Meta(description="Your unfinished jobs by their status.")]
    workers: tuple[WorkerResource, ...]


# ---- values as JSON --------------------------------------------------------------------------------------------------


def library_json(picture: GalleryPicture) -> dict[str, Any]:
    """A picture as the API shows it in lists."""
    own, output = f"/v1/images/{picture.id}", picture.output
    return {
        "id": picture.id,
        "job": picture.job,
        "batch": picture.batch,
        "created_at": at(picture.created_at),
        "model": picture.model,
        "prompt": picture.prompt,
        "negative_prompt": picture.negative_prompt,
        "width": output.width,
        "height": output.height,
        "seed": output.seed,
        "index": output.index,
        "content_type": output.content_type,
        "size_bytes": output.nbytes,
        "starred": picture.starred,
        "boards": list(picture.boards),
        "deleted_at": at(picture.deleted_at),
        "notices": len(output.notices),
        "url": own,
        "thumbnail_url": f"{own}/thumbnail",
        "metadata_url": f"{own}/metadata",
    }


def page_json(page: GalleryPage) -> dict[str, Any]:
    """A page of the library."""
    return {
        "images": [library_json(picture) for picture in page.pictures],
        "total": page.total,
        "next_cursor": page.cursor,
        "top": page.top,
    }


def board_json(board: Board) -> dict[str, Any]:
    """A board as the API shows it."""
    return {
        "id": board.id,
        "name": board.name,
        "created_at": at(board.created_at),
        "pictures": board.count,
        "cover": board.cover,
        "cover_url": None if board.cover is None else f"/v1/images/{board.cover}/thumbnail",
        "url": f"/v1/boards/{board.id}",
    }
