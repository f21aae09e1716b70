"""Pictures that somebody sent, as uploads of their own: one place for all surfaces, with one bound on what is kept."""

from sqlalchemy import func, select

from gesso.api.context import Call
from gesso.api.problems import HttpError
from gesso.errors import GessoError
from gesso.serving.jobs import Upload
from gesso.serving.tables import uploads


def keep_bytes(
    call: Call, data: bytes, size: tuple[int, int], name: str, *, seconds: float | None
) -> tuple[Upload, bool]:
    """Keep the bytes of a picture that was encoded here. -> the upload, and whether it is new. Blocks.

    size     width and height in pixels
    seconds  for which it is kept, unless a job draws from it; one that was there before is kept for as long from now
    Raises HttpError: 413 where its owner has no room for more, and what storing raises.
    """
    context, owner = call.context, call.new_owner
    try:
        digest = context.blobs.put(data)
        if (known := context.store.keep_upload(owner, digest, seconds)) is not None:
            return known, False
        return add_upload(call, digest, len(data), size, name, seconds=seconds), True
    except GessoError as error:
        raise HttpError.of(error) from None


def add_upload(
    call: Call, digest: str, nbytes: int, size: tuple[int, int], name: str, *, seconds: float | None
) -> Upload:
    """A new upload of bytes that are stored already. Raises HttpError (413) where its owner has no room for more."""
    context, owner = call.context, call.new_owner
    used = select(func.coalesce(func.sum(uploads.c.nbytes), 0)).where(uploads.c.owner == owner)
    with context.store.database.reading() as connection:
        total = int(connection.execute(used).scalar_one())
    if total + nbytes > context.settings.max_assets:
        detail = f"your uploads have {total} bytes, and at most {context.settings.max_assets} are kept; delete some"
        raise HttpError(413, "too_large", detail, data={"high": context.settings.max_assets})
    width, height = size
    return context.store.add_upload(
        owner, digest, nbytes=nbytes, width=width, height=height, name=name, keep_seconds=seconds
    )
