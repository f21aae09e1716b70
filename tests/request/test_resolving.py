"""What a request leaves open is filled in, and what a model does not take is refused: each rule at its border."""

from typing import Any

import pytest

from asking import ask
from gesso.request.checks import RequestError
from gesso.request.presets import PRESETS
from gesso.request.request import ResolvedRequest, flat
from gesso.request.resolving import Defaults, resolve

GIVEN, MASKED = {"image": "0" * 64}, {"image": "0" * 64, "mask": "1" * 64}


def defaults(**values: Any) -> Defaults:
    given: dict[str, Any] = {
        "width": 512,
        "height": 768,
        "num_steps": 20,
        "guidance_scale": 7.0,
        "sampler": "euler",
        "schedule": "normal",
        "multiple": 8,
        "max_clip_skip": 12,
        "samplers": ("euler", "ddim"),
        "schedules": ("normal", "karras"),
        "noises": ("philox", "cpu"),
        "etas": {"ddim": 0.25},
    }
    return Defaults(**given | values)


def resolved(asked: dict[str, Any], **model: Any) -> ResolvedRequest:
    return resolve(ask(**{"prompt": "a cat", "seed": 1} | asked), defaults(**model), draw_seed=lambda: 77)


def filled(asked: dict[str, Any], **model: Any) -> dict[str, Any]:
    """The values that differ from those of a plain request, but for what was asked."""
    plain, found = flat(resolved({}, **model)), flat(resolved(asked, **model))
    return {path: value for path, value in found.items() if value != plain[path]}


def refused(words: str, field: str, asked: dict[str, Any], **model: Any) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        resolved(asked, **model)
    assert caught.value.field == field


def test_a_model_that_says_little():
    """What every model without words of its own has."""
    plain = defaults()
    assert (plain.guidance_rescale, plain.clip_skip, plain.preset, plain.presets) == (0.0, 1, "gesso", PRESETS["gesso"])
    assert (plain.image_guidance_scale, plain.noise_level, plain.max_noise_level) == (1.5, 20, 999)
    assert (plain.refiner_switch_at, plain.kind, plain.has_refiner) == (0.8, "none", False)
    assert (plain.of("num_steps"), plain.of("mask.blur")) == (20, PRESETS["gesso"]["mask.blur"])


def test_own_sigmas_are_the_steps_and_the_schedule():
    own = {"sigmas": (14.0, 3.0, 0.0)}
    found = filled(own)
    assert (found["num_steps"], found["schedule"]) == (2, "own")
    assert resolved(own | {"timestep_spacing": "leading"}).conventions.timestep_spacing == "schedule"
    assert resolved(own | {"num_steps": 2, "schedule": "own"}).num_steps == 2
    refused("num_steps is 3, expected 2 for 3 sigmas", "sigmas", own | {"num_steps": 3})
    refused("`sigmas` and `schedule` exclude each other", "sigmas", own | {"schedule": "karras"})
    refused("schedule", "schedule", {"schedule": "own"})  # known with sigmas alone


def test_the_last_layers_that_a_model_can_skip():
    assert resolved({"clip_skip": 12}).clip_skip == 12
    refused("clip_skip 13: expected at most 12 for this model", "clip_skip", {"clip_skip": 13})


def test_eta():
    assert resolved({"sampler": "ddim"}).eta == 0.25
    assert resolved({"sampler": "ddim", "eta": 0.0}).eta == 0.0
    assert resolved({"eta": 0.0}).eta == 0.0  # which a sampler without one has
    refused("the sampler euler takes no eta", "eta", {"eta": 0.1})


STRENGTH = PRESETS["gesso"]["source.strength"]


@pytest.mark.parametrize(
    ("asked", "kind", "strength"),
    [
        ({}, "none", None),
        (GIVEN, "none", STRENGTH),
        (GIVEN | {"strength": 0.0}, "none", 0.0),
        (GIVEN, "inpaint", STRENGTH),
        (MASKED, "inpaint", 1.0),
        (GIVEN | {"outpaint": (8, 0, 0, 0)}, "inpaint", 1.0),
        (MASKED, "none", STRENGTH),
        (GIVEN, "edit", None),
        (GIVEN, "upscale", None),
    ],
)
def test_the_strength_of_a_picture(asked: dict[str, Any], kind: str, strength: float | None):
    assert resolve(ask(prompt="", seed=1, **asked), defaults(kind=kind)).source.strength == strength


@pytest.mark.parametrize(("kind", "verb"), [("edit", "edits"), ("upscale", "upscales")])
def test_models_that_take_a_whole_picture(kind: str, verb: str):
    refused(f"this model {verb} a picture; give one with `image`", "source.image", {}, kind=kind)
    for asked, path, what in (
        ({"strength": 0.5}, "source.strength", "strength"),
        ({"mask": "1" * 64}, "mask.image", "mask"),
        ({"outpaint": (8, 0, 0, 0)}, "source.outpaint", "outpainting"),
    ):
        refused(f"this model {verb} the whole picture and takes no {what}", path, GIVEN | asked, kind=kind)
    refused("`hires` is not for models that edit or upscale", "hires", GIVEN | {"hires": {"scale": 2.0}}, kind=kind)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"strength": 0.5}, "source.strength"),
        ({"outpaint": (8, 0, 0, 0)}, "source.outpaint"),
        ({"resize_mode": "crop"}, "source.resize"),
        ({"mask": "1" * 64}, "mask.image"),
    ],
)
def test_what_needs_a_picture(asked: dict[str, Any], path: str):
    refused(f"{path} needs a picture to start from", path, asked)


def test_settings_of_models_that_edit_or_upscale():
    edit = resolve(ask(prompt="", seed=1, **GIVEN), defaults(kind="edit", image_guidance_scale=1.25))
    assert (edit.source.guidance_scale, edit.source.noise_level) == (1.25, None)
    larger = resolve(ask(prompt="", seed=1, **GIVEN), defaults(kind="upscale", noise_level=30, max_noise_level=350))
    assert (larger.source.guidance_scale, larger.source.noise_level) == (None, 30)
    edit = resolve(ask(prompt="", seed=1, **GIVEN, image_guidance=1.0), defaults(kind="edit"))
    assert edit.source.guidance_scale == 1.0
    assert resolve(ask(prompt="", **GIVEN, noise_level=350), defaults(kind="upscale", max_noise_level=350)).seed >= 0
    words = "source.noise_level is 351, expected at most 350 for this model"
    refused(words, "source.noise_level", GIVEN | {"noise_level": 351}, kind="upscale", max_noise_level=350)
    refused("only for models that edit by instruction", "source.guidance_scale", GIVEN | {"image_guidance": 1.5})
    refused("only for models that upscale", "source.noise_level", GIVEN | {"noise_level": 20})


def test_a_refiner():
    assert resolved({}, has_refiner=True).refiner_switch_at == 0.8
    assert resolved({}, has_refiner=True, refiner_switch_at=0.6).refiner_switch_at == 0.6
    assert resolved({"refiner_switch_at": 0.0}, has_refiner=True).refiner_switch_at == 0.0
    assert resolved({}).refiner_switch_at is None
    refused("refiner_switch_at needs a refiner", "refiner_switch_at", {"refiner_switch_at": 0.5})


def test_settings_of_masks():
    blur = PRESETS["gesso"]["mask.blur"]
    assert blur != 8.0
    assert (resolved(MASKED).mask.content, resolved(GIVEN).mask.content) == ("original", None)
    assert resolved(MASKED | {"mask_content": "noise"}).mask.content == "noise"
    part = resolved(MASKED | {"mask_area": "masked"})
    assert (part.mask.padding, part.mask.blur) == (32, blur)
    assert resolved(MASKED | {"mask_area": "masked", "mask_padding": 0}).mask.padding == 0
    assert resolved(MASKED | {"mask_area": "whole"}).mask.padding is None
    border = GIVEN | {"outpaint": (0, 0, 0, 8)}
    assert (resolved(border).mask.content, resolved(border).mask.blur) == ("original", 8.0)
    assert resolved(border | {"mask_blur": 1.0}).mask.blur == 1.0  # what is asked for is taken
    assert resolved(border, presets=PRESETS["gesso"] | {"mask.blur": 12.0}).mask.blur == 12.0
    assert resolved(border | {"mask_content": "noise"}).mask.content == "noise"


@pytest.mark.parametrize(
    ("asked", "words", "path"),
    [
        (GIVEN | {"mask_content": "noise"}, "mask.content needs a mask", "mask.content"),
        (GIVEN | {"mask_area": "masked"}, "mask.area needs a mask", "mask.area"),
        (GIVEN | {"mask_area": "whole"}, "mask.area needs a mask", "mask.area"),
        (MASKED | {"mask_area": "masked", "outpaint": (8, 0, 0, 0)}, "draws only part of the picture", "mask.area"),
        (MASKED | {"mask_area": "masked", "resize_mode": "crop"}, "keeps the picture's size", "source.resize"),
        (MASKED | {"mask_padding": 8}, "mask.padding needs mask.area masked", "mask.padding"),
        (MASKED | {"mask_padding": 8, "mask_area": "whole"}, "mask.padding needs mask.area masked", "mask.padding"),
        (GIVEN | {"outpaint": (0, 0, 0, 0)}, "adds no pixels", "source.outpaint"),
        (MASKED | {"hires": {"scale": 2.0}}, "redraws the whole picture and takes no mask", "hires"),
        (GIVEN | {"outpaint": (8, 0, 0, 0), "hires": {"scale": 2.0}}, "takes no outpainting", "hires"),
    ],
)
def test_settings_of_masks_that_cannot_be(asked: dict[str, Any], words: str, path: str):
    refused(words, path, asked)


def test_a_model_that_upscales_takes_the_picture_as_it_is():
    words = "this model upscales the picture as it is; leave source.resize out"
    refused(words, "source.resize", GIVEN | {"resize_mode": "crop"}, kind="upscale")
    assert resolved(GIVEN | {"resize_mode": "crop"}, kind="edit").source.resize == "crop"
    refused("upscales the whole picture at once", "tiles.size", GIVEN | {"tile": 64}, kind="upscale")


def test_variations():
    assert resolved({"variation_strength": 0.1}).variation.seed == 77
    assert resolved({"variation_strength": 0.0}).variation.seed == 77
    assert resolved({"variation_strength": 0.1, "variation_seed": 0}).variation.seed == 0
    assert resolved({}).variation.seed is None
    assert resolved({"seed_width": 64, "seed_height": 72}).variation.height == 72
    refused("variation.seed needs variation.strength", "variation.seed", {"variation_seed": 3})
    for asked in ({"seed_width": 64}, {"seed_height": 64}):
        refused("give both variation.width and variation.height, or neither", "variation.width", asked)
    refused("variation.width", "variation.width", {"seed_width": 65, "seed_height": 64})
    refused("variation.height", "variation.height", {"seed_width": 64, "seed_height": 65})


@pytest.mark.parametrize(
    ("size", "overlap", "expected"),
    [(64, None, 16), (72, None, 16), (96, None, 24), (64, 0, 0), (64, 32, 32), (512, 8, 8)],
)
def test_the_overlap_of_tiles(size: int, overlap: int | None, expected: int):
    """A quarter of the tile, cut off to what the model can draw."""
    asked = {"tile": size} | ({} if overlap is None else {"tile_overlap": overlap})
    assert resolved(asked).tiles.overlap == expected


@pytest.mark.parametrize(
    ("asked", "words", "path"),
    [
        ({"tile_overlap": 8}, "tiles.overlap needs tiles.size", "tiles.overlap"),
        ({"tile": 64, "tiling": "x"}, "tiles.size and `tiling` exclude each other", "tiles.size"),
        ({"tile": 68}, "tiles.size", "tiles.size"),
        ({"tile": 56}, "tiles.size 56: expected at least 64 for this model", "tiles.size"),
        ({"tile": 64, "tile_overlap": 12}, "tiles.overlap", "tiles.overlap"),
        ({"tile": 64, "tile_overlap": 40}, "tiles.overlap 40: expected at most half of the tile, 32", "tiles.overlap"),
    ],
)
def test_tiles_that_cannot_be(asked: dict[str, Any], words: str, path: str):
    refused(words, path, asked)
