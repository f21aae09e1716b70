"""What gesso-mini's networks have beyond Stable Diffusion's: a draft in the UNet, an upscaler, patches in the VAE."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gesso.models.unet import UNet, UNetConfig
from gesso.models.upscaler import AROUND, MiniUpscaler, MiniUpscalerConfig, mix
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.nn.attention import keeping

CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(8, 16),
    attention=(0, 1),
    mid_attention=1,
    num_heads=(1, 2),
    num_res_blocks=1,
    context_dim=16,
    draft_size=8,
    norm_groups=4,
)


def inputs(height=8, width=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 4, height, width), generator=generator)
    return x, torch.tensor([999, 10]), torch.randn((2, 5, 16), generator=generator)


@torch.no_grad()
def test_the_draft_enters_as_further_input_channels():
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    plain = UNet(replace(CONFIG, in_channels=8, draft_size=None))
    plain.load_state_dict({name: p for name, p in unet.state_dict().items() if not name.startswith("draft.")})
    x, time, context = inputs()
    expected = plain(torch.cat([x, unet.draft(context)], dim=1), time, context)
    assert torch.equal(unet(x, time, context), expected)


@torch.no_grad()
def test_the_draft_of_a_text_may_be_kept():
    torch.manual_seed(0)
    unet, calls = UNet(CONFIG), []
    unet.draft.register_forward_hook(lambda *_: calls.append(1))
    x, time, context = inputs()
    expected = unet(x, time, context), unet(x, time - 5, context)
    calls.clear()
    keeping(context, {})
    assert torch.equal(unet(x, time, context), expected[0])
    assert torch.equal(unet(x, time - 5, context), expected[1])
    assert len(calls) == 1


@torch.no_grad()
def test_the_draft_stretches_to_other_sizes():
    unet = UNet(CONFIG)
    assert unet(*inputs(12, 6)).shape == (2, 4, 12, 6)


@torch.no_grad()
def test_a_part_of_a_larger_whole_has_its_part_of_the_draft():
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    plain = UNet(replace(CONFIG, in_channels=8, draft_size=None))
    plain.load_state_dict({name: p for name, p in unet.state_dict().items() if not name.startswith("draft.")})
    x, time, context = inputs()
    window = torch.tensor([[4, 2, 16, 12]] * 2)
    part = F.interpolate(unet.draft(context), (16, 12), mode="bilinear")[..., 4:12, 2:10]
    assert torch.equal(unet(x, time, context, window=window), plain(torch.cat([x, part], dim=1), time, context))


def test_a_draft_of_odd_size_is_refused():
    with pytest.raises(ValueError, match="multiple of 2"):
        UNet(replace(CONFIG, draft_size=7))


SMALL_UPSCALER = MiniUpscalerConfig(scale=2, channels=(8, 8), num_blocks=(1, 1), sharpness=2.0)


@torch.no_grad()
def test_an_upscaler_that_knows_nothing_blurs():
    """No colour corrected, none likelier: the mean of a pixel and its neighbours two and four pixels away, enlarged."""
    upscaler = MiniUpscaler(SMALL_UPSCALER)
    for part in (upscaler.palette.corrections, upscaler.palette.likely, upscaler.palette.likely_detail):
        for parameter in part.parameters():
            parameter.zero_()
    pixels = torch.rand(1, 3, 8, 6)
    cross = torch.zeros(3, 1, 9, 9)
    cross[..., 4, ::2] = cross[..., ::2, 4] = 1 / 9
    mean = F.conv2d(F.pad(pixels, (4, 4, 4, 4), mode="replicate"), cross, groups=3)
    torch.testing.assert_close(upscaler(pixels), F.interpolate(mean, size=(16, 12), mode="bilinear"))


@torch.no_grad()
def test_an_upscaler_that_knows_the_side_takes_its_colour():
    """Right of an edge the colour on the right is likely, left of it the one on the left: nothing between is left."""
    upscaler = MiniUpscaler(SMALL_UPSCALER)
    left, right = AROUND.index((0, -2)), AROUND.index((0, 2))
    sure = torch.full((1, len(AROUND), 16, 16), -100.0)
    sure[:, left, :, :8] = sure[:, right, :, 8:] = 100.0
    soft = torch.tensor([-1.0, -1, -1, -0.5, 0.5, 1, 1, 1]).expand(1, 3, 8, 8)
    for part in (upscaler.palette.corrections, upscaler.palette.likely, upscaler.palette.likely_detail):
        for parameter in part.parameters():
            parameter.zero_()
    _, colours = upscaler.palette(soft)
    drawn = mix(sure, colours, 2.0)
    assert (drawn[..., :7] == -1).all() and (drawn[..., 9:] == 1).all()
    assert (drawn[..., 7] < -0.8).all() and (drawn[..., 8] > 0.8).all()


def test_the_likelier_colour_is_taken():
    """One colour left of an edge, the other right of it: the sharper the choice, the narrower the way between them."""
    logits = torch.stack([-torch.linspace(-3, 3, 13), torch.linspace(-3, 3, 13)])[None, :, None]  # [1, 2, 1, 13]
    colours = torch.tensor([-1.0, 1.0])[None, :, None, None, None].expand(1, 2, 3, 1, 13)
    for sharpness in (1.0, 4.0):
        expected = torch.tanh(sharpness * torch.linspace(-3, 3, 13))
        torch.testing.assert_close(mix(logits, colours, sharpness)[0, 0, 0], expected)


@torch.no_grad()
def test_an_upscaler_keeps_places():
    """A change at one place shows within the reach of its convolutions and nowhere else."""
    upscaler = MiniUpscaler(SMALL_UPSCALER)
    pixels = torch.rand(1, 3, 32, 32)
    changed = pixels.clone()
    changed[..., 1, 1] += 0.5
    moved = (upscaler(pixels) != upscaler(changed)).any(dim=1)[0]
    # Four 3x3 convolutions and two interpolations on patches of 2, and the patch itself, twice as large; the way over
    # the fine level, three convolutions of each level, ends before that.
    reach = 2 * 2 * (1 + 4 + 2)
    assert moved[:reach, :reach].any()
    assert not moved[reach:].any() and not moved[:, reach:].any()


def test_an_upscaler_refuses_half_a_patch():
    with pytest.raises(ValueError, match="multiples of 2"):
        MiniUpscaler(SMALL_UPSCALER)(torch.rand(1, 3, 8, 7))


@pytest.mark.parametrize("channels", [(8,), (8, 8, 8)])
def test_levels_of_an_upscaler_agree(channels):
    with pytest.raises(ValueError, match="two levels or more"):
        replace(SMALL_UPSCALER, channels=channels, num_blocks=(1, 1) if len(channels) > 2 else (1,))


@torch.no_grad()
def test_patches_of_the_autoencoder_are_folded_pixels():
    """With patches of 2 it is the plain autoencoder of 12 channels on folded pixels."""
    torch.manual_seed(0)
    config = VAEConfig(
        channels=(8, 16), num_res_blocks=1, latent_channels=4, scaling_factor=0.5, patch_size=2, norm_groups=4
    )
    vae = AutoencoderKL(config)
    plain = AutoencoderKL(replace(config, patch_size=1, image_channels=12))
    plain.load_state_dict(vae.state_dict())
    pixels = torch.rand(1, 3, 16, 16)
    assert vae.config.downscale == 4
    assert torch.equal(vae.encode(pixels).mean, plain.encode(F.pixel_unshuffle(pixels, 2)).mean)
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(vae.decode(latents), F.pixel_shuffle(plain.decode(latents), 2))
