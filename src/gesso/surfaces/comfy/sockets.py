"""WebSockets through the same door as everything else.

A handshake is handed to the guard as the GET request that it is: names of the server, the site that asks, keys, limits
and the log are those of every other request, and refusals come back as answers. What the route then answers takes over
the connection.
"""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gesso.surfaces.comfy import messages
from gesso.surfaces.comfy.watching import Socket, Watchers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHANNEL = "gesso.websocket"  # in a scope: how to receive and to send
MAX_MESSAGE = 64 * 1024  # bytes of what a client says
STALLED = 30.0  # seconds in which a client has to take a message

log = logging.getLogger(__name__)


class SocketProtocol(WebSocketsSansIOProtocol):
    """A connection as uvicorn serves it, of which the guard alone tells the log.

    uvicorn would name the query of each handshake, and take one that is refused for a fault of the application.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = logging.Logger(__name__, logging.CRITICAL + 1)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None:  # as one with a body: uvicorn would neither answer nor hang up
            self.transport.close()


def with_sockets(app: "ASGIApp") -> "ASGIApp":
    """An application that also gets handshakes."""

    async def asked(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "websocket":
            await _handshake(app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return asked


async def _handshake(app: "ASGIApp", scope: "Scope", receive: "Receive", send: "Send") -> None:
    first = await receive()
    if first["type"] != "websocket.connect":
        return
    scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
    refusal: dict[str, Any] = {"status": 0, "headers": [], "body": b""}

    async def no_body() -> "Message":
        return {"type": "http.request", "body": b"", "more_body": False}

    async def answered(message: "Message") -> None:
        """What is answered instead of a connection."""
        if message["type"] == "http.response.start" and message["status"] != 101:
            refusal.update(status=message["status"], headers=message.get("headers", []))
        elif message["type"] == "http.response.body" and refusal["status"]:
            refusal["body"] += message.get("body", b"")

    as_request = {**scope, "type": "http", "method": "GET", "scheme": scheme, CHANNEL: (receive, send)}
    as_request.setdefault("http_version", "1.1")
    await app(as_request, no_body, answered)
    if not refusal["status"]:
        return
    if "websocket.http.response" in scope.get("extensions", {}):
        head = {"status": refusal["status"], "headers": refusal["headers"]}
        await send({"type": "websocket.http.response.start", **head})
        await send({"type": "websocket.http.response.body", "body": refusal["body"]})
    else:
        await send({"type": "websocket.close", "code": 1008})


class SocketAnswer(Response):
    """Takes over a connection, for as long as it lasts."""

    def __init__(self, watchers: Watchers, socket: Socket) -> None:
        super().__init__(status_code=101)
        self.watchers, self.socket = watchers, socket

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        take, say = scope[CHANNEL]
        await send({"type": "http.response.start", "status": 101, "headers": []})  # for the log
        await say({"type": "websocket.accept", "headers": []})
        tasks: list[asyncio.Future[None]] = []
        try:
            await self.watchers.join(self.socket)  # its greeting is the first message
            tasks = [asyncio.ensure_future(self._read(take)), asyncio.ensure_future(self._write(say))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.watchers.leave(self.socket)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, take: "Receive") -> None:
        """What the client says: only what it can read matters."""
        while True:
            message = await take()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            if not isinstance(text, str) or len(text) > MAX_MESSAGE:
                continue
            try:
                said = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(said, dict) and said.get("type") == "feature_flags" and isinstance(said.get("data"), dict):
                self.socket.flags = said["data"]
                features = messages.features(self.watchers.context.settings.max_upload)
                self.socket.send(messages.message("feature_flags", **features))

    async def _write(self, say: "Send") -> None:
        code = 1001
        while not self.watchers.context.is_stopping:
            try:
                content = await asyncio.wait_for(self.socket.queue.get(), 0.5)
            except TimeoutError:
                continue
            if content is None:
                code = 1008
                break
            kind = "text" if isinstance(content, str) else "bytes"
            try:
                await asyncio.wait_for(say({"type": "websocket.send", kind: content}), STALLED)
            except TimeoutError:
                log.info("a socket was closed: its client takes nothing")
                return
        await asyncio.wait_for(say({"type": "websocket.close", "code": code}), STALLED)
