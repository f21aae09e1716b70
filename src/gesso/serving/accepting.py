"""Accepting jobs: what is checked before a row is written, within one transaction.

Each function takes the connection of a transaction that writes alone, see `Database.writing`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from gesso.errors import GessoError, short
from gesso.serving.jobs import Job, JobStatus, NewJob
from gesso.serving.rows import cost_of, insert_event, jobs_of, plain
from gesso.serving.tables import HELD, QUEUED, job_uploads, jobs, owners, to_json, uploads

MAX_KEY = 255  # characters of an idempotency key
_SPEED_SAMPLE = 20  # jobs that say how long one takes
_FIRST_GUESS = 5.0  # seconds, before any was drawn


@dataclass(frozen=True)
class Asked:
    """A job that somebody asks for.  id: that it gets; digest: the SHA-256 of its work"""

    id: str
    new: NewJob
    digest: str


def checked(new: NewJob) -> str:
    """The SHA-256 of what a job does. Raises GessoError for values that no row holds."""
    key = new.idempotency_key
    if key is not None and not (1 <= len(key) <= MAX_KEY and key.isprintable()):
        raise GessoError(
            f"the idempotency key {short(key)}: expected 1 to {MAX_KEY} printable characters",
            code="invalid_value",
            field="idempotency_key",
        )
    for field in ("owner", "batch"):
        value = getattr(new, field)
        if value is not None and not (1 <= len(value) <= MAX_KEY and value.isprintable()):
            raise GessoError(
                f"`{field}` {short(value)}: expected 1 to {MAX_KEY} printable characters",
                code="invalid_value",
                field=field,
            )
    if not -10 <= new.priority <= 10:
        raise GessoError(f"`priority` {new.priority}: expected -10 to 10", code="invalid_value", field="priority")
    if new.deadline is not None and not math.isfinite(new.deadline):
        raise GessoError("`deadline` is no time", code="invalid_value", field="deadline")
    try:
        for value in (new.metadata, new.webhook or {}):
            to_json(dict(value))
        return sha256(to_json(plain(new.work)).encode()).hexdigest()
    except (TypeError, ValueError, RecursionError):
        raise GessoError(
            "`work`, `metadata` and `webhook` have to be JSON, without NaN", code="invalid_value", field="work"
        ) from None


class Room:
    """How many jobs may still wait, in all and of each owner. Counts what was taken."""

    def __init__(self, connection: Connection, most: int, most_of_one: int) -> None:
        self._connection, self._most, self._most_of_one = connection, most, most_of_one
        self._all: int | None = None
        self._own = Counter[str]()
        self._looked: set[str] = set()

    def take(self, owner: str) -> None:
        """Take the place of one job. Raises GessoError (code queue_full)."""
        queued = select(func.count()).select_from(jobs).where(QUEUED)
        if self._all is None:
            self._all = self._connection.execute(queued).scalar_one()
        if owner not in self._looked:
            self._own[owner] += self._connection.execute(queued.where(jobs.c.owner == owner)).scalar_one()
            self._looked.add(owner)
        if self._all >= self._most:
            raise self._full(self._all, self._most, is_own=False)
        if self._own[owner] >= self._most_of_one:
            raise self._full(self._own[owner], self._most_of_one, is_own=True)
        self._all += 1
        self._own[owner] += 1

    def _full(self, count: int, limit: int, *, is_own: bool) -> GessoError:
        seconds = _seconds_a_job(self._connection)
        return GessoError(
            f"the queue is full: {count} jobs{' of yours' if is_own else ''} are waiting. Try again in {seconds} s",
            code="queue_full",
            data={"retry_after": seconds, "queued": count, "limit": limit, "is_own": is_own},
        )


def _seconds_a_job(connection: Connection) -> int:
    """How long it takes until the next job is drawn, by those that were drawn last; 1 or more."""
    drawn = (
        select((jobs.c.completed_at - jobs.c.started_at).label("seconds"))
        .where(jobs.c.status == JobStatus.SUCCEEDED, jobs.c.completed_at.is_not(None))
        .order_by(jobs.c.completed_at.desc())
        .limit(_SPEED_SAMPLE)
        .subquery()
    )
    mean = connection.execute(select(func.avg(drawn.c.seconds))).scalar_one()
    held = select(func.count(jobs.c.worker.distinct())).where(HELD)
    busy = connection.execute(held).scalar_one()
    return max(1, math.ceil((_FIRST_GUESS if mean is None else float(mean)) / max(busy, 1)))


def accept(connection: Connection, asked: Sequence[Asked], room: Room, now: float) -> list[tuple[Job, bool]]:
    """Write the jobs, or find those that their keys gave before. -> each with whether it is new

    Raises GessoError: idempotency_key_reuse, queue_full, asset_missing.
    """
    accepted = []
    for each in asked:
        row = connection.execute(select(jobs).where(jobs.c.id == each.id)).one_or_none()
        if row is not None:  # written before, when the answer to the commit was lost
            accepted.append((row, True))
        elif (row := _same_key(connection, each)) is not None:
            accepted.append((row, False))
        else:
            room.take(each.new.owner)
            accepted.append((_insert(connection, each, now), True))
    made = jobs_of(connection, [row for row, _ in accepted])
    for job, (row, _) in zip(made, accepted, strict=True):
        if row.last_event == 0:
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(last_event=1))
            data = {"status": JobStatus.QUEUED, "queue_position": job.position}
            insert_event(connection, job.id, 1, "status", now, data)
    return [(job, is_new) for job, (_, is_new) in zip(made, accepted, strict=True)]


def _same_key(connection: Connection, asked: Asked) -> Row[Any] | None:
    key = asked.new.idempotency_key
    if key is None:
        return None
    same = (jobs.c.owner == asked.new.owner, jobs.c.idempotency_key == key)
    row = connection.execute(select(jobs).where(*same)).one_or_none()
    if row is not None and row.work_hash != asked.digest:
        raise GessoError(
            f"the idempotency key {short(key)} came before with other work. Use a new key for new work",
            code="idempotency_key_reuse",
            field="idempotency_key",
            data={"job": row.id},
        )
    return row


def _insert(connection: Connection, asked: Asked, now: float) -> Row[Any]:
    new = asked.new
    used = _uploads(connection, new)
    if connection.execute(select(owners.c.owner).where(owners.c.owner == new.owner)).one_or_none() is None:
        connection.execute(insert(owners).values(owner=new.owner, served=0))
    values = {
        "id": asked.id,
        "owner": new.owner,
        "status": JobStatus.QUEUED,
        "priority": new.priority,
        "model": new.work.model,
        "cost": cost_of(new.work),
        "work": plain(new.work),
        "work_hash": asked.digest,
        "idempotency_key": new.idempotency_key,
        "batch": new.batch,
        "metadata": dict(new.metadata),
        "created_at": now,
        "deadline": new.deadline,
        "attempts": 0,
        "crashes": 0,
        "fence": 0,
        "last_event": 0,
        "progress": {},
        "webhook": None if new.webhook is None else dict(new.webhook),
        "webhook_tries": 0,
        "origin": None if new.origin is None else dict(new.origin),
    }
    row = connection.execute(insert(jobs).values(values).returning(jobs)).one()
    if used:
        connection.execute(insert(job_uploads), [{"job": asked.id, "upload": upload} for upload in used])
    return row


def _uploads(connection: Connection, new: NewJob) -> list[str]:
    """The uploaded pictures that a job draws from, each once. Raises GessoError (code asset_missing)."""
    used = sorted(set(new.work.assets.values()))
    if not used:
        return []
    own = select(uploads.c.id).where(uploads.c.id.in_(used), uploads.c.owner == new.owner)
    found = set(connection.scalars(own))
    for role, upload in new.work.assets.items():
        if upload not in found:
            raise GessoError(
                f"`assets` {short(role)}: no uploaded picture {short(upload)}. Upload it first, then name its id",
                code="asset_missing",
                field="assets",
                data={"role": role, "asset": upload},
            )
    return used
