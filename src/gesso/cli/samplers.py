"""`gesso samplers`: the samplers and schedules, with their names in other tools."""

from typing import Annotated, Any

import typer

from gesso.diffusion.sampler_row import Sampler
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import GessoError
from gesso.registry import plain_name
from gesso.terminal.json_lines import json_line
from gesso.terminal.tables import columns, matches


def command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="Show only those whose names have all these words.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List samplers and schedules, with their names in A1111, ComfyUI and diffusers.

    Any of these names can be given to --sampler and --schedule. A sampler that converges draws the same picture from
    some number of steps on; a stochastic one adds noise at every step and keeps changing; few steps: for models that
    were distilled to need no more. CALLS is how often the model
    is called in one step, which is what a step costs. docs/samplers.md says more about each.

    Examples:
        gesso samplers
        gesso samplers dpm++ sde
        gesso samplers karras
        gesso generate "a red car" --sampler "DPM++ 2M" --schedule karras
        gesso grid "a red car" -x sampler=euler,ddim,dpmpp_2m
    """
    samplers = {name: row for name, row in SAMPLERS.items() if _has(words, name, row)}
    schedules = {name: row for name, row in SCHEDULES.items() if _has(words, name, row)}
    if as_json:
        print(
            json_line(
                {
                    "samplers": [_sampler(name, row) for name, row in samplers.items()],
                    "schedules": [_named(name, row) for name, row in schedules.items()],
                }
            )
        )
        return
    if not samplers and not schedules:
        raise GessoError(
            f"no sampler or schedule has {' '.join(words or ())[:60]!r} in its name. All: gesso samplers",
            code="unknown_name",
        )
    if samplers:
        head = ("SAMPLER", "IN A1111", "KIND", "CALLS", "OTHER NAMES")
        rows = [(name, row.label, kind(row), calls(row), ", ".join(row.aliases)) for name, row in samplers.items()]
        print("\n".join(columns([head, *rows])))
    if samplers and schedules:
        print()
    if schedules:
        spacings = [(name, spacing.label, ", ".join(spacing.aliases)) for name, spacing in schedules.items()]
        print("\n".join(columns([("SCHEDULE", "IN A1111", "OTHER NAMES"), *spacings])))


def kind(row: Sampler) -> str:
    """Whether more steps come closer to one picture."""
    return "few steps" if row.order == 0 else "stochastic" if row.stochastic else "converges"


def calls(row: Sampler) -> str:
    """Calls of the model in a step, in words."""
    return "varies" if row.counted is not None and row.counted(20) is None else str(row.calls_per_step)


def _has(words: list[str] | None, name: str, row: Any) -> bool:
    texts = (name, row.label, *row.aliases)
    plain = [plain_name(word) for word in words or ()]
    return matches(plain, *map(plain_name, texts)) or matches(words or (), *texts)


def _named(name: str, row: Any) -> dict[str, Any]:
    return {"name": name, "label": row.label, "aliases": list(row.aliases)}


def _sampler(name: str, row: Sampler) -> dict[str, Any]:
    return _named(name, row) | {
        "kind": kind(row),
        "order": row.order,
        "stochastic": row.stochastic,
        "calls_per_step": None if calls(row) == "varies" else row.calls_per_step,
        "schedule": row.schedule,
        "eta": "eta" in row.options,
    }
