"""docs/samplers.md says what the tables of samplers and schedules say."""

import re
from pathlib import Path

from gesso.diffusion.samplers import SAMPLERS
from gesso.diffusion.schedule import SCHEDULES

PAGE = (Path(__file__).parents[2] / "docs/samplers.md").read_text(encoding="utf-8")


def rows(heading):
    """The cells of the table whose header starts so, by name."""
    table = PAGE.split(heading)[1].split("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return {first.strip("`"): rest for first, *rest in cells}


def names(cell):
    return tuple(re.findall(r"`([^`]+)`", cell))


def test_samplers():
    told = rows("| name | label | other names | order |")
    assert list(told) == list(SAMPLERS)
    for name, (label, aliases, order, calls, noise, schedule, paper, _) in told.items():
        sampler = SAMPLERS[name]
        assert (label, names(aliases), int(order)) == (sampler.label, sampler.aliases, sampler.order)
        assert calls.startswith(str(sampler.calls_per_step)) or sampler.row_steps
        assert noise.startswith("none") == (not sampler.stochastic)
        assert ("Brownian" in noise) == sampler.brownian
        assert schedule == sampler.schedule
        assert re.fullmatch(r"\[(\d{4}\.\d{5})\]\(https://arxiv\.org/abs/\1\)", paper)


def test_schedules():
    told = rows("| name | label | other names | steps |")
    assert list(told) == list(SCHEDULES)
    for name, (label, aliases, steps, ends) in told.items():
        spacing = SCHEDULES[name]
        assert (label, names(aliases)) == (spacing.label, spacing.aliases)
        assert (steps == "as asked", ends == "yes") == (spacing.exact_steps, spacing.ends_in_zero)
