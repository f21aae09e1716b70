"""Pictures that somebody sent, as uploads of their own: one place for all surfaces, with one bound on what is kept."""

from collections.abc import Sequence

from gesso.api.context import Call
from gesso.api.problems import HttpError
from gesso.errors import GessoError
from gesso.serving.jobs import Upload


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
    except GessoError as error:
        raise HttpError.of(error) from None
    return add_upload(call, digest, len(data), size, name, seconds=seconds, once=True), True


def add_upload(
    call: Call,
    digest: str,
    nbytes: int,
    size: tuple[int, int],
    name: str,
    *,
    seconds: float | None,
    other_names: Sequence[str] = (),
    once: bool = False,
) -> Upload:
    """A new upload of bytes that are stored already, see `JobStore.add_upload`. Blocks.

    Raises HttpError: 413 where its owner has no room for more, and what storing raises.
    """
    context, most = call.context, call.context.settings.max_assets
    width, height = size
    try:
        return context.store.add_upload(
            call.new_owner,
            digest,
            nbytes=nbytes,
            width=width,
            height=height,
            name=name,
            other_names=other_names,
            keep_seconds=seconds,
            max_bytes=most,
            once=once,
        )
    except GessoError as error:
        if error.code != "too_large":
            raise HttpError.of(error) from None
        raise HttpError(413, "too_large", error.one_line, data={"high": most}) from None
