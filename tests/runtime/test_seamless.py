"""Networks without an edge: what goes round in goes round out."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.models.unet import UNet
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL
from gesso.runtime.engine import Engine
from gesso.runtime.seamless import seamless
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, TINY_SDXL, tiny_parts

GENERATOR = torch.Generator().manual_seed(0)
SHIFTS = {"x": (0, 1), "y": (1, 0), "xy": (1, 1)}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def gap(network, x: Tensor, axes: str, step_in: int, step_out: int) -> tuple[float, float]:
    """Largest difference between the network of a rolled input and its rolled output: seamless, and as usual."""
    rows, columns = SHIFTS[axes]

    def rolled(y: Tensor, step: int) -> Tensor:
        return y.roll((rows * step, columns * step), (-2, -1))

    def found() -> float:
        return float((network(rolled(x, step_in)) - rolled(network(x), step_out)).abs().max())

    with torch.no_grad():
        usual = found()
        with seamless(axes):
            return found(), usual


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=lambda family: family.name)
def test_a_unet_of_a_rolled_picture_is_the_rolled_picture(family, axes: str):
    """Rolled by as many places as the coarsest level has as one."""
    unet = tiny_parts(family).unet
    assert isinstance(unet, UNet)
    context = noise(1, 77, family.unet.context_dim)
    added = noise(1, family.unet.added_dim) if family.unet.added_dim else None
    step = 2 ** (len(family.unet.channels) - 1)

    def network(x: Tensor) -> Tensor:
        return unet(x, torch.tensor([500.0]), context, added)

    round_gap, usual = gap(network, noise(1, 4, 16, 24), axes, step, step)
    assert round_gap < 1e-4 < usual  # float32, other order of sums


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_an_autoencoder_of_a_rolled_picture_is_the_rolled_picture(axes: str):
    vae, scale = tiny_parts(TINY_SD).vae, TINY_SD.vae.downscale
    assert isinstance(vae, AutoencoderKL)
    round_gap, usual = gap(vae.decode, noise(1, 4, 8, 6), axes, 1, scale)
    assert round_gap < 1e-4 < usual
    round_gap, usual = gap(lambda pixels: vae.encode(pixels).mean, noise(1, 3, 64, 48), axes, scale, 1)
    assert round_gap < 1e-4 < usual


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_an_upscaler_of_a_rolled_picture_is_the_rolled_picture(tmp_path: Path, axes: str):
    upscaler = Engine("cpu").load(save_tiny_mini(tmp_path / "tiny.safetensors")).parts.upscaler
    assert isinstance(upscaler, MiniUpscaler)
    step = upscaler.config.multiple
    round_gap, usual = gap(upscaler, noise(1, 3, 16, 16), axes, step, step * upscaler.config.scale)
    assert round_gap < 1e-4 < usual


@pytest.mark.parametrize(("size", "to"), [((4, 6), (8, 12)), ((4, 6), (6, 9)), ((6, 4), (4, 6))])
def test_enlarging_looks_round_the_edge(size: tuple[int, int], to: tuple[int, int]):
    """As the middle of three pictures in a row and three in a column."""
    x = noise(1, 2, *size)
    large = F.interpolate(x.repeat(1, 1, 3, 3), (3 * to[0], 3 * to[1]), mode="bilinear", align_corners=False)
    with seamless("xy"):
        found = F.interpolate(x, to, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, large[..., to[0] : 2 * to[0], to[1] : 2 * to[1]])


def test_nothing_is_left_behind_and_other_axes_are_refused():
    conv, x = torch.nn.Conv2d(2, 2, 3, padding=1), noise(1, 2, 5, 5)
    before = conv(x)
    with seamless("x"):
        assert not torch.equal(conv(x), before)
    assert torch.equal(conv(x), before)
    with seamless(None):
        assert torch.equal(conv(x), before)
    with pytest.raises(ValueError, match="expected x, y or xy"), seamless("z"):
        pass
