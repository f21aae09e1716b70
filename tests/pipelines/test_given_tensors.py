"""Lists of prompts and seeds, and tensors in place of noise and prompts, on tiny random models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gesso import preprocess
from gesso.diffusion.noise import NOISE_SOURCES
from gesso.errors import GessoError
from gesso.pictures.picture_file import read_picture
from gesso.pipelines.given_tensors import PromptEmbeddings
from gesso.pipelines.picture import Picture, Progress
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.parts import HiresPass
from gesso.request.request import TextToImageRequest
from gesso.runtime.cancel import CancelToken
from gesso.runtime.engine import Engine
from gesso.studio.replay import replay, replay_recipe
from tiny_models import save_tiny_mini
from tiny_sd import TINY_REFINER, TINY_SD, TINY_SDXL, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a red cat", seed=7, num_steps=3, width=64, height=64)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextToImage]:
    base, engine = tmp_path_factory.mktemp("models"), Engine("cpu", max_models=8)
    found = {name: save_tiny_folder(base / name, family) for name, family in (("sd", TINY_SD), ("xl", TINY_SDXL))}
    found["mini"] = save_tiny_mini(base / "mini.safetensors")
    made = {name: TextToImage(engine, engine.load(path)) for name, path in found.items()}
    refiner = engine.load(save_tiny_folder(base / "refiner", TINY_REFINER))
    return made | {"refined": TextToImage(engine, made["xl"].model, refiner=refiner)}


def pixels(pictures: Any) -> list[bytes]:
    return [picture.image.tobytes() for picture in pictures]


def noise_of(pipeline: TextToImage, request: TextToImageRequest, rows: int = 1) -> torch.Tensor:
    """The noise that the request would draw."""
    shape = tuple(pipeline.latents(replace(request, num_images=1)).shape[1:])
    return NOISE_SOURCES["philox"]([request.seed] * rows, range(rows)).draw(shape)


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_a_list_of_prompts_draws_each_as_alone(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["mini"]
    requests = [replace(REQUEST, num_images=2), replace(REQUEST, prompt="a dog", seed=3), replace(REQUEST, width=96)]
    told: list[Progress] = []
    drawn = list(pipeline(requests, told.append))
    alone = [picture for request in requests for picture in pipeline(request)]
    assert [one.to_png() for one in drawn] == [one.to_png() for one in alone]
    assert list(dict.fromkeys((state.index, state.num_images) for state in told)) == [(n, 4) for n in range(4)]
    assert pixels(pipeline(tuple(requests[:1]))) == pixels(drawn[:2])


def test_seeds_one_for_all_or_one_for_each(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["mini"]
    for prompts, seed, seeds in (
        (["a cat", "a dog"], 5, [5, 5]),
        (["a cat", "a dog"], [5, 6], [5, 6]),
        ("a cat", range(2), [0, 1]),
        ("a cat", [4], [4]),
        (REQUEST, 9, [9]),
        ([REQUEST], (9,), [9]),
    ):
        pictures = list(pipeline(prompts, seed=seed))
        assert [picture.seed for picture in pictures] == seeds
    assert pixels(pipeline("a cat", seed=[3, 4])) == pixels([*pipeline("a cat", seed=3), *pipeline("a cat", seed=4)])


def test_batches_may_hold_pictures_of_several_prompts(tmp_path: Path):
    engine = Engine("cpu", rows_per_call=2)
    pipeline = TextToImage(engine, engine.load(save_tiny_mini(tmp_path / "mini.safetensors")))
    pictures = list(pipeline([REQUEST, replace(REQUEST, prompt="a dog")] * 2))
    assert [picture.recipe.request.prompt for picture in pictures] == ["a red cat", "a dog"] * 2


@pytest.mark.parametrize(
    ("request_", "seed", "words"),
    [
        ([], None, "`request` is an empty list; give at least one prompt"),
        (["a cat", 5], None, "`request` is an int, expected a TextToImageRequest or a prompt"),
        ([["a cat"]], None, "`request` is a list, expected"),
        (["a cat", "a dog"], [1], "`seed` has 1 values for 2 prompts; give one for all, or one for each"),
        ("a cat", [], "`seed` has 0 values"),
        ("a cat", "x", "seed is 'x', expected a whole number"),
        (["a cat"], [-1], "seed is -1"),
    ],
)
def test_lists_that_are_none(pipelines: dict[str, TextToImage], request_: Any, seed: Any, words: str):
    with pytest.raises(RequestError) as caught:
        pipelines["mini"](request_, seed=seed)
    assert words in caught.value.one_line


# ---- latents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "xl", "mini"])
@pytest.mark.sampled(2)
def test_the_noise_of_a_seed_as_a_tensor_draws_the_same(pipelines: dict[str, TextToImage], name: str):
    pipeline = pipelines[name]
    request = replace(REQUEST, num_images=2, sampler="euler_ancestral")  # which draws more noise on the way
    noise = noise_of(pipeline, request, 2)
    assert pixels(pipeline(request, latents=noise)) == pixels(pipeline(request))
    (other,) = pipeline(REQUEST, latents=noise[1])  # [C, h, w]
    assert pixels([other]) != pixels(pipeline(REQUEST))


def test_latents_come_out(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["sd"]
    request = replace(REQUEST, num_images=2)
    latents = pipeline.latents(request)
    assert latents.dtype == torch.float32
    with torch.inference_mode():
        decoded = torch.cat([pipeline.model.decode(row[None]) for row in latents])
    assert torch.equal(decoded.float(), pipeline.pixels(request))
    second = pipeline.latents(replace(REQUEST, hires=HiresPass(scale=2, num_steps=1)))
    assert second.shape[-1] == 2 * latents.shape[-1]
    again = pipeline.latents(REQUEST, latents=noise_of(pipeline, REQUEST))
    assert torch.equal(again, latents[:1])


def test_latents_of_several_prompts_are_given_in_a_row(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["mini"]
    noise = noise_of(pipeline, REQUEST, 2)
    prompts = [REQUEST, replace(REQUEST, prompt="a dog")]
    alone = [*pipeline(prompts[0], latents=noise[:1]), *pipeline(prompts[1], latents=noise[1:])]
    assert pixels(pipeline(prompts, latents=noise)) == pixels(alone)
    with pytest.raises(RequestError, match="`latents` has 1 rows, expected 2, one a picture"):
        pipeline(prompts, latents=noise[:1])


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (torch.zeros(1, 3, 8, 8), r"`latents` has the shape [1, 3, 8, 8], expected [1, 4, "),
        (torch.zeros(1, 4, 9, 8), "for 1 picture of 64x64 with this model"),
        (torch.zeros(2, 4, 8, 8), "`latents` has 2 rows, expected 1"),
        (torch.zeros(8, 8), "`latents` has the shape [8, 8], expected [C, h, w] or [n, C, h, w]"),
        (torch.zeros(0, 4, 8, 8), "`latents` has the shape"),
        (torch.full((1, 4, 8, 8), float("nan")), "`latents` holds NaN or infinity"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.int64), "`latents` is of torch.int64"),
        (np.zeros((1, 4, 8, 8)), "`latents` is a ndarray, expected a torch tensor"),
        ("noise", "`latents` is a str, expected a torch tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_latents_of_a_wrong_kind(pipelines: dict[str, TextToImage], latents: Any, words: str):
    with pytest.raises(RequestError) as caught:
        pipelines["sd"](REQUEST, latents=latents)
    assert (caught.value.field, words in caught.value.one_line) == ("latents", True), caught.value.one_line


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "xl", "mini"])
@pytest.mark.sampled(3)
def test_an_encoded_prompt_draws_the_same(pipelines: dict[str, TextToImage], name: str):
    pipeline = pipelines[name]
    request = replace(REQUEST, negative_prompt="a dog")
    encoded, negative = pipeline.encode(request), pipeline.encode(request, negative=True)
    assert (encoded.pooled is None) is (name == "sd")
    empty = replace(REQUEST, prompt="")
    both = pipeline(empty, prompt_embeddings=encoded, negative_prompt_embeddings=negative)
    assert pixels(both) == pixels(pipeline(request))
    one = pipeline(replace(empty, negative_prompt="a dog"), prompt_embeddings=encoded)
    assert pixels(one) == pixels(pipeline(request))
    other = pipeline(replace(REQUEST, prompt="a red cat"), negative_prompt_embeddings=negative)
    assert pixels(other) == pixels(pipeline(request))
    assert pixels(pipeline(empty, prompt_embeddings=encoded)) == pixels(pipeline(REQUEST))


def test_a_tensor_of_another_tool_is_taken(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["sd"]
    encoded = pipeline.encode(REQUEST).context
    for form in (encoded, encoded[0], encoded.double(), encoded.cpu()):
        (picture,) = pipeline(replace(REQUEST, prompt=""), prompt_embeddings=form)
        assert pixels([picture]) == pixels(pipeline(REQUEST))


def test_a_long_prompt_is_padded_as_its_text_is(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["sd"]
    long = replace(REQUEST, prompt="a red cat, " * 24)
    encoded = pipeline.encode(long)
    assert encoded.context.shape[1] > pipeline.encode(REQUEST).context.shape[1]
    assert pixels(pipeline(replace(REQUEST, prompt=""), prompt_embeddings=encoded)) == pixels(pipeline(long))


@pytest.mark.parametrize(
    ("name", "values", "embeddings", "words"),
    [
        ("sd", {"prompt": "a cat"}, None, "`prompt_embeddings` takes the place of prompt; leave one of them empty"),
        ("sd", {"hires": HiresPass(scale=2)}, None, "hires draws a second"),
        ("refined", {}, None, "but a refiner is given, too"),
        ("sd", {}, torch.zeros(1, 8, 5), "`prompt_embeddings` has 5 features, expected "),
        ("sd", {}, torch.zeros(2, 8, 5), "has 2 rows, expected 1; call once for each prompt"),
        ("sd", {}, torch.zeros(5), "has the shape [5], expected [L, D] or [1, L, D]"),
        ("sd", {}, "a cat", "`prompt_embeddings` is a str, expected a torch tensor"),
        ("sd", {}, "pooled", "this model takes no pooled part"),
        ("sd", {}, "short", "expected the same number, or multiples of"),
        ("xl", {}, "context", "this model takes a pooled part too"),
        ("xl", {}, "other", "has a pooled part of [1, 3], expected "),
    ],
)
def test_embeddings_that_do_not_fit(
    pipelines: dict[str, TextToImage], name: str, values: dict[str, Any], embeddings: Any, words: str
):
    pipeline = pipelines[name]
    own = pipeline.encode(REQUEST)
    given = {
        "pooled": PromptEmbeddings(own.context, torch.zeros(1, 3)),
        "other": PromptEmbeddings(own.context, torch.zeros(1, 3)),
        "short": own.context[:, :5],
        "context": own.context,
    }
    passed = (
        own if embeddings is None else given.get(embeddings, embeddings) if isinstance(embeddings, str) else embeddings
    )
    with pytest.raises(RequestError) as caught:
        list(pipeline(replace(REQUEST, **({"prompt": ""} | values)), prompt_embeddings=passed))
    assert words in caught.value.one_line


def test_what_has_no_one_encoding(pipelines: dict[str, TextToImage]):
    for prompt in ("[cat:dog:0.5]", "a cat AND a dog"):
        with pytest.raises(RequestError, match="so it has no one encoding"):
            pipelines["sd"].encode(replace(REQUEST, prompt=prompt))
    with pytest.raises(RequestError, match="without guidance there is no negative prompt"):
        pipelines["sd"].encode(replace(REQUEST, guidance_scale=1.0), negative=True)


# ---- recipes stay honest ---------------------------------------------------------------------------------------------


def test_a_picture_of_tensors_says_so_and_is_not_replayed(pipelines: dict[str, TextToImage], tmp_path: Path):
    pipeline = pipelines["mini"]
    noise, encoded = noise_of(pipeline, REQUEST), pipeline.encode(REQUEST)
    picture: Picture
    (picture,) = pipeline(replace(REQUEST, prompt=""), latents=noise, prompt_embeddings=encoded)
    assert [(one.kind, one.name) for one in picture.recipe.extras] == [
        ("latents", "given"),
        ("prompt_embeddings", "given"),
    ]
    assert [notice.code for notice in picture.notices] == ["tensor_given", "tensor_given"]
    picture.save(tmp_path / "x.png")
    image, recipe = read_picture(tmp_path / "x.png")
    assert recipe == picture.recipe
    for refused in (lambda: replay(tmp_path / "x.png"), lambda: replay_recipe(pipeline, image, recipe)):
        with pytest.raises(GessoError, match="given as a tensor") as caught:
            refused()
        assert (caught.value.code, caught.value.field) == ("tensor_missing", "latents")
    again = pipeline(recipe.request, latents=noise, prompt_embeddings=encoded)
    assert pixels(again) == pixels([picture])
    (other,) = pipeline(replace(REQUEST, prompt=""), latents=noise + 1, prompt_embeddings=encoded)
    assert other.recipe.extras[0].sha256 != recipe.extras[0].sha256
    assert other.recipe.extras[1].sha256 == recipe.extras[1].sha256


def test_each_picture_has_the_digest_of_its_own_row(pipelines: dict[str, TextToImage]):
    pipeline = pipelines["mini"]
    noise = noise_of(pipeline, REQUEST, 2)
    digests = [one.recipe.extras[0].sha256 for one in pipeline(replace(REQUEST, num_images=2), latents=noise)]
    (alone,) = pipeline(REQUEST, latents=noise[1:])
    assert digests[0] != digests[1] == alone.recipe.extras[0].sha256


# ---- what people pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancel", [True, False, "yes", object(), CancelToken])
def test_a_cancel_that_is_no_token(pipelines: dict[str, TextToImage], cancel: Any):
    for call in (pipelines["mini"], pipelines["mini"].runs):
        with pytest.raises(RequestError, match=r"`cancel` is .*, expected a CancelToken: pass token = ") as caught:
            call(REQUEST, cancel=cancel)
        assert caught.value.field == "cancel"


def test_preprocess_takes_pictures_in_any_form(tmp_path: Path):
    levels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    image.save(tmp_path / "x.png")
    expected = preprocess("invert", image).tobytes()
    tensor = torch.from_numpy(levels).permute(2, 0, 1)
    for form in (
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        levels,
        levels / 255,
        tensor,
        tensor.float() / 255,
        [image],
    ):
        assert preprocess("invert", form).tobytes() == expected
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :16] = 255
    for hole in (mask, Image.fromarray(mask), mask > 0, torch.from_numpy(mask)[None]):
        assert preprocess("inpaint", levels, mask=hole).getchannel("A").getextrema() == (0, 255)
    with pytest.raises(RequestError, match="`image` is an int, expected a PIL picture, the path of a file"):
        preprocess("invert", 5)
    with pytest.raises(GessoError, match=r"absent\.png"):
        preprocess("invert", tmp_path / "absent.png")
