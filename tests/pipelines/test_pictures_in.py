"""Masks of all kinds, parts of a picture, borders, resizing and variations of the noise, on tiny random models."""

import resource
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from asking import changed
from gesso.diffusion.conventions import slerp, slerp_a1111
from gesso.diffusion.noise import nv_normal, philox_normal
from gesso.families.base import Family
from gesso.pipelines.clock import Clock
from gesso.pipelines.denoising import noise_source, variation_source
from gesso.pipelines.framing import Placement
from gesso.pipelines.inputs import SourcePictures, prepare
from gesso.pipelines.networks import DifferentialDiffusion
from gesso.pipelines.picture import Picture
from gesso.pipelines.source_images import soften
from gesso.pipelines.steps import plan_steps
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.request import ResolvedRequest, TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.studio.replay import replay_recipe
from tiny_models import save_tiny_mini
from tiny_sd import TINY_EDIT, TINY_INPAINT, TINY_SD, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a red cat", seed=7, num_steps=3, width=64, height=64)
FAMILIES: dict[str, Family] = {"sd": TINY_SD, "inpaint": TINY_INPAINT, "edit": TINY_EDIT}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextToImage]:
    base, engine = tmp_path_factory.mktemp("models"), Engine("cpu", max_models=8)
    found = {name: save_tiny_folder(base / name, family) for name, family in FAMILIES.items()}
    found["mini"] = save_tiny_mini(base / "mini.safetensors")
    return {name: TextToImage(engine, engine.load(path)) for name, path in found.items()}


def source(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def spot(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def draw(
    pipeline: TextToImage, image: Image.Image | None = None, mask: Image.Image | None = None, **values: Any
) -> Picture:
    (picture,) = pipeline(changed(REQUEST, **values), image=image, mask=mask)
    return picture


def start_of(pipeline: TextToImage, image: Image.Image, mask: Image.Image | None, **values: Any) -> Any:
    request = pipeline.resolve(changed(REQUEST, **values), image=image, mask=mask)
    family, pictures = pipeline.model.family, range(request.first_index, request.first_index + request.num_images)
    return prepare(
        pipeline.model,
        request,
        plan_steps(request, family),
        SourcePictures.of(request, family, image, mask),
        noise_source(request, pictures, plan_steps(request, family)),
        request.num_images,
        variation_source(request, pictures),
    )


# --- what is not masked


@pytest.mark.parametrize("model", ["sd", "inpaint", "mini"])
@pytest.mark.parametrize("content", ["original", "fill", "noise", "nothing"])
@pytest.mark.parametrize("area", ["whole", "masked"])
@pytest.mark.sampled(3)
def test_what_is_not_masked_stays_bit_by_bit(pipelines: dict[str, TextToImage], model: str, content: str, area: str):
    image, mask = source(), spot(64, 64, (20, 24, 40, 44))
    drawn = draw(pipelines[model], image, mask, mask_content=content, mask_area=area, mask_blur=1.5)
    changed = (np.asarray(drawn.image) != np.asarray(image)).any(axis=2)
    soft = np.asarray(soften(mask, 1.5))
    assert not changed[soft == 0].any()
    assert changed[soft == 255].mean() > 0.9


@pytest.mark.parametrize("area", ["whole", "masked"])
def test_a_mask_of_another_size_is_stretched_and_told(pipelines: dict[str, TextToImage], area: str):
    image, mask = source(64, 48), spot(64, 48, (16, 16, 48, 32))
    small = spot(32, 48, (8, 16, 24, 32))
    whole = draw(pipelines["sd"], image, mask, mask_area=area, height=48, mask_blur=0)
    stretched = draw(pipelines["sd"], image, small, mask_area=area, height=48, mask_blur=0)
    assert whole.notices == ()
    assert stretched.notices == ("the mask is 32x48, the picture 64x48: the mask was stretched to fit",)
    assert stretched.recipe.notices == stretched.notices
    assert np.array_equal(np.asarray(whole.image), np.asarray(stretched.image))


@pytest.mark.parametrize("model", ["sd", "mini"])
@pytest.mark.parametrize("mask", [Image.new("L", (64, 64)), Image.new("1", (32, 32)), Image.new("RGBA", (64, 64))])
def test_a_mask_that_marks_nothing_is_told(pipelines: dict[str, TextToImage], model: str, mask: Image.Image):
    image = source()
    drawn = draw(pipelines[model], image, mask)
    assert np.array_equal(np.asarray(drawn.image), np.asarray(image))
    assert [notice.code for notice in drawn.notices if notice.code == "mask_black"] == ["mask_black"]
    marked = draw(pipelines[model], image, spot(64, 64, (3, 3, 4, 4)))
    assert "mask_black" not in [notice.code for notice in marked.notices]


def test_a_part_is_drawn_larger_and_the_picture_keeps_its_size(pipelines: dict[str, TextToImage]):
    """The masked part of a picture that the model could not draw at all, at the model's own size."""
    image, mask = source(301, 97), spot(301, 97, (200, 30, 230, 50))
    picture = draw(pipelines["sd"], image, mask, width=None, height=None, mask_area="masked", mask_padding=8)
    request = picture.recipe.request
    assert picture.image.size == (301, 97)
    assert (request.width, request.height) == (64, 64)
    changed = (np.asarray(picture.image) != np.asarray(image)).any(axis=2)
    assert not changed[np.asarray(mask) == 0].any()
    shown = SourcePictures.of(request, TINY_SD, image, mask)
    assert shown.crop is not None
    left, top, right, bottom = shown.crop.region
    assert (right - left, bottom - top) == (46, 46)  # 30 + 2 * 8, and as high
    with pytest.raises(RequestError, match="entirely black"):
        draw(pipelines["sd"], image, Image.new("L", (301, 97)), mask_area="masked")


def test_what_stands_under_the_mask(pipelines: dict[str, TextToImage]):
    """The latents that the noise is added to: the picture's where black, and what was asked for where white."""
    pipeline, image, mask = pipelines["sd"], source(), spot(64, 64, (0, 0, 32, 64))
    starts = {
        content: start_of(pipeline, image, mask, mask_content=content, strength=0.5, sampler="euler")
        for content in ("original", "fill", "noise", "nothing")
    }
    request = pipeline.resolve(changed(REQUEST, strength=0.5, sampler="euler"), image=image)
    sigma = plan_steps(request, pipeline.model.family).image_sigma
    inside = starts["noise"].mask.expand_as(starts["noise"].x) > 0
    for content, start in starts.items():
        clean = start.x - sigma * start.noise
        torch.testing.assert_close(clean[~inside], start.latents[~inside], rtol=0, atol=1e-4)
        if content == "noise":
            torch.testing.assert_close(clean[inside], start.noise[inside], rtol=0, atol=1e-4)
        if content == "nothing":
            torch.testing.assert_close(clean[inside], torch.zeros_like(clean[inside]), rtol=0, atol=1e-4)
    assert not torch.equal(starts["fill"].x[inside], starts["original"].x[inside])
    with pytest.raises(RequestError, match="did you mean 'nothing'"):
        draw(pipeline, image, mask, mask_content="nothin")


# --- grey masks


def test_each_place_is_freed_at_its_own_step():
    """Levin & Fried: a place of grey m follows the picture's own noisy levels until the share 1 - m is done."""
    image, noise = torch.full((1, 1, 1, 5), 3.0), torch.ones(1, 1, 1, 5)
    mask = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).reshape(1, 1, 1, 5)
    clock = Clock(6, 2)  # two steps are left out: four are taken
    seen: list[list[bool]] = []

    class Inner:
        def __call__(self, x: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
            seen.append((x == 3.0 + 0.5).flatten().tolist())
            return x

        def with_uncond(self, x: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
            return torch.stack([self(x, sigma)] * 2)

    denoise = DifferentialDiffusion(Inner(), mask, image, noise, clock, first=2)
    for step in range(2, 6):
        clock.step = step
        denoise(torch.zeros(1, 1, 1, 5), 0.5)
    assert seen == [
        [True, True, True, True, False],
        [True, True, True, False, False],
        [True, True, False, False, False],
        [True, False, False, False, False],
    ]


def test_a_lighter_grey_changes_more_and_black_stays(pipelines: dict[str, TextToImage]):
    image = source()
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[:, 16:32], levels[:, 32:48], levels[:, 48:] = 60, 150, 255
    picture = draw(
        pipelines["sd"], image, Image.fromarray(levels), mask_blend="differential", strength=1.0, num_steps=8
    )
    same = draw(pipelines["sd"], image, strength=0.0).image
    gaps = np.abs(np.asarray(picture.image, np.int16) - np.asarray(same, np.int16)).mean(axis=(0, 2))
    assert (np.asarray(picture.image)[:, :16] == np.asarray(image)[:, :16]).all()
    assert gaps[20:28].mean() < gaps[36:44].mean() < gaps[52:].mean()


# --- size and borders


def test_borders_grow_until_the_model_can_draw_them(pipelines: dict[str, TextToImage]):
    picture = draw(pipelines["sd"], source(61, 45), width=None, height=None, outpaint=(0, 3, 10, 0))
    request = picture.recipe.request
    assert picture.image.size == (72, 48)
    assert request.source.outpaint == (0, 3, 11, 0)
    assert request.mask.blur == 8.0
    with pytest.raises(RequestError, match="adds no pixels"):
        draw(pipelines["sd"], source(), outpaint=(0, 0, 0, 0))
    with pytest.raises(RequestError, match="at most 4096 is allowed"):
        draw(pipelines["sd"], source(), width=None, height=None, outpaint=(0, 0, 4096, 0))
    with pytest.raises(RequestError, match="takes no outpaint"):
        draw(pipelines["edit"], source(), outpaint=(0, 0, 8, 0))


@pytest.mark.parametrize("model", ["sd", "inpaint", "mini"])
@pytest.mark.parametrize("sides", [(16, 0, 0, 0), (0, 16, 0, 0), (0, 0, 16, 0), (0, 0, 0, 16), (16, 16, 16, 16)])
@pytest.mark.sampled(3)
def test_outpainting_keeps_the_picture_and_draws_around_it(
    pipelines: dict[str, TextToImage], model: str, sides: tuple[int, int, int, int]
):
    image = source(96, 96)
    picture = draw(pipelines[model], image, width=None, height=None, outpaint=sides, mask_blur=2.0)
    left, top, right, bottom = sides
    drawn = np.asarray(picture.image)
    assert drawn.shape == (96 + top + bottom, 96 + left + right, 3)
    inner, edge = drawn[top : top + 96, left : left + 96], 10  # twice the reach of the blur
    kept = np.s_[edge * bool(top) : 96 - edge * bool(bottom), edge * bool(left) : 96 - edge * bool(right)]
    assert (inner[kept] == np.asarray(image)[kept]).all()


def test_a_given_size_is_that_of_picture_and_borders(pipelines: dict[str, TextToImage]):
    picture = draw(pipelines["sd"], source(200, 100), width=96, height=64, outpaint=(16, 0, 16, 0), resize="crop")
    assert picture.image.size == (96, 64)
    shown = SourcePictures.of(picture.recipe.request, TINY_SD, source(200, 100), None).image
    assert shown is not None
    expected = np.asarray(source(200, 100).resize((128, 64), Image.Resampling.LANCZOS))[:, 32:96]
    assert (np.asarray(shown)[:, 16:80] == expected).all()
    with pytest.raises(RequestError, match="leave no room for the picture in 64x64"):
        draw(pipelines["sd"], source(), outpaint=(32, 0, 32, 0))


@pytest.mark.parametrize("mode", ["stretch", "crop", "fill"])
def test_resize_modes(pipelines: dict[str, TextToImage], mode: str):
    image, mask = source(128, 64), spot(128, 64, (64, 0, 128, 64))
    shown = SourcePictures.of(
        pipelines["sd"].resolve(changed(REQUEST, resize=mode), image=image, mask=mask), TINY_SD, image, mask
    )
    assert shown.mask is not None
    assert shown.image is not None
    assert shown.image.size == shown.mask.size == (64, 64)
    assert draw(pipelines["sd"], image, mask, resize=mode).image.size == (64, 64)
    assert 0 < np.asarray(shown.mask).mean() < 255


# --- noise


def test_variations_mix_a_second_noise_into_that_of_the_first_picture(pipelines: dict[str, TextToImage]):
    """Whatever batch a picture is drawn in; along a circle over all numbers, or over columns as A1111 has it."""
    shape = (4, 8, 8)
    values: dict[str, Any] = {"variation_seed": 70, "variation_strength": 0.4, "num_images": 3}
    own = start_of(pipelines["sd"], source(), None, **values)
    base = philox_normal(shape, seed=7)[None]
    for row in range(3):
        expected = slerp(base, philox_normal(shape, seed=70, picture=row)[None], 0.4)
        assert torch.equal(own.noise[row : row + 1], expected)
    alone = start_of(pipelines["sd"], source(), None, **values | {"num_images": 1, "first_index": 2})
    assert torch.equal(alone.noise, own.noise[2:])
    theirs = start_of(pipelines["sd"], source(), None, **values, preset="a1111")
    mixed = slerp_a1111(nv_normal(shape, seed=7)[None], nv_normal(shape, seed=72)[None], 0.4)
    assert torch.equal(theirs.noise[2:], mixed)
    for noise in ("philox", "cpu", "nv"):
        none = start_of(pipelines["sd"], source(), None, variation_strength=0.0, noise=noise)
        assert torch.equal(none.noise, start_of(pipelines["sd"], source(), None, noise=noise).noise)


@pytest.mark.parametrize("noise", ["philox", "cpu", "nv"])
def test_noise_of_another_size_lies_in_the_middle(pipelines: dict[str, TextToImage], noise: str):
    image = source(96, 64)
    large = start_of(pipelines["sd"], image, None, noise=noise, width=96, seed_width=64, seed_height=32)
    small = start_of(pipelines["sd"], image, None, noise=noise, height=32)
    assert torch.equal(large.noise[..., 2:6, 2:10], small.noise)
    assert torch.equal(
        large.noise[..., :2, :], start_of(pipelines["sd"], image, None, noise=noise, width=96).noise[..., :2, :]
    )


def test_a_variation_without_a_seed_draws_one_and_the_recipe_tells(pipelines: dict[str, TextToImage]):
    picture = draw(pipelines["sd"], variation_strength=0.2)
    assert picture.recipe.request.variation.seed is not None
    assert draw(pipelines["sd"], variation_strength=0.2, variation_seed=1).recipe.request.variation.seed == 1


# --- sides that continue each other


def test_a_seamless_picture_has_no_seam():
    """Drawn by the shipped model: across the border neighbours differ no more than somewhere within the picture.

    What `tests/runtime/test_seamless.py` proves of each network, seen in the picture.
    """
    pipeline = TextToImage(Engine("cpu"), Engine("cpu").load())

    def jumps(axis: int, tiling: str | None) -> tuple[float, float]:
        values: dict[str, Any] = {"prompt": "two cats and a ball on a green background", "seed": 5, "num_steps": 8}
        levels = np.asarray(draw(pipeline, width=256, height=128, tiling=tiling, **values).image, dtype=np.float64)
        inside = np.abs(np.diff(levels, axis=axis)).mean(axis=(1 - axis, 2))
        return float(np.abs(np.take(levels, 0, axis) - np.take(levels, -1, axis)).mean()), float(inside.max())

    for axis, tiling in ((1, "x"), (0, "y"), (0, "xy"), (1, "xy")):
        border, inside = jumps(axis, tiling)
        assert border <= inside


# --- tiles


@pytest.mark.parametrize("model", ["sd", "inpaint", "edit"])
def test_a_picture_no_larger_than_a_tile_is_drawn_as_without(pipelines: dict[str, TextToImage], model: str):
    image = source() if model == "edit" else None
    plain = draw(pipelines[model], image)
    assert draw(pipelines[model], image, tile=64).image.tobytes() == plain.image.tobytes()
    assert draw(pipelines[model], image, tile=128).recipe.request.tiles.overlap == 32


def test_the_network_sees_no_more_than_a_tile_and_memory_is_counted_so(pipelines: dict[str, TextToImage]):
    """Mask and masked picture of a model that inpaints are cut as the latents are."""
    pipeline, seen = pipelines["inpaint"], []
    unet = pipeline.model.parts.unet
    handle = unet.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    try:
        values: dict[str, Any] = {"width": 136, "height": 104, "tile": 64, "tile_overlap": 16}
        picture = draw(pipeline, source(136, 104), spot(136, 104, (30, 30, 100, 70)), **values)
    finally:
        handle.remove()
    assert picture.image.size == (136, 104)
    assert set(seen) == {(9, 8, 8)}
    peaks = {}
    for tile, side in ((None, 256), (64, 256), (64, 512)):
        request = changed(REQUEST, width=side, height=side, tile=tile)
        (plan,) = pipeline.plans(request).values()
        peaks[tile, side] = next(phase.activations for phase in plan.phases if phase.name == "unet")
    assert peaks[64, 256] < peaks[None, 256] / 4
    latents = 4 * (512 // 8) ** 2 * 4
    assert peaks[64, 512] - peaks[64, 256] < 20 * latents


@pytest.mark.slow
def test_where_tiles_meet_nothing_is_seen():
    """The shipped model draws a picture again at twice the size: across the edges of tiles neighbours differ as they do
    a few pixels beside, within what the picture itself varies (drawn at once, the same places have up to 1.5)."""
    pipeline = TextToImage(Engine("cpu"), Engine("cpu").load())
    (small,) = pipeline(TextToImageRequest(prompt="a red car on a blue background", seed=3, num_steps=10))
    image = small.image.resize((512, 512), Image.Resampling.LANCZOS)
    values: dict[str, Any] = {"prompt": "a red car", "num_steps": 8, "strength": 0.5, "width": None, "height": None}
    levels = np.asarray(draw(pipeline, image, tile=256, tile_overlap=128, **values).image, dtype=np.float64)
    at = np.array([128, 256, 384]) - 1
    for axis in (0, 1):
        jumps = np.abs(np.diff(levels, axis=axis)).mean(axis=(1 - axis, 2))
        beside = np.concatenate([at + step for step in (-12, -8, -4, 4, 8, 12)])
        assert jumps[at].mean() < 1.5 * jumps[beside].mean()


# --- editing by instruction


@pytest.mark.parametrize("values", [{"resize": "crop"}, {"tiling": "xy"}, {"tile": 64}, {"variation_strength": 0.5}])
@pytest.mark.sampled(2)
def test_a_model_that_edits_takes_what_is_not_about_parts(pipelines: dict[str, TextToImage], values: dict[str, Any]):
    image = source(200, 160)
    plain = draw(pipelines["edit"], image, width=128, height=64)
    picture = draw(pipelines["edit"], image, width=128, height=64, **values)
    assert picture.image.tobytes() != plain.image.tobytes()
    assert replay_recipe(pipelines["edit"], picture.image, picture.recipe, image=image)[0].kind == "identical"
    with pytest.raises(RequestError, match="takes no mask"):
        draw(pipelines["edit"], image, Image.new("L", (200, 160), 255))


# --- all of it in the recipe


@pytest.mark.parametrize(
    "values",
    [
        {"mask_content": "fill", "mask_area": "masked", "mask_padding": 4, "mask_blur": 1.0},
        {"mask_blend": "differential", "resize": "fill", "preset": "a1111"},
        {"outpaint": (0, 8, 16, 0), "width": None, "height": None},
        {"tiling": "x"},
        {"tile": 64, "tile_overlap": 32, "width": 128, "height": 96},
        {"variation_strength": 0.3, "seed_width": 32, "seed_height": 32, "num_images": 1, "first_index": 3},
    ],
)
@pytest.mark.parametrize("model", ["sd", "mini"])
@pytest.mark.sampled(3)
def test_replay_is_identical(pipelines: dict[str, TextToImage], values: dict[str, Any], model: str):
    image = source(80, 64)
    mask = spot(80, 64, (10, 10, 40, 40)) if any(name.startswith("mask") for name in values) else None
    if model == "mini" and "outpaint" in values:
        values = values | {"outpaint": (0, 16, 16, 0)}
    picture = draw(pipelines[model], image, mask, **values)
    request = picture.recipe.request
    assert ResolvedRequest.from_json(request.to_json()) == request
    verdict, _ = replay_recipe(pipelines[model], picture.image, picture.recipe, image=image, mask=mask)
    assert verdict.kind == "identical"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"outpaint": (0, 0, 8, 0)}, "needs a picture"),
        ({"resize": "crop"}, "needs a picture"),
        ({"mask_area": "masked"}, "needs a mask"),
        ({"mask_padding": 3}, "needs mask.area"),
        ({"variation_seed": 3}, "needs variation.strength"),
        ({"seed_width": 64}, "or neither"),
        ({"tile_overlap": 8}, "needs tiles.size"),
        ({"tile": 65}, "a multiple of"),
        ({"tile": 32}, "at least 64"),
        ({"tile": 64, "tile_overlap": 40}, "at most half"),
        ({"tile": 64, "tiling": "x"}, "leave one out"),
        ({"seed_width": 60, "seed_height": 64}, "a multiple of"),
    ],
)
def test_settings_without_their_job_are_refused(pipelines: dict[str, TextToImage], values: Any, words: str):
    with pytest.raises(RequestError, match=words):
        draw(pipelines["sd"], **values)


HOSTILE = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.booleans(), st.lists(st.integers(), max_size=6)
)
FIELDS = (
    *("variation_seed", "variation_strength", "seed_width", "seed_height", "resize", "outpaint", "mask_content"),
    *("mask_area", "mask_padding", "mask_blur", "mask_blend", "tiling", "tile", "tile_overlap"),
)


SECOND_PASS = ("scale", "width", "height", "upscaler", "strength", "num_steps", "sampler", "guidance_scale", "prompt")


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), HOSTILE, min_size=1, max_size=3),
    st.none() | HOSTILE | st.dictionaries(st.sampled_from(SECOND_PASS), HOSTILE, max_size=3),
)
def test_any_value_from_outside_is_taken_or_refused_before_anything_is_made(values: dict[str, Any], hires: Any):
    """A stranger's JSON: what is built lies within the bounds, all else is a RequestError."""
    found = REQUEST.to_dict() | values | {"hires": hires}
    try:
        request = TextToImageRequest.from_dict(found)
    except RequestError:
        return
    assert request.mask.blur is None or 0 <= request.mask.blur <= 256
    assert request.source.outpaint is None or all(0 <= side <= 4096 for side in request.source.outpaint)
    assert TextToImageRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("mask", ["none", "black", "white", "other size"])
def test_odd_pictures_and_masks_have_an_answer(pipelines: dict[str, TextToImage], size: tuple[int, int], mask: str):
    """Rows I2 and I12 of the bad inputs: a picture comes out at the size that was asked for, or a message."""
    masks = {
        "none": None,
        "black": Image.new("L", size),
        "white": Image.new("L", size, 255),
        "other size": spot(40, 30, (0, 0, 20, 30)),
    }
    image, grey = source(*size), masks[mask]
    family = pipelines["sd"].model.family
    for values in ({"resize": "stretch"}, {"resize": "crop"}, {"resize": "fill"}, {"mask_area": "masked"}):
        if "mask_area" in values and grey is None:
            continue
        request = pipelines["sd"].resolve(changed(REQUEST, **values), image=image, mask=grey)
        if "mask_area" in values and grey is not None and grey.getbbox() is None:
            with pytest.raises(RequestError, match="entirely black"):
                SourcePictures.of(request, family, image, grey)
            continue
        shown = SourcePictures.of(request, family, image, grey)
        assert shown.image is not None
        assert shown.image.size == (64, 64)
        finished = shown.finish(Image.new("RGB", (64, 64)), request)
        assert finished.size == (image.size if "mask_area" in values else (64, 64))


def peak_of(run: Any) -> int:
    """Bytes that numpy has at most while it runs."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_wide_blur_of_a_large_mask_needs_no_more_than_a_few_copies():
    """It once stacked a copy for each point of the Gaussian: 1281 of them at the widest. By Fourier's way it gives what
    it gives by sums."""
    mask = spot(2048, 512, (1000, 200, 1040, 240))
    assert peak_of(lambda: soften(mask, 256.0)) < 12 * mask.width * mask.height * 8
    levels = np.zeros(400)
    levels[200] = 255.0
    wide = spot(400, 400, (200, 0, 201, 400))
    weights = np.exp(-0.5 * (np.arange(-75, 76) / 30.0) ** 2)
    expected = np.zeros(400)
    expected[125:276] = 255 * weights / weights.sum()
    assert np.abs(np.asarray(soften(wide, 30.0))[200].astype(float) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("mode", ["stretch", "crop", "fill"])
def test_a_sliver_that_is_to_cover_a_large_canvas_is_not_made_whole(mode: str):
    """16384 pixels by 1, covering 2048x2048, would be 33 million pixels wide."""
    sliver = source(16_384, 1)
    placement = Placement.of(sliver.size, (2048, 2048), mode)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert placement.place(sliver).size == (2048, 2048)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB


def test_a_sliver_is_cut_where_a_larger_picture_would_be():
    narrow = Image.fromarray(
        np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 2, axis=0).repeat(3, axis=2)
    )
    placement = Placement.of(narrow.size, (16, 16), "crop")
    whole = narrow.resize(placement.size, Image.Resampling.LANCZOS).crop((-placement.left, 0, 16 - placement.left, 16))
    assert np.abs(np.asarray(placement.place(narrow), int) - np.asarray(whole, int)).max() <= 2
