"""Draws one job: its request and pictures become runs, their pictures become outputs in the store.

What a job draws is decided by the job alone: an open seed comes from its id, so that a worker that takes over from
one that died draws the same pictures, and goes on after those that are finished.
"""

import hashlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from PIL import Image

from gesso.errors import GessoError, short
from gesso.frontends.front_end import FrontEnd
from gesso.frontends.midjourney import parse_flags
from gesso.notices import Notice
from gesso.pictures.picture_file import DEFAULT_QUALITY
from gesso.pictures.reading import read_hint, read_image, read_layer, read_mask
from gesso.pipelines.framing import size_notice
from gesso.pipelines.picture import Picture, Progress, to_images
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import DRAWN_SEED_BITS, TextToImageRequest
from gesso.runtime.batcher import Run
from gesso.runtime.cancel import CancelledError, CancelToken
from gesso.serving.enlarging import enlarge
from gesso.serving.jobs import Drawn, Job, Lease, Output, error_value
from gesso.serving.numbers import FLAT_PICTURES, NONFINITE, PICTURES, STEPS, Numbers, is_flat
from gesso.serving.options import WorkerOptions
from gesso.serving.rows import cost_of
from gesso.serving.storage import Blobs
from gesso.serving.store import JobStore
from gesso.serving.tracing import Span, Tracing, trace_id
from gesso.studio.drawing import Order, check_names
from gesso.studio.front_ends import open_front_end
from gesso.studio.sources import Sources
from gesso.studio.studio import Studio

# Format of `Work.output` -> that of Pillow, and its media type.
FORMATS = {
    "png": ("PNG", "image/png"),
    "jpeg": ("JPEG", "image/jpeg"),
    "webp": ("WEBP", "image/webp"),
    "avif": ("AVIF", "image/avif"),
}
PREVIEW_SHARE = 0.1  # of the time that previews may take
PREVIEW_SIDE = 512
PREVIEW_QUALITY = 80
AWAY = "storage_unusable"  # code of an error that passes: the object storage does not answer
STORAGE_PATIENCE = 600.0  # seconds that a finished picture waits for it; then the job goes back to the queue
STORAGE_PAUSE = 1.0

# Why a job stops before it is done: its client canceled it, its deadline passed, another worker has it, this one ends.
Stop = Literal["canceled", "expired", "lost", "released"]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Part:
    """The run of one picture.

    index       of the picture in the job
    notices     about how its prompt was read
    steps_left  until it is finished
    span        of its drawing
    """

    index: int
    run: Run[Picture]
    notices: tuple[Notice, ...]
    steps_left: int
    span: Span = field(default_factory=lambda: Span(None))


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A finished picture that is not stored yet.

    index  in the job
    data   the bytes of its file
    size   width and height in pixels
    """

    index: int
    data: bytes
    content_type: str
    size: tuple[int, int]
    seed: int
    recipe: dict[str, Any]
    notices: tuple[Notice, ...] = ()


class Drawing:
    """A job that a worker draws. Its methods are called by the thread that draws, but for `stop` and `stored`.

    lease          of the job
    active         the pictures that are being drawn
    state          how far it is, for whoever reports it: the JSON of `Job.progress`
    step_seconds   how long a step takes, as far as is known
    reported       when `state` was last written down, and which it was
    span           of all of it, in the trace of the request that brought the job
    """

    def __init__(
        self,
        lease: Lease,
        store: JobStore,
        blobs: Blobs,
        options: WorkerOptions,
        *,
        numbers: Numbers | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.lease, self.store, self.blobs, self.options = lease, store, blobs, options
        self.job: Job = lease.job
        self.numbers, self.tracing = numbers or Numbers(), tracing or Tracing()
        self.span = self._begun()
        self.cancel = CancelToken()
        self.stopped: Stop | None = None
        self.active: list[Part] = []
        self.state: dict[str, Any] = {}
        self.step_seconds: float | None = None
        self._begin = time.monotonic()
        self.reported: tuple[float, object] = 0.0, None
        self._num_pictures, self._num_steps, self._num_begun = 1, 1, 0
        self._parts: Iterator[Part] = iter(())
        self._pipeline: TextToImage | None = None
        self._last_preview, self._preview_cost = time.monotonic(), 0.0
        self._told: set[str] = set()
        self._outputs: list[Output] = []  # of which the store was not told yet, as of these:
        self._notices: list[dict[str, Any]] = []
        self._unsaid: Drawn | None = None
        self.is_waiting = False  # for the object storage

    def _begun(self) -> Span:
        """The span of the job, after that of its time in the queue."""
        job, parent = self.job, self.job.origin.get("traceparent")
        waited = self.tracing.start("wait in queue", parent=parent, at=job.created_at, job=job.id)
        waited.end(at=job.started_at)
        return self.tracing.start(
            "draw job",
            parent=parent,
            kind="consumer",
            job=job.id,
            request_id=job.origin.get("request_id"),
            work=job.work.kind,
            model=job.work.model,
            attempt=job.attempts,
            worker=self.lease.worker,
        )

    @property
    def words(self) -> dict[str, Any]:
        """What the log says of the job."""
        origin = self.job.origin
        return {
            "job": self.job.id,
            "request_id": origin.get("request_id"),
            "trace": trace_id(origin.get("traceparent")),
        }

    def stop(self, reason: Stop) -> None:
        """Stop within a step. The first reason counts. From any thread."""
        if self.stopped is None:
            self.stopped = reason
        self.cancel.cancel()

    # ---- what there is to draw ---------------------------------------------------------------------------------------

    def begin(self, pipeline: TextToImage) -> None:
        """Prepare the job for a model. Raises GessoError for what cannot be drawn."""
        self._pipeline = pipeline
        order = self._order()
        self._num_pictures = order.num_images
        self._parts = self._prepared(pipeline, order)

    def enlarge(self, studio: Studio) -> None:
        """Do a job of the kind "upscale", from begin to end. Raises GessoError, CancelledError."""
        work = self.job.work
        kind, content_type = self._format()
        given = work.assets.get("image")
        if given is None:
            raise GessoError('`assets` has no "image" to enlarge', code="asset_missing", field="assets")
        path = self._picture_file(given)

        def on_rows(done: int, rows: int) -> None:
            self.cancel.check()
            self.state = {"value": round(done / rows, 4), "step": done, "steps": rows, "picture": 1, "pictures": 1}

        image = enlarge(read_layer(path), work.model, work.request, studio, on_rows)
        buffer = io.BytesIO()
        if kind == "JPEG":
            image = image.convert("RGB")
        image.save(buffer, kind, **({} if kind == "PNG" else {"quality": self._quality}))
        recipe = {"upscaler": work.model, "width": image.width, "height": image.height, "source": path.name}
        self._count(image, ())
        encoded = Encoded(
            index=0, data=buffer.getvalue(), content_type=content_type, size=image.size, seed=0, recipe=recipe
        )
        self.keep(self.stored(encoded))

    def next_part(self) -> Part | None:
        """Begin another picture of the job; None: all are begun. Raises GessoError."""
        part = next(self._parts, None)
        if part is not None:
            part.span = self.tracing.start("draw picture", parent=self.span.traceparent, picture=part.index)
            self.active.append(part)
        return part

    @property
    def seconds_left(self) -> float:
        """How long it likely takes; in steps, while nothing is known."""
        steps = sum(part.steps_left for part in self.active)
        steps += max(self._num_pictures - self._num_begun, 0) * self._num_steps
        return (steps + 1) * (self.step_seconds or 1.0)

    @property
    def cost_left(self) -> float:
        """What is left of its cost, see `cost_of`."""
        return cost_of(self.job.work) * (1.0 - float(self.state.get("value", 0.0)))

    def _format(self) -> tuple[str, str]:
        """Pillow's name of the output's format, and its media type. Raises GessoError for an unknown one."""
        name = self.job.work.output.get("format", "png")
        if name not in FORMATS:
            raise GessoError(
                f"`output` format {short(name)}: expected one of {', '.join(FORMATS)}",
                code="invalid_value",
                field="output",
            )
        return FORMATS[name]

    @property
    def _quality(self) -> int:
        return int(self.job.work.output.get("quality", DEFAULT_QUALITY))

    def _order(self) -> Order:
        self._format()
        request = TextToImageRequest.from_dict(self.job.work.request)
        check_names(request)
        front = self._front()
        if request.seed is None and not (front.flags and "seed" in parse_flags(request.prompt).flags):
            request = replace(request, seed=seed_of(self.job.id))
        return Order(request=request, sources=self._sources(), front=front)

    def _front(self) -> FrontEnd:
        asked, folder = self.job.work.front, self.options.wildcards
        return open_front_end(
            "midjourney" if asked.get("flags") else None,
            style=tuple(asked.get("styles", ())) or None,
            wildcards=Path(folder) if asked.get("dynamic") and folder is not None else None,
            dynamic=bool(asked.get("dynamic")),
        )

    def _sources(self) -> Sources:
        given = {role: self._picture_file(upload) for role, upload in sorted(self.job.work.assets.items())}
        return Sources(
            image=read_image(given["image"]) if "image" in given else None,
            mask=read_mask(given["mask"]) if "mask" in given else None,
            hints=tuple(read_hint(path) for role, path in given.items() if role.startswith(("hint", "prompt"))),
        )

    def _picture_file(self, upload: str) -> Path:
        digest = self.store.get_upload(upload, self.job.owner).digest
        self.blobs.read(digest)  # the bytes are still those that were stored
        return self.blobs.path(digest)

    def _prepared(self, pipeline: TextToImage, order: Order) -> Iterator[Part]:
        """The pictures that are not finished yet, each prepared when it is its turn."""
        finished = {output.index for output in self.job.outputs if self._is_stored(output)}
        first = 0
        for plain in order.requests(pipeline):
            resolved = pipeline.resolve(plain.request, **order.sources.pictures)
            if not first and (notice := size_notice(resolved, pipeline.model.family)) is not None:
                self._tell(notice)
            self._num_steps = resolved.num_steps
            parts: list[Part] = []
            runs = pipeline.runs(
                plain.request, partial(self._on_progress, parts), **order.sources.arguments, cancel=self.cancel
            )
            parts += [Part(first + row, run, plain.notices, self._num_steps) for row, run in enumerate(runs)]
            for part in parts:
                self._num_begun += 1
                if part.index not in finished:
                    yield part
            first += len(parts)

    def _is_stored(self, output: Output) -> bool:
        try:
            self.blobs.read(output.digest)
        except GessoError as error:
            if error.code == AWAY:
                raise
            return False
        return True

    # ---- while it is drawn -------------------------------------------------------------------------------------------

    def _on_progress(self, parts: Sequence[Part], state: Progress) -> None:
        """A step of one of these pictures is done."""
        part = parts[state.index]
        self.numbers.add(STEPS, max(part.steps_left - (state.num_steps - state.step), 0))
        part.steps_left, self._num_steps = state.num_steps - state.step, max(state.num_steps, 1)
        done = self._num_begun - sum(each.steps_left for each in self.active) / self._num_steps
        self.state = {
            "value": round(min(max(done / self._num_pictures, 0.0), 1.0), 4),
            "step": state.step,
            "steps": state.num_steps,
            "picture": part.index + 1,
            "pictures": self._num_pictures,
            "message": f"picture {part.index + 1} of {self._num_pictures}, step {state.step} of {state.num_steps}",
        }
        # With a memory limit a plan says what is loaded when, and previews are not in it.
        if state.latents is not None and 0 < state.step < state.num_steps and self.options.memory is None:
            self._preview(state)

    def _preview(self, state: Progress) -> None:
        """Show the picture as it is by now, when that is due and does not slow the drawing down."""
        begin, every = time.monotonic(), self.options.preview_seconds
        pause = max(every, self._preview_cost / PREVIEW_SHARE)
        if not every or begin - self._last_preview < pause or self.cancel.is_cancelled:
            return
        assert self._pipeline is not None and state.latents is not None
        try:
            (image,) = to_images(self._pipeline.model.decode(state.latents[:1]))
            image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
            self.store.preview(self.lease, "image/jpeg", buffer.getvalue())
        except Exception as error:  # a picture can be finished without one
            log.warning("no preview: %s", error, extra=self.words)
        self._last_preview = time.monotonic()
        self._preview_cost = self._last_preview - begin

    def _tell(self, notice: Notice) -> None:
        if (value := self._new_notice(notice)) is not None:
            self.store.notice(self.lease, value)

    def _new_notice(self, notice: Notice) -> dict[str, Any] | None:
        """A notice, unless it was told before."""
        if notice in self._told:
            return None
        self._told.add(notice)
        return notice_value(notice)

    # ---- what came out -----------------------------------------------------------------------------------------------

    def encoded(self, part: Part) -> "Encoded":
        """A finished picture as the bytes of its file. Raises what ended its run, and GessoError."""
        self.active.remove(part)
        try:
            picture = part.run.result().with_notices(part.notices)
        except BaseException as error:
            part.span.end(getattr(error, "code", type(error).__name__))
            raise
        part.span.end()
        for notice in dict.fromkeys(picture.notices):
            if (value := self._new_notice(notice)) is not None:
                self._notices.append(value)
        kind, content_type = self._format()
        self._count(picture.image, picture.notices)
        return Encoded(
            index=part.index,
            data=picture.encode(kind, self._quality),
            content_type=content_type,
            size=picture.image.size,
            seed=picture.seed,
            recipe=msgspec.json.decode(picture.recipe.to_json()),
            notices=picture.notices,
        )

    def stored(self, picture: "Encoded") -> Output:
        """Store the bytes of a finished picture. By any thread, several at a time. Raises GessoError."""
        nbytes = len(picture.data)
        with self.tracing.span("store picture", parent=self.span.traceparent, picture=picture.index, nbytes=nbytes):
            digest = self._stored(picture.data)
        return Output(
            id=f"{self.job.id}-{picture.index}",
            index=picture.index,
            content_type=picture.content_type,
            nbytes=nbytes,
            width=picture.size[0],
            height=picture.size[1],
            digest=digest,
            seed=picture.seed,
            recipe=picture.recipe,
            notices=tuple(notice_value(notice) for notice in dict.fromkeys(picture.notices)),
        )

    def keep(self, output: Output) -> None:
        """Have a picture that is stored told of; what is said of it comes with `told`."""
        self._outputs.append(output)

    def _stored(self, data: bytes) -> str:
        """Store bytes, however long the object storage is away. -> their SHA-256

        Raises CancelledError where the job is to stop meanwhile, and GessoError where it took too long.
        """
        begin = time.monotonic()
        while True:
            try:
                return self.blobs.put(data)
            except GessoError as error:
                if error.code != AWAY or time.monotonic() - begin > STORAGE_PATIENCE:
                    raise
                log.warning("a finished picture waits: %s", error.one_line, extra=self.words)
                self.state = {**self.state, "message": "drawn, and waits for the object storage"}
            self.is_waiting = True
            time.sleep(STORAGE_PAUSE)
            self.cancel.check()

    def _count(self, image: Image.Image, notices: Sequence[Notice]) -> None:
        self.numbers.add(PICTURES)
        if is_flat(image):
            self.numbers.add(FLAT_PICTURES)
            log.warning("a picture of one colour", extra=self.words)
        if any(notice.code == "recomputed_in_float32" for notice in notices):
            self.numbers.add(NONFINITE, label="recomputed")

    def told(self, *, is_done: bool) -> Drawn:
        """The pictures and notices that nobody has been told of, for `JobStore.record`.

        is_done  it was the last; a job that was stopped meanwhile was faster
        """
        outputs, self._outputs = tuple(self._outputs), []
        notices, self._notices = tuple(self._notices), []
        is_done = is_done and self.stopped in (None, "canceled", "expired")
        progress = {**self.state, "value": 1.0} if is_done else None
        return Drawn(lease=self.lease, outputs=outputs, notices=notices, is_done=is_done, progress=progress)

    def ended_well(self) -> None:
        """Its end was written."""
        self._say("done")

    def _say(self, how: str, failure: GessoError | None = None) -> None:
        log.info("%s after %.2f s", how, time.monotonic() - self._begin, extra=self.words)
        if failure is not None and failure.code == "not_finite":
            self.numbers.add(NONFINITE, label="failed")
        self.span.set(status=how, pictures=self._num_begun - len(self.active))
        self.span.end(failure.code if failure is not None else None)

    def end(self, error: BaseException) -> None:
        """Write how it ended that was not done: with this error; stopped, where it was.

        An error of the store passes through; it may be called again then.
        """
        for part in self.active:
            part.run.close()
            part.span.end("cancelled")
        failure = None if isinstance(error, CancelledError) else as_known(error, self.job.id)
        if self._outputs or self._notices:  # pictures that were finished in the same step
            self._unsaid = self.told(is_done=False)
        if self._unsaid is not None:
            self.store.record([self._unsaid])
            self._unsaid = None
        if failure is not None:
            self.store.fail(self.lease, error_value(failure))
        elif self.stopped == "canceled":
            self.store.canceled(self.lease)
        elif self.stopped == "expired":
            self.store.expired(self.lease)
        elif self.stopped == "released":
            self.store.release(self.lease)
        elif self.stopped == "lost":
            self.store.lost(self.lease)
        self._say(self.stopped or "failed", failure)


def seed_of(job: str) -> int:
    """The seed of a job that names none: as good as drawn, and the same whoever draws the job."""
    return int.from_bytes(hashlib.sha256(f"seed of {job}".encode()).digest()[: DRAWN_SEED_BITS // 8], "big")


def notice_value(notice: Notice) -> dict[str, Any]:
    """A notice as events and outputs have it."""
    return {"code": notice.code, "message": str(notice), "field": notice.field, "data": dict(notice.data)}


def as_known(error: BaseException, job: str) -> GessoError:
    """Any error as one that a client may see. What a bug says stays in the log."""
    if isinstance(error, GessoError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return GessoError(
            "the picture needs more memory than there is. Ask for a smaller one, or for fewer at once",
            code="out_of_memory",
        )
    log.error("%s", type(error).__name__, exc_info=error, extra={"job": job})
    return GessoError(
        f"gesso failed in a way that was not foreseen; the server's log has it under {job}", code="internal"
    )
