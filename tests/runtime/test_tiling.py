"""The autoencoder, and an upscaler, in tiles gives what it gives on the whole picture."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gesso.families.loading import load_parts
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL
from gesso.runtime import tiling
from gesso.runtime.engine import Engine
from gesso.runtime.tiling import decode_tiled, encode_tiled, upscale_tiled
from tiny_sd import tiny_parts


@pytest.fixture(scope="module")
def trained() -> AutoencoderKL:
    """gesso-mini's, the one trained autoencoder at hand."""
    return load_parts(Path(str(resources.files("gesso") / "data" / "gesso-mini.safetensors"))).vae


def scene(side: int) -> Tensor:
    """Flat ground of two colours, discs and fine stripes: other things in every tile.  -> [1, 3, side, side]"""
    across = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(across, across, indexing="ij")
    picture = torch.stack([0.6 * torch.sign(x + 0.2 * y), 0.3 * y, -0.5 * x])
    for place, (cx, cy) in enumerate([(-0.6, -0.5), (0.4, -0.3), (0.1, 0.6), (-0.5, 0.5), (0.7, 0.7)]):
        disc = (x - cx) ** 2 + (y - cy) ** 2 < 0.03 + 0.01 * place
        picture[:, disc] = torch.tensor([0.9, -0.8, 0.1]).roll(place)[:, None]
    picture[:, (y > 0.8) & (torch.arange(side) % 8 < 4)[None]] = 0.9
    return picture[None]


def apart(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return (found - expected).abs().max().item()


# 127.5 levels to 1: 1e-4 is an eightieth of a level. The difference is the order of float32 sums, some 1e-6 a layer.
ROUNDING = 1e-4


def test_a_trained_decoder_leaves_no_seam(trained: AutoencoderKL):
    with torch.inference_mode():
        z = trained.encode(scene(160)).mean
        assert apart(decode_tiled(trained, z, 16), trained.decode(z)) < ROUNDING


def test_an_encoder_leaves_no_seam(trained: AutoencoderKL):
    with torch.inference_mode():
        whole, tiled = trained.encode(scene(160)), encode_tiled(trained, scene(160), 16)
    assert apart(tiled.mean, whole.mean) < ROUNDING
    assert apart(tiled.std, whole.std) < ROUNDING


def test_the_architecture_of_stable_diffusion():
    """Four levels, and sides that the tiles do not divide. Random weights are the hardest case."""
    vae = tiny_parts().vae
    z = torch.randn(1, 4, 19, 34, generator=torch.Generator().manual_seed(0)) * 0.18
    with torch.inference_mode():
        whole = vae.decode(z)
        assert apart(decode_tiled(vae, z, 16), whole) < ROUNDING
        pixels = whole.clamp(-1, 1)
        assert apart(encode_tiled(vae, pixels, 16).mean, vae.encode(pixels).mean) < ROUNDING


def test_what_the_rim_and_the_statistics_are_for(trained: AutoencoderKL, monkeypatch: pytest.MonkeyPatch):
    """Without either the tiles show, by far more than the rounding that the other tests allow."""
    with torch.inference_mode():
        z = trained.encode(scene(128)).mean
        whole = trained.decode(z)
        stages = tiling.decoder_stages
        with monkeypatch.context() as patch:
            patch.setattr(tiling, "decoder_stages", lambda vae: [replace(stage, rim=0) for stage in stages(vae)])
            assert apart(decode_tiled(trained, z, 16), whole) > 100 * ROUNDING
        with monkeypatch.context() as patch:
            patch.setattr(tiling, "decoder_stages", lambda vae: [replace(stage, parts=()) for stage in stages(vae)])
            assert apart(decode_tiled(trained, z, 16), whole) > 100 * ROUNDING


def test_rows_keep_to_themselves(trained: AutoencoderKL):
    with torch.inference_mode():
        z = torch.cat([trained.encode(scene(96)).mean, trained.encode(-scene(96)).mean])
        both = decode_tiled(trained, z, 16)
        assert apart(both[1:], decode_tiled(trained, z[1:], 16)) < ROUNDING


def test_one_tile_is_the_whole(trained: AutoencoderKL):
    with torch.inference_mode():
        z = trained.encode(scene(64)).mean
        assert torch.equal(decode_tiled(trained, z, 16), trained.decode(z))


def test_tiles_that_cannot_be(trained: AutoencoderKL):
    for tile in (8, 17):
        with pytest.raises(ValueError, match="even number of 16 or more"):
            decode_tiled(trained, torch.zeros(1, 4, 64, 64), tile)
    with pytest.raises(ValueError, match="multiples of"):
        encode_tiled(trained, torch.zeros(1, 3, 62, 64), 16)


@pytest.mark.parametrize("size", [(64, 96), (72, 40)])
@pytest.mark.sampled(2)
def test_an_upscaler_in_tiles_is_the_whole(size: tuple[int, int]):
    """The shipped one: its rim is as wide as it sees, so only the order of sums differs."""
    upscaler = Engine("cpu", "float32").load().parts.upscaler
    assert isinstance(upscaler, MiniUpscaler)
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole, tiled = upscaler(pixels), upscale_tiled(upscaler, pixels, 16)
    assert (tiled - whole).abs().max() * 127.5 < 0.02  # levels
    with pytest.raises(ValueError, match="expected a multiple of 4"):
        upscale_tiled(upscaler, pixels, 18)


def test_an_upscaler_sees_no_further_than_it_says():
    upscaler = Engine("cpu", "float32").load().parts.upscaler
    assert isinstance(upscaler, MiniUpscaler)
    sight, scale = upscaler.config.sight, upscaler.config.scale
    side = 2 * sight + 16
    pixels = torch.zeros(1, 3, side, side)
    changed = pixels.clone()
    changed[..., sight + 8, sight + 8] = 1.0
    with torch.no_grad():
        differs = (upscaler(changed) != upscaler(pixels)).any(dim=1)[0]
    assert differs.any()
    rows = differs.any(dim=1).nonzero().flatten() // scale
    assert rows.min() >= 8
    assert rows.max() <= side - 8
