"""Residual blocks with and without gradients: in place or not, the same bits, and what others need is not changed."""

import pytest
import torch
from torch import Tensor

from gesso.nn.resblock import ResBlock, added


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels_out", "emb_dim"), [(8, 6), (8, None), (16, 6), (16, None)])
def test_a_block_gives_the_same_bits_with_and_without_gradients(
    channels_out: int, emb_dim: int | None, dtype: torch.dtype
):
    torch.manual_seed(0)
    block = ResBlock(8, channels_out, emb_dim, norm_groups=4, eps=1e-5).to(dtype)
    x, emb = numbers(2, 8, 6, 5).to(dtype), numbers(2, emb_dim, seed=1).to(dtype) if emb_dim else None
    kept = x.clone()
    expected = block(x, emb)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(block(x, emb), expected)
        assert torch.equal(x, kept)


def test_in_place_only_where_nothing_is_lost():
    x, y = numbers(4), numbers(4, seed=1)
    with torch.no_grad():
        assert added(x.clone(), y.double()).dtype == torch.float64
        own = x.clone()
        assert added(own, y) is own and torch.equal(own, x + y)
    own = x.clone()
    assert added(own, y) is not own and torch.equal(own, x)
