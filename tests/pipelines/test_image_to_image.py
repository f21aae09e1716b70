"""From a picture to pictures: image to image, inpainting, editing, enlarging, refining, on tiny random models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from asking import changed
from gesso.diffusion.samplers import SAMPLERS
from gesso.pictures.picture_file import read_picture
from gesso.pipelines.picture import Picture, Progress
from gesso.pipelines.steps import plan_steps
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.request import NAMED, TextToImageRequest, flat
from gesso.runtime.engine import Engine
from gesso.runtime.finite import NotFiniteError
from gesso.studio.replay import replay_recipe
from tiny_models import save_tiny_mini
from tiny_sd import TINY_EDIT, TINY_INPAINT, TINY_SD, TINY_X4, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a red cat", seed=7)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu", max_models=8)


@pytest.fixture(scope="module")
def pipeline(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    return TextToImage(engine, engine.load(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")))


def source(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def left_half(width: int = 64, height: int = 64) -> Image.Image:
    levels = np.zeros((height, width), dtype=np.uint8)
    levels[:, : width // 2] = 255
    return Image.fromarray(levels)


def draw(
    pipeline: TextToImage, image: Image.Image | None = None, mask: Image.Image | None = None, **values: Any
) -> Picture:
    (picture,) = pipeline(changed(REQUEST, **values), image=image, mask=mask)
    return picture


def gap(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def test_the_less_strength_the_nearer_to_the_picture(pipeline: TextToImage):
    """At strength 0 nothing is drawn: the picture passes through the autoencoder, which here is random."""
    image = source()
    same = draw(pipeline, image, strength=0.0).image
    gaps = [gap(draw(pipeline, image, strength=s, num_steps=8).image, same) for s in (0.25, 0.5, 1.0)]
    assert 0 < gaps[0] < gaps[1] < gaps[2]


def test_the_request_names_the_picture_and_the_size_comes_from_it(pipeline: TextToImage):
    picture = draw(pipeline, source(90, 41))
    request = picture.recipe.request
    assert picture.image.size == (88, 40)
    assert request.source.strength == 0.75
    assert request.source.image is not None
    assert len(request.source.image) == 64
    with pytest.raises(RequestError, match=r"but \w+\.\.\. was given"):
        pipeline(request, image=source(seed=1))
    with pytest.raises(RequestError, match="but none was given"):
        pipeline(request)


@pytest.mark.parametrize(
    ("rule", "strength", "first"),
    [
        ("a1111", 0.75, 4),  # parity notes 41 and 42: 16 calls of 20
        ("diffusers", 0.75, 5),  # 15 calls
        ("share", 0.75, 5),
        ("a1111", 1.0, 0),
        ("diffusers", 1.0, 0),
        ("share", 1.0, 0),
        ("share", 0.01, 19),  # at least one step
        ("share", 0.0, 20),
        ("a1111", 0.0, 19),
    ],
)
def test_the_first_step_of_each_tool(pipeline: TextToImage, rule: str, strength: float, first: int):
    request = pipeline.resolve(
        changed(REQUEST, strength=strength, strength_rule=rule, num_steps=20, sampler="euler"), image=source()
    )
    steps = plan_steps(request, pipeline.model.family)
    assert (steps.first, steps.num_steps) == (first, 20 - first)


def test_a_strength_that_leaves_diffusers_no_step_is_refused(pipeline: TextToImage):
    with pytest.raises(RequestError, match="leaves no step"):
        draw(pipeline, source(), strength=0.04, strength_rule="diffusers", num_steps=20)


def test_progress_counts_the_steps_that_are_taken(pipeline: TextToImage):
    seen: list[Progress] = []
    list(pipeline(changed(REQUEST, num_steps=8, strength=0.5), seen.append, image=source()))
    assert [state.step for state in seen] == [0, 1, 2, 3, 4]
    assert {state.num_steps for state in seen} == {4}


@pytest.mark.parametrize("blend", ["x0", "x"])
def test_what_is_not_masked_stays_bit_by_bit(pipeline: TextToImage, blend: str):
    image, mask = source(), left_half()
    drawn = np.asarray(draw(pipeline, image, mask, mask_blend=blend, strength=1.0).image)
    assert (drawn[:, 32:] == np.asarray(image)[:, 32:]).all()
    assert (drawn[:, :32] != np.asarray(image)[:, :32]).any()
    soft = np.asarray(draw(pipeline, image, mask, mask_blend=blend, mask_blur=2.0).image)
    assert (soft[:, 38:] == np.asarray(image)[:, 38:]).all()


# Three drawings each: one in three is quick.
@pytest.mark.parametrize(
    "sampler",
    [pytest.param(name, marks=() if i % 3 == 0 else pytest.mark.slow) for i, name in enumerate(sorted(SAMPLERS))],
)
def test_latents_outside_the_mask_end_as_the_picture(pipeline: TextToImage, sampler: str):
    """Whatever the sampler does inside: nothing is masked, so the picture passes through the autoencoder alone."""
    image, nothing = source(), Image.new("L", (64, 64))
    same = draw(pipeline, image, strength=0.0).image
    for blend in ("x0", "x"):
        drawn = draw(pipeline, image, nothing, mask_blend=blend, paste_back=False, sampler=sampler, num_steps=3)
        assert gap(drawn.image, same) == 0


@pytest.mark.parametrize("blend", ["x0", "x", "differential"])
@pytest.mark.parametrize("sampler", ["euler", "ddim_cfgpp"])
def test_a_mask_that_is_white_everywhere_is_no_mask(pipeline: TextToImage, sampler: str, blend: str):
    """Whichever of the two seams of a denoiser the sampler asks."""
    image, white = source(), Image.new("L", (64, 64), 255)
    values: dict[str, Any] = {"sampler": sampler, "num_steps": 3, "strength": 0.8}
    free = draw(pipeline, image, **values).image
    masked = draw(pipeline, image, white, mask_blend=blend, mask_content="original", paste_back=False, **values).image
    assert masked.tobytes() == free.tobytes()
    assert gap(free, draw(pipeline, image, strength=0.0).image) > 0


@pytest.mark.parametrize("blend", ["x0", "x"])
@pytest.mark.parametrize("sampler", ["euler", "ddim_cfgpp"])
def test_outside_the_mask_the_network_sees_the_picture_at_every_step(pipeline: TextToImage, sampler: str, blend: str):
    """What it says inside leaks out at no step: it sees the same there as where nothing is masked at all."""
    seen: list[torch.Tensor] = []
    hook = pipeline.model.parts.unet.register_forward_pre_hook(lambda _unet, inputs: seen.append(inputs[0].clone()))
    calls = []
    for mask in (left_half(), Image.new("L", (64, 64))):
        seen.clear()
        draw(pipeline, source(), mask, mask_blend=blend, sampler=sampler, num_steps=3, strength=1.0)
        calls.append(torch.stack(seen))
    hook.remove()
    half, nothing = calls
    outside = half.shape[-1] * 3 // 4  # the mask ends at a half; PIL's bicubic filter reaches two places further
    assert half.shape == nothing.shape and len(half) == 3
    assert torch.equal(half[..., outside:], nothing[..., outside:])
    assert not torch.equal(half[1:, ..., :outside], nothing[1:, ..., :outside])


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "ddim"])
def test_blending_the_noisy_latents_reaches_the_samplers_own_state(sampler: str):
    """diffusers replaces x after each step; here the call's x is changed in place, and the sampler goes on from it."""
    image = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0] = 1
    from gesso.diffusion.noise import NOISE_SOURCES
    from gesso.diffusion.samplers import sample
    from gesso.pipelines.networks import MaskedInput

    class Wrong:
        """Says something else than the picture, everywhere."""

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
            self.seen.append((x.clone(), float(torch.as_tensor(sigma).flatten()[0])))
            return torch.full_like(x, 5.0)

        def with_uncond(self, x: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
            return torch.stack([self(x, sigma)] * 2)

        seen: list[tuple[torch.Tensor, float]]

    wrong = Wrong()
    wrong.seen = []
    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    denoise = MaskedInput(wrong, mask, image, noise)
    sample(SAMPLERS[sampler], denoise, image + 4 * noise, sigmas, NOISE_SOURCES["philox"]([0]))
    for x, sigma in wrong.seen:
        assert torch.allclose(x[..., 1:], (image + sigma * noise)[..., 1:], atol=1e-5)  # float32
    assert len(wrong.seen) >= 3


def test_cfgpp_asks_for_the_unguided_half_without_guidance_too(pipeline: TextToImage):
    assert draw(pipeline, sampler="ddim_cfgpp", guidance_scale=1.0, num_steps=2).image.size == (64, 64)
    tenth = draw(pipeline, sampler="ddim_cfgpp", preset="a1111", guidance_scale=7.5, num_steps=3)
    whole = draw(pipeline, sampler="ddim_cfgpp", preset="a1111", guidance_scale=1.0, num_steps=3)
    assert gap(tenth.image, whole.image) > 0


def test_own_sigmas(pipeline: TextToImage):
    sigmas = (10.0, 3.0, 1.0, 0.0)
    picture = draw(pipeline, sigmas=sigmas)
    request = picture.recipe.request
    assert (request.num_steps, request.schedule, request.sigmas) == (3, "own", sigmas)
    assert draw(pipeline, sigmas=(10.0, 3.0, 1.1, 0.0)).image.tobytes() != picture.image.tobytes()
    assert b"Schedule type: Own" in picture.to_png()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strength": 0.5}, "needs a picture"),
        ({"mask": "0" * 64}, "needs a picture"),
        ({"mask_content": "original"}, "needs a mask"),
        ({"image_guidance_scale": 1.5}, "edit by instruction"),
        ({"noise_level": 20}, "upscale"),
        ({"refiner_switch_at": 0.8}, "needs a refiner"),
        ({"sigmas": (3.0, 1.0, 0.0), "num_steps": 5}, "expected 2 for 3 sigmas"),
        ({"sigmas": (3.0, 1.0, 0.0), "schedule": "karras"}, "leave one out"),
        ({"preset": "midjourney"}, "Known: a1111, diffusers, gesso"),
    ],
)
def test_settings_of_another_job_are_refused(pipeline: TextToImage, values: dict[str, Any], words: str):
    with pytest.raises(RequestError, match=words):
        pipeline(changed(REQUEST, **values))


def test_names_of_other_tools(pipeline: TextToImage):
    for name, sampler, schedule in (
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("k_euler_a", "euler_ancestral", "uniform"),
        ("Euler a", "euler_ancestral", "uniform"),
        ("dpmpp_2m", "dpmpp_2m", "uniform"),
    ):
        request = pipeline.resolve(replace(REQUEST, sampler=name))
        assert (request.sampler, request.schedule) == (sampler, schedule)
    assert pipeline.resolve(replace(REQUEST, sampler="DPM++ 2M", schedule="Automatic")).schedule == "karras"
    with pytest.raises(RequestError, match="did you mean 'euler'"):
        pipeline.resolve(replace(REQUEST, sampler="eulr"))


def test_presets_fill_what_is_left_open(pipeline: TextToImage):
    a1111 = pipeline.resolve(replace(REQUEST, preset="a1111", sampler="DPM++ 3M SDE"))
    assert (a1111.noise, a1111.conventions.levels, a1111.schedule) == ("nv", "truncate", "exponential")
    assert a1111.conventions.discard_penultimate_sigma
    assert not pipeline.resolve(changed(a1111, discard_penultimate_sigma=False)).conventions.discard_penultimate_sigma
    own = pipeline.resolve(changed(REQUEST, preset="a1111", noise="cpu", levels="round"))
    assert (own.preset, own.noise, own.conventions.levels) == ("a1111", "cpu", "round")


def test_the_preset_a1111_is_what_its_sources_say(pipeline: TextToImage):
    """Notes of the tool: where its pictures come from. (The preset "diffusers" is held beside diffusers itself.)"""
    request = pipeline.resolve(replace(REQUEST, preset="a1111", sampler="Euler a"), image=source(), mask=left_half())
    expected = {
        "schedule": "uniform",
        "noise": "nv",  # its GPU source, repeatable anywhere
        "sigma_table": "rounded",  # float64, kept as float32
        "initial_noise": "sigma",  # n * sigma_0
        "strength_rule": "a1111",  # int(strength * steps) + 1 calls
        "mask_blend": "x0",  # of the denoised prediction
        "mask_blur": 4.0,
        "paste_back": True,
        "refiner_rule": "calls",
        "sde_noise": "torchsde",
        "emphasis": "original",  # the mean restored
        "chunks": "all",  # of 75 tokens
        "uneven_chunks": "apart",
        "prompt_timing": "a1111",
        "levels": "truncate",
        "ensd": 0,
        "round_timesteps": False,
        "clip_skip_everywhere": False,
        "strength": 0.75,
        "eta": 1.0,
    }
    values = flat(request)
    assert {name: values[NAMED[name].path] for name in expected} == expected


def test_replay_of_an_inpainted_picture_needs_the_pictures_it_came_from(pipeline: TextToImage, tmp_path: Path):
    image, mask = source(), left_half()
    picture = draw(pipeline, image, mask, strength=0.6, vae_encode="sample", ensd=31337, noise="nv", sampler="euler_a")
    path = tmp_path / "x.png"
    path.write_bytes(picture.to_png())
    original, recipe = read_picture(path)
    verdict, again = replay_recipe(pipeline, original, recipe, image=image, mask=mask)
    assert verdict.kind == "identical"
    assert again.recipe == picture.recipe
    with pytest.raises(RequestError, match="but none was given"):
        replay_recipe(pipeline, original, recipe, image=image)


def test_a_recipe_of_version_1_draws_the_same(pipeline: TextToImage):
    """What version 1 did without settings is that of the preset gesso, but for the prompt: every sign was text."""
    import json

    from gesso.request.migrations import FIELDS_OF_VERSION
    from gesso.request.recipe import Recipe

    picture = draw(pipeline)

    found = json.loads(picture.recipe.to_json())
    request = found["request"]
    found["request"] = {name: request[name] for name in ("schema", *FIELDS_OF_VERSION[1])} | {"version": 1}
    found["version"] = 1
    del found["refiner"], found["refiner_files"]
    recipe = Recipe.from_json(json.dumps(found))
    plain = {"syntax": "plain", "emphasis": "ignore", "chunks": "first"}
    assert recipe == replace(picture.recipe, request=changed(picture.recipe.request, **plain))
    assert replay_recipe(pipeline, picture.image, recipe)[0].kind == "identical"


@pytest.fixture(scope="module")
def special(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextToImage]:
    """Stable Diffusion with other channels beside the latents: inpainting (9) and editing (8)."""
    base = tmp_path_factory.mktemp("special")
    families = {"inpaint": TINY_INPAINT, "edit": TINY_EDIT}
    folders = {name: save_tiny_folder(base / name, family) for name, family in families.items()}
    return {name: TextToImage(engine, engine.load(folder)) for name, folder in folders.items()}


def test_an_inpainting_model_sees_mask_and_masked_picture(special: dict[str, TextToImage]):
    pipeline, mask = special["inpaint"], left_half()
    base = draw(pipeline, source(), mask, num_steps=2, paste_back=False)
    assert base.recipe.request.source.strength == 1.0
    outside, inside = np.asarray(source()).copy(), np.asarray(source()).copy()
    outside[:, 40:], inside[:, :20] = 0, 0
    assert gap(draw(pipeline, Image.fromarray(outside), mask, num_steps=2, paste_back=False).image, base.image) > 0
    # What is under the mask is shown to nobody where the start is noise alone.
    for image in (source(), Image.fromarray(inside)):
        drawn = draw(pipeline, image, mask, num_steps=2, paste_back=False, mask_blend="x", strength_rule="diffusers")
        other = draw(pipeline, source(), mask, num_steps=2, paste_back=False, mask_blend="x", strength_rule="diffusers")
        assert drawn.image.tobytes() == other.image.tobytes()
    assert draw(pipeline, num_steps=2).image.size == (64, 64)  # without a picture: everything is masked


def test_an_editing_model_is_led_by_text_and_by_picture(special: dict[str, TextToImage]):
    pipeline, image = special["edit"], source()
    base = draw(pipeline, image, num_steps=2)
    assert base.recipe.request.source.guidance_scale == 1.5
    assert base.recipe.request.source.strength is None
    assert gap(draw(pipeline, image, num_steps=2, image_guidance_scale=3.0).image, base.image) > 0
    assert gap(draw(pipeline, source(seed=1), num_steps=2).image, base.image) > 0
    with pytest.raises(RequestError, match="give one"):
        draw(pipeline)
    with pytest.raises(RequestError, match="takes no strength"):
        draw(pipeline, image, strength=0.5)


def test_an_upscaler_makes_four_of_each_pixel(engine: Engine, tmp_path: Path):
    pipeline = TextToImage(engine, engine.load(save_tiny_folder(tmp_path / "x4", TINY_X4)))
    base = draw(pipeline, source(16, 8), num_steps=2)
    assert base.image.size == (64, 32)
    assert base.recipe.request.source.noise_level == 20
    assert gap(draw(pipeline, source(16, 8), num_steps=2, noise_level=200).image, base.image) > 0
    with pytest.raises(RequestError, match="at most 350"):
        draw(pipeline, source(16, 8), noise_level=351)
    with pytest.raises(RequestError, match="upscales the picture's 16 to 64"):
        draw(pipeline, source(16, 8), width=128)
    with pytest.raises(RequestError, match="upscales a picture"):
        draw(pipeline)


def test_guidance_by_picture_is_equation_3():
    from gesso.pipelines.networks import InstructPix2PixNetwork
    from gesso.runtime.conditioning import Conditioning

    def network(z: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        assert conditioning.concat is not None
        return z * 0 + conditioning.context.mean((1, 2))[:, None, None, None] + 10 * conditioning.concat

    def told(text: float, picture: float) -> Conditioning:
        return Conditioning(context=torch.full((2, 3, 4), float(text)), concat=torch.full((2, 1, 4, 4), float(picture)))

    edit = InstructPix2PixNetwork(network, told(3, 1), told(1, 1), told(1, 0), scale=7.0, image_scale=1.5)
    out = edit(torch.zeros(2, 1, 4, 4), torch.zeros(2))
    assert torch.equal(out, torch.full_like(out, 1 + 7.0 * (13 - 11) + 1.5 * (11 - 1)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_whose_numbers_are_not_finite_is_named_with_its_module(tmp_path: Path, dtype: str):
    """As the decoder is: asked again in float32 first."""
    engine = Engine("cpu", dtype)
    model = engine.load(save_tiny_folder(tmp_path / "sd", TINY_SD))
    formats: list[torch.dtype] = []

    def lose(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        formats.append(output.dtype)
        return output * float("nan")

    model.parts.vae.encoder.conv_in.register_forward_hook(lose)
    match = r"^sd: the VAE produced NaN or infinity in float32 \(first in module encoder\.conv_in\)"
    with pytest.raises(NotFiniteError, match=match):
        draw(TextToImage(engine, model), source())
    assert formats[0] == engine.precision.vae
    assert formats[-1] == torch.float32


# ---- what people pass ------------------------------------------------------------------------------------------------


def test_a_prompt_alone_is_a_request(pipeline: TextToImage):
    request = pipeline.resolve("a cat")
    assert request == replace(pipeline.resolve(TextToImageRequest(prompt="a cat")), seed=request.seed)
    with pytest.raises(RequestError, match="`request` is a list, expected a TextToImageRequest or a prompt"):
        pipeline.resolve(["a cat", "a dog"])
    with pytest.raises(RequestError, match="`request` is an int, expected a TextToImageRequest or a prompt"):
        pipeline(5)


def test_pictures_and_masks_in_any_form_draw_the_same(pipeline: TextToImage, tmp_path: Path):
    image, mask = source(), left_half()
    request = changed(REQUEST, strength=0.6)
    (expected,) = pipeline(request, image=image, mask=mask)
    image.save(tmp_path / "image.png")
    mask.save(tmp_path / "mask.png")
    levels, white = np.array(image), np.array(mask.convert("L"))
    for ours, hole in (
        (tmp_path / "image.png", str(tmp_path / "mask.png")),
        (levels, white > 127),
        (torch.from_numpy(levels).permute(2, 0, 1), torch.from_numpy(white) > 127),
    ):
        (picture,) = pipeline(request, image=ours, mask=hole)
        assert picture.image.tobytes() == expected.image.tobytes()
        assert picture.recipe.request == expected.recipe.request
    with pytest.raises(RequestError, match="`image` is an int, expected a PIL picture"):
        pipeline(request, image=5)
