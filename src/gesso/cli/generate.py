"""`gesso generate PROMPT`: parse, build one request, draw, write."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption, parse_embeddings, parse_loras, parse_upscaler
from gesso.cli.control_options import ControlOption, HintOption, parse_controls
from gesso.cli.machine_options import DeviceOption, DtypeOption, ThreadsOption
from gesso.cli.model_option import OfflineOption, OptionalModel
from gesso.cli.picture_options import ImageOption, MaskInvertOption, MaskOption, check_blurred, parse_hires, parse_sides
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, SyntaxOption, WildcardsOption
from gesso.cli.sizes import parse_size
from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.request.checks import check_known
from gesso.request.embedded import FEW_STEPS, embedded_extras
from gesso.request.finder import Kind
from gesso.request.parts import LoraUse
from gesso.request.request import NAMED, TextToImageRequest, with_values
from gesso.studio.drawing import Order, SavedPicture, check_names, check_words, memory_plans, save_drawn
from gesso.studio.events import to_all
from gesso.studio.front_ends import open_front_end, syntax_settings
from gesso.studio.sources import ControlFile, Sources, control_files, read_controls, read_sources
from gesso.studio.starting_point import start_from
from gesso.studio.studio import DEFAULT_MODEL, EngineOptions, ModelChoice, Studio
from gesso.terminal.field_options import with_fields
from gesso.terminal.json_lines import json_line, notice_values
from gesso.terminal.progress import Bar
from gesso.terminal.results import AbsolutePathsOption, OpenOption, open_results, path_values, shown
from gesso.terminal.torch_import import put_off_meta

if TYPE_CHECKING:
    from gesso.frontends.front_end import FrontEnd


FAST_INTERVAL = 3  # of deep features, with --fast: docs/performance.md has what it costs
AGAINST_FEW_STEPS = ("negative_prompt", "sigmas", "guidance_rescale", "guidance_until", "deep_cache")  # where given

# After which of the command's own options the options of fields come in its help.
_PLACES = {
    "start": ("negative_prompt",),
    "size": (
        *("width", "height", "num_steps", "guidance_scale", "guidance_rescale", "guidance_until"),
        *("deep_cache", "sampler", "schedule", "eta", "seed"),
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
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; quotes are optional.")
    ] = None,
    prompt_text: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", hidden=True)] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PICTURE",
            help="Start from the settings in a picture of gesso, A1111, ComfyUI or another tool; other options "
            "override them.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Size in pixels, such as 512x768, or 512 for a square.",
            show_default="the source picture's, else the model's",
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Draw faster and less exactly: gesso-mini in four steps, by the LoRA few-steps. Other models, and "
            "gesso-mini with settings of yours that go against it (steps, guidance, a negative prompt), as "
            "--deep-cache 3 does.",
        ),
    ] = False,
    seed_size: Annotated[
        str | None,
        typer.Option("--seed-size", metavar="WxH", help="Resize seed from this size: put its noise in the middle."),
    ] = None,
    hires: Annotated[
        str | None,
        typer.Option(
            "--hires",
            "--hires-fix",
            metavar="SIZE",
            help="Hires fix: draw small, upscale, redraw. 2 doubles the size; 1024x768, or 1024x for the width alone, "
            "sets it.",
        ),
    ] = None,
    image: ImageOption = None,
    mask: MaskOption = None,
    mask_invert: MaskInvertOption = False,
    outpaint: Annotated[
        str | None,
        typer.Option(
            "--outpaint",
            metavar="PIXELS",
            help="Extend the picture, in pixels: 64 on every side, right=128, or left=32,top=64,right=0,bottom=8.",
        ),
    ] = None,
    sigmas: Annotated[
        str | None,
        typer.Option(
            "--sigmas", metavar="LIST", help="Custom noise levels instead of a schedule, such as 14.6,7,3,1,0."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Override one convention of the preset, such as levels=truncate (repeatable).",
        ),
    ] = None,
    refiner: Annotated[
        str | None,
        typer.Option("--refiner", metavar="MODEL", help="Refiner: model that takes over for the last steps."),
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
        str | None, typer.Option("--unet", metavar="MODEL", help="Load the UNet from another file.")
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option("--vae", metavar="MODEL", help="Load the VAE from another file; a TAESD is fast but less exact."),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="Model family, if the file does not say: sd21, sdxl, ...")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="Prediction type, if detection is wrong: eps or v.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    batch: Annotated[
        int,
        typer.Option(
            "--batch", min=1, max=256, help="Batch size: pictures drawn at once. Above 1, the last bits may differ."
        ),
    ] = 1,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="FILE", help="Write a live preview to this PNG file."),
    ] = None,
    preview_model: Annotated[
        str | None,
        typer.Option(
            "--preview-model",
            metavar="MODEL",
            help="TAESD for the preview.",
            show_default="the model's VAE, which is slower",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Memory limit, such as 6GiB, or auto; weights are offloaded to fit.",
            show_default="no limit",
        ),
    ] = None,
    explain_memory: Annotated[
        bool, typer.Option("--explain-memory", help="Show how much memory is needed and what is offloaded, then exit.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder or pattern such as pictures/{seed}-{index:03}.png.",
            show_default="outputs/gesso-<seed>.png, with _2, _3, ... if that exists",
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, help="Quality of a .jpg, .webp or .avif file; PNG is lossless.")
    ] = 90,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Draw a prompt of which the model knows nothing, too.")
    ] = False,
    open_after: OpenOption = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")] = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Draw pictures from a prompt and print the path, seed and time of each.

    Examples:
        gesso generate a red car and a blue bird
        gesso generate "a red car" --seed 7 -n 4 -o "cars/{index:02}.png"
        gesso generate "a red car" --steps 30 --guidance 6 --sampler dpmpp_2m
        gesso generate "a red car" --image photo.png --strength 0.6
        gesso generate "a green car" --image car.png --mask mask.png
        gesso generate "a portrait" -m sdxl.safetensors --size 832x1216 --hires 1.5
        gesso generate --from picture.png --seed -1 -n 4
    """
    options, begin = dict(locals()), time.perf_counter()
    put_off_meta()
    if prompt and prompt_text is not None:
        raise GessoError("the prompt is given twice: leave out --prompt, or the words without it", code="usage")
    request, files, aside = _request(options, fields)
    if not request.prompt.strip() and start is None:
        text = 'the prompt is empty. Describe the picture, for example: gesso generate "a red car"'
        raise GessoError(text, code="prompt_missing", field="prompt")
    controls = parse_controls(control or [])
    files |= control_files(controls)
    front = open_front_end(syntax, style, styles, wildcards, dynamic_prompts)
    notices: tuple[Notice, ...] = ()
    if start is not None:
        point = start_from(start, request, with_image=image is not None, find_model=model is None)
        request, notices = point.request, point.notices
        model = point.model if model is None else model
    choice = ModelChoice(
        model=DEFAULT_MODEL if model is None else model,
        refiner=refiner,
        unet=unet,
        vae=vae,
        family=family,
        prediction=prediction,
    )
    if "mask.blur" in fields:
        check_blurred(request, mask)
    if preview_model is not None and preview is None:
        raise GessoError("--preview-model needs a preview: give its file with --preview", code="usage")
    from gesso.studio.output_names import plan

    number = front.num_images(request)
    names = plan(output, num_images=number, first_index=request.first_index, overwrite=overwrite)
    with Bar(quiet=quiet) as bar:
        for notice in notices:
            bar.note(f"note: {start}: {notice}")
        if aside:
            bar.note(f"note: --fast draws by --deep-cache {FAST_INTERVAL}: the four steps do not go with {aside}")
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
        if not force and start is None:
            check_words(pipeline, order)
        shows = [bar.show]
        if preview is not None:
            shows.append(studio.preview(pipeline, preview, preview_model).on_event)
        startup = time.perf_counter() - begin
        paths: list[Path] = []
        unnamed = {name.casefold(): name for name in files.get("embedding", {})}
        for saved in save_drawn(pipeline, order, names, quality=quality, on_event=to_all(shows)):
            paths.append(saved.path)
            for extra in saved.picture.recipe.extras:
                unnamed.pop(extra.name.casefold(), None)
            if as_json:
                bar.result(json_line(_values(saved, notices, absolute=absolute_paths)))
            else:
                bar.result(_line(saved, absolute=absolute_paths))
        for name in unnamed.values():
            bar.note(f"note: --embedding: {name!r} stands in no prompt, so it was not used; it works where its name is")
        count = f"{number} picture{'s' if number > 1 else ''}"
        bar.note(f"{count} in {time.perf_counter() - begin:.1f} s ({startup:.1f} s start-up)")
        if open_after:
            open_results(paths, bar.note)


def _request(
    options: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[TextToImageRequest, dict[Kind, Mapping[str, Path]], str]:
    """The request that the options describe, without its controls, and the files they name. Raises GessoError.

    And what keeps --fast from drawing in a few steps, as `_faster` says it.
    """
    values = {path: value for path, value in fields.items() if not path.startswith("hires.")}
    again = {path.removeprefix("hires."): value for path, value in fields.items() if path.startswith("hires.")}
    upscaler, upscaler_files = parse_upscaler(again.pop("upscaler", None))
    loras, lora_files = parse_loras(options["lora"] or [])
    values |= parse_settings(options["settings"] or []) | syntax_settings(options["syntax"])
    if options["size"] is not None:
        if {"width", "height"} & values.keys():
            raise GessoError("--size sets --width and --height; give one or the other", code="usage")
        values["width"], values["height"] = parse_size(options["size"], "--size")
    if options["seed_size"] is not None:
        values["variation.width"], values["variation.height"] = parse_size(options["seed_size"], "--seed-size")
    if options["sigmas"] is not None:
        values["sigmas"] = parse_sigmas(options["sigmas"])
    if options["outpaint"] is not None:
        values["source.outpaint"] = parse_sides(options["outpaint"])
    second = parse_hires(options["hires"], upscaler=upscaler, **again)
    aside = ""
    if options["fast"]:
        loras, aside = _faster(options, values, loras)
    request = TextToImageRequest(
        prompt=options["prompt_text"] or " ".join(options["prompt"] or []), hires=second, loras=loras
    )
    files: dict[Kind, Mapping[str, Path]] = {
        "lora": lora_files,
        "embedding": parse_embeddings(options["embedding"] or []),
        "upscaler": upscaler_files,
    }
    return with_values(request, values), files, aside


def _faster(
    options: Mapping[str, Any], values: dict[str, Any], loras: tuple[LoraUse, ...]
) -> tuple[tuple[LoraUse, ...], str]:
    """Adds what --fast means to the values of fields.  -> LoRAs, and what keeps the model from drawing in few steps

    The second is empty where it does, and where the model has no LoRA for that. A LoRA of its name that is given is
    taken in its place.
    """
    known = FEW_STEPS.get(DEFAULT_MODEL if options["model"] is None else options["model"])
    if options["start"] is not None or known is None or known.lora not in embedded_extras("lora"):
        values.setdefault("deep_cache", FAST_INTERVAL)
        return loras, ""
    own = [name for name, value in known.values.items() if values.get(name, value) != value]
    own += [name for name in AGAINST_FEW_STEPS if values.get(name)]
    own += [name for name in ("unet", "family", "prediction", "refiner") if options[name] is not None]
    if own:
        values.setdefault("deep_cache", FAST_INTERVAL)
        return loras, ", ".join(f"--{NAMED[name].field.options[0] if name in NAMED else name}" for name in own)
    values.setdefault("conventions.lora_mode", "merged")  # quicker than at run time from the second picture on
    values |= known.values
    own_one = any(use.name.casefold() == known.lora for use in loras)
    return loras if own_one else (LoraUse(name=known.lora), *loras), ""


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
        raise GessoError(f"--sigmas {text[:60]}: expected numbers such as 14.6,7,3,1,0", code="invalid_value") from None


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """The conventions of NAME=VALUE texts, by path; the request checks the values. Raises GessoError."""
    known = {name: row for name, row in NAMED.items() if row.field.presets and not row.path.startswith("hires.")}
    values: dict[str, Any] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise GessoError(
                f"--set {setting[:60]}: expected NAME=VALUE, such as levels=truncate", code="invalid_value"
            )
        if name not in known:
            if (row := NAMED.get(name)) is not None and row.field.options:
                raise GessoError(f"--set {name}: use --{row.field.options[0]} VALUE", code="unknown_name", field="set")
            check_known("setting", name, {row.names[0] for row in known.values() if not row.field.options})
        values[known[name].path] = known[name].read(text.strip(), f"--set {name}")
    return values


def _line(saved: SavedPicture, *, absolute: bool) -> str:
    picture = saved.picture
    index = f" index={picture.index}" if picture.index else ""
    return f"{shown(saved.path, absolute=absolute)} seed={picture.seed}{index} time={saved.seconds:.1f}s"


def _values(saved: SavedPicture, notices: Sequence[Notice], *, absolute: bool) -> dict[str, Any]:
    """A picture for programs.  notices: about the whole run"""
    picture = saved.picture
    return {
        **path_values(saved.path, absolute=absolute),
        "seed": picture.seed,
        "index": picture.index,
        "seconds": round(saved.seconds, 3),
        "width": picture.image.width,
        "height": picture.image.height,
        "model": picture.recipe.model,
        **notice_values((*notices, *picture.notices)),
    }
