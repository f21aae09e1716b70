"""Accepting jobs: what is checked before a row is written, within one transaction.

Each function takes the connection of a transaction that writes alone, see `Database.writing`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select

from gesso.errors import GessoError, short
from gesso.serving.jobs import Job, JobStatus, NewJob, Work
from gesso.serving.rows import QueueCounts, cost_of, jobs_of, plain
from gesso.serving.tables import HELD, events, job_uploads, jobs, owners, to_json, uploads

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


@dataclass(frozen=True)
class Limits:
    """How many jobs may wait at once.  all: together; own: of one owner"""

    all: int
    own: int


Accepted = list[tuple[Job, bool]]  # each job with whether it is new


def accept(
    connection: Connection, wishes: Sequence[Sequence[Asked]], limits: Limits, now: float, *, again: bool
) -> list[Accepted | Exception]:
    """Write the jobs of several who ask at the same time, or find those that their keys gave before.

    again  they may have been written before, when the answer to the commit was lost
    -> for each who asks, all jobs; or a GessoError, and none of theirs is written: idempotency_key_reuse, queue_full,
    asset_missing.
    """
    return _Accepting(connection, wishes, limits, now, again=again).run()


@dataclass(frozen=True)
class _Made:
    """A job that is to be written.  used: the uploads that it draws from"""

    asked: Asked
    job: Job
    used: Sequence[str]


class _Accepting:
    """What is known of the queue while jobs are added to it, and those that are to be written."""

    def __init__(
        self, connection: Connection, wishes: Sequence[Sequence[Asked]], limits: Limits, now: float, *, again: bool
    ) -> None:
        self.connection, self.wishes, self.limits, self.now = connection, wishes, limits, now
        every = [asked for wish in wishes for asked in wish]
        self.by_id, self.by_key = dict[str, Row[Any]](), dict[tuple[str, str | None], Row[Any]]()
        self._find_known(every, again=again)
        self.queue = QueueCounts(connection, {asked.new.owner for asked in every})
        self.made: list[_Made] = []
        self.made_by_key: dict[tuple[str, str | None], _Made] = {}
        self._seconds: int | None = None

    def run(self) -> list[Accepted | Exception]:
        answers = [self._take(wish) for wish in self.wishes]
        if self.made:
            self._write()
        rows = {row.id: row for row in (*self.by_id.values(), *self.by_key.values())}
        known = {job.id: job for job in jobs_of(self.connection, list(rows.values()))} if rows else {}
        return [
            answer
            if isinstance(answer, Exception)
            else [(job if isinstance(job, Job) else known[job], is_new) for job, is_new in answer]
            for answer in answers
        ]

    def _find_known(self, every: Sequence[Asked], *, again: bool) -> None:
        """The jobs that were accepted before, by their ids, and by owner and key."""
        keys: dict[str, list[str]] = {}
        for asked in every:
            if asked.new.idempotency_key is not None:
                keys.setdefault(asked.new.owner, []).append(asked.new.idempotency_key)
        conditions = [
            and_(jobs.c.owner == owner, jobs.c.idempotency_key.in_(part))
            for owner, own in keys.items()
            for part in _parts(own)
        ]
        for row in self._rows(conditions):
            self.by_key[row.owner, row.idempotency_key] = row
        if again:
            for row in self._rows([jobs.c.id.in_(part) for part in _parts([asked.id for asked in every])]):
                self.by_id[row.id] = row

    def _rows(self, conditions: Sequence[Any]) -> Iterator[Row[Any]]:
        for condition in conditions:
            yield from self.connection.execute(select(jobs).where(condition))

    def _take(self, wish: Sequence[Asked]) -> "list[tuple[Job | str, bool]] | Exception":
        """What one asks for, whole or not at all. -> jobs, or the ids of those that are there already"""
        first, answer = len(self.made), list[tuple[Job | str, bool]]()
        try:
            for asked in wish:
                name = asked.new.owner, asked.new.idempotency_key
                if asked.id in self.by_id:  # written before, when the answer to the commit was lost
                    answer.append((asked.id, True))
                elif name[1] is not None and (row := self.by_key.get(name)) is not None:
                    _check_same(asked, row.id, row.work_hash)
                    answer.append((row.id, False))
                elif name[1] is not None and (before := self.made_by_key.get(name)) is not None:
                    _check_same(asked, before.job.id, before.asked.digest)
                    answer.append((before.job, False))
                else:
                    answer.append((self._make(asked), True))
        except GessoError as error:
            for made in self.made[first:]:
                self.queue.remove(made.job.owner, made.job.priority)
                self.made_by_key.pop((made.job.owner, made.job.idempotency_key), None)
            del self.made[first:]
            return error
        return answer

    def _make(self, asked: Asked) -> Job:
        new, limits, queue = asked.new, self.limits, self.queue
        if queue.all >= limits.all:
            raise self._full(queue.all, limits.all, is_own=False)
        if (own := queue.of(new.owner)) >= limits.own:
            raise self._full(own, limits.own, is_own=True)
        used = _uploads(self.connection, new)
        job = Job(
            id=asked.id,
            owner=new.owner,
            work=Work(**plain(new.work)),
            status=JobStatus.QUEUED,
            priority=new.priority,
            created_at=self.now,
            deadline=new.deadline,
            position=queue.add(new.owner, new.priority),
            idempotency_key=new.idempotency_key,
            batch=new.batch,
            metadata=dict(new.metadata),
            origin={} if new.origin is None else dict(new.origin),
        )
        made = _Made(asked, job, used)
        self.made.append(made)
        if job.idempotency_key is not None:
            self.made_by_key[job.owner, job.idempotency_key] = made
        return job

    def _full(self, count: int, limit: int, *, is_own: bool) -> GessoError:
        if self._seconds is None:
            self._seconds = _seconds_a_job(self.connection)
        return GessoError(
            f"the queue is full: {count} jobs{' of yours' if is_own else ''} are waiting. "
            f"Try again in {self._seconds} s",
            code="queue_full",
            data={"retry_after": self._seconds, "queued": count, "limit": limit, "is_own": is_own},
        )

    def _write(self) -> None:
        if strangers := self.queue.strangers & {made.job.owner for made in self.made}:
            known = set(self.connection.scalars(select(owners.c.owner).where(owners.c.owner.in_(strangers))))
            if new := strangers - known:
                self.connection.execute(insert(owners), [{"owner": owner, "served": 0} for owner in sorted(new)])
        self.connection.execute(insert(jobs), [_row_of(made) for made in self.made])
        data = [(made.job.id, {"status": JobStatus.QUEUED, "queue_position": made.job.position}) for made in self.made]
        self.connection.execute(
            insert(events),
            [{"job": id, "number": 1, "type": "status", "at": self.now, "data": value} for id, value in data],
        )
        if used := [{"job": made.job.id, "upload": upload} for made in self.made for upload in made.used]:
            self.connection.execute(insert(job_uploads), used)


def _row_of(made: _Made) -> dict[str, Any]:
    job, new = made.job, made.asked.new
    return {
        "id": job.id,
        "owner": job.owner,
        "status": job.status,
        "priority": job.priority,
        "model": job.work.model,
        "cost": cost_of(job.work),
        "work": plain(job.work),
        "work_hash": made.asked.digest,
        "idempotency_key": job.idempotency_key,
        "batch": job.batch,
        "metadata": job.metadata,
        "created_at": job.created_at,
        "deadline": job.deadline,
        "attempts": 0,
        "crashes": 0,
        "fence": 0,
        "last_event": 1,
        "progress": {},
        "webhook": None if new.webhook is None else dict(new.webhook),
        "webhook_tries": 0,
        "origin": None if new.origin is None else dict(new.origin),
    }


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as a statement may have."""
    for start in range(0, len(values), 500):
        yield values[start : start + 500]


def _check_same(asked: Asked, job: str, digest: str) -> None:
    """Raises GessoError where the key of this work was that of another."""
    if digest != asked.digest:
        raise GessoError(
            f"the idempotency key {short(asked.new.idempotency_key)} came before with other work. "
            "Use a new key for new work",
            code="idempotency_key_reuse",
            field="idempotency_key",
            data={"job": job},
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
