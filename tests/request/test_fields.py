"""The table of fields: what must hold for every row, and that all that is made of it is fresh."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import gesso.request
from gesso.diffusion.noise import NOISE_SOURCES
from gesso.diffusion.samplers import SAMPLERS
from gesso.diffusion.schedule import SCHEDULES
from gesso.request.checks import RequestError
from gesso.request.conventions import PRESET_NAMES, Conventions
from gesso.request.fields import JOBS, NOISE_NAMES, TOOLS, Row, all_rows, rows
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.presets import PRESET_DEFAULTS, PRESETS
from gesso.request.reference import render
from gesso.request.request import (
    MAY_STAY_OPEN,
    NAMED,
    ROWS,
    ResolvedRequest,
    TextToImageRequest,
    called_by,
    with_values,
)

ROOT = Path(__file__).parents[2]
EVERY = [*all_rows(TextToImageRequest), *all_rows(LoraUse, "loras."), *all_rows(ControlUse, "controls.")]


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.path)
def test_every_field_says_what_it_is(row: Row):
    about = row.field
    assert about.label
    assert about.label[0].isupper()
    assert about.help.endswith(".")
    assert set(about.jobs) <= set(JOBS)
    assert about.jobs
    assert set(about.tools) <= set(TOOLS)
    assert not about.presets or set(about.presets) == set(PRESET_NAMES)
    assert set(about.means) <= set(row.values)
    assert len(about.means) in (0, len(row.values)), "every choice is explained, or none"
    if row.is_number:
        assert about.low is not None
        assert about.high is not None
        assert about.low < about.high
    if row.default is not None and row.kind not in ("parts", "list") and row.field.low is not None:
        assert about.low <= row.default <= about.high if isinstance(row.default, int | float) else True


def test_no_name_means_two_fields():
    seen: dict[str, str] = {}
    for row in ROWS.values():
        for name in row.names:
            assert seen.setdefault(name, row.path) == row.path, name
    assert NAMED.keys() == seen.keys()
    letters = [row.field.letter for row in ROWS.values() if row.field.letter]
    assert len(letters) == len(set(letters))


def test_what_people_typed_before_the_table_still_names_its_field():
    """The aliases of axes and the flags of A1111's script, as they were written out by hand."""
    before = {
        "steps": "num_steps",
        "cfg": "guidance_scale",
        "cfg_scale": "guidance_scale",
        "guidance": "guidance_scale",
        "scheduler": "schedule",
        "denoise": "strength",
        "denoising": "strength",
        "denoising_strength": "strength",
        "negative": "negative_prompt",
        "var_seed": "variation_seed",
        "var_strength": "variation_strength",
        "subseed": "variation_seed",
        "subseed_strength": "variation_strength",
        "seed_resize_from_h": "seed_height",
        "seed_resize_from_w": "seed_width",
        "sampler_name": "sampler",
        "batch_size": "num_images",
        "n_iter": "num_images",
    }
    assert {name: NAMED[name].path for name in before} == before


def test_a_resolved_request_narrows_types_and_adds_nothing():
    """Its annotations repeat names for mypy: none is new, and what may not stay open has no None in it."""
    assert [field.name for field in fields(ResolvedRequest)] == [field.name for field in fields(TextToImageRequest)]
    hints = get_type_hints(ResolvedRequest)
    wide = get_type_hints(TextToImageRequest)
    for name, row in rows(TextToImageRequest).items():
        assert (type(None) in get_args(hints[name])) == (row.field.optional), name
        assert hints[name] == wide[name] or hints[name] in get_args(wide[name])
    assert {"image", "hires", "tile"} < MAY_STAY_OPEN
    assert not {"seed", "width", "levels"} & MAY_STAY_OPEN


def test_presets_have_a_value_for_every_convention():
    for preset in PRESET_NAMES:
        assert PRESETS[preset].keys() == rows(Conventions).keys()
        request = TextToImageRequest(prompt="", preset=preset, **PRESETS[preset])  # each is one that it can have
        assert request.levels == PRESETS[preset]["levels"]
    assert ROWS["strength"].field.presets == {name: values["strength"] for name, values in PRESET_DEFAULTS.items()}
    assert PRESETS["a1111"]["mask_blur"] == 4.0
    assert PRESETS["diffusers"]["clip_skip_everywhere"] is True


def test_registries_are_named_without_what_runs():
    assert tuple(NOISE_SOURCES) == NOISE_NAMES
    assert ROWS["sampler"].values == tuple(SAMPLERS)
    assert ROWS["hires.schedule"].values == tuple(SCHEDULES)


def test_the_room_needs_no_torch():
    """In a fresh interpreter, because tests have loaded it."""
    modules = sorted(path.stem for path in Path(gesso.request.__file__).parent.glob("*.py"))
    code = "import importlib, json, sys\n"
    code += f"for name in {modules}: importlib.import_module('gesso.request.' + name)\n"
    code += "print(json.dumps([name for name in ('torch', 'numpy', 'PIL', 'typer') if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_page_of_fields_is_fresh():
    expected = "python -m gesso.request.reference > docs/request.md"
    assert (ROOT / "docs" / "request.md").read_text(encoding="utf-8") == render(), f"make it again: {expected}"


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("num_steps", "12", 12),
        ("guidance_scale", "2", 2.0),
        ("paste_back", "Yes", True),
        ("round_timesteps", "off", False),
        ("levels", "truncate", "truncate"),
        ("hires.strength", "0.25", 0.25),
    ],
)
def test_a_value_is_read_from_text(path: str, text: str, value: object):
    found = ROWS[path].read(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("num_steps", "1.5", "--steps: '1.5' is not a whole number"),
        ("guidance_scale", "x", "--steps: 'x' is not a number"),
        ("paste_back", "maybe", "--steps: 'maybe' is not true or false"),
    ],
)
def test_text_that_is_no_value_is_refused_by_the_name_that_was_typed(path: str, text: str, words: str):
    with pytest.raises(RequestError) as caught:
        ROWS[path].read(text, "--steps")
    assert caught.value.message == words
    assert caught.value.field == path


def test_values_are_set_by_path_and_begin_a_part():
    request = TextToImageRequest(prompt="a cat", num_steps=3)
    found = with_values(request, {"hires.scale": 1.5, "hires.strength": 0.5, "num_steps": 4})
    assert found == TextToImageRequest(prompt="a cat", num_steps=4, hires=HiresPass(scale=1.5, strength=0.5))
    again = with_values(found, {"hires.strength": 0.75})
    assert again.hires == HiresPass(scale=1.5, strength=0.75)
    with pytest.raises(RequestError, match=r"hires\.strength is 2"):
        with_values(found, {"hires.strength": 2})


def test_tools_call_fields_by_their_names():
    found = {key: row.path for key, row in called_by("invokeai")}
    assert found["cfg_rescale_multiplier"] == "guidance_rescale"
    assert dict(called_by("a1111"))["n_iter"].path == "num_images"
    assert "hrf_method" not in found
