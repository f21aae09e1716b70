"""Upscaler networks tile by tile."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gesso.runtime.upscaling import Upscaler, load_upscaler
from hashed_weights import normal
from upscaler_files import compact_shapes, rrdb_shapes, weights

LEVEL = 2 / 255  # one step of 8 bits in [-1, 1]


def loaded(folder: Path, tensors: dict[str, Tensor]) -> Upscaler:
    save_file(tensors, folder / "x.safetensors")
    return load_upscaler(folder / "x.safetensors")


@pytest.fixture(params=["compact", "rrdb", "folded"])
def upscaler(request: pytest.FixtureRequest, tmp_path: Path) -> Upscaler:
    shapes = {
        "compact": compact_shapes(4),
        "rrdb": rrdb_shapes("real", enlargements=1, channels=4, blocks=1),
        "folded": rrdb_shapes("real", enlargements=2, fold=2, channels=4, blocks=1),
    }[request.param]
    return loaded(tmp_path, weights(shapes))


def picture(height: int, width: int) -> Tensor:
    return (normal("picture", (1, 3, height, width)) / 3).clamp(-1, 1)


@pytest.mark.sampled(2)
def test_tiles_with_a_rim_as_wide_as_the_network_sees_leave_no_seam(upscaler: Upscaler):
    pixels = picture(61, 83)
    whole = upscaler.upscale(pixels, tile=None)
    assert whole.shape == (1, 3, 61 * upscaler.scale, 83 * upscaler.scale)
    tiled = upscaler.upscale(pixels, tile=16, rim=upscaler.sight)
    assert (tiled - whole).abs().max() < 1e-5  # sums in another order


def test_a_rim_that_is_too_narrow_shows(upscaler: Upscaler):
    """Or the test above would say nothing."""
    pixels = picture(61, 83)
    gap = (upscaler.upscale(pixels, tile=16, rim=0) - upscaler.upscale(pixels, tile=None)).abs().amax(dim=(0, 1))
    assert gap.max() > 5 * LEVEL
    if upscaler.sight < 8:  # in the middle of a tile nothing is missing
        inner = slice(upscaler.scale * upscaler.sight, upscaler.scale * (16 - upscaler.sight))
        assert gap[inner, inner].max() < 1e-5


def test_bands_are_the_picture_from_top_to_bottom(upscaler: Upscaler):
    pixels = picture(40, 20)
    bands = list(upscaler.bands(pixels, tile=16, rim=4))
    assert [band.shape[-2] for band in bands] == [16 * upscaler.scale, 16 * upscaler.scale, 8 * upscaler.scale]
    assert torch.equal(torch.cat(bands, dim=-2), upscaler.upscale(pixels, tile=16, rim=4))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (16, 17)])
def test_small_and_odd_pictures(upscaler: Upscaler, size: tuple[int, int]):
    found = upscaler.upscale(picture(*size))
    assert found.shape == (1, 3, size[0] * upscaler.scale, size[1] * upscaler.scale)
    assert found.isfinite().all() and found.abs().max() <= 1


def test_a_batch_is_its_pictures(upscaler: Upscaler):
    pixels = torch.cat([picture(9, 8), -picture(9, 8)])
    alone = torch.cat([upscaler.upscale(row[None]) for row in pixels])
    assert (upscaler.upscale(pixels) - alone).abs().max() < 1e-5


def test_bfloat16_is_near(tmp_path: Path):
    save_file(weights(compact_shapes(4)), tmp_path / "x.safetensors")
    half = load_upscaler(tmp_path / "x.safetensors", dtype=torch.bfloat16).upscale(picture(20, 20))
    assert half.dtype == torch.float32
    assert (half - load_upscaler(tmp_path / "x.safetensors").upscale(picture(20, 20))).abs().mean() < 2 * LEVEL


@pytest.mark.parametrize("tile", [{"tile": 8}, {"tile": 16, "rim": -1}])
def test_tiles_that_cannot_be(upscaler: Upscaler, tile: dict[str, int]):
    with pytest.raises(ValueError, match="expected 16 or more"):
        upscaler.upscale(picture(40, 40), **tile)
