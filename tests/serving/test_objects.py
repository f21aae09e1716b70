"""Pictures in object storage, by a real server that speaks S3: whole, checked, and never lost while it is away."""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gesso.errors import GessoError
from gesso.server.run import worker_options
from gesso.serving import drawing as drawing_module
from gesso.serving import objects as objects_module
from gesso.serving import worker as worker_module
from gesso.serving.blobs import BlobStore
from gesso.serving.jobs import JobStatus
from gesso.serving.objects import MARK, ObjectStore
from gesso.serving.settings import read_settings
from gesso.serving.storage import open_blobs
from gesso.serving.worker import WorkerLoop
from serving.drawing_server import drawing_server, working
from serving.objects import BUCKET, S3Server, s3_server
from serving.served import CAR, PNG, client, context, drawn, problem, server

SECONDS = 30.0


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as running:
        yield running


@pytest.fixture
def store(s3: S3Server, tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"s3://{BUCKET}/gesso/", tmp_path / "copies")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is away is found to be so soon, and looked for often."""
    monkeypatch.setattr(objects_module, "PATIENCE", 0.1)
    monkeypatch.setattr(drawing_module, "STORAGE_PAUSE", 0.05)
    monkeypatch.setattr(worker_module, "STORAGE_SECONDS", 0.05)


def refusal(call: Any, *args: Any) -> GessoError:
    with pytest.raises(GessoError) as error:
        call(*args)
    return error.value


def nothing(digests: Iterable[str]) -> set[str]:
    return set()


def age(s3: S3Server, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(s3.folder / BUCKET / "gesso" / name, (then, then))
    s3.changed()


def wait_for(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_bytes_come_back_under_their_hash(store: ObjectStore, s3: S3Server) -> None:
    digest = store.put(b"picture")
    assert digest == hashlib.sha256(b"picture").hexdigest()
    assert store.put(b"picture") == digest and store.read(digest) == b"picture"
    assert s3.files == sorted([f"gesso/{digest[:2]}/{digest[2:4]}/{digest}", f"gesso/{MARK}"])
    assert store.read(store.put(b"")) == b""
    path = store.path(digest)
    assert path.read_bytes() == b"picture" and path.is_relative_to(store.root)
    path.write_bytes(b"pic")  # a copy that is broken is fetched again
    assert store.path(digest).read_bytes() == b"picture"
    store.check()


def test_a_link_leads_to_the_bytes_for_a_while(store: ObjectStore) -> None:
    digest = store.put(PNG)
    answer = httpx.get(store.link(digest, 60))
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, PNG, "image/png")
    link = store.link(digest, 1)
    time.sleep(2.1)
    assert httpx.get(link).status_code in (400, 403)
    assert httpx.get(store.link(digest, 60).replace("X-Amz-Expires=60", "X-Amz-Expires=61")).status_code == 403


def test_what_is_missing_or_damaged_is_told(store: ObjectStore, s3: S3Server) -> None:
    for name in ("", "../" * 21 + "a", "a" * 63 + "\n", "a" * 64):
        assert refusal(store.read, name).code == "missing" and refusal(store.path, name).code == "missing"
    assert refusal(store.link, "../gesso", 60).code == "missing"
    digest = store.put(b"picture")
    (s3.folder / BUCKET / s3.files[0]).write_bytes(b"pictuRe")
    s3.changed()
    assert refusal(store.read, digest).code == "damaged" and refusal(store.path, digest).code == "damaged"
    assert store.put(b"picture") == digest and store.read(digest) == b"picture"


def test_a_sweep_takes_what_no_row_names_and_gives_it_back_where_one_does(store: ObjectStore, s3: S3Server) -> None:
    old, new, named = (store.put(text) for text in (b"old", b"new", b"named"))
    for digest in (old, named):
        age(s3, f"{digest[:2]}/{digest[2:4]}/{digest}", 100)
    wanted = {named}

    def rows(digests: Iterable[str]) -> set[str]:
        return wanted & set(digests)

    assert store.sweep(rows, grace_seconds=60) == 0
    assert f"gesso/swept/{old}" in s3.files and store.read(named) == b"named" and store.read(new) == b"new"
    assert store.read(old) == b"old"  # while it is set aside
    wanted.add(old)  # a row came after all: the same bytes were stored just when the sweep looked
    assert store.sweep(rows, grace_seconds=60) == 0
    assert f"gesso/swept/{old}" not in s3.files and store.read(old) == b"old"
    wanted.discard(old)
    age(s3, f"{old[:2]}/{old[2:4]}/{old}", 100)
    store.sweep(rows, grace_seconds=60)
    age(s3, f"swept/{old}", 100)
    assert store.sweep(rows, grace_seconds=60) == 1
    assert refusal(store.read, old).code == "missing" and store.read(new) == b"new" and f"gesso/{MARK}" in s3.files


def test_local_copies_go_when_nobody_asks_for_them(store: ObjectStore) -> None:
    digest = store.put(b"picture")
    path = store.path(digest)
    store.sweep(lambda digests: set(digests))
    assert path.is_file()
    os.utime(path, (1, 1))
    store.sweep(lambda digests: set(digests))
    assert not path.exists() and store.read(digest) == b"picture"


def test_storage_that_refuses_stops_the_start_and_one_that_is_away_does_not(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    missing = refusal(ObjectStore, "s3://nosuchbucket/x", tmp_path)
    assert missing.code == "storage_unusable" and "nosuchbucket" in missing.message and "exist" in missing.message
    with monkeypatch.context() as patched:
        patched.setenv("AWS_SECRET_ACCESS_KEY", "another")
        wrong = refusal(ObjectStore, f"s3://{BUCKET}", tmp_path)
        assert wrong.code == "storage_unusable" and "credentials" in wrong.message and "another" not in wrong.message
    s3.stop()
    store = ObjectStore(f"s3://{BUCKET}", tmp_path)
    away = refusal(store.put, b"picture")
    assert away.code == "storage_unusable" and f"s3://{BUCKET}" in away.message and "\n" not in away.message
    for call in (store.check, lambda: store.read("a" * 64), lambda: store.sweep(nothing)):
        assert refusal(call).code == "storage_unusable"
    s3.start()
    assert store.read(store.put(b"picture")) == b"picture"
    store.check()


@pytest.mark.parametrize("address", ["s3:/x", "ftp://x/y", "s3://", "s3://a/../b?c", "http://x"])
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    if "://" not in address:
        assert isinstance(open_blobs(str(tmp_path / "s3"), tmp_path), BlobStore)
        return
    error = refusal(open_blobs, address, tmp_path)
    assert error.code == "invalid_value" and error.field == "pictures" and "s3://BUCKET/PREFIX" in error.message


def test_without_obstore_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    error = refusal(ObjectStore, "s3://bucket", tmp_path)
    assert error.code == "missing_extra" and "gesso[objects]" in error.message


# ---- the server ------------------------------------------------------------------------------------------------------


def test_a_picture_is_drawn_stored_and_fetched(s3: S3Server, tmp_path: Path) -> None:
    with (
        drawing_server(tmp_path, pictures=f"s3://{BUCKET}/a") as (address, made),
        httpx.Client(base_url=address, timeout=60) as asking,
    ):
        upload = asking.post("/v1/assets", files={"file": ("a.png", PNG)})
        assert upload.status_code == 201, upload.text
        body = {
            "request": {"prompt": "a red car", "num_steps": 2, "source": {"strength": 0.5}},
            "assets": {"image": upload.json()["id"]},
        }
        job = asking.post("/v1/jobs", json=body).json()
        wait_for(lambda: asking.get(job["urls"]["self"]).json()["status"] not in ("queued", "running"))
        job = asking.get(job["urls"]["self"]).json()
        assert job["status"] == "succeeded", job
        (output,) = job["outputs"]
        picture = asking.get(output["url"])
        digest = made.store.get(job["id"]).outputs[0].digest
        assert hashlib.sha256(picture.content).hexdigest() == digest and picture.headers["etag"] == f'"{digest}"'
        assert asking.get(output["url"], headers={"Range": "bytes=0-3"}).content == b"\x89PNG"
        assert not list((tmp_path / "blobs").rglob("*")) and any(name.endswith(digest) for name in s3.files)
        assert asking.get("/readyz").json()["checks"]["storage"] is True


def test_pictures_by_links(s3: S3Server, tmp_path: Path) -> None:
    with (
        context(tmp_path, pictures=f"s3://{BUCKET}", picture_links=True) as made,
        client(made, follow_redirects=False) as asking,
    ):
        _, output = drawn(made, asking)
        answer = asking.get(f"/v1/images/{output.id}")
        assert answer.status_code == 302 and "private" in answer.headers["cache-control"]
        assert httpx.get(answer.headers["location"]).content == PNG
        etag = answer.headers["etag"]
        assert asking.get(f"/v1/images/{output.id}", headers={"If-None-Match": etag}).status_code == 304
        problem(asking.get("/v1/images/nothing-0"), 404, "not_found")


def test_links_change_nothing_where_pictures_are_files(tmp_path: Path) -> None:
    with context(tmp_path, picture_links=True) as made, client(made) as asking:
        _, output = drawn(made, asking)
        assert asking.get(f"/v1/images/{output.id}").content == PNG


def test_a_server_whose_storage_is_away_says_so(s3: S3Server, tmp_path: Path, impatient: None) -> None:
    with context(tmp_path, pictures=f"s3://{BUCKET}") as made, client(made) as asking:
        _, output = drawn(made, asking)
        s3.stop()
        ready = asking.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["storage"]) == (503, False)
        for answer in (asking.get(f"/v1/images/{output.id}"), asking.post("/v1/assets", files={"file": ("a", PNG)})):
            problem(answer, 503, "storage_unusable")
            assert answer.headers["retry-after"] == "5" and BUCKET not in answer.text
        assert asking.post("/v1/jobs", json=CAR).status_code == 202  # waits
        s3.start()
        assert asking.get(f"/v1/images/{output.id}").content == PNG
        assert asking.get("/readyz").json()["checks"]["storage"] is True


def test_a_picture_that_is_drawn_waits_for_the_storage(s3: S3Server, tmp_path: Path, impatient: None) -> None:
    with drawing_server(tmp_path, pictures=f"s3://{BUCKET}") as (_, made), client(made) as asking:
        s3.stop()
        jobs = [
            asking.post("/v1/jobs", json={"request": {"prompt": "a red car", "seed": seed, "num_steps": 1}}).json()[
                "id"
            ]
            for seed in (1, 2)
        ]
        first = jobs[0]
        wait_for(lambda: "object storage" in made.store.get(first).progress.get("message", ""))
        assert made.store.get(first).status == JobStatus.RUNNING
        asking.post(f"/v1/jobs/{first}/cancel")
        wait_for(lambda: made.store.get(first).status == JobStatus.CANCELED)
        wait_for(lambda: "object storage" in made.store.get(jobs[1]).progress.get("message", ""))
        s3.start()
        wait_for(lambda: made.store.get(jobs[1]).status.is_final)
        job = made.store.get(jobs[1])
        assert job.status == JobStatus.SUCCEEDED and job.attempts == 1 and made.blobs.read(job.outputs[0].digest)


def test_a_job_goes_back_when_the_storage_stays_away(
    s3: S3Server, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing_module, "STORAGE_PATIENCE", 0.2)
    with drawing_server(tmp_path, pictures=f"s3://{BUCKET}") as (_, made), client(made) as asking:
        s3.stop()
        job = asking.post("/v1/jobs", json={"request": {"prompt": "a red car", "num_steps": 1}}).json()["id"]
        wait_for(lambda: made.store.get(job).attempts == 1 and made.store.get(job).status == JobStatus.QUEUED)
        time.sleep(0.5)
        assert made.store.get(job).attempts == 1, "it is not drawn again and again meanwhile"
        s3.start()
        wait_for(lambda: made.store.get(job).status.is_final)
        found = made.store.get(job)
        assert (found.status, found.attempts, found.crashes) == (JobStatus.SUCCEEDED, 2, 0)


def test_a_job_whose_source_cannot_be_read_now_goes_back(s3: S3Server, tmp_path: Path, impatient: None) -> None:
    with context(tmp_path, rate=10**6, threads=1, device="cpu", pictures=f"s3://{BUCKET}") as made:
        with client(made) as asking:
            upload = asking.post("/v1/assets", files={"file": ("a.png", PNG)}).json()["id"]
            body = {
                "request": {"prompt": "a red car", "num_steps": 2, "source": {"strength": 0.5}},
                "assets": {"image": upload},
            }
            job = asking.post("/v1/jobs", json=body).json()["id"]
        for copy in [path for path in made.blobs.root.rglob("*") if path.is_file()]:
            copy.unlink()
        s3.stop()
        with working(made):
            wait_for(lambda: made.store.get(job).attempts == 1 and made.store.get(job).status == JobStatus.QUEUED)
            s3.start()
            wait_for(lambda: made.store.get(job).status.is_final)
        assert (made.store.get(job).status, made.store.get(job).crashes) == (JobStatus.SUCCEEDED, 0)


def test_a_worker_that_is_told_to_stop_does_not_wait_for_the_storage(
    s3: S3Server, tmp_path: Path, impatient: None
) -> None:
    with context(tmp_path, rate=10**6, threads=1, device="cpu", pictures=f"s3://{BUCKET}") as made:
        with client(made) as asking:
            job = asking.post("/v1/jobs", json={"request": {"prompt": "a red car", "num_steps": 1}}).json()["id"]
        (options,) = worker_options(replace(made.settings, workers=1), made.blobs)
        loop = WorkerLoop("w", options, exit=lambda code: None)
        s3.stop()
        thread = threading.Thread(target=loop.run)
        thread.start()
        wait_for(lambda: "object storage" in made.store.get(job).progress.get("message", ""))
        loop.stopping.set()
        thread.join(SECONDS)
        assert not thread.is_alive() and made.store.get(job).status == JobStatus.QUEUED


def test_a_server_with_sockets_starts_while_the_storage_is_away(s3: S3Server, tmp_path: Path, impatient: None) -> None:
    s3.stop()
    with context(tmp_path, pictures=f"s3://{BUCKET}") as made, server(made) as address:
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.get(f"{address}/readyz").status_code == 503


def test_settings_say_where_pictures_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = {name: value for name, value, _ in read_settings({"home": tmp_path}).lines()}
    assert shown["pictures"] == str(tmp_path / "blobs")
    monkeypatch.setenv("GESSO_SERVE_PICTURES", "s3://bucket/a")
    shown = {name: value for name, value, _ in read_settings({"home": tmp_path}).lines()}
    assert shown["pictures"] == "s3://bucket/a"
