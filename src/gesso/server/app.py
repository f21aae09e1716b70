"""The application: all routes behind the guard."""

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from gesso.api import (
    assets,
    batches,
    events,
    gallery,
    images,
    jobs,
    models,
    plans,
    queue,
    reading,
    stream,
    taking_in,
    words,
)
from gesso.api.context import Calling, Context, Rule
from gesso.api.guard import Guard
from gesso.api.health import router as health_router
from gesso.api.openapi import document
from gesso.api.operations import Media, OwnRoute, Routes, operation
from gesso.api.problems import HttpError, JsonAnswer
from gesso.api.submitting import Submitter
from gesso.errors import GessoError, short
from gesso.request.checks import as_json as shown
from gesso.server.page import routes as page
from gesso.serving.keys import Scope
from gesso.surfaces.a1111 import routes as a1111
from gesso.surfaces.comfy import routes as comfy
from gesso.surfaces.openai import routes as openai
from gesso.surfaces.openai.errors import both_response

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

log = logging.getLogger(__name__)

_KINDS = {"int_parsing": "a whole number", "float_parsing": "a number", "bool_parsing": "true or false"}
_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(context: Context) -> Guard:
    """The application of a server, as ASGI."""
    app = bare_app(None if context.settings.public_metrics else "admin")
    app.state.context = context
    hub = app.state.hub = events.Hub(context)
    app.state.submitter = Submitter(context)
    context.store.on_write.append(hub.notice)
    if context.supervisor is not None:  # and its workers, who are told of what is written here, and tell what they do
        context.store.on_write.append(context.supervisor.wake)
        context.supervisor.on_news.append(hub.notice)
    return Guard(
        _Direct(app),
        context.settings,
        refused=lambda code: context.metrics.refusals.labels(code).inc(),
        seen=lambda method, route, status, seconds: _seen(context, method, route, status, seconds),
        tracing=context.tracing,
    )


def bare_app(metrics_rule: Scope | None = "admin") -> FastAPI:
    """The routes, without a server behind them: for openapi.json."""
    app = FastAPI(
        title="gesso",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    # Routes are tried in their order. GET /v1/models of the OpenAI surface answers in its words and ours.
    openai.add_to(app)
    for part in (
        jobs,
        queue,
        events,
        stream,
        batches,
        assets,
        reading,
        gallery,
        images,
        models,
        taking_in,
        words,
        plans,
    ):
        part.router.add_to(app)
    health_router(metrics_rule).add_to(app)
    for surface in (a1111, comfy, page):
        surface.add_to(app)
    _own(app).add_to(app)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    check_rules(app)
    return app


class _Direct:
    """The way to the routes without variables in their paths that does not lead through all layers of the framework.

    These do nothing for such a route but to look for it among a hundred others, which costs a third of a short request.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.routes: dict[tuple[str, str], OwnRoute] = {}
        taken: set[tuple[str, str]] = set()  # by routes that are tried before
        for route in app.routes:
            names = {(method, getattr(route, "path", "")) for method in getattr(route, "methods", None) or ()}
            if isinstance(route, OwnRoute) and route.plain is not None and "{" not in route.path:
                self.routes |= dict.fromkeys(names - taken, route)
            taken |= names

    async def __call__(self, scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
        route = self.routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None or route.plain is None or scope.get("gesso.head"):
            await self.app(scope, receive, send)
            return
        scope.update({"app": self.app, "route": route, "endpoint": route.endpoint, "path_params": {}})
        request = Request(scope, receive, send)
        try:
            answer = await route.plain(request)
        except tuple(_HANDLERS) as error:
            handler = next(handler for kind, handler in _HANDLERS.items() if isinstance(error, kind))
            answer = await handler(request, error)
        await answer(scope, receive, send)


def check_rules(app: FastAPI) -> None:
    """Every route says who may use it. Raises ValueError for one that does not."""
    for route in app.routes:
        rules = [one for one in getattr(route, "dependencies", ()) if isinstance(one.dependency, Rule)]
        if not isinstance(route, APIRoute) or len(rules) != 1:
            raise ValueError(f"the route {getattr(route, 'path', route)} has no rule that says who may use it")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.context.is_stopping = True


def _own(app: FastAPI) -> Routes:
    made = Routes()

    @operation(
        made,
        "GET",
        "/openapi.json",
        id="getOpenApi",
        rule=None,
        tag="Operation",
        summary="This description",
        answer=Media(("application/json",), {"type": "object"}),
    )
    def describe(call: Calling) -> Response:
        """OpenAPI 3.1."""
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return JsonAnswer(app.openapi_schema)

    return made


def _seen(context: Context, method: str, route: str, status: int, seconds: float) -> None:
    known = method if method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE") else "other"
    context.metrics.requests.labels(known, route, str(status)).inc()
    if not route.endswith("/events"):  # which last as long as somebody looks
        context.metrics.seconds.labels(route).observe(seconds)


# ---- errors ----------------------------------------------------------------------------------------------------------


def _answered(request: Request, error: HttpError) -> Response:
    request.app.state.context.metrics.refusals.labels(error.code).inc()
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return _answered(request, error)


async def _gesso_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GessoError)
    refused = HttpError.of(error)
    if refused.status >= 500:
        log.error("%s: %s", error.code, error.one_line, extra={"request_id": request.state.request_id})
    return _answered(request, refused)


async def _framework_error(request: Request, error: Exception) -> Response:
    """No such route or method."""
    assert isinstance(error, HTTPException)
    status, path, headers = error.status_code, request.scope["path"], dict(error.headers or {})
    detail = "the request cannot be understood"
    if status == 404:
        near = re.sub("/+", "/", path).rstrip("/")
        hint = f" (did you mean {near}?)" if near != path and len(near) < 200 and _methods(request.app, near) else ""
        detail = f"there is nothing at this address{hint}; GET /openapi.json lists what there is"
    elif status == 405:  # the framework names those of the first of several routes
        headers["Allow"] = ", ".join(_methods(request.app, path))
        detail = f"this address has no such method; it has {headers['Allow']}"
    refused = HttpError(status, _STATUS_CODES.get(status, "invalid_request"), detail, headers=headers)
    answer = _answered(request, refused)
    # A client of OpenAI's that asks for what is not here, such as a chat, shows what it reads in their shape.
    return both_response(refused) if path.startswith("/v1/") else answer


def _methods(app: FastAPI, path: str) -> list[str]:
    """What may be asked of an address, sorted; GET is answered to HEAD as well."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path_regex.match(path)]
    found = {method for route in routes for method in route.methods or ()}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def _parameter_error(request: Request, error: Exception) -> Response:
    """A parameter that is not as declared."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name, value = (
        str(first["loc"][-1] if not isinstance(first["loc"][-1], int) else first["loc"][-2]),
        first.get("input"),
    )
    bounds: dict[str, Any] = first.get("ctx", {})
    expected = ", ".join(str(bounds[key]) for key in ("expected", "ge", "le", "max_length") if key in bounds)
    words = {"ge": "at least ", "le": "at most ", "max_length": "at most that many characters: "}
    word = next((text for key, text in words.items() if key in bounds), "")
    expected = expected or _KINDS.get(first["type"], "another value")
    detail = f"{name} is {short(value)}, expected {word}{expected}"
    return _answered(request, HttpError(400, "invalid_field", detail, field=name, data={"value": shown(value)}))


async def _database_error(request: Request, error: Exception) -> Response:
    """The database does not answer, or has no room."""
    assert isinstance(error, DBAPIError)
    log.error("the database: %s", error.orig, extra={"request_id": request.state.request_id})
    if "full" in str(error.orig):
        return _answered(request, HttpError(507, "disk_full", "the disk of the server is full"))
    detail = "the queue cannot be read or written now; try again later"
    return _answered(request, HttpError(503, "database_unusable", detail, headers={"Retry-After": "5"}))


_HANDLERS: dict[Any, Callable[[Request, Exception], Any]] = {
    HttpError: _http_error,
    GessoError: _gesso_error,
    HTTPException: _framework_error,
    RequestValidationError: _parameter_error,
    DBAPIError: _database_error,
}
