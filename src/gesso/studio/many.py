"""Runs of many pictures in one folder, which resume where they stopped: lines of a file, cells of a grid."""

import io
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.frontends.front_end import FrontEnd
from gesso.request.axes import Axis, cells, check_apart, parse_axis
from gesso.request.checks import RequestError
from gesso.request.prompt_file import PromptLine
from gesso.request.request import TextToImageRequest
from gesso.studio.drawing import check_names
from gesso.studio.events import Noticed, OnEvent, Sampling, ignore
from gesso.studio.sources import Sources

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.pipelines.picture import Progress
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.runtime.cancel import CancelToken
    from gesso.studio.run_folder import RunFolder

MAX_PICTURES = 100_000
NO_AXIS = Axis("", ("",), (lambda request: request,))

# Opens the pipeline of a model by its name: `Studio.open` with the choices that all pictures share.
OpenModel = Callable[[str], "TextToImage"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture of a run.

    file     its name in the run's folder
    request  for one picture; the run's seed takes the place of a seed that is left open
    model    by which `OpenModel` knows it
    """

    file: str
    request: TextToImageRequest
    model: str


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """total: pictures of the run; drawn: those drawn now; seed: of the run"""

    total: int
    drawn: int
    seed: int


@dataclass(kw_only=True)
class Run:
    """Draws the jobs whose pictures do not exist yet, one after the other.

    folder   from `gesso.studio.run_folder`
    jobs     all of the run; those of one model should stand together, since it is opened once
    sources  the source picture, mask and hints of the requests
    front    applies styles and wildcards to each prompt
    finished, drawn  pictures that are there now, and those of them that were drawn by this object
    """

    folder: "RunFolder"
    jobs: Sequence[Job]
    sources: Sources = field(default_factory=Sources)
    front: FrontEnd = field(default_factory=FrontEnd)
    finished: int = 0
    drawn: int = 0

    def pictures(
        self, open_model: OpenModel, on_event: OnEvent = ignore, *, cancel: "CancelToken | None" = None
    ) -> "Iterator[tuple[Job, Path, Image]]":
        """Every job with its picture and path, drawn now or before.

        Raises GessoError as `TextToImage` does, and where another picture stands in a job's place.
        """
        for model, jobs in itertools.groupby(self.jobs, key=lambda job: job.model):
            pipeline = open_model(model)
            for job in jobs:
                yield job, self.folder.picture(job.file), self._picture(pipeline, job, on_event, cancel)

    @property
    def summary(self) -> RunSummary:
        """How many pictures were drawn now."""
        return RunSummary(total=len(self.jobs), drawn=self.drawn, seed=self.folder.seed)

    def _picture(self, pipeline: "TextToImage", job: Job, on_event: OnEvent, cancel: "CancelToken | None") -> "Image":
        from gesso.pipelines.framing import size_notice

        self.finished += 1
        request = replace(job.request, seed=self.folder.seed) if job.request.seed is None else job.request
        (written,) = self.front.requests(request, pipeline.model.family)
        if not self.folder.is_new:
            image = self.folder.done(job.file, pipeline.expected(written.request, **self.sources.arguments))
            if image is not None:
                log.debug("%s: already drawn", job.file)
                return image
        self.drawn += 1
        resolved = pipeline.resolve(written.request, **self.sources.pictures)
        if (odd_size := size_notice(resolved, pipeline.model.family)) is not None:
            on_event(Noticed(notice=odd_size, about=job.file))

        def progress(state: "Progress") -> None:
            on_event(Sampling(number=self.finished, total=len(self.jobs), progress=state))

        (picture,) = pipeline(written.request, progress, **self.sources.arguments, cancel=cancel)
        picture = picture.with_notices(written.notices)
        for notice in dict.fromkeys(picture.notices):
            on_event(Noticed(notice=notice, about=job.file))
        with _kept():
            self.folder.save(job.file, picture.to_png())
        return picture.image


@contextmanager
def _kept() -> Iterator[None]:
    """Says how to go on where a file cannot be written: on a full disk, what is finished is whole."""
    try:
        yield
    except GessoError as error:
        if error.code != "unwritable":
            raise
        text = f"{error.message}. Finished pictures are kept; with room on the disk, the same command draws the rest"
        raise GessoError(text, code=error.code, data=error.data) from None


def with_settings(base: TextToImageRequest, settings: Sequence[str]) -> TextToImageRequest:
    """The request with every NAME=VALUE, as the axes of grids name fields. Raises RequestError for several values."""
    for setting in settings:
        axis = parse_axis(setting)
        if len(axis.values) != 1 or axis.changes[0] is None or axis.label == "prompt":
            raise RequestError("set", f"`set` {setting[:60]}: expected one field and one value, such as steps=12")
        base = axis.changes[0](base)
    return base


def line_jobs(lines: Sequence[PromptLine], base: TextToImageRequest, model: str) -> list[Job]:
    """The pictures of a prompt file, named after their lines: 0001-1.png the first. What a line says wins over `base`
    and `model`.

    Raises RequestError for values that a request cannot have, for names that are not known, and above MAX_PICTURES.
    """
    requests = [(line, line.request(base)) for line in lines]
    count = sum(request.num_images for _, request in requests)
    if count > MAX_PICTURES:
        raise RequestError("num_images", f"{count} pictures, expected at most {MAX_PICTURES} in a run")
    for _, request in requests:
        check_names(request)
    jobs = [
        Job(
            file=f"{line.number:04}-{index + 1}.png",
            request=replace(request, num_images=1, first_index=request.first_index + index),
            model=line.model or model,
        )
        for line, request in requests
        for index in range(request.num_images)
    ]
    return _by_model(jobs)


def _by_model(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with those of one model together, otherwise in their order."""
    order = list(dict.fromkeys(job.model for job in jobs))
    return sorted(jobs, key=lambda job: order.index(job.model))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """An X/Y/Z plot: columns x, rows y, sheets z. Raises RequestError for too many pictures."""

    base: TextToImageRequest
    model: str
    x: Axis = NO_AXIS
    y: Axis = NO_AXIS
    z: Axis = NO_AXIS

    def __post_init__(self) -> None:
        cells(self.axes)
        check_apart(self.axes)

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """Columns, rows, sheets."""
        return self.x, self.y, self.z

    def jobs(self) -> list[Job]:
        """All pictures, those of one model together. Raises RequestError for names that are not known."""
        jobs = []
        for z, y, x in itertools.product(*(range(len(axis.values)) for axis in reversed(self.axes))):
            request, model = self.base, self.model
            for axis, at in zip(self.axes, (x, y, z), strict=True):
                change = axis.changes[at]
                request, model = (request, axis.values[at]) if change is None else (change(request), model)
            check_names(request)
            jobs.append(Job(file=_cell(x, y, z), request=request, model=model))
        return _by_model(jobs)

    def cells_of(self, sheet: int) -> Iterator[tuple[int, int, str]]:
        """Row, column and file of each picture on a sheet, from 0, row by row."""
        for y, x in itertools.product(range(len(self.y.values)), range(len(self.x.values))):
            yield y, x, _cell(x, y, sheet)

    def sheets(self, folder: "RunFolder", pictures: "Mapping[str, Image]", *, cell: int = 256) -> Iterator[Path]:
        """Write a sheet for each value of the last axis, over those of before, and give their paths.

        pictures  by the files of their jobs
        cell      pixels of a picture's longer side on the sheet
        """
        from gesso.pictures.grid_sheet import grid_sheet
        from gesso.pictures.picture_file import write_new

        columns, rows, headings = ([_heading(axis, value) for value in axis.values] for axis in self.axes)
        for z, heading in enumerate(headings):
            cells_of_sheet = {(x, y): pictures[file] for y, x, file in self.cells_of(z)}
            title = ", ".join(filter(None, (self.base.prompt, heading)))
            buffer = io.BytesIO()
            grid_sheet(cells_of_sheet, columns, rows, title=title, cell=cell).save(buffer, "PNG")
            path = folder.picture(f"grid-{z + 1:02}.png" if len(headings) > 1 else "grid.png")
            with _kept():
                write_new(path, buffer.getvalue(), overwrite=True)
            yield path


def draw_grid(
    grid: Grid,
    run: Run,
    open_model: OpenModel,
    *,
    cell: int = 256,
    on_event: OnEvent = ignore,
    cancel: "CancelToken | None" = None,
) -> Iterator[Path]:
    """Draw what is missing of a grid's run, then write its sheets and give their paths. Raises GessoError."""
    pictures = {job.file: image for job, _, image in run.pictures(open_model, on_event, cancel=cancel)}
    yield from grid.sheets(run.folder, pictures, cell=cell)


def _cell(x: int, y: int, z: int) -> str:
    return f"z{z + 1:02}-y{y + 1:02}-x{x + 1:02}.png"


def _heading(axis: Axis, value: str) -> str:
    return f"{axis.label}: {value}" if axis.label and axis.label != "prompt" else value
