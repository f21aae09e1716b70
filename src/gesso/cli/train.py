"""`gesso train`: a LoRA on your own pictures; the default model, its styles, its ControlNet and its few steps."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gesso.cli import tune
from gesso.cli.model_option import ModelOption
from gesso.cli.ray_train import UNREAD, ray_train
from gesso.cli.targets import check_free
from gesso.cli.verdict import verdict
from gesso.errors import one_line
from gesso.studio.home import resolve_model
from gesso.terminal.exit_codes import EXIT_INTERRUPTED
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.results import path_values

app = App()


@app.callback()
def _group() -> None:
    """Train on your pictures, or the default model with its styles and ControlNet.

    Examples:
        gesso train lora photos -o my.safetensors
        gesso train embedding photos -o teapot.safetensors
        gesso train default-model --rehearsal
        gesso train style comic comic.safetensors
        gesso train edges edges.safetensors
        gesso train few-steps few-steps.safetensors
        gesso generate "a red car" --lora my.safetensors
    """


FOLDER = Path("~/.cache/gesso/default-model")
ADDITIONS = Path("~/.cache/gesso")
STAGES = ("autoencoder", "grounding", "denoising", "upscaling")

RecipeOption = Annotated[
    str,
    typer.Option(help="Training recipe: cpu (hours on two cores, 64 px) or gpu (25 minutes on a large GPU, 128 px)."),
]
FolderOption = Annotated[Path, typer.Option(metavar="FOLDER", help="Where to keep training states and logs.")]
MinutesOption = Annotated[
    float | None, typer.Option(min=0, help="Stop after this many minutes; run again to continue.")
]
FontOption = Annotated[Path | None, typer.Option(help="Noto Color Emoji font file.", show_default="the system's")]
AtlasOption = Annotated[Path | None, typer.Option(help="Glyphs written by `gesso train atlas`, instead of the font.")]
ProcessesOption = Annotated[
    int, typer.Option(min=1, max=64, help="Number of processes that train together on a CPU, one thread each.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")]
AuthorOption = Annotated[
    str | None, typer.Option("--author", metavar="NAME", help="Author to store in the file's metadata.")
]
DeviceOption = Annotated[str | None, typer.Option(help="Device: cpu, cuda, cuda:1, ...", show_default="the recipe's")]


@dataclass(frozen=True)
class Source:
    """Glyphs, device and length of a training; passed to its other processes."""

    font: Path | None = None
    atlas: Path | None = None
    device: str | None = None
    minutes: float | None = None  # in which a stage must finish, or after which a training stops
    rehearsal: bool = False
    compile: bool | None = None  # None: as the recipe says


@app.command("default-model")
def default_model(
    recipe: RecipeOption = "cpu",
    stage: Annotated[
        str | None, typer.Option(help=f"Train one stage: {', '.join(STAGES)}.", show_default="all in turn")
    ] = None,
    folder: FolderOption = FOLDER,
    minutes: MinutesOption = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of pictures to train on.", show_default="the recipe's")
    ] = None,
    finish_in: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Finish the stage in this many minutes in all, including the decay of the learning rate."
        ),
    ] = None,
    processes: ProcessesOption = 1,
    font: FontOption = None,
    atlas: AtlasOption = None,
    device: DeviceOption = None,
    compile: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Use torch.compile or not.", show_default="the recipe's"),
    ] = None,
    rehearsal: Annotated[
        bool,
        typer.Option("--rehearsal", help="Test run: a few steps on a few pictures, in FOLDER/rehearsal."),
    ] = False,
) -> None:
    """Train the default model on composed pictures.

    Resumes from the last state in the folder.

    Examples:
        gesso train default-model --rehearsal
        gesso train default-model --processes 2
        gesso train default-model --recipe gpu
        gesso train default-model --stage denoising --minutes 60
    """
    from gesso.errors import GessoError
    from gesso.training.group import run_group

    if stage is not None and stage not in STAGES:
        raise GessoError(f"--stage {stage}: expected one of {', '.join(STAGES)}", code="invalid_value")
    for name, value in (("--samples", samples), ("--finish-in", finish_in)):
        if value is not None and stage is None:
            raise GessoError(f"{name} applies to one stage; choose it with --stage", code="usage")
    if samples is not None and finish_in is not None:
        raise GessoError("--samples and --finish-in both set the length of the stage; give only one", code="usage")
    settings = _recipe(recipe, device)
    if processes > 1 and not settings.device.startswith("cpu"):
        raise GessoError(
            f"--processes {processes}: only a CPU can use several; leave it out for {settings.device!r}",
            code="unsupported",
        )
    seconds = float("inf") if minutes is None else 60 * minutes
    source = Source(font, atlas, device, finish_in, rehearsal, compile)
    place = folder.expanduser() / "rehearsal" if rehearsal else folder.expanduser()
    with _resumable(place):
        for name in STAGES if stage is None else (stage,):
            run_group(processes, _train, recipe, str(place), name, samples, seconds, font, source)


@app.command("export")
def export(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output file (.safetensors).")],
    recipe: RecipeOption = "cpu",
    folder: FolderOption = FOLDER,
    font: FontOption = None,
    atlas: AtlasOption = None,
    device: DeviceOption = None,
    author: AuthorOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Save a trained default model as one file.

    The weights are saved in half precision.

    Examples:
        gesso train export mini.safetensors
        gesso train export mini.safetensors --recipe gpu
        gesso train export mini.safetensors --folder ~/training
        gesso generate "a red car" -m mini.safetensors
    """
    check_free(output, overwrite, ".safetensors")
    making = _making(recipe, str(folder.expanduser()), Source(font=font, atlas=atlas, device=device))
    family = making.export(
        output,
        {
            "title": f"gesso-mini ({recipe})",
            "description": f"Draws {len(making.objects)} objects; trained by gesso on pictures composed of emoji.",
            **_author(author),
        },
    )
    _done(output, as_json, objects=len(family.objects), size=family.output_size)


for _command, _ in tune.COMMANDS:
    app.command(_command.__name__)(_command)
app.command("verdict")(verdict)
app.command("ray", context_settings=UNREAD)(ray_train)


@app.command("style")
def style(
    style: Annotated[str, typer.Argument(metavar="STYLE", help="Style: comic, line-art or woodcut.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Output file (.safetensors), written when training is complete.")
    ],
    model: ModelOption = "gesso-mini",
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to keep training states and logs.", metavar="FOLDER", show_default="~/.cache/gesso/STYLE"
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop each of the two stages after this many minutes; run again to continue."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of pictures to train on.", show_default="the recipe's")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, max=256, help="Rank of the LoRA.", show_default="the recipe's")
    ] = None,
    font: FontOption = None,
    atlas: AtlasOption = None,
    author: AuthorOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a style LoRA for the default model.

    Resumes from the last state in the folder.

    Examples:
        gesso train style comic comic.safetensors
        gesso train style woodcut woodcut.safetensors --rank 8
        gesso train style comic comic.safetensors --minutes 30
        gesso generate "a red car" --lora comic.safetensors
    """
    from gesso.mini.style_lora import CPU_LORA, StyleLora

    check_free(output, overwrite, ".safetensors")
    recipe = CPU_LORA if rank is None else replace(CPU_LORA, rank=rank)
    if samples is not None:
        recipe = replace(recipe, denoising=replace(recipe.denoising, total_samples=samples))
    place = folder or ADDITIONS / style
    seconds = float("inf") if minutes is None else 60 * minutes
    with _resumable(place.expanduser()):
        making = StyleLora(_trained(model, font, atlas), style, place.expanduser(), recipe)
        is_done = making.train(stop_after=seconds, on_log=_print)
    if not is_done:
        typer.echo(f"stopped early; run again to continue from {place}", err=True)
        return
    about = f"gesso-mini draws in this style while it is on; no word is needed. Trained by: gesso train style {style}"
    making.export(output, {"title": f"{style} for gesso-mini", "description": about, **_author(author)})
    _done(output, as_json, rank=recipe.rank, bytes=output.stat().st_size)


@app.command("edges")
def edges(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Output file (.safetensors), written when training is complete.")
    ],
    model: ModelOption = "gesso-mini",
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to keep training states and logs.")] = ADDITIONS
    / "gesso-edges",
    minutes: MinutesOption = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of pictures to train on.", show_default="the recipe's")
    ] = None,
    font: FontOption = None,
    atlas: AtlasOption = None,
    author: AuthorOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an edge ControlNet for the default model.

    Resumes from the last state in the folder.

    Examples:
        gesso train edges edges.safetensors
        gesso train edges edges.safetensors --minutes 30
        gesso train edges edges.safetensors --samples 10000
        gesso evaluate control --control edges.safetensors
    """
    from gesso.mini.controlnet import CPU_CONTROL, EdgeControl

    check_free(output, overwrite, ".safetensors")
    plan = CPU_CONTROL.plan if samples is None else replace(CPU_CONTROL.plan, total_samples=samples)
    with _resumable(folder.expanduser()):
        making = EdgeControl(_trained(model, font, atlas), folder.expanduser(), replace(CPU_CONTROL, plan=plan))
        is_done = making.train(stop_after=float("inf") if minutes is None else 60 * minutes, on_log=_print)
    if not is_done:
        typer.echo(f"stopped early; run again to continue from {folder}", err=True)
        return
    about = "Takes edges of 256 x 256 as gesso preprocess canny makes them. Trained by: gesso train edges"
    making.export(output, {"title": "edges for gesso-mini", "description": about, **_author(author)})
    _done(output, as_json, bytes=output.stat().st_size)


@app.command("few-steps")
def few_steps(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Output file (.safetensors), written when training is complete.")
    ],
    model: ModelOption = "gesso-mini",
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to keep training states and logs.")] = ADDITIONS
    / "few-steps",
    minutes: MinutesOption = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of steps of the teacher to learn from.", show_default="the recipe's"),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, max=256, help="Rank of the LoRA.", show_default="the recipe's")
    ] = None,
    processes: ProcessesOption = 1,
    font: FontOption = None,
    atlas: AtlasOption = None,
    author: AuthorOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a few-step LoRA for the default model.

    With it the model draws in four steps without guidance what it otherwise draws in 20 steps with guidance. Resumes
    from the last state in the folder.

    Examples:
        gesso train few-steps few-steps.safetensors
        gesso train few-steps few-steps.safetensors --minutes 30
        gesso train few-steps few-steps.safetensors --processes 2
        gesso generate "a red car" --lora few-steps.safetensors --fast
    """
    from gesso.training.group import run_group
    from gesso.training.loop import last_facts

    check_free(output, overwrite, ".safetensors")
    place = folder.expanduser()
    source = Source(font=font, atlas=atlas, minutes=minutes)
    with _resumable(place):
        run_group(processes, _train_few_steps, model, str(place), samples, rank, source)
    making = _few_steps(model, place, samples, rank, source)
    if (last_facts(place) or {})["samples"] < making.recipe.plan.total_samples:
        typer.echo(f"stopped early; run again to continue from {folder}", err=True)
        return
    about = "gesso-mini draws in four steps of euler without guidance. Trained by: gesso train few-steps"
    making.export(output, {"title": "few steps for gesso-mini", "description": about, **_author(author)})
    _done(output, as_json, rank=making.recipe.rank, bytes=output.stat().st_size)


@app.command("atlas")
def atlas(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output file (PNG).")],
    recipe: RecipeOption = "gpu",
    font: FontOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Save the glyphs of a recipe as one file.

    Pictures are composed of glyphs; the file replaces the font on machines without it.

    Examples:
        gesso train atlas glyphs.png
        gesso train atlas glyphs.png --recipe cpu
        gesso train default-model --atlas glyphs.png
        gesso train atlas glyphs.png --font NotoColorEmoji.ttf
    """
    from gesso.scenes.glyphs import render_glyphs, save_atlas
    from gesso.scenes.vocabulary import things

    check_free(output, overwrite, ".png")
    objects = things(_recipe(recipe).objects)
    save_atlas(output, render_glyphs([thing.glyph for thing in objects], font), objects)
    _done(output, as_json, objects=len(objects), bytes=output.stat().st_size)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Says, after Ctrl-C, how to go on with a training that keeps its states below this folder."""
    try:
        yield
    except KeyboardInterrupt:
        is_saved = next(folder.rglob("last.pt"), None) is not None
        how = f"run the same command again to continue from {folder}" if is_saved else "nothing was trained yet"
        typer.echo(f"interrupted: {how}", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None  # typer would make its own line of the other


def _done(output: Path, as_json: bool, **values: int) -> None:
    """The result: a file that was written."""
    if as_json:
        print(json_line(path_values(output, absolute=False) | values), flush=True)
    else:
        print(" ".join([one_line(str(output)), *(f"{name}={value}" for name, value in values.items())]), flush=True)


def _author(name: str | None) -> dict[str, str]:
    return {} if name is None else {"author": name}


def _recipe(name: str, device: str | None = None) -> Any:
    from gesso.errors import GessoError
    from gesso.mini.recipes import RECIPES, on_device

    if name not in RECIPES:
        raise GessoError(f"--recipe {name}: expected one of {', '.join(RECIPES)}", code="invalid_value")
    if device is None:
        return RECIPES[name]
    from gesso.runtime.precision import choose_device, named_device

    return on_device(RECIPES[name], str(choose_device(device) if device == "auto" else named_device(device)))


def _trained(model: str, font: Path | None, atlas: Path | None) -> Any:
    """The finished model that a training adds to."""
    from gesso.families.loading import load_parts
    from gesso.mini.trained_model import TrainedModel
    from gesso.runtime.engine import find_model
    from gesso.scenes.vocabulary import TABLES, things

    parts = load_parts(find_model(resolve_model(model)))
    names = list(parts.family.objects)
    tables = [things(name) for name in TABLES]
    objects = next((table for table in tables if [thing.name for thing in table] == names), tables[0])
    return TrainedModel(parts, objects, _glyphs(objects, font, atlas))


def _glyphs(objects: Any, font: Path | None, atlas: Path | None) -> Any:
    from gesso.errors import GessoError
    from gesso.scenes.glyphs import load_atlas, render_glyphs

    if atlas is not None and font is not None:
        raise GessoError("--atlas and --font both supply the glyphs; give only one", code="usage")
    if atlas is not None:
        return load_atlas(atlas, objects)
    return render_glyphs([thing.glyph for thing in objects], font)


def _making(name: str, folder: str, source: Source) -> Any:
    from gesso.mini.default_model import DefaultModel
    from gesso.mini.recipes import rehearsal
    from gesso.scenes.vocabulary import things

    recipe = _recipe(name, source.device)
    if source.rehearsal:
        recipe = rehearsal(recipe)
    if source.compile is not None:
        recipe = replace(recipe, compile=source.compile)
    objects = things(recipe.objects)
    return DefaultModel(recipe, Path(folder), objects, _glyphs(objects, source.font, source.atlas))


def _few_steps(model: str, folder: Path, samples: int | None, rank: int | None, source: Source) -> Any:
    from gesso.mini.few_steps import CPU_FEW_STEPS, FewSteps

    recipe = CPU_FEW_STEPS if rank is None else replace(CPU_FEW_STEPS, rank=rank)
    if samples is not None:
        recipe = replace(recipe, plan=replace(recipe.plan, total_samples=samples))
    return FewSteps(_trained(model, source.font, source.atlas), folder, recipe)


def _train_few_steps(model: str, folder: str, samples: int | None, rank: int | None, source: Source) -> None:
    """In one process; importable, since other processes start here."""
    seconds = float("inf") if source.minutes is None else 60 * source.minutes
    _few_steps(model, Path(folder), samples, rank, source).train(stop_after=seconds, on_log=_print)


def _train(
    recipe: str,
    folder: str,
    stage: str,
    samples: int | None,
    seconds: float,
    font: Path | None,
    source: Source | None = None,
) -> None:
    """One stage in one process; importable, since other processes start here."""
    source = source or Source(font=font)
    making = _making(recipe, folder, source)
    plan = getattr(making.recipe, stage)
    if samples is not None:
        plan = replace(plan, total_samples=samples, minutes=None)
    elif source.minutes is not None:
        plan = replace(plan, minutes=source.minutes)
    making.train(stage, plan, stop_after=seconds, on_log=_print)


def _print(row: dict[str, float]) -> None:
    print(json.dumps({key: round(value, 4) for key, value in row.items()}), flush=True)
