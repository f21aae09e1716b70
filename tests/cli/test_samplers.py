"""`gesso samplers` and `gesso presets`: what the tables say, with the names of other tools."""

import json

import pytest

from gesso.cli.main import run
from gesso.cli.samplers import calls, kind
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.request.presets import PRESETS
from gesso.request.request import PRESET_ROWS


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run([*argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_every_sampler_and_schedule_is_listed_with_all_its_names(capsys: pytest.CaptureFixture[str]):
    samplers, schedules = shown(capsys, "samplers").split("\n\n")
    for table, rows in ((samplers, SAMPLERS), (schedules, SCHEDULES)):
        lines = table.splitlines()[1:]
        assert len(lines) == len(rows)
        for line, (name, row) in zip(lines, rows.items(), strict=True):
            assert line.startswith(f"{name} ") and row.label in line
            assert all(alias in line for alias in row.aliases)


def test_samplers_as_json_are_the_table(capsys: pytest.CaptureFixture[str]):
    listed = json.loads(shown(capsys, "samplers", "--json"))
    assert [row["name"] for row in listed["samplers"]] == list(SAMPLERS)
    assert [row["name"] for row in listed["schedules"]] == list(SCHEDULES)
    for row in listed["samplers"]:
        ours = SAMPLERS[row["name"]]
        assert (row["label"], row["order"], row["stochastic"]) == (ours.label, ours.order, ours.stochastic)
        assert (row["aliases"], row["schedule"]) == (list(ours.aliases), ours.schedule)
    assert next(row["calls_per_step"] for row in listed["samplers"] if row["name"] == "dpm_adaptive") is None
    assert next(row["calls_per_step"] for row in listed["samplers"] if row["name"] == "heun") == 2


@pytest.mark.parametrize(
    ("words", "samplers", "schedules"),
    [
        (["heun"], ["heun", "dpmpp_2m_sde_heun"], []),
        (["DPM++", "2m", "SDE", "heun"], ["dpmpp_2m_sde_heun"], []),
        (["UniPCMultistepScheduler"], ["unipc_bh2"], []),
        (["Euler a"], ["euler_ancestral"], []),
        (["KARRAS"], [], ["karras"]),
        (["sgm"], [], ["sgm_uniform", "turbo"]),
        (["uniform"], [], ["uniform", "sgm_uniform", "ddim_uniform"]),
    ],
)
def test_words_choose_rows(
    words: list[str], samplers: list[str], schedules: list[str], capsys: pytest.CaptureFixture[str]
):
    listed = json.loads(shown(capsys, "samplers", "--json", *words))
    assert [row["name"] for row in listed["samplers"]] == samplers
    assert [row["name"] for row in listed["schedules"]] == schedules


def test_kinds_and_calls_in_words():
    assert [kind(SAMPLERS[name]) for name in ("euler", "euler_ancestral", "lcm")] == [
        "converges",
        "stochastic",
        "few steps",
    ]
    assert [calls(SAMPLERS[name]) for name in ("euler", "heun", "dpm_adaptive")] == ["1", "2", "varies"]


def test_every_preset_setting_is_listed(capsys: pytest.CaptureFixture[str]):
    lines = shown(capsys, "presets").splitlines()[1:]
    assert [line.split()[0] for line in lines] == [row.names[0] for _, row in PRESET_ROWS]
    listed = json.loads(shown(capsys, "presets", "--json"))
    assert {row["field"]: row["presets"] for row in listed} == {
        path: {name: PRESETS[name][path] for name in PRESETS} for path, _ in PRESET_ROWS
    }
    assert shown(capsys, "presets", "strength", "rule").splitlines()[1].split()[:2] == ["strength_rule", "share"]


@pytest.mark.parametrize("command", ["samplers", "presets"])
def test_words_that_nothing_has(command: str, capsys: pytest.CaptureFixture[str]):
    assert run([command, "no such thing"]) == 2
    assert f"All: gesso {command}" in capsys.readouterr().err
