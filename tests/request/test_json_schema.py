"""The JSON Schema beside the checks: both take the same, and refuse the same as far as a schema can tell."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from asking import ask
from gesso.request.checks import MAX_SEED, RequestError
from gesso.request.json_schema import request_schema
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.recipe import Recipe
from gesso.request.request import FIELDS, TextToImageRequest

GOLDEN = Path(__file__).parents[1] / "golden" / "recipes.json"
SCHEMA = request_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FULL = ask(
    prompt="a cat",
    seed=MAX_SEED,
    sigmas=(3.0, 1.0, 0.0),
    image="0" * 64,
    outpaint=(0, 8, 16, 0),
    preset="a1111",
    levels="round",
    hires=HiresPass(scale=2.0, prompt="a cat, close"),
    loras=(LoraUse(name="ink", weight=0.5, points=((0.0, 1.0), (0.5, 0.0))), LoraUse(name="old", text_weight=0.0)),
    controls=(ControlUse(model="edges", image="0" * 64, preprocessor="canny", parameters=(("low", 50.0),)),),
)


def plain(request: TextToImageRequest) -> dict[str, Any]:
    return dict(json.loads(request.to_json()))


def test_it_is_a_schema_of_every_field():
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) == {"schema", "version", *FIELDS}
    assert SCHEMA["$defs"].keys() == {
        *("Source", "Mask", "Variation", "HiresPass", "Tiles", "LoraUse", "ControlUse", "Conventions")
    }
    json.dumps(SCHEMA)


@pytest.mark.parametrize("request_", [TextToImageRequest(prompt=""), FULL], ids=["least", "full"])
def test_it_takes_what_gesso_writes(request_: TextToImageRequest):
    VALIDATOR.validate(plain(request_))


@pytest.mark.parametrize("recipe", [row["recipe"] for row in json.loads(GOLDEN.read_text())["recipes"]])
def test_it_takes_resolved_requests(recipe: str):
    VALIDATOR.validate(plain(Recipe.from_json(recipe).request))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": 4097},
        {"width": "64"},
        {"num_steps": True},
        {"num_steps": 1001},
        {"num_images": None},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"guidance_scale": 100.5},
        {"prompt": None},
        {"prompt": "x" * 32_001},
        {"sampler": ""},
        {"sampler": "x" * 65},
        {"preset": "forge"},
        {"conventions": {"levels": "up"}},
        {"conventions": {"paste_back": 1}},
        {"source": {"image": "0" * 63}},
        {"source": {"image": "0" * 64 + "\n"}},
        {"source": {"outpaint": [1, 2, 3]}},
        {"source": {"outpaint": [1, 2, 3, -1]}},
        {"sigmas": [1]},
        {"hires": {"scale": 0.5}},
        {"hires": {"scal": 2}},
        {"hires": []},
        {"loras": [{}]},
        {"loras": [{"name": "ink", "weight": 101}]},
        {"loras": [{"name": str(i)} for i in range(33)]},
        {"controls": [{"model": "edges", "image": "0" * 64, "mode": "both"}]},
        {"controls": [{"model": "edges", "image": "0" * 64, "preprocessor": "canny", "parameters": [["low"]]}]},
        {"sampelr": "euler"},
        {"strength": 0.5},
        {"source": {"strenth": 0.5}},
        {"source": None},
        {"mask": "0" * 64},
        {"version": 99},
        {"schema": "other"},
    ],
    ids=lambda change: str(change)[:60],
)
def test_schema_and_checks_refuse_the_same(change: dict[str, Any]):
    wrong = plain(TextToImageRequest(prompt="a cat")) | change
    assert not VALIDATOR.is_valid(wrong)
    with pytest.raises(RequestError):
        TextToImageRequest.from_dict(wrong)


def test_it_says_what_a_form_needs():
    strength, sampler = SCHEMA["$defs"]["Source"]["properties"]["strength"], SCHEMA["properties"]["sampler"]
    assert strength["title"] == "Strength"
    assert strength["description"].startswith("Denoising strength: ")
    assert strength["x-gesso"]["presets"] == {"gesso": 0.75, "a1111": 0.75, "diffusers": 0.8}
    assert strength["x-gesso"]["jobs"] == ["image", "inpaint", "outpaint"]
    assert "dpmpp_2m" in sampler["examples"]
    assert SCHEMA["properties"]["num_images"]["default"] == 1
    assert SCHEMA["properties"]["source"]["default"]["strength"] is None
    levels = SCHEMA["$defs"]["Conventions"]["properties"]["levels"]
    assert set(levels["x-gesso"]["means"]) == {"round", "truncate"}
