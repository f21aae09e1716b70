"""gesso's own API in one process: what is sent, what comes back, and what is refused before the queue hears of it."""

import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gesso.api.checking import Checker, defaults, family_facts
from gesso.api.context import Context
from gesso.pictures.reading import mask_digest, picture_digest
from gesso.request.request import TextToImageRequest
from gesso.serving.jobs import JobStatus
from serving.served import CAR, PNG, client, context, drawn, finish, lease, problem, server


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Context]:
    with context(tmp_path) as opened:
        yield opened


@pytest.fixture
def asking(made: Context) -> Iterator[TestClient]:
    with client(made) as opened:
        yield opened


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """A server in which nothing is left behind, for many tests."""
    with context(tmp_path_factory.mktemp("still"), rate=10**6) as opened:
        yield opened


@pytest.fixture(scope="module")
def refusing(still: Context) -> Iterator[TestClient]:
    """Its client. No test may have made a job."""
    with client(still) as opened:
        yield opened
    assert still.store.counts() == {}
    assert not [path for path in still.blobs.root.rglob("*") if path.is_file()]


def picture(size: tuple[int, int] = (32, 24), mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def upload(asking: TestClient, data: bytes, file: str = "x.png", **fields: str) -> Any:
    return asking.post("/v1/assets", files={"file": (file, data, "image/png")}, data=fields)


# ---- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_is_accepted_drawn_and_fetched(made: Context, asking: TestClient) -> None:
    answer = asking.post("/v1/jobs", json=CAR | {"metadata": {"mine": [1, "ü"]}, "priority": 3, "batch": "b"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["queue_position"], job["progress"]["value"]) == ("queued", 0, 0.0)
    assert job["request"] == json.loads(TextToImageRequest(prompt="a red car", seed=7, num_steps=8).to_json())
    assert (job["metadata"], job["priority"], job["batch"]) == ({"mine": [1, "ü"]}, 3, "b")
    held = lease(made)
    made.store.progress(held, {"value": 0.5, "step": 4, "steps": 8, "picture": 1, "pictures": 1, "message": "so far"})
    now = asking.get(job["urls"]["self"]).json()
    assert (now["status"], now["progress"]["step"], now["progress"]["value"]) == ("running", 4, 0.5)
    output = finish(made, held)
    now = asking.get(job["urls"]["self"]).json()
    assert now["status"] == "succeeded" and now["progress"]["value"] == 1.0
    assert now["started_at"].endswith("Z") and now["metrics"]["execution_ms"] >= 0
    (found,) = now["outputs"]
    assert (found["id"], found["hash"], found["size_bytes"]) == (output.id, f"sha256:{output.digest}", len(PNG))
    assert asking.get(found["url"]).content == PNG
    assert asking.get(found["metadata_url"]).json()["recipe"] == output.recipe


def test_the_same_key_with_the_same_work_is_the_same_job(made: Context, asking: TestClient) -> None:
    key = {"Idempotency-Key": "k 1"}
    open_seed = {"request": {"prompt": "a red car", "variation": {"strength": 0.2}}}
    first = asking.post("/v1/jobs", json=open_seed, headers=key)
    again = asking.post("/v1/jobs", json=open_seed, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
    other = asking.post("/v1/jobs", json=CAR, headers=key)
    assert problem(other, 422, "idempotency_key_reuse", "Idempotency-Key")["data"]["job"] == first.json()["id"]
    assert made.store.counts() == {JobStatus.QUEUED: 1}
    for bad in ("", "x" * 256, "ü"):
        problem(asking.post("/v1/jobs", json=CAR, headers={"Idempotency-Key": bad.encode()}), 400, "invalid_field")


def test_jobs_are_listed_page_by_page(made: Context, asking: TestClient) -> None:
    ids = [asking.post("/v1/jobs", json=CAR).json()["id"] for _ in range(5)]
    made.store.cancel(ids[0])
    first = asking.get("/v1/jobs", params={"limit": 3}).json()
    second = asking.get("/v1/jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for page in (first, second) for job in page["jobs"]] == ids[::-1]
    assert second["next_cursor"] is None
    found = asking.get("/v1/jobs", params={"status": ["canceled", "failed"]}).json()["jobs"]
    assert [job["id"] for job in found] == ids[:1]
    for query in ("limit=0", "limit=201", "limit=x", "status=done", "cursor=x", "limit=1&limit=2", "sort=id"):
        answer = asking.get(f"/v1/jobs?{query}")
        assert answer.status_code == 400 and answer.json()["field"] == query.partition("=")[0], answer.text


def test_cancel_retry_delete(made: Context, asking: TestClient) -> None:
    id = asking.post("/v1/jobs", json=CAR).json()["id"]
    problem(asking.post(f"/v1/jobs/{id}/retry"), 409, "job_not_final")
    problem(asking.delete(f"/v1/jobs/{id}"), 409, "job_not_final")
    assert asking.post(f"/v1/jobs/{id}/cancel").json()["status"] == "canceled"
    assert asking.post(f"/v1/jobs/{id}/cancel").json()["status"] == "canceled"
    again = asking.post(f"/v1/jobs/{id}/retry")
    assert again.status_code == 202 and again.json()["id"] != id and again.json()["request"]["prompt"] == "a red car"
    assert asking.delete(f"/v1/jobs/{id}").status_code == 204
    problem(asking.get(f"/v1/jobs/{id}"), 404, "not_found")
    running = lease(made)
    assert asking.post(f"/v1/jobs/{running.job.id}/cancel").json()["status"] == "canceling"


def test_a_failed_job_says_why(made: Context, asking: TestClient) -> None:
    asking.post("/v1/jobs", json=CAR)
    held = lease(made)
    error = {"code": "missing", "message": "gone", "field": "model", "data": {"path": "/secret/x", "sha256": "a"}}
    made.store.fail(held, error)
    found = asking.get(f"/v1/jobs/{held.job.id}").json()
    assert found["status"] == "failed"
    assert found["error"] == {"code": "missing", "message": "gone", "field": "model", "data": {"sha256": "a"}}


def test_a_deadline_is_a_time(made: Context, asking: TestClient) -> None:
    answer = asking.post("/v1/jobs", json=CAR | {"deadline": "2999-12-24T18:00:00+01:00"})
    assert answer.json()["deadline"] == "2999-12-24T17:00:00.000Z"
    for bad in ("soon", "2999-12-24T18:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "x" * 99, ""):
        problem(asking.post("/v1/jobs", json=CAR | {"deadline": bad}), 400, "invalid_field", "deadline")
    asking.post("/v1/jobs", json=CAR | {"deadline": "2001-01-01T00:00:00Z"})
    made.store.recover()
    assert made.store.counts()[JobStatus.EXPIRED] == 1


# ---- what is refused -------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"width": value}, "request.width") for value in (0, -8, 7, 10**9, 2.5, "512", True, 257, [512])),
    *(({"num_steps": value}, "request.num_steps") for value in (0, -1, 10**9, 1.5, "8")),
    *(({"num_images": value}, "request.num_images") for value in (0, 10**9, 65)),
    *(({"guidance_scale": value}, "request.guidance_scale") for value in (-1, 1e308, 101, "7")),
    *(({"seed": value}, "request.seed") for value in (-1, 2**64, -(2**63), 1.5)),
    ({"width": 4096, "height": 4096}, "request.width"),
    ({"source": {"strength": 1.0001}}, "request.source.strength"),
    ({"source": {"strength": 0.5}}, "request.source.strength"),
    ({"sampler": "eular"}, "request.sampler"),
    ({"schedule": "kerras"}, "request.schedule"),
    ({"noise": "white"}, "request.noise"),
    ({"clip_skip": 3}, "request.clip_skip"),
    ({"prompt": ""}, "request.prompt"),
    ({"prompt": "x" * 32_001}, "request.prompt"),
    ({"prompt": None}, "request.prompt"),
    ({"loras": [{"name": "../../etc/passwd"}]}, "request.loras[0].name"),
    ({"loras": [{"name": "comci"}]}, "request.loras[0].name"),
    ({"prompt": "a car <lora:../../x:1>"}, "request.prompt"),
    ({"prompt": "a car <lora:/etc/passwd:1>"}, "request.prompt"),
    ({"hires": {"upscaler": "/etc/passwd"}}, "request.hires.upscaler"),
    ({"hires": {"scale": 17}}, "request.hires.scale"),
    ({"widht": 512}, "request.widht"),
    ({"source": {"imgae": "x"}}, "request.source.imgae"),
    ({"version": 99}, "request.schema"),
    ({"num_images": 64, "num_steps": 1000, "width": 1024, "height": 1024}, "request.num_steps"),
]


@pytest.mark.parametrize(("values", "field"), REFUSED, ids=lambda value: json.dumps(value)[:40])
def test_a_request_is_checked_whole_before_it_is_accepted(
    still: Context, refusing: TestClient, values: dict[str, Any], field: str
) -> None:
    begin = time.process_time()
    answer = refusing.post("/v1/jobs", json={"request": {"prompt": "a car"} | values})
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field, answer.text
    assert time.process_time() - begin < 1
    assert still.store.counts() == {}


def test_close_names_are_told(refusing: TestClient) -> None:
    told = problem(refusing.post("/v1/jobs", json=CAR | {"model": "geso-mini"}), 400, "unknown_name", "model")
    assert told["data"]["nearest"] == "gesso-mini" and "gesso-mini" in told["detail"]
    told = problem(refusing.post("/v1/jobs", json=CAR | {"metdata": {}}), 400, "invalid_field", "metdata")
    assert told["data"]["nearest"] == "metadata"
    told = problem(refusing.post("/v1/jobs", json=CAR | {"output": {"formt": "png"}}), 400, "invalid_field")
    assert told["field"] == "output.formt" and told["data"]["nearest"] == "format"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../gesso-mini", "hf:a/b", ".", "C:\\x", "gesso-mini.safetensors", "a\nb"]
)
def test_a_model_is_a_name_and_never_a_path(refusing: TestClient, name: str) -> None:
    problem(refusing.post("/v1/jobs", json=CAR | {"model": name}), 400, "unknown_name", "model")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "request"),
        (CAR | {"priority": 11}, "priority"),
        (CAR | {"priority": "1"}, "priority"),
        (CAR | {"output": {"format": "gif"}}, "output.format"),
        (CAR | {"output": {"format": "jpeg", "quality": 0}}, "output.quality"),
        (CAR | {"assets": {"image": 7}}, "assets.image"),
        (CAR | {"assets": {"picture": "7"}}, "assets"),
        (CAR | {"assets": {"image": "../../etc/passwd"}}, "assets.image"),
        (CAR | {"assets": {"image": "01M8MH9MX9E20SA7BXW3B5T9Q4"}}, "assets.image"),
        (CAR | {"assets": {"hint:0": "01M8MH9MX9E20SA7BXW3B5T9Q4"}}, "assets.hint:0"),
        (CAR | {"metadata": {"x": "y" * 17_000}}, "metadata"),
        (CAR | {"metadata": []}, "metadata"),
        (CAR | {"batch": ""}, "batch"),
        (CAR | {"batch": "x" * 256}, "batch"),
        (CAR | {"request": []}, "request"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_a_job_is_checked_too(still: Context, refusing: TestClient, body: Any, field: str) -> None:
    answer = refusing.post("/v1/jobs", json=body)
    assert answer.status_code == 400 and answer.json()["field"] == field, answer.text
    assert still.store.counts() == {}


def test_a_format_that_cannot_be_written_is_told(refusing: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.api.submitting.FORMATS", ("PNG",))
    answer = refusing.post("/v1/jobs", json=CAR | {"output": {"format": "avif"}})
    problem(answer, 400, "unsupported", "output.format")


def test_a_picture_that_is_named_has_to_be_given(refusing: TestClient) -> None:
    source = {"prompt": "a car", "source": {"image": "a" * 64}}
    problem(refusing.post("/v1/jobs", json={"request": source}), 400, "asset_missing", "assets.image")


def test_front_ends_read_flags_and_choices(made: Context, asking: TestClient) -> None:
    body = {"request": {"prompt": "a {red|blue} car --ar 3:2 --repeat 2"}, "front": {"flags": True, "dynamic": True}}
    answer = asking.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["front"] == {"flags": True, "dynamic": True}
    plan = asking.post("/v1/plans", json=body).json()["request"]
    assert plan["width"] > plan["height"] and plan["num_images"] == 2
    assert plan["prompt"] in ("a red car", "a blue car")
    bad = {"request": {"prompt": "a car --ar x"}, "front": {"flags": True}}
    problem(asking.post("/v1/jobs", json=bad), 400, "flag")
    problem(asking.post("/v1/jobs", json=CAR | {"front": {"styles": ["x"]}}), 400, "styles_missing")


@pytest.mark.parametrize("counted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_checked_without_torch_is_what_the_pipelines_check(counted: bool) -> None:
    from gesso.api.family_table import FILE, table

    saved, fresh = json.loads(FILE.read_text(encoding="utf-8")), table(counted=counted)
    if not counted:
        for family in saved["families"].values():
            del family["activations"]
    assert saved == fresh, "make it anew: python -m gesso.api.family_table"
    assert {"sd15", "sdxl", "gesso-mini"} <= saved["families"].keys()


def test_defaults_without_torch_are_those_of_the_pipelines() -> None:
    from gesso.families.sd15 import SD15
    from gesso.families.sdxl import SDXL
    from gesso.pipelines.defaults import defaults_for
    from gesso.request.names import with_canonical_names
    from gesso.request.resolving import resolve

    for family in (SD15, SDXL):
        for values in ({}, {"sampler": "Euler a"}, {"sampler": "tcd"}, {"clip_skip": 2, "hires": {"scale": 1.5}}):
            request = with_canonical_names(
                TextToImageRequest.from_dict({"prompt": "a", "seed": 1, **_versioned(), **values})
            )
            ours = resolve(request, defaults(request, family_facts()[family.name]))
            assert ours == resolve(request, defaults_for(request, family))


def _versioned() -> dict[str, Any]:
    from gesso.request.migrations import SCHEMA, VERSION

    return {"schema": SCHEMA, "version": VERSION}


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"request": {"prompt": "a"}} x',
        b'{"request": {"prompt": "a"}, "request": {}}',
        b'{"request": {"prompt": "a", "guidance_scale": NaN}}',
        b'{"request": {"prompt": "a", "guidance_scale": 1e400}}',
        b'{"request": {"prompt": "a", "seed": ' + b"9" * 5000 + b"}}",
        b'{"request": {"prompt": "a\\ud800"}}',
        b'{"request": {"prompt": "a\\u0000"}}',
        b'{"request": {"prompt": "\xff"}}',
        '{"request": {"prompt": "a"}}'.encode("utf-16"),
        b'{"metadata": ' + b"[" * 40 + b"]" * 40 + b', "request": {"prompt": "a"}}',
        b"[" * 100_000,
        b'{"metadata": {"a": ' + b"{}" + b"}" + b"," * 5 + b"}",
        b'{"metadata": [' + b"0," * 30_000 + b"0]}",
        b"\xef\xbb\xbf{",
    ],
    ids=range(18),
)
def test_json_is_read_strictly(still: Context, refusing: TestClient, body: bytes) -> None:
    begin = time.process_time()
    answer = refusing.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 400, "invalid_request")
    assert time.process_time() - begin < 1
    assert still.store.counts() == {}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml", "json"])
def test_a_body_of_another_type_is_not_read(still: Context, refusing: TestClient, kind: str) -> None:
    answer = refusing.post("/v1/jobs", content=json.dumps(CAR), headers={"Content-Type": kind})
    problem(answer, 415, "unsupported_media_type")
    assert still.store.counts() == {}


# ---- the queue is full -----------------------------------------------------------------------------------------------


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    with context(tmp_path, max_queue=3, max_queue_per_key=2) as made, client(made) as asking:
        for _ in range(2):
            assert asking.post("/v1/jobs", json=CAR).status_code == 202
        answer = asking.post("/v1/jobs", json=CAR)
        told = problem(answer, 429, "queue_full")
        assert int(answer.headers["retry-after"]) == told["data"]["retry_after"] >= 1
        assert 'gesso_refusals_total{code="queue_full"} 1.0' in asking.get("/metrics").text
        asking.post("/v1/batches", json={"jobs": [CAR, CAR]})
        assert made.store.counts() == {JobStatus.QUEUED: 2}, "a batch is accepted whole or not at all"


def test_too_many_requests_are_told_to_wait(tmp_path: Path) -> None:
    with context(tmp_path, rate=60) as made, client(made) as asking:
        answers = [asking.get("/v1/schedules") for _ in range(15)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 4 and int(refused[0].headers["retry-after"]) == 1
        assert "more than 60 requests a minute, or 10 at once" in refused[0].json()["detail"]
        assert asking.get("/healthz").status_code == 200, "somebody who asks too often does not make a server look dead"


def test_a_full_disk_is_told_before_a_job_is_accepted(
    made: Context, asking: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "free_bytes", lambda self: 1000)
    problem(asking.post("/v1/jobs", json=CAR), 507, "disk_full")
    assert asking.get("/readyz").json()["checks"]["disk"] is False
    assert made.store.counts() == {}


def test_a_race_of_repeats_makes_one_job(made: Context) -> None:
    """Each key from eight threads at once: one job is new, the others are that one."""
    with server(made) as url, httpx.Client(base_url=url, timeout=30) as asking, ThreadPoolExecutor(8) as pool:
        for key in ("a", "b", "c", "d", "e"):
            post = partial(asking.post, "/v1/jobs", json=CAR, headers={"Idempotency-Key": key})
            answers = [one.result() for one in [pool.submit(post) for _ in range(8)]]
            assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
            assert len({answer.json()["id"] for answer in answers}) == 1
    assert made.store.counts() == {JobStatus.QUEUED: 5}


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_along_axes(made: Context, asking: TestClient) -> None:
    body = {"job": {"request": {"prompt": "a red car"}}, "axes": ["steps=4,8", "guidance=2-6(+2)"]}
    answer = asking.post("/v1/batches", json=body)
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert (batch["total"], batch["counts"], batch["is_final"]) == (6, {"queued": 6}, False)
    jobs = [asking.get(f"/v1/jobs/{id}").json() for id in batch["jobs"]]
    settings = [(job["request"]["num_steps"], job["request"]["guidance_scale"]) for job in jobs]
    assert settings == [(4, 2.0), (4, 4.0), (4, 6.0), (8, 2.0), (8, 4.0), (8, 6.0)]
    assert len({job["request"]["seed"] for job in jobs}) == 1 and jobs[0]["request"]["seed"] is not None
    assert jobs[0]["metadata"] == {"axes": {"steps": "4", "guidance": "2"}}
    assert asking.get(batch["urls"]["jobs"]).json()["jobs"][0]["id"] == batch["jobs"][-1]
    done = asking.post(batch["urls"]["cancel"]).json()
    assert (done["counts"], done["is_final"]) == ({"canceled": 6}, True)


def test_batches_are_listed_that_of_the_newest_job_first(made: Context, asking: TestClient) -> None:
    first = asking.post("/v1/batches", json={"job": CAR, "axes": ["steps=4,8", "guidance=2-6(+2)"]}).json()
    asking.post("/v1/jobs", json=CAR)  # of no batch
    second = asking.post("/v1/batches", json={"jobs": [CAR | {"metadata": {"axes": "odd"}}]}).json()
    finish(made, lease(made))
    listed = asking.get("/v1/batches").json()
    assert [one["id"] for one in listed["batches"]] == [second["id"], first["id"]]
    assert listed["next_cursor"] is None
    shown = listed["batches"][1]
    assert (shown["total"], shown["counts"], shown["is_final"]) == (6, {"queued": 5, "succeeded": 1}, False)
    assert (shown["model"], shown["prompt"], shown["axes"]) == ("gesso-mini", "a red car", ["guidance", "steps"])
    assert shown["urls"] == first["urls"]
    assert shown["created_at"] == asking.get(f"/v1/jobs/{first['jobs'][0]}").json()["created_at"]
    assert listed["batches"][0]["axes"] == []
    asking.post("/v1/jobs", json=CAR | {"batch": first["id"]})
    page = asking.get("/v1/batches?limit=1").json()
    assert [one["id"] for one in page["batches"]] == [first["id"]], "its newest job is newer now"
    rest = asking.get("/v1/batches", params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert ([one["id"] for one in rest["batches"]], rest["next_cursor"]) == ([second["id"]], None)
    problem(asking.get("/v1/batches?cursor=no"), 400, "invalid_value", "cursor")


def test_a_batch_is_repeated_by_its_key(made: Context, asking: TestClient) -> None:
    body = {"job": {"request": {"prompt": "a red car"}}, "axes": ["steps=4,8"]}
    answers = [asking.post("/v1/batches", json=body, headers={"Idempotency-Key": "b"}).json() for _ in range(2)]
    assert answers[0] == answers[1] and made.store.counts() == {JobStatus.QUEUED: 2}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "jobs"),
        ({"jobs": [CAR], "job": CAR}, "jobs"),
        ({"jobs": [CAR], "axes": ["steps=4"]}, "axes"),
        ({"jobs": [CAR, {"request": {"prompt": "a", "width": 7}}]}, "jobs[1].request.width"),
        ({"jobs": [CAR, {"request": {"prompt": "a"}, "modle": "x"}]}, "jobs[1].modle"),
        ({"job": CAR, "axes": ["stepz=4"]}, "axes"),
        ({"job": CAR, "axes": ["steps=1-1000", "seed=1-100"]}, "axes"),
        ({"job": CAR, "axes": ["steps=4", "steps=5"]}, "axes"),
        ({"job": CAR, "axes": ["model=gesso-mini,/etc/passwd"]}, "job.model"),
        ({"jobs": [CAR] * 1001}, "jobs"),
    ],
    ids=range(10),
)
def test_batches_are_checked(still: Context, refusing: TestClient, body: Any, field: str) -> None:
    answer = refusing.post("/v1/batches", json=body)
    assert answer.status_code == 400 and answer.json()["field"] == field, answer.text
    assert still.store.counts() == {}


# ---- uploads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_upload_is_encoded_anew(made: Context, asking: TestClient, kind: str) -> None:
    data = picture(kind=kind)
    answer = upload(asking, data + b"<script>alert(1)</script>", "../../x.html", name="my picture")
    assert answer.status_code == 201, answer.text
    asset = answer.json()
    assert (asset["width"], asset["height"], asset["content_type"]) == (32, 24, "image/png")
    assert asset["name"] == "my picture" and asking.get(asset["url"]).json() == asset
    content = asking.get(asset["content_url"])
    assert content.headers["content-type"] == "image/png" and content.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in content.headers["content-security-policy"] and b"script" not in content.content
    assert not list(Path(made.settings.folder).rglob("*x.html*"))
    again = upload(asking, data)
    assert (again.status_code, again.json()["id"]) == (200, asset["id"])
    assert asking.delete(asset["url"]).status_code == 204
    problem(asking.get(asset["url"]), 404, "not_found")


def test_what_a_file_says_of_its_maker_is_left_out_and_it_is_turned_upright(asking: TestClient) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    exif[271] = "a camera"
    Image.new("RGB", (64, 32)).save(buffer, "JPEG", exif=exif)
    asset = upload(asking, buffer.getvalue()).json()
    assert (asset["width"], asset["height"]) == (32, 64)
    assert b"a camera" not in asking.get(asset["content_url"]).content


def test_uploads_become_the_pictures_of_a_request(asking: TestClient) -> None:
    source, mask = (
        Image.radial_gradient("L").resize((32, 24)).convert("RGB"),
        Image.linear_gradient("L").resize((32, 24)),
    )
    ids = {}
    for role, image in (("image", source), ("mask", mask)):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        ids[role] = upload(asking, buffer.getvalue()).json()["id"]
    body = {"request": {"prompt": "a car", "width": 256, "height": 256, "source": {"strength": 0.5}}, "assets": ids}
    answer = asking.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    assert request["source"]["image"] == picture_digest(source)
    assert request["mask"]["image"] == mask_digest(mask)
    problem(asking.delete(f"/v1/assets/{ids['mask']}"), 409, "asset_in_use")
    other = {"prompt": "a car", "source": {"image": "b" * 64}}
    problem(asking.post("/v1/jobs", json={"request": other, "assets": ids}), 400, "mismatch", "request.source.image")


def test_hints_are_named_by_their_pixels(asking: TestClient) -> None:
    id = upload(asking, picture((64, 64))).json()["id"]
    control = {"model": "gesso-edges", "preprocessor": "canny"}
    body = {"request": {"prompt": "a car", "controls": [control]}, "assets": {"hint:0": id}}
    answer = asking.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert len(answer.json()["request"]["controls"][0]["image"]) == 64
    unknown = {"request": {"prompt": "a", "controls": [{"model": "gesso-egdes"}]}, "assets": {"hint:0": id}}
    told = problem(asking.post("/v1/jobs", json=unknown), 400, "invalid_field", "request.controls[0].model")
    assert told["data"]["nearest"] == "gesso-edges"


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A picture with a chunk more, before its pixels."""
    plain = picture()
    return plain[:33] + chunk(name, data) + plain[33:]


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(b"tEXt", b"parameters\0<script>alert(1)</script>"),
        with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<script>alert(1)</script>"),
        with_chunk(b"tEXt", b"parameters\0\xff\xfe<script>"),
        with_chunk(b"eXIf", b"MM\0*<script>"),
        with_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile <script>")),
    ],
    ids=range(5),
)
def test_what_a_picture_says_beside_its_pixels_is_left_out(asking: TestClient, data: bytes) -> None:
    answer = upload(asking, data)
    assert answer.status_code == 201, answer.text
    content = asking.get(answer.json()["content_url"]).content
    assert b"script" not in content
    names = []
    place = 8
    while place < len(content):
        names.append(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_text_that_grows_when_it_is_unpacked_is_refused(still: Context, refusing: TestClient) -> None:
    grown = with_chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a" * 50_000_000))
    assert len(grown) < 100_000
    begin = time.process_time()
    problem(upload(refusing, grown), 400, "damaged", "file")
    assert time.process_time() - begin < 2


def bomb() -> bytes:
    """A PNG whose header claims more pixels than anybody has."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 415, "unsupported_media_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", 415, "unsupported_media_type"),
        (b"GIF89a" + b"\0" * 99, 415, "unsupported_media_type"),
        (b"%PDF-1.4", 415, "unsupported_media_type"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, 400, "damaged"),
        (picture()[:60], 400, "damaged"),
        (picture()[:-30], 400, "damaged"),
        (picture((8, 64)), 400, "invalid_field"),
        (bomb(), 413, "too_large"),
    ],
    ids=range(9),
)
def test_a_file_that_is_no_picture_is_refused(
    still: Context, refusing: TestClient, data: bytes, status: int, code: str
) -> None:
    begin = time.process_time()
    told = problem(upload(refusing, data), status, code, "file")
    assert time.process_time() - begin < 1 and "0x" not in told["detail"] and "/tmp" not in json.dumps(told)
    assert not [path for path in still.blobs.root.rglob("*") if path.is_file()]


def test_forms_are_read_strictly(tmp_path: Path) -> None:
    with context(tmp_path, max_upload=4096) as made, client(made) as asking:
        problem(asking.post("/v1/assets", json={}), 415, "unsupported_media_type")
        kind = {"Content-Type": f"multipart/form-data; boundary={'x' * 71}"}
        problem(asking.post("/v1/assets", content=b"--x--", headers=kind), 400, "invalid_request")
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        for body in (b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"):
            answer = asking.post("/v1/assets", content=body, headers=kind)
            assert answer.status_code == 400, (body, answer.text)
        many = (
            b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(200)) + b"--x--\r\n"
        )
        begin = time.process_time()
        assert asking.post("/v1/assets", content=many, headers=kind).status_code == 400
        assert time.process_time() - begin < 0.5
        named = asking.post("/v1/assets", files={"picture": ("x.png", picture())})
        problem(named, 400, "invalid_field", "picture")
        problem(asking.post("/v1/assets", data={"file": "no file"}, files={}), 415, "unsupported_media_type")
        problem(upload(asking, picture(), name="x" * 101), 400, "invalid_field", "name")
        problem(upload(asking, b"\x89PNG\r\n\x1a\n" + b"\0" * 5000), 413, "too_large")
        problem(upload(asking, b"\0" * 50_000), 413, "too_large")


def test_uploads_have_a_bound_in_all(tmp_path: Path) -> None:
    with context(tmp_path, max_assets=1024) as made, client(made) as asking:
        noise = Image.effect_noise((64, 64), 80)
        buffer = io.BytesIO()
        noise.save(buffer, "PNG")
        problem(upload(asking, buffer.getvalue()), 413, "too_large")


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_cached_and_sent_in_parts(made: Context, asking: TestClient) -> None:
    _, output = drawn(made, asking)
    url = f"/v1/images/{output.id}"
    whole = asking.get(url)
    assert whole.headers["etag"] == f'"{output.digest}"' and "immutable" in whole.headers["cache-control"]
    assert "private" in whole.headers["cache-control"] and whole.headers["content-disposition"].startswith("inline")
    for tag in (f'"{output.digest}"', f'W/"{output.digest}"', f'"x", "{output.digest}"', "*"):
        unchanged = asking.get(url, headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert asking.get(url, headers={"If-None-Match": '"x"'}).status_code == 200
    size = len(PNG)
    for text, first, last in (("bytes=0-9", 0, 9), ("bytes=5-", 5, size - 1), ("bytes=-7", size - 7, size - 1)):
        part = asking.get(url, headers={"Range": text})
        assert (part.status_code, part.content) == (206, PNG[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    for text in (
        "bytes=9999-",
        "bytes=5-4",
        "bytes=0-1,3-4",
        "bytes=-",
        "bytes=-0",
        "x=0-1",
        "bytes=0-1" + ",0-1" * 5000,
    ):
        answer = asking.get(url, headers={"Range": text})
        problem(answer, 416, "invalid_field", "Range")
        assert answer.headers["content-range"] == f"bytes */{size}"
    assert asking.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).status_code == 200
    head = asking.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")


def test_a_picture_whose_bytes_are_gone_is_told(made: Context, asking: TestClient) -> None:
    _, output = drawn(made, asking)
    path = made.blobs.path(output.digest)
    path.write_bytes(b"x" * 9)
    problem(asking.get(f"/v1/images/{output.id}"), 500, "damaged")
    path.unlink()
    problem(asking.get(f"/v1/images/{output.id}"), 404, "not_found")


@pytest.mark.parametrize(
    "id",
    ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%252e%252e%252f", "a%00", "..%5c", "x" * 300, "C:", "*", "ü", "a b"],
)
@pytest.mark.parametrize("where", ["jobs", "images", "assets", "models", "batches"])
def test_ids_never_become_paths(refusing: TestClient, where: str, id: str) -> None:
    answer = refusing.get(f"/v1/{where}/{id}")
    assert answer.status_code == 404 and answer.json()["code"] == "not_found", answer.text
    for below in ("/content", "/metadata", "/events"):
        # Of ".." the client itself makes /v1/metadata, to which pictures are posted, and /v1/events, which has no end.
        expected = {"/metadata": 405, "/events": 200}.get(below, 404) if id == ".." else 404
        assert refusing.head(f"/v1/{where}/{id}{below}").status_code == expected


# ---- models, plans, health -------------------------------------------------------------------------------------------


def test_models_and_their_helpers_are_listed_without_paths(made: Context, asking: TestClient) -> None:
    (model,) = asking.get("/v1/models").json()["models"]
    assert model["name"] == "gesso-mini" and model["defaults"]["size_multiple"] == 16 and model["needs"] == []
    assert model.items() <= asking.get("/v1/models/GESSO-mini").json().items()
    adapters = {one["name"]: one["kind"] for one in asking.get("/v1/adapters").json()["adapters"]}
    assert adapters["comic"] == "lora" and adapters["gesso-edges"] == "control"
    assert {"euler", "dpmpp_2m"} <= {one["name"] for one in asking.get("/v1/samplers").json()["samplers"]}
    assert "karras" in {one["name"] for one in asking.get("/v1/schedules").json()["schedules"]}
    assert asking.get("/v1/schema").json()["properties"]["prompt"]
    everything = "".join(asking.get(f"/v1/{name}").text for name in ("models", "adapters"))
    assert ".safetensors" not in everything and str(Path(__file__).parents[2]) not in everything


def test_models_that_cannot_be_drawn_with_are_no_models(tmp_path: Path) -> None:
    from gesso.library import Library
    from gesso.serving.settings import ServeSettings

    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "<img src=x onerror=alert(1)>.safetensors").write_bytes(b"no model")
    checker = Checker(Library(tmp_path / "models"), ServeSettings())
    assert [entry.name for entry in checker.models()] == ["gesso-mini"]


def test_a_plan_says_what_a_request_will_be_and_cost(made: Context, asking: TestClient) -> None:
    body = {"request": {"prompt": "a red car", "seed": 7, "num_steps": 10, "num_images": 2}}
    plan = asking.post("/v1/plans", json=body).json()
    assert plan["request"]["width"] == 256 and plan["request"]["sampler"] == "dpmpp_2m"
    assert plan["work"] == pytest.approx(256 * 256 * 10 * 2 / 1e6)
    assert plan["time"] == {"seconds": None, "samples": 0, "basis": "none"} and plan["notes"]
    memory = plan["memory"]
    assert memory["weights_bytes"] == 4 * 14_675_088 and memory["peak_bytes"] > memory["weights_bytes"]
    large = asking.post("/v1/plans", json={"request": body["request"] | {"width": 1024, "height": 1024}}).json()
    assert large["memory"]["activations_bytes"] > 8 * memory["activations_bytes"]
    drawn(made, asking)
    later = asking.post("/v1/plans", json=body).json()
    assert made.store.counts() == {JobStatus.SUCCEEDED: 1}, "a plan queues nothing"
    assert later["time"]["basis"] in ("history", "none")
    problem(
        asking.post("/v1/plans", json={"request": {"prompt": "a", "width": 7}}), 400, "invalid_field", "request.width"
    )


def test_health_readiness_and_numbers(made: Context, asking: TestClient) -> None:
    assert asking.get("/healthz").json() == {"status": "ok"}
    ready = asking.get("/readyz")
    assert ready.status_code == 200 and ready.json()["checks"] == {"database": True, "disk": True, "worker": True}
    drawn(made, asking)
    asking.post("/v1/jobs", json=CAR)
    from gesso.api.keeping import Housekeeper

    Housekeeper(made.store, made.blobs, made.metrics).count()
    text = asking.get("/metrics").text
    for line in (
        'gesso_jobs{status="queued"} 1.0',
        'gesso_jobs{status="succeeded"} 1.0',
        'gesso_jobs_accepted_total{model="gesso-mini"} 2.0',
        'gesso_jobs_finished_total{status="succeeded"} 1.0',
        "gesso_worker_restarts 0.0",
        'gesso_http_requests_total{method="GET",route="/healthz",status="200"} 1.0',
    ):
        assert line in text, line


def test_a_server_without_a_worker_is_not_ready(tmp_path: Path) -> None:
    from dataclasses import replace

    with context(tmp_path) as made:
        made.settings = replace(made.settings, workers=1)
        with client(made) as asking:
            answer = asking.get("/readyz")
            assert (answer.status_code, answer.json()["checks"]["worker"]) == (503, False)
            made.store.close()


def test_every_answer_has_an_id_and_harmless_headers(refusing: TestClient) -> None:
    for answer in (refusing.get("/v1/jobs"), refusing.get("/nothing"), refusing.post("/v1/jobs", json={})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store" and "access-control-allow-origin" not in answer.headers
        assert len(answer.headers["x-request-id"]) == 16 and "server" not in answer.headers
    assert refusing.get("/v1/jobs", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert refusing.get("/v1/jobs", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt": "a red car"}', "unknown field 'prompt', which belongs in `request`"),
        (b'{"promt": "a red car"}', "unknown field 'promt'"),
        (b'{"request": {"prompt": "a", "seed": 1e999}}', "a number is larger than 1e308"),
        (b'{"request": {"prompt": "a", "seed": %d}}' % 2**70, "the number 1180591620717411303424 is larger than 2^64"),
        (b'{"request": {"prompt": "a", "guidance_scale": NaN}}', "it has NaN, Infinity or a number of thousands"),
        (
            b'{"request": {"prompt": "a", "seed": ' + b"9" * 5000 + b"}}",
            "it has NaN, Infinity or a number of thousands",
        ),
        (b'{"request": ' + b"[" * 3000 + b"]" * 3000 + b"}", "it is nested more than 32 deep"),
        (b"{'request': {}}", "it cannot be parsed at character 1"),
    ],
    ids=range(8),
)
def test_what_is_wrong_with_a_body_is_said(refusing: TestClient, body: bytes, said: str) -> None:
    code = "invalid_field" if said.startswith("unknown") else "invalid_request"
    answer = refusing.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert said in problem(answer, 400, code)["detail"]


def test_a_mark_of_the_order_of_bytes_is_ignored(refusing: TestClient) -> None:
    """As programs on Windows write it; what comes behind it is read."""
    body = b'\xef\xbb\xbf{"request": {"prompt": "a", "width": 7}}'
    answer = refusing.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 400, "invalid_field", "request.width")


def test_a_parameter_of_another_kind_is_told_what_is_expected(refusing: TestClient) -> None:
    found = problem(refusing.get("/v1/jobs?limit=abc"), 400, "invalid_field", "limit")
    assert found["detail"] == "limit is 'abc', expected a whole number"


def test_methods_and_addresses_that_are_not_there(refusing: TestClient) -> None:
    for method in ("TRACE", "PUT", "PATCH", "FOO"):
        problem(refusing.request(method, "/v1/jobs"), 405, "method_not_allowed")
    answer = refusing.delete("/v1/jobs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert refusing.options("/sdapi/v1/txt2img").headers["allow"] == "POST"
    for path in ("//v1/jobs", "/V1/jobs", "/docs", "/redoc", "/docs/"):
        assert "did you mean" not in problem(refusing.get(path), 404, "not_found")["detail"]
    for path in ("/v1/jobs/", "/v1//jobs"):
        assert "did you mean /v1/jobs?" in problem(refusing.get(path), 404, "not_found")["detail"]
    answer = refusing.post("/v1/jobs/x", headers={"X-HTTP-Method-Override": "DELETE"})
    problem(answer, 405, "method_not_allowed")
