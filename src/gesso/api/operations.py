"""How a route is declared: what it is called, who may use it, what it takes and what it answers.

    @operation(router, "GET", "/v1/jobs/{id}", id="getJob", rule="read", answer=JobResource, summary="One job")
    def get_job(call: Calling, id: str) -> Response: ...

A route that says no rule cannot be declared.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from gesso.api.context import Rule
from gesso.api.problems import MEDIA_TYPE
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


class OwnRoute(APIRoute):
    """A route of gesso's own API.

    Where it asks for no more than who calls, parts of the path and a body, these are read without FastAPI's search for
    what an endpoint depends on, which takes as long as all else about a short request.

    plain  what then answers a request, or raises; None where it asks for more
    """

    plain: Callable[[Request], Coroutine[Any, Any, Response]] | None = None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        wanted = self.dependant
        rules = [one.dependency for one in self.dependencies if isinstance(one.dependency, Rule)]
        bodies = [one for one in wanted.dependencies if one.name is not None and one.name != "call"]
        names = [param.name for param in wanted.path_params]
        is_plain = not (wanted.query_params or wanted.header_params or wanted.cookie_params or wanted.body_params)
        is_plain = is_plain and not (wanted.response_param_name or wanted.background_tasks_param_name)
        texts = all(param.field_info.annotation is str for param in wanted.path_params)
        if not (is_plain and texts and len(rules) == 1 and all(_reads_body(one) for one in bodies)):
            return super().get_route_handler()
        (rule,), endpoint, is_async = rules, self.endpoint, iscoroutinefunction(self.endpoint)
        takes_call = any(one.name == "call" for one in wanted.dependencies)

        async def handle(request: Request) -> Response:
            await rule(request)
            values: dict[str, Any] = {name: request.path_params[name] for name in names}
            for body in bodies:
                values[str(body.name)] = await body.call(request)  # type: ignore[misc]
            if wanted.request_param_name is not None:
                values[wanted.request_param_name] = request
            if takes_call:
                values["call"] = request.state.call
            if is_async:
                return await endpoint(**values)
            writes = request.method != "GET" and rule.scope == "draw"
            run = request.state.call.writing if writes else run_in_threadpool
            return await run(endpoint, **values)

        self.plain = handle
        return handle


def _reads_body(one: Any) -> bool:
    """Whether a dependency takes the request and nothing else."""
    return (
        iscoroutinefunction(one.call)
        and one.request_param_name == "request"
        and not (one.dependencies or one.query_params or one.header_params or one.path_params or one.body_params)
    )


class Routes:
    """Routes of one subject, until an application takes them."""

    def __init__(self) -> None:
        self.declared: list[dict[str, Any]] = []

    def add_to(self, app: FastAPI) -> None:
        """Make them routes of an application."""
        for one in self.declared:
            app.router.add_api_route(**one, route_class_override=OwnRoute)


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
        responses[other] = {"description": why, **(content if other not in (204, 302, 304) else {})}
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
