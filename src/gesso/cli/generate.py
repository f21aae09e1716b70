"""`gesso generate PROMPT`: parse, build one request, draw, write."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption, parse_embeddings, parse_loras, parse_upscaler
from gesso.cli.control_options import ControlOption, HintOption, parse_controls
from gesso.cli.field_options import with_fields
from gesso.cli.model_option import OfflineOption, OptionalModel
from gesso.cli.picture_options import MaskInvertOption, parse_hires, parse_sides
from gesso.cli.progress import Bar
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, SyntaxOption, WildcardsOption
from gesso.cli.sizes import parse_size
from gesso.errors import GessoError, one_line
from gesso.request.checks import check_known
from gesso.request.finder import Kind
from gesso.request.request import NAMED, TextToImageRequest, with_values
from gesso.studio.drawing import Order, SavedPicture, check_names, memory_plans, save_drawn
from gesso.studio.events import to_all
from gesso.studio.front_ends import open_front_end, syntax_settings
from gesso.studio.sources import ControlFile, Sources, control_files, read_controls, read_sources
from gesso.studio.starting_point import start_from
from gesso.studio.studio import DEFAULT_MODEL, EngineOptions, ModelChoice, Studio

if TYPE_CHECKING:
    from gesso.frontends.front_end import FrontEnd


# After which of the command's own options the options of fields come in its help.
_PLACES = {
    "start": ("negative_prompt",),
    "size": (
        *("width", "height", "num_steps", "guidance_scale", "guidance_rescale", "sampler", "schedule", "eta", "seed"),
        *("num_images", "first_index", "noise", "variation.seed", "variation.strength"),
    ),
    "seed_size": ("tiling",),
    "hires": (
        *("hires.upscaler", "hires.strength", "hires.num_steps", "hires.sampler", "hires.schedule"),
        *("hires.guidance_scale", "hires.prompt", "hires.negative_prompt", "tiles.size", "tiles.overlap", "clip_skip"),
    ),
    "image": ("source.strength",),
    "mask": ("mask.blur",),
    "mask_invert": ("mask.content", "mask.area", "mask.padding", "source.resize"),
    "outpaint": ("source.guidance_scale", "source.noise_level", "preset"),
    "refiner": ("refiner_switch_at",),
}


@with_fields(_PLACES)
def command(
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; several words need no quotes.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="PICTURE", help="Start from the settings in a picture of any tool; options beside it win."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Size in pixels, such as 512x768, or 512 for a square.")
    ] = None,
    seed_size: Annotated[
        str | None,
        typer.Option("--seed-size", metavar="WxH", help="Size of the picture whose noise is laid into the middle."),
    ] = None,
    hires: Annotated[
        str | None,
        typer.Option(
            "--hires",
            "--hires-fix",
            metavar="SIZE",
            help="Draw small, enlarge, draw again: 2 for twice the size, 1024x768, or 1024x for a width alone.",
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "--init-image", "-i", metavar="FILE", help="Picture to start from.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="Grey picture; where it is white is drawn again.")
    ] = None,
    mask_invert: MaskInvertOption = False,
    outpaint: Annotated[
        str | None,
        typer.Option(
            "--outpaint",
            metavar="PIXELS",
            help="Draw beyond the picture: 64 at each side, right=128, or left=32,top=64,right=0,bottom=8.",
        ),
    ] = None,
    sigmas: Annotated[
        str | None,
        typer.Option("--sigmas", metavar="LIST", help="Own noise levels such as 14.6,7,3,1,0, in place of a schedule."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="One convention apart from the preset, such as levels=truncate; again."
        ),
    ] = None,
    refiner: Annotated[
        str | None, typer.Option("--refiner", metavar="MODEL", help="Model that finishes what the first began.")
    ] = None,
    syntax: SyntaxOption = None,
    style: StyleOption = None,
    styles: StylesOption = None,
    wildcards: WildcardsOption = None,
    dynamic_prompts: DynamicOption = False,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    control: ControlOption = None,
    hint: HintOption = None,
    model: OptionalModel = None,
    offline: OfflineOption = False,
    unet: Annotated[
        str | None, typer.Option("--unet", metavar="MODEL", help="UNet from another file than the model's.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="MODEL", help="Autoencoder from another file, also a TAESD: quick.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="What the file is, where it cannot tell by itself: sd21, sdxl, ...")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="What the network predicts, where it is known better: eps, v.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads.")] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=256, help="Pictures at a time; above 1 the last bits may differ.")
    ] = 1,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="FILE", help="A PNG that shows the picture while it is drawn."),
    ] = None,
    preview_model: Annotated[
        str | None,
        typer.Option("--preview-model", metavar="MODEL", help="TAESD for it; else the model's own, which is slower."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Most memory to take, such as 6GiB, or auto.")
    ] = None,
    explain_memory: Annotated[
        bool, typer.Option("--explain-memory", help="Say what it takes of memory and how it would run, then stop.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder or pattern such as pictures/{seed}-{index:03}.png. "
            "Where left out: outputs/gesso-<seed>.png, with _2, _3, ... where that is taken.",
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, help="Of a .jpg, .webp or .avif; a .png keeps every bit.")
    ] = 90,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notices.")] = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Draw pictures from a prompt and print path, seed and time of each."""
    options, begin = dict(locals()), time.perf_counter()
    request, files = _request(options, fields)
    if not request.prompt.strip() and start is None:
        raise GessoError("the prompt is empty. Say what to draw, such as: gesso generate a red car")
    controls = parse_controls(control or [])
    files |= control_files(controls)
    front = open_front_end(syntax, style, styles, wildcards, dynamic_prompts)
    notices: tuple[str, ...] = ()
    if start is not None:
        point = start_from(start, request, with_image=image is not None, find_model=model is None)
        request, notices, model = point.request, point.notices, model or point.model
    choice = ModelChoice(
        model=model or DEFAULT_MODEL, refiner=refiner, unet=unet, vae=vae, family=family, prediction=prediction
    )
    from gesso.studio.output_names import plan

    number = front.num_images(request)
    names = plan(output, num_images=number, first_index=request.first_index, overwrite=overwrite)
    with Bar(quiet=quiet, keep=number == 1 or not sys.stderr.isatty()) as bar:
        for notice in notices:
            bar.note(f"note: {start}: {notice}")
        bar.stage("starting")
        import torch  # noqa: F401  (takes a second or two; the bar is there already)

        check_names(request)
        order = _order(request, front, read_sources(image, mask, hint or [], invert_mask=mask_invert), controls)
        on = EngineOptions(device=device, dtype=dtype, threads=threads, rows_per_call=batch, memory=memory)
        studio = Studio(on, offline=offline)
        pipeline = studio.open(choice, finder=studio.finder(files), on_event=bar.show)
        if explain_memory:
            for name, needs in memory_plans(pipeline, order).items():
                bar.result(needs.to_json() if as_json else f"{name}:\n{needs.table()}")
            return
        shows = [bar.show]
        if preview is not None:
            shows.append(studio.preview(pipeline, preview, preview_model).on_event)
        startup = time.perf_counter() - begin
        for saved in save_drawn(pipeline, order, names, quality=quality, on_event=to_all(shows)):
            bar.result(_line(saved, as_json=as_json))
        count = f"{number} picture{'s' if number > 1 else ''}"
        bar.note(f"{count} in {time.perf_counter() - begin:.1f} s, {startup:.1f} s of it to start")


def _request(
    options: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[TextToImageRequest, dict[Kind, Mapping[str, Path]]]:
    """The request of the options, but for its controls, and the files that they name. Raises GessoError."""
    values = {path: value for path, value in fields.items() if not path.startswith("hires.")}
    again = {path.removeprefix("hires."): value for path, value in fields.items() if path.startswith("hires.")}
    upscaler, upscaler_files = parse_upscaler(again.pop("upscaler", None))
    loras, lora_files = parse_loras(options["lora"] or [])
    values |= parse_settings(options["settings"] or []) | syntax_settings(options["syntax"])
    if options["size"] is not None:
        if {"width", "height"} & values.keys():
            raise GessoError("--size and --width or --height: give one or the other")
        values["width"], values["height"] = parse_size(options["size"], "--size")
    if options["seed_size"] is not None:
        values["variation.width"], values["variation.height"] = parse_size(options["seed_size"], "--seed-size")
    if options["sigmas"] is not None:
        values["sigmas"] = parse_sigmas(options["sigmas"])
    if options["outpaint"] is not None:
        values["source.outpaint"] = parse_sides(options["outpaint"])
    second = parse_hires(options["hires"], upscaler=upscaler, **again)
    request = TextToImageRequest(prompt=" ".join(options["prompt"] or []), hires=second, loras=loras)
    return with_values(request, values), {
        "lora": lora_files,
        "embedding": parse_embeddings(options["embedding"] or []),
        "upscaler": upscaler_files,
    }


def _order(request: TextToImageRequest, front: "FrontEnd", sources: Sources, controls: Sequence[ControlFile]) -> Order:
    """With the controls and their pictures. Raises GessoError for a file that is no picture."""
    uses, hints = read_controls(controls)
    return Order(
        request=replace(request, controls=uses or request.controls),
        sources=replace(sources, hints=(*hints, *sources.hints)),
        front=front,
    )


def parse_sigmas(text: str) -> tuple[float, ...]:
    """ "14.6, 7, 1, 0" or the same with spaces alone. Raises GessoError."""
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise GessoError(f"--sigmas {text[:60]}: expected numbers such as 14.6,7,3,1,0") from None


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """NAME=VALUE for what a preset decides, by paths; the request checks the values. Raises GessoError."""
    known = {name: row for name, row in NAMED.items() if row.field.presets and not row.path.startswith("hires.")}
    found: dict[str, Any] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise GessoError(f"--set {setting[:60]}: expected NAME=VALUE, such as levels=truncate")
        if name not in known:
            check_known("setting", name, {row.names[0] for row in known.values()})
        found[known[name].path] = known[name].read(text.strip(), f"--set {name}")
    return found


def _line(saved: SavedPicture, *, as_json: bool) -> str:
    path, picture, seconds = saved.path, saved.picture, saved.seconds
    index = f" index={picture.index}" if picture.index else ""
    if not as_json:
        return f"{one_line(str(path))} seed={picture.seed}{index} time={seconds:.1f}s"
    return json.dumps(
        {
            "path": str(path),
            "seed": picture.seed,
            "index": picture.index,
            "seconds": round(seconds, 3),
            "width": picture.image.width,
            "height": picture.image.height,
            "model": picture.recipe.model,
            "notices": picture.notices,
        },
        ensure_ascii=False,
    )
