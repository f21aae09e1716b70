"""What workers have to say of their jobs, written for several at a time: pictures, notices, and ends."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from gesso.serving.jobs import Drawn, Job, JobStatus, Output
from gesso.serving.picture_rows import mark_changed, row_of
from gesso.serving.tables import events, jobs, outputs, pictures

_SHOWN = tuple(field.name for field in fields(Output) if field.name not in ("recipe", "notices"))
_HELD = (JobStatus.RUNNING, JobStatus.CANCELING)


def record(connection: Connection, drawn: Sequence[Drawn], now: float, keep_seconds: float | None) -> list[bool]:
    """Write all that counts, within a transaction that writes alone, see `Database.writing`.

    keep_seconds  a finished job is forgotten after so long; None: never
    -> for each whether its lease holds; an end that was written before counts as well
    """
    return _Recording(connection, drawn, now, keep_seconds).run()


class _Recording:
    """The jobs as they are, and the rows that are to be written."""

    def __init__(self, connection: Connection, drawn: Sequence[Drawn], now: float, keep_seconds: float | None) -> None:
        self.connection, self.drawn, self.now = connection, drawn, now
        self.expires_at = None if keep_seconds is None else now + keep_seconds
        ids = {each.lease.job.id for each in drawn}
        self.rows: dict[str, Row[Any]] = {row.id: row for row in connection.execute(_FIND, {"ids": list(ids)})}
        self.numbers = {id: row.last_event for id, row in self.rows.items()}
        with_pictures = {each.lease.job.id for each in drawn if each.outputs}
        self.stored: dict[tuple[str, int], tuple[str, str]] = {}
        if with_pictures:
            for row in connection.execute(_STORED, {"ids": list(with_pictures)}):
                self.stored[row.job, row._mapping["index"]] = row.digest, row.id
        self.events: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.pictures: list[dict[str, Any]] = []
        self.owners: set[str] = set()
        self.replaced: list[tuple[str, int]] = []
        self.ended: list[dict[str, Any]] = []

    def run(self) -> list[bool]:
        answers = [self._take(each) for each in self.drawn]
        self._write()
        return answers

    def _take(self, each: Drawn) -> bool:
        id = each.lease.job.id
        row = self.rows.get(id)
        if row is None or row.fence != each.lease.fence:
            return False
        if row.status not in _HELD:  # perhaps its end was committed before, and the answer did not arrive
            return each.is_done and row.status == JobStatus.SUCCEEDED
        for notice in each.notices:
            self._tell(id, "notice", dict(notice))
        for output in each.outputs:
            self._add(each.lease.job, output)
        if each.is_done:
            self._tell(id, "status", {"status": JobStatus.SUCCEEDED})
            self.ended.append(
                {
                    "this": id,
                    "held": each.lease.fence,
                    "status": JobStatus.SUCCEEDED,
                    "completed_at": self.now,
                    "expires_at": self.expires_at,
                    "progress": dict(each.progress if each.progress is not None else row.progress),
                    "webhook_at": None if row.webhook is None else self.now,
                    "last_event": self.numbers[id],
                }
            )
        return True

    def _tell(self, id: str, type: str, data: dict[str, Any]) -> None:
        self.numbers[id] += 1
        self.events.append({"job": id, "number": self.numbers[id], "type": type, "at": self.now, "data": data})

    def _add(self, job: Job, output: Output) -> None:
        """A picture. The same again changes nothing."""
        id = job.id
        place = id, output.index
        before = self.stored.get(place)
        if before == (output.digest, output.id):
            return
        if before is not None:
            self.replaced.append(place)
        self.stored[place] = output.digest, output.id
        data = {name: getattr(output, name) for name in _SHOWN}
        more = {"seed": str(output.seed), "recipe": dict(output.recipe), "notices": list(output.notices)}
        self.outputs.append({"job": id, **data, **more})
        row = row_of(
            output=output.id,
            job=id,
            owner=job.owner,
            batch=job.batch,
            model=job.work.model,
            work={"request": job.work.request},
            recipe=output.recipe,
            seed=output.seed,
            size=(output.width, output.height),
            at=self.now,
        )
        self.pictures.append(row)
        self.owners.add(job.owner)
        self._tell(id, "output", data)

    def _write(self) -> None:
        run = self.connection.execute
        for id, index in self.replaced:
            run(delete(outputs).where(outputs.c.job == id, outputs.c.index == index))
        if self.outputs:
            run(insert(outputs), self.outputs)
            run(insert(pictures), self.pictures)
            for owner in sorted(self.owners):
                mark_changed(self.connection, owner)
        if self.events:
            run(insert(events), self.events)
        ended = {values["this"] for values in self.ended}
        if ended:
            run(_FORGET, {"ids": list(ended)})
            run(_END, self.ended)
        told = {event["job"] for event in self.events} - ended
        if told:
            run(_TELL, [{"this": id, "number": self.numbers[id]} for id in told])


# Put together once: that takes longer than to carry them out.
_IDS: Any = bindparam("ids", expanding=True)
_FIND = select(*(jobs.c[name] for name in ("id", "fence", "status", "last_event", "progress", "webhook")))
_FIND = _FIND.where(jobs.c.id.in_(_IDS))
_STORED = select(outputs.c.job, outputs.c.index, outputs.c.digest, outputs.c.id).where(outputs.c.job.in_(_IDS))
_FORGET = delete(events).where(events.c.job.in_(_IDS), events.c.type == "preview")
_THIS = jobs.c.id == bindparam("this")
_TELL = update(jobs).where(_THIS).values(last_event=bindparam("number"))
_END = (
    update(jobs)
    .where(_THIS, jobs.c.fence == bindparam("held"))
    .values(
        status=bindparam("status"),
        completed_at=bindparam("completed_at"),
        expires_at=bindparam("expires_at"),
        progress=bindparam("progress"),
        webhook_at=bindparam("webhook_at"),
        last_event=bindparam("last_event"),
        worker=None,
        lease_until=None,
        error=None,
    )
)
