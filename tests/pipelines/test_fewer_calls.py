"""Guidance that ends early, deep features that are kept from call to call: what they spare, and what they change."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.models.unet import UNet
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.deep_features import DeepFeatures
from gesso.runtime.engine import Engine
from tiny_models import save_tiny_mini

STEPS = 6


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    engine = Engine("cpu")
    path: Path = save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return TextToImage(engine, engine.load(path))


@contextmanager
def rows_of_calls(draw: TextToImage) -> Iterator[list[tuple[int, bool]]]:
    """For each call of the UNet: its rows, and whether the deep levels were computed."""
    unet = draw.model.parts.unet
    assert isinstance(unet, UNet)
    calls: list[tuple[int, bool]] = []
    hooks = [
        unet.register_forward_pre_hook(lambda _module, inputs: calls.append((len(inputs[0]), False))),
        unet.mid.register_forward_pre_hook(lambda *_: calls.append((calls.pop()[0], True))),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def request(**changes: object) -> TextToImageRequest:
    plain = {"prompt": "a red car", "seed": 3, "num_steps": STEPS, "guidance_scale": 4.0, "sampler": "euler"}
    return TextToImageRequest(**{**plain, **changes})  # type: ignore[arg-type]


def pixels(draw: TextToImage, **changes: object) -> np.ndarray:
    return np.asarray(next(iter(draw(request(**changes)))).image)


def test_guidance_ends_after_its_share_of_the_steps(draw: TextToImage):
    with rows_of_calls(draw) as calls:
        drawn = pixels(draw, guidance_until=0.5)
    assert [rows for rows, _ in calls] == [2, 2, 2, 1, 1, 1]
    assert not np.array_equal(drawn, pixels(draw))
    assert np.array_equal(pixels(draw, guidance_until=1.0), pixels(draw))
    assert np.array_equal(pixels(draw, guidance_until=0.0), pixels(draw, guidance_scale=1.0))


def test_deep_levels_are_computed_in_every_nth_call(draw: TextToImage):
    with rows_of_calls(draw) as calls:
        drawn = pixels(draw, deep_cache=3)
    assert [whole for _, whole in calls] == [True, False, False, True, False, False]
    assert not np.array_equal(drawn, pixels(draw))
    assert np.array_equal(drawn, pixels(draw, deep_cache=3))  # nothing is left from a run for the next
    assert np.array_equal(pixels(draw, deep_cache=10, num_steps=1), pixels(draw, num_steps=1))


def test_a_call_of_other_rows_computes_them_anew(draw: TextToImage):
    with rows_of_calls(draw) as calls:
        pixels(draw, deep_cache=3, guidance_until=1 / 3)
    assert calls == [(2, True), (2, False), (1, True), (1, False), (1, False), (1, True)]


def test_each_text_has_features_of_its_own(draw: TextToImage):
    """Two texts by turns: each is computed once before it is kept."""
    with rows_of_calls(draw) as calls:
        pixels(draw, deep_cache=3, prompt="a [red|blue] car")
    assert [whole for _, whole in calls] == [True, True, False, False, False, False]


def test_features_of_one_conditioning_do_not_serve_another():
    deep, z = DeepFeatures(3), torch.zeros(1, 4, 8, 8)
    one, other = (Conditioning(context=torch.zeros(1, 2, 4)) for _ in range(2))
    kept = deep.of_call(z, one)
    kept[None] = [z]
    assert deep.of_call(z, other) == {}
    assert deep.of_call(z, one) is kept and deep.of_call(z, one) is kept
    assert deep.of_call(z, one) == {}, "every third call computes them"
    deep.of_call(z, one)[None] = [z]
    assert deep.of_call(torch.zeros(1, 4, 8, 16), one) == {}, "of another size"
    del other
    assert len(deep._kept) == 1, "what no run asks for any more is let go"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prompt": "a red car AND a blue car"}, "AND"),
        ({"guidance_scale": 1.0}, "guidance 1"),
        ({"sampler": "euler_cfg_pp", "guidance_scale": 1.0}, "every step"),
    ],
)
def test_guidance_that_cannot_end_early_is_told(draw: TextToImage, changes: dict[str, object], why: str):
    picture = next(iter(draw(request(guidance_until=0.5, **changes))))
    told = [notice for notice in picture.notices if notice.code == "guidance_until_left_out"]
    assert len(told) == 1 and why in told[0]
    assert not [one for one in next(iter(draw(request(guidance_until=0.5)))).notices if one.field == "guidance_until"]


def test_pictures_side_by_side_are_those_drawn_alone(draw: TextToImage):
    both = [np.asarray(picture.image) for picture in draw(request(deep_cache=2, guidance_until=0.5, num_images=2))]
    assert np.array_equal(both[0], pixels(draw, deep_cache=2, guidance_until=0.5))
    assert np.array_equal(both[1], pixels(draw, deep_cache=2, guidance_until=0.5, first_index=1))


def test_kept_features_of_the_same_input_give_the_same_output(draw: TextToImage):
    """What is left out was computed from the same latents and time, so that nothing changes."""
    unet, deep = draw.model.parts.unet, DeepFeatures(2)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])
    context, added = torch.ones(2, 16, 16), torch.ones(2, 16)
    with torch.inference_mode(), draw.model.using("unet"):
        whole = unet(x, t, context, added)
        rows = Conditioning(context=context, added=added)
        for _ in range(2):
            assert torch.equal(unet(x, t, context, added, deep=deep.of_call(x, rows).setdefault(0, [])), whole)
    with pytest.raises(ValueError, match="2 or more"):
        DeepFeatures(1)
