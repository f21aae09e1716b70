"""`gesso batch FILE`: a picture for every line of a file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption
from gesso.cli.control_options import ControlOption
from gesso.cli.many import Beside, Drawing, with_settings
from gesso.cli.model_option import ModelOption, OfflineOption
from gesso.cli.progress import Bar
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, WildcardsOption
from gesso.cli.session import check_names, load_pipeline, read_pictures
from gesso.errors import GessoError
from gesso.request.prompt_file import read_prompts
from gesso.request.request import TextToImageRequest

MAX_PICTURES = 100_000


def command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A prompt a line; or --prompt ... --steps ...; or a JSON object."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A field of every request, such as steps=12; again."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-S", help="Seed of lines that name none; a random one where left out."),
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Else outputs/batch, batch_2, ...")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notices.")] = False,
) -> None:
    """Draw a picture for every line of a file and print their paths. A run that was cut off goes on where it was.

    Pictures are named after their line, 0001-1.png the first. What a line says wins over --set.
    """
    lines = read_prompts(file)
    beside = Beside.of(
        control=control,
        lora=lora,
        embedding=embedding,
        style=style,
        styles=styles,
        wildcards=wildcards,
        dynamic_prompts=dynamic_prompts,
    )
    base = with_settings(TextToImageRequest(prompt="", **beside.fields), settings or [])
    requests = [(line, line.request(base)) for line in lines]
    count = sum(request.num_images for _, request in requests)
    if count > MAX_PICTURES:
        raise GessoError(f"{file}: asks for {count} pictures, at most {MAX_PICTURES} in a run")
    for _, request in requests:
        check_names(request)
    from gesso.studio.run_folder import begin_run, open_run

    what = {"lines": [line.values for line in lines], "set": settings or [], **beside.said, "model": model}
    seed = None if seed == -1 else seed
    folder = open_run(output, what, seed) if output is not None else begin_run(Path("outputs", "batch"), what, seed)
    with Bar(quiet=quiet, keep=False) as bar:
        bar.stage("starting")
        import torch  # noqa: F401  (takes a second or two; the bar is there already)

        drawing = Drawing(folder, bar, count, read_pictures(image, mask), beside)
        bar.stage(f"loading {Path(model).name}")
        pipeline = load_pipeline(
            model, device=device, dtype=dtype, threads=threads, offline=offline, finder=beside.finder
        )
        for line, request in requests:
            seeded = replace(request, seed=folder.seed) if request.seed is None else request
            for index in range(request.num_images):
                name = f"{line.number:04}-{index + 1}.png"
                one = replace(seeded, num_images=1, first_index=request.first_index + index)
                drawing.picture(pipeline, one, name)
                bar.result(GessoError(str(folder.picture(name))).one_line)
        bar.note(drawing.summary())
