"""The worker: what it draws, how it stops, and that a failure of one job is no other's."""

import io
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gesso.notices import Notice
from gesso.pictures.picture_file import read_picture
from gesso.pipelines.text_to_image import TextToImage
from gesso.pipelines.upscaling import upscale
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel
from gesso.serving import worker as worker_module
from gesso.serving.blobs import BlobStore
from gesso.serving.drawing import Drawing, as_known, seed_of
from gesso.serving.jobs import Job, JobStatus, NewJob, Work
from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore
from gesso.serving.worker import WorkerLoop
from tiny_models import save_tiny_mini

SECONDS = 20.0  # that anything may take on a machine that does much else


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


class Place:
    """A queue, its pictures, and options of a worker on them."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.store, self.blobs = JobStore(folder / "queue.db"), BlobStore(folder / "blobs")

    def options(self, **changed: Any) -> WorkerOptions:
        values: dict[str, Any] = {"threads": 1, "device": "cpu", "stop_seconds": 0.0, "preview_seconds": 0.0}
        return WorkerOptions(
            database=str(self.folder / "queue.db"), blobs=str(self.folder / "blobs"), **(values | changed)
        )

    def submit(self, prompt: str = "a red cat", *, deadline: float | None = None, **fields: Any) -> Job:
        work = {name: fields.pop(name) for name in ("model", "assets", "output", "front") if name in fields}
        request = {"schema": SCHEMA, "version": VERSION, "prompt": prompt, "num_steps": 2, **fields}
        work = {"model": self.model, "request": request, **work}
        return self.store.submit(NewJob(owner="ann", work=Work(**work), deadline=deadline))[0]

    @contextmanager
    def working(self, **options: Any) -> Iterator[WorkerLoop]:
        """A worker in a thread, which is told to stop at the end."""
        loop = WorkerLoop("w", self.options(**options), exit=lambda code: None)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            yield loop
        finally:
            loop.stopping.set()
            thread.join()

    def wait(self, job: Job, *statuses: JobStatus) -> Job:
        """The job when it has one of these statuses, or is final."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            job = self.store.get(job.id)
            if job.status in statuses or job.status.is_final:
                return job
            time.sleep(0.005)
        raise AssertionError(f"still {job.status}: {job.progress}")

    def draw(self, *jobs: Job, **options: Any) -> list[Job]:
        with self.working(**options):
            return [self.wait(job) for job in jobs]


@pytest.fixture
def place(tmp_path: Path, model: str) -> Iterator[Place]:
    place = Place(tmp_path, model)
    yield place
    place.store.close()


@pytest.fixture
def pipeline(model: str) -> TextToImage:
    engine = Engine("cpu", "float32")
    return TextToImage(engine, engine.load(model))


class Gate:
    """Holds drawings after so many steps, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int = 2) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        count, original = 0, Drawing._on_progress

        def on_progress(drawing: Drawing, parts: Any, state: Any) -> None:
            nonlocal count
            original(drawing, parts, state)
            count += 1
            if count == steps:
                self.reached.set()
                assert self.opened.wait(SECONDS)

        monkeypatch.setattr(Drawing, "_on_progress", on_progress)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_job_becomes_the_pictures_that_the_pipeline_draws(place: Place, pipeline: TextToImage) -> None:
    (job,) = place.draw(place.submit(seed=7, num_images=3))
    assert job.status == JobStatus.SUCCEEDED and job.error is None
    assert [output.index for output in job.outputs] == [0, 1, 2]
    expected = list(pipeline(TextToImageRequest(prompt="a red cat", num_steps=2, seed=7, num_images=3)))
    for output, picture in zip(job.outputs, expected, strict=True):
        image, recipe = read_picture(place.blobs.path(output.digest))
        assert image.tobytes() == picture.image.tobytes()
        assert recipe.request.seed == output.seed == 7 and recipe.request.first_index == output.index
        assert (output.width, output.height, output.content_type) == (*picture.image.size, "image/png")
        assert output.nbytes == place.blobs.path(output.digest).stat().st_size
        assert output.recipe["pixels_sha256"] == recipe.pixels_sha256
    assert job.progress["value"] == 1.0 and job.progress["pictures"] == 3
    kinds = [event.type for event in place.store.events_after(job.id)]
    assert kinds.count("output") == 3 and kinds[-1] == "status"
    assert set(job.metrics) == {"queue_ms", "execution_ms"}


def test_an_open_seed_comes_from_the_job(place: Place) -> None:
    jobs = place.draw(place.submit(), place.submit())
    assert [job.outputs[0].seed for job in jobs] == [seed_of(job.id) for job in jobs]
    assert jobs[0].outputs[0].digest != jobs[1].outputs[0].digest
    assert 0 <= seed_of("x") < 2**32 and seed_of("x") == seed_of("x") != seed_of("y")


def test_flags_and_choices_in_the_prompt(place: Place) -> None:
    flagged, chosen, plain = place.draw(
        place.submit("a red cat --seed 9", front={"flags": True}),
        place.submit("a {red|blue} cat", front={"dynamic": True}, num_images=2),
        place.submit("a {red|blue} cat"),
    )
    assert flagged.outputs[0].seed == 9 and flagged.outputs[0].recipe["request"]["prompt"] == "a red cat"
    assert chosen.outputs[0].seed == seed_of(chosen.id) and len(chosen.outputs) == 2
    assert all("{" not in output.recipe["request"]["prompt"] for output in chosen.outputs)
    (notice,) = [event for event in place.store.events_after(plain.id) if event.data.get("code") == "template_as_text"]
    assert notice.type == "notice" and notice.data["field"] == "prompt"
    assert "template_as_text" in [notice["code"] for notice in plain.outputs[0].notices]


@pytest.mark.parametrize(("name", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats(place: Place, name: str, kind: str) -> None:
    (job,) = place.draw(place.submit(output={"format": name, "quality": 80}))
    (output,) = job.outputs
    assert output.content_type == f"image/{name}"
    with Image.open(place.blobs.path(output.digest)) as image:
        assert image.format == kind and image.size == (output.width, output.height)
    assert read_picture(place.blobs.path(output.digest))[1].request.prompt == "a red cat"


def test_an_uploaded_picture_is_what_it_starts_from(place: Place, pipeline: TextToImage) -> None:
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    digest = place.blobs.put(buffer.getvalue())
    upload = place.store.add_upload("ann", digest, nbytes=1, width=64, height=64)
    (job,) = place.draw(place.submit(seed=3, assets={"image": upload.id}))
    (expected,) = pipeline(TextToImageRequest(prompt="a red cat", num_steps=2, seed=3), image=image)
    assert job.outputs[0].recipe["pixels_sha256"] == expected.recipe.pixels_sha256
    assert job.outputs[0].recipe["request"]["source"]["image"] is not None
    place.blobs.path(digest).write_bytes(b"something else")
    (job,) = place.draw(place.submit(assets={"image": upload.id}))
    assert job.status == JobStatus.FAILED and job.error is not None and job.error["code"] == "damaged"


@pytest.mark.parametrize(
    ("asked", "size"), [({"scale": 1.5}, (60, 45)), ({"width": 20, "height": 10}, (20, 10)), ({}, (80, 60))]
)
def test_an_uploaded_picture_is_enlarged(place: Place, asked: dict[str, Any], size: tuple[int, int]) -> None:
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    upload = place.store.add_upload("ann", place.blobs.put(buffer.getvalue()), nbytes=1, width=40, height=30)
    work = Work(kind="upscale", model="lanczos", request=asked, assets={"image": upload.id})
    (job,) = place.draw(place.store.submit(NewJob(owner="ann", work=work))[0])
    assert job.status == JobStatus.SUCCEEDED, job.error
    expected = upscale(image, size)
    with Image.open(place.blobs.path(job.outputs[0].digest)) as drawn:
        assert drawn.tobytes() == expected.tobytes() and drawn.size == size


def test_what_cannot_be_enlarged_fails_alone(place: Place) -> None:
    upload = place.store.add_upload("ann", place.blobs.put(b"no picture"), nbytes=1, width=40, height=30)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    fine = place.store.add_upload("ann", place.blobs.put(buffer.getvalue()), nbytes=1, width=40, height=30)
    wrong: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ("lanczos", {}, {}),
        ("lanczos", {}, {"image": upload.id}),
        ("unheard-of", {}, {"image": fine.id}),
        ("lanczos", {"scale": 1000}, {"image": fine.id}),
        ("lanczos", {"scale": True}, {"image": fine.id}),
        ("lanczos", {"scale": 2, "width": 3, "height": 3}, {"image": fine.id}),
        ("lanczos", {"width": 3}, {"image": fine.id}),
        ("lanczos", {"prompt": "a cat"}, {"image": fine.id}),
        ("lanczos", {"width": 2100, "height": 2100}, {"image": fine.id}),
    ]
    works = [Work(kind="upscale", model=model, request=asked, assets=assets) for model, asked, assets in wrong]
    jobs = place.draw(*(place.store.submit(NewJob(owner="ann", work=work))[0] for work in works))
    assert [(job.error or {}).get("code") for job in jobs] == [
        "asset_missing",
        "wrong_kind",
        "unknown_name",
        "invalid_field",
        "invalid_field",
        "invalid_field",
        "invalid_field",
        "invalid_field",
        "too_large",
    ]


def test_finished_pictures_are_not_drawn_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker died after the first two of four; the next one goes on there."""
    (whole,) = place.draw(place.submit(num_images=4, seed=5))
    gate = Gate(monkeypatch, steps=2 * 3 + 2)
    job = place.submit(num_images=4, seed=5)
    with place.working(lease_seconds=0.4) as loop:
        assert gate.reached.wait(SECONDS)
        assert len(place.store.get(job.id).outputs) == 2
        assert place.store.worker_died("w") == 1
        gate.opened.set()
        end = time.monotonic() + SECONDS
        while loop._drawings and loop._drawings[0].lease.fence == 1 and time.monotonic() < end:
            time.sleep(0.01)
        steps = 0
        original = Drawing._on_progress

        def counted(*words: Any) -> None:
            nonlocal steps
            steps += words[2].step > 0
            original(*words)

        monkeypatch.setattr(Drawing, "_on_progress", counted)
        again = place.wait(job)
    assert (again.status, again.attempts) == (JobStatus.SUCCEEDED, 2) and steps <= 2 * 2
    assert [output.digest for output in again.outputs] == [output.digest for output in whole.outputs]
    assert [event.type for event in place.store.events_after(job.id)].count("output") == 4


# ---- stopping --------------------------------------------------------------------------------------------------------


def test_cancel_stops_within_a_step(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    job = place.submit(num_steps=50, num_images=2)
    with place.working() as loop:
        assert gate.reached.wait(SECONDS)
        assert place.store.cancel(job.id).status == JobStatus.CANCELING
        assert loop._drawings[0].cancel._event.wait(SECONDS)
        gate.opened.set()
        job = place.wait(job)
        assert job.status == JobStatus.CANCELED and job.outputs == () and job.progress.get("step", 0) <= 2
        assert place.wait(place.submit()).status == JobStatus.SUCCEEDED


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.sampled(2)
def test_cancelling_at_any_moment_leaves_the_others_of_a_batch_alone(place: Place, rows: int) -> None:
    """Four of twelve jobs are canceled while they are drawn side by side: each job ends once, and those that were let
    alone with their pictures."""
    alone = {seed: place.draw(place.submit(seed=seed, num_steps=4))[0].outputs[0].digest for seed in range(3)}
    chance = random.Random(rows)
    with place.working(jobs_at_once=4, rows_per_call=rows) as loop:
        jobs = [place.submit(seed=number % 3, num_steps=4, num_images=1 + number % 2) for number in range(12)]
        unwanted = chance.sample(jobs, 4)
        for job in unwanted:
            place.wait(job, JobStatus.RUNNING)
            time.sleep(0.02 * chance.random())
            place.store.cancel(job.id)
        ended = [place.wait(job) for job in jobs]
        for job in ended:
            told = [event.data["status"] for event in place.store.events_after(job.id) if event.type == "status"]
            assert told[-1] == job.status and sum(JobStatus(one).is_final for one in told) == 1, told
            assert job.status == JobStatus.SUCCEEDED or job.id in {one.id for one in unwanted}
            pictures = job.work.request["num_images"]
            assert len(job.outputs) == pictures or (job.status == JobStatus.CANCELED and len(job.outputs) < pictures)
            if rows == 1 and job.outputs and pictures == 1:
                assert job.outputs[0].digest == alone[job.work.request["seed"]]
        assert place.wait(place.submit()).status == JobStatus.SUCCEEDED
        until = time.monotonic() + 10
        while loop._drawings and time.monotonic() < until:  # the end is written first
            time.sleep(0.01)
        assert loop._drawings == []


def test_a_deadline_passes_in_the_middle(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    job = place.submit(num_steps=50, deadline=time.time() + 3600)
    with place.working() as loop:
        assert gate.reached.wait(SECONDS)
        monkeypatch.setattr(worker_module.time, "time", lambda now=time.time: now() + 3600)
        assert loop._drawings[0].cancel._event.wait(SECONDS)
        gate.opened.set()
        assert place.wait(job).status == JobStatus.EXPIRED


def test_a_lease_is_renewed_while_a_picture_is_drawn(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    job = place.submit()
    with place.working(lease_seconds=0.4):
        assert gate.reached.wait(SECONDS)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert place.store.recover() == 0
            time.sleep(0.02)
        gate.opened.set()
        job = place.wait(job)
    assert (job.status, job.attempts, job.crashes) == (JobStatus.SUCCEEDED, 1, 0)


def test_what_a_worker_draws_without_a_lease_counts_for_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped for a while, as by SIGSTOP; another one has the job."""
    gate = Gate(monkeypatch)
    job = place.submit()
    with place.working(lease_seconds=3600):
        assert gate.reached.wait(SECONDS)
        assert place.store.worker_died("w") == 1
        other = place.store.claim("other", lease_seconds=60)
        assert other is not None and other.job.id == job.id
        assert place.store.get(job.id).crashes == 1
        gate.opened.set()
        end = time.monotonic() + SECONDS
        while place.store.get(job.id).crashes and time.monotonic() < end:
            time.sleep(0.01)
        found = place.store.get(job.id)
        assert (found.status, found.outputs, found.crashes) == (JobStatus.RUNNING, (), 0)  # it was merely slow
        assert place.store.finish(other)


@pytest.mark.parametrize("stop_seconds", [0.0, SECONDS])
def test_a_worker_that_is_told_to_stop_finishes_or_releases(
    place: Place, monkeypatch: pytest.MonkeyPatch, stop_seconds: float
) -> None:
    gate = Gate(monkeypatch, steps=3)
    job = place.submit(num_steps=4)
    with place.working(stop_seconds=stop_seconds) as loop:
        assert gate.reached.wait(SECONDS)
        loop.stopping.set()
        gate.opened.set()
    job = place.store.get(job.id)
    expected = JobStatus.SUCCEEDED if stop_seconds else JobStatus.QUEUED
    assert (job.status, job.crashes, job.attempts) == (expected, 0, 1)
    assert place.store.workers() == []


# ---- failing ---------------------------------------------------------------------------------------------------------


def test_a_job_that_cannot_be_drawn_fails_alone(place: Place) -> None:
    wrong = [
        place.submit(model="no-such-model"),
        place.submit(width=100),
        place.submit(sampler="no-such-sampler"),
        place.submit(num_steps=0),
        place.submit("a cat --unheard 3", front={"flags": True}),
        place.submit(output={"format": "bmp"}),
        place.submit(no_such_field=1),
        place.submit("<lora:no-such-lora:1> a cat"),
    ]
    *failed, fine = place.draw(*wrong, place.submit())
    assert fine.status == JobStatus.SUCCEEDED
    assert {job.status for job in failed} == {JobStatus.FAILED}
    errors = [(job.error or {}).get("code") for job in failed]
    assert errors == [
        "unknown_name",
        "invalid_field",
        "invalid_field",
        "invalid_field",
        "flag",
        "invalid_value",
        "invalid_field",
        "invalid_field",
    ]
    assert all(job.error and job.error["message"] and job.attempts == 1 for job in failed)
    assert failed[1].error is not None and failed[1].error["field"] == "width"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("secret of the inside"), "internal"),
    ],
    ids=["memory", "gpu", "bug"],
)
def test_what_fails_while_it_is_drawn_fails_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    original = Drawing._on_progress

    def on_progress(drawing: Drawing, parts: Any, state: Any) -> None:
        original(drawing, parts, state)
        if drawing.job.work.request["prompt"] == "a blue cat" and state.step == 1:
            raise error

    monkeypatch.setattr(Drawing, "_on_progress", on_progress)
    jobs = [place.submit(prompt, seed=1) for prompt in ("a red cat", "a blue cat", "a red cat")]
    first, failed, last = place.draw(*jobs)
    assert first.status == last.status == JobStatus.SUCCEEDED
    assert first.outputs[0].digest == last.outputs[0].digest
    assert failed.status == JobStatus.FAILED and failed.error is not None and failed.error["code"] == code
    assert "secret" not in failed.error["message"]
    assert as_known(error, "job").code == code


def test_numbers_that_are_not_finite_are_an_error_and_no_black_picture(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LoadedModel.decode
    with place.working():
        with monkeypatch.context() as patched:
            patched.setattr(LoadedModel, "decode", lambda model, z: original(model, z) * float("nan"))
            broken = place.wait(place.submit())
        fine = place.wait(place.submit())
    assert broken.status == JobStatus.FAILED and broken.outputs == ()
    assert broken.error is not None and broken.error["code"] == "not_finite"
    assert fine.status == JobStatus.SUCCEEDED


def test_a_worker_on_a_broken_device_ends_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    job = place.submit()
    loop = WorkerLoop("w", place.options(), exit=codes.append)

    def begin(drawing: Drawing, pipeline: TextToImage) -> None:
        loop.stopping.set()
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Drawing, "begin", begin)
    loop.run()
    assert codes == [worker_module.EXIT_BROKEN]
    assert place.store.get(job.id).status == JobStatus.FAILED


def test_a_step_without_an_end_ends_the_worker(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hung = Gate(monkeypatch), threading.Event()
    place.submit()
    loop = WorkerLoop("w", place.options(hang_seconds=0.2), exit=lambda code: hung.set())
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert gate.reached.wait(SECONDS) and hung.wait(SECONDS)
    gate.opened.set()
    loop.stopping.set()
    thread.join()


# ---- what is told meanwhile ------------------------------------------------------------------------------------------


def test_progress_and_previews_are_told_and_the_last_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, steps=4)
    monkeypatch.setattr("gesso.serving.drawing.PREVIEW_SHARE", 1e9)
    job = place.submit(num_steps=5)
    with place.working(preview_seconds=1e-9, progress_seconds=0.0):
        assert gate.reached.wait(SECONDS)
        end = time.monotonic() + SECONDS
        while place.store.get(job.id).progress.get("step") != 3 and time.monotonic() < end:
            time.sleep(0.01)
        events = place.store.events_after(job.id)
        gate.opened.set()
        place.wait(job)
    (progress,) = [event for event in events if event.type == "progress"]
    assert progress.data | {"message": ""} == {
        "value": 0.6,
        "step": 3,
        "steps": 5,
        "picture": 1,
        "pictures": 1,
        "message": "",
    }
    (preview,) = [event for event in events if event.type == "preview"]
    assert preview.data["content_type"] == "image/jpeg" and preview.data["data_base64"].startswith("/9j/")
    assert "preview" not in [event.type for event in place.store.events_after(job.id)]  # the picture is there


def test_a_preview_that_fails_costs_no_picture(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.serving.drawing.to_images", lambda pixels: 1 / 0)
    monkeypatch.setattr("gesso.serving.drawing.PREVIEW_SHARE", 1e9)
    (job,) = place.draw(place.submit(num_steps=3), preview_seconds=1e-9)
    assert job.status == JobStatus.SUCCEEDED


def test_a_notice_is_told_once(place: Place) -> None:
    (job,) = place.draw(place.submit("a red cat and unheardof", num_images=2))
    notices = [event.data["code"] for event in place.store.events_after(job.id) if event.type == "notice"]
    assert "words_ignored" in notices and len(notices) == len(set(notices))
    assert Notice("a", code="words_ignored") == "a"


# ---- several jobs ----------------------------------------------------------------------------------------------------


def test_a_short_job_passes_a_long_one(place: Place) -> None:
    long = place.submit(num_steps=60)
    with place.working():
        place.wait(long, JobStatus.RUNNING)
        short = place.wait(place.submit(num_steps=2))
        assert not place.store.get(long.id).status.is_final
        long = place.wait(long)
    assert short.status == long.status == JobStatus.SUCCEEDED


@pytest.mark.slow
def test_a_long_job_is_not_passed_for_ever(place: Place) -> None:
    long = place.submit(num_steps=30)
    with place.working():
        place.wait(long, JobStatus.RUNNING)
        for _ in range(40):  # there is always one that needs less time
            place.submit(num_steps=2)
        assert place.wait(long).status == JobStatus.SUCCEEDED
        counts = place.store.counts()
        assert 2 <= counts[JobStatus.SUCCEEDED] < 35, counts
        place.store.cancel_all()


def test_a_job_with_a_crash_is_drawn_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    poison = place.submit(num_steps=40)
    assert place.store.claim("dead", lease_seconds=60) is not None
    place.store.worker_died("dead")
    with place.working() as loop:
        assert gate.reached.wait(SECONDS)
        short = place.submit(num_steps=2)
        loop._admit()  # as after the next step; the thread that draws stands at the gate
        assert place.store.get(short.id).status == JobStatus.QUEUED and len(loop._drawings) == 1
        gate.opened.set()
        assert place.wait(poison).status == JobStatus.SUCCEEDED
        assert place.wait(short).status == JobStatus.SUCCEEDED


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.sampled(2)
def test_pictures_are_the_same_among_others(place: Place, rows: int) -> None:
    """Computed apart bit by bit; joined in one call, within a level."""
    kinds = [{"num_steps": 3}, {"num_steps": 5, "sampler": "euler"}, {"num_steps": 4, "guidance_scale": 5.0}]
    alone = place.draw(
        *(place.submit(seed=seed, num_images=2, **kind) for seed, kind in enumerate(kinds)), jobs_at_once=1
    )
    together = place.draw(
        *(place.submit(seed=seed, num_images=2, **kind) for seed, kind in enumerate(kinds)),
        jobs_at_once=3,
        rows_per_call=rows,
    )
    for one, other in zip(alone, together, strict=True):
        for first, second in zip(one.outputs, other.outputs, strict=True):
            if rows == 1:
                assert first.digest == second.digest
            else:
                images = [read_picture(place.blobs.path(output.digest))[0] for output in (first, second)]
                levels = torch.stack(
                    [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images]
                )
                assert (levels[0].int() - levels[1].int()).abs().max() <= 1


def test_jobs_for_other_models_get_their_turn(place: Place, tmp_path: Path) -> None:
    other = str(save_tiny_mini(tmp_path / "other.safetensors", seed=1))
    jobs = [place.submit(model=model) for model in (place.model, other, place.model, other)]
    assert {job.status for job in place.draw(*jobs)} == {JobStatus.SUCCEEDED}


def test_models_leave_the_memory_when_nothing_is_to_do(place: Place) -> None:
    with place.working(keep_alive=0.2) as loop:
        studio = loop.studio  # before the job: on a busy machine the models may be gone when its end is seen
        place.wait(place.submit())
        end = time.monotonic() + SECONDS
        while (loop._pipelines or loop.studio is studio) and time.monotonic() < end:
            time.sleep(0.01)
        assert not loop._pipelines and loop.studio is not studio
        assert place.wait(place.submit()).status == JobStatus.SUCCEEDED


def test_the_least_recently_used_model_goes_first(place: Place, tmp_path: Path) -> None:
    others = [str(save_tiny_mini(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (1, 2)]
    with place.working(max_models=2) as loop:
        for model in (place.model, others[0], place.model, others[1]):
            place.wait(place.submit(model=model))
        assert list(loop._pipelines) == [place.model, others[1]]


def test_options_pass_through_json(place: Place) -> None:
    options = place.options(memory="6GiB", keep_alive=-1.0)
    assert WorkerOptions.from_json(options.to_json()) == options
    with pytest.raises(ValueError, match="no_such"):
        WorkerOptions.from_json('{"database": "a", "blobs": "b", "no_such": 1}')
