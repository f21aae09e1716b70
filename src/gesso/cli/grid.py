"""`gesso grid PROMPT --x NAME=VALUES --y ... --z ...`: pictures that vary one setting per axis, on sheets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption
from gesso.cli.control_options import ControlOption
from gesso.cli.machine_options import DeviceOption, DtypeOption, ThreadsOption
from gesso.cli.many import RunOptions, Told, open_folder, summary_line
from gesso.cli.model_option import ModelOption, OfflineOption
from gesso.cli.picture_options import ImageOption, MaskOption, check_blurred
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, WildcardsOption
from gesso.errors import GessoError
from gesso.request.axes import parse_axis
from gesso.request.request import TextToImageRequest
from gesso.studio.events import to_all
from gesso.studio.many import NO_AXIS, Grid, Run, draw_grid, with_settings
from gesso.studio.studio import EngineOptions, ModelChoice, Studio
from gesso.terminal.json_lines import JsonOption, json_line, notice_values
from gesso.terminal.progress import Bar
from gesso.terminal.results import AbsolutePathsOption, OpenOption, open_results, path_values, shown

if TYPE_CHECKING:
    from gesso.pipelines.text_to_image import TextToImage

AXIS_HELP = "such as steps=4,8,20, guidance=2-8(+2), prompt=red,green or sampler=euler,ddim."


def command(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; quotes are optional.")],
    x: Annotated[
        str | None,
        typer.Option("--x", "-x", metavar="FIELD=VALUES", help=f"Columns: a setting and its values, {AXIS_HELP}"),
    ] = None,
    y: Annotated[str | None, typer.Option("--y", "-y", metavar="FIELD=VALUES", help="Rows, likewise.")] = None,
    z: Annotated[
        str | None, typer.Option("--z", "-z", metavar="FIELD=VALUES", help="Sheets, likewise: one per value.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set any other field, such as steps=12 (repeatable)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-S", help="Seed of all pictures; random by default or if -1.")
    ] = None,
    image: ImageOption = None,
    mask: MaskOption = None,
    control: ControlOption = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    style: StyleOption = None,
    styles: StylesOption = None,
    wildcards: WildcardsOption = None,
    dynamic_prompts: DynamicOption = False,
    model: ModelOption = "gesso-mini",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    cell: Annotated[
        int, typer.Option("--cell", min=32, max=2048, help="Longer side of a picture on the sheet, in pixels.")
    ] = 256,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for sheets and pictures.",
            show_default="outputs/grid, then grid_2, ...",
        ),
    ] = None,
    open_after: OpenOption = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")] = False,
) -> None:
    """Draw a grid (X/Y/Z plot) and print the path of each sheet. An interrupted grid resumes where it stopped.

    An axis is any field of a request, or prompt (search and replace; the first value is the text to find), size,
    model or lora:NAME. The single pictures are saved next to the sheets.

    Examples:
        gesso grid "a red car" -x steps=4,8,20 -y guidance=1,3,6 --seed 7
        gesso grid "a red car" -x sampler=euler,ddim,dpmpp_2m --set steps=12
        gesso grid "a red car" -x prompt=red,green,blue -y seed=1-4
        gesso grid "a red car" -x "guidance=2-8(+2)" -o guidance/
        gesso grid "a red car" -x lora:comic=0,0.5,1 --seed 7
        gesso grid "a red car" -x model=gesso-mini,other.safetensors
    """
    options = RunOptions.parse(
        control=control,
        lora=lora,
        embedding=embedding,
        style=style,
        styles=styles,
        wildcards=wildcards,
        dynamic_prompts=dynamic_prompts,
    )
    base = with_settings(TextToImageRequest(prompt=" ".join(prompt), **options.fields), settings or [])
    if base.mask.blur is not None:
        check_blurred(base, mask)
    columns, rows, sheets = (parse_axis(text) if text is not None else NO_AXIS for text in (x, y, z))
    if columns is rows is sheets is NO_AXIS:
        raise GessoError(f"the grid has no axis. Add one with --x, {AXIS_HELP}", code="usage")
    grid = Grid(base=base, model=model, x=columns, y=rows, z=sheets)
    jobs = grid.jobs()
    what = {"prompt": base.prompt, "set": settings or [], **options.recorded, "x": x, "y": y, "z": z, "model": model}
    folder = open_folder(output, "grid", what, seed)
    with Bar(quiet=quiet) as bar:
        bar.stage("starting")
        import torch  # noqa: F401  (takes a second or two; the bar is there already)

        run = Run(folder=folder, jobs=jobs, sources=options.sources(image, mask), front=options.front)
        studio = Studio(EngineOptions(device=device, dtype=dtype, threads=threads), offline=offline)
        finder = studio.finder(options.files)

        def opened(name: str) -> "TextToImage":
            return studio.open(ModelChoice(model=name), finder=finder, on_event=bar.show)

        told = Told()
        paths = list(draw_grid(grid, run, opened, cell=cell, on_event=to_all([bar.show, told.on_event])))
        for number, path in enumerate(paths):
            if as_json:
                values = path_values(path, absolute=absolute_paths)
                bar.result(json_line(values | _values(grid, run, told, number, absolute=absolute_paths)))
            else:
                bar.result(shown(path, absolute=absolute_paths))
        bar.note(summary_line(run.summary))
        if open_after:
            open_results(paths, bar.note)


def _values(grid: Grid, run: Run, told: Told, number: int, *, absolute: bool) -> dict[str, Any]:
    """A sheet for programs: its axes, and the pictures on it in rows of cells."""
    x, y, z = grid.axes
    jobs = {job.file: job for job in run.jobs}
    pictures = [
        {
            "x": x.values[column],
            "y": y.values[row],
            **path_values(run.folder.picture(file), absolute=absolute),
            "model": jobs[file].model,
            "seed": told.seed(run, jobs[file]),
            **notice_values(told.of(run, jobs[file])),
        }
        for row, column, file in grid.cells_of(number)
    ]
    axes = {name: axis.label for name, axis in (("x", x), ("y", y), ("z", z)) if axis.label}
    return {"axes": axes, "z": z.values[number], "pictures": pictures}
