"""One stream of everything that happens to somebody's jobs and pictures, for applications that show all of them.

A browser opens six connections to a server, so that a stream for each job would leave none for pictures.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Header, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from gesso.api.context import Call, Calling
from gesso.api.events import Hub, Stream
from gesso.api.operations import Media, Routes, operation
from gesso.api.problems import HttpError
from gesso.api.schemas import job_json
from gesso.errors import GessoError
from gesso.serving.jobs import JobStatus
from gesso.serving.tables import jobs

router = Routes()
SLACK = 2.0  # seconds by which clocks and transactions may differ
FOLLOWED = 1000  # unfinished jobs whose events are sent; the newest
LATE = 500  # jobs that ended while a reader was away; of more it asks itself
_FINAL = [status for status in JobStatus if status.is_final]
_OPEN = [status for status in JobStatus if not status.is_final]
_SHOWN = ("progress", "preview", "notice")  # events of jobs that are passed on; of others the job itself is sent


@operation(
    router,
    "GET",
    "/v1/events",
    id="streamEvents",
    rule="read",
    tag="Jobs",
    summary="Everything that happens to your jobs and pictures",
    answer=Media(("text/event-stream",), {"type": "string"}),
)
async def stream_all(
    call: Calling,
    last_event_id: Annotated[
        str | None, Header(description="Of the last event that you saw: jobs that have ended since are sent, too.")
    ] = None,
) -> Response:
    """Server-sent events: `job` (a whole job, at first for each unfinished one, then whenever its state or pictures
    change), `progress` and `preview` and `notice` (those of the job's own stream, with its id as `job`), `gallery`
    (pictures or boards have changed: ask for them), `queue` {paused}. With the scope admin, everybody's."""
    since = _since(last_event_id)
    hub: Hub = call.request.app.state.hub
    if hub.streams >= call.context.settings.max_streams:
        detail = f"{hub.streams} event streams are open; ask for the jobs themselves, or try again later"
        raise HttpError(503, "overloaded", detail, headers={"Retry-After": "10"})
    return _Stream(call, since, hub)


def _since(text: str | None) -> float | None:
    """The time in Last-Event-ID. Raises HttpError."""
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        detail = "Last-Event-ID: expected the id of an event, a number"
        raise HttpError(400, "invalid_field", detail, field="Last-Event-ID")
    return int(text) / 1000


@dataclass
class _Seen:
    """What a reader knows.

    jobs  id -> number of the last event that was sent
    last  `seq` of the newest job
    """

    jobs: dict[str, int] = field(default_factory=dict)
    last: int = -1
    gallery: int = -1
    paused: bool | None = None


class _Stream(Stream):
    """Everything that happens to somebody's jobs."""

    def __init__(self, call: Call, since: float | None, hub: Hub) -> None:
        super().__init__(call, hub)
        self.since, self.seen = since, _Seen()

    def watch(self) -> asyncio.Event:
        return self.hub.watch_all()

    def leave(self, changed: asyncio.Event) -> None:
        self.hub.leave_all(changed)

    async def news(self) -> tuple[list[bytes], bool]:
        return await run_in_threadpool(lambda: list(self._news())), True

    def _news(self) -> Iterator[bytes]:
        """What the reader does not know yet. Blocks."""
        store, owner, seen = self.call.context.store, self.call.owner, self.seen
        at = time.time()
        if (paused := store.is_paused(self.call.new_owner)) != seen.paused:
            seen.paused = paused
            yield _told("queue", {"paused": paused}, at)
        for id, number in self._changed():
            before = seen.jobs.get(id, 0)
            seen.jobs[id] = number
            try:
                events = store.events_after(id, before, owner=owner)
                is_changed = not before or any(event.type not in _SHOWN for event in events)
                if is_changed:
                    job = store.get(id, owner)
                    yield _told("job", job_json(job), at)
                    if job.status.is_final:
                        del seen.jobs[id]
            except GessoError:  # it was deleted
                seen.jobs.pop(id, None)
                yield _told("gone", {"job": id}, at)
                continue
            for event in events:
                if event.type in _SHOWN and id in seen.jobs:
                    data = {key: value for key, value in event.data.items() if key != "path"}
                    yield _told(event.type, {"job": id, **data}, at)
        if (gallery := store.gallery_changes(owner)) != seen.gallery:
            is_first, seen.gallery = seen.gallery < 0, gallery
            if not is_first or self.since is not None:
                yield _told("gallery", {}, at)

    def _changed(self) -> list[tuple[str, int]]:
        """Jobs that are new, or to which something has happened, with the number of their last events."""
        seen, owner = self.seen, self.call.owner
        own = [] if owner is None else [jobs.c.owner == owner]
        shown = select(jobs.c.id, jobs.c.seq, jobs.c.last_event)
        with self.call.context.store.database.reading() as connection:
            found: dict[str, int] = {}
            if seen.last < 0:  # at first: what is not finished, and what has ended while the reader was away
                if self.since is not None:
                    late = shown.where(*own, jobs.c.status.in_(_FINAL), jobs.c.completed_at > self.since - SLACK)
                    rows = connection.execute(late.order_by(jobs.c.completed_at.desc()).limit(LATE)).all()
                    found |= {row.id: row.last_event for row in reversed(rows)}
                newest = select(jobs.c.seq).order_by(jobs.c.seq.desc()).limit(1)
                seen.last = connection.scalars(newest).first() or 0
                begun = shown.where(*own, jobs.c.status.in_(_OPEN)).order_by(jobs.c.seq.desc()).limit(FOLLOWED)
                found |= {row.id: row.last_event for row in reversed(connection.execute(begun).all())}
                return list(found.items())
            known = list(seen.jobs)
            for start in range(0, len(known), 500):
                part = known[start : start + 500]
                rows = connection.execute(shown.where(jobs.c.id.in_(part))).all()
                now = {row.id: row.last_event for row in rows}
                found |= {id: now.get(id, -1) for id in part if now.get(id, -1) != seen.jobs[id]}
            new = connection.execute(shown.where(*own, jobs.c.seq > seen.last).order_by(jobs.c.seq)).all()
            for row in new:
                found[row.id] = row.last_event
                seen.last = max(seen.last, row.seq)
        return list(found.items())


def _told(kind: str, data: dict[str, Any], at: float) -> bytes:
    """An event on the wire. JSON has no bare line ends, so it is one line of data."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"id: {int(at * 1000)}\nevent: {kind}\ndata: {text}\n\n".encode()
