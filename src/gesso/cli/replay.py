"""`gesso replay PICTURE`: make it again, compare, say what was not the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, parse_embeddings, parse_loras
from gesso.cli.control_options import HintOption
from gesso.cli.picture_options import MaskInvertOption
from gesso.cli.progress import Bar
from gesso.errors import one_line
from gesso.studio.files import Files, encoder_name
from gesso.studio.sources import read_sources
from gesso.studio.studio import RecipePlaces

if TYPE_CHECKING:
    from gesso.studio.replay import Verdict


def command(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG that gesso wrote.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Where the model is; by default looked for by its name and hash."
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", "--init-image", "-i", metavar="FILE", help="The picture that it was drawn from."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="The mask that it was drawn with.")
    ] = None,
    mask_invert: MaskInvertOption = False,
    refiner: Annotated[
        str | None,
        typer.Option(
            "--refiner", metavar="MODEL", help="Where the refiner is; by default looked for by its name and hash."
        ),
    ] = None,
    unet: Annotated[
        str | None, typer.Option("--unet", metavar="MODEL", help="The separate UNet that was used.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="MODEL", help="The separate autoencoder that was used.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="FILE", help="A LoRA that was used; else looked for by name and hash."),
    ] = None,
    embedding: EmbeddingOption = None,
    control: Annotated[
        list[Path] | None,
        typer.Option("--control", metavar="FILE", help="Where a network that steered is; again for several."),
    ] = None,
    hint: HintOption = None,
    encoder: Annotated[
        list[Path] | None,
        typer.Option("--encoder", metavar="FILE", help="Where the image encoder of an IP-Adapter is; again."),
    ] = None,
    upscaler: Annotated[
        list[Path] | None,
        typer.Option("--upscaler", metavar="FILE", help="Where the upscaler network of a second pass is."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="By default that of the recipe.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="By default that of the recipe.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads; by default those of the recipe.")
    ] = None,
    tolerance: Annotated[
        int, typer.Option("--tolerance", min=0, max=255, help="Levels of 255 that count as equal.")
    ] = 2,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="Keep the new picture there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Make a picture again from the recipe inside it, and compare.

    Prints identical, equal within N levels, or different, and every input that was not the same. Ends with 0 for the
    first two, 1 for different, 2 where the file is no picture that gesso wrote.
    """
    from gesso.studio.output_names import plan

    files: Files = {
        "lora": parse_loras(lora or [])[1],
        "embedding": parse_embeddings(embedding or []),
        "control": {path.stem: path for path in control or []},
        "image_encoder": {encoder_name(path): path for path in encoder or []},
        "upscaler": {path.stem: path for path in upscaler or []},
    }
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
            values = verdict.to_dict() | {"path": str(path) if path else None}
            bar.result(json.dumps(values, ensure_ascii=False))
        else:
            bar.result("\n".join(_lines(verdict, path)))
    if verdict.kind == "different":
        raise typer.Exit(1)


def _lines(verdict: "Verdict", path: Path | None) -> Iterator[str]:
    yield verdict.line
    if verdict.edited:
        yield "edited: the pixels in this file are not those that gesso wrote"
    for line in verdict.changed:
        yield f"changed: {one_line(line)}"
    if path is not None:
        yield f"new picture: {one_line(str(path))}"
