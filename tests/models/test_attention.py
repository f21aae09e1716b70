"""Attention in low precision."""

import pytest
import torch
from torch.nn import functional as F

from gesso.models.unet import UNet
from gesso.nn.attention import Attention
from tiny_sd import TINY_SD21, TINY_X4


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_float32(dtype: torch.dtype) -> None:
    """What SD 2.1 needs: its scores leave the range of float16. Queries and keys of a size that shows the difference."""
    torch.manual_seed(0)
    attention = Attention(32, 4, upcast=True)
    attention.to_q.weight.mul_(30)
    attention.to_k.weight.mul_(30)
    attention.to(dtype)
    x = torch.randn(1, 16, 32, dtype=dtype)

    def split(layer: torch.nn.Module) -> torch.Tensor:
        return layer(x).unflatten(2, (4, -1)).transpose(1, 2)

    q, k, v = (split(layer) for layer in (attention.to_q, attention.to_k, attention.to_v))
    scores = q.float() @ k.float().transpose(-1, -2) / 8**0.5
    mixed = F.softmax(scores, dim=-1) @ v.float()
    expected = attention.to_out(mixed.to(dtype).transpose(1, 2).flatten(2))
    found = attention(x)
    assert found.dtype == dtype
    # One rounding of the mixture, so no more than a step of the format apart.
    torch.testing.assert_close(found, expected, atol=0, rtol=2 * torch.finfo(dtype).eps)
    attention.upcast = False
    assert (attention(x) - expected).abs().max() > 10 * torch.finfo(dtype).eps * expected.abs().max() or (
        dtype == torch.float16
    )


def test_every_attention_of_sd21_computes_its_scores_in_float32() -> None:
    with torch.device("meta"):
        unet = UNet(TINY_SD21.unet)
    found = [module.upcast for module in unet.modules() if isinstance(module, Attention)]
    assert len(found) == 2 * 16
    assert all(found)


def test_levels_of_the_x4_upscaler_that_look_at_the_text_alone() -> None:
    with torch.device("meta"):
        unet = UNet(TINY_X4.unet)
    flags = {
        name: module.attentions[0].blocks[0].cross_only
        for name, module in unet.named_modules()
        if name in ("down.1", "down.2", "down.3", "up.0", "up.1", "up.2")
    }
    only, both = ("down.1", "down.2", "up.1", "up.2"), ("down.3", "up.0")
    assert flags == dict.fromkeys(only, True) | dict.fromkeys(both, False)
    assert not unet.mid.attention.blocks[0].cross_only


@torch.no_grad()
def test_the_noise_level_is_asked_for() -> None:
    unet = UNet(TINY_X4.unet)
    x, t, context = torch.randn(2, 7, 8, 8), torch.tensor([1, 2]), torch.randn(2, 3, 32)
    with pytest.raises(ValueError, match="noise level missing, noise_levels 1000"):
        unet(x, t, context)
    first, second = (unet(x, t, context, level=torch.tensor(levels)) for levels in ([0, 20], [5, 20]))
    assert not torch.equal(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])
    with pytest.raises(ValueError, match="noise level given, noise_levels None"):
        UNet(TINY_SD21.unet)(x[:, :4], t, context, level=torch.tensor([0, 20]))
