"""Rows of the tables as values, and the events that go with a change."""

import base64
import binascii
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, select, update

from gesso.errors import GessoError, short
from gesso.serving.jobs import Job, JobEvent, JobStatus, Output, Upload, Work
from gesso.serving.tables import QUEUED, events, jobs, outputs, owners, pictures

NEWEST_ONLY = ("progress", "preview")  # events of which the newest says all
_FEW = 8  # rows whose places are counted one by one; beyond, the whole queue of their owner is read
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Ids:
    """ULIDs: 26 letters and digits, 80 bits of them random, which sort by the time at which they were made.

    https://github.com/ulid/spec
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock, self._last = clock, Lock(), 0

    def new(self) -> str:
        """An id that is larger than those before it, though the clock be set back."""
        with self._lock:
            self._last = max(self._last, int(self._clock() * 1000) & (2**48 - 1))
            number = self._last << 80 | secrets.randbits(80)
        return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


# ---- events ----------------------------------------------------------------------------------------------------------


def change(
    connection: Connection, conditions: Sequence[Any], values: Mapping[str, Any], at: float, **data: Any
) -> Row[Any] | None:
    """Change one job where the conditions hold, with the event of its new status. -> its row, None where they did not

    data  of the event, beside the status
    """
    numbered = {**values, "last_event": jobs.c.last_event + 1}
    row = connection.execute(update(jobs).where(*conditions).values(numbered).returning(jobs)).one_or_none()
    if row is not None:
        insert_event(connection, row.id, row.last_event, "status", at, {"status": row.status, **data})
    return row


def add_event(
    connection: Connection,
    conditions: Sequence[Any],
    type: str,
    at: float,
    data: Mapping[str, Any],
    values: Mapping[str, Any] | None = None,
) -> str | None:
    """Add an event to the job for which the conditions hold, and change `values` of it. -> its id, None where they
    did not hold"""
    numbered = {**(values or {}), "last_event": jobs.c.last_event + 1}
    statement = update(jobs).where(*conditions).values(numbered).returning(jobs.c.id, jobs.c.last_event)
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    insert_event(connection, row.id, row.last_event, type, at, data)
    return row.id


def insert_event(connection: Connection, job: str, number: int, type: str, at: float, data: Mapping[str, Any]) -> None:
    if type in NEWEST_ONLY:
        connection.execute(delete(events).where(events.c.job == job, events.c.type == type))
    connection.execute(insert(events).values(job=job, number=number, type=type, at=at, data=dict(data)))


def event_of(row: Row[Any]) -> JobEvent:
    return JobEvent(job=row.job, number=row.number, type=row.type, at=row.at, data=row.data)


# ---- work ------------------------------------------------------------------------------------------------------------


def plain(work: Work) -> dict[str, Any]:
    """What `Work(**...)` makes again."""
    return {
        "kind": work.kind,
        "model": work.model,
        "request": dict(work.request),
        "assets": dict(work.assets),
        "output": dict(work.output),
        "front": dict(work.front),
    }


def cost_of(work: Work) -> float:
    """How much a job computes, beside others of its model: steps of pictures of 512 x 512, as far as it says."""
    asked = work.request
    steps, pictures = (_number(asked.get(name), usual) for name, usual in (("num_steps", 20), ("num_images", 1)))
    width, height = (_number(asked.get(name), 512) for name in ("width", "height"))
    return steps * pictures * width * height / 512**2


def _number(value: Any, usual: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 10**6
    return float(value) if is_number else float(usual)


# ---- jobs ------------------------------------------------------------------------------------------------------------


def jobs_of(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    """The jobs of these rows, with their pictures that are not deleted and their places in the queue."""
    drawn = outputs_of(connection, [row.id for row in rows if row.attempts], deleted=False)
    places = positions(connection, [row for row in rows if row.status == JobStatus.QUEUED])
    return [job_of(row, drawn.get(row.id, ()), places.get(row.id)) for row in rows]


_ALL_OUTPUTS = (
    select(outputs).where(outputs.c.job.in_(bindparam("ids", expanding=True))).order_by(outputs.c.job, outputs.c.index)
)
_OUTPUTS = _ALL_OUTPUTS.where(~exists().where(pictures.c.output == outputs.c.id, pictures.c.deleted_at.is_not(None)))


def outputs_of(connection: Connection, ids: Sequence[str], *, deleted: bool = True) -> dict[str, list[Output]]:
    """The pictures of jobs, by the jobs' ids; of one without any there is no list.  deleted: those too"""
    drawn: dict[str, list[Output]] = {}
    if ids:
        for row in connection.execute(_ALL_OUTPUTS if deleted else _OUTPUTS, {"ids": list(ids)}):
            drawn.setdefault(row.job, []).append(output_of(row))
    return drawn


def job_of(row: Row[Any], drawn: Iterable[Output] = (), position: int | None = None) -> Job:
    metrics: dict[str, Any] = {}
    if row.started_at is not None:
        metrics["queue_ms"] = round(max(row.started_at - row.created_at, 0.0) * 1000)
        if row.completed_at is not None:
            metrics["execution_ms"] = round(max(row.completed_at - row.started_at, 0.0) * 1000)
    return Job(
        id=row.id,
        owner=row.owner,
        work=Work(**row.work),
        status=JobStatus(row.status),
        priority=row.priority,
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        expires_at=row.expires_at,
        deadline=row.deadline,
        attempts=row.attempts,
        crashes=row.crashes,
        fence=row.fence,
        position=position,
        progress=row.progress,
        outputs=tuple(drawn),
        error=row.error,
        idempotency_key=row.idempotency_key,
        batch=row.batch,
        metadata=row.metadata,
        metrics=metrics,
        origin=row.origin or {},
    )


def output_of(row: Row[Any], *, with_recipe: bool = True) -> Output:
    """A finished picture.  with_recipe: False where the row was read without its recipe, which is empty then"""
    return Output(
        id=row.id,
        index=row._mapping["index"],
        content_type=row.content_type,
        nbytes=row.nbytes,
        width=row.width,
        height=row.height,
        digest=row.digest,
        seed=int(row.seed),
        recipe=row.recipe if with_recipe else {},
        notices=tuple(row.notices),
    )


def upload_of(row: Row[Any]) -> Upload:
    return Upload(**row._mapping)


# How many wait, by owner and priority, with the turn that the owner had last.
_WAITING = (
    select(
        jobs.c.owner,
        jobs.c.priority,
        func.count(),
        select(owners.c.served).where(owners.c.owner == jobs.c.owner).scalar_subquery(),
    )
    .where(QUEUED)
    .group_by(jobs.c.owner, jobs.c.priority)
)


class QueueCounts:
    """How many jobs wait, by owner and priority, and when each owner was served.

    strangers  of `asked`, those that have no job waiting, and may be in no row of owners
    """

    def __init__(self, connection: Connection, asked: Iterable[str] = ()) -> None:
        self._counts: dict[str, dict[int, int]] = {}
        self._turns: dict[str, tuple[int, str]] = {}
        self.all = 0
        for row in connection.execute(_WAITING):
            self._counts.setdefault(row.owner, {})[row.priority] = row[2]
            self._turns[row.owner] = row[3] or 0, row.owner
            self.all += row[2]
        self.strangers = set(asked) - self._counts.keys()
        if self.strangers and self._counts:  # their turns count where others wait
            known = select(owners.c.owner, owners.c.served).where(owners.c.owner.in_(self.strangers))
            self._turns |= {row.owner: (row.served, row.owner) for row in connection.execute(known)}

    def of(self, owner: str) -> int:
        """How many jobs of an owner wait."""
        return sum(self._counts.get(owner, {}).values())

    def add(self, owner: str, priority: int) -> int:
        """Count one more, the last of its priority. -> how many are likely drawn before it"""
        own = self._counts.setdefault(owner, {})
        before = sum(count for other, count in own.items() if other >= priority)
        own[priority] = own.get(priority, 0) + 1
        self.all += 1
        return self.place(owner, before)

    def remove(self, owner: str, priority: int) -> None:
        """Count one less."""
        self._counts[owner][priority] -= 1
        self.all -= 1

    def place(self, owner: str, before: int) -> int:
        """How many jobs are likely drawn before one that has so many of its owner before it, as owners take turns."""
        turn = self._turns.get(owner, (0, owner))
        others = (
            min(sum(counts.values()), before + (self._turns.get(other, (0, other)) < turn))
            for other, counts in self._counts.items()
            if other != owner
        )
        return before + sum(others)


def positions(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, int]:
    """How many jobs are likely drawn before each of these queued ones, as owners take turns."""
    if not rows:
        return {}
    queue = QueueCounts(connection)
    places = {}
    for owner in {row.owner for row in rows}:
        for row, before in _ranks(connection, owner, [row for row in rows if row.owner == owner]):
            places[row.id] = queue.place(owner, before)
    return places


def _ranks(connection: Connection, owner: str, rows: Sequence[Row[Any]]) -> Iterable[tuple[Row[Any], int]]:
    """Each row with the number of those of its owner before it."""
    if len(rows) > _FEW:
        in_order = select(jobs.c.id).where(QUEUED, jobs.c.owner == owner).order_by(jobs.c.priority.desc(), jobs.c.seq)
        places = {id: place for place, id in enumerate(connection.scalars(in_order))}
        yield from ((row, places[row.id]) for row in rows)
        return
    for row in rows:
        own = select(func.count()).select_from(jobs).where(QUEUED, jobs.c.owner == owner)
        higher = own.where(jobs.c.priority > row.priority).scalar_subquery()
        earlier = own.where(jobs.c.priority == row.priority, jobs.c.seq < row.seq).scalar_subquery()
        yield row, connection.execute(select(higher + earlier)).scalar_one()


# ---- cursors ---------------------------------------------------------------------------------------------------------


def cursor_text(kind: str, number: int) -> str:
    """Where a page of a list ended.  kind: of list, so that a cursor serves no other"""
    return base64.urlsafe_b64encode(f"{kind}:{number}".encode()).decode("ascii").rstrip("=")


def cursor_number(kind: str, cursor: str) -> int:
    """What `cursor_text` was given. Raises GessoError (code invalid_value)."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        own, _, number = text.partition(":")
        if own == kind and number.isdigit() and len(number) < 19:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise GessoError(
        f"`cursor` {short(cursor)}: expected that of the page before", code="invalid_value", field="cursor"
    )
