"""Errors in OpenAI's shape, with the status that makes its client raise the exception that fits."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from gesso.api.problems import HttpError, JsonAnswer, as_json
from gesso.surfaces.surface import SurfaceRoute

# gesso's code -> OpenAI's, where it has one.
CODES = {
    "unauthorized": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
    "queue_full": "rate_limit_exceeded",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_object(error: HttpError) -> dict[str, Any]:
    """What stands under `error` of an answer, and in a stream that breaks off."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    code = "model_not_found" if is_model(error) else CODES.get(error.code, error.code)
    return {"message": error.detail, "type": kind, "param": error.field, "code": code}


def is_model(error: HttpError) -> bool:
    """Whether there is no such model, for which OpenAI answers 404."""
    return error.field == "model" and error.code in ("unknown_name", "not_found")


def is_no_picture(error: HttpError) -> bool:
    """Whether a file is of another kind, for which OpenAI answers 400, and its client has an exception."""
    return error.status == 415 and error.field is not None


def error_response(error: HttpError) -> Response:
    """The answer. It says whether to ask again, which the client obeys: only what time may mend is worth it."""
    status = 404 if is_model(error) else 400 if is_no_picture(error) else error.status
    again = status in (408, 429, 503)
    headers = {**error.headers, "x-should-retry": "true" if again else "false"}
    seconds = headers.get("Retry-After")
    if seconds is not None and seconds.isdecimal():
        headers["retry-after-ms"] = str(1000 * int(seconds))
    return JsonAnswer({"error": error_object(error)}, status, headers=headers)


def renamed(error: HttpError, names: Mapping[str, str]) -> HttpError:
    """A refusal of the request's fields in the words of who asked.  names: path of a field -> what it was called"""
    path = (error.field or "").removeprefix("request.")
    name = names.get(path, path) or None
    if name is not None and name != error.field:
        error.detail = error.detail.replace(f"request.{path}", name).replace(path, name) if path else error.detail
        error.field = name
    return error


class OpenAIRoute(SurfaceRoute):
    """A route of this surface."""

    @staticmethod
    def shape(error: HttpError) -> Response:
        return error_response(error)


def both_response(error: HttpError) -> Response:
    """The answer of an address that is gesso's own too: in both shapes."""
    response = error.response()
    both = Response(
        as_json({**error.body(), "error": error_object(error)}), error.status, media_type=response.media_type
    )
    both.headers.update({**error.headers, "x-should-retry": error_response(error).headers["x-should-retry"]})
    return both
