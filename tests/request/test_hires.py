"""The second pass filled in: its size by scale, width or height, its defaults, and what is refused."""

from typing import Any

import pytest

from gesso.request.checks import RequestError
from gesso.request.hires import A1111_NAMES, LATENT_UPSCALERS, a1111_name, filled, upscaler_name
from gesso.request.parts import HiresPass

FIRST: dict[str, Any] = {
    "width": 512,
    "height": 768,
    "sampler": "euler",
    "schedule": "karras",
    "sigmas": None,
    "num_steps": 20,
    "guidance_scale": 7.0,
}


def fill(hires: HiresPass, multiple: int = 8, **first: Any) -> HiresPass:
    return filled(
        hires,
        FIRST | first,
        multiple=multiple,
        presets={"hires.upscaler": "latent_bilinear", "hires.strength": 0.7},
        schedule="normal",
        samplers=("euler", "heun"),
        schedules=("karras", "normal", "beta"),
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({}, (1024, 1536)),
        ({"scale": 1.5}, (768, 1152)),
        ({"scale": 1.62}, (824, 1240)),  # 829.4 and 1244.2, cut off
        ({"scale": 1.0}, (512, 768)),
        ({"width": 1024}, (1024, 1536)),
        ({"width": 600}, (600, 896)),  # 900
        ({"height": 1000}, (664, 1000)),  # 666.7
        ({"width": 1024, "height": 1024}, (1024, 1024)),
    ],
)
def test_its_size(size: dict[str, Any], expected: tuple[int, int]):
    """Sides that are computed are cut off to what the model can draw, as in A1111."""
    found = fill(HiresPass(**size))
    assert (found.width, found.height) == expected and found.scale is None


def test_what_is_not_said_comes_from_the_first_pass_and_the_preset():
    assert fill(HiresPass()) == HiresPass(
        width=1024,
        height=1536,
        upscaler="latent_bilinear",
        strength=0.7,
        num_steps=20,
        sampler="euler",
        schedule="karras",
        guidance_scale=7.0,
    )
    said = HiresPass(
        width=1024,
        height=1536,
        upscaler="Lanczos",
        strength=0.0,
        num_steps=5,
        sampler="heun",
        schedule="beta",
        guidance_scale=0.0,
        prompt="x",
        negative_prompt="y",
    )
    found = fill(said)
    assert (found.upscaler, found.strength, found.num_steps, found.guidance_scale) == ("lanczos", 0.0, 5, 0.0)
    assert (found.sampler, found.schedule, found.prompt, found.negative_prompt) == ("heun", "beta", "x", "y")
    assert fill(HiresPass(), sigmas=(3.0, 0.0), schedule=None).schedule == "normal"  # own sigmas are the first pass's


@pytest.mark.parametrize(
    ("hires", "multiple", "words"),
    [
        ({"scale": 2.0, "width": 1024, "height": 1536}, 8, "give either a scale or a size"),
        ({"width": 1028}, 8, "hires.width"),
        ({"height": 1028}, 8, "hires.height"),
        ({"width": 1024, "height": 1028}, 8, "hires.height"),
        ({"width": 1028, "height": 1024}, 8, "hires.width"),
        ({"width": 1032, "height": 1536}, 64, "hires.width"),
        ({"width": 504}, 8, "is smaller than the first pass, 512x768"),
        ({"width": 512, "height": 760}, 8, "is smaller than the first pass"),
        ({"scale": 4.0}, 8, "2048x3072, expected at most 4194304 pixels and 4096 a side"),
        ({"sampler": "nobody"}, 8, "sampler"),
        ({"schedule": "nothing"}, 8, "schedule"),
    ],
)
def test_what_cannot_be_is_refused(hires: dict[str, Any], multiple: int, words: str):
    with pytest.raises(RequestError, match=words):
        fill(HiresPass(**hires), multiple)


def test_a_side_that_is_computed_may_be_too_long():
    with pytest.raises(RequestError, match="hires: 520x4160, expected at most 4194304 pixels and 4096 a side"):
        fill(HiresPass(width=520), width=256, height=2048)
    assert fill(HiresPass(width=512), width=256, height=2048).height == 4096


def test_one_side_may_grow_four_times_as_much_as_the_other():
    square = {"width": 256, "height": 256}
    found = fill(HiresPass(width=1024, height=256), **square)
    assert (found.width, found.height) == (1024, 256)
    for size in ({"width": 1032, "height": 256}, {"width": 256, "height": 1032}):
        with pytest.raises(RequestError, match="changes the shape too much; one side may grow at most 4 times"):
            fill(HiresPass(**size), **square)
    assert fill(HiresPass(width=2048, height=2048), **square).width == 2048  # as many pixels as there may be


# Torch's modes, and whether it smooths; A1111's shared_items.py has the same six.
MODES = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}


def test_the_latent_upscalers_of_a1111():
    assert {theirs: LATENT_UPSCALERS[upscaler_name(theirs)] for theirs in MODES} == MODES
    assert len(LATENT_UPSCALERS) == len(MODES)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("latent nearest-exact", "latent_nearest_exact"),
        (" LATENT ", "latent_bilinear"),
        ("none", "lanczos"),
        ("R-ESRGAN 4x+", "RealESRGAN_x4plus"),
        ("4x-UltraSharp.pth", "4x-UltraSharp.pth"),
    ],
)
def test_names_of_upscalers(said: str, name: str):
    assert upscaler_name(said) == name


def test_names_go_back_to_those_of_a1111():
    for theirs, ours in A1111_NAMES.items():
        assert a1111_name(ours) == ("Lanczos" if theirs == "None" else theirs)
    assert a1111_name("4x-UltraSharp") == "4x-UltraSharp"
