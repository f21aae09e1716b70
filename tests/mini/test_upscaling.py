"""The loss, the measure and the disturbances that the upscaler is trained with."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from gesso.mini.upscaling import TOLERANCE, UpscalingTask, choice_gap, initialise_upscaler, steepness
from gesso.models.upscaler import MiniUpscaler, MiniUpscalerConfig

CONFIG = MiniUpscalerConfig(scale=2, channels=(8, 8), num_blocks=(1, 1), sharpness=2.0)


def edge(place, width=32):
    """Black left of a column, white from it on."""
    return (torch.arange(width) >= place).float().mul(2).sub(1).expand(1, 3, width, width).contiguous()


def test_of_one_colour_the_gap_is_the_absolute_error():
    colours, pixels = torch.rand(2, 1, 3, 4, 4), torch.rand(2, 3, 4, 4)
    gap = choice_gap(torch.randn(2, 1, 4, 4), colours, pixels)
    torch.testing.assert_close(gap, (colours[:, 0] - pixels).abs().mean())


def test_the_right_colour_costs_how_unlikely_it_was():
    """Colours far apart: -TOLERANCE * log of the share of the right one."""
    colours = torch.tensor([-1.0, 1.0])[None, :, None, None, None].expand(1, 2, 3, 1, 1)
    logits = torch.tensor([0.25, 0.75]).log()[None, :, None, None]
    gap = choice_gap(logits, colours, torch.ones(1, 3, 1, 1))
    torch.testing.assert_close(gap, -TOLERANCE * torch.tensor(0.75).log(), atol=1e-6, rtol=0)  # exp(-2 / TOLERANCE)


def test_an_edge_that_lies_here_or_there_is_best_drawn_as_one():
    """Of black or white, a grey between is the worst answer, unlike with a squared error."""
    truths = torch.cat([edge(12), edge(20)])

    def gap(*colours):
        table = torch.stack([c.expand(2, -1, -1, -1) for c in colours], dim=1)
        return float(choice_gap(torch.zeros(2, len(colours), 32, 32), table, truths))

    grey = (edge(12) + edge(20)) / 2
    assert gap(edge(12), edge(20)) < gap(grey, grey) - 0.1


def test_steepness_of_a_ramp_is_its_slope():
    ramp = torch.linspace(-0.5, 0.5, 11).expand(1, 3, 4, 11)
    assert steepness(ramp) == pytest.approx(12.75, rel=1e-4)  # a tenth of 127.5, in float32


def test_steepness_falls_with_blur_and_not_with_place():
    sharp = edge(12)
    assert steepness(edge(20)) == pytest.approx(steepness(sharp))
    assert steepness(F.avg_pool2d(sharp, 5, stride=1)) == pytest.approx(steepness(sharp) / 5, rel=1e-4)


@torch.no_grad()
def test_an_upscaler_starts_with_the_colours_of_the_small_picture():
    upscaler = MiniUpscaler(CONFIG)
    initialise_upscaler(upscaler)
    pixels = torch.rand(1, 3, 8, 8)
    _, colours = upscaler.palette(pixels)
    torch.testing.assert_close(colours[:, 0], F.interpolate(pixels, scale_factor=2.0, mode="bilinear"))


def task(**options):
    vae = SimpleNamespace(
        requires_grad_=lambda on: None, decoder=torch.nn.Conv2d(1, 1, 1), post_quant_conv=torch.nn.Conv2d(1, 1, 1)
    )
    return UpscalingTask(vae, MiniUpscaler(CONFIG), None, **options)


def test_latents_are_disturbed_as_much_as_was_said():
    z = torch.randn((64, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    generator = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    assert torch.equal(task(decoder_noise=0.0, decoder_smear=0.0).disturb(z, generator()), z)
    noisy = task(decoder_noise=0.3, decoder_smear=0.0).disturb(z, generator())
    shares = (noisy - z).std(dim=(1, 2, 3))
    assert shares.max() < 0.3 * 1.2  # 256 numbers a row: their deviation is known to 5 percent
    assert shares.max() > 2 * shares.min()
    smeared = task(decoder_noise=0.0, decoder_smear=1.0).disturb(z, generator())
    assert (smeared.std(dim=(1, 2, 3)) < z.std(dim=(1, 2, 3))).all()
    flat = torch.full((1, 4, 8, 8), 0.7)
    torch.testing.assert_close(task(decoder_noise=0.0, decoder_smear=1.0).disturb(flat, generator()), flat)


@pytest.mark.slow
def test_a_small_upscaler_learns_to_choose():
    """A crisp edge from a blurred one, in a hundred steps: steeper than what it was given, interpolated."""
    torch.manual_seed(0)
    upscaler = MiniUpscaler(CONFIG)
    initialise_upscaler(upscaler)
    places = range(8, 56, 4)
    large = torch.cat([edge(place, 64) for place in places])
    small = F.avg_pool2d(F.avg_pool2d(large, 2), 3, stride=1, padding=1, count_include_pad=False)
    optimizer = torch.optim.Adam(upscaler.parameters(), lr=1e-2)
    for _ in range(60):
        choice_gap(*upscaler.palette(small), large).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        plain = F.interpolate(small, scale_factor=2.0, mode="bicubic")
        assert steepness(upscaler(small)) > 2 * steepness(plain)
