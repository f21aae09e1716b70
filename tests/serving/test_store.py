"""The queue: what is accepted stays, is worked by one at a time, and ends once."""

import errno
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from gesso.errors import GessoError
from gesso.serving.gallery import Filter, Gallery
from gesso.serving.jobs import Drawn, JobStatus, Lease, NewJob, Output, Upload, Work, Worker
from gesso.serving.rows import cost_of
from gesso.serving.store import TRASH_SECONDS, JobStore
from gesso.serving.tables import REVISION, metadata
from serving.databases import PostgresServer, postgres_server

NOW = 1_800_000_000.0


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def holds(store: JobStore, lease: Lease) -> JobStatus | None:
    return store.held_by(lease.worker).get((lease.job.id, lease.fence))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        JobStore(server.url).close()  # makes the tables
        yield server


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "queue.db"
    JobStore(path).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty queue. Its tables are copied or emptied, which is faster than to make them."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite"), tmp_path / "queue.db")
        return f"sqlite:///{tmp_path / 'queue.db'}"
    url: str = request.getfixturevalue("postgres").url
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
        connection.execute(text(f"UPDATE gesso_queue SET version_num = '{REVISION}'"))
    engine.dispose()
    return url


@pytest.fixture
def bare_url(url: str) -> str:
    """A database without tables."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text("DROP TABLE gesso_queue"))
    engine.dispose()
    return url


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(url, clock=clock)
    lease_clock(store, clock)
    yield store
    store.close()


def lease_clock(store: JobStore, clock: Clock) -> None:
    """Let leases go by the clock of the test."""
    store.database._clock, store.database._clock_name = clock, "test"


def work(prompt: str = "a cat", model: str = "gesso-mini") -> Work:
    return Work(model=model, request={"prompt": prompt})


def new(prompt: str = "a cat", owner: str = "ann", model: str = "gesso-mini", **fields: Any) -> NewJob:
    return NewJob(owner=owner, work=work(prompt, model), **fields)


def output(job: str, index: int = 0, digest: str = "a" * 64) -> Output:
    return Output(
        id=f"{job}-{index}",
        index=index,
        content_type="image/png",
        nbytes=3,
        width=64,
        height=32,
        digest=digest,
        seed=2**64 - 1,
        recipe={"prompt": "a cat"},
        notices=({"code": "prompt_cut", "message": "cut"},),
    )


def refused(call: Callable[..., object], *args: object, **words: object) -> GessoError:
    with pytest.raises(GessoError) as caught:
        call(*args, **words)
    return caught.value


# ---- accepting -------------------------------------------------------------------------------------------------------


def test_a_job_goes_through_its_life(store: JobStore, clock: Clock) -> None:
    job, created = store.submit(new(metadata={"a": [1, None]}, batch="b", priority=3))
    assert created and job.status == JobStatus.QUEUED and job.position == 0 and job.created_at == NOW
    assert store.get(job.id, "ann") == job
    clock.now += 2
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and lease.job.id == job.id and lease.job.status == JobStatus.RUNNING
    assert (lease.job.attempts, lease.fence, lease.job.position, lease.worker) == (1, 1, None, "w")
    assert store.claim("w", lease_seconds=30) is None
    assert store.progress(lease, {"value": 0.5}) and store.progress(lease, {"value": 0.6})
    assert store.preview(lease, "image/jpeg", b"\xff\xd8")
    assert store.notice(lease, {"code": "prompt_cut", "message": "cut"})
    assert store.add_output(lease, output(job.id)) and store.add_output(lease, output(job.id))
    clock.now += 3
    assert store.finish(lease)
    done = store.get(job.id)
    assert done.status == JobStatus.SUCCEEDED and done.completed_at == NOW + 5 and done.progress == {"value": 0.6}
    assert done.metrics == {"queue_ms": 2000, "execution_ms": 3000}
    assert done.outputs == (output(job.id),) and store.output(f"{job.id}-0", "ann") == output(job.id)
    assert (done.work, done.metadata, done.batch, done.priority) == (job.work, {"a": [1, None]}, "b", 3)
    kinds = [(event.number, event.type) for event in store.events_after(job.id)]
    assert kinds == [(1, "status"), (2, "status"), (4, "progress"), (6, "notice"), (7, "output"), (8, "status")]
    assert [event.data.get("status") for event in store.events_after(job.id, 6)] == [None, "succeeded"]
    assert store.counts() == {JobStatus.SUCCEEDED: 1}


def test_the_same_key_is_the_same_job(store: JobStore) -> None:
    first, created = store.submit(new(idempotency_key="k"))
    again, created_again = store.submit(new(idempotency_key="k"))
    assert (created, created_again) == (True, False) and again.id == first.id
    error = refused(store.submit, new("a dog", idempotency_key="k"))
    assert (error.code, error.data) == ("idempotency_key_reuse", {"job": first.id})
    other, created = store.submit(new("a dog", owner="bob", idempotency_key="k"))
    assert created and other.id != first.id
    assert store.counts() == {JobStatus.QUEUED: 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 256},
        {"idempotency_key": "a\nb"},
        {"priority": 11},
        {"deadline": float("nan")},
        {"metadata": {"a": float("inf")}},
        {"metadata": {"a": set()}},
        {"batch": ""},
        {"owner": ""},
    ],
    ids=str,
)
def test_what_no_row_holds_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    store = JobStore(tmp_path / "queue.db")
    assert refused(store.submit, replace(new(), **wrong)).code == "invalid_value"
    assert store.counts() == {}
    store.close()


def test_a_full_queue_says_when_to_come_back(url: str, clock: Clock) -> None:
    store = JobStore(url, max_queued=3, max_queued_per_owner=2, clock=clock)
    for owner in ("ann", "ann", "bob"):
        store.submit(new(owner=owner))
    full = refused(store.submit, new(owner="eve"))
    assert full.code == "queue_full" and full.data["retry_after"] == 5 and not full.data["is_own"]
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and lease.job.owner == "ann"
    clock.now += 8.5
    store.finish(lease)
    store.submit(new(owner="ann"))
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and lease.job.owner == "bob"
    own = refused(store.submit, new(owner="ann"))
    assert own.code == "queue_full" and own.data == {"retry_after": 9, "queued": 2, "limit": 2, "is_own": True}
    store.submit(new(owner="eve"))
    store.close()


def test_several_are_accepted_together_or_not_at_all(url: str) -> None:
    store = JobStore(url, max_queued=3)
    assert refused(store.submit_all, [new()] * 4).code == "queue_full"
    assert store.counts() == {}
    assert [job.position for job, _ in store.submit_all([new()] * 3)] == [0, 1, 2]
    store.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer, encoding: str) -> None:
    """PostgreSQL makes such ones where it is set up without a locale."""
    engine = create_engine(postgres.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        made = f"CREATE DATABASE {encoding.lower()} ENCODING '{encoding}' TEMPLATE template0"
        connection.execute(text(made))
    engine.dispose()
    error = refused(JobStore, postgres.url.replace("/postgres?", f"/{encoding.lower()}?"))
    assert error.code == "database_unusable" and "createdb --encoding UTF8" in str(error)


def test_a_picture_that_is_sent_again_and_again_waits_for_the_disk_now_and_then(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    real = store.database.sync

    def sync() -> None:
        waited.append(clock.now)
        real()

    monkeypatch.setattr(store.database, "sync", sync)
    picture = store.add_upload("ann", "a" * 64, nbytes=3, width=8, height=8, keep_seconds=100)
    begin = clock.now
    for _ in range(30):
        clock.now += 1
        kept = store.keep_upload("ann", "a" * 64, 100)
        assert kept is not None and kept.id == picture.id and (kept.expires_at or 0) >= clock.now + 100
    assert waited == [begin, begin + 1, begin + 12, begin + 23]
    other = JobStore(
        store.database.engine.url.render_as_string(hide_password=False), clock=clock
    )  # has not seen that row reach the disk
    clock.now -= 5
    monkeypatch.setattr(other.database, "sync", lambda: waited.append(-1.0))
    assert other.keep_upload("ann", "a" * 64, 100) == kept and waited[-1] == -1.0
    assert other.keep_upload("ann", "a" * 64, 100) == kept and waited.count(-1.0) == 1
    other.close()


def test_uploads_of_two_at_once_keep_their_bound_and_their_names(store: JobStore) -> None:
    def add(number: int, **how: object) -> Upload | GessoError:
        try:
            return store.add_upload("ann", f"{number:064x}", nbytes=10, width=8, height=8, **how)  # type: ignore[arg-type]
        except GessoError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda _: add(0, once=True), range(16)))
        assert len({one.id for one in same if isinstance(one, Upload)}) == 1, "the same bytes are one picture"
        names = ("cat (1).png", "cat (2).png", "cat (3).png")
        named = list(pool.map(lambda number: add(number, name="cat.png", other_names=names), range(1, 5)))
        assert sorted(one.name for one in named if isinstance(one, Upload)) == ["cat (1).png", *names[1:], "cat.png"]
        bounded = list(pool.map(lambda number: add(number, max_bytes=80), range(5, 21)))
    errors = [one for one in bounded if isinstance(one, GessoError)]
    assert len(errors) == 13 and {error.code for error in errors} == {"too_large"}
    assert add(99, max_bytes=90).id  # type: ignore[union-attr]


def test_a_job_draws_from_pictures_of_its_owner(store: JobStore, clock: Clock) -> None:
    picture = store.add_upload("ann", "a" * 64, nbytes=3, width=8, height=8, name="x", keep_seconds=60)
    assert store.get_upload(picture.id, "ann") == picture == store.find_upload("ann", "a" * 64)
    assert store.keep_upload("ann", "a" * 64, 30) == picture, "it is kept longer than that already"
    clock.now += 50
    again = store.keep_upload("ann", "a" * 64, 60)
    assert again is not None and (again.id, again.expires_at) == (picture.id, clock.now + 66), "a tenth longer"
    clock.now -= 50
    assert store.keep_upload("bob", "a" * 64, 60) is None
    assert refused(store.get_upload, picture.id, "bob").code == "asset_missing"
    using = Work(request={"prompt": "a cat"}, assets={"image": picture.id})
    assert refused(store.submit, NewJob(owner="bob", work=using)).code == "asset_missing"
    job, _ = store.submit(NewJob(owner="ann", work=using))
    assert refused(store.delete_upload, picture.id, "ann").code == "asset_in_use"
    clock.now += 200
    assert store.sweep() == 0 and store.referenced(["a" * 64, "b" * 64]) == {"a" * 64}
    store.cancel(job.id)
    store.delete(job.id)
    assert store.sweep() == 1 and store.referenced(["a" * 64]) == set()


# ---- whose turn it is ------------------------------------------------------------------------------------------------


def claimed(store: JobStore, **words: Any) -> list[str]:
    """The prompts of all that waits, in the order in which one worker gets them."""
    prompts = []
    while lease := store.claim("w", lease_seconds=30, **words):
        prompts.append(str(lease.job.work.request["prompt"]))
        store.finish(lease)
    return prompts


def test_owners_take_turns_and_each_has_its_own_order(store: JobStore) -> None:
    for number in range(4):
        store.submit(new(f"a{number}", owner="ann", priority=int(number == 2)))
    store.submit(new("b0", owner="bob"))
    store.submit(new("b1", owner="bob"))
    store.submit(new("c0", owner="cid"))
    jobs = {job.work.request["prompt"]: job.position for job in store.list_jobs(limit=10).jobs}
    order = ["a2", "b0", "c0", "a0", "b1", "a1", "a3"]
    assert [jobs[prompt] for prompt in order] == list(range(7))
    assert claimed(store) == order
    store.submit(new("a4", owner="ann"))
    store.submit(new("c1", owner="cid"))
    assert claimed(store) == ["c1", "a4"]  # ann was served last


def test_a_loaded_model_goes_first_for_a_while(store: JobStore, clock: Clock) -> None:
    for number, model in enumerate("xyxy"):
        store.submit(new(str(number), model=model))
    store.submit(new("important", model="z", priority=1))
    assert claimed(store, warm={"y"}) == ["important", "1", "3", "0", "2"]
    for number, model in enumerate("xyxy"):
        store.submit(new(str(number), model=model))
    clock.now += 21
    assert claimed(store, warm={"y"}) == ["0", "1", "2", "3"]


def test_several_jobs_of_one_model_are_claimed_together(store: JobStore, clock: Clock) -> None:
    for owner in ("ann", "bob"):
        for number in range(2):
            store.submit(new(f"{owner}{number}", owner=owner, model="x"))
    store.submit(new("other", owner="cid", model="y"))
    leases = store.claim_many("w", 3, lease_seconds=30)
    assert [lease.job.work.request["prompt"] for lease in leases] == ["ann0", "bob0", "ann1"]
    assert [lease.job.work.request["prompt"] for lease in store.claim_many("w", 8, lease_seconds=9, model="x")] == []
    (lease,) = store.claim_many("w", 8, lease_seconds=30, model="x", patience=10)
    assert lease.job.work.request["prompt"] == "bob1"
    clock.now += 11
    store.submit(new("late", model="x"))
    assert store.claim_many("w", 8, lease_seconds=30, model="x", patience=10) == []  # the other has waited enough


def test_short_jobs_are_found_wherever_they_stand(store: JobStore) -> None:
    for steps in (50, 50, None, 4, 8):
        store.submit(NewJob(owner="ann", work=Work(request={"prompt": str(steps), "num_steps": steps})))
    store.submit(NewJob(owner="bob", work=Work(request={"prompt": "large", "num_steps": 4, "width": 2048})))
    found = store.claim_many("w", 9, lease_seconds=30, model="gesso-mini", max_cost=10, patience=60)
    assert [lease.job.work.request["prompt"] for lease in found] == ["4", "8"]


@pytest.mark.parametrize(
    ("request_", "cost"),
    [
        ({}, 20),
        ({"num_steps": 10, "num_images": 3, "width": 1024, "height": 256}, 30),
        ({"num_steps": "many", "num_images": -1, "width": True, "height": 1e300}, 20),
        ({"num_steps": None}, 20),
    ],
)
def test_what_a_job_costs(request_: dict[str, Any], cost: float) -> None:
    assert cost_of(Work(request=request_)) == cost


def test_a_deadline_passes_while_a_job_waits(store: JobStore, clock: Clock) -> None:
    job, _ = store.submit(new(deadline=NOW + 10))
    store.submit(new("later"))
    clock.now += 10
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and lease.job.work.request["prompt"] == "later"
    assert store.get(job.id).status == JobStatus.EXPIRED


# ---- leases ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_gone_loses_the_job_and_cannot_end_it(store: JobStore, clock: Clock) -> None:
    job, _ = store.submit(new())
    slow = store.claim("slow", lease_seconds=30)
    assert slow is not None
    clock.now += 20
    assert store.renew(slow, lease_seconds=30) == JobStatus.RUNNING
    clock.now += 20
    assert store.claim("fast", lease_seconds=30) is None
    clock.now += 10
    fast = store.claim("fast", lease_seconds=30)
    assert fast is not None and (fast.fence, fast.job.attempts, fast.job.crashes) == (2, 2, 1)
    assert holds(store, slow) is None and holds(store, fast) == JobStatus.RUNNING
    late = (
        store.finish(slow),
        store.fail(slow, {"code": "internal"}),
        store.canceled(slow),
        store.expired(slow),
        store.release(slow),
        store.progress(slow, {}),
        store.preview(slow, "image/png", b""),
        store.notice(slow, {}),
        store.add_output(slow, output(job.id)),
    )
    assert not any(late) and store.get(job.id).outputs == ()
    assert store.finish(fast) and store.finish(fast)  # the second time says what is so
    assert not store.fail(fast, {"code": "internal"})
    assert store.get(job.id).status == JobStatus.SUCCEEDED


def test_a_job_is_set_aside_when_two_workers_died_with_it(store: JobStore, clock: Clock) -> None:
    job, _ = store.submit(new())
    store.submit(new("b"))
    lease = store.claim("one", lease_seconds=30)
    assert lease is not None and lease.job.id == job.id
    assert store.worker_died("one") == 1 and store.worker_died("one") == 0
    again = store.get(job.id)
    assert (again.status, again.crashes, again.attempts) == (JobStatus.QUEUED, 1, 1)
    assert [lease.job.id for lease in store.claim_many("two", 2, lease_seconds=30)] == [job.id]  # alone
    clock.now += 30
    assert store.recover() == 1
    failed = store.get(job.id)
    assert failed.status == JobStatus.FAILED and failed.error is not None
    assert (failed.error["code"], failed.crashes) == ("worker_crashed", 2)


def test_a_job_that_crashed_joins_no_others(store: JobStore) -> None:
    store.submit(new("poison"))
    assert store.claim("one", lease_seconds=30) is not None
    store.worker_died("one")
    assert store.claim_many("two", 1, lease_seconds=30, model="gesso-mini") == []


def test_a_worker_that_was_merely_slow_is_no_crash(store: JobStore, clock: Clock) -> None:
    job, _ = store.submit(new())
    for number in range(4):
        lease = store.claim(f"slow {number}", lease_seconds=30)
        assert lease is not None
        clock.now += 30
        store.recover()
        assert store.get(job.id).crashes == 1
        assert store.renew(lease, lease_seconds=30) is None
        store.lost(lease)
        store.lost(lease)  # which counts once
        assert store.get(job.id).crashes == 0
    assert store.get(job.id).status == JobStatus.QUEUED


def test_only_the_crash_that_was_none_is_taken_off(url: str, clock: Clock) -> None:
    store = JobStore(url, clock=clock, max_crashes=5)
    job, _ = store.submit(new())
    leases = []
    for worker in ("slow", "dead"):
        lease = store.claim(worker, lease_seconds=30)
        assert lease is not None
        leases.append(lease)
        store.worker_died(worker)
    store.lost(leases[0])
    assert store.get(job.id).crashes == 2
    store.lost(leases[1])
    assert store.get(job.id).crashes == 1
    store.close()


def test_a_canceled_job_whose_workers_die_is_canceled(store: JobStore) -> None:
    job, _ = store.submit(new())
    for worker in ("one", "two"):
        assert store.claim(worker, lease_seconds=30) is not None
        if worker == "two":
            store.cancel(job.id)
        store.worker_died(worker)
    assert store.get(job.id).status == JobStatus.CANCELED


def test_giving_back_counts_no_crash(store: JobStore) -> None:
    job, _ = store.submit(new())
    for _ in range(3):
        lease = store.claim("w", lease_seconds=30)
        assert lease is not None and store.release(lease) and not store.release(lease)
    again = store.get(job.id)
    assert (again.status, again.crashes, again.attempts, again.position) == (JobStatus.QUEUED, 0, 3, 0)


def test_the_clock_on_the_wall_ends_no_lease(tmp_path: Path, clock: Clock) -> None:
    """An hour of daylight saving, a clock that is set: leases go by the kernel's own."""
    store = JobStore(tmp_path / "queue.db", clock=clock)
    store.submit(new())
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None
    for step in (86_400, -2 * 86_400):
        clock.now += step
        assert store.recover() == 0 and holds(store, lease) == JobStatus.RUNNING
    store.database._clock_name = "after the machine started anew"
    assert store.recover() == 1 and holds(store, lease) is None
    store.close()


# ---- canceling -------------------------------------------------------------------------------------------------------


def test_cancel_at_each_moment(store: JobStore) -> None:
    job, _ = store.submit(new())
    assert store.cancel(job.id, "ann").status == JobStatus.CANCELED
    assert store.cancel(job.id, "ann").status == JobStatus.CANCELED
    job, _ = store.submit(new())
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and lease.job.id == job.id
    assert store.cancel(job.id).status == store.cancel(job.id).status == JobStatus.CANCELING
    assert store.renew(lease, lease_seconds=30) == holds(store, lease) == JobStatus.CANCELING
    assert store.canceled(lease) and store.canceled(lease)
    assert [event.data["status"] for event in store.events_after(job.id)] == [
        "queued",
        "running",
        "canceling",
        "canceled",
    ]
    job, _ = store.submit(new())
    assert store.claim("w", lease_seconds=30) is not None
    store.cancel(job.id)
    store.worker_died("w")
    assert store.get(job.id).status == JobStatus.CANCELED
    assert store.cancel_all(owner="ann") == 0
    store.submit_all([new()] * 3)
    assert store.cancel_all(owner="bob") == 0 and store.cancel_all(owner="ann") == 3


def test_retry_is_a_new_job_of_the_same_work(store: JobStore) -> None:
    job, _ = store.submit(new(idempotency_key="k", metadata={"a": 1}))
    assert refused(store.retry, job.id).code == refused(store.delete, job.id).code == "job_not_final"
    store.cancel(job.id)
    again = store.retry(job.id, "ann")
    assert again.id != job.id and (again.work, again.metadata, again.status) == (job.work, {"a": 1}, JobStatus.QUEUED)


# ---- who sees what ---------------------------------------------------------------------------------------------------


def test_others_jobs_are_as_if_they_were_not(store: JobStore) -> None:
    job, _ = store.submit(new())
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None
    store.add_output(lease, output(job.id))
    missing = [refused(call, "0" * 26, "ann") for call in (store.get, store.cancel, store.retry, store.delete)]
    for id in (job.id, "0" * 26, "' OR 1=1 --"):
        for call, absent in zip((store.get, store.cancel, store.retry, store.delete), missing, strict=True):
            error = refused(call, id, "bob")
            assert (error.code, error.message.replace(repr(id), "")) == (
                "job_missing",
                absent.message.replace(repr("0" * 26), ""),
            )
        assert refused(store.events_after, id, owner="bob").code == "job_missing"
    assert refused(store.output, f"{job.id}-0", "bob").code == "output_missing"
    assert store.list_jobs(owner="bob").jobs == () and store.counts("bob") == {}
    assert store.get(job.id).status == JobStatus.RUNNING


def test_pages_of_a_list(store: JobStore) -> None:
    store.submit_all([new(str(number), owner="ann" if number % 2 else "bob", batch="x") for number in range(10)])
    prompts, cursor, pages = [], None, 0
    while True:
        page = store.list_jobs(owner="ann", limit=2, cursor=cursor, batch="x", statuses=[JobStatus.QUEUED])
        prompts += [job.work.request["prompt"] for job in page.jobs]
        pages, cursor = pages + 1, page.cursor
        if cursor is None:
            break
    assert (prompts, pages) == (["9", "7", "5", "3", "1"], 3)
    assert store.list_jobs(batch="y").jobs == store.list_jobs(statuses=[JobStatus.FAILED]).jobs == ()
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "é"}, {"cursor": "am9iczotMQ"}):
        assert refused(store.list_jobs, **wrong).code == "invalid_value"


def test_changes_are_seen_from_other_processes(store: JobStore, url: str) -> None:
    before = store.changes()
    assert store.changes() == before
    other = JobStore(url)
    other.submit(new())
    after = store.changes()
    assert after != before and store.changes() == after
    store.submit(new())
    assert store.changes() != after
    other.close()


# ---- time goes by ----------------------------------------------------------------------------------------------------


def test_final_jobs_are_forgotten_in_time(url: str, clock: Clock) -> None:
    store = JobStore(url, clock=clock, keep_seconds=60)
    job, _ = store.submit(new(idempotency_key="k"))
    lease = store.claim("w", lease_seconds=3000)
    assert lease is not None
    store.add_output(lease, output(job.id))
    clock.now += 1000
    assert store.sweep() == 0  # not while it runs
    store.finish(lease)
    assert store.get(job.id).expires_at == clock.now + 60
    clock.now += 60
    assert store.referenced(["a" * 64]) == {"a" * 64}
    assert store.sweep() == 1 and store.sweep() == 0
    assert refused(store.get, job.id).code == "job_missing" and store.referenced(["a" * 64]) == set()
    assert store.submit(new(idempotency_key="k"))[1]
    store.close()


def test_webhooks_wait_for_the_end(store: JobStore, clock: Clock) -> None:
    job, _ = store.submit(new(webhook={"url": "https://example.org", "secret": "s"}))
    assert store.webhooks_due() == []
    store.cancel(job.id)
    (due,) = store.webhooks_due()
    assert (due.job, due.tries, due.target["secret"]) == (job.id, 0, "s")
    store.webhook_told(job.id, again_in=10)
    assert store.webhooks_due() == []
    clock.now += 10
    assert store.webhooks_due()[0].tries == 1
    store.webhook_told(job.id)
    assert store.webhooks_due() == []


def test_workers_are_known_while_they_live(store: JobStore, clock: Clock) -> None:
    for models in ((), ("gesso-mini",)):
        store.worker_seen(Worker(id="w", device="cpu", pid=1, started_at=NOW, seen_at=clock.now, models=models))
    assert [worker.models for worker in store.workers()] == [("gesso-mini",)]
    clock.now += 100
    assert store.workers() == []
    store.worker_left("w")


def test_the_library_of_pictures(store: JobStore, clock: Clock) -> None:
    """What `Gallery` asks is answered by both databases alike."""
    gallery = Gallery(store.database, clock)
    ids = []
    for prompt in ("a red car", "100% cat", "a dog"):
        store.submit(new(prompt))
        lease = store.claim("w", lease_seconds=30)
        assert lease is not None
        store.add_output(lease, replace(output(lease.job.id), recipe={"request": {"prompt": prompt, "num_steps": 8}}))
        store.finish(lease)
        ids.append(f"{lease.job.id}-0")
    before = store.gallery_changes("ann")

    def shown(**wanted: Any) -> list[str]:
        page = gallery.list(Filter(**wanted), limit=2)
        assert page.total == len(page.pictures) + (page.cursor is not None)
        return [picture.id for picture in page.pictures]

    assert shown(owner="ann") == shown() == ids[:0:-1] and shown(owner="bob") == []
    assert shown(query="CAR steps:8") == [ids[0]] and shown(query="0%") == [ids[1]] and shown(query="_") == []
    gallery.edit(ids[:2], "ann", starred=True)
    board = gallery.add_board("ann", "pets")
    gallery.edit([ids[1], ids[2]], "ann", add_to=board.id)
    assert shown(starred=True) == ids[1::-1] and shown(owner="ann", board=board.id) == ids[:0:-1]
    assert [(one.count, one.cover) for one in gallery.boards("ann")] == [(2, ids[2])]
    gallery.edit([ids[2]], "ann", deleted=True)
    assert shown(board=board.id) == [ids[1]] and shown(deleted=True) == [ids[2]]
    assert store.gallery_changes("ann") > before and store.gallery_changes("bob") == 0
    clock.now += TRASH_SECONDS + 1
    assert store.sweep() == 1 and shown(deleted=True) == []
    store.set_paused("ann", True)
    job, _ = store.submit(new())
    assert store.is_paused("ann") and store.claim("w", lease_seconds=30) is None
    store.set_paused("ann", False)
    assert store.set_priority(job.id, 4, "ann").priority == 4 and store.claim("w", lease_seconds=30) is not None
    gallery.delete_board(board.id, "ann")
    assert refused(gallery.board, board.id).code == refused(gallery.edit, ids, add_to=board.id).code == "board_missing"


# ---- many at once ----------------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], object]) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_race_for_one_key_makes_one_job(url: str) -> None:
    stores = [JobStore(url), JobStore(url)]
    found: list[tuple[str, bool]] = []

    def submit(number: int) -> None:
        for key in range(10):
            job, created = stores[number % 2].submit(new(idempotency_key=str(key)))
            found.append((job.id, created))

    in_threads(8, submit)
    assert len(found) == 80 and len({id for id, _ in found}) == sum(created for _, created in found) == 10
    for store in stores:
        store.close()


def test_a_race_for_jobs_gives_each_to_one(url: str) -> None:
    stores = [JobStore(url), JobStore(url)]
    stores[0].submit_all([new(owner=str(number % 3)) for number in range(40)])
    taken: list[str] = []

    def claim(number: int) -> None:
        while lease := stores[number % 2].claim(f"w{number}", lease_seconds=30):
            taken.append(lease.job.id)
            assert stores[number % 2].finish(lease)

    in_threads(6, claim)
    assert len(taken) == len(set(taken)) == 40
    assert stores[0].counts() == {JobStatus.SUCCEEDED: 40}
    for store in stores:
        store.close()


# ---- the database ----------------------------------------------------------------------------------------------------


def test_tables_are_those_that_the_migrations_make(store: JobStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from gesso.serving import tables

    with store.database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "gesso_queue", "compare_type": True, "include_name": lambda *_: True}
        )
        assert compare_metadata(context, tables.metadata) == []


def test_the_newest_migration_is_the_one_that_is_expected() -> None:
    from alembic.script import ScriptDirectory

    import gesso.serving
    from gesso.serving.tables import REVISION

    folder = Path(gesso.serving.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_heads() == [REVISION]


def test_a_database_of_a_newer_gesso_is_left_alone(url: str) -> None:
    store = JobStore(url)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE gesso_queue SET version_num = '9999'"))
    assert refused(JobStore, url).code == "newer_version"
    store.close()


def test_many_open_an_empty_database_at_once(bare_url: str) -> None:
    def open_it(number: int) -> None:
        store = JobStore(bare_url)
        assert store.counts() == {}
        store.close()

    in_threads(6, open_it)


def test_sqlite_is_set_up_for_work_that_must_not_be_lost(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "queue.db")
    with store.database.writing() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 1, 1, 30000]
    store.close()
    with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class Disk:
    """What is on the disk when the power fails: the database as it was when the log was last brought there."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.image, self.syncs = path, path.with_name("after"), 0
        self.error: OSError | None = None
        self.lock = threading.Lock()
        self.image.mkdir()
        monkeypatch.setattr("gesso.serving.sync.os.fdatasync", self.sync)

    def sync(self, handle: int) -> None:
        log = Path(f"{self.path}-wal")
        assert os.path.samestat(os.fstat(handle), log.stat())
        if self.error is not None:
            raise self.error
        with self.lock:
            for file in (self.path, log):
                shutil.copy(file, self.image / file.name)
        self.syncs += 1

    def after_power_loss(self) -> JobStore:
        shutil.rmtree(self.path.with_name("again"), ignore_errors=True)
        with self.lock:
            shutil.copytree(self.image, self.path.with_name("again"))
        return JobStore(self.path.with_name("again") / self.path.name)


def test_what_was_accepted_is_on_the_disk_before_anybody_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JobStore(tmp_path / "queue.db")
    disk = Disk(tmp_path / "queue.db", monkeypatch)
    told: list[str] = []

    def submit(number: int) -> None:
        for count in range(5):
            job, _ = store.submit(new(idempotency_key=f"{number} {count}"))
            told.append(job.id)
            if number == 0:  # the power fails here: what clients were told of is there
                known = list(told)
                after = disk.after_power_loss()
                assert {after.get(id).id for id in known} == set(known)
                after.close()

    in_threads(8, submit)
    assert len(told) == 40
    job = store.cancel(told[0])
    assert job.status == JobStatus.CANCELED
    after = disk.after_power_loss()
    assert after.get(told[0]).status == JobStatus.CANCELED and len(after.list_jobs(limit=100).jobs) == 40
    after.close()
    store.close()


def test_one_fsync_serves_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, syncs = JobStore(tmp_path / "queue.db"), list[float]()

    def slow(handle: int) -> None:
        syncs.append(time.monotonic())
        time.sleep(0.05)

    monkeypatch.setattr("gesso.serving.sync.os.fdatasync", slow)
    in_threads(16, lambda number: [store.submit(new()) for _ in range(4)] and None)
    assert store.counts() == {JobStatus.QUEUED: 64}
    assert len(syncs) <= 24, "each submission had an fsync of its own"
    store.close()


def test_a_log_that_did_not_reach_the_disk_is_believed_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of a lost page once. What was accepted after that has to be in the database itself."""
    store = JobStore(tmp_path / "queue.db")
    disk = Disk(tmp_path / "queue.db", monkeypatch)
    disk.error = OSError(errno.EIO, "Input/output error")
    assert refused(store.submit, new()).code == "database_unusable"
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    assert refused(store.submit, new()).code == "disk_full"
    disk.error = None
    job, _ = store.submit(new())
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "queue.db", tmp_path / "only" / "queue.db")  # without the log
    after = JobStore(tmp_path / "only" / "queue.db")
    assert after.counts() == {JobStatus.QUEUED: 3}  # those as well whose clients were told of the error
    after.close()
    again = disk.after_power_loss()
    assert again.get(job.id).status == JobStatus.QUEUED
    again.close()
    store.close()


def test_an_end_reaches_the_disk_within_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path / "queue.db")
    disk = Disk(tmp_path / "queue.db", monkeypatch)
    store.submit(new())
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and store.add_output(lease, output(lease.job.id))
    before = disk.syncs
    assert store.finish(lease)
    until = time.monotonic() + 10
    while disk.syncs == before and time.monotonic() < until:
        time.sleep(0.01)
    after = disk.after_power_loss()
    assert after.get(lease.job.id).status == JobStatus.SUCCEEDED and len(after.get(lease.job.id).outputs) == 1
    after.close()
    store.close()


def test_a_race_of_cancelling_and_finishing_ends_a_job_once(url: str) -> None:
    """A worker that ends its jobs while their client cancels them: each has one end, and says so once."""
    stores = [JobStore(url), JobStore(url)]
    ids = [job.id for job, _ in stores[0].submit_all([new()] * 60)]
    leases = stores[0].claim_many("w", 40, lease_seconds=60)  # the others wait
    assert len(leases) == 40
    start = threading.Barrier(2)

    def finish(lease: Lease) -> None:
        if holds(stores[0], lease) == JobStatus.CANCELING:
            assert stores[0].canceled(lease)
        else:  # may be canceled by now, and is done nevertheless
            said = Drawn(lease=lease, outputs=(output(lease.job.id),), is_done=True, progress={"value": 1.0})
            assert stores[0].record([said]) == [True]

    def race(number: int) -> None:
        start.wait()
        for lease in leases if number == 0 else ():
            finish(lease)
        for id in (*reversed(ids[20:]), *ids[:20]) if number == 1 else ():
            stores[1].cancel(id)

    in_threads(2, race)
    for id in ids:
        job = stores[0].get(id)
        told = [event.data["status"] for event in stores[0].events_after(id) if event.type == "status"]
        assert told[-1] == job.status and sum(JobStatus(one).is_final for one in told) == 1, told
        assert len(job.outputs) == (job.status == JobStatus.SUCCEEDED)
    assert stores[0].counts().keys() <= {JobStatus.CANCELED, JobStatus.SUCCEEDED}
    assert stores[0].counts()[JobStatus.CANCELED] >= 20
    for store in stores:
        store.close()


def test_a_race_for_leases_that_lapse_gives_each_job_one_end(url: str) -> None:
    """Three workers whose leases are too short for their work: each job is finished by one of them."""
    stores = [JobStore(url, max_crashes=10**6) for _ in range(3)]
    ids = [job.id for job, _ in stores[0].submit_all([new(owner=str(number % 4)) for number in range(30)])]
    done: list[str] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        end = time.monotonic() + 60
        while stores[number].counts().keys() - {JobStatus.SUCCEEDED} and time.monotonic() < end:
            leases = stores[number].claim_many(f"w{number}", 4, lease_seconds=0.02)
            time.sleep(0.04 * chance.random())
            said = [Drawn(lease=one, outputs=(output(one.job.id),), is_done=True) for one in leases]
            for one, holds in zip(leases, stores[number].record(said), strict=True):
                done.extend([one.job.id] if holds else [])

    in_threads(3, work)
    assert sorted(done) == sorted(ids) and stores[0].counts() == {JobStatus.SUCCEEDED: 30}
    for id in ids:
        told = [event.data.get("status") for event in stores[0].events_after(id)]
        assert told.count("succeeded") == 1 and len(stores[0].get(id).outputs) == 1
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("sqlite://", "invalid_value"),
        ("sqlite:///:memory:", "invalid_value"),
        ("mysql://a:geheim@b/c", "invalid_value"),
        ("http://a b", "invalid_value"),
        ("://", "invalid_value"),
        ("/nowhere/queue.db", "database_unusable"),
    ],
)
def test_what_is_no_database_is_said(url: str, code: str) -> None:
    error = refused(JobStore, url)
    assert error.code == code and "geheim" not in error.message


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"no database" * 1000)
    assert refused(JobStore, tmp_path / "queue.db").code == "database_unusable"


# ---- a database that goes away ---------------------------------------------------------------------------------------


def work_through_restarts(url: str, restart: Callable[[], None], restarts: int) -> None:
    """Jobs come and are done while the database crashes; each is there once, and was finished once."""
    stores = [JobStore(url, max_queued=10**6) for _ in range(3)]
    stop, told, finished = threading.Event(), dict[str, str](), list[str]()

    def submit(number: int) -> None:
        count = 0
        while not stop.is_set():
            key = f"{number}-{count}"
            told[key] = stores[number].submit(new(owner=str(number), idempotency_key=key))[0].id
            count += 1
            time.sleep(0.02)  # no more than one worker finishes

    def finish() -> None:
        while not stop.is_set() or stores[2].counts().get(JobStatus.QUEUED):
            lease = stores[2].claim("w", lease_seconds=1.0)
            if lease is None:
                time.sleep(0.01)
            elif stores[2].add_output(lease, output(lease.job.id)) and stores[2].finish(lease):
                finished.append(lease.job.id)

    def crash() -> None:
        try:
            for _ in range(restarts):
                before = stores[0].changes()
                time.sleep(0.2)
                restart()
                end = time.monotonic() + 60
                while stores[0].changes() == before:  # on a busy machine nothing may have been committed yet
                    assert time.monotonic() < end, "no change is seen after a restart"
                    time.sleep(0.02)
        finally:
            stop.set()

    in_threads(4, lambda number: (submit, submit, lambda _: finish(), lambda _: crash())[number](number))
    deadline = time.monotonic() + 20
    while stores[2].counts().keys() != {JobStatus.SUCCEEDED} and time.monotonic() < deadline:
        stores[2].recover()  # a claim may have been committed whose answer was lost
        finish()
        time.sleep(0.05)
    assert stores[2].counts() == {JobStatus.SUCCEEDED: len(told)}
    assert len(set(told.values())) == len(told) and sorted(finished) == sorted(told.values())
    assert len(stores[2].referenced(["a" * 64])) == 1
    for store in stores:
        store.close()


@pytest.mark.parametrize("restarts", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_postgresql_crashes_while_jobs_come_and_go(
    request: pytest.FixtureRequest, postgres: PostgresServer, restarts: int
) -> None:
    engine = create_engine(postgres.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)}"))
        connection.execute(text(f"UPDATE gesso_queue SET version_num = '{REVISION}'"))
    engine.dispose()
    work_through_restarts(postgres.url, postgres.restart, restarts)


def test_a_database_that_stays_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the lock for ever."""
    monkeypatch.setattr("gesso.serving.database.PATIENCE", 0.2)
    monkeypatch.setattr("gesso.serving.database.BUSY_SECONDS", 0.05)
    store = JobStore(tmp_path / "queue.db")
    with closing(sqlite3.connect(tmp_path / "queue.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert refused(store.submit, new()).code == "database_unusable"
        other.rollback()
    assert store.submit(new())[1]
    store.close()


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "queue.db")
    job, _ = store.submit(new())
    with store.database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit = f"PRAGMA max_page_count = {pages + 2}"
    event.listen(store.database.engine, "connect", lambda connection, _: connection.execute(limit))
    store.database.engine.dispose()  # connections from now on have little room
    assert refused(store.submit, new(metadata={"long": "x" * 100_000})).code == "disk_full"
    assert store.get(job.id) == job and store.counts() == {JobStatus.QUEUED: 1}
    lease = store.claim("w", lease_seconds=30)
    assert lease is not None and store.finish(lease)
    store.close()
