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
from gesso.cli.model_option import OfflineOption, OptionalModel
from gesso.cli.picture_options import MaskInvertOption, parse_hires, parse_sides
from gesso.cli.progress import Bar
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, SyntaxOption, WildcardsOption
from gesso.cli.sizes import parse_size
from gesso.errors import GessoError
from gesso.request.checks import check_known
from gesso.request.finder import Kind
from gesso.request.presets import PRESETS
from gesso.request.request import TextToImageRequest
from gesso.studio.drawing import Order, SavedPicture, check_names, memory_plans, save_drawn
from gesso.studio.events import to_all
from gesso.studio.front_ends import open_front_end, syntax_settings
from gesso.studio.sources import ControlFile, Sources, control_files, read_controls, read_sources
from gesso.studio.starting_point import start_from
from gesso.studio.studio import DEFAULT_MODEL, EngineOptions, ModelChoice, Studio

if TYPE_CHECKING:
    from gesso.frontends.front_end import FrontEnd


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
    negative_prompt: Annotated[
        str, typer.Option("--negative-prompt", metavar="TEXT", help="What to lead away from.")
    ] = "",
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Size in pixels, such as 512x768, or 512 for a square.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width", "-W", help="Width in pixels.")] = None,
    height: Annotated[int | None, typer.Option("--height", "-H", help="Height in pixels.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "-s", help="Sampling steps.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", "--cfg-scale", help="How strongly the prompt leads; 1 switches it off."),
    ] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option("--guidance-rescale", help="Against washed-out colours at high guidance, 0 to 1.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="euler, euler_ancestral, heun, ddim, dpmpp_2m, dpmpp_2m_sde, ...")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", "--scheduler", help="Spacing of the steps: uniform, karras, ...")
    ] = None,
    eta: Annotated[float | None, typer.Option("--eta", help="Noise that ancestral samplers put back, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", "-S", help="Seed; a random one where left out or -1.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many pictures.")] = 1,
    index: Annotated[int, typer.Option("--index", help="Index of the first picture: picture 3 of a run alone.")] = 0,
    noise: Annotated[
        str | None, typer.Option("--noise", help="Source of the noise: philox, or cpu and nv as other tools have it.")
    ] = None,
    variation_seed: Annotated[
        int | None, typer.Option("--variation-seed", "--subseed", help="Seed of a second noise; random where left out.")
    ] = None,
    variation_strength: Annotated[
        float | None,
        typer.Option(
            "--variation-strength", "--subseed-strength", help="How much of the second noise is mixed in, 0 to 1."
        ),
    ] = None,
    seed_size: Annotated[
        str | None,
        typer.Option("--seed-size", metavar="WxH", help="Size of the picture whose noise is laid into the middle."),
    ] = None,
    tiling: Annotated[
        str | None,
        typer.Option("--tiling", metavar="AXES", help="Sides that continue each other, for patterns: x, y or xy."),
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
    hires_upscaler: Annotated[
        str | None,
        typer.Option(
            "--hires-upscaler",
            metavar="UPSCALER",
            help="How it is enlarged: lanczos, bicubic, nearest; latent_bilinear, latent_nearest_exact, ...; "
            "or an upscaler network, by name or as a file.",
        ),
    ] = None,
    hires_strength: Annotated[
        float | None, typer.Option("--hires-strength", help="How much is drawn again, 0 to 1.")
    ] = None,
    hires_steps: Annotated[int | None, typer.Option("--hires-steps", help="Steps of the second pass.")] = None,
    hires_sampler: Annotated[str | None, typer.Option("--hires-sampler", help="Its sampler.")] = None,
    hires_schedule: Annotated[str | None, typer.Option("--hires-schedule", help="Its schedule.")] = None,
    hires_guidance: Annotated[float | None, typer.Option("--hires-guidance", help="Its guidance.")] = None,
    hires_prompt: Annotated[str | None, typer.Option("--hires-prompt", metavar="TEXT", help="Its prompt.")] = None,
    hires_negative_prompt: Annotated[
        str | None, typer.Option("--hires-negative-prompt", metavar="TEXT", help="What it leads away from.")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option("--tile", metavar="PIXELS", help="Denoise a large picture in overlapping tiles of this size."),
    ] = None,
    tile_overlap: Annotated[
        int | None, typer.Option("--tile-overlap", metavar="PIXELS", help="What tiles have in common; a quarter.")
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option("--clip-skip", help="Layer of the text encoder, from the end: 1 is the last.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "--init-image", "-i", metavar="FILE", help="Picture to start from.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", "--denoise", help="How much of the picture is drawn again, 0 to 1."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="Grey picture; where it is white is drawn again.")
    ] = None,
    mask_blur: Annotated[
        float | None, typer.Option("--mask-blur", help="Pixels by which the mask's edge is softened.")
    ] = None,
    mask_invert: MaskInvertOption = False,
    mask_content: Annotated[
        str | None,
        typer.Option(
            "--mask-content",
            "--inpainting-fill",
            help="What stands under the mask at the start: original, fill (blurred neighbours), noise, nothing.",
        ),
    ] = None,
    mask_area: Annotated[
        str | None,
        typer.Option(
            "--mask-area",
            help="whole: the picture is drawn; masked: what is masked alone, larger, and put back in its place.",
        ),
    ] = None,
    mask_padding: Annotated[
        int | None, typer.Option("--mask-padding", help="Pixels around what is masked that are seen, too; 32.")
    ] = None,
    resize_mode: Annotated[
        str | None,
        typer.Option("--resize-mode", help="How the picture comes to size: stretch, crop, or fill, which adds edges."),
    ] = None,
    outpaint: Annotated[
        str | None,
        typer.Option(
            "--outpaint",
            metavar="PIXELS",
            help="Draw beyond the picture: 64 at each side, right=128, or left=32,top=64,right=0,bottom=8.",
        ),
    ] = None,
    image_guidance: Annotated[
        float | None,
        typer.Option("--image-guidance", help="How strongly the picture leads, for models that edit by instruction."),
    ] = None,
    noise_level: Annotated[
        int | None, typer.Option("--noise-level", help="Noise on the picture, for models that enlarge.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Whose conventions to follow where they differ: gesso, a1111, diffusers."),
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
    refiner_switch_at: Annotated[
        float | None, typer.Option("--refiner-switch-at", help="Share of the steps before the refiner, 0 to 1.")
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
) -> None:
    """Draw pictures from a prompt and print path, seed and time of each."""
    options, begin = dict(locals()), time.perf_counter()
    request, files = _request(options)
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


# Options that are fields of a request as they stand, where the names differ: option -> field.
_FIELDS = {
    "steps": "num_steps",
    "guidance": "guidance_scale",
    "number": "num_images",
    "index": "first_index",
    "image_guidance": "image_guidance_scale",
    "resize_mode": "resize",
} | {
    name: name
    for name in (
        *("negative_prompt", "guidance_rescale", "sampler", "schedule", "eta", "noise", "clip_skip", "strength"),
        *("noise_level", "preset", "refiner_switch_at", "variation_strength", "tiling", "tile", "tile_overlap"),
        *("mask_content", "mask_area", "mask_padding"),
    )
}
_HIRES_FIELDS = {
    "hires_strength": "strength",
    "hires_steps": "num_steps",
    "hires_sampler": "sampler",
    "hires_schedule": "schedule",
    "hires_guidance": "guidance_scale",
    "hires_prompt": "prompt",
    "hires_negative_prompt": "negative_prompt",
}


def _request(options: Mapping[str, Any]) -> tuple[TextToImageRequest, dict[Kind, Mapping[str, Path]]]:
    """The request of the options, but for its controls, and the files that they name. Raises GessoError."""
    width, height = _size(options["size"], options["width"], options["height"])
    seed_size, sigmas, outpaint = options["seed_size"], options["sigmas"], options["outpaint"]
    seed_width, seed_height = (None, None) if seed_size is None else parse_size(seed_size, "--seed-size")
    loras, lora_files = parse_loras(options["lora"] or [])
    upscaler, upscaler_files = parse_upscaler(options["hires_upscaler"])
    values = {field: options[name] for name, field in _FIELDS.items()}
    values |= parse_settings(options["settings"] or []) | syntax_settings(options["syntax"])
    if options["mask_blur"] is not None:
        values["mask_blur"] = options["mask_blur"]
    request = TextToImageRequest(
        **values,
        prompt=" ".join(options["prompt"] or []),
        width=width,
        height=height,
        seed=_seed(options["seed"]),
        variation_seed=_seed(options["variation_seed"]),
        seed_width=seed_width,
        seed_height=seed_height,
        sigmas=None if sigmas is None else parse_sigmas(sigmas),
        outpaint=None if outpaint is None else parse_sides(outpaint),
        hires=parse_hires(
            options["hires"], upscaler=upscaler, **{field: options[name] for name, field in _HIRES_FIELDS.items()}
        ),
        loras=loras,
    )
    return request, {
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


def _seed(seed: int | None) -> int | None:
    """-1 is how other tools ask for a random one."""
    return None if seed == -1 else seed


def _size(size: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """--size or --width and --height, not both."""
    if size is None:
        return width, height
    if width is not None or height is not None:
        raise GessoError("--size and --width or --height: give one or the other")
    return parse_size(size, "--size")


def parse_sigmas(text: str) -> tuple[float, ...]:
    """ "14.6, 7, 1, 0" or the same with spaces alone. Raises GessoError."""
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise GessoError(f"--sigmas {text[:60]}: expected numbers such as 14.6,7,3,1,0") from None


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """NAME=VALUE for the conventions of a preset; the request checks the values. Raises GessoError."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise GessoError(f"--set {setting[:60]}: expected NAME=VALUE, such as levels=truncate")
        check_known("setting", name, PRESETS["gesso"].keys())
        found[name] = _value(PRESETS["gesso"][name], text.strip(), setting)
    return found


def _value(like: object, text: str, setting: str) -> object:
    """The text as the type that the setting has."""
    if isinstance(like, bool):
        yes, no = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
        if text.lower() not in (*yes, *no):
            raise GessoError(f"--set {setting[:60]}: expected true or false")
        return text.lower() in yes
    if isinstance(like, int | float):
        try:
            return type(like)(text)
        except ValueError:
            raise GessoError(f"--set {setting[:60]}: expected a number") from None
    return text


def _line(saved: SavedPicture, *, as_json: bool) -> str:
    path, picture, seconds = saved.path, saved.picture, saved.seconds
    index = f" index={picture.index}" if picture.index else ""
    if not as_json:
        return f"{GessoError(str(path)).one_line} seed={picture.seed}{index} time={seconds:.1f}s"
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
