"""`gesso evaluate`: measure how well a model follows its prompts, and train the judge that measures it."""

import io
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.machine_options import DeviceOption, DtypeOption, ThreadsOption
from gesso.cli.model_option import ModelOption
from gesso.cli.targets import check_free, put
from gesso.errors import GessoError
from gesso.studio.drawing import check_names
from gesso.studio.studio import EngineOptions, ModelChoice, Studio
from gesso.terminal.field_options import with_fields
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.progress import Bar
from gesso.terminal.results import path_values

if TYPE_CHECKING:
    import numpy as np

    from gesso.mini.judging.composition import CompositionReport, Generate
    from gesso.mini.judging.model_pictures import ModelPictures
    from gesso.runtime.model import LoadedModel
    from gesso.scenes.render import Renderer
    from gesso.scenes.vocabulary import Thing

app = App()


@app.callback()
def _group() -> None:
    """Measure how well a model follows its prompts.

    Examples:
        gesso evaluate composition
        gesso evaluate style comic
        gesso evaluate control
        gesso evaluate composition -m other.safetensors --json
    """


EVERY_OBJECT_FROM = 500  # prompts; with fewer, a quick look, not every object has its turn
JUDGE_FOLDER = Path("~/.cache/gesso/judge")

ObjectsOption = Annotated[
    str | None, typer.Option("--objects", help="Object table: default or full.", show_default="the model's")
]
LoraOption = Annotated[
    str | None, typer.Option("--lora", metavar="LORA", help="LoRA to draw with: a file, or the name of a built-in one.")
]
StyleOption = Annotated[
    str | None,
    typer.Option(
        "--style",
        metavar="STYLE",
        help="Judge pictures in this style (comic, line-art or woodcut); needs a judge of that style (--judge).",
    ),
]
PromptsOption = Annotated[
    int, typer.Option("--prompts", min=7, max=100_000, help="Number of prompts; may be rounded up.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", "-S", min=0, max=2**32 - 1, help="Seed of the prompts and the pictures.")
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, max=1024, help="Batch size: pictures drawn at once.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")]
FontOption = Annotated[
    Path | None, typer.Option("--font", help="Noto Color Emoji font file.", show_default="the system's")
]


@app.command("composition")
@with_fields({"seed": ("num_steps", "guidance_scale", "guidance_until", "deep_cache", "sampler", "schedule")})
def composition(
    model: ModelOption = "gesso-mini",
    prompts: Annotated[
        int,
        typer.Option(
            "--prompts",
            min=7,
            max=100_000,
            help="Number of prompts; may be rounded up. From 500 on, every object appears.",
        ),
    ] = 560,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    judge: Annotated[
        Path | None, typer.Option("--judge", help="File of the judge.", show_default="the built-in one")
    ] = None,
    judge_pictures: Annotated[
        int,
        typer.Option("--judge-pictures", min=20, help="Composed pictures per category on which to measure the judge."),
    ] = 200,
    lora: LoraOption = None,
    style: StyleOption = None,
    objects: ObjectsOption = None,
    font: FontOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a JSON report on every picture to this file.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a contact sheet to this PNG file, failures first.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")] = False,
    quiet: QuietOption = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Score how often pictures show what their prompts say.

    The prompts combine objects in ways not seen in training. A detector judges the pictures; its own error rate on
    fresh composed pictures is shown next to every score.

    Examples:
        gesso evaluate composition
        gesso evaluate composition --prompts 100 --sheet failures.png
        gesso evaluate composition --steps 20 --guidance 5 --json
        gesso evaluate composition -m other.safetensors -o report.json
    """
    check_free(output, overwrite)
    check_free(sheet, overwrite)
    with Bar(quiet=quiet) as bar:
        bar.stage("starting")
        from gesso.mini.judging.composition import evaluate_composition
        from gesso.mini.judging.detector import load_detector
        from gesso.mini.judging.model_pictures import ModelPictures
        from gesso.request.finder import find_file
        from gesso.request.request import TextToImageRequest

        request = TextToImageRequest(prompt="-", seed=seed, **fields)
        check_names(request)
        studio = Studio(EngineOptions(device=device, dtype=dtype, threads=threads))
        pipeline = studio.open(ModelChoice(model=model), on_event=bar.show)
        table = _table_of(pipeline.model.family.objects, objects, bar)
        detector = load_detector(table, judge)
        renderer = _renderer(table, font, bar, style)
        drawer = ModelPictures(pipeline.engine, pipeline.model, request)
        generate: Generate = drawer if lora is None else drawer.with_lora(find_file("lora", lora))
        resolved = drawer.resolved
        report = evaluate_composition(
            generate,
            detector,
            things=table,
            renderer=renderer,
            num_prompts=prompts,
            seed=seed,
            batch_size=batch,
            every_object=prompts >= EVERY_OBJECT_FROM,
            judge_pictures=judge_pictures,
            settings={
                "model": pipeline.model.name,
                "model_sha256": dict(pipeline.model.files),
                "lora": lora,
                "style": style,
                "num_steps": resolved.num_steps,
                "guidance_scale": resolved.guidance_scale,
                "guidance_until": resolved.guidance_until,
                "deep_cache": resolved.deep_cache,
                "sampler": resolved.sampler,
                "schedule": resolved.schedule,
                "size": f"{resolved.width}x{resolved.height}",
                **asdict(pipeline.engine.environment(pipeline.model)),
            },
            on_progress=lambda done, total: bar.step("drawing and judging", done, total, "pictures"),
        )
    _write(report, output, sheet, overwrite)
    if as_json:
        print(json_line(report.to_dict()))
    else:
        _print_table(report)


@app.command("style")
def style(
    style: Annotated[str, typer.Argument(metavar="STYLE", help="Style: comic, line-art or woodcut.")],
    lora: LoraOption = None,
    model: ModelOption = "gesso-mini",
    prompts: PromptsOption = 200,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    font: FontOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score how often a LoRA gives pictures its style.

    Compares with pictures of the same seeds without the LoRA. A small classifier judges the style. It is trained first,
    in about a minute; its own accuracy is shown too.

    Examples:
        gesso evaluate style comic
        gesso evaluate style comic --lora comic.safetensors
        gesso evaluate style woodcut --prompts 100
        gesso evaluate style comic -m other.safetensors
    """
    from gesso.scenes.styles import STYLES

    if style not in STYLES:
        raise GessoError(f"style {style[:40]}: expected one of {', '.join(STYLES)}", code="invalid_value")
    with Bar(quiet=quiet) as bar:
        bar.stage("training the classifier")
        from gesso.mini.judging.style import evaluate_style
        from gesso.request.finder import find_file
        from gesso.scenes.glyphs import render_glyphs

        _, generate, table, _ = _drawer(model, threads, bar)
        report = evaluate_style(
            generate.with_lora(find_file("lora", lora or style)),
            generate,
            style,
            things=table,
            glyphs=render_glyphs([thing.glyph for thing in table], font),
            num_prompts=prompts,
            seed=seed,
            batch_size=batch,
            on_progress=lambda done, total: bar.step("drawing and judging", done, total, "pictures"),
        )
    if as_json:
        print(json_line(asdict(report)))
        return
    accuracy = " ".join(f"{kind}={value:.3f}" for kind, value in report.accuracy.items())
    print(f"prompts={report.prompts} styled={report.styled:.3f} plain={report.plain:.3f}")
    print(f"accuracy of the classifier: {accuracy}")


@app.command("control")
def control(
    control: Annotated[
        str, typer.Option("--control", metavar="CONTROL", help="ControlNet: a file, or gesso-edges.")
    ] = "gesso-edges",
    model: ModelOption = "gesso-mini",
    prompts: PromptsOption = 200,
    seed: SeedOption = 0,
    weight: Annotated[float, typer.Option("--weight", min=0, max=10, help="Strength of the ControlNet.")] = 1.0,
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    font: FontOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a JSON report on every picture to this file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing files.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score how well pictures follow the edge map of a ControlNet.

    Compares with pictures of the same seeds without the ControlNet.

    Examples:
        gesso evaluate control
        gesso evaluate control --control edges.safetensors --weight 0.8
        gesso evaluate control --prompts 100 -o report.json
        gesso evaluate control -m other.safetensors
    """
    check_free(output, overwrite)
    with Bar(quiet=quiet) as bar:
        bar.stage("starting")
        from gesso.mini.judging.control import evaluate_control
        from gesso.request.finder import find_file
        from gesso.scenes.glyphs import render_glyphs
        from gesso.scenes.render import Renderer

        loaded, generate, table, size = _drawer(model, threads, bar)
        report = evaluate_control(
            generate.with_control(find_file("control", control), weight),
            generate,
            things=table,
            renderer=Renderer(render_glyphs([thing.glyph for thing in table], font)),
            size=size,
            num_prompts=prompts,
            seed=seed,
            batch_size=batch,
            settings={"model": loaded.name, "control": control, "weight": weight},
            on_progress=lambda done, total: bar.step("drawing and measuring", done, total, "pictures"),
        )
    if output is not None:
        put(output, report.to_json().encode(), overwrite=overwrite)
    if as_json:
        print(json_line({"scores": report.rows(), "settings": dict(report.settings), "seed": report.seed}))
        return
    for row in report.rows():
        print(
            f"{row['placement']:6} {row['measure']:15} with={row['with']:.3f}+-{row['with_error']:.3f} "
            f"without={row['without']:.3f}+-{row['without_error']:.3f} nearer={row['nearer']:.3f} n={row['prompts']}"
        )


def _drawer(model: str, threads: int | None, bar: Bar) -> "tuple[LoadedModel, ModelPictures, tuple[Thing, ...], int]":
    """A model, what draws its pictures with all defaults, the objects that it knows, and the pictures' side."""
    from gesso.mini.judging.model_pictures import ModelPictures
    from gesso.request.request import TextToImageRequest

    pipeline = Studio(EngineOptions(threads=threads)).open(ModelChoice(model=model), on_event=bar.show)
    generate = ModelPictures(pipeline.engine, pipeline.model, TextToImageRequest(prompt="-"))
    family = pipeline.model.family
    return pipeline.model, generate, _table_of(family.objects, None, bar), family.output_size


@app.command("train-judge")
def train_judge(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output file (.safetensors).")],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where to keep training states and logs.")
    ] = JUDGE_FOLDER,
    objects: ObjectsOption = None,
    style: Annotated[
        str | None,
        typer.Option("--style", metavar="STYLE", help="Train on pictures in this style: comic, line-art or woodcut."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Judge to start from.", show_default="with --style the built-in one")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=64, help="Number of pictures to train on.")] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Stop after this many minutes; run again to continue.")
    ] = None,
    font: FontOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the judge for `gesso evaluate composition`.

    Takes about 15 minutes on one core.

    Examples:
        gesso evaluate train-judge judge.safetensors
        gesso evaluate train-judge comic.safetensors --style comic
        gesso evaluate train-judge judge.safetensors --minutes 10
        gesso evaluate composition --judge judge.safetensors
    """
    check_free(output, overwrite)
    from gesso.mini.judging.detector import load_detector
    from gesso.mini.judging.judge_training import JudgePlan, make_judge
    from gesso.scenes.glyphs import render_glyphs

    table = _table(objects or "default")
    glyphs = render_glyphs([thing.glyph for thing in table], font)
    begun = load_detector(table, start).detector if start is not None or style is not None else None
    figures = make_judge(
        table,
        _drawing(glyphs, style, max_kept=40_000),
        folder.expanduser(),
        output,
        JudgePlan() if samples is None else JudgePlan(total_samples=samples),
        start=begun,
        stop_after=float("inf") if minutes is None else 60 * minutes,
        on_log=lambda row: print(row, file=sys.stderr, flush=True),
    )
    if figures is None:
        print(f"stopped early; run again to continue from {folder}", file=sys.stderr)
        return
    if as_json:
        told = {name: {"accuracy": one.accuracy, "fooled": one.fooled / one.total} for name, one in figures.items()}
        print(json_line(path_values(output, absolute=False) | {"figures": told}))
        return
    for category, figure in figures.items():
        print(f"{category} right={figure.accuracy:.3f} fooled={figure.fooled / figure.total:.3f}")
    print(output)


def _drawing(glyphs: "np.ndarray", style: str | None, max_kept: int = 20_000) -> "Renderer":
    """What draws composed pictures, in a style where one is named. Raises GessoError for an unknown one."""
    from gesso.scenes.render import Renderer
    from gesso.scenes.styles import STYLES, StyledRenderer

    if style is None:
        return Renderer(glyphs, max_kept)
    if style not in STYLES:
        raise GessoError(f"--style {style[:40]}: expected one of {', '.join(STYLES)}", code="invalid_value")
    return StyledRenderer(glyphs, style, max_kept)


def _table(name: str) -> "tuple[Thing, ...]":
    from gesso.scenes.vocabulary import TABLES, things

    if name not in TABLES:
        raise GessoError(f"--objects {name[:40]}: expected one of {', '.join(TABLES)}", code="invalid_value")
    return things(name)


def _table_of(known: Mapping[str, object], name: str | None, bar: Bar) -> "tuple[Thing, ...]":
    """The table of that name, else the one that the model was trained on, else the default one.

    Shows a notice if the model does not know all of its objects.
    """
    from gesso.scenes.vocabulary import TABLES

    names = list(TABLES) if name is None else [name]
    table = next((one for one in map(_table, names) if {thing.name for thing in one} == set(known)), None)
    if table is None:
        table = _table(names[0])
        missing = [thing.name for thing in table if thing.name not in known]
        bar.note(f"note: the model does not know {len(missing)} of the {len(table)} objects in this table")
    return table


def _renderer(table: "tuple[Thing, ...]", font: Path | None, bar: Bar, style: str | None = None) -> "Renderer | None":
    """What measures the judge; None, with a notice, on a machine without the font. Raises GessoError for a bad font."""
    from gesso.scenes.glyphs import FONT_PLACES, render_glyphs

    if font is None and not any(place.is_file() for place in FONT_PLACES):
        bar.note(
            "note: no Noto Color Emoji font found, so the judge is not measured again; its file holds its accuracy. "
            "To install the font on Debian or Ubuntu: apt install fonts-noto-color-emoji"
        )
        return None
    return _drawing(render_glyphs([thing.glyph for thing in table], font), style)


def _write(report: "CompositionReport", output: Path | None, sheet: Path | None, overwrite: bool) -> None:
    files: list[tuple[Path, bytes]] = []
    if output is not None:
        files.append((output, report.to_json().encode()))
    if sheet is not None:
        from gesso.mini.judging.sheet import contact_sheet

        buffer = io.BytesIO()
        contact_sheet(report).save(buffer, format="PNG")
        files.append((sheet, buffer.getvalue()))
    for path, data in files:
        put(path, data, overwrite=overwrite)


def _print_table(report: "CompositionReport") -> None:
    from rich.console import Console
    from rich.table import Table

    heading, *rows = report.table()
    table = Table(*heading)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
