"""What a UNet computes from the text alone: once for a conditioning, and with the same bits."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel
from tiny_models import save_tiny_mini


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return Engine("cpu", "float32").load(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture
def computed(model: LoadedModel) -> Iterator[list[str]]:
    """Names of the modules that computed something from the text, in order."""
    names: list[str] = []

    def note(name: str) -> object:
        return lambda *_: names.append(name)

    layers = dict(model.parts.unet.named_modules())
    handles = [
        layer.register_forward_hook(note(name))
        for name, layer in layers.items()
        if name.endswith(("cross_attention.to_k", "cross_attention.to_v"))
    ]
    assert len(handles) > 2
    yield names
    for handle in handles:
        handle.remove()


def text(model: LoadedModel, seed: int) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    family = model.family
    return Conditioning(
        context=torch.randn(2, 5, family.unet.context_dim, generator=generator),
        added=torch.randn(2, family.unet.added_dim or 0, generator=generator),
    )


@torch.inference_mode()
def call(model: LoadedModel, conditioning: Conditioning, seed: int, **more: object) -> Tensor:
    side = model.family.native_size // model.family.vae.downscale
    z = torch.randn(2, model.family.unet.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
    return model.predict(z, torch.full((2,), 500.0 + seed), conditioning, **more)


def test_a_text_is_computed_once_and_the_bits_are_the_same(model: LoadedModel, computed: list[str]):
    first, second = text(model, 0), text(model, 1)
    fresh = [call(model, text(model, 0), seed) for seed in range(3)]
    once = len(set(computed))
    computed.clear()
    for seed, expected in enumerate(fresh):
        assert torch.equal(call(model, first, seed), expected)
    assert len(computed) == once
    assert not torch.equal(call(model, second, 0), fresh[0])
    assert len(computed) == 2 * once
    assert torch.equal(call(model, first, 0), fresh[0])
    assert len(computed) == 2 * once


def test_nothing_is_kept_with_adapters(model: LoadedModel, computed: list[str]):
    conditioning = text(model, 0)
    call(model, conditioning, 0)
    once = len(computed)
    for _ in range(2):
        call(model, conditioning, 0, adapters=nullcontext(1))
    assert len(computed) == 3 * once


def test_what_is_kept_goes_with_the_conditioning(model: LoadedModel):
    conditioning = text(model, 0)
    call(model, conditioning, 0)
    assert conditioning in model.shared.kept
    kept = len(model.shared.kept)
    del conditioning
    assert len(model.shared.kept) == kept - 1
