"""The networks against numbers that the original implementations gave for the same weights.

The weights are those of tests/hashed_weights.py under the names of the original files, so every run also checks the
key maps: a tensor in the wrong place gives other numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gesso.checkpoints import keymap, ldm, taesd
from gesso.checkpoints.controlnets import ControlNetFile
from gesso.checkpoints.keymap import Rule
from gesso.checkpoints.shared import clip_rules, openclip_rules
from gesso.families.parts import empty_networks, fill
from gesso.families.sd15 import SD15
from gesso.models.clip import CLIPTextConfig, CLIPTextModel
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.models.taesd import TAESD, TAESDConfig
from gesso.models.unet import UNet, UNetConfig
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.nn.embedding import sinusoid
from hashed_weights import HashedSource, normal

GOLDEN = Path(__file__).parents[1] / "golden"
SAVED = load_file(GOLDEN / "models.safetensors")

# Summing in another order moves a float32 result by some 1e-6 of its standard deviation for each layer in turn.
TOLERANCE = 2e-5


def filled(network: nn.Module, rules: Sequence[Rule], prefix: str = "") -> nn.Module:
    """The network with hashed weights under the names that the rules give its tensors in a file."""
    params = keymap.shapes_of(network.state_dict())
    shapes = keymap.shapes_of(keymap.save(rules, network.state_dict()))
    rows = keymap.plan(rules, shapes, params, where="golden")
    fill(network, keymap.load(rows, HashedSource(shapes, prefix)), "golden", device="cpu", dtype=torch.float32)
    return network


def meta(cls: type[nn.Module], config: Any) -> nn.Module:
    with torch.device("meta"):
        return cls(config)


def assert_golden(found: Tensor, name: str, tolerance: float = TOLERANCE) -> None:
    expected = SAVED[name]
    gap = (found - expected).abs().max().item() / expected.std().item()
    print(f"{name}: largest difference {gap:.1e} of the standard deviation")
    assert gap < tolerance


UNETS = {
    "sd1_unet": UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(32, 64, 128, 128),
        attention=(1, 1, 1, 0),
        mid_attention=1,
        num_heads=(8, 8, 8, 8),
        num_res_blocks=2,
        context_dim=64,
    ),
    "sd2_unet": UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(32, 64, 128, 128),
        attention=(1, 1, 1, 0),
        mid_attention=1,
        num_heads=(2, 4, 8, 8),
        num_res_blocks=2,
        context_dim=64,
    ),
    "sdxl_unet": UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(32, 64, 128),
        attention=(0, 2, 3),
        mid_attention=3,
        num_heads=(2, 4, 8),
        num_res_blocks=2,
        context_dim=64,
        added_dim=96,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", UNETS)
@pytest.mark.sampled(3)
def test_unet(name: str) -> None:
    config = UNETS[name]
    unet = filled(meta(UNet, config), ldm.unet_rules(config, linear=name != "sd1_unet"))
    added = normal("y", (2, 96)) if config.added_dim else None
    out = unet(normal("x", (2, 4, 16, 16)), torch.tensor([981, 1]), normal("context", (2, 11, 64)), added)
    assert_golden(out, name)


@torch.no_grad()
def test_controlnet() -> None:
    """Of its authors' program, and the UNet that it steers. Zero convolutions are filled, too; the numbers grow.

    The outputs of half the size and below are saved: all others went into them.
    """
    config = ControlNetConfig(unet=UNETS["sd1_unet"])
    rules = ControlNetFile({}, "control_model.", folder=False).rules(config, linear=False)
    control = filled(meta(ControlNet, config), rules)
    unet = filled(meta(UNet, UNETS["sd1_unet"]), ldm.unet_rules(UNETS["sd1_unet"]))
    given = normal("x", (2, 4, 16, 16)), torch.tensor([981, 1]), normal("context", (2, 11, 64))
    said = control(*given, normal("hint", (2, 3, 128, 128)))
    for number, output in enumerate(said[4:], start=4):
        assert_golden(output, f"controlnet_{number:02}", 5e-5)
    assert_golden(unet(*given, control=said), "sd1_unet_with_control", 5e-5)


@torch.no_grad()
def test_vae() -> None:
    config = VAEConfig(channels=(32, 64, 128, 128), num_res_blocks=2, latent_channels=4, scaling_factor=0.5)
    vae = filled(meta(AutoencoderKL, config), ldm.vae_rules(config))
    mean, logvar = vae.moments(0.5 * normal("image", (1, 3, 64, 64)))
    assert_golden(torch.cat([mean, logvar], dim=1), "vae_moments")
    assert_golden(vae.decode(config.scaling_factor * normal("z", (1, 4, 8, 8))), "vae_decode")


CLIP = CLIPTextConfig(
    vocab_size=49408,
    max_length=77,
    dim=64,
    num_layers=4,
    num_heads=4,
    mlp_dim=256,
    activation="quick_gelu",
    eos_id=49407,
)


@torch.no_grad()
def test_clip() -> None:
    text = filled(meta(CLIPTextModel, CLIP), clip_rules())
    encoding = text(SAVED["clip_ids"])
    assert_golden(encoding.last, "clip_last")
    assert_golden(encoding.hidden[-2], "clip_penultimate")
    assert_golden(encoding.pooled, "clip_pooled")


@torch.no_grad()
def test_clip_skip_is_an_earlier_layer_with_the_last_norm() -> None:
    text = filled(meta(CLIPTextModel, CLIP), clip_rules())
    assert_golden(text.norm(text(SAVED["clip_ids"]).hidden[-2]), "clip_skip_2")


@torch.no_grad()
def test_openclip() -> None:
    """Stacked projections of the attention, and a text_projection that is turned over."""
    config = replace(CLIP, activation="gelu", projection_dim=48)
    text = filled(meta(CLIPTextModel, config), openclip_rules())
    encoding = text(SAVED["openclip_ids"])
    assert_golden(encoding.hidden[-2], "openclip_penultimate")
    assert_golden(text.norm(encoding.hidden[-2]), "openclip_penultimate_norm")
    assert_golden(encoding.projected, "openclip_pooled")


@torch.no_grad()
def test_taesd() -> None:
    """Theirs has pictures in [0, 1]."""
    config = TAESDConfig()
    model = meta(TAESD, config)
    filled(model.encoder, taesd.encoder_rules(config), "encoder/")
    filled(model.decoder, taesd.decoder_rules(config), "decoder/")
    image = (0.5 * normal("image", (1, 3, 64, 64))).clamp(0, 1)
    assert_golden(model.encode(image * 2 - 1).mean, "taesd_encode")
    assert_golden(model.decode(normal("z", (1, 4, 8, 8))) / 2 + 0.5, "taesd_decode")


def test_sizes_that_sdxl_is_told() -> None:
    """Two numbers of 256 each; angles up to 1024 rad, so the tolerance is that of test_sinusoid."""
    gap = (sinusoid(torch.tensor([1024.0, 768.0]), 256).flatten() - SAVED["size_embedding_1024_768"]).abs().max().item()
    assert gap < 1024 * 2**-24


def test_sinusoid() -> None:
    """float32 cosines of angles up to 981 rad differ by the rounding of the angle: 981 * 2**-24."""
    gap = (sinusoid(torch.tensor([981.0]), 320)[0] - SAVED["sinusoid_320_981"]).abs().max().item()
    assert gap < 981 * 2**-24


@pytest.mark.slow
@torch.no_grad()
def test_full_size() -> None:
    """The real sizes, 860 million hashed weights: statistics of the outputs of the original programs."""
    saved = json.loads((GOLDEN / "full_size_sd15.json").read_text())
    networks = empty_networks(SD15, "golden")
    unet = filled(networks["unet"], ldm.unet_rules(SD15.unet), ldm.UNET)
    out = unet(normal("x.full", (1, 4, 16, 16)), torch.tensor([981]), normal("context.full", (1, 77, 768)))
    assert_statistics(out, saved["unet_full"])
    vae = filled(networks["vae"], ldm.vae_rules(SD15.vae), ldm.VAE)
    mean, logvar = vae.moments(0.5 * normal("image.full", (1, 3, 64, 64)))
    assert_statistics(torch.cat([mean, logvar], dim=1), saved["vae_full_moments"])
    pixels = vae.decode(SD15.vae.scaling_factor * normal("z.full", (1, 4, 8, 8)))
    assert_statistics(pixels, saved["vae_full_decode"])


def assert_statistics(found: Tensor, saved: dict[str, Any]) -> None:
    assert list(found.shape) == saved["shape"]
    gap = (found.flatten()[:4] - torch.tensor(saved["first4"])).abs().max().item() / saved["std"]
    print(f"first four numbers: largest difference {gap:.1e} of the standard deviation")
    assert gap < TOLERANCE
    assert found.mean().item() == pytest.approx(saved["mean"], abs=TOLERANCE)
    assert found.std(correction=0).item() == pytest.approx(saved["std"], rel=TOLERANCE)
