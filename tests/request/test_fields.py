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
from gesso.request.conventions import Conventions, ResolvedConventions
from gesso.request.fields import JOBS, NOISE_NAMES, PRESET_NAMES, TOOLS, Row, all_rows, rows
from gesso.request.groups import Mask, ResolvedMask, Source
from gesso.request.migrations import MOVED
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.presets import PRESETS
from gesso.request.reference import render
from gesso.request.request import (
    GROUPS,
    NAMED,
    ROWS,
    ResolvedRequest,
    TextToImageRequest,
    called_by,
    flat,
    nested,
    with_values,
)

ROOT = Path(__file__).parents[2]
INSIDE = tuple(f"{group}." for group in GROUPS)
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
        for name in row.names if row.path not in GROUPS else ():
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
        "denoise": "source.strength",
        "denoising": "source.strength",
        "denoising_strength": "source.strength",
        "negative": "negative_prompt",
        "var_seed": "variation.seed",
        "var_strength": "variation.strength",
        "subseed": "variation.seed",
        "subseed_strength": "variation.strength",
        "seed_resize_from_h": "variation.height",
        "seed_resize_from_w": "variation.width",
        "sampler_name": "sampler",
        "batch_size": "num_images",
        "n_iter": "num_images",
    }
    assert {name: NAMED[name].path for name in before} == before


def test_every_name_that_stood_flat_still_names_its_field_where_people_type():
    assert {name: NAMED[name].path for name in MOVED} == dict(MOVED)
    assert NAMED["mask"].path == "mask.image"


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [(ResolvedRequest, TextToImageRequest), (ResolvedConventions, Conventions), (ResolvedMask, Mask)],
)
def test_what_is_resolved_narrows_types_and_adds_nothing(narrow: type, wide: type):
    """Its annotations repeat names for mypy: none is new, and what may not stay open has no None in it."""
    assert [field.name for field in fields(narrow)] == [field.name for field in fields(wide)]
    hints, before = get_type_hints(narrow), get_type_hints(wide)
    for name, row in rows(wide).items():
        assert (type(None) in get_args(hints[name])) == row.field.optional, name
        of_a_group = isinstance(before[name], type) and issubclass(hints[name], before[name])
        assert of_a_group or hints[name] == before[name] or hints[name] in get_args(before[name]), name
        assert rows(narrow)[name].field is row.field  # bounds and words stay


def test_a_request_may_do_without_parts_and_not_without_settings():
    optional = {path for path, row in ROWS.items() if row.field.optional}
    assert {"source.image", "source.strength", "mask.image", "hires", "tiles.size", "sigmas", "tiling"} < optional
    assert not {"seed", "width", "mask.blur", "conventions.levels", *GROUPS} & optional


def test_presets_have_a_value_for_every_convention():
    for preset in PRESET_NAMES:
        assert PRESETS[preset].keys() > {f"conventions.{name}" for name in rows(Conventions)}
        assert PRESETS[preset].keys() == {path for path, row in ROWS.items() if row.field.presets}
        request = with_values(TextToImageRequest(prompt="", preset=preset), PRESETS[preset])  # each is one that may be
        assert request.conventions.levels == PRESETS[preset]["conventions.levels"]
    assert PRESETS["a1111"]["mask.blur"] == 4.0
    assert PRESETS["diffusers"]["conventions.clip_skip_everywhere"] is True
    assert [PRESETS[preset]["source.strength"] for preset in PRESET_NAMES] == [0.75, 0.75, 0.8]
    assert [PRESETS[preset]["hires.strength"] for preset in PRESET_NAMES] == [0.3, 0.7, 0.3]
    assert [PRESETS[preset]["noise"] for preset in PRESET_NAMES] == ["philox", "nv", "cpu"]


def test_flat_and_nested_are_each_others_inverse():
    request = TextToImageRequest(prompt="a cat", source=Source(strength=0.5), hires=HiresPass(scale=2))
    values = flat(request)
    assert TextToImageRequest(**nested(values)) == request
    assert {path for path in values if "." in path} == {path for path in ROWS if path.startswith(INSIDE)}
    assert values["hires"] == HiresPass(scale=2)


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
    expected = "python -m gesso.request.reference docs"
    assert (ROOT / "docs" / "request.md").read_text(encoding="utf-8") == render(), f"make it again: {expected}"


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("num_steps", "12", 12),
        ("guidance_scale", "2", 2.0),
        ("conventions.paste_back", "Yes", True),
        ("conventions.round_timesteps", "off", False),
        ("conventions.levels", "truncate", "truncate"),
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
        ("num_steps", "1.5", "--steps is '1.5', expected a whole number"),
        ("guidance_scale", "x", "--steps is 'x', expected a number"),
        ("conventions.paste_back", "maybe", "--steps is 'maybe', expected true or false"),
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
    assert found["strength"] == "source.strength"
    assert found["cfg_rescale_multiplier"] == "guidance_rescale"
    assert dict(called_by("a1111"))["n_iter"].path == "num_images"
    assert "hrf_method" not in found


@pytest.mark.parametrize(
    ("sigma", "words"), [(-1.0, "is -1.0, expected 0 to"), (1e9, "is 1000000000.0, expected 0 to")]
)
def test_noise_levels_of_ones_own_have_a_range(sigma: float, words: str):
    """Their order is looked at after that: each is wrong by itself."""
    with pytest.raises(RequestError, match=rf"sigmas\[1\] {words}") as caught:
        TextToImageRequest(prompt="a", sigmas=(5.0, sigma, 0.0))
    assert caught.value.field == "sigmas[1]"
