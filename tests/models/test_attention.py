"""Attention in low precision."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.models.unet import UNet
from gesso.nn.attention import Attention
from tiny_sd import TINY_SD21, TINY_X4


@torch.no_grad()
@pytest.mark.parametrize("upcast", [False, True])
def test_scores_in_float32(monkeypatch: pytest.MonkeyPatch, upcast: bool) -> None:
    """What SD 2.1 needs: its scores leave the range of float16. torch's kernels for the CPU keep them in float32 in any
    case, so the numbers do not show it here; what the kernel is given does.
    """
    given: list[torch.dtype] = []
    original = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        given.extend((q.dtype, k.dtype, v.dtype))
        return original(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    torch.manual_seed(0)
    attention = Attention(32, 4, upcast=upcast).half()
    x = torch.randn(1, 16, 32).half()
    found = attention(x)
    assert found.dtype == torch.float16
    assert set(given) == {torch.float32 if upcast else torch.float16}
    expected = attention.float()(x.float())
    # q, k, v, the mixture and the output are each rounded to float16 once: some steps of 2**-10 of the largest number.
    assert (found - expected).abs().max() < 8 * 2**-10 * expected.abs().max()


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
