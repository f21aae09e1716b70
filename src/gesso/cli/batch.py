"""`gesso batch FILE`: one picture per line of a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption
from gesso.cli.control_options import ControlOption
from gesso.cli.machine_options import DeviceOption, DtypeOption, ThreadsOption
from gesso.cli.many import RunOptions, Told, open_folder, summary_line
from gesso.cli.model_option import ModelOption, OfflineOption
from gesso.cli.picture_options import ImageOption, MaskOption, check_blurred
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, WildcardsOption
from gesso.request.prompt_file import notices_of, read_prompts
from gesso.request.request import TextToImageRequest
from gesso.studio.events import to_all
from gesso.studio.many import Run, line_jobs, with_settings
from gesso.studio.studio import EngineOptions, ModelChoice, Studio
from gesso.terminal.json_lines import JsonOption, json_line, notice_values
from gesso.terminal.progress import Bar
from gesso.terminal.results import AbsolutePathsOption, OpenOption, open_results, path_values, shown

if TYPE_CHECKING:
    from gesso.pipelines.text_to_image import TextToImage


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="One picture per line: a prompt, flags (--prompt ... --steps ...) or a JSON object."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field for all lines, such as steps=12 (repeatable)."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-S", help="Seed for lines without one; random by default or if -1."),
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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Output folder.", show_default="outputs/batch, then batch_2, ..."
        ),
    ] = None,
    open_after: OpenOption = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")] = False,
) -> None:
    """Draw one picture per line of a file and print the paths. An interrupted run resumes where it stopped.

    Pictures are named after their line; the first is 0001-1.png. Settings in a line override --set.

    Examples:
        gesso batch prompts.txt
        gesso batch prompts.txt -o pictures/ --seed 7
        gesso batch prompts.txt --set steps=12 --set guidance=4
        gesso batch prompts.txt -m sdxl.safetensors --lora style:0.8
    """
    lines = read_prompts(file)
    options = RunOptions.parse(
        control=control,
        lora=lora,
        embedding=embedding,
        style=style,
        styles=styles,
        wildcards=wildcards,
        dynamic_prompts=dynamic_prompts,
    )
    base = with_settings(TextToImageRequest(prompt="", **options.fields), settings or [])
    if base.mask.blur is not None:
        check_blurred(base, mask)
    jobs = line_jobs(lines, base, model)
    said = [line.values if line.model is None else line.values | {"model": line.model} for line in lines]
    what = {"lines": said, "set": settings or [], **options.recorded, "model": model}
    folder = open_folder(output, "batch", what, seed)
    with Bar(quiet=quiet) as bar:
        for notice in notices_of(lines):
            bar.note(f"note: {notice}")
        bar.stage("starting")
        import torch  # noqa: F401  (takes a second or two; the bar is there already)

        run = Run(folder=folder, jobs=jobs, sources=options.sources(image, mask), front=options.front)
        studio = Studio(EngineOptions(device=device, dtype=dtype, threads=threads), offline=offline)
        finder = studio.finder(options.files)

        def opened(name: str) -> "TextToImage":
            return studio.open(ModelChoice(model=name), finder=finder, on_event=bar.show)

        told, paths = Told(), []
        of_lines = {f"{line.number:04}": line.notices for line in lines}
        for job, path, picture in run.pictures(opened, to_all([bar.show, told.on_event])):
            paths.append(path)
            if as_json:
                values = path_values(path, absolute=absolute_paths) | told.picture(run, job, picture)
                notices = (*of_lines[job.file.partition("-")[0]], *told.of(run, job))
                bar.result(json_line(values | notice_values(notices)))
            else:
                bar.result(shown(path, absolute=absolute_paths))
        bar.note(summary_line(run.summary))
        if open_after:
            open_results(paths, bar.note)
