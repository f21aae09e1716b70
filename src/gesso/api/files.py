"""Bytes of pictures, as browsers and players of nothing ask for them: whole, in one part, or not at all."""

import re

from starlette.responses import Response

from gesso.api.context import Call
from gesso.api.problems import HttpError, not_found
from gesso.errors import GessoError

CONTENT_TYPES = ("image/png", "image/jpeg", "image/webp", "image/avif")
ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/avif": "avif"}
LINK_SECONDS = 300  # that the address of a picture in object storage is good for
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
# A picture that a browser opens by itself is a document of this origin; so it may do nothing at all.
POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"


def picture_response(call: Call, digest: str, content_type: str, ident: str) -> Response:
    """The bytes under a digest, which never change. Raises HttpError."""
    etag = f'"{digest}"'
    kind = content_type if content_type in CONTENT_TYPES else "application/octet-stream"
    how = "inline" if kind in CONTENT_TYPES else "attachment"
    headers = {
        "ETag": etag,
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Security-Policy": POLICY,
        "Content-Disposition": f'{how}; filename="{ident}.{ENDINGS.get(kind, "bin")}"',
        "Accept-Ranges": "bytes",
        "Vary": "Authorization",
    }
    request = call.request.headers
    known = [text.strip().removeprefix("W/") for text in request.get("if-none-match", "").split(",")]
    if etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    if call.context.settings.picture_links and (link := call.context.blobs.link(digest, LINK_SECONDS)) is not None:
        headers |= {"Location": link, "Cache-Control": f"private, max-age={LINK_SECONDS // 2}"}
        return Response(status_code=302, headers=headers)
    try:
        data = call.context.blobs.read(digest)
    except GessoError as error:
        if error.code == "missing":
            raise not_found("picture") from None
        raise HttpError.of(error, None if error.code == "storage_unusable" else 500) from None
    wanted = request.get("range")
    if wanted is None or request.get("if-range", etag) != etag:
        return Response(data, headers=headers, media_type=kind)
    first, last = _part(wanted, len(data))
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], 206, headers=headers, media_type=kind)


def _part(text: str, size: int) -> tuple[int, int]:
    """First and last byte of the one range that is asked for. Raises HttpError."""
    match = _RANGE.fullmatch(text.replace(" ", ""))
    first, last = match.groups() if match else ("", "")
    if first:
        span = int(first), min(int(last), size - 1) if last else size - 1
    elif last and int(last):
        span = max(size - int(last), 0), size - 1
    else:
        span = size, size
    if not 0 <= span[0] <= span[1] < size:
        detail = f"Range: expected one part of the {size} bytes"
        raise HttpError(416, "invalid_field", detail, field="Range", headers={"Content-Range": f"bytes */{size}"})
    return span
