"""`gesso replay PICTURE`: make it again, compare, say what was not the same."""

import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, Given, finder_of_recipe, parse_embeddings, parse_loras
from gesso.cli.control_options import HintOption, encoder_name, read_hints
from gesso.cli.model_option import model_of_recipe
from gesso.cli.picture_options import MaskInvertOption
from gesso.cli.progress import Bar
from gesso.cli.session import load_pipeline, read_pictures
from gesso.errors import GessoError

if TYPE_CHECKING:
    from gesso.request.recipe import Recipe


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
    from gesso.pictures.picture_file import is_lossless, read_picture
    from gesso.request.recipe import check_plugins
    from gesso.studio.output_names import plan

    original, recipe = read_picture(picture)
    check_plugins(recipe, picture)
    _check_given(picture, "image", recipe.request.image, image)
    _check_given(picture, "mask", recipe.request.mask, mask)
    given: Given = {
        "lora": parse_loras(lora or [])[1],
        "embedding": parse_embeddings(embedding or []),
        "control": {path.stem: path for path in control or []},
        "image_encoder": {encoder_name(path): path for path in encoder or []},
        "upscaler": {path.stem: path for path in upscaler or []},
    }
    _check_hints(picture, recipe, hint or [])
    names = plan(output, num_images=1) if output is not None else None
    with Bar(quiet=quiet) as bar:
        bar.stage("starting")
        pictures = read_pictures(image, mask, invert=mask_invert)
        load = partial(
            load_pipeline,
            model or _find(recipe.model, recipe.model_hash, picture, "--model"),
            device=(chosen := device or _device(recipe)),
            dtype=dtype or _dtype(recipe, chosen),
            threads=threads or min(recipe.environment.threads, os.cpu_count() or 1),
            refiner=refiner
            or (_find(recipe.refiner, recipe.refiner_hash, picture, "--refiner") if recipe.refiner else None),
            unet=unet,
            vae=vae,
            finder=finder_of_recipe(recipe, given, picture),
        )
        pipeline = load()
        found = pipeline.model.family
        if recipe.prediction and (found.name, found.prediction) != (recipe.family, recipe.prediction):
            with suppress(GessoError):  # drawn as something else than its file looks like, or another file now
                pipeline = load(family=recipe.family, prediction=recipe.prediction)
        from gesso.studio.replay import replay

        verdict, again = replay(
            pipeline,
            original,
            recipe,
            tolerance=tolerance,
            lossy=not is_lossless(picture),
            on_progress=lambda state: bar.step("drawing", state.step, state.num_steps),
            **pictures,
            hints=read_hints(hint or []),
        )
        path = names.save(again.encode(names.format), again.recipe) if names else None
        if as_json:
            bar.result(
                json.dumps(
                    {
                        "verdict": verdict.kind,
                        "levels": verdict.levels,
                        "share": verdict.share,
                        "changed": verdict.changed,
                        "edited": verdict.edited,
                        "path": str(path) if path else None,
                    },
                    ensure_ascii=False,
                )
            )
        else:
            bar.result(verdict.line)
            if verdict.edited:
                print("edited: the pixels in this file are not those that gesso wrote")
            for line in verdict.changed:
                print(f"changed: {GessoError(line).one_line}")
            if path:
                print(f"new picture: {GessoError(str(path)).one_line}")
    if verdict.kind == "different":
        raise typer.Exit(1)


def _check_given(picture: Path, name: str, digest: str | None, given: Path | None) -> None:
    """A picture that was drawn from another one needs that very one; its pixels are compared later."""
    if digest is not None and given is None:
        raise GessoError(
            f"{picture}: drawn from the {name} {digest[:10]}..., which is not in it. Give it with --{name}"
        )
    if digest is None and given is not None:
        raise GessoError(f"{picture}: drawn without a {'mask' if name == 'mask' else 'picture'}; leave --{name} out")


def _check_hints(picture: Path, recipe: "Recipe", given: list[Path]) -> None:
    """As `_check_given`, of the pictures that networks went by; one picture may serve several."""
    digests = dict.fromkeys(use.image for use in recipe.request.controls)
    if len(given) < len(digests):
        names = ", ".join(f"{digest[:10]}..." for digest in digests)
        raise GessoError(
            f"{picture}: {len(digests)} picture{'s' if len(digests) > 1 else ''} steered it ({names}), which "
            f"{'are' if len(digests) > 1 else 'is'} not in it. Give each with --hint"
        )


def _find(name: str, digest: str, picture: Path, option: str) -> str:
    """The model that a recipe names, wherever it is now. Raises GessoError where it is not here."""
    found = model_of_recipe(name, [digest], picture.parent)
    if found is not None:
        return found
    raise GessoError(
        f"{picture}: drawn with {name[:100]!r} (sha256 {digest}...), which is not here. Say where it is with {option}"
    )


def _device(recipe: "Recipe") -> str:
    """The kind of device that the recipe names, where this machine has it."""
    import torch

    kind = recipe.environment.device.partition(" ")[0]
    return "cuda" if kind == "cuda" and torch.cuda.is_available() else "cpu"


def _dtype(recipe: "Recipe", device: str) -> str:
    """The recipe's number format; float32 where it is float16 and the device a CPU, which the verdict then names."""
    dtype = recipe.environment.dtype
    return "float32" if device == "cpu" and dtype == "float16" else dtype
