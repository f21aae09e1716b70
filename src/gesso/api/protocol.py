"""The HTTP/1.1 protocol of uvicorn with the deadlines and the strictness that a server facing strangers needs.

uvicorn waits for headers for as long as they take, one byte at a time, and so a few thousand idle clients close a
server. Here a request's headers must be there in time from the connection, or from the end of the request before; and a
client who takes nothing of its answer for half a minute is hung up on. What
two readers could take for two different requests is refused: a length and chunks at once, folded headers, a bare line
feed. The deadline of a body belongs to the guard.

The parser is llhttp, that of Node.js, through httptools: h11, in Python, took a quarter of the time of a short request.
"""

import asyncio
import logging
import re
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gesso.api.problems import HttpError
from gesso.serving.logs import NowAndThen

MAX_UNSENT = 32 * 1024  # bytes that wait for a client to read, before an answer that streams waits too
MAX_HEADER_BYTES = 32 * 1024  # request line and headers together
# What may come besides a body: the head; of one in chunks, their sizes, line ends and extensions, and trailers. A chunk
# of one byte has five besides.
FREE_FRAMING, FRAMING_PER_BYTE = 64 * 1024, 16
# The first line, in small letters.
_REQUEST_LINE = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+ [!-~]+ http/1\.[01]")
# In the bytes before the first empty line: a bare line feed, a bare carriage return, a folded line, a control character
# (TLS begins with some).
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


log = logging.getLogger(__name__)


class EarlyError(Exception):
    """The next request came before the answer to the one before."""


class StrictProtocol(HttpToolsProtocol):
    """One connection."""

    header_timeout = 10.0
    write_timeout = 30.0  # in which a client has to take something of what was sent
    malformed: NowAndThen  # of requests that are not valid HTTP, as scanners send them by the thousand

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._head = bytearray()
        self._reads_head = True
        self._is_early = False
        self._received = self._nbytes = 0  # bytes of the request, and of its body
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_stalled()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffers are full: from now on the client has so long to read."""
        super().pause_writing()
        self._stop_stalled()
        self._stalled = self.loop.call_later(self.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        self._stop_stalled()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_early:
            return
        if self._reads_head:
            self._unset_keepalive_if_required()  # from here on the deadline of the headers holds
            data = self._checked(data)
            if not data:
                return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:  # of an early request as well, whose answer is that to the one before
            if not self._is_early:
                self._refuse(HttpError(400, "invalid_request", "the request is not valid HTTP/1.1"))
            return
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        self._received += len(data)
        if self._received - self._nbytes > FREE_FRAMING + FRAMING_PER_BYTE * self._nbytes:
            self._refuse(HttpError(400, "invalid_request", "the body's chunks hold next to nothing"))

    def _checked(self, data: bytes) -> bytes:
        """Looks at headers before they are parsed; answers and closes where they are not as they should be.

        -> what the parser is to read: the headers as a whole and what came behind them; nothing before that
        """
        if not self._head and self._deadline is None:
            self._await_head()
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        head = bytes(self._head[:end] if end >= 0 else self._head[:-1])  # a last \r may still get its \n
        if _AMBIGUOUS.search(head):
            self._refuse(HttpError(400, "invalid_request", "the request's headers are malformed"))
            return b""
        if end > MAX_HEADER_BYTES or (end < 0 and len(self._head) > MAX_HEADER_BYTES):
            self._refuse(
                HttpError(431, "too_large", f"the request's headers are longer than {MAX_HEADER_BYTES} bytes together")
            )
            return b""
        if end < 0:
            return b""
        first, *lines = head.removeprefix(b"\r\n").lower().split(b"\r\n")
        codings = [_value(line) for line in lines if line.startswith(b"transfer-encoding:")]
        if codings and any(line.startswith(b"content-length:") for line in lines):
            self._refuse(HttpError(400, "invalid_request", "the request has both a length and a transfer encoding"))
            return b""
        if codings and (codings != [b"chunked"] or not first.endswith(b"http/1.1")):
            self._refuse(HttpError(400, "invalid_request", "the only transfer encoding is chunked, of HTTP/1.1"))
            return b""
        if not _REQUEST_LINE.fullmatch(first):
            self._refuse(HttpError(400, "invalid_request", "the request is not valid HTTP/1.1"))
            return b""
        method, target, _ = first.split(b" ")
        if target.startswith((b"http://", b"https://")):
            head = _origin_form(head.removeprefix(b"\r\n"))
        elif not target.startswith(b"/") and target != b"*" and method != b"connect":
            self._refuse(HttpError(400, "invalid_request", "the target is neither a path nor an http address"))
            return b""
        # An offer to go on in what is not spoken here, such as h2c, may be ignored; the parser would drop the body.
        kept = [line for line in head.split(b"\r\n") if not _is_other_upgrade(line.lower())]
        data = b"\r\n".join(kept) + bytes(self._head[end:])
        self._reads_head = False
        self._head.clear()
        self._stop_deadline()
        return data

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Nobody does that, and its headers went past the checks above. The answer is the last on this connection.
            self._is_early, self.cycle.keep_alive = True, False
            raise EarlyError
        self._received = self._nbytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        upgrades = self.parser.should_upgrade()
        if upgrades and self._should_upgrade():
            return
        self.scope["headers"] = [*self.headers]  # what comes behind a body in chunks is nothing that was checked
        if upgrades:  # to what is not spoken here: an answer, and the parser is of no more use
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._nbytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        self._head.clear()
        self._reads_head = True
        if self._is_early:
            self.transport.close()
        super().on_response_complete()

    def _refuse(self, error: HttpError) -> None:
        self._stop_deadline()
        if self.transport.is_closing():
            return
        if error.status != 408:  # an idle connection is no fault
            client = self.client[0] if self.client else None
            self.malformed.tell(f"refused: {error.detail}", client=client, status=error.status)
        body = error.response().body
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            status = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}[error.status]
            head = (
                f"HTTP/1.1 {error.status} {status}\r\ncontent-type: application/problem+json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + bytes(body))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _await_head(self) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(self.header_timeout, self._too_late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _too_late(self) -> None:
        self._refuse(HttpError(408, "timeout", f"the request's headers did not arrive in {self.header_timeout:g} s"))


def _origin_form(head: bytes) -> bytes:
    """A head whose target is a whole address, as a proxy is asked, as one with the path alone: the name in the address
    is the host that is meant, whatever the Host header says (RFC 9112, 3.2.2). One that has no such header, or several,
    keeps none that is valid."""
    first, *lines = head.split(b"\r\n")
    method, target, version = first.split(b" ")
    authority, slash, rest = re.sub(rb"^https?://", b"", target, flags=re.IGNORECASE).partition(b"/")
    host, mark, query = authority.partition(b"?")
    hosts = [line for line in lines if line.lower().startswith(b"host:")]
    kept = [line for line in lines if line not in hosts] + [b"Host: " + host] * len(hosts)
    path = b"/" + (mark + query + slash + rest if mark else rest)
    return b"\r\n".join([b"%b %b %b" % (method, path, version), *kept])


def _value(line: bytes) -> bytes:
    return line.partition(b":")[2].strip(b" \t")


def _is_other_upgrade(line: bytes) -> bool:
    return line.startswith(b"upgrade:") and _value(line) != b"websocket"


def protocol(header_timeout: float) -> type[Any]:
    """The protocol of one server, with a deadline, for `uvicorn.Config(http=...)`."""
    malformed = NowAndThen(log, logging.INFO)
    return type("Protocol", (StrictProtocol,), {"header_timeout": header_timeout, "malformed": malformed})
