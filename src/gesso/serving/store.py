"""The queue: accepts jobs, leases them to workers, keeps what came out. The tables are its truth, processes are not.

    store = JobStore("queue.db")
    job, created = store.submit(NewJob(owner="local", work=Work(request={"prompt": "a cat"})))
    lease = store.claim("worker 1", lease_seconds=30)
    store.finish(lease)

Everything is safe from several threads and processes, and may be called twice. What a worker writes counts only while
it holds the job: each lease has a number, the fence, and the next lease of the job a larger one. A worker that died is
noticed by its supervisor at once, or when its lease lapses; the job goes back to the queue, and is set aside as failed
when two workers died with it.
"""

import base64
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain, count, takewhile, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, func, insert, or_, select, update

from gesso.errors import GessoError, short
from gesso.serving.accepting import Accepted, Asked, Limits, accept, checked
from gesso.serving.database import Database
from gesso.serving.jobs import (
    Batch,
    Drawn,
    Job,
    JobEvent,
    JobPage,
    JobStatus,
    Lease,
    NewJob,
    Output,
    Upload,
    Webhook,
    Work,
    Worker,
    error_value,
)
from gesso.serving.picture_rows import is_kept, mark_changed
from gesso.serving.recording import record
from gesso.serving.rows import (
    Ids,
    add_event,
    change,
    cursor_number,
    cursor_text,
    event_of,
    job_of,
    jobs_of,
    output_of,
    outputs_of,
    upload_of,
)
from gesso.serving.tables import HELD, QUEUED, events, job_uploads, jobs, outputs, owners, pictures, uploads, workers
from gesso.serving.together import Together

MAX_CRASHES = 2
MAX_PAGE = 1000
TRASH_SECONDS = 7 * 86_400.0  # for which a deleted picture can be brought back
LAPSE_SECONDS = 0.5  # between two looks for leases that have lapsed, while other jobs wait
_REMEMBERED = 1024  # uploads whose rows are known to be on the disk
_KEPT_LONGER = 0.1  # of the time for which an upload is kept again, beyond what was asked for
WARM_CHOICE = 8  # jobs of an owner among which one for a loaded model may go first ...
WARM_PATIENCE = 20.0  # ... unless the first has waited for so many seconds
_WAITS = (
    "SELECT EXISTS (SELECT 1 FROM jobs, owners "
    "WHERE jobs.status = 'queued' AND owners.owner = jobs.owner AND NOT owners.paused)"
)
_FINAL = tuple(status for status in JobStatus if status.is_final)

T = TypeVar("T")


class JobStore:
    """The queue of one database. Makes its tables where they are missing.

    url                   a file (SQLite) or an URL, see `Database`
    max_queued            jobs that wait at once; more are refused
    max_queued_per_owner  of one owner; None: as many as wait at once
    keep_seconds          a final job and its pictures are forgotten after so long; None: never
    max_crashes           workers that may die with a job before it is set aside as failed
    clock                 seconds since the epoch
    on_write              called after each change, by the thread that made it: others see it now
    Raises GessoError where the database cannot be used.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        max_queued: int = 1000,
        max_queued_per_owner: int | None = None,
        keep_seconds: float | None = None,
        max_crashes: int = MAX_CRASHES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = Database(url)
        self.max_crashes = max_crashes
        self.max_queued, self.max_queued_per_owner = max_queued, max_queued_per_owner or max_queued
        self.keep_seconds = keep_seconds
        self.on_write = self.database.on_write
        self._clock, self._ids = clock, Ids(clock)
        self._accept = Together(self._accept_together)
        self._lapses_seen = 0.0
        self._kept_uploads: dict[str, float | None] = {}  # rows that are on the disk for sure -> until when they stay

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def changes(self) -> str:
        """A mark that is another one whenever anything has changed, for those who watch: a few microseconds."""
        return self.database.changes()

    def _commit(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        """Change something. SQLite has it on the disk after the next `sync`, PostgreSQL if it is durable."""

        def once() -> T:
            with self.database.committing(durable=durable) as connection:
                return work(connection)

        result = self.database.again(once)
        self.database.tell()
        return result

    def _write(self, work: Callable[[Connection], T], *, durable: bool = True, waits: bool = True) -> T:
        """Change something.

        durable  it stays when the machine loses its power
        waits    it does when this returns; else within a moment
        """
        result = self._commit(work, durable=durable)
        if durable and waits:
            self.database.sync()
        elif durable:
            self.database.sync_soon()
        return result

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self.database.read(work)

    # ---- for clients -------------------------------------------------------------------------------------------------

    def submit(self, new: NewJob) -> tuple[Job, bool]:
        """Accept a job: it is on the disk when this returns. -> the job, and whether it is new

        The same idempotency key of an owner with the same work gives the job that it gave before.
        Raises GessoError: idempotency_key_reuse where the key had other work, queue_full (data: retry_after, seconds)
        where too many wait, asset_missing for a picture that its owner did not upload, invalid_value for the rest.
        """
        (answer,) = self.submit_all([new])
        return answer

    def submit_all(self, new: Sequence[NewJob]) -> list[tuple[Job, bool]]:
        """Accept several jobs, all or none of them: see `submit`."""
        accepted = self._accept([Asked(self._ids.new(), one, checked(one)) for one in new])
        self.database.sync()  # what was there before as well: perhaps it was committed a moment ago
        return accepted

    def submit_each(self, wishes: Sequence[Sequence[NewJob]]) -> list[Accepted | Exception]:
        """Accept jobs of several who ask at the same time, those of each all or none of them, in one transaction.

        -> for each who asks what `submit_all` returns, or the GessoError that it raises
        """
        answers: list[Accepted | Exception | None] = [None] * len(wishes)
        asked: dict[int, list[Asked]] = {}
        for number, wish in enumerate(wishes):
            try:
                asked[number] = [Asked(self._ids.new(), one, checked(one)) for one in wish]
            except GessoError as error:
                answers[number] = error
        if asked:
            for number, answer in zip(asked, self._accept_together(list(asked.values())), strict=True):
                answers[number] = answer
        if any(isinstance(answer, list) for answer in answers):
            self.database.sync()
        return [answer for answer in answers if answer is not None]

    def _accept_together(self, wishes: Sequence[Sequence[Asked]]) -> list[Accepted | Exception]:
        """Those that several threads have asked for at the same time, in one transaction."""
        tries = count()

        def work(connection: Connection) -> list[Accepted | Exception]:
            limits = Limits(self.max_queued, self.max_queued_per_owner)
            return accept(connection, wishes, limits, self._clock(), again=next(tries) > 0)

        return self._commit(work, durable=True)

    def get(self, id: str, owner: str | None = None) -> Job:
        """A job of an owner; None: whoever it belongs to. Raises GessoError (code job_missing)."""

        def work(connection: Connection) -> Job:
            return jobs_of(connection, [_job_row(connection, id, owner)])[0]

        return self._read(work)

    def final_of(self, ids: Sequence[str]) -> list[Job]:
        """Those of these jobs that have come to their ends."""

        def work(connection: Connection) -> list[Job]:
            rows: list[Row[Any]] = []
            for start in range(0, len(ids), 500):
                rows += connection.execute(_FINAL_OF, {"ids": list(ids[start : start + 500])}).all()
            return jobs_of(connection, rows)

        return self._read(work)

    def list_jobs(
        self,
        *,
        owner: str | None = None,
        statuses: Collection[JobStatus] = (),
        batch: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """Jobs, newest first.

        owner     whose; None: all
        statuses  that they may have; (): any
        cursor    of the page before
        Raises GessoError (code invalid_value) for a limit that is not 1 to 1000 and a cursor that is none.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise GessoError(f"`limit` {limit}: expected 1 to {MAX_PAGE}", code="invalid_value", field="limit")
        conditions = [_of(owner)]
        if statuses:
            conditions.append(jobs.c.status.in_([JobStatus(status) for status in statuses]))
        if batch is not None:
            conditions.append(jobs.c.batch == batch)
        if cursor is not None:
            conditions.append(jobs.c.seq < cursor_number("jobs", cursor))

        def work(connection: Connection) -> JobPage:
            statement = select(jobs).where(*conditions).order_by(jobs.c.seq.desc()).limit(limit + 1)
            rows = connection.execute(statement).all()
            more = len(rows) > limit
            rows = rows[:limit]
            return JobPage(
                jobs=tuple(jobs_of(connection, rows)), cursor=cursor_text("jobs", rows[-1].seq) if more else None
            )

        return self._read(work)

    def list_batches(
        self, *, owner: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[tuple[Batch, ...], str | None]:
        """Batches, that of the newest job first. -> some of them, and the cursor for the next; None on the last page

        owner, limit, cursor  as in `list_jobs`, which raises the same
        """
        if not 1 <= limit <= MAX_PAGE:
            raise GessoError(f"`limit` {limit}: expected 1 to {MAX_PAGE}", code="invalid_value", field="limit")
        newest, first = func.max(jobs.c.seq), func.min(jobs.c.seq)
        groups = select(jobs.c.batch, newest.label("newest"), first.label("first"))
        groups = groups.where(_of(owner), jobs.c.batch.is_not(None)).group_by(jobs.c.batch).order_by(newest.desc())
        if cursor is not None:
            groups = groups.having(newest < cursor_number("jobs", cursor))

        def work(connection: Connection) -> tuple[tuple[Batch, ...], str | None]:
            found = connection.execute(groups.limit(limit + 1)).all()
            shown, more = found[:limit], len(found) > limit
            names = [row.batch for row in shown]
            counted = select(jobs.c.batch, jobs.c.status, func.count()).where(_of(owner), jobs.c.batch.in_(names))
            counts: dict[str, dict[JobStatus, int]] = {name: {} for name in names}
            for name, status, number in connection.execute(counted.group_by(jobs.c.batch, jobs.c.status)):
                counts[name][JobStatus(status)] = number
            rows = connection.execute(select(jobs).where(jobs.c.seq.in_([row.first for row in shown]))).all()
            firsts = {job.batch: job for job in jobs_of(connection, rows)}
            batches = tuple(Batch(name=name, first=firsts[name], counts=counts[name]) for name in names)
            return batches, cursor_text("jobs", shown[-1].newest) if more else None

        return self._read(work)

    def counts(self, owner: str | None = None) -> dict[JobStatus, int]:
        """How many jobs stand where; statuses without any are left out."""
        statement = select(jobs.c.status, func.count()).where(_of(owner)).group_by(jobs.c.status)
        return self._read(lambda connection: {JobStatus(s): n for s, n in connection.execute(statement).all()})

    def check(self) -> None:
        """Ask the database for anything at all, once. Raises SQLAlchemy's error where it does not answer."""
        with self.database.reading() as connection:
            connection.execute(select(1))

    def oldest_wait(self) -> float:
        """Seconds that the job waits by now which was accepted before all others that wait; 0 where none does."""
        statement = select(func.min(jobs.c.created_at)).where(QUEUED)
        oldest: float | None = self._read(lambda connection: connection.execute(statement).scalar_one())
        return 0.0 if oldest is None else max(self._clock() - oldest, 0.0)

    def events_after(self, id: str, number: int = 0, *, owner: str | None = None) -> list[JobEvent]:
        """The events of a job after this number; 0: all. Raises GessoError (code job_missing)."""

        def work(connection: Connection) -> list[JobEvent]:
            _job_row(connection, id, owner)
            after = (events.c.job == id, events.c.number > number)
            return [event_of(row) for row in connection.execute(select(events).where(*after).order_by(events.c.number))]

        return self._read(work)

    def cancel(self, id: str, owner: str | None = None) -> Job:
        """Cancel a job: one that waits at once, one that runs within a step; a final one stays as it is.

        Raises GessoError (code job_missing).
        """

        def work(connection: Connection) -> Job:
            own = (jobs.c.id == id, _of(owner))
            self._end(connection, (*own, jobs.c.status == JobStatus.QUEUED), JobStatus.CANCELED)
            change(
                connection, (*own, jobs.c.status == JobStatus.RUNNING), {"status": JobStatus.CANCELING}, self._clock()
            )
            return jobs_of(connection, [_job_row(connection, id, owner)])[0]

        return self._write(work)

    def cancel_all(self, *, owner: str | None = None, batch: str | None = None) -> int:
        """Cancel all jobs of an owner, or of a batch, that are not final. -> how many"""

        def work(connection: Connection) -> list[str]:
            conditions = [_of(owner), jobs.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])]
            if batch is not None:
                conditions.append(jobs.c.batch == batch)
            return list(connection.scalars(select(jobs.c.id).where(*conditions)))

        found = self._read(work)
        for id in found:
            self.cancel(id, owner)
        return len(found)

    def retry(self, id: str, owner: str | None = None, *, origin: Mapping[str, str] | None = None) -> Job:
        """A new job of the same work.  origin: of the request for it

        Raises GessoError: job_missing, job_not_final, queue_full.
        """

        def read(connection: Connection) -> Row[Any]:
            return _job_row(connection, id, owner)

        row = self._read(read)
        if not JobStatus(row.status).is_final:
            raise GessoError(f"the job {id} is {row.status}. Wait for its end, or cancel it", code="job_not_final")
        new = NewJob(
            owner=row.owner,
            work=Work(**row.work),
            priority=row.priority,
            batch=row.batch,
            webhook=row.webhook,
            metadata=row.metadata,
            origin=origin,
        )
        return self.submit(new)[0]

    def delete(self, id: str, owner: str | None = None) -> None:
        """Forget a final job and its pictures; their bytes go later. Raises GessoError: job_missing, job_not_final."""

        def work(connection: Connection) -> None:
            row = _job_row(connection, id, owner)
            if not JobStatus(row.status).is_final:
                raise GessoError(f"the job {id} is {row.status}. Cancel it first", code="job_not_final")
            connection.execute(delete(jobs).where(jobs.c.id == id))
            mark_changed(connection, row.owner)

        self._write(work)

    def set_priority(self, id: str, priority: int, owner: str | None = None) -> Job:
        """Let a job that waits come sooner or later among those of its owner.  priority: -10 to 10

        Raises GessoError: job_missing, job_not_queued.
        """

        def work(connection: Connection) -> Job:
            waits = (jobs.c.id == id, _of(owner), QUEUED)
            row = change(connection, waits, {"priority": priority}, self._clock())
            if row is None:
                status = _job_row(connection, id, owner).status
                raise GessoError(f"the job {id} is {status}, and has no place in the queue", code="job_not_queued")
            return jobs_of(connection, [row])[0]

        return self._write(work)

    def set_paused(self, owner: str, paused: bool) -> None:
        """Let the jobs of an owner wait, or go on. What runs is finished."""

        def work(connection: Connection) -> None:
            changed = update(owners).where(owners.c.owner == owner).values(paused=paused)
            if connection.execute(changed).rowcount == 0:
                connection.execute(insert(owners).values(owner=owner, served=0, paused=paused))

        self._write(work)

    def is_paused(self, owner: str) -> bool:
        """Whether the jobs of an owner wait for `set_paused`."""
        statement = select(owners.c.paused).where(owners.c.owner == owner)
        return bool(self._read(lambda connection: connection.execute(statement).scalar_one_or_none()))

    def gallery_changes(self, owner: str | None = None) -> int:
        """A number that grows whenever pictures or boards of an owner change."""
        statement = select(func.coalesce(func.sum(owners.c.gallery), 0))
        if owner is not None:
            statement = statement.where(owners.c.owner == owner)
        return int(self._read(lambda connection: connection.execute(statement).scalar_one()))

    def output(self, id: str, owner: str | None = None) -> Output:
        """A finished picture by its id. Raises GessoError (code output_missing)."""
        statement = select(outputs).join(jobs, jobs.c.id == outputs.c.job).where(outputs.c.id == id, _of(owner))
        row = self._read(lambda connection: connection.execute(statement).one_or_none())
        if row is None:
            raise GessoError(f"no picture {short(id)}", code="output_missing", data={"id": id[:64]})
        return output_of(row)

    # ---- uploads -----------------------------------------------------------------------------------------------------

    def add_upload(
        self,
        owner: str,
        digest: str,
        *,
        nbytes: int,
        width: int,
        height: int,
        content_type: str = "image/png",
        name: str = "",
        other_names: Sequence[str] = (),
        keep_seconds: float | None = None,
        max_bytes: int | None = None,
        once: bool = False,
    ) -> Upload:
        """Record an uploaded picture, whose bytes are in the blob store already.

        other_names   the first of `name` and these by which none of its owner's pictures is known is its name
        keep_seconds  it is forgotten after so long, unless a job draws from it; None: never
        max_bytes     that all pictures of its owner may have together
        once          where its owner has the same bytes already, that picture is returned in place of a new one

        Raises GessoError (code too_large, data: total) where its owner has no room for more.
        """
        now = self._clock()
        upload = Upload(
            id=self._ids.new(),
            owner=owner,
            name=name,
            content_type=content_type,
            nbytes=nbytes,
            width=width,
            height=height,
            digest=digest,
            created_at=now,
            expires_at=None if keep_seconds is None else now + keep_seconds,
        )

        def work(connection: Connection) -> Upload:
            known = connection.execute(select(uploads).where(uploads.c.id == upload.id)).one_or_none()
            if known is None and once:
                known = connection.execute(_same_upload(owner, digest)).one_or_none()
            if known is not None:
                return upload_of(known)
            mine = uploads.c.owner == owner
            if max_bytes is not None:
                used = select(func.coalesce(func.sum(uploads.c.nbytes), 0)).where(mine)
                if (total := int(connection.scalar(used) or 0)) + nbytes > max_bytes:
                    raise GessoError(
                        f"your uploads have {total} bytes, and at most {max_bytes} are kept; delete some",
                        code="too_large",
                        data={"total": total},
                    )
            new = upload
            if other_names:
                names = (name, *other_names)
                taken = set(connection.scalars(select(uploads.c.name).where(mine, uploads.c.name.in_(names))))
                new = replace(upload, name=next((one for one in names if one not in taken), names[-1]))
            connection.execute(insert(uploads).values(**asdict(new)))
            return new

        made = self._write(work)
        self._remember(made)
        return made

    def get_upload(self, id: str, owner: str | None = None) -> Upload:
        """An uploaded picture of an owner; None: whoever it belongs to. Raises GessoError (code asset_missing)."""
        statement = select(uploads).where(uploads.c.id == id)
        if owner is not None:
            statement = statement.where(uploads.c.owner == owner)
        row = self._read(lambda connection: connection.execute(statement).one_or_none())
        if row is None:
            raise GessoError(f"no uploaded picture {short(id)}. Upload it first", code="asset_missing", field="assets")
        return upload_of(row)

    def find_upload(self, owner: str, digest: str) -> Upload | None:
        """A picture that an owner has uploaded, by the SHA-256 of its bytes."""
        row = self._read(lambda connection: connection.execute(_same_upload(owner, digest)).one_or_none())
        return None if row is None else upload_of(row)

    def keep_upload(
        self, owner: str, digest: str, keep_seconds: float | None, *, id: str | None = None
    ) -> Upload | None:
        """The same, which is kept for so long from now at least, as one that is new; None: for ever.

        id  of several with the same bytes, this one

        It is kept somewhat longer, so that who draws from one picture again and again waits for the disk now and then.
        """
        row = self._read(lambda connection: connection.execute(_same_upload(owner, digest, id)).one_or_none())
        if row is None:
            return None
        until = None if keep_seconds is None else self._clock() + keep_seconds
        if self._kept_uploads.get(row.id, False) == row.expires_at and _lasts(row, until):
            return upload_of(row)

        def work(connection: Connection) -> Row[Any] | None:
            row = connection.execute(_same_upload(owner, digest, id)).one_or_none()
            if row is None or _lasts(row, until):
                return row
            later = None if until is None or keep_seconds is None else until + keep_seconds * _KEPT_LONGER
            kept = update(uploads).where(uploads.c.id == row.id).values(expires_at=later)
            return connection.execute(kept.returning(uploads)).one_or_none()

        row = self._write(work)
        if row is None:
            return None
        kept = upload_of(row)
        self._remember(kept)
        return kept

    def _remember(self, upload: Upload) -> None:
        """That the row of an upload is on the disk, as it is now."""
        self._kept_uploads[upload.id] = upload.expires_at
        if len(self._kept_uploads) > _REMEMBERED:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was faster
                del self._kept_uploads[next(iter(self._kept_uploads))]

    def delete_upload(self, id: str, owner: str | None = None) -> None:
        """Forget an uploaded picture. Raises GessoError: asset_missing, asset_in_use."""
        self.get_upload(id, owner)

        def work(connection: Connection) -> None:
            user = connection.scalars(select(job_uploads.c.job).where(job_uploads.c.upload == id).limit(1)).first()
            if user is not None:
                raise GessoError(
                    f"the uploaded picture {short(id)} belongs to the job {user}. Delete that first",
                    code="asset_in_use",
                    data={"job": user},
                )
            connection.execute(delete(uploads).where(uploads.c.id == id))

        self._write(work)

    # ---- for workers -------------------------------------------------------------------------------------------------

    def claim(self, worker: str, *, lease_seconds: float, warm: Collection[str] = ()) -> Lease | None:
        """The next job, for a worker to hold for so long, unless it renews the lease; None: nothing waits.

        Owners take turns: the one that was served the longest time ago is next, with its job of the highest priority,
        the oldest of these first. Jobs for models of `warm`, which the worker has loaded, may overtake a few others of
        their owner and priority for a while.
        """
        leases = self.claim_many(worker, 1, lease_seconds=lease_seconds, warm=warm)
        return leases[0] if leases else None

    def claim_many(
        self,
        worker: str,
        count: int,
        *,
        lease_seconds: float,
        warm: Collection[str] = (),
        model: str | None = None,
        max_cost: float | None = None,
        patience: float = 0.0,
    ) -> list[Lease]:
        """Up to so many jobs of one model, the next first, for a worker to draw together. See `claim`.

        model     only for this model, since the worker draws with it already. Where the job whose turn it is is for
                  another model and has waited for `patience` seconds, there are none
        max_cost  only jobs that cost no more, see `cost_of`, wherever they stand: to be drawn in between
        A job with which a worker died is given out alone, and only where no model is asked for. One that is too late
        is told so when it is the first.
        """

        def work(connection: Connection) -> list[Lease]:
            if is_lapsed:
                self._take_back(connection)
            now = self._clock()
            if model is not None:
                head = self._next(connection, warm=())
                if head is not None and head.model != model and now - head.created_at >= patience:
                    return []
            while True:
                first = self._next(connection, warm=warm, model=model, max_cost=max_cost)
                if first is None or (first.crashes and model is not None):
                    return []
                if not _is_late(first, now):
                    break
                self._end(connection, [jobs.c.id == first.id], JobStatus.EXPIRED)
            rows = [first]
            if count > 1 and not first.crashes:
                rows += self._behind(connection, first, count - 1, max_cost, now)
            return self._lease(connection, rows, worker, lease_seconds)

        is_queued, is_lapsed = self._look()
        if not (is_queued or is_lapsed):
            return []
        return self._write(work, durable=False)  # a lease that is lost with the machine's power was of no use

    def _look(self) -> tuple[bool, bool]:
        """Whether anything waits, and whether a lease has lapsed: an idle worker asks often, and writes nothing."""
        is_queued = bool(self.database.glance(_WAITS))
        now = time.monotonic()
        if is_queued and now - self._lapses_seen < LAPSE_SECONDS:
            return True, False
        self._lapses_seen = now
        lapsed = self._read(
            lambda connection: connection.execute(select(exists().where(self._lapsed(connection)))).scalar_one()
        )
        return is_queued, bool(lapsed)

    def _next(
        self,
        connection: Connection,
        *,
        warm: Collection[str],
        model: str | None = None,
        max_cost: float | None = None,
    ) -> Row[Any] | None:
        """The job whose turn it is."""
        turn = _turn(of_model=model is not None, of_cost=max_cost is not None)
        given = {"model": model, "cost": max_cost}
        owner = connection.scalars(turn.owner, given | {"most": 1}).first()
        if owner is None:
            return None
        rows = connection.execute(turn.line, given | {"this": owner, "most": WARM_CHOICE if warm else 1}).all()
        first = rows[0]
        if first.model in warm or self._clock() - first.created_at > WARM_PATIENCE:
            return first
        return next((row for row in rows if row.model in warm and row.priority == first.priority), first)

    def _behind(
        self, connection: Connection, first: Row[Any], most: int, max_cost: float | None, now: float
    ) -> list[Row[Any]]:
        """Up to so many jobs for the same model that come after this one, as owners take turns."""
        turn = _turn(of_model=True, of_cost=max_cost is not None)
        given = {"model": first.model, "cost": max_cost}
        owners_ = [one for one in connection.scalars(turn.owner, given | {"most": most + 1}) if one != first.owner]
        lines = []
        for owner in [*owners_[:most], first.owner]:
            line = connection.execute(turn.line, given | {"this": owner, "most": most + 1}).all()
            lines.append([row for row in line if row.id != first.id and not _is_late(row, now)][:most])
        found = [row for row in chain.from_iterable(zip_longest(*lines)) if row is not None]
        return list(takewhile(lambda row: not row.crashes, found))[:most]

    def _lease(self, connection: Connection, rows: Sequence[Row[Any]], worker: str, seconds: float) -> list[Lease]:
        now = self._clock()
        last = connection.execute(_LAST_TURN).scalar_one()
        turns = {row.owner: last + number for number, row in enumerate(rows, 1)}
        connection.execute(_SERVE, [{"this": owner, "turn": turn} for owner, turn in turns.items()])
        common = {"status": JobStatus.RUNNING, "started_at": now, "worker": worker, "progress": {}}
        common |= self._lease_values(connection, seconds)
        changed = [
            {"attempts": row.attempts + 1, "fence": row.fence + 1, "last_event": row.last_event + 1} for row in rows
        ]
        connection.execute(
            _TAKE, [{"this": row.id, **common, **values} for row, values in zip(rows, changed, strict=True)]
        )
        data = {"status": JobStatus.RUNNING}
        connection.execute(
            _TAKEN,
            [{"job": row.id, "number": row.last_event + 1, "type": "status", "at": now, "data": data} for row in rows],
        )
        drawn = outputs_of(connection, [row.id for row in rows if row.attempts])
        return [
            Lease(
                job=replace(
                    job_of(row, drawn.get(row.id, ())),
                    status=JobStatus.RUNNING,
                    started_at=now,
                    progress={},
                    attempts=values["attempts"],
                    fence=values["fence"],
                    metrics={"queue_ms": round(max(now - row.created_at, 0.0) * 1000)},
                ),
                worker=worker,
                fence=values["fence"],
                until=now + seconds,
            )
            for row, values in zip(rows, changed, strict=True)
        ]

    def _lease_values(self, connection: Connection, seconds: float) -> dict[str, Any]:
        until = self.database.lease_time(connection) + seconds
        return {"lease_until": until, "lease_clock": self.database.lease_clock}

    def renew(self, lease: Lease, *, lease_seconds: float) -> JobStatus | None:
        """Hold a job for so long from now. -> RUNNING; CANCELING where the worker shall stop; None: it is lost"""

        def work(connection: Connection) -> JobStatus | None:
            values = self._lease_values(connection, lease_seconds)
            statement = update(jobs).where(*_held(lease)).values(values).returning(jobs.c.status)
            status = connection.execute(statement).scalar_one_or_none()
            return None if status is None else JobStatus(status)

        return self._write(work, durable=False)

    def lost(self, lease: Lease) -> None:
        """Say that a worker lives, though it has lost a lease: that was no crash, and is taken off the job's count."""
        counted = (jobs.c.id == lease.job.id, jobs.c.lapsed_fence == lease.fence, jobs.c.status.not_in(_FINAL))
        statement = update(jobs).where(*counted).values(crashes=jobs.c.crashes - 1, lapsed_fence=None)
        self._write(lambda connection: connection.execute(statement))

    def held_by(self, worker: str) -> dict[tuple[str, int], JobStatus]:
        """What a worker holds: id of the job and fence of the lease -> RUNNING or CANCELING. Cheap enough to ask many
        times a second."""
        rows = self._read(lambda connection: connection.execute(_HELD_BY, {"this": worker}).all())
        return {(row.id, row.fence): JobStatus(row.status) for row in rows}

    def progress(self, lease: Lease, state: Mapping[str, Any]) -> bool:
        """Say how far a job is. -> whether the lease holds, as all of these do; where it is lost nothing is written"""
        return self._tell(lease, "progress", state, {"progress": dict(state)})

    def preview(self, lease: Lease, content_type: str, data: bytes) -> bool:
        """Show what a picture looks like by now; only the newest preview is kept."""
        encoded = base64.b64encode(data).decode("ascii")
        return self._tell(lease, "preview", {"content_type": content_type, "data_base64": encoded})

    def notice(self, lease: Lease, notice: Mapping[str, Any]) -> bool:
        """Tell the client something about the job, such as a setting that was ignored."""
        return self._tell(lease, "notice", notice, durable=True)

    def _tell(
        self,
        lease: Lease,
        type: str,
        data: Mapping[str, Any],
        values: Mapping[str, Any] | None = None,
        *,
        durable: bool = False,
    ) -> bool:
        def work(connection: Connection) -> bool:
            return add_event(connection, _held(lease), type, self._clock(), data, values) is not None

        return self._write(work, durable=durable)

    def record(self, drawn: Sequence[Drawn]) -> list[bool]:
        """Write pictures, notices and ends of several jobs at once. -> for each whether its lease holds

        Where it is lost nothing of it is written. What was written before, when the answer did not arrive, is not
        written again. Ends are on the disk within a moment: if the machine loses its power before, the job is drawn
        once more, to the same bytes.
        """

        def work(connection: Connection) -> list[bool]:
            return record(connection, drawn, self._clock(), self.keep_seconds)

        # A picture that is lost with the machine's power is drawn again; an end brings all before it to the disk.
        return self._write(work, durable=any(each.is_done for each in drawn), waits=False)

    def add_output(self, lease: Lease, output: Output) -> bool:
        """Record a finished picture, whose bytes are in the blob store already. The same again changes nothing."""
        return self.record([Drawn(lease=lease, outputs=(output,))])[0]

    def finish(self, lease: Lease, progress: Mapping[str, Any] | None = None) -> bool:
        """The job is done, with its last progress. -> False where the lease was lost, and the job is another's"""
        return self.record([Drawn(lease=lease, is_done=True, progress=progress)])[0]

    def fail(self, lease: Lease, error: Mapping[str, Any]) -> bool:
        """The job cannot be done.  error: code, message, field, data"""
        return self._final(lease, JobStatus.FAILED, error)

    def canceled(self, lease: Lease) -> bool:
        """The worker has stopped a job that was canceled."""
        return self._final(lease, JobStatus.CANCELED)

    def expired(self, lease: Lease) -> bool:
        """The worker has stopped a job whose deadline has passed."""
        return self._final(lease, JobStatus.EXPIRED)

    def _final(
        self,
        lease: Lease,
        status: JobStatus,
        error: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> bool:
        def work(connection: Connection) -> bool:
            if self._end(connection, _held(lease), status, error, values):
                return True
            # Perhaps it was committed before and the answer did not arrive.
            mine = (jobs.c.id == lease.job.id, jobs.c.fence == lease.fence, jobs.c.status == status)
            return connection.execute(select(jobs.c.id).where(*mine)).one_or_none() is not None

        return self._write(work)

    def release(self, lease: Lease) -> bool:
        """Put a job back, which the worker cannot finish now through no fault of the job; it counts as no crash."""

        def work(connection: Connection) -> bool:
            row = connection.execute(select(jobs).where(*_held(lease))).one_or_none()
            if row is not None:
                self._put_back(connection, row)
            return row is not None

        return self._write(work)

    # ---- keeping order -----------------------------------------------------------------------------------------------

    def worker_died(self, worker: str) -> int:
        """Take back what a worker held when it died. -> how many jobs. Each counts one crash."""

        def work(connection: Connection) -> int:
            held = connection.execute(select(jobs).where(jobs.c.worker == worker, HELD)).all()
            for row in held:
                self._count_crash(connection, row)
            connection.execute(delete(workers).where(workers.c.id == worker))
            return len(held)

        return self._write(work)

    def recover(self) -> int:
        """Take back jobs whose leases have lapsed, and expire those that waited too long. -> how many of both

        `claim` does so, too, for those that it comes upon.
        """

        def work(connection: Connection) -> int:
            late = (QUEUED, jobs.c.deadline <= self._clock())
            ids = list(connection.scalars(select(jobs.c.id).where(*late)))
            for id in ids:
                self._end(connection, [jobs.c.id == id], JobStatus.EXPIRED)
            return len(ids) + self._take_back(connection)

        return self._write(work)

    def put_back_all(self) -> int:
        """Put all jobs back that workers hold, and forget the workers: none lives. -> how many. It counts as no crash.

        For a database that comes from a backup.
        """

        def work(connection: Connection) -> int:
            held = connection.execute(select(jobs).where(HELD)).all()
            for row in held:
                self._put_back(connection, row)
            connection.execute(delete(workers))
            return len(held)

        return self._write(work)

    def _take_back(self, connection: Connection) -> int:
        lapsed = connection.execute(select(jobs).where(self._lapsed(connection))).all()
        for row in lapsed:
            self._count_crash(connection, row)
        return len(lapsed)

    def _lapsed(self, connection: Connection) -> Any:
        other_clock = jobs.c.lease_clock != self.database.lease_clock
        is_late = jobs.c.lease_until <= self.database.lease_time(connection)
        return and_(HELD, or_(other_clock, is_late))

    def _count_crash(self, connection: Connection, row: Row[Any]) -> None:
        """The worker of a job is gone: back to the queue, or aside."""
        if row.crashes + 1 >= self.max_crashes and row.status == JobStatus.RUNNING:
            error = GessoError(
                f"{row.crashes + 1} worker processes ended while they drew this, so it is not tried again. "
                "Ask for a smaller picture, or see the server's log",
                code="worker_crashed",
                data={"crashes": row.crashes + 1},
            )
            counted = {"crashes": row.crashes + 1, "lapsed_fence": row.fence}
            self._end(connection, [jobs.c.id == row.id], JobStatus.FAILED, error_value(error), counted)
        else:
            connection.execute(
                update(jobs).where(jobs.c.id == row.id).values(crashes=jobs.c.crashes + 1, lapsed_fence=jobs.c.fence)
            )
            self._put_back(connection, row)

    def _put_back(self, connection: Connection, row: Row[Any]) -> None:
        if row.status == JobStatus.CANCELING:
            self._end(connection, [jobs.c.id == row.id], JobStatus.CANCELED)
            return
        values: dict[str, Any] = {
            "status": JobStatus.QUEUED,
            "started_at": None,
            "worker": None,
            "lease_until": None,
            "progress": {},
        }
        change(connection, [jobs.c.id == row.id], values, self._clock())

    def _end(
        self,
        connection: Connection,
        conditions: Sequence[Any],
        status: JobStatus,
        error: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> bool:
        """Bring a job into a final state, where the conditions hold. -> whether they did"""
        now = self._clock()
        ended = {
            "status": status,
            "completed_at": now,
            "expires_at": None if self.keep_seconds is None else now + self.keep_seconds,
            "worker": None,
            "lease_until": None,
            "error": None if error is None else dict(error),
            **(values or {}),
        }
        row = change(connection, conditions, ended, now)
        if row is None:
            return False
        connection.execute(delete(events).where(events.c.job == row.id, events.c.type == "preview"))
        if row.webhook is not None:
            connection.execute(update(jobs).where(jobs.c.id == row.id).values(webhook_at=now))
        return True

    def sweep(self) -> int:
        """Forget jobs, uploads and deleted pictures whose time is over. -> how many. Their bytes go later.

        A job stays that has a picture with a star or on a board.
        """

        def work(connection: Connection) -> int:
            now = self._clock()
            over = (jobs.c.expires_at <= now, jobs.c.status.in_(_FINAL), ~is_kept(jobs.c.id))
            gone = connection.execute(delete(jobs).where(*over)).rowcount
            trash = select(pictures.c.output).where(pictures.c.deleted_at <= now - TRASH_SECONDS)
            gone += connection.execute(delete(outputs).where(outputs.c.id.in_(trash))).rowcount
            unused = ~exists().where(job_uploads.c.upload == uploads.c.id)
            gone += connection.execute(delete(uploads).where(uploads.c.expires_at <= now, unused)).rowcount
            return gone

        return self._write(work)

    def referenced(self, digests: Iterable[str]) -> set[str]:
        """Those of these SHA-256 that a finished or an uploaded picture has."""
        asked = list(digests)

        def work(connection: Connection) -> set[str]:
            found: set[str] = set()
            for start in range(0, len(asked), 500):
                part = asked[start : start + 500]
                for table in (outputs, uploads):
                    found.update(connection.scalars(select(table.c.digest).where(table.c.digest.in_(part))))
            return found

        return self._read(work)

    # ---- workers and webhooks ----------------------------------------------------------------------------------------

    def worker_seen(self, worker: Worker) -> None:
        """Record that a worker lives, and what it has loaded."""

        def work(connection: Connection) -> None:
            connection.execute(delete(workers).where(workers.c.id == worker.id))
            connection.execute(insert(workers).values(**_plain(worker)))

        self._write(work, durable=False)

    def workers(self, *, seen_within: float = 60.0) -> list[Worker]:
        """The workers that live."""
        statement = select(workers).where(workers.c.seen_at >= self._clock() - seen_within).order_by(workers.c.id)
        rows = self._read(lambda connection: connection.execute(statement).all())
        return [_worker(row) for row in rows]

    def worker_left(self, worker: str) -> None:
        """Forget a worker that has ended well."""
        self._write(lambda connection: connection.execute(delete(workers).where(workers.c.id == worker)))

    def webhooks_due(self, limit: int = 20) -> list[Webhook]:
        """Final jobs that someone is still to be told of."""
        due = select(jobs.c.id, jobs.c.webhook, jobs.c.webhook_tries).where(jobs.c.webhook_at <= self._clock())
        rows = self._read(lambda connection: connection.execute(due.order_by(jobs.c.webhook_at).limit(limit)).all())
        return [Webhook(job=row.id, target=row.webhook, tries=row.webhook_tries) for row in rows]

    def webhook_told(self, job: str, *, again_in: float | None = None) -> None:
        """Someone was told of a job's end; or was not, and shall be told again in so many seconds."""
        at = None if again_in is None else self._clock() + again_in
        values: dict[str, Any] = {"webhook_at": at, "webhook_tries": jobs.c.webhook_tries + 1}
        self._write(lambda connection: connection.execute(update(jobs).where(jobs.c.id == job).values(values)))


@dataclass(frozen=True)
class _Turn:
    """Statements that look for the next job: owners whose turn it is, and the line of one of them."""

    owner: Any
    line: Any


@cache
def _turn(*, of_model: bool, of_cost: bool) -> _Turn:
    """Those for any job, or for those of one model, or that cost no more. Put together once, which takes longer than to
    carry them out."""
    waits: list[Any] = [QUEUED]
    if of_model:
        waits.append(jobs.c.model == bindparam("model"))
    if of_cost:
        waits.append(jobs.c.cost <= bindparam("cost"))
    any_of_theirs: Any = exists().where(jobs.c.owner == owners.c.owner, *waits)
    if of_cost:  # few have such jobs
        any_of_theirs = owners.c.owner.in_(select(jobs.c.owner).where(*waits))
    turns = select(owners.c.owner).where(~owners.c.paused, any_of_theirs).order_by(owners.c.served, owners.c.owner)
    line = select(jobs).where(jobs.c.owner == bindparam("this"), *waits).order_by(jobs.c.priority.desc(), jobs.c.seq)
    return _Turn(turns.limit(bindparam("most")), line.limit(bindparam("most")))


_FINAL_OF = select(jobs).where(jobs.c.id.in_(bindparam("ids", expanding=True)), jobs.c.status.in_(_FINAL))
_LAST_TURN = select(func.coalesce(func.max(owners.c.served), 0))
_TAKEN = insert(events)
_HELD_BY = select(jobs.c.id, jobs.c.fence, jobs.c.status).where(jobs.c.worker == bindparam("this"), HELD)
_SERVE = update(owners).where(owners.c.owner == bindparam("this")).values(served=bindparam("turn"))
_TAKE = (
    update(jobs)
    .where(jobs.c.id == bindparam("this"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "status",
                "started_at",
                "worker",
                "progress",
                "lease_until",
                "lease_clock",
                "attempts",
                "fence",
                "last_event",
            )
        }
    )
)

# ---- conditions ------------------------------------------------------------------------------------------------------


def _of(owner: str | None) -> Any:
    return jobs.c.owner == owner if owner is not None else jobs.c.seq > 0


def _is_late(row: Row[Any], now: float) -> bool:
    return row.deadline is not None and row.deadline <= now


def _held(lease: Lease) -> tuple[Any, ...]:
    return jobs.c.id == lease.job.id, jobs.c.fence == lease.fence, HELD


def _same_upload(owner: str, digest: str, id: str | None = None) -> Any:
    same = [uploads.c.owner == owner, uploads.c.digest == digest, *([] if id is None else [uploads.c.id == id])]
    return select(uploads).where(*same).order_by(uploads.c.expires_at.desc().nulls_first(), uploads.c.id).limit(1)


def _lasts(row: Row[Any], until: float | None) -> bool:
    """Whether an upload is kept until then; None: for ever."""
    return row.expires_at is None or (until is not None and row.expires_at >= until)


def _job_row(connection: Connection, id: str, owner: str | None) -> Row[Any]:
    row = connection.execute(select(jobs).where(jobs.c.id == id, _of(owner))).one_or_none()
    if row is None:
        raise GessoError(f"no job {short(id)}", code="job_missing", data={"id": id[:64]})
    return row


# ---- values ----------------------------------------------------------------------------------------------------------


def _plain(worker: Worker) -> dict[str, Any]:
    return {**asdict(worker), "models": list(worker.models), "numbers": dict(worker.numbers)}


def _worker(row: Row[Any]) -> Worker:
    return Worker(**{**row._mapping, "models": tuple(row.models), "numbers": row.numbers or {}})
