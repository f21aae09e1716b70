"""A backup that is taken while jobs are drawn and deleted is whole, and a server goes on from it."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from gesso.api.context import Context
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.serving import backup as backup_module
from gesso.serving.backup import back_up, restore
from gesso.serving.blobs import BlobStore
from gesso.serving.jobs import JobStatus, NewJob, Work
from gesso.serving.store import JobStore
from gesso.serving.tables import outputs, uploads
from serving.databases import postgres_server
from serving.objects import BUCKET, s3_server
from serving.served import PNG, client, context, finish, lease


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def submit(made: Context, prompt: str) -> str:
    return made.store.submit(NewJob(owner="ann", work=Work(request={"prompt": prompt})))[0].id


def fill(made: Context) -> None:
    """A job of each kind of state, an upload and a key."""
    made.keys.add("anna")
    upload = made.store.add_upload("ann", made.blobs.put(PNG + b"up"), nbytes=1, width=16, height=16)
    made.store.submit(NewJob(owner="ann", work=Work(request={"prompt": "a"}, assets={"image": upload.id})))
    finish(made, lease(made), PNG + b"1")
    submit(made, "runs")
    lease(made)
    submit(made, "waits")


def check_whole(store: JobStore, blobs: BlobStore) -> set[str]:
    """Every picture that a row names is there, and is what was stored. -> their digests"""
    with store.database.reading() as connection:
        named = set(connection.scalars(select(outputs.c.digest))) | set(connection.scalars(select(uploads.c.digest)))
    for digest in named:
        blobs.read(digest)
    return named


@contextmanager
def at_work(made: Context) -> Iterator[list[int]]:
    """Somebody submits, draws and deletes jobs all the time, and sweeps what nobody names. -> how many, by now"""
    stop, done = threading.Event(), [0]

    def work() -> None:
        ids: list[str] = []
        while not stop.is_set():
            ids.append(submit(made, f"job {done[0]}"))
            held = made.store.claim("w", lease_seconds=60)
            assert held is not None
            finish(made, held, PNG + str(done[0]).encode())
            if len(ids) > 5:
                made.store.delete(ids.pop(0))
                made.blobs.sweep(made.store.referenced, grace_seconds=0)
            done[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_a_server_goes_on_from_its_backup(home: Path, tmp_path: Path) -> None:
    with context(home) as made:
        fill(made)
        made_backup = back_up(made.settings, tmp_path / "backup")
        assert (made_backup.jobs, made_backup.pictures, made_backup.copied) == (3, 2, 2)
        again = back_up(made.settings, tmp_path / "backup")
        assert (again.pictures, again.copied, again.deleted) == (2, 0, 0)
        before = {job.id: (job.status, job.outputs) for job in made.store.list_jobs().jobs}
        keys = [key.id for key in made.keys.list()]
    about = json.loads((tmp_path / "backup" / "backup.json").read_text())
    assert (about["jobs"], about["pictures"], about["database"]) == (3, 2, "queue.sqlite3")
    assert not (tmp_path / "backup" / "secret").exists(), "it is kept apart"
    assert not list((tmp_path / "backup").glob("queue.sqlite3-*"))
    other = tmp_path / "other"
    done = restore(tmp_path / "backup", replace(made.settings, home=other))
    assert (done.jobs, done.pictures, done.copied) == (3, 2, 2)
    with context(other) as restored, client(restored, follow_redirects=False):
        check_whole(restored.store, BlobStore(other / "blobs"))
        after = {job.id: (job.status, job.outputs) for job in restored.store.list_jobs().jobs}
        assert after.keys() == before.keys() and [key.id for key in restored.keys.list()] == keys
        running = [id for id, (status, _) in before.items() if status == JobStatus.RUNNING]
        assert len(running) == 1
        for id, (status, drawn) in before.items():
            assert after[id] == (JobStatus.QUEUED if id in running else status, drawn)
        assert restored.store.get(running[0]).crashes == 0
        finish(restored, lease(restored))  # it works on


def test_a_backup_while_jobs_are_drawn_and_deleted_is_whole(home: Path, tmp_path: Path) -> None:
    with context(home) as made, at_work(made) as done:
        for number in range(3):
            begin, end = done[0], time.monotonic() + 60
            while done[0] < begin + 8 and time.monotonic() < end:
                time.sleep(0.01)
            found = back_up(made.settings, tmp_path / "backup")
            other = tmp_path / str(number)
            restore(tmp_path / "backup", replace(made.settings, home=other))
            store = JobStore(other / "queue.sqlite3")
            named = check_whole(store, BlobStore(other / "blobs"))
            assert len(named) == found.pictures - found.deleted > 0 and not found.damaged
            store.close()
            with closing(sqlite3.connect(other / "queue.sqlite3")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_what_is_deleted_in_the_middle_is_left_out(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with context(home) as made:
        ids = [submit(made, name) for name in ("stays", "goes")]
        for id in ids:
            finish(made, lease(made), PNG + id.encode())
        gone = made.store.get(ids[1]).outputs[0].digest
        copy: Callable[..., object] = backup_module._copy

        def meanwhile(*args: object) -> object:
            made.store.delete(ids[1])
            made.blobs.path(gone).unlink()
            return copy(*args)

        monkeypatch.setattr(backup_module, "_copy", meanwhile)
        found = back_up(made.settings, tmp_path / "backup")
        assert (found.deleted, found.damaged) == (1, ())
    store = JobStore(tmp_path / "backup" / "queue.sqlite3")
    assert len(check_whole(store, BlobStore(tmp_path / "backup" / "blobs"))) == 1
    store.close()


def test_damage_is_told_and_mended_where_the_backup_has_the_bytes(home: Path, tmp_path: Path) -> None:
    with context(home) as made:
        submit(made, "a")
        digest = finish(made, lease(made)).digest
        copy = BlobStore(tmp_path / "backup" / "blobs")
        assert back_up(made.settings, tmp_path / "backup").damaged == ()
        made.blobs.path(digest).write_bytes(b"broken")
        assert back_up(made.settings, tmp_path / "backup").damaged == (), "the backup has it, whole"
        copy.path(digest).write_bytes(b"broken too")
        assert back_up(made.settings, tmp_path / "backup").damaged == (digest,)


def test_a_backup_goes_nowhere_where_something_is(home: Path, tmp_path: Path) -> None:
    with context(home) as made:
        back_up(made.settings, tmp_path / "backup")
        for folder, settings, code in (
            (tmp_path / "backup", made.settings, "name_taken"),
            (tmp_path, replace(made.settings, home=tmp_path / "new"), "damaged"),
            (tmp_path / "backup", replace(made.settings, database="postgresql://x@/y"), "mismatch"),
        ):
            with pytest.raises(GessoError) as error:
                restore(folder, settings)
            assert error.value.code == code
        (tmp_path / "backup" / "queue.sqlite3").write_bytes(b"SQLite format 3\0 and nothing")
        with pytest.raises(GessoError) as error:
            restore(tmp_path / "backup", replace(made.settings, home=tmp_path / "new"))
        assert error.value.code == "damaged" and not (tmp_path / "new" / "queue.sqlite3").exists()
        with pytest.raises(GessoError) as error:
            back_up(replace(made.settings, home=tmp_path / "nothing"), tmp_path / "backup2")
        assert error.value.code == "missing"


def test_pictures_in_object_storage_are_backed_up_and_restored_to_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(monkeypatch), context(home, pictures=f"s3://{BUCKET}/a") as made:
        submit(made, "a")
        digest = finish(made, lease(made)).digest
        back_up(made.settings, tmp_path / "backup")
        assert BlobStore(tmp_path / "backup" / "blobs").read(digest) == PNG
        there = replace(made.settings, home=tmp_path / "other", pictures=f"s3://{BUCKET}/b")
        restore(tmp_path / "backup", there)
        with context(tmp_path / "other", pictures=f"s3://{BUCKET}/b") as restored:
            assert restored.blobs.read(digest) == PNG


def test_postgresql_is_dumped_while_jobs_are_drawn(home: Path, tmp_path: Path) -> None:
    with postgres_server() as postgres:
        empty = postgres.url.replace("/postgres?", "/restored?")
        with context(home, database=postgres.url) as made:
            fill(made)
            with at_work(made) as done:
                end = time.monotonic() + 60
                while done[0] < 8 and time.monotonic() < end:
                    time.sleep(0.01)
                found = back_up(made.settings, tmp_path / "backup")
            with made.store.database.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("CREATE DATABASE restored")
            with pytest.raises(GessoError) as error:
                restore(tmp_path / "backup", made.settings)
            assert error.value.code == "name_taken" and "createdb" in error.value.message
        dump = (tmp_path / "backup" / "queue.dump").stat()
        assert found.pictures >= 2 and dump.st_size > 1000 and dump.st_mode & 0o077 == 0
        other = tmp_path / "other"
        restore(tmp_path / "backup", replace(made.settings, database=empty, home=other))
        with context(other, database=empty) as restored:
            assert len(check_whole(restored.store, BlobStore(other / "blobs"))) >= 2
            assert restored.store.counts()[JobStatus.QUEUED] >= 2 and len(restored.keys.list()) == 1
            finish(restored, lease(restored))


def test_the_command(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with context(home) as made:
        fill(made)
        folder = str(tmp_path / "backup")
        assert run(["backup", "make", folder, "--home", str(home), "--with-secret"]) == 0
        assert capsys.readouterr().out == f"{folder}: 3 jobs and 2 pictures backed up, 2 copied\n"
        assert (tmp_path / "backup" / "secret").read_bytes() == (home / "secret").read_bytes()
        for name in ("secret", "queue.sqlite3", "blobs"):
            assert (tmp_path / "backup" / name).stat().st_mode & 0o077 == 0, name
        assert run(["backup", "restore", folder, "--home", str(home)]) == 2
        assert "--home" in capsys.readouterr().err
        other = str(tmp_path / "other")
        assert run(["backup", "restore", folder, "--home", other, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["pictures"] == 2
        assert (tmp_path / "other" / "secret").read_bytes() == (home / "secret").read_bytes()
