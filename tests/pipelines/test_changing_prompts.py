"""Prompts that change over the steps and prompts that guide together, on their way through the whole pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from asking import changed
from gesso.pipelines.clock import Clock
from gesso.pipelines.defaults import defaults_for
from gesso.pipelines.networks import InstructPix2PixNetwork, PromptEditing
from gesso.pipelines.prompts import encode_prompts
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.parts import HiresPass
from gesso.request.request import TextToImageRequest
from gesso.request.resolving import resolve
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine, LoadedModel
from gesso.text.prompt import PromptError
from tiny_sd import TINY_EDIT, TINY_LCM, TINY_REFINER, TINY_SD, TINY_SDXL, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a cat", seed=1, num_steps=10, width=64, height=64)
FAMILIES = {"sd": TINY_SD, "xl": TINY_SDXL, "edit": TINY_EDIT, "lcm": TINY_LCM, "refiner": TINY_REFINER}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu", max_models=len(FAMILIES))


@pytest.fixture(scope="module")
def models(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    base = Path(tmp_path_factory.mktemp("models"))
    return {name: engine.load(save_tiny_folder(base / name, family)) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@contextmanager
def contexts(model: LoadedModel) -> Iterator[list[Tensor]]:
    """What the UNet is told, call by call."""
    seen: list[Tensor] = []
    handle = model.parts.unet.register_forward_pre_hook(lambda _, args: seen.append(args[2].clone()))
    try:
        yield seen
    finally:
        handle.remove()


def texts(engine: Engine, model: LoadedModel, request: TextToImageRequest, known: dict[str, str], **given) -> str:
    """A letter a call of the UNet: which of the known prompts it was told in its guided row."""
    told = {}
    for letter, prompt in known.items():
        alone = replace(request, prompt=prompt)
        resolved = resolve(alone, defaults_for(alone, model.family)) if not given else None
        resolved = resolved or TextToImage(engine, model).resolve(alone, **given)
        told[letter] = encode_prompts(model, resolved).cond.context
    with contexts(model) as seen:
        list(TextToImage(engine, model)(request, **given))
    found = ""
    for context in seen:
        found += next(letter for letter, each in told.items() if torch.equal(each[0], context[-1]))
    return found


CAT_DOG = {"a": "a cat", "b": "a dog", "-": "a "}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [cat:dog:0.5]", "aaaaabbbbb"),
        ("a [cat:dog:3]", "aaabbbbbbb"),
        ("a [cat|dog]", "ababababab"),
        ("a [cat:dog:0]", "bbbbbbbbbb"),
        ("a [cat:dog:99]", "aaaaaaaaaa"),
        ("a [dog:0.25]", "--bbbbbbbb"),
        ("a [[cat|dog]:dog:4]", "ababbbbbbb"),
    ],
)
@pytest.mark.sampled(3)
def test_each_step_has_its_text(engine: Engine, models: dict[str, LoadedModel], prompt: str, expected: str):
    assert texts(engine, models["sd"], replace(REQUEST, prompt=prompt), CAT_DOG) == expected


def test_under_the_preset_of_a1111_a_change_comes_a_step_later(engine: Engine, models: dict[str, LoadedModel]):
    """Its samplers count steps from 0, its schedules from 1."""
    request = replace(REQUEST, prompt="a [cat:dog:0.5]", preset="a1111", sampler="euler")
    assert texts(engine, models["sd"], request, CAT_DOG) == "aaaaaabbbb"
    assert texts(engine, models["sd"], replace(request, prompt="a [cat|dog]"), CAT_DOG) == "aabababab" + "a"
    assert texts(engine, models["sd"], changed(request, prompt_timing="steps"), CAT_DOG) == "aaaaabbbbb"


def test_both_calls_of_a_step_have_the_same_text(engine: Engine, models: dict[str, LoadedModel]):
    request = replace(REQUEST, prompt="a [cat|dog]", sampler="heun", num_steps=4)
    assert texts(engine, models["sd"], request, CAT_DOG) == "aabbaab"  # the last step needs one call


def test_image_to_image_counts_the_steps_that_it_leaves_out(
    engine: Engine, models: dict[str, LoadedModel], image: Image.Image
):
    request = changed(REQUEST, prompt="a [cat:dog:0.7]", strength=0.5)
    assert texts(engine, models["sd"], request, CAT_DOG, image=image) == "aabbb"
    # A1111 counts from where it begins, and takes a step more.
    a1111 = replace(request, preset="a1111", sampler="euler")
    assert texts(engine, models["sd"], a1111, CAT_DOG, image=image) == "aaaaaa"


def test_inpainting_changes_its_text_as_well(engine: Engine, models: dict[str, LoadedModel], image: Image.Image):
    mask = Image.new("L", (64, 64), 255)
    for mask_blend in ("x0", "x"):
        request = changed(REQUEST, prompt="a [cat:dog:0.5]", strength=1.0, mask_blend=mask_blend)
        assert texts(engine, models["sd"], request, CAT_DOG, image=image, mask=mask) == "aaaaabbbbb"


def test_a_refiner_goes_on_with_the_text_of_the_step(engine: Engine, models: dict[str, LoadedModel]):
    pipeline = TextToImage(engine, models["xl"], refiner=models["refiner"])
    request = replace(REQUEST, prompt="a [cat:dog:0.7]", refiner_switch_at=0.5)
    dog = replace(request, prompt="a dog")
    cat = replace(request, prompt="a cat")
    with contexts(models["refiner"]) as seen:
        list(pipeline(request))
    told = [
        encode_prompts(models["refiner"], pipeline.resolve(each)).cond.context[0] for each in (cat, cat, dog, dog, dog)
    ]
    assert len(seen) == 5
    assert all(torch.equal(context[-1], one) for context, one in zip(seen, told, strict=True))


def test_the_negative_prompt_changes_on_its_own_steps(engine: Engine, models: dict[str, LoadedModel]):
    model = models["sd"]
    request = replace(REQUEST, prompt="a [cat:dog:0.5]", negative_prompt="[red:blue:0.3]", num_steps=10)
    found = encode_prompts(model, TextToImage(engine, model).resolve(request))
    assert [last for last, _ in found.moments] == [3, 5, 10]
    first, second, third = (told for _, told in found.moments)
    assert torch.equal(first.cond.context, second.cond.context)
    assert not torch.equal(second.cond.context, third.cond.context)
    assert not torch.equal(first.uncond.context, second.uncond.context)
    assert torch.equal(second.uncond.context, third.uncond.context)


def test_texts_are_encoded_once_each(engine: Engine, models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch):
    model, read = models["sd"], []
    original = type(model).encode_prompt
    monkeypatch.setattr(
        type(model), "encode_prompt", lambda self, *args, **kwargs: read.append(args) or original(self, *args, **kwargs)
    )
    request = replace(REQUEST, prompt="a [cat|dog|cat] AND a cat", num_steps=1000)
    found = encode_prompts(model, TextToImage(engine, model).resolve(request))
    assert len(read) == 3  # cat, dog, the empty negative
    assert len({id(told) for _, told in found.moments}) == 2


@pytest.mark.slow
def test_a_constant_prompt_in_the_signs_of_a_schedule_is_the_plain_one(engine: Engine, models: dict[str, LoadedModel]):
    """Bit by bit, whatever the sampler does."""
    for sampler in ("euler", "heun", "dpmpp_2m", "ddim_cfgpp"):
        request = replace(REQUEST, sampler=sampler, num_steps=4, guidance_rescale=0.0)
        pipeline = TextToImage(engine, models["sd"])
        plain = pipeline.pixels(request)
        assert torch.equal(pipeline.pixels(replace(request, prompt="a [cat:dog:99]")), plain)
        assert torch.equal(pipeline.pixels(replace(request, prompt="[a cat|a cat]")), plain)


@pytest.mark.parametrize(
    "sampler",
    ["euler", *(pytest.param(name, marks=pytest.mark.slow) for name in ("heun", "dpmpp_2m_sde")), "ddim_cfgpp"],
)  # nine drawings each: quick with a plain sampler, and with one that guides in its own way
@pytest.mark.sampled(2)
def test_the_same_prompt_twice_with_half_the_weight_is_the_prompt(
    engine: Engine, models: dict[str, LoadedModel], sampler: str
):
    for values in ({}, {"guidance_rescale": 0.7}, {"guidance_scale": 1.0, "width": 128}):
        request = changed(REQUEST, sampler=sampler, num_steps=4, **values)
        pipeline = TextToImage(engine, models["sd"])
        plain = pipeline.pixels(request)
        halves = pipeline.pixels(replace(request, prompt="a cat :0.5 AND a cat :0.5"))
        other = pipeline.pixels(replace(request, prompt="a cat AND a dog"))
        gap, change = ((each - plain).abs().mean() for each in (halves, other))
        assert gap < 0.1 * change  # what float32 makes of another order of sums, enlarged by a random network


def test_a_weight_is_a_share_of_the_guidance(engine: Engine, models: dict[str, LoadedModel]):
    """w AND the empty prompt, which is the unconditional text, is guidance of w times the scale."""
    pipeline = TextToImage(engine, models["sd"])
    expected = pipeline.pixels(replace(REQUEST, guidance_scale=6.0))
    found = pipeline.pixels(replace(REQUEST, guidance_scale=4.0, prompt="a cat :1.5 AND "))
    assert (found - expected).abs().mean() < 1e-4


def test_prompts_of_other_lengths_join_and_sdxl_takes_them_too(engine: Engine, models: dict[str, LoadedModel]):
    long = "cat " * 100
    for name in ("sd", "xl"):
        request = replace(REQUEST, prompt=f"{long} AND a dog :0.5 AND [a|b]", negative_prompt="red", num_steps=4)
        found = encode_prompts(models[name], TextToImage(engine, models[name]).resolve(request))
        _, told = found.moments[0]
        assert told.cond.context.shape[:2] == (3, 2 * 77)
        assert told.uncond.context.shape[:2] == (1, 2 * 77)
        assert told.weights == (1.0, 0.5, 1.0)
        # A1111: the shorter of prompts that are joined repeats its last vector.
        assert torch.equal(told.cond.context[1, 77:], told.cond.context[1, 76].expand(77, -1))
        assert len(list(TextToImage(engine, models[name])(request))) == 1


def test_joined_prompts_edit_a_picture(engine: Engine, models: dict[str, LoadedModel], image: Image.Image):
    pipeline = TextToImage(engine, models["edit"])
    request = replace(REQUEST, num_steps=4)
    plain = pipeline.pixels(request, image=image)
    halves = pipeline.pixels(replace(request, prompt="a cat :0.5 AND a cat :0.5"), image=image)
    assert (halves - plain).abs().mean() < 1e-4
    changing = pipeline.pixels(replace(request, prompt="[a cat:a dog:0.5] AND a cat"), image=image)
    assert (changing - plain).abs().mean() > 1e-3


def test_guidance_by_text_and_picture_adds_joined_prompts():
    """Closed form: the network says what it is told."""

    def network(z: Tensor, timestep: Tensor, told: Conditioning) -> Tensor:
        return told.context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) + 0 * z

    def told(*values: float) -> Conditioning:
        return Conditioning(context=torch.tensor(values).reshape(-1, 1, 1))

    edit = InstructPix2PixNetwork(network, told(3.0, 5.0), told(1.0), told(0.5), 7.0, 1.5, weights=(1.0, 0.5))
    guided, uncond = edit.with_uncond(torch.zeros(1, 4, 2, 2), torch.zeros(1))
    assert guided[0, 0, 0, 0].item() == pytest.approx(0.5 + 7.0 * (2.0 + 0.5 * 4.0) + 1.5 * 0.5)
    assert uncond[0, 0, 0, 0].item() == pytest.approx(1.0)


def test_a_text_that_changes_goes_by_the_clock():
    class Says:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, z: Tensor, timestep: Tensor) -> Tensor:
            return z + self.value

        def with_uncond(self, z: Tensor, timestep: Tensor) -> Tensor:
            return torch.stack([z + self.value, z])

    clock = Clock(6)
    network = PromptEditing(clock, [(2, Says(1.0)), (3, Says(2.0)), (5, Says(3.0))])
    late = replace(network, shift=0)
    said, later = [], []
    for clock.step in range(6):
        said.append(network(torch.zeros(1), torch.zeros(1)).item())
        later.append(late.with_uncond(torch.zeros(1), torch.zeros(1))[0].item())
    assert said == [1, 1, 2, 3, 3, 3]  # the last holds to the end
    assert later == [1, 1, 1, 2, 3, 3]


def test_a_model_that_is_told_its_guidance_takes_schedules_and_refuses_and(
    engine: Engine, models: dict[str, LoadedModel]
):
    pipeline = TextToImage(engine, models["lcm"])
    list(pipeline(replace(REQUEST, prompt="a [cat:dog:0.5]", num_steps=4, width=128, height=128)))
    with pytest.raises(RequestError, match="AND needs classifier-free guidance"):
        list(pipeline(replace(REQUEST, prompt="a cat AND a dog", num_steps=4)))


def test_texts_without_end_are_refused_before_they_fill_memory(engine: Engine, models: dict[str, LoadedModel]):
    model = models["sd"]
    primes = ["|".join(f"w{i}" for i in range(count)) for count in (2, 3, 5, 7, 11)]
    many = " ".join(f"[{each}]" for each in primes)  # another text at each of 1000 steps
    for prompt in (many, many + " word" * 5000):
        with pytest.raises(PromptError, match="over 1000 steps") as error:
            encode_prompts(model, TextToImage(engine, model).resolve(replace(REQUEST, prompt=prompt, num_steps=1000)))
        assert error.value.reason == "prompt_limit"


def test_a_second_pass_counts_from_the_start_of_the_first(engine: Engine, models: dict[str, LoadedModel]):
    """As in A1111: a share of 1.5 is the middle of the second pass, which has every earlier change behind it."""
    hires = HiresPass(scale=2.0, strength=1.0, num_steps=4)
    request = replace(REQUEST, num_steps=4, hires=hires)
    # A context of either pass is recognised: their texts are the same.
    for prompt, expected in (
        ("a [cat:dog:0.5]", "aabb" + "bbbb"),
        ("a [cat:dog:1.5]", "aaaa" + "aabb"),
        ("a [cat:dog:5]", "aaaa" + "abbb"),
    ):
        assert texts(engine, models["sd"], replace(request, prompt=prompt), CAT_DOG) == expected


def test_a_long_prompt_beside_a_short_negative_one(engine: Engine, models: dict[str, LoadedModel], image: Image.Image):
    """A1111 asks the network for each alone; in equal lengths there is no difference to the padded way."""
    long = "cat " * 100
    wide = image.resize((128, 64))
    for name, given in (("sd", {}), ("xl", {}), ("edit", {"image": wide})):
        pipeline = TextToImage(engine, models[name])
        asked = changed(REQUEST, prompt=f"{long} AND a dog", num_steps=2, width=128, uneven_chunks="apart")
        found = encode_prompts(models[name], pipeline.resolve(asked, **given))
        assert (found.cond.context.shape[1], found.uncond.context.shape[1]) == (2 * 77, 77)
        with contexts(models[name]) as seen:
            apart = pipeline.pixels(asked, **given)
        assert {context.shape[1] for context in seen} == {77, 2 * 77}
        padded = pipeline.pixels(changed(asked, uneven_chunks="padded"), **given)
        assert not torch.equal(apart, padded)
        even = replace(asked, prompt="a cat AND a dog")
        assert torch.equal(
            pipeline.pixels(even, **given), pipeline.pixels(changed(even, uneven_chunks="padded"), **given)
        )
    pipeline = TextToImage(engine, models["sd"])
    assert pipeline.resolve(replace(REQUEST, preset="a1111")).conventions.uneven_chunks == "apart"
