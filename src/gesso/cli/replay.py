"""`gesso replay PICTURE`: redraw a picture from its recipe, compare, and list what has changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.adapter_options import EmbeddingOption, parse_embeddings, parse_loras
from gesso.cli.machine_options import DEVICES, DTYPES
from gesso.cli.picture_options import MaskInvertOption
from gesso.errors import GessoError, one_line
from gesso.studio.files import Files, encoder_name
from gesso.studio.sources import read_sources
from gesso.studio.studio import RecipePlaces
from gesso.terminal.json_lines import json_line, notice_values
from gesso.terminal.progress import Bar
from gesso.terminal.results import AbsolutePathsOption, open_results, path_values, shown

if TYPE_CHECKING:
    from gesso.studio.replay import Verdict


def command(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="Picture written by gesso.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="The model.", show_default="found by its name and hash"),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", "--init-image", "-i", metavar="FILE", help="Source picture that it was drawn from."),
    ] = None,
    mask: Annotated[Path | None, typer.Option("--mask", metavar="FILE", help="Mask that it was drawn with.")] = None,
    mask_invert: MaskInvertOption = False,
    refiner: Annotated[
        str | None,
        typer.Option("--refiner", metavar="MODEL", help="The refiner.", show_default="found by its name and hash"),
    ] = None,
    unet: Annotated[
        str | None, typer.Option("--unet", metavar="MODEL", help="Separate UNet that it was drawn with.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="MODEL", help="Separate VAE that it was drawn with.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora", metavar="FILE", help="LoRA file (repeatable).", show_default="found by its name and hash"
        ),
    ] = None,
    embedding: EmbeddingOption = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(
            "--control",
            metavar="FILE",
            help="ControlNet, T2I-Adapter or IP-Adapter file (repeatable).",
            show_default="found by its name and hash",
        ),
    ] = None,
    hint: Annotated[
        list[Path] | None,
        typer.Option("--hint", metavar="FILE", help="Control image that it was drawn with (repeatable)."),
    ] = None,
    encoder: Annotated[
        list[Path] | None,
        typer.Option("--encoder", metavar="FILE", help="Image encoder of an IP-Adapter (repeatable)."),
    ] = None,
    upscaler: Annotated[
        list[Path] | None,
        typer.Option("--upscaler", metavar="FILE", help="Upscaler of the second pass (hires fix)."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help=f"Device: {DEVICES}.", show_default="the recipe's"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help=f"Compute dtype: {DTYPES}.", show_default="the recipe's"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, help="Number of CPU threads.", show_default="the recipe's"),
    ] = None,
    tolerance: Annotated[
        int,
        typer.Option("--tolerance", min=0, max=255, help="Largest difference that counts as equal, in levels of 255."),
    ] = 2,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="Save the new picture to this path.")
    ] = None,
    open_after: Annotated[bool, typer.Option("--open", help="Open the new picture in the system's viewer.")] = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")] = False,
) -> None:
    """Redraw a picture from the recipe stored in it, and compare.

    Prints identical, equal within N levels, or different, and every input that has changed. Exits with 0 for the first
    two, 1 for different, and 2 if the file is not a picture written by gesso.

    Examples:
        gesso replay picture.png
        gesso replay picture.png -m sdxl.safetensors
        gesso replay picture.png --image photo.png --mask mask.png
        gesso replay picture.png -o again.png --json
    """
    from gesso.studio.output_names import plan

    files: Files = {
        "lora": parse_loras(lora or [])[1],
        "embedding": parse_embeddings(embedding or []),
        "control": {path.stem: path for path in control or []},
        "image_encoder": {encoder_name(path): path for path in encoder or []},
        "upscaler": {path.stem: path for path in upscaler or []},
    }
    if open_after and output is None:
        raise GessoError("--open shows the new picture, which is saved with --output alone; add --output", code="usage")
    names = plan(output, num_images=1) if output is not None else None
    with Bar(quiet=quiet) as bar:
        bar.stage("starting")
        from gesso.studio.replay import replay

        verdict, again = replay(
            picture,
            read_sources(image, mask, hint or [], invert_mask=mask_invert),
            RecipePlaces(model=model, refiner=refiner, vae=vae, unet=unet, files=files),
            device=device,
            dtype=dtype,
            threads=threads,
            tolerance=tolerance,
            on_event=bar.show,
        )
        path = names.save(again.encode(names.format), again.recipe) if names else None
        if as_json:
            none: dict[str, Any] = {"path": None, "absolute_path": None}
            values = verdict.to_dict() | (path_values(path, absolute=absolute_paths) if path else none)
            bar.result(json_line(values | notice_values(again.notices)))
        else:
            told = None if path is None else shown(path, absolute=absolute_paths)
            bar.result("\n".join(_lines(verdict, told)))
        if open_after and path is not None:
            open_results([path], bar.note)
    if verdict.kind == "different":
        raise typer.Exit(1)


def _lines(verdict: "Verdict", path: str | None) -> Iterator[str]:
    yield verdict.line
    if verdict.edited:
        yield "edited: the pixels of this file were changed after gesso wrote it"
    for line in verdict.changed:
        yield f"changed: {one_line(line)}"
    if path is not None:
        yield f"new picture: {path}"
