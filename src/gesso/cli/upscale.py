"""`gesso upscale FILE...`: pictures made larger, by interpolation or by an upscaler network."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.model_option import OfflineOption
from gesso.cli.progress import Bar
from gesso.cli.sizes import parse_size
from gesso.cli.targets import is_folder, put, taken, target
from gesso.errors import GessoError, one_line
from gesso.studio.home import resolve_model
from gesso.studio.studio import use_threads

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.hints.sizing import Size
    from gesso.pipelines.upscaling import Rows
    from gesso.runtime.upscaling import Upscaler

MAX_SCALE = 64.0
MAX_SIDE = 65_536
MAX_PIXELS = 2**30
MAX_TILE = 4096
STRETCH = 0.02  # of one side against the other, from which it is told


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="nearest, box, bilinear, bicubic, lanczos; or an ESRGAN or Real-ESRGAN network, name or file.",
        ),
    ] = "lanczos",
    scale: Annotated[
        float | None, typer.Option("--scale", help="How many times larger; the network's own, or 2.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="WxH", help="Size in pixels, in place of --scale.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="PNG, or folder. Where left out: FILE's name and the size."
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option("--tile", min=16, max=MAX_TILE, help="Pixels a side that a network sees at a time.")
    ] = None,
    rim: Annotated[
        int | None, typer.Option("--rim", min=0, max=MAX_TILE, help="Pixels around a tile that it sees as well.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads.")] = None,
    offline: OfflineOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notices.")] = False,
) -> None:
    """Make pictures larger and print path, size and time of each; of any size, in a fraction of their memory."""
    from gesso.pictures.png_rows import png_parts
    from gesso.pictures.reading import notices_of, read_image
    from gesso.pipelines.upscaling import UPSCALERS, UpscalerTiles, enlarged_rows, own_scale
    from gesso.request.hires import LATENT_UPSCALERS, upscaler_name

    if scale is not None and to is not None:
        raise GessoError("--scale and --to: give one or the other")
    wanted = parse_size(to, "--to") if to is not None else None
    folder = is_folder(output, len(files), (".png",))
    defaults = UpscalerTiles()
    tiles = UpscalerTiles(defaults.side if tile is None else tile, defaults.rim if rim is None else rim)
    model = upscaler_name(model)
    model = UPSCALERS.find(model) or model
    if model in LATENT_UPSCALERS:
        raise GessoError(f"--model {model}: is for latents, between two passes; for pictures: {', '.join(UPSCALERS)}")
    with Bar(quiet=quiet) as bar:
        upscaler: Upscaler | str = model
        if model not in UPSCALERS:
            bar.stage("loading")
            upscaler = _network(model, device, dtype, threads, offline)
        for file in files:
            start = time.monotonic()
            image = read_image(file)
            for notice in notices_of(image):
                bar.note(f"note: {notice}")
            size = wanted or _scaled(image, own_scale(upscaler) if scale is None else scale)
            _check_size(file, size)
            if abs(size[0] * image.height / (size[1] * image.width) - 1) > STRETCH:
                bar.note(f"{file}: {image.width}x{image.height} is stretched to {size[0]}x{size[1]}")
            path = target(f"{file.stem}-{size[0]}x{size[1]}.png", output, folder=folder)
            if path.exists() and not overwrite:
                raise taken(path)
            rows = _counted(bar, file.name, size, enlarged_rows(image, size, upscaler, tiles))
            put(path, png_parts(*size, rows, _texts(file, image, size, model)), overwrite=overwrite)
            shown = one_line(str(path))
            bar.result(f"{shown} size={size[0]}x{size[1]} time={time.monotonic() - start:.1f}s")


def _network(model: str, device: str, dtype: str, threads: int | None, offline: bool) -> "Upscaler":
    """The network of that name. Raises GessoError."""
    from gesso.pipelines.upscaling import UPSCALERS

    try:
        path = resolve_model(model, kinds=("upscaler",), offline=offline)
    except GessoError as error:
        raise GessoError(f"{error.message}. Without a network: {', '.join(UPSCALERS)}") from error
    from gesso.runtime.precision import choose_device, choose_precision
    from gesso.runtime.upscaling import load_upscaler

    use_threads(threads)
    on = choose_device(device)
    return load_upscaler(path, device=on, dtype=choose_precision(dtype, on).unet)


def _scaled(image: "Image", scale: float) -> "Size":
    from gesso.pipelines.upscaling import scaled_size

    if not 0 < scale <= MAX_SCALE:  # not NaN either
        raise GessoError(f"--scale {scale:g}: expected above 0, at most {MAX_SCALE:g}")
    return scaled_size(image.size, scale)


def _check_size(file: Path, size: "Size") -> None:
    if min(size) < 1 or max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        raise GessoError(
            f"{file}: would become {size[0]}x{size[1]}; sides are 1 to {MAX_SIDE}, at most {MAX_PIXELS} pixels in all"
        )


def _texts(file: Path, image: "Image", size: "Size", model: str) -> dict[str, str]:
    """A1111's settings of the picture, where it has some, and what was done to it since, as A1111 says it.

    The recipe of gesso stays behind: it makes the picture before.
    """
    from gesso.metadata.carriers import read_texts

    try:
        found = read_texts(file).texts
    except GessoError:  # of a format that carries none, or damaged beside the pixels
        return {}
    if "parameters" not in found:
        return {}
    done = f"Postprocess upscale to: {size[0]}x{size[1]}"
    if size[0] * image.height == size[1] * image.width:
        done = f"Postprocess upscale by: {size[0] / image.width:g}"
    return {"parameters": found["parameters"], "postprocessing": f"{done}, Postprocess upscaler: {Path(model).stem}"}


def _counted(bar: Bar, name: str, size: "Size", bands: "Iterator[Rows]") -> "Iterator[Rows]":
    """The bands, while the bar says how many rows are done."""
    done = 0
    bar.step(name, done, size[1])
    for band in bands:
        done += len(band)
        yield band
        bar.step(name, done, size[1])
