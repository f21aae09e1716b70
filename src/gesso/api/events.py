"""Events of a job as they happen: server-sent events, numbered, so that a reader goes on where it was cut off.

States, pictures and notices all arrive, in their order; of progress and previews the newest does. Nothing is kept for a
reader who does not read: what it has not taken yet is read from the database when it can take more, and one that takes
nothing for 30 seconds is hung up on.
"""

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastapi import Header, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from gesso.api.context import Call, Calling, Context
from gesso.api.jobs import job_of
from gesso.api.operations import Media, Routes, operation
from gesso.api.problems import HttpError
from gesso.api.schemas import picture_told
from gesso.errors import GessoError
from gesso.serving.jobs import Job, JobEvent, JobStatus
from gesso.serving.tables import jobs

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

router = Routes()
HEARTBEAT = 15.0  # seconds without an event, after which a comment shows that the connection lives
PART = 16 * 1024  # bytes that are handed over at a time: what a reader does not take waits in the database, not here
REMEMBERED = 64  # readings of events that are shared
LOOK = 0.1  # seconds between two looks at the database, of all streams together
FINAL = {str(status) for status in JobStatus if status.is_final}


class Told(NamedTuple):
    """An event as it is sent.  is_last: of the job"""

    number: int
    data: bytes
    is_last: bool


class Hub:
    """Tells streams when something happened to their jobs: one look at the database for all of them.

    It looks when it is told to, see `notice`, and every `LOOK` seconds, as others may work on the queue, too.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._noticed = asyncio.Event()
        self._ends: dict[str, set[asyncio.Future[Job]]] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._all: set[asyncio.Event] = set()  # of streams of all jobs
        self._task: asyncio.Task[None] | None = None
        self._numbers: dict[str, int] = {}
        self._news: OrderedDict[tuple[str, int, int], asyncio.Future[list[Told]]] = OrderedDict()

    @property
    def streams(self) -> int:
        """How many streams are open, and how many wait for the end of a job."""
        return sum(map(len, self._waiting.values())) + len(self._all) + sum(map(len, self._ends.values()))

    def watch(self, job: str) -> asyncio.Event:
        """An event that is set when something happens to a job."""
        changed = asyncio.Event()
        self._waiting.setdefault(job, set()).add(changed)
        self._begin()
        return changed

    def watch_all(self) -> asyncio.Event:
        """An event that is set when anything happens."""
        changed = asyncio.Event()
        self._all.add(changed)
        self._begin()
        return changed

    def leave_all(self, changed: asyncio.Event) -> None:
        """The end of such a watch."""
        self._all.discard(changed)

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._look())
        self._noticed.set()

    def notice(self) -> None:
        """Something in the queue has changed. From any thread."""
        loop = self._loop
        if loop is not None and not self._noticed.is_set() and (self._waiting or self._ends or self._all):
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(self._noticed.set)

    async def end_of(self, job: str, seconds: float) -> Job | None:
        """A job when it is final; None: it was not in so many seconds, or the server stops."""
        self._loop = asyncio.get_running_loop()
        end: asyncio.Future[Job] = self._loop.create_future()
        self._ends.setdefault(job, set()).add(end)
        self._begin()
        until = self._loop.time() + seconds
        try:
            while not (end.done() or self.context.is_stopping) and (left := until - self._loop.time()) > 0:
                await asyncio.wait((end,), timeout=min(left, 0.5))
            return end.result() if end.done() else None
        finally:
            waiting = self._ends.get(job, set())
            waiting.discard(end)
            if not waiting:
                self._ends.pop(job, None)

    def leave(self, job: str, changed: asyncio.Event) -> None:
        """The end of a watch."""
        watchers = self._waiting.get(job, set())
        watchers.discard(changed)
        if not watchers:
            self._waiting.pop(job, None)
            self._numbers.pop(job, None)

    async def news(self, job: str, last: int) -> "list[Told]":
        """The events of a job after a number. Raises GessoError where the job is forgotten.

        Read and written out once for all streams that have come as far: many who watch one job cost as much as one.
        """
        number = self._numbers.get(job)
        if number is None:
            return await run_in_threadpool(self._read, job, last)
        key = (job, last, number)
        if key not in self._news:
            self._news[key] = asyncio.ensure_future(run_in_threadpool(self._read, job, last))
            while len(self._news) > REMEMBERED:
                self._news.popitem(last=False)
        return await asyncio.shield(self._news[key])

    def _read(self, job: str, last: int) -> "list[Told]":
        return [
            Told(event.number, as_text(event).encode(), event.type == "status" and event.data.get("status") in FINAL)
            for event in self.context.store.events_after(job, last)
        ]

    async def _look(self) -> None:
        mark, store, seen = "", self.context.store, set[asyncio.Future[Job]]()
        numbers: dict[str, int] | None
        ended: list[Job]
        while self._waiting or self._ends or self._all:
            self._noticed.clear()
            try:
                watched, ends = list(self._waiting), list(self._ends)
                waiting = set[asyncio.Future[Job]]().union(*self._ends.values())
                is_new = any(job not in self._numbers for job in watched) or not seen.issuperset(waiting)
                before, seen = mark, waiting
                if store.database.is_sqlite and not is_new and store.changes() == mark:  # which takes microseconds
                    numbers, ended = None, []
                else:
                    mark, numbers, ended = await run_in_threadpool(self._look_at, mark, watched, ends, is_new)
                if mark != before:
                    for changed in self._all:
                        changed.set()
                for job in watched:
                    if numbers is None:  # nothing has changed
                        break
                    number = numbers.get(job, -1)  # -1: it was forgotten, which its streams find out
                    if self._numbers.get(job) != number and job in self._waiting:
                        self._numbers[job] = number
                        for changed in self._waiting[job]:
                            changed.set()
                for one in ended:
                    for end in self._ends.get(one.id, ()):
                        if not end.done():
                            end.set_result(one)
            except Exception as error:  # the database is away for a moment
                log.warning("no events can be read: %s", type(error).__name__)
                mark = ""
                await asyncio.sleep(1)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._noticed.wait(), LOOK)

    def _look_at(
        self, mark: str, watched: Sequence[str], ends: Sequence[str], is_new: bool
    ) -> tuple[str, dict[str, int] | None, list[Job]]:
        """The mark of the queue; and where something changed, the last events of some jobs, and those of others that
        are final."""
        store = self.context.store
        now = store.changes()
        numbers = self._last_numbers(watched) if watched and (now != mark or is_new) else None
        return now, numbers, store.final_of(ends) if ends and (now != mark or is_new) else []

    def _last_numbers(self, watched: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        asked = list(watched)
        with self.context.store.database.reading() as connection:
            for start in range(0, len(asked), 500):
                statement = select(jobs.c.id, jobs.c.last_event).where(jobs.c.id.in_(asked[start : start + 500]))
                found |= {row.id: row.last_event for row in connection.execute(statement)}
        return found


@operation(
    router,
    "GET",
    "/v1/jobs/{id}/events",
    id="streamJobEvents",
    rule="read",
    tag="Jobs",
    summary="The events of a job, as they happen",
    answer=Media(("text/event-stream",), {"type": "string"}),
    also={204: "The job is final, and you have seen it all: do not come back."},
)
async def stream_events(
    call: Calling,
    id: str,
    last_event_id: Annotated[str | None, Header(description="Number of the last event that you saw.")] = None,
) -> Response:
    """Server-sent events: `status` {status, queue_position}, `progress`, `preview` {content_type, data_base64},
    `output` (a picture as it stands in the job, without its notices), `notice`. The stream ends after the final
    status. The job itself is always the truth; polling it shows the same."""
    job = await run_in_threadpool(job_of, call, id)
    last = _number(last_event_id)
    if job.status.is_final:
        left = await run_in_threadpool(call.context.store.events_after, id, last, owner=call.owner)
        if not left:
            return Response(status_code=204)
    hub: Hub = call.request.app.state.hub
    if hub.streams >= call.context.settings.max_streams:
        raise HttpError(
            503,
            "overloaded",
            f"{hub.streams} event streams are open; ask for the job itself, or try again later",
            headers={"Retry-After": "10"},
        )
    return EventStream(call, id, last, hub)


class Stream(Response):
    """An answer of events, which writes as fast as the reader reads."""

    def __init__(self, call: Call, hub: Hub) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self.call, self.hub = call, hub

    def watch(self) -> asyncio.Event:
        """Begin to be told of changes."""
        raise NotImplementedError

    def leave(self, changed: asyncio.Event) -> None:
        """The end of that."""
        raise NotImplementedError

    async def news(self) -> "tuple[list[bytes], bool]":
        """What the reader does not know yet, and whether more may come."""
        raise NotImplementedError

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            for start in range(0, max(len(data), 1), PART):
                part = {"type": "http.response.body", "body": data[start : start + PART], "more_body": True}
                await send(part | ({} if more else {"more_body": False}))

        changed = self.watch()
        self.call.context.metrics.streams.inc()
        leaving = asyncio.ensure_future(gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if "gesso.head" not in scope:
                await write(b"retry: 2000\n\n")
                await self._run(write, changed, leaving)
            await write(b"", more=False)
        finally:
            leaving.cancel()
            self.leave(changed)
            self.call.context.metrics.streams.dec()

    async def _run(self, write: Any, changed: asyncio.Event, leaving: "asyncio.Future[None]") -> None:
        loop = asyncio.get_running_loop()
        spoken = loop.time()
        while not (self.call.context.is_stopping or leaving.done()):
            changed.clear()
            news, goes_on = await self.news()
            for told in news:
                await write(told)
                spoken = loop.time()
            if not goes_on:
                return
            del news  # what may be large, and is not needed while nothing happens
            while not changed.is_set() and not self.call.context.is_stopping and not leaving.done():
                try:
                    await asyncio.wait_for(changed.wait(), 0.5)
                except TimeoutError:
                    if loop.time() - spoken >= HEARTBEAT:
                        await write(b": still here\n\n")
                        spoken = loop.time()


class EventStream(Stream):
    """The events of a job.  last: number of the last one that the reader has"""

    def __init__(self, call: Call, job: str, last: int, hub: Hub) -> None:
        super().__init__(call, hub)
        self.job, self.last = job, last

    def watch(self) -> asyncio.Event:
        return self.hub.watch(self.job)

    def leave(self, changed: asyncio.Event) -> None:
        self.hub.leave(self.job, changed)

    async def news(self) -> tuple[list[bytes], bool]:
        try:
            new = await self.hub.news(self.job, self.last)
        except GessoError:
            return [], False  # it was deleted
        end = next((number for number, told in enumerate(new, 1) if told.is_last), None)
        new = new[:end]
        self.last = new[-1].number if new else self.last
        return [told.data for told in new], end is None


async def gone(receive: "Receive") -> None:
    """Returns when the reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def as_text(event: JobEvent) -> str:
    """An event on the wire. JSON has no bare line ends, so it is one line of data."""
    data = picture_told(event.data) if event.type == "output" else dict(event.data)
    data.pop("path", None)
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"id: {event.number}\nevent: {event.type}\ndata: {text}\n\n"


def _number(text: str | None) -> int:
    """The number in Last-Event-ID. Raises HttpError."""
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise HttpError(
            400, "invalid_field", "Last-Event-ID: expected the id of an event, a number", field="Last-Event-ID"
        )
    return int(text)
