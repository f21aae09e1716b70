"""The request: bounds, defaults, strict JSON."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asking import ask
from gesso.errors import GessoError
from gesso.request.checks import MAX_PROMPT_CHARS, MAX_SEED, RequestError, parse_json_object
from gesso.request.conventions import Conventions
from gesso.request.groups import Mask, Source, Tiles, Variation
from gesso.request.migrations import MOVED
from gesso.request.names import with_canonical_names
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.request import (
    ROWS,
    ResolvedRequest,
    TextToImageRequest,
    flat,
)
from gesso.request.resolving import Defaults, resolve
from gesso.request.typed import convert

DEFAULTS = Defaults(
    width=64,
    height=64,
    num_steps=20,
    guidance_scale=4.0,
    sampler="dpmpp_2m",
    schedule="karras",
    multiple=16,
    max_clip_skip=2,
    samplers=("euler", "dpmpp_2m", "euler_ancestral"),
    schedules=("uniform", "karras"),
    noises=("philox", "cpu"),
    etas={"euler_ancestral": 1.0},
)


def resolved(**values: Any) -> ResolvedRequest:
    return resolve(ask(**({"prompt": "a cat", "seed": 1} | values)), DEFAULTS)


def test_resolving_fills_every_field_and_keeps_what_was_asked_for():
    request = resolved(width=128, num_steps=7)
    assert {path for path, value in flat(request).items() if value is None} == {
        path for path in flat(request) if ROWS[path].field.optional
    }
    assert (request.width, request.height, request.num_steps, request.guidance_scale) == (128, 64, 7, 4.0)
    assert resolve(request, DEFAULTS) == request


def test_a_seed_is_drawn_where_none_is_given_and_zero_is_a_seed():
    draw = TextToImageRequest(prompt="")
    assert resolve(draw, DEFAULTS, draw_seed=lambda: 5).seed == 5
    assert 0 <= resolve(draw, DEFAULTS).seed < 2**32
    assert resolved(seed=0).seed == 0


def test_eta_is_the_samplers_own_unless_asked_for():
    assert resolved(sampler="euler_ancestral").eta == 1.0
    assert resolved(sampler="euler_ancestral", eta=0.5).eta == 0.5
    assert resolved(sampler="euler").eta == 0.0
    with pytest.raises(RequestError, match="takes no eta"):
        resolved(sampler="euler", eta=0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("prompt", "a\0b"),
        ("prompt", "\ud800"),
        ("prompt", None),
        ("negative_prompt", 3),
        ("width", 0),
        ("width", 4097),
        ("width", 64.0),
        ("height", True),
        ("num_steps", 0),
        ("num_steps", 1001),
        ("guidance_scale", float("nan")),
        ("guidance_scale", -1),
        ("guidance_scale", "7"),
        ("guidance_rescale", 1.5),
        ("eta", 2),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("num_images", 0),
        ("num_images", 1001),
        ("num_images", None),
        ("first_index", -1),
        ("clip_skip", 0),
        ("sampler", ""),
        ("noise", 1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(field: str, value: Any):
    with pytest.raises(RequestError) as caught:
        TextToImageRequest(**({"prompt": "a cat"} | {field: value}))
    assert caught.value.field == field
    assert isinstance(caught.value, GessoError)
    assert isinstance(caught.value, ValueError)


def test_sizes_are_bounded_together_before_anything_is_allocated():
    with pytest.raises(RequestError, match="pixels in all"):
        TextToImageRequest(prompt="", width=4096, height=2048)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 65}, "Try 64 or 80"),
        ({"height": 8}, "Try 16"),
        ({"sampler": "eulr"}, "did you mean 'euler'.*dpmpp_2m, euler"),
        ({"schedule": "x"}, "Known: karras, uniform"),
        ({"noise": "gpu"}, "Known: cpu, philox"),
        ({"clip_skip": 3}, "at most 2 for this model"),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_what_it_can(values: dict[str, Any], words: str):
    with pytest.raises(RequestError, match=words):
        resolved(**values)


@given(
    st.builds(
        TextToImageRequest,
        prompt=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50),
        negative_prompt=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
        seed=st.none() | st.integers(0, MAX_SEED),
        guidance_scale=st.none() | st.floats(0, 100),
        num_images=st.integers(1, 1000),
        width=st.none() | st.integers(8, 2048),
    )
)
def test_json_gives_an_equal_request(request_: TextToImageRequest):
    assert TextToImageRequest.from_json(request_.to_json()) == request_


def test_a_resolved_request_survives_json_and_may_leave_nothing_open():
    request = resolved()
    assert ResolvedRequest.from_json(request.to_json()) == request
    for missing in (json.dumps(request.to_dict() | {"seed": None}), request.to_json().replace('"seed":1,', "")):
        with pytest.raises(RequestError, match="seed is not set"):
            ResolvedRequest.from_json(missing)
    with pytest.raises(RequestError, match="'prompt' is missing"):
        TextToImageRequest.from_json(request.to_json().replace('"prompt":"a cat",', ""))


@pytest.mark.parametrize(
    "change",
    [
        {"sampelr": "euler"},
        {"version": 5},
        {"version": True},
        {"schema": "other"},
        {"width": "64"},
        {"prompt": None},
    ],
)
def test_json_is_read_strictly(change: dict[str, Any]):
    with pytest.raises(RequestError):
        TextToImageRequest.from_json(json.dumps(resolved().to_dict() | change))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, '"' + "x" * 2_000_000 + '"']
)
def test_json_that_is_no_plain_object_is_refused(text: str):
    with pytest.raises(RequestError):
        parse_json_object(text, "request")


def test_the_request_of_one_picture_keeps_its_index():
    run = resolved(num_images=3, first_index=10)
    assert run.picture(2) == replace(run, num_images=1, first_index=12)
    with pytest.raises(ValueError, match="offset 3"):
        run.picture(3)


PARTS = TextToImageRequest(
    prompt="a cat",
    source=Source(outpaint=(0, 8, 16, 0)),
    hires=HiresPass(scale=2.0, prompt="a cat, close"),
    loras=(LoraUse(name="ink", weight=0.5, points=((0.0, 1.0), (0.5, 0.0))), LoraUse(name="old", text_weight=0.0)),
    controls=(
        ControlUse(model="edges", image="0" * 64, end=0.7, mode="prompt"),
        ControlUse(model="edges", image="0" * 64, preprocessor="canny", parameters=(("low", 50.0), ("high", 90.0))),
    ),
)


PARTLY = {"model": "edges", "image": "0" * 64, "preprocessor": "canny"}


def test_adapters_and_a_second_pass_survive_json():
    assert TextToImageRequest.from_json(PARTS.to_json()) == PARTS


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("loras", {}, "expected a list"),
        ("loras[0].name", [{}], "'name' is missing"),
        ("loras[0].wieght", [{"name": "ink", "wieght": 1}], "did you mean 'weight'"),
        ("loras[0].name", [{"name": "a\nb"}], "expected a file name"),
        ("loras[1].weight", [{"name": "ink"}, {"name": "ink", "weight": float("inf")}], "expected a number"),
        ("loras[0].weight", [{"name": "ink", "weight": None}], "weight is None, expected a number"),
        ("loras[0].weight", [{"name": "ink", "weight": 101}], "expected -100 to 100"),
        ("loras[0].points", [{"name": "ink", "points": [[0.5, 1], [0.5, 0]]}], "rising order"),
        ("loras[0].points[0]", [{"name": "ink", "points": [[[0.5, 1]]]}], "expected a pair"),
        ("loras", [{"name": str(i)} for i in range(33)], "at most 32"),
        ("controls[0].image", [{"model": "edges", "image": "0"}], "64 digits"),
        ("controls[0].image", [{"model": "edges", "image": "0" * 64 + "\n"}], "64 digits"),
        (
            "controls[0].start",
            [{"model": "edges", "image": "0" * 64, "start": 0.9, "end": 0.1}],
            "expected at most the end",
        ),
        ("controls[0].mode", [{"model": "edges", "image": "0" * 64, "mode": "both"}], "balanced"),
        (
            "controls[0].parameters",
            [PARTLY | {"parameters": [["low", 1]], "preprocessor": None}],
            "need a preprocessor",
        ),
        ("controls[0].parameters", [PARTLY | {"parameters": [["low", 1], ["low", 2]]}], "given twice"),
        ("controls[0].parameters[0][1]", [PARTLY | {"parameters": [["low", float("nan")]]}], "expected a number"),
        ("controls[0].parameters[0][0]", [PARTLY | {"parameters": [[7, 1]]}], "expected text"),
        ("controls[0].parameters[0]", [PARTLY | {"parameters": [["low"]]}], "expected a pair"),
        ("controls[0].parameters", [PARTLY | {"parameters": {"low": 1}}], "expected a list"),
        ("controls[0].parameters", [PARTLY | {"parameters": [[str(i), 1] for i in range(17)]}], "at most 16"),
        ("loras[0].points[0]", [{"name": "ink", "points": [[0.5]]}], "expected a pair"),
        ("loras[0].points", [{"name": "ink", "points": 3}], "expected a list"),
        ("hires", [], r"expected HiresPass\(\.\.\.\), or an object in JSON"),
        ("hires.scale", {"scale": 0.5}, "1 to 16"),
        ("hires.scal", {"scal": 2}, "did you mean 'scale'"),
        ("source.outpaint", {"outpaint": [1, 2, 3]}, "left, top, right and bottom"),
        ("source.outpaint[3]", {"outpaint": [1, 2, 3, -1]}, "0 to"),
        ("source.strength", {"strength": 2}, "0 to 1"),
        ("source.strenght", {"strenght": 0.5}, "did you mean 'strength'"),
        ("mask", "0" * 64, "expected Mask"),
        ("conventions", None, r"expected Conventions\(\.\.\.\), or an object in JSON"),
        ("conventions.levels", {"levels": "rounded"}, "did you mean 'round'"),
    ],
)
def test_a_part_that_cannot_be_is_refused_by_the_path_of_its_value(path: str, value: Any, words: str):
    field = re.split(r"[.\[]", path)[0]
    with pytest.raises(RequestError, match=words) as caught:
        TextToImageRequest.from_dict(TextToImageRequest(prompt="a cat").to_dict() | {field: value})
    assert caught.value.field == path


def test_groups_are_values_of_their_own():
    request = TextToImageRequest(
        prompt="a cat",
        source=Source(strength=0.5),
        mask=Mask(content="fill", blur=4),
        variation=Variation(strength=0.25),
        tiles=Tiles(size=64),
        conventions=Conventions(levels="truncate"),
    )
    assert request == ask(
        prompt="a cat",
        strength=0.5,
        mask_content="fill",
        mask_blur=4.0,
        variation_strength=0.25,
        tile=64,
        levels="truncate",
    )
    assert TextToImageRequest.from_json(request.to_json()) == request
    assert TextToImageRequest(prompt="").source == Source()
    assert replace(request, source=replace(request.source, strength=1)).source.strength == 1.0


@pytest.mark.parametrize(("flat_name", "path"), [*MOVED.items()])
def test_a_field_that_stood_flat_is_an_error_that_names_its_place(flat_name: str, path: str):
    group, _, key = path.partition(".")
    words = re.escape(f"{flat_name} is now {path}: {group}={group.capitalize()}({key}=...)")
    with pytest.raises(RequestError, match=words):
        TextToImageRequest(**{"prompt": "a cat", flat_name: None})
    with pytest.raises(RequestError, match=words):
        replace(TextToImageRequest(prompt="a cat"), **{flat_name: None})
    with pytest.raises(RequestError, match=words) as caught:
        TextToImageRequest.from_dict(TextToImageRequest(prompt="a cat").to_dict() | {flat_name: None})
    assert caught.value.field == flat_name


def test_a_resolved_request_may_take_the_place_of_an_open_one_and_the_other_way_round():
    request = resolved(levels="truncate")
    open_again = TextToImageRequest(prompt="x", mask=request.mask, conventions=request.conventions)
    assert type(open_again.conventions) is Conventions
    assert open_again.conventions.levels == "truncate"
    whole = {path: value for path, value in flat(request).items() if path.startswith("conventions.")}
    given = Conventions(**{path.partition(".")[2]: value for path, value in whole.items()})
    assert replace(request, conventions=given) == request
    with pytest.raises(RequestError, match=r"conventions\.initial_noise is None, expected one of"):
        replace(request, conventions=Conventions())


@pytest.mark.parametrize(
    ("values", "field", "data"),
    [
        ({"width": 4}, "width", {"value": 4, "low": 8, "high": 4096}),
        ({"guidance_scale": 1000}, "guidance_scale", {"value": 1000.0, "low": 0.0, "high": 100.0}),
        ({"seed": -1}, "seed", {"value": -1, "low": 0, "high": MAX_SEED}),
        ({"seed": MAX_SEED + 1}, "seed", {"value": MAX_SEED + 1, "low": 0, "high": MAX_SEED}),
        ({"seed": 10**5000}, "seed", {"value": "a number of thousands of digits", "low": 0, "high": MAX_SEED}),
        ({"num_steps": "many"}, "num_steps", {"value": "many"}),
        ({"eta": float("nan")}, "eta", {"value": "nan"}),
        ({"prompt": "a" * 40_000}, "prompt", {"length": 40_000, "low": 0, "high": 32_000}),
        ({"sigmas": [1.0]}, "sigmas", {"length": 1, "low": 2, "high": 1001}),
        (
            {"preset": "a1112"},
            "preset",
            {"value": "a1112", "known": ["a1111", "diffusers", "gesso"], "nearest": "a1111"},
        ),
        ({"preset": 1}, "preset", {"value": 1, "known": ["a1111", "diffusers", "gesso"], "nearest": None}),
        ({"loras": [{"name": "ink", "weight": 1e9}]}, "loras[0].weight", {"value": 1e9, "low": -100.0, "high": 100.0}),
        ({"first_index": -1}, "first_index", {"value": -1, "low": 0, "high": 2**31 - 1}),
        ({"source": "car.png"}, "source", {"value": "car.png"}),
        ({"hires": {"scale": 0.5}}, "hires.scale", {"value": 0.5, "low": 1.0, "high": 16.0}),
    ],
)
def test_an_error_has_the_values_that_can_be_for_a_form(values: dict[str, Any], field: str, data: dict[str, Any]):
    with pytest.raises(RequestError) as caught:
        TextToImageRequest(**{"prompt": "a cat", **values})
    assert (caught.value.field, caught.value.data) == (field, data)
    assert json.loads(json.dumps(caught.value.data, allow_nan=False)) == data


def test_an_unknown_field_and_sampler_name_what_is_near():
    with pytest.raises(RequestError) as caught:
        TextToImageRequest.from_dict(TextToImageRequest(prompt="a cat").to_dict() | {"num_step": 3})
    assert (caught.value.data["value"], caught.value.data["nearest"]) == ("num_step", "num_steps")
    with pytest.raises(RequestError) as caught:
        with_canonical_names(TextToImageRequest(prompt="a cat", sampler="eulr"))
    assert (caught.value.data["value"], caught.value.data["nearest"]) == ("eulr", "euler")
    assert "dpmpp_2m" in caught.value.data["known"]


def test_a_seed_is_left_out_for_a_random_one():
    for values in ({"seed": -1}, {"variation": {"seed": -1}}):
        with pytest.raises(RequestError, match="expected 0 to 18446744073709551615; leave it out for a random one"):
            TextToImageRequest(prompt="a cat", **values)
    assert "-1" not in ROWS["seed"].field.help


def test_parameters_of_a_preprocessor_may_be_a_mapping():
    use = ControlUse(model="edges", image="0" * 64, preprocessor="canny", parameters={"low": 50})
    assert use.parameters == (("low", 50.0),)
    assert use == ControlUse(model="edges", image="0" * 64, preprocessor="canny", parameters=(("low", 50),))
    with pytest.raises(RequestError, match="expected a number"):
        ControlUse(model="edges", image="0" * 64, preprocessor="canny", parameters={"low": "much"})


def test_a_path_in_place_of_a_group_is_told_its_class():
    with pytest.raises(RequestError, match=r"source is 'car.png', expected Source\(\.\.\.\), or an object in JSON"):
        TextToImageRequest(prompt="a cat", source="car.png")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sampler": "eulr"}, "unknown sampler 'eulr' (did you mean 'euler'?). Known: ddim"),
        ({"sampler": "DPM++ 2N"}, "unknown sampler 'DPM++ 2N' (did you mean 'DPM++ 2M'?)"),
        ({"sampler": "UniPCMultistepSheduler"}, "did you mean 'UniPCMultistepScheduler'?"),
        ({"sampler": "DPM++ 2M Karas"}, "unknown schedule 'Karas' (did you mean 'karras'?)"),
        ({"sampler": "karras"}, "sampler 'karras' is a schedule; use `schedule=karras`"),
        ({"schedule": "EulerDiscreteScheduler"}, "is a sampler; use `sampler=euler`"),
        ({"schedule": "normall"}, "unknown schedule 'normall' (did you mean 'normal'?)"),
        ({"hires": HiresPass(sampler="karras")}, "sampler 'karras' is a schedule"),
    ],
)
def test_names_that_are_nearly_those_of_a_sampler_or_schedule(values: dict[str, Any], words: str):
    with pytest.raises(RequestError) as caught:
        with_canonical_names(ask(prompt="", **values))
    assert words in caught.value.message
    assert {"value", "known", "nearest"} <= caught.value.data.keys()


def test_what_is_no_request_is_said():
    with pytest.raises(RequestError, match="request: `values` is 3, expected a dict of fields"):
        TextToImageRequest.from_dict(3)  # type: ignore[arg-type]
    values = TextToImageRequest(prompt="").to_dict()
    del values["prompt"]
    with pytest.raises(RequestError, match="request: field 'prompt' is missing"):
        TextToImageRequest.from_dict(values)
    for text, words in (
        (b"{}", "is not JSON, expected a text"),
        ('"' + "x" * 1_000_000, "1000001 characters of JSON, expected at most 1000000"),
        ("[1]", "a JSON list, expected an object"),
        ("{", "not valid JSON"),
    ):
        with pytest.raises(RequestError, match=words):
            TextToImageRequest.from_json(text)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="it is 3, expected an object") as caught:
        convert(HiresPass, 3, "it")
    assert caught.value.data == {"value": 3}


def test_own_sigmas_fall():
    for sigmas in ((1.0, 1.0, 0.0), (1.0, 2.0, 0.0)):
        with pytest.raises(RequestError, match="sigmas must decrease from the noisiest level to the last"):
            TextToImageRequest(prompt="", sigmas=sigmas)
    assert TextToImageRequest(prompt="", sigmas=(3.0, 1.0, 0.5)).sigmas == (3.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cfg_scale", "guidance_scale"), ("denoising_strength", r"source=Source\(strength=...\)"), ("nonsense", None)],
)
def test_names_of_other_tools_are_told_as_they_are_here(name: str, meant: str | None):
    with pytest.raises(RequestError) as caught:
        TextToImageRequest(prompt="", **{name: 3})
    assert name in str(caught.value)
    assert meant is None or re.search(meant, str(caught.value))


def test_a_picture_of_a_batch_is_its_own_request():
    request = resolved(num_images=3, first_index=5)
    assert [request.picture(offset).first_index for offset in range(3)] == [5, 6, 7]
    assert request.picture(2).num_images == 1
    for offset in (-1, 3):
        with pytest.raises(ValueError, match=f"offset {offset}, the request has 3 pictures"):
            request.picture(offset)
