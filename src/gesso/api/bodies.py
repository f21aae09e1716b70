"""Bodies of requests: JSON that is read strictly and within bounds, then checked against a dataclass."""

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any, TypeVar

from starlette.requests import Request

from gesso import strict_json
from gesso.api.problems import HttpError, not_json
from gesso.errors import short
from gesso.request.checks import RequestError
from gesso.request.request import TextToImageRequest
from gesso.request.typed import convert

MAX_DEPTH = 32
MAX_KEYS = 20_000  # keys and values in all
_WHAT = "body"
_REQUEST = frozenset(one.name for one in fields(TextToImageRequest))

T = TypeVar("T")


def json_body(cls: type[T], *, optional: bool = False) -> Callable[[Request], Awaitable[T]]:
    """A dependency that gives the body as a value of `cls`.  optional: an empty body is an empty object"""

    async def read(request: Request) -> T:
        return checked(cls, await json_object(request, optional=optional))

    return read


async def json_object(request: Request, *, optional: bool = False) -> dict[str, Any]:
    """The JSON object of a body. Raises HttpError. The size is bounded by the guard, which everything passes."""
    data = await request.body()
    if optional and not data:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(415, "unsupported_media_type", "the body must be JSON: send Content-Type: application/json")
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object, within bounds. Raises HttpError."""
    try:
        values = strict_json.loads(data.decode("utf-8-sig"))  # some write a mark at the begin, which may be ignored
    except UnicodeDecodeError:
        raise not_json("it is not UTF-8") from None
    except strict_json.RepeatedKeyError as error:
        raise not_json(f"the key {short(error.key)} comes twice") from None
    except json.JSONDecodeError as error:
        raise not_json(f"it cannot be parsed at character {error.pos}") from None
    except RecursionError:
        raise not_json(f"it is nested more than {MAX_DEPTH} deep") from None
    except ValueError:
        raise not_json("it has NaN, Infinity or a number of thousands of digits") from None
    if not isinstance(values, dict):
        raise not_json("it is of another type")
    _check_bounds(values)
    return values


def _check_bounds(values: dict[str, Any]) -> None:
    """Depth, number of values, finite numbers, and text that can be written as UTF-8. Raises HttpError."""
    level: list[Any] = [values]
    count = 0
    for depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                texts: list[Any] = list(value)
                below += value.values()
            elif isinstance(value, list):
                texts = []
                below += value
            else:
                texts = [value]
            for text in texts:
                if isinstance(text, str) and not _is_text(text):
                    raise not_json("a text has a NUL character or half a surrogate pair")
                if isinstance(text, float) and not math.isfinite(text):
                    raise not_json("a number is larger than 1e308")
                if isinstance(text, int) and abs(text) > 2**64:
                    raise not_json(f"the number {short(text)} is larger than 2^64, which nothing here may be")
        count += len(below)
        if count > MAX_KEYS:
            raise not_json(f"it has more than {MAX_KEYS} values")
        if not below:
            return
        if depth == MAX_DEPTH:
            raise not_json(f"it is nested more than {MAX_DEPTH} deep")
        level = below


def _is_text(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def checked(cls: type[T], values: dict[str, Any]) -> T:
    """A value of a dataclass from a JSON object; unknown fields are refused, naming the nearest. Raises HttpError."""
    try:
        made: T = convert(cls, values, _WHAT)
    except RequestError as error:
        refused = renamed(error, _WHAT, "")
        has_request = "request" in {one.name for one in fields(cls)}  # type: ignore[arg-type]
        if has_request and refused.field in _REQUEST and "known" in refused.data:
            refused.detail += ", which belongs in `request`"
        raise refused from None
    return made


def renamed(error: RequestError, old: str, new: str) -> HttpError:
    """The refusal for an error whose fields are called otherwise here: body.model -> model."""

    def word(text: str) -> str:
        if text == old or not text.startswith((f"{old}.", f"{old} ", f"{old}:")):
            return text
        rest = text.removeprefix(old)
        return f"{new}{rest}" if new else rest.lstrip(".: ")

    refused = HttpError.of(error)
    refused.field = word(error.field) if error.field != old else new or None
    refused.detail = word(refused.detail)
    return refused
