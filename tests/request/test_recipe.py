"""The recipe and A1111's text beside it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.errors import GessoError
from gesso.pictures.infotext import infotext
from gesso.request.checks import RequestError
from gesso.request.recipe import ExtraFile, Recipe, WeightFile, changes, check_plugins
from gesso.request.request import ResolvedRequest, flat, nested
from made_recipes import make_recipe

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text(encoding="utf-8"))["recipes"]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
# The web UI's own way to read its last line (interoperability grammar, retold).
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and pairs, as A1111 takes them from a picture."""
    *lines, last = text.strip().split("\n")
    assert len(PAIR.findall(last)) >= 3
    prompt: list[str] = []
    negative: list[str] = []
    current = prompt
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            current, line = negative, line[16:].strip()
        current.append(line)
    pairs = {key: json.loads(value) if value.startswith('"') else value for key, value in PAIR.findall(last)}
    return "\n".join(prompt), "\n".join(negative), pairs


def write(recipe: Recipe) -> str:
    return infotext(recipe)


def test_infotext_has_what_other_tools_look_for():
    recipe = make_recipe(negative_prompt="blurry", clip_skip=2)
    assert write(recipe) == (
        "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 5, "
        "Size: 64x64, Model hash: 0123456789, Model: gesso-mini, Clip skip: 2, Noise: philox, Picture index: 0, "
        "Version: gesso 0.1.0"
    )


def test_infotext_names_the_seed_that_gives_this_picture_in_other_tools():
    pairs = read_infotext(write(make_recipe(noise="cpu", first_index=3)))[2]
    assert (pairs["Seed"], pairs["RNG"]) == ("8", "CPU")
    pairs = read_infotext(write(make_recipe(first_index=3)))[2]
    assert (pairs["Seed"], pairs["Picture index"]) == ("5", "3")
    assert "RNG" not in pairs


def test_infotext_says_what_a_picture_came_from_in_the_names_of_other_tools():
    recipe = replace(
        make_recipe(
            image="ab" * 32,
            mask="cd" * 32,
            mask_content="original",
            strength=0.6,
            mask_blur=4.0,
            ensd=31337,
            noise="nv",
            preset="a1111",
            discard_penultimate_sigma=True,
            initial_noise="variance",
            refiner_switch_at=0.8,
        ),
        refiner="finish.safetensors",
        refiner_files=(WeightFile(name="finish.safetensors", sha256="ef" * 32),),
    )
    assert write(recipe).splitlines()[-1] == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 5, Size: 64x64, "
        "Model hash: 0123456789, Model: gesso-mini, Denoising strength: 0.6, ENSD: 31337, Init image hash: ababababab, "
        "RNG: NV, Mask blur: 4, Refiner: finish [efefefefef], Refiner switch at: 0.8, Discard penultimate sigma: True, "
        "SGM noise multiplier: True, Preset: a1111, Version: gesso 0.1.0"
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
    edit = make_recipe(image="ab" * 32, image_guidance_scale=1.5, sigmas=(3.0, 1.0, 0.0), schedule="own", num_steps=2)
    pairs = read_infotext(write(edit))[2]
    assert (pairs["Image CFG scale"], pairs["Sigmas"]) == ("1.5", "3 1 0")
    assert list(pairs).index("Image CFG scale") == list(pairs).index("CFG scale") + 1
    assert Recipe.from_json(edit.to_json()) == edit


@given(prompt=TEXT, negative=TEXT)
def test_no_prompt_reaches_the_other_fields_of_the_infotext(prompt: str, negative: str):
    for one in (prompt, f"{prompt}\nNegative prompt: x\nSteps: 1, Sampler: DDIM, Seed: 9, Size: 8x8"):
        found, found_negative, pairs = read_infotext(write(make_recipe(prompt=one, negative_prompt=negative)))
        assert pairs["Seed"] == "5"
        assert pairs["Sampler"] == "DPM++ 2M"
        if not negative:
            assert found_negative == ""
        if "Negative prompt:" not in one and one == one.strip() and "\r" not in one and one.splitlines() == [one]:
            assert found == one


def test_a_model_name_with_commas_is_quoted():
    recipe = replace(make_recipe(), model='a, "b": c.safetensors')
    assert read_infotext(write(recipe))[2]["Model"] == 'a, "b": c'


@given(prompt=TEXT)
def test_json_gives_an_equal_recipe(prompt: str):
    recipe = make_recipe(prompt=prompt, first_index=7)
    assert Recipe.from_json(recipe.to_json()) == recipe


def break_it(path: str, value: Any) -> str:
    found = json.loads(make_recipe().to_json())
    *parents, last = path.split(".")
    place = found
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return json.dumps(found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "other"),
        ("version", 5),
        ("version", True),
        ("extra", 1),
        ("request", []),
        ("request.num_images", 2),
        ("request.seed", None),
        ("request.width", 10**9),
        ("request.extra", 1),
        ("files", {}),
        ("files", [{"name": "x", "sha256": "0" * 64}] * 65),
        ("files.0.sha256", "../../etc/passwd"),
        ("files.0.name", 1),
        ("files.0.path", "x"),
        ("environment.threads", 10**9),
        ("environment.threads", "2"),
        ("environment.torch", KeyError),
        ("environment", None),
        ("notices", ["x" * 5000]),
        ("model", None),
        ("pixels_sha256", "zz"),
    ],
)
def test_a_recipe_is_read_strictly(path: str, value: Any):
    with pytest.raises(RequestError):
        Recipe.from_json(break_it(path, value))


def test_changes_name_what_is_not_the_same():
    before = make_recipe()
    assert changes(before, before) == []
    after = replace(
        before,
        files=(WeightFile(name="gesso-mini.safetensors", sha256="f" * 64),),
        environment=replace(before.environment, torch="2.14.0", threads=4),
    )
    assert changes(before, after) == [
        "weights gesso-mini.safetensors: 0123456789 -> ffffffffff",
        "torch: 2.13.0 -> 2.14.0",
        "threads: 2 -> 4",
    ]


def test_the_same_weights_under_another_name_are_no_change():
    before = make_recipe()
    renamed = replace(before, files=(replace(before.files[0], name="other.safetensors"),))
    assert changes(before, renamed) == []


def test_changes_name_a_file_that_only_one_of_the_two_had():
    """An embedding that the other library lacks is text there; a LoRA may have come in."""
    word = ExtraFile(kind="embedding", name="cosy", sha256="ab" * 32)
    lora, edited = (ExtraFile(kind="lora", name="comic", sha256=digits * 32) for digits in ("cd", "ef"))
    plain = make_recipe()
    assert changes(replace(plain, extras=(word,)), plain) == ["embedding cosy: ababababab -> none"]
    assert changes(plain, replace(plain, extras=(lora,))) == ["lora comic: none -> cdcdcdcdcd"]
    assert changes(replace(plain, extras=(word, lora)), replace(plain, extras=(edited, word))) == [
        "lora comic: cdcdcdcdcd -> efefefefef"
    ]


@pytest.mark.parametrize(
    "stored", [one["recipe"] for one in GOLDEN], ids=[f"version {one['version']}" for one in GOLDEN]
)
def test_what_an_earlier_version_had_no_field_for_is_no_change(stored: str):
    """A replay has every field of the present version."""
    before = Recipe.from_json(stored)
    after = replace(before, request=ResolvedRequest(**nested(flat(before.request))))
    assert changes(before, after) == []
    values = flat(before.request) | {"mask.blur": 9.0, "tiles.size": 64}
    assert changes(before, replace(before, request=ResolvedRequest(**nested(values)))) == [
        f"mask.blur: {before.request.mask.blur} -> 9.0",
        f"tiles.size: {before.request.tiles.size} -> 64",
    ]


def test_changes_name_the_model_itself():
    before = replace(make_recipe(), prediction="eps")
    assert changes(before, replace(before, family="sd15")) == ["family: 'gesso-mini' -> sd15"]
    assert changes(before, replace(before, prediction="v")) == ["prediction: 'eps' -> v"]
    assert changes(replace(before, prediction=""), before) == []  # recipes of version 1 did not say
    assert changes(before, before) == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("ink",), "drawn with plug-ins of 'ink', which is not installed"),
        (("ink", "wash"), "drawn with plug-ins of 'ink', 'wash', which are not installed"),
    ],
)
def test_plug_ins_that_are_not_here(missing: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch):
    recipe = make_recipe()
    recipe = replace(recipe, environment=replace(recipe.environment, plugins=("ink", "wash")))
    monkeypatch.setattr("gesso.request.recipe.missing_distributions", lambda plugins: missing)
    with pytest.raises(GessoError, match=f"a.png: {words}") as error:
        check_plugins(recipe, "a.png")
    assert error.value.code == "plugin_missing"


def test_plug_ins_that_are_switched_off(monkeypatch: pytest.MonkeyPatch):
    recipe = make_recipe()
    check_plugins(recipe)
    monkeypatch.setattr("gesso.request.recipe.missing_distributions", lambda plugins: ())
    monkeypatch.setattr("gesso.request.recipe.plugins_are_off", lambda: True)
    check_plugins(recipe)  # it needs none
    recipe = replace(recipe, environment=replace(recipe.environment, plugins=("ink",)))
    with pytest.raises(GessoError, match=r"drawn with plug-ins of 'ink', and .* switches plug-ins off"):
        check_plugins(recipe)
    monkeypatch.setattr("gesso.request.recipe.plugins_are_off", lambda: False)
    check_plugins(recipe)
