"""The networks beside diffusers and transformers, on the same random weights in float32.

Two programs that sum the same products in different order differ by float32 rounding, 6e-8 of the numbers on the way,
which grows by layers. Measured, for outputs with a standard deviation of 0.3 to 1, at these sizes and at the real
ones: UNet 1e-6 to 2e-6; VAE 0; text 0. With the real scaling factor the VAE's pixels differ by 3e-6 to 9e-6, since we
multiply by 0.18215 and divide by it again; a power of two is exact, so the small test takes one. Allowed: 1e-5 at these
sizes, 1e-4 at the real ones. pytest -s prints them.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gesso.checkpoints import diffusers as layout
from gesso.checkpoints.keymap import Rule, load, plan, shapes_of
from gesso.families.base import Family
from gesso.families.diffusers_folder import folder_configs
from gesso.families.parts import empty_networks, fill
from gesso.families.sd15 import SD15
from gesso.models.unet import UNetConfig
from tiny_sd import TINY_SD

with warnings.catch_warnings():  # theirs, not ours
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

TINY_TOLERANCE = 1e-5
FULL_TOLERANCE = 1e-4


def assert_close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    gap = (found - expected).abs().max().item()
    print(f"{what}: largest difference {gap:.1e}, standard deviation {expected.std().item():.2f}")
    assert gap < tolerance


def theirs(part: str, family: Family, **changes: Any) -> nn.Module:
    """Their network with random weights; what starts at 0 or 1 is made random too, so that it counts."""
    config = folder_configs(family)[f"{layout.folders_of(family.layout)[part]}/config.json"] | changes
    make: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
    }
    torch.manual_seed(0)
    network = make[part](config).eval().requires_grad_(False)
    for param in network.parameters():
        if param.ndim == 1:
            param.add_(0.1 * torch.randn_like(param))
    return network


def ours(part: str, family: Family, rules: Sequence[Rule], source: nn.Module) -> nn.Module:
    """Our network with the same numbers: the same memory where the shapes agree."""
    network = empty_networks(family, "test")[part]
    tensors = source.state_dict()
    rows = plan(rules, shapes_of(tensors), shapes_of(network.state_dict()), where="test")
    fill(network, load(rows, tensors), "test", device="cpu", dtype=torch.float32)
    return network


def compare_unet(
    family: Family, size: tuple[int, int], tolerance: float, *, batch: int = 2, length: int = 77, **changes: Any
) -> None:
    reference = theirs("unet", family, **changes)
    linear = changes.get("use_linear_projection", False)
    unet = ours("unet", family, layout.unet_rules(family.unet, linear=linear), reference)
    x = torch.randn(batch, family.unet.in_channels, *size)
    timestep = torch.linspace(999.0, 0.5, batch)  # fractions occur between the steps of some samplers
    context = torch.randn(batch, length, family.unet.context_dim)
    expected = reference(x, timestep, context).sample
    assert_close(f"unet {size} {list(family.unet.channels)}", unet(x, timestep, context), expected, tolerance)


def compare_vae(family: Family, size: tuple[int, int], tolerance: float) -> None:
    reference = theirs("vae", family)
    vae = ours("vae", family, layout.vae_rules(), reference)
    pixels = torch.rand(1, 3, *size) * 2 - 1
    expected = reference.encode(pixels).latent_dist
    mean, logvar = vae.moments(pixels)
    assert_close(f"vae mean {size}", mean, expected.mean, tolerance)
    assert_close(f"vae log-variance {size}", logvar, expected.logvar, tolerance)
    z = torch.randn_like(mean)
    decoded = vae.decode(z * family.vae.scaling_factor)
    assert_close(f"vae pixels {size}", decoded, reference.decode(z).sample, tolerance)


def compare_text(family: Family, tolerance: float) -> None:
    reference = theirs("text", family)
    text = ours("text", family, layout.text_rules(), reference)
    bos, eos = family.text.eos_id - 1, family.text.eos_id
    ids = torch.randint(0, bos, (2, family.text.max_length))
    ids[:, 0], ids[0, 9:], ids[1, -1] = bos, eos, eos  # a short text padded with the end, and one that fills its row
    expected = reference(ids, output_hidden_states=True)
    encoding = text(ids)
    assert len(encoding.hidden) == len(expected.hidden_states) == family.text.num_layers + 1
    # The embeddings start with a standard deviation of 0.02; everything is compared at its own scale.
    for i, (found, hidden) in enumerate(zip(encoding.hidden, expected.hidden_states, strict=True)):
        assert_close(f"text hidden {i}", found, hidden, tolerance)
    assert_close("text last", encoding.last, expected.last_hidden_state, tolerance)
    assert_close("text pooled", encoding.pooled, expected.pooler_output, tolerance)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (9, 14)])  # the last halves to odd numbers
def test_unet(size: tuple[int, int]) -> None:
    compare_unet(TINY_SD, size, TINY_TOLERANCE)


@torch.no_grad()
def test_unet_with_a_long_context() -> None:
    compare_unet(TINY_SD, (8, 8), TINY_TOLERANCE, length=154)


@torch.no_grad()
def test_unet_as_stable_diffusion_2() -> None:
    """Linear projections, heads of one width."""
    unet: UNetConfig = replace(TINY_SD.unet, num_heads=(2, 4, 4, 4))
    compare_unet(replace(TINY_SD, unet=unet), (8, 8), TINY_TOLERANCE, use_linear_projection=True)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_vae(size: tuple[int, int]) -> None:
    compare_vae(replace(TINY_SD, vae=replace(TINY_SD.vae, scaling_factor=0.25)), size, TINY_TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text(activation: Any) -> None:
    compare_text(replace(TINY_SD, text=replace(TINY_SD.text, activation=activation)), TINY_TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_unet() -> None:
    compare_unet(SD15, (32, 32), FULL_TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_vae() -> None:
    compare_vae(SD15, (128, 128), FULL_TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_text() -> None:
    compare_text(SD15, FULL_TOLERANCE)
