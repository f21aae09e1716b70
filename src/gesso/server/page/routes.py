"""The routes of the page: `/` and the files that it names. They need no key: what they hold is in every gesso."""

from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gesso import __version__
from gesso.api.context import Calling, Rule
from gesso.api.problems import HttpError, JsonAnswer, not_found
from gesso.server.page.files import FOLDER, INDEX, PageFile, page_files

# Code and looks come from this server alone, and none stands in the page itself. Pictures also come from what the page
# has made (blob:) and from events (data:). Text never becomes markup but through Svelte's own templates.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types svelte-trusted-html",
    )
)
PERMISSIONS = "camera=(), geolocation=(), microphone=(), clipboard-write=(self)"
FOR_EVER = "public, max-age=31536000, immutable"
COST = 0.1  # of a file against the rate: a page asks for a dozen at once


def add_to(app: FastAPI) -> None:
    """Add the page's routes to an application."""
    for path, endpoint in (("/", show_page), (f"/{FOLDER}/{{name}}", show_file)):
        app.router.add_api_route(
            path,
            endpoint,
            methods=["GET"],
            dependencies=[Depends(Rule(None, COST))],
            response_model=None,
            include_in_schema=False,
        )


def show_page(call: Calling) -> Response:
    """The page, for browsers; for programs that look whether a server is there, its name."""
    index, accepts = page_files().get(INDEX), call.request.headers.get("accept", "")
    if "text/html" not in accepts:
        return JsonAnswer({"name": "gesso", "version": __version__}, headers={"Vary": "Accept"})
    if index is None:
        detail = "this copy of gesso has no page; in a checkout: cd web && npm ci && npm run build"
        raise HttpError(404, "not_found", detail, headers={"Vary": "Accept"})
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "Permissions-Policy": PERMISSIONS,
        "Vary": "Accept, Accept-Encoding",
    }
    return _answer(call.request, index, headers)


def show_file(call: Calling, name: str) -> Response:
    """A file that the page names. Names are looked up among those that were built and never become paths."""
    file = page_files().get(name)
    if file is None or name == INDEX:
        raise not_found("file")
    return _answer(call.request, file, {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"})


def _answer(request: Request, file: PageFile, headers: dict[str, str]) -> Response:
    headers |= {"ETag": file.etag}
    known = [text.strip().removeprefix("W/") for text in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    data = file.data
    if file.packed is not None and _takes_gzip(request):
        data = file.packed
        headers |= {"Content-Encoding": "gzip"}
    return Response(data, headers=headers, media_type=file.content_type)


def _takes_gzip(request: Request) -> bool:
    for part in request.headers.get("accept-encoding", "").split(","):
        coding, _, quality = part.partition(";")
        if coding.strip().lower() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
