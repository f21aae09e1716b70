"""Errors in the shape of AUTOMATIC1111's web UI."""

from starlette.responses import Response

from gesso.api.problems import HttpError, JsonAnswer
from gesso.surfaces.surface import SurfaceRoute

REALM = 'Basic realm="gesso", charset="UTF-8"'


def refusal(detail: str, field: str | None = None, *, status: int = 422, code: str = "unsupported") -> HttpError:
    """What cannot be carried over, or is not valid."""
    return HttpError(status, code, detail, field=field)


def error_response(error: HttpError) -> Response:
    """The answer: what is not valid has the status 422, as FastAPI gives it there."""
    status = 422 if error.status == 400 else error.status
    headers = dict(error.headers)
    detail = error.detail
    if status == 401:
        headers["WWW-Authenticate"] = REALM
        detail = "Incorrect username or password: the password is an API key, the name may be anything"
    body = {
        "error": "HTTPException",
        "detail": detail,
        "body": "",
        "errors": "" if status == 401 else detail,
        "code": error.code,
        "field": error.field,
    }
    return JsonAnswer(body, status, headers=headers)


class A1111Route(SurfaceRoute):
    """A route of this surface."""

    @staticmethod
    def shape(error: HttpError) -> Response:
        return error_response(error)
