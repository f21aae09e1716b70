"""`gesso train`: make the default model, or go on making it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

FOLDER = Path("~/.cache/gesso/default-model")
STAGES = ("autoencoder", "grounding", "denoising", "upscaling")

RecipeOption = Annotated[str, typer.Option(help="cpu (hours on two cores) or gpu (minutes on one large GPU).")]
FolderOption = Annotated[Path, typer.Option(help="Where the training keeps its states and logs.")]
FontOption = Annotated[Path | None, typer.Option(help="Noto Color Emoji font; the system's where not given.")]


@app.command("default-model")
def default_model(
    recipe: RecipeOption = "cpu",
    stage: Annotated[str | None, typer.Option(help=f"One of {', '.join(STAGES)}; all in turn where not given.")] = None,
    folder: FolderOption = FOLDER,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after this long; run again to go on.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Pictures to train on, in place of the recipe's.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Processes of one thread each that train together.")
    ] = 1,
    font: FontOption = None,
) -> None:
    """Train the default model from scratch on composed pictures, or go on from the last state in the folder."""
    from gesso.errors import GessoError
    from gesso.training.group import run_group

    if stage is not None and stage not in STAGES:
        raise GessoError(f"--stage {stage}: expected one of {', '.join(STAGES)}.")
    if samples is not None and stage is None:
        raise GessoError("--samples counts the pictures of one stage: name it with --stage.")
    seconds = float("inf") if minutes is None else 60 * minutes
    for name in STAGES if stage is None else (stage,):
        run_group(processes, _train, recipe, str(folder.expanduser()), name, samples, seconds, font)


@app.command("export")
def export(
    output: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    recipe: RecipeOption = "cpu",
    folder: FolderOption = FOLDER,
    font: FontOption = None,
) -> None:
    """Write a trained default model as one file, in half precision."""
    family = _making(recipe, str(folder.expanduser()), font).export(
        output,
        {
            "title": f"gesso-mini ({recipe})",
            "author": "the gesso authors",
            "description": f"Draws {len(_objects())} objects; trained by gesso on pictures composed of emoji.",
            "license": "Apache-2.0",
        },
    )
    typer.echo(f"{output} objects={len(family.objects)} size={family.output_size}")


def _objects() -> tuple[Any, ...]:
    from gesso.scenes.vocabulary import things

    return things()


def _making(recipe: str, folder: str, font: Path | None) -> Any:
    from gesso.errors import GessoError
    from gesso.scenes.glyphs import render_glyphs
    from gesso.training.default_model import DefaultModel
    from gesso.training.recipes import RECIPES

    if recipe not in RECIPES:
        raise GessoError(f"--recipe {recipe}: expected one of {', '.join(RECIPES)}.")
    objects = _objects()
    glyphs = render_glyphs([thing.glyph for thing in objects], font)
    return DefaultModel(RECIPES[recipe], Path(folder), objects, glyphs)


def _train(recipe: str, folder: str, stage: str, samples: int | None, seconds: float, font: Path | None) -> None:
    """One stage in one process; importable, since other processes start here."""
    making = _making(recipe, folder, font)
    plan = getattr(making.recipe, stage)
    if samples is not None:
        plan = replace(plan, total_samples=samples)
    making.train(stage, plan, stop_after=seconds, on_log=_print)


def _print(row: dict[str, float]) -> None:
    print(json.dumps({key: round(value, 4) for key, value in row.items()}), flush=True)
