"""Recipes that earlier versions wrote, as they stand in pictures: each is read, and means what it meant."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import gesso.request.migrations
from gesso.request.checks import RequestError
from gesso.request.conventions import Conventions
from gesso.request.groups import Mask, ResolvedMask, Source, Tiles, Variation
from gesso.request.migrations import FIELDS_OF_VERSION, MOVED, SCHEMA, VERSION, migrated
from gesso.request.parts import HiresPass, LoraUse
from gesso.request.presets import PRESETS
from gesso.request.recipe import Recipe
from gesso.request.request import ROWS as ROWS_NOW
from gesso.request.request import TextToImageRequest, flat

ROWS = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text())["recipes"]


def read(version: int, number: int = 0) -> tuple[dict[str, Any], Recipe]:
    """What a recipe of a version says of its request, and the recipe as it is read now."""
    row = [row for row in ROWS if row["version"] == version][number]
    return json.loads(row["recipe"])["request"], Recipe.from_json(row["recipe"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['version']}: {row['command'][:60]}")
def test_every_value_is_kept_and_written_again_in_this_version(row: dict[str, Any]):
    """A value that stood in the recipe is in the request; what is written now is read as equal."""
    old = json.loads(row["recipe"])
    recipe = Recipe.from_json(row["recipe"])
    values = json.loads(recipe.request.to_json())
    for name, value in old["request"].items():
        if name not in ("schema", "version"):
            path = "mask.image" if name == "mask" else MOVED.get(name, name)
            found = values
            for key in path.split("."):
                found = found[key]
            assert found == value, name
    again = json.loads(recipe.to_json())
    assert (again["version"], again["request"]["version"]) == (VERSION, VERSION)
    assert Recipe.from_json(recipe.to_json()) == recipe
    for name in ("model", "family", "files", "environment", "notices", "pixels_sha256"):
        assert again[name] == old[name]


def test_version_1_drew_as_the_preset_gesso_does_with_plain_prompts():
    _, recipe = read(1)
    request = recipe.request
    own = {"conventions.syntax": "plain", "conventions.emphasis": "ignore", "conventions.chunks": "first"}
    preset = {path: value for path, value in PRESETS["gesso"].items() if path.startswith("conventions.")}
    assert {path: value for path, value in flat(request).items() if path in preset} == preset | own
    assert request.mask.blur == 0.0
    assert (request.preset, request.prompt, request.eta) == ("gesso", "a red cat", 0.5)
    assert (request.source, request.hires, request.loras, request.controls) == (Source(), None, (), ())
    assert (recipe.prediction, recipe.refiner, recipe.refiner_files, recipe.extras) == ("", "", (), ())


def test_version_2_had_neither_changing_prompts_nor_adapters():
    _, recipe = read(2, 1)
    request = recipe.request
    own = request.conventions
    came = (own.prompt_timing, own.lora_mode, own.uneven_chunks, own.control_rule)
    assert came == ("steps", "run", "padded", "a1111")
    assert (request.preset, own.sde_noise, request.mask.blur, own.ensd) == ("a1111", "brownian", 3.0, 31337)
    assert read(2, 2)[1].request.sigmas == (14.0, 3.0, 1.0, 0.0)


def test_version_3_has_parts():
    request = read(3)[1].request
    assert request.loras == (LoraUse(name="comic", weight=0.7, text_weight=0.7),)
    assert isinstance(request.hires, HiresPass)
    assert (request.hires.width, request.hires.num_steps, request.variation.seed) == (192, 3, 11)
    assert read(3, 1)[1].request.controls[0].parameters == (("low", 50.0),)
    assert read(3, 2)[1].request.source == Source(
        image=read(3, 2)[0]["image"], strength=0.75, resize="crop", outpaint=(0, 0, 64, 0)
    )
    assert (read(3, 2)[1].request.tiles, read(3, 2)[1].request.variation) == (
        Tiles(size=128, overlap=32),
        Variation(width=128, height=192),
    )
    masked = read(3, 1)[1].request.mask
    assert masked == ResolvedMask(image=read(3, 1)[0]["mask"], content="noise", area="masked", padding=32, blur=4.0)


@pytest.mark.parametrize("version", [1, 2])
def test_an_open_request_of_an_earlier_version_stays_open(version: int):
    values = {"schema": SCHEMA, "version": version, "prompt": "a cat", "num_steps": 4}
    assert TextToImageRequest.from_dict(values) == TextToImageRequest(prompt="a cat", num_steps=4)


@pytest.mark.parametrize(
    ("version", "field", "words"),
    [
        (1, "sigmas", "unknown field 'sigmas' in version 1"),
        (2, "loras", "unknown field 'loras' in version 2"),
        (2, "sampelr", "did you mean 'sampler'"),
        (3, "source", "unknown field 'source' in version 3"),
        (VERSION + 1, "prompt", f"version 1 to {VERSION}. If a newer gesso"),
        (0, "prompt", "version 0"),
        (True, "prompt", "version True"),
        ("3", "prompt", "version '3'"),
        (2.0, "prompt", "version 2.0"),
    ],
)
def test_a_version_has_its_own_fields_and_no_others(version: Any, field: str, words: str):
    with pytest.raises(RequestError, match=words):
        migrated({"schema": SCHEMA, "version": version, "prompt": "a cat", field: None}, resolved=False)


def test_what_versions_knew_is_a_part_of_what_is_known_now():
    known = [set(FIELDS_OF_VERSION[version]) for version in (1, 2, 3)]
    assert known[0] < known[1] < known[2]
    assert [len(names) for names in known] == [15, 43, 61]
    assert {MOVED.get(name, "mask.image" if name == "mask" else name) for name in known[2]} <= ROWS_NOW.keys()


def test_an_open_request_of_version_3_finds_its_groups():
    values = {"prompt": "a cat", "strength": 0.5, "mask": "0" * 64, "tile": 64, "levels": "round"}
    values |= {"hires": {"scale": 2}}
    found = TextToImageRequest.from_dict({"schema": SCHEMA, "version": 3, **values})
    expected = TextToImageRequest(
        prompt="a cat",
        source=Source(strength=0.5),
        mask=Mask(image="0" * 64),
        tiles=Tiles(size=64),
        conventions=Conventions(levels="round"),
        hires=HiresPass(scale=2),
    )
    assert found == expected


def test_migrating_does_not_depend_on_what_presets_are_now():
    """An old recipe keeps its values although a preset may change: they are written out in the migration."""
    source = inspect.getsource(gesso.request.migrations)
    assert "presets" not in source.partition("def migrated")[2]
    values = migrated({**read(1)[0]}, resolved=True)
    assert values["conventions"]["levels"] == "round"
