"""How a route is declared: what it is called, who may use it, what it takes and what it answers.

    @operation(router, "GET", "/v1/jobs/{id}", id="getJob", rule="read", answer=JobResource, summary="One job")
    def get_job(call: Calling, id: str) -> Response: ...

A route that says no rule cannot be declared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Response

from gesso.serving.http.context import Rule
from gesso.serving.http.problems import MEDIA_TYPE
from gesso.serving.keys import Scope

F = TypeVar("F", bound=Callable[..., Any])

PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
REASONS = {
    400: "Something in the request cannot be; `field` names it.",
    401: "No valid key.",
    403: "The key lacks the scope, or a page of another site asks.",
    404: "Not here, or another key's.",
    405: "No such method here.",
    408: "The body did not arrive in time.",
    409: "Not in this state.",
    413: "Too large.",
    415: "The body is of another type.",
    416: "No such range.",
    421: "The server is not known by this name.",
    422: "The idempotency key came before with other work.",
    429: "Too often, or the queue is full; `Retry-After` says when to come back.",
    500: "A bug.",
    503: "Not now.",
    507: "The disk is full.",
}
_ALWAYS = (400, 421, 429, 500, 503)


class Routes:
    """Routes of one subject, until an application takes them."""

    def __init__(self) -> None:
        self.declared: list[dict[str, Any]] = []

    def add_to(self, app: FastAPI) -> None:
        """Make them routes of an application."""
        for one in self.declared:
            app.add_api_route(**one)


@dataclass(frozen=True)
class Media:
    """Another content than JSON.  types: media types; schema: of the bytes"""

    types: tuple[str, ...]
    schema: Mapping[str, Any]


def operation(
    router: Routes,
    method: str,
    path: str,
    *,
    id: str,
    rule: Scope | None,
    tag: str,
    summary: str,
    answer: type | Media | None = None,
    status: int = 200,
    description: str = "",
    body: type | None = None,
    body_optional: bool = False,
    body_example: Any = None,
    example: Any = None,
    also: Mapping[int, str] | None = None,
    errors: tuple[int, ...] = (),
    extra: Mapping[str, Any] | None = None,
    cost: float = 1.0,
) -> Callable[[F], F]:
    """Declare a route.

    rule    scope that it needs; None: anybody may use it
    answer  what comes with `status`; also: further statuses of the same content, or of none
    errors  statuses that it answers besides those of every route
    extra   of the operation in openapi.json
    cost    of a request against the rate, see `Rule`
    """
    codes = {*_ALWAYS, *errors, *((401, 403) if rule else ()), *((404,) if "{" in path else ())}
    codes |= {408, 413, 415} if body is not None or method == "POST" else set()
    content: dict[str, Any] = {}
    if isinstance(answer, Media):
        content = {"content": {kind: {"schema": dict(answer.schema)} for kind in answer.types}}
    elif answer is not None:
        shown: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{answer.__name__}"}}
        content = {"content": {"application/json": shown | ({"example": example} if example is not None else {})}}
    responses: dict[int | str, dict[str, Any]] = {status: {"description": "Done.", **content}}
    for other, why in (also or {}).items():
        responses[other] = {"description": why, **(content if other not in (204, 304) else {})}
    for code in sorted(codes):
        responses[code] = {"description": REASONS[code], **PROBLEM}
    more = dict(extra or {})
    if body is not None:
        media: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
        media |= {"example": body_example} if body_example is not None else {}
        more["requestBody"] = {"required": not body_optional, "content": {"application/json": media}}
    if rule is not None:
        more["security"] = [{"bearer": []}, {"header": []}]
        more["x-gesso-scope"] = rule

    def declare(function: F) -> F:
        router.declared.append(
            {
                "path": path,
                "endpoint": function,
                "methods": [method],
                "operation_id": id,
                "summary": summary,
                "description": description or function.__doc__ or summary,
                "tags": [tag],
                "dependencies": [Depends(Rule(rule, cost))],
                "status_code": status,
                "response_model": None,
                "response_class": Response,  # of no type: the description has what is declared above
                "responses": responses,
                "openapi_extra": more,
            }
        )
        return function

    return declare
