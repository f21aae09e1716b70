"""`gesso grid PROMPT --x NAME=VALUES --y ... --z ...`: pictures that differ in one thing each, on sheets."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption
from gesso.cli.control_options import ControlOption
from gesso.cli.many import Beside, Drawing, with_settings
from gesso.cli.model_option import ModelOption, OfflineOption
from gesso.cli.progress import Bar
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, WildcardsOption
from gesso.cli.session import check_names, load_pipeline, read_pictures
from gesso.errors import GessoError
from gesso.request.axes import Axis, cells, parse_axis
from gesso.request.request import TextToImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.studio.run_folder import RunFolder

AXIS_HELP = "such as steps=4,8,20, guidance=2-8(+2), prompt=red,green or sampler=euler,ddim."


def command(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; several words need no quotes.")],
    x: Annotated[str | None, typer.Option("--x", "-x", metavar="NAME=VALUES", help=f"Columns, {AXIS_HELP}")] = None,
    y: Annotated[str | None, typer.Option("--y", "-y", metavar="NAME=VALUES", help="Rows, the same way.")] = None,
    z: Annotated[
        str | None, typer.Option("--z", "-z", metavar="NAME=VALUES", help="Sheets, the same way: one for each value.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other field of the request, such as steps=12; again."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-S", help="Seed of all pictures; a random one where left out.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", metavar="FILE", help="Picture to start from.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", metavar="FILE", help="White is drawn again.")] = None,
    control: ControlOption = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    style: StyleOption = None,
    styles: StylesOption = None,
    wildcards: WildcardsOption = None,
    dynamic_prompts: DynamicOption = False,
    model: ModelOption = "gesso-mini",
    offline: OfflineOption = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads.")] = None,
    cell: Annotated[
        int, typer.Option("--cell", min=32, max=2048, help="Pixels of a picture's longer side on the sheet.")
    ] = 256,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where sheets and pictures go; by default outputs/grid, grid_2, ...",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notices.")] = False,
) -> None:
    """Draw a grid and print the path of each sheet. A grid that was cut off goes on where it was.

    Axes are any field of a request, and prompt (search and replace: the first value is what is looked for), size,
    model, lora:NAME. The single pictures stand beside the sheets.
    """
    beside = Beside.of(
        control=control,
        lora=lora,
        embedding=embedding,
        style=style,
        styles=styles,
        wildcards=wildcards,
        dynamic_prompts=dynamic_prompts,
    )
    base = with_settings(TextToImageRequest(prompt=" ".join(prompt), **beside.fields), settings or [])
    axes = [parse_axis(text) if text is not None else Axis("", ("",), (lambda request: request,)) for text in (x, y, z)]
    if not any(axis.label for axis in axes):
        raise GessoError(f"nothing varies. Say what, with --x: {AXIS_HELP}")
    count = cells(axes)
    jobs = list(_jobs(base, axes, model))
    for job in jobs:
        check_names(job.request)
    from gesso.studio.run_folder import begin_run, open_run

    what = {
        "prompt": base.prompt,
        "set": settings or [],
        **beside.said,
        "x": x,
        "y": y,
        "z": z,
        "model": model,
    }
    seed = None if seed == -1 else seed
    folder = open_run(output, what, seed) if output is not None else begin_run(Path("outputs", "grid"), what, seed)
    with Bar(quiet=quiet, keep=False) as bar:
        bar.stage("starting")
        import torch  # noqa: F401  (takes a second or two; the bar is there already)

        drawing = Drawing(folder, bar, count, read_pictures(image, mask), beside)
        done: dict[tuple[int, int, int], Image] = {}
        for name, group in itertools.groupby(jobs, key=lambda job: job.model):
            bar.stage(f"loading {Path(name).name}")
            pipeline = load_pipeline(
                name, device=device, dtype=dtype, threads=threads, offline=offline, finder=beside.finder
            )
            for job in group:
                request = replace(job.request, seed=folder.seed) if job.request.seed is None else job.request
                done[job.at] = drawing.picture(pipeline, request, job.file)
        for path in _sheets(folder, axes, done, cell, base.prompt):
            bar.result(GessoError(str(path)).one_line)
        bar.note(drawing.summary())


@dataclass(frozen=True)
class _Job:
    """One picture: column, row and sheet; what to draw, and with which model."""

    at: tuple[int, int, int]
    request: TextToImageRequest
    model: str

    @property
    def file(self) -> str:
        x, y, z = self.at
        return f"z{z + 1:02}-y{y + 1:02}-x{x + 1:02}.png"


def _jobs(base: TextToImageRequest, axes: list[Axis], model: str) -> Iterator[_Job]:
    """All pictures; those of one model stand together."""
    places = itertools.product(*(range(len(axis.values)) for axis in reversed(axes)))
    jobs = []
    for z, y, x in places:
        request, chosen = base, model
        for axis, at in zip(axes, (x, y, z), strict=True):
            change = axis.changes[at]
            request, chosen = (request, axis.values[at]) if change is None else (change(request), chosen)
        jobs.append(_Job((x, y, z), request, chosen))
    order = list(dict.fromkeys(job.model for job in jobs))
    yield from sorted(jobs, key=lambda job: order.index(job.model))


def _sheets(
    folder: "RunFolder", axes: list[Axis], done: dict[tuple[int, int, int], "Image"], cell: int, prompt: str
) -> Iterator[Path]:
    """Writes a sheet for each value of the last axis; they are made anew each time."""
    from gesso.pictures.grid_sheet import grid_sheet
    from gesso.pictures.picture_file import write_new

    columns, rows, sheets = ([_heading(axis, value) for value in axis.values] for axis in axes)
    for z, heading in enumerate(sheets):
        pictures = {(x, y): image for (x, y, sheet), image in done.items() if sheet == z}
        title = ", ".join(filter(None, (prompt, heading)))
        buffer = io.BytesIO()
        grid_sheet(pictures, columns, rows, title=title, cell=cell).save(buffer, "PNG")
        path = folder.picture(f"grid-{z + 1:02}.png" if len(sheets) > 1 else "grid.png")
        write_new(path, buffer.getvalue(), overwrite=True)
        yield path


def _heading(axis: Axis, value: str) -> str:
    return f"{axis.label}: {value}" if axis.label and axis.label != "prompt" else value
