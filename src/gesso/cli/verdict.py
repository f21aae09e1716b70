"""`gesso train verdict`: which step of a training is best, and why; another step as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.targets import check_free
from gesso.errors import GessoError
from gesso.studio.home import resolve_model
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.progress import Bar
from gesso.terminal.results import path_values

if TYPE_CHECKING:
    from gesso.tuning.verdict import Verdict


def verdict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a training (my.training), or the file that it wrote.")
    ],
    step: Annotated[int | None, typer.Option(min=1, help="Step to write as a file.", show_default="the best")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Write that step to this file (.safetensors).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which step of a training is best, and why; write any step as a file.

    Reads what the training measured at its reports; draws nothing.

    Examples:
        gesso train verdict my.training
        gesso train verdict my.safetensors --json
        gesso train verdict my.training -o best.safetensors
        gesso train verdict my.training --step 150 -o my-150.safetensors
    """
    from gesso.tuning.judging import kept_steps, read_copies, verdict_on

    folder = run if run.is_dir() else run.with_suffix(".training")
    if not (folder / "run.json").is_file():
        raise GessoError(
            f"{run}: no training is there. Expected the folder of one, such as my.training",
            code="missing",
            data={"path": str(run)},
        )
    if step is not None and output is None:
        raise GessoError("--step goes with --output, the file to write", code="usage")
    check_free(output, overwrite, ".safetensors")
    found = verdict_on(folder)
    with Bar(quiet=quiet) as bar:
        written: dict[str, Any] = {}
        if output is not None:
            written = path_values(output, absolute=False) | _write(folder, output, step)
        facts = as_facts(found) | {"kept": kept_steps(folder), "copy_check": read_copies(folder)} | written
        if as_json:
            bar.result(json_line(facts))
        else:
            bar.result("\n".join([*as_table(found), *told(found, facts["copy_check"])]))
            if output is not None:
                bar.note(f"step {written['step']} is in {output}")


def _write(folder: Path, output: Path, step: int | None) -> dict[str, Any]:
    from gesso.runtime.engine import find_model
    from gesso.tuning.result import SETTINGS, result_in
    from gesso.tuning.settings import read_settings

    model = str(read_settings(folder / SETTINGS).get("model", ""))
    return result_in(folder, find_model(resolve_model(model))).write(output, step=step)


def as_facts(found: "Verdict") -> dict[str, Any]:
    """A verdict as values for JSON."""
    return {
        "best": found.best,
        "reason": found.reason,
        "stopped": found.stops,
        "warnings": list(found.warnings),
        "steps": [
            {"step": one.step} | {name: figure.rounded() for name, figure in one.figures().items()}
            for one in found.steps
        ],
    }


def as_table(found: "Verdict") -> list[str]:
    """A verdict in columns, the best step marked."""
    from gesso.tuning.verdict import FIGURES

    rows = [(one.step, one.figures()) for one in found.steps]
    names = [name for name in FIGURES if any(name in figures for _, figures in rows)]
    if not names:
        return []
    lines = ["   step  " + "".join(f"{name:<19}" for name in names).rstrip()]
    for step, figures in rows:
        cells = "".join(f"{figures.get(name, '')!s:<19}" for name in names)
        lines.append(f"{'*' if step == found.best else ' '}{step:>6}  {cells}".rstrip())
    return lines


def told(found: "Verdict", copies: Mapping[str, Any] | None) -> list[str]:
    """The choice, what to look at and the check for copies, a line each."""
    lines = [f"best: {found.reason}"] if found.best is not None else [found.reason]
    lines += [f"note: {line}" for line in found.warnings]
    if copies is not None:
        lines.append(
            f"copies: {copies['copies']} of {copies['samples']} pictures of step {copies['step']}, from a likeness "
            f"of {copies['threshold']:.2f} on, by {copies['by']}"
        )
    return lines
