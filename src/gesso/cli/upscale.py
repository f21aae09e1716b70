"""`gesso upscale FILE...`: enlarge pictures by interpolation or with an upscaler network."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.machine_options import DeviceOption, DtypeOption, ThreadsOption
from gesso.cli.model_option import OfflineOption
from gesso.cli.sizes import parse_size
from gesso.cli.targets import is_folder, put, taken, target
from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.studio.home import open_library, resolve_model
from gesso.studio.studio import use_threads
from gesso.terminal.json_lines import JsonOption, json_line, notice_values
from gesso.terminal.progress import Bar
from gesso.terminal.results import AbsolutePathsOption, OpenOption, open_results, path_values, shown
from gesso.terminal.tables import columns

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.hints.sizing import Size
    from gesso.pipelines.upscaling import Rows
    from gesso.runtime.upscaling import Upscaler

MAX_SCALE = 64.0
MAX_SIDE = 65_536
MAX_PIXELS = 2**30
MAX_TILE = 4096
STRETCH = 0.02  # of one side against the other, from which a notice says so


def command(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Pictures to enlarge.")] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="UPSCALER",
            help="Upscaler: nearest, box, bilinear, bicubic or lanczos; or an ESRGAN or Real-ESRGAN model. "
            "--list shows all.",
        ),
    ] = "lanczos",
    scale: Annotated[
        float | None, typer.Option("--scale", help="Scale factor.", show_default="the model's own, or 2")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="WxH", rich_help_panel="Size", help="Target size in pixels, instead of --scale."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Output file (PNG) or folder.", show_default="FILE-WIDTHxHEIGHT.png"
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            min=16,
            max=MAX_TILE,
            metavar="PIXELS",
            rich_help_panel="Speed and memory",
            help="Tile size of an upscaler model, in pixels.",
            show_default="192",
        ),
    ] = None,
    rim: Annotated[
        int | None,
        typer.Option(
            "--rim",
            min=0,
            max=MAX_TILE,
            metavar="PIXELS",
            rich_help_panel="Speed and memory",
            show_default="16",
            help="Margin around each tile that the model also sees, in pixels.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    offline: OfflineOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing files.")] = False,
    open_after: OpenOption = False,
    absolute_paths: AbsolutePathsOption = False,
    listed: Annotated[bool, typer.Option("--list", help="List the upscalers, then exit.")] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")] = False,
) -> None:
    """Enlarge pictures and print the path, size and time of each. Large pictures take little memory.

    Examples:
        gesso upscale --list
        gesso upscale picture.png
        gesso upscale picture.png --scale 4 -o large.png
        gesso upscale picture.png --to 1920x1080
        gesso upscale a.png b.png -m RealESRGAN_x4plus.pth -o large/
    """
    from gesso.pictures.png_rows import png_parts
    from gesso.pictures.reading import notices_of, read_layer
    from gesso.pipelines.upscaling import UPSCALERS, UpscalerTiles, enlarged_rows, own_scale
    from gesso.request.hires import LATENT_UPSCALERS, upscaler_name

    if listed:
        found = _upscalers()
        if as_json:
            print(json_line([dict(zip(("name", "label", "help"), row, strict=True)) for row in found]))
        else:
            print("\n".join(columns([("UPSCALER", "IN A1111", "WHAT IT IS"), *found])))
        return
    if not files:
        raise GessoError("FILE is missing. For example: gesso upscale picture.png", code="usage")
    if scale is not None and to is not None:
        raise GessoError("give either --scale or --to", code="usage")
    target_size = parse_size(to, "--to") if to is not None else None
    folder = is_folder(output, len(files), (".png",))
    defaults = UpscalerTiles()
    tiles = UpscalerTiles(defaults.side if tile is None else tile, defaults.rim if rim is None else rim)
    model = upscaler_name(model)
    model = UPSCALERS.find(model) or model
    if model in LATENT_UPSCALERS:
        raise GessoError(
            f"--model {model} enlarges latents, for hires fix only. For pictures: {', '.join(UPSCALERS)}",
            code="unsupported",
        )
    if device != "auto":  # checked also where no network runs
        from gesso.runtime.precision import choose_device

        choose_device(device)
    with Bar(quiet=quiet) as bar:
        upscaler: Upscaler | str = model
        if model in UPSCALERS and (tile, rim) != (None, None):
            option = "--tile" if tile is not None else "--rim"
            raise GessoError(
                f"{option} needs an upscaler network; {model} interpolates the picture as a whole", code="usage"
            )
        if model not in UPSCALERS:
            bar.stage("loading")
            upscaler = _network(model, device, dtype, threads, offline)
        paths = []
        for number, file in enumerate(files, 1):
            start = time.monotonic()
            image = read_layer(file)
            notices = list(notices_of(image))
            size = target_size or _scaled(image, own_scale(upscaler) if scale is None else scale)
            _check_size(file, size)
            if abs(size[0] * image.height / (size[1] * image.width) - 1) > STRETCH:
                text = f"{file}: stretched from {image.width}x{image.height} to {size[0]}x{size[1]}"
                notices.append(Notice(text, code="stretched", field="to"))
            for notice in notices:
                bar.note(f"note: {notice}")
            path = target(f"{file.stem}-{size[0]}x{size[1]}.png", output, folder=folder)
            if path.exists() and not overwrite:
                raise taken(path)
            rows = _counted(bar, file.name, (number, len(files)), size[1], enlarged_rows(image, size, upscaler, tiles))
            channels = len(image.getbands())
            parts = png_parts(*size, rows, _texts(file, image, size, model), channels=channels)
            put(path, parts, overwrite=overwrite)
            paths.append(path)
            seconds = time.monotonic() - start
            if as_json:
                values = path_values(path, absolute=absolute_paths) | {"source": str(file), "model": model}
                values |= {"width": size[0], "height": size[1], "seconds": round(seconds, 3)}
                bar.result(json_line(values | notice_values(notices)))
            else:
                bar.result(f"{shown(path, absolute=absolute_paths)} size={size[0]}x{size[1]} time={seconds:.1f}s")
        if open_after:
            open_results(paths, bar.note)


def _upscalers() -> list[tuple[str, str, str]]:
    """Name, name in A1111 and help of the upscalers: built-in, of plug-ins and the library, and of hires fix."""
    from gesso.pipelines.upscaling import UPSCALERS
    from gesso.request.hires import LATENT_UPSCALERS, a1111_name

    models = [entry for entry in open_library().entries() if entry.kind == "upscaler"]
    return [
        *((name, row.label, row.help) for name, row in UPSCALERS.items()),
        *((entry.name, "", f"{entry.what}, in your library") for entry in models),
        *((name, a1111_name(name), "Interpolates latents; only for --hires-upscaler.") for name in LATENT_UPSCALERS),
    ]


def _network(model: str, device: str, dtype: str, threads: int | None, offline: bool) -> "Upscaler":
    """The network of that name. Raises GessoError."""
    from gesso.pipelines.upscaling import UPSCALERS
    from gesso.request.checks import nearest

    try:
        path = resolve_model(model, kinds=("upscaler",), offline=offline)
    except GessoError as error:
        words = f"{error.message}. Built in: {', '.join(UPSCALERS)}{nearest(model, UPSCALERS)}"
        raise GessoError(words, code=error.code, field="model", data=error.data) from error
    from gesso.runtime.precision import choose_device, choose_precision
    from gesso.runtime.upscaling import load_upscaler

    use_threads(threads)
    on = choose_device(device)
    return load_upscaler(path, device=on, dtype=choose_precision(dtype, on).unet)


def _scaled(image: "Image", scale: float) -> "Size":
    from gesso.pipelines.upscaling import scaled_size

    if not 0 < scale <= MAX_SCALE:  # not NaN either
        raise GessoError(f"--scale {scale:g}: expected more than 0 and at most {MAX_SCALE:g}", code="invalid_value")
    return scaled_size(image.size, scale)


def _check_size(file: Path, size: "Size") -> None:
    if min(size) < 1 or max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        raise GessoError(
            f"{file}: would become {size[0]}x{size[1]}, expected sides of 1 to {MAX_SIDE} "
            f"and at most {MAX_PIXELS} pixels",
            code="too_large",
        )


def _texts(file: Path, image: "Image", size: "Size", model: str) -> dict[str, str]:
    """The A1111 settings of the picture, if it has some, and the upscaling in A1111's words.

    gesso's recipe is not copied: it draws the picture before upscaling.
    """
    from gesso.metadata.carriers import read_texts

    try:
        texts = read_texts(file).texts
    except GessoError:  # of a format that carries none, or damaged beside the pixels
        return {}
    if "parameters" not in texts:
        return {}
    done = f"Postprocess upscale to: {size[0]}x{size[1]}"
    if size[0] * image.height == size[1] * image.width:
        done = f"Postprocess upscale by: {size[0] / image.width:g}"
    return {"parameters": texts["parameters"], "postprocessing": f"{done}, Postprocess upscaler: {Path(model).stem}"}


def _counted(bar: Bar, name: str, file: tuple[int, int], height: int, bands: "Iterator[Rows]") -> "Iterator[Rows]":
    """The bands, while the bar says how many rows are done.  file: its number, and of how many"""
    done = 0
    bar.part(name, *file, done, height)
    for band in bands:
        done += len(band)
        yield band
        bar.part(name, *file, done, height)
