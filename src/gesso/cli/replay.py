"""`gesso replay PICTURE`: make it again, compare, say what was not the same."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.progress import Bar
from gesso.cli.session import load_pipeline
from gesso.errors import GessoError

if TYPE_CHECKING:
    from gesso.pipelines.recipe import Recipe


def command(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG that gesso wrote.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Where the model is; by default looked for by its name."),
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
    from gesso.pipelines.output_names import plan
    from gesso.pipelines.picture_file import read_picture

    original, recipe = read_picture(picture)
    names = plan(output, num_images=1) if output is not None else None
    with Bar(quiet=quiet) as bar:
        bar.stage("starting")
        pipeline = load_pipeline(
            model or _find(recipe, picture),
            device=(chosen := device or _device(recipe)),
            dtype=dtype or _dtype(recipe, chosen),
            threads=threads or min(recipe.environment.threads, os.cpu_count() or 1),
        )
        from gesso.pipelines.replay import replay

        verdict, again = replay(
            pipeline,
            original,
            recipe,
            tolerance=tolerance,
            on_progress=lambda state: bar.step("drawing", state.step, state.num_steps),
        )
        path = names.save(again.to_png(), again.recipe) if names else None
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


def _find(recipe: "Recipe", picture: Path) -> str:
    """The model that a recipe names: carried by the package, or a file beside the picture or in this folder.

    The recipe may come from anyone, so its name is never taken as a path.
    """
    from gesso.runtime.engine import EMBEDDED

    name = recipe.model
    if name in EMBEDDED:
        return name
    if name and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0")):
        for folder in (Path(), picture.parent):
            if (folder / name).exists():
                return str(folder / name)
    raise GessoError(
        f"{picture}: drawn with {name[:100]!r} (sha256 {recipe.model_hash}...), which is not here. "
        "Say where it is with --model"
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
