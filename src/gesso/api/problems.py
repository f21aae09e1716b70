"""Errors as problem details (RFC 9457): one JSON object for every refusal, with a code of docs/errors.md.

A message from elsewhere goes out only where it is known to name nothing but what the client sent; of any other error
the client is told the sentence of its code, and the log the rest.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from gesso.codes import ERRORS
from gesso.errors import GessoError, shorten
from gesso.request.checks import RequestError
from gesso.text.prompt import PromptError

MEDIA_TYPE = "application/problem+json"
NAMESPACE = "urn:gesso:error:"  # before the code: the type of a problem

# Code -> status, for errors that come without one. 400 for all others that a client can mend.
STATUSES: Mapping[str, int] = {
    "conflict": 409,
    "database_unusable": 503,
    "disk_full": 507,
    "forbidden": 403,
    "idempotency_key_reused": 422,
    "internal": 500,
    "not_found": 404,
    "queue_full": 429,
    "rate_limited": 429,
    "storage_unusable": 503,
    "system": 500,
    "too_large": 413,
    "unauthorized": 401,
    "unreadable": 500,
    "unwritable": 500,
}
_PASSING = ("storage_unusable",)  # is likely mended soon, and by somebody else
_NO_DATA = ("path", "other")  # of files on this machine


class HttpError(Exception):
    """A request that is refused.

    status   of the answer
    code     one of docs/errors.md
    detail   one sentence, without a full stop, for whoever wrote the client
    headers  of the answer, besides
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.field = status, code, detail, field
        self.data, self.headers = dict(data or {}), dict(headers or {})

    @classmethod
    def of(cls, error: GessoError, status: int | None = None) -> "HttpError":
        """A refusal for an error of gesso's."""
        status = STATUSES.get(error.code, 400) if status is None else status
        if status == 503:
            return cls(status, error.code, sentence(error.code), headers={"Retry-After": "5"})
        if isinstance(error, RequestError | PromptError):
            data = {key: value for key, value in error.data.items() if key not in _NO_DATA}
            return cls(status, error.code, error.one_line, field=error.field, data=data)
        headers = {"Retry-After": "5"} if error.code in _PASSING else None
        return cls(status, error.code, sentence(error.code), field=error.field, headers=headers)

    def body(self) -> dict[str, Any]:
        """The problem details."""
        return {
            "type": f"{NAMESPACE}{self.code}",
            "title": ERRORS.get(self.code, ERRORS["error"]),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "field": self.field,
            "data": self.data,
        }

    def response(self) -> Response:
        """The answer."""
        return Response(as_json(self.body()), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def sentence(code: str) -> str:
    """What the table of codes says of one, without the full stop."""
    return ERRORS.get(code, ERRORS["error"]).removesuffix(".")


def not_found(what: str) -> HttpError:
    """The answer for what is not there, and for what belongs to somebody else.  what: "job", "picture" """
    return HttpError(404, "not_found", f"no {what} of this id is here")


def not_json(why: str) -> HttpError:
    """The answer for a body that is no JSON object."""
    return HttpError(400, "invalid_request", f"the body is not a valid JSON object: {shorten(why)}")


def as_json(value: Any) -> bytes:
    """JSON as all answers have it. NaN and infinity, which JSON does not have, are null: requests can hold neither, and
    a figure that came out so is unknown, which is no reason to withhold the rest of an answer."""
    return msgspec.json.encode(value)


class JsonAnswer(Response):
    """An answer of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return as_json(content)
