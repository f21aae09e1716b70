"""Overlapping tiles: they cover, they average, and what is local comes out as from the whole."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gesso.diffusion.tiles import Tile, TiledDenoiser, tiles_of


class Local:
    """A denoiser that looks `reach` places around each, and the same without a prompt, negated."""

    def __init__(self, reach: int = 0) -> None:
        self.kernel = torch.rand(1, 1, 2 * reach + 1, 2 * reach + 1, generator=torch.Generator().manual_seed(0))
        self.reach, self.seen = reach, [0, 0]

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.seen = [max(pair) for pair in zip(self.seen, x.shape[-2:], strict=True)]
        return F.conv2d(x, self.kernel, padding=self.reach) / (1 + float(sigma))

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        found = self(x, sigma)
        return torch.stack([found, -found])


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(6, 64), st.data())
def test_tiles_cover_everything_and_have_enough_in_common(height: int, width: int, tile: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, tile // 2))
    tiles = tiles_of(height, width, tile, overlap)
    count = torch.zeros(height, width)
    for one in tiles:
        assert one.of(count).shape == (one.height, one.width) == (min(tile, height), min(tile, width))
        one.of(count).add_(1)
    assert count.min() >= 1
    tops = sorted({one.top for one in tiles})
    assert all(upper + tile - lower >= overlap for upper, lower in pairwise(tops))


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(6, 24), st.data())
def test_what_looks_at_each_place_alone_is_the_same_in_tiles(height: int, width: int, tile: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, tile // 2))
    x = torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(1))
    local = Local()
    tiled = TiledDenoiser([(one, local) for one in tiles_of(height, width, tile, overlap)], overlap)
    torch.testing.assert_close(tiled(x, 2.0), local(x, 2.0))
    torch.testing.assert_close(tiled.with_uncond(x, 2.0), local.with_uncond(x, 2.0))


def test_what_looks_around_differs_only_near_the_edges_of_tiles_and_no_tile_is_larger():
    reach, tile, overlap = 2, 16, 8
    x = torch.randn(1, 1, 48, 40, generator=torch.Generator().manual_seed(1))
    whole, local = Local(reach)(x, 1.0), Local(reach)
    tiles = tiles_of(48, 40, tile, overlap)
    gaps = (TiledDenoiser([(one, local) for one in tiles], overlap)(x, 1.0) - whole).abs()[0, 0]
    inner = torch.ones(48, 40, dtype=torch.bool)
    for one in tiles:
        edge = torch.zeros(48, 40, dtype=torch.bool)
        one.of(edge).fill_(True)
        Tile(one.top + reach, one.left + reach, tile - 2 * reach, tile - 2 * reach).of(edge).fill_(False)
        inner &= ~edge
    assert gaps[inner].max() < 1e-5
    assert gaps.max() > 1e-3
    assert local.seen == [tile, tile]


def test_two_tiles_pass_smoothly_into_each_other():
    """One says 0, the other 1: in between it rises steadily, without a jump above the slope of the sine."""

    class Says(Local):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
            return torch.full_like(x, self.value)

    left, right = tiles_of(8, 24, 16, 8)
    found = TiledDenoiser([(left, Says(0.0)), (right, Says(1.0))], 8)(torch.zeros(1, 1, 8, 24), 1.0)[0, 0, 0]
    steps = found.diff()
    assert (steps >= 0).all()
    assert steps.max() < 0.25
    assert (found[:8] == 0).all()
    assert (found[16:] == 1).all()
    # The quarters of a sine wave, squared: the left tile's is the cosine's, so the two add up to 1 at every place.
    sine = (torch.arange(8, dtype=torch.float64) + 0.5).mul(torch.pi / 16).sin().square()
    torch.testing.assert_close(found[8:16].double(), sine, atol=1e-7, rtol=1e-6)  # float32


def test_an_overlap_as_wide_as_a_tile_is_refused():
    with pytest.raises(ValueError, match="expected an overlap of 0 to 7"):
        tiles_of(8, 8, 8, 8)
