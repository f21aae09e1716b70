"""What every request passes before anything else looks at it, and every answer on its way out.

An id, by which the log and the client speak of the request; the names by which the server may be called, against DNS
rebinding; the site that a browser asks from, against forged requests; bounds on the body and a deadline for it; the
headers that keep browsers from doing anything with an answer but show it. Plain ASGI: an answer that streams passes
through as it comes.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from gesso.api.problems import HttpError
from gesso.errors import GessoError
from gesso.serving.settings import ServeSettings
from gesso.serving.tracing import Tracing, known_parent, trace_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METHODS = (*SAFE_METHODS, "POST", "DELETE")
MULTIPART_SLACK = 16 * 1024  # of boundaries and headers around an upload
# Where pictures come inside of JSON, in Base64, as other tools have it.
UNTRACED = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, by machines
PICTURES_IN_JSON = ("/sdapi/v1/", "/controlnet/", "/v1/images/")
MODELS = "/v1/models"  # where a model file is sent
MODEL_SECONDS = 3600.0  # in which it must arrive
DRAINED = 256 * 1024  # bytes of a refused body that are read, so that the client sees the answer
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?")

# Of every answer. A picture shown by itself may do nothing; a page elsewhere may neither frame nor read what is here.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class Guard:
    """The outermost layer of the application.

    refused  told the code of each refusal of its own
    seen     told method, route, status and seconds of each request
    tracing  has a span for each request, but for those that ask how the server is
    """

    def __init__(
        self,
        app: "ASGIApp",
        settings: ServeSettings,
        *,
        refused: Callable[[str], None],
        seen: Callable[[str, str, int, float], None],
        tracing: Tracing | None = None,
    ) -> None:
        self.tracing = tracing or Tracing()
        self.app, self.settings = app, settings
        self.refused, self.seen = refused, seen
        self.hosts = {name.lower() for name in (*settings.allowed_hosts, "localhost", "127.0.0.1", "[::1]")}
        if settings.host not in ("0.0.0.0", "::"):
            self.hosts.add(f"[{settings.host}]" if ":" in settings.host else settings.host.lower())
        self.proxies = networks(settings.trusted_proxies)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"a {scope['type']} connection, and only HTTP is spoken")
        await _Exchange(self, scope, receive, send).run()


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: "Scope", receive: "Receive", send: "Send") -> None:
        self.method = scope["method"]
        self.guard, self.headers = guard, _Headers(scope["headers"])
        self.scope = scope = {**scope, "scheme": self.scheme(scope)}
        if self.method == "HEAD":  # is answered as the GET that it asks about; who sends the answer leaves its body out
            self.scope = {**scope, "method": "GET", "gesso.head": True}
        self._receive, self._send = receive, send
        self.begin = time.monotonic()
        self.status = 0
        self.seconds = guard.settings.body_timeout
        self.whole = False  # whether all of the body was read
        self.nbytes = 0
        self.limit = 0

    async def run(self) -> None:
        given = self.headers.one("x-request-id") or ""
        self.id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state = self.scope.setdefault("state", {})
        state["request_id"], state["client"] = self.id, self.client()
        tracing, parent = self.guard.tracing, known_parent(self.headers.one("traceparent"))
        if self.scope["path"] in UNTRACED:
            tracing = Tracing()
        method = self.method if self.method in METHODS else "other"
        span = tracing.start(method, parent=parent, kind="server", method=method, request_id=self.id)
        state["traceparent"] = span.traceparent
        try:
            try:
                self.check()
                await self.guard.app(self.scope, self.receive, self.send)
            except HttpError as error:
                error.headers["Connection"] = "close"
                await self.refuse(error)
            except ClientDisconnect:  # in the middle of its body
                self.status = self.status or 499
        except Exception:
            log.exception("request failed", extra=self.words())
            if self.status:
                raise
            await self.refuse(HttpError(500, "internal", "a bug in gesso; the log has it under the request's id"))
        finally:
            seconds = time.monotonic() - self.begin
            route = self.route()
            self.guard.seen(self.method, route, self.status, seconds)
            span.rename(f"{method} {route}")
            span.set(route=route, http_status=self.status)
            span.end("internal" if self.status >= 500 else None)
            level = logging.WARNING if self.status >= 500 else logging.INFO
            words = self.words() | {"status": self.status, "ms": round(1000 * seconds, 1)}
            log.log(level, "request", extra=words)

    def words(self) -> dict[str, Any]:
        """What the log says of the request: no query, no body, nothing of a header."""
        identity = self.scope["state"].get("identity")
        return {
            "request_id": self.id,
            "method": self.method if self.method in METHODS else "other",
            "route": self.route(),
            "client": self.scope["state"]["client"],
            "key": identity.id if identity is not None else None,
            "trace": trace_id(self.scope["state"].get("traceparent")),
        }

    def route(self) -> str:
        """The route's pattern, as `/v1/jobs/{id}`: what clients make up is no name for a log or a metric."""
        return getattr(self.scope.get("route"), "path", "none")

    # ---- the way in --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises HttpError."""
        method = self.method
        if self.scope["http_version"] not in ("1.0", "1.1"):
            raise HttpError(400, "invalid_request", "the request is not valid HTTP/1.1")
        if method not in METHODS:
            raise HttpError(
                405, "method_not_allowed", "this method is not used here", headers={"Allow": ", ".join(METHODS)}
            )
        self.check_host()
        self.check_site(method)
        if self.headers.one("content-encoding", "identity").lower() != "identity":
            raise HttpError(415, "unsupported_media_type", "the body is compressed; send it as it is")
        kind = self.headers.one("content-type", "").partition(";")[0].strip().lower()
        settings = self.guard.settings
        has_pictures = kind == "multipart/form-data" or self.scope["path"].startswith(PICTURES_IN_JSON)
        self.limit = settings.max_upload + MULTIPART_SLACK if has_pictures else settings.max_body
        if method == "POST" and self.scope["path"] == MODELS:  # whole files, gigabytes of them
            self.limit = max(settings.max_model, settings.max_body)
            self.seconds = max(settings.body_timeout, MODEL_SECONDS)
        length = self.headers.one("content-length")
        if length is not None and (not length.isdecimal() or len(length) > 18):
            raise HttpError(400, "invalid_request", "Content-Length is not a number of bytes")
        if length is not None and int(length) > self.limit:
            raise self.too_large()

    def check_host(self) -> None:
        """The client means this server. Else a page elsewhere had its own name point here."""
        host = self.headers.one("host")
        match = _HOST.fullmatch(host or "")
        if match is None:
            raise HttpError(400, "unknown_host", "the Host header is missing or malformed")
        if match[1].lower() not in self.guard.hosts:
            detail = "this server is not known by the name in the Host header; --allowed-hosts adds names"
            raise HttpError(421, "unknown_host", detail)

    def check_site(self, method: str) -> None:
        """No page of another site has its visitors' browsers ask anything here that changes something or starts work.

        Browsers say where a request comes from; other clients send neither header.
        """
        origin = self.headers.one("origin")
        site = self.headers.one("sec-fetch-site")
        if origin is not None and (origin == "null" or not self.is_own(origin)):
            raise HttpError(403, "cross_site", "requests from pages of other sites are refused")
        if site == "cross-site" and self.is_link_to_page():
            return
        if site not in (None, "same-origin", "none") and (method not in SAFE_METHODS or site == "cross-site"):
            raise HttpError(403, "cross_site", "requests from pages of other sites are refused")

    def is_link_to_page(self) -> bool:
        """Whether a link elsewhere leads the user to the page: it shows itself and does nothing more."""
        leads = self.headers.one("sec-fetch-mode") == "navigate" and self.headers.one("sec-fetch-dest") == "document"
        return leads and self.method == "GET" and self.scope["path"] == "/"

    def is_own(self, origin: str) -> bool:
        scheme, mark, host = origin.partition("://")
        return bool(mark) and scheme in ("http", "https") and host.lower() == (self.headers.one("host") or "").lower()

    def client(self) -> str:
        """The address that the request comes from, behind proxies that are believed."""
        peer = (self.scope.get("client") or ("",))[0]
        if not is_in(peer, self.guard.proxies):
            return peer
        hops = [hop.strip() for value in self.headers.all("x-forwarded-for") for hop in value.split(",")][-16:]
        for hop in reversed(hops):
            try:
                ip_address(hop)
            except ValueError:
                return peer
            if not is_in(hop, self.guard.proxies):
                return hop
        return peer

    def scheme(self, scope: "Scope") -> str:
        """http, or https where a proxy that is believed says that the client speaks so: links lead there."""
        own: str = scope.get("scheme", "http")
        told = self.headers.one("x-forwarded-proto", "").lower()
        is_believed = is_in((scope.get("client") or ("",))[0], self.guard.proxies)
        return told if is_believed and told in ("http", "https") else own

    def too_large(self) -> HttpError:
        data = {"high": self.limit}
        return HttpError(413, "too_large", f"the body is larger than {self.limit} bytes", data=data)

    async def receive(self) -> "Message":
        """Parts of the body, counted, until the deadline."""
        if self.whole:
            return await self._receive()  # waits for the client to leave
        left = self.begin + self.seconds - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.001)):
                message = await self._receive()
        except TimeoutError:
            raise HttpError(408, "timeout", f"the body did not arrive in {self.seconds:g} s") from None
        self.nbytes += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.nbytes > self.limit:
            raise self.too_large()
        return message

    # ---- the way out -------------------------------------------------------------------------------------------------

    async def send(self, message: "Message") -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            added = [(name, value) for name, value in SECURITY_HEADERS if name not in own]
            if b"cache-control" not in own:
                added.append((b"cache-control", b"no-store"))
            added.append((b"x-request-id", self.id.encode()))
            has_body = (
                self.headers.one("content-length", "0") != "0" or self.headers.one("transfer-encoding") is not None
            )
            if has_body and not self.whole and b"connection" not in own:
                added.append((b"connection", b"close"))  # what is left of the body is not the next request
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def refuse(self, error: HttpError) -> None:
        self.guard.refused(error.code)
        if self.status:  # the answer had begun: nothing can be said any more
            raise error
        response = error.response()
        headers = [*response.raw_headers]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        body = b"" if self.method == "HEAD" else response.body
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if not self.whole and error.status != 408:
            await self.drain()
        await self._send({"type": "http.response.body", "body": b""})

    async def drain(self) -> None:
        """Read some of what is left of the body: a connection that is closed with bytes unread may lose the answer."""
        if self.headers.one("content-length", "0") == "0" and self.headers.one("transfer-encoding") is None:
            return
        # A proxy hands over at once what it has, and tells its client of a bad gateway where it cannot.
        is_proxy = is_in((self.scope.get("client") or ("",))[0], self.guard.proxies)
        left = self.guard.settings.max_upload * 2 if is_proxy else DRAINED
        try:
            async with asyncio.timeout(10 if is_proxy else 1):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


class _Headers:
    """Headers by their names, in lower case."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in raw:
            self._values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str, default: Any = None) -> Any:
        """The value; where a header comes several times, all of them, so that no comparison holds."""
        found = self.all(name)
        return ", ".join(found) if found else default


def networks(texts: Collection[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks. Raises GessoError."""
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise GessoError(f"`trusted_proxies`: {error}", code="invalid_value", field="trusted_proxies") from None


def is_in(address: str, known: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Whether an address belongs to one of the networks."""
    try:
        return any(ip_address(address) in one for one in known)
    except ValueError:
        return False
