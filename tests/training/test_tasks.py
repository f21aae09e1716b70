"""Each task at toy size, on pictures of a few drawn shapes instead of the font's glyphs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gesso.diffusion.schedule import scaled_linear
from gesso.errors import GessoError
from gesso.families.loading import load_parts
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.scenes.vocabulary import things
from gesso.training.default_model import DefaultModel
from gesso.training.denoising import LatentPool
from gesso.training.recipes import CPU

OBJECTS = things()[:6]
SMALL = replace(
    CPU,
    native_size=32,
    vae=replace(CPU.vae, channels=(8, 16), norm_groups=4),
    unet=replace(
        CPU.unet,
        channels=(8, 16),
        attention=(0, 1),
        num_heads=(1, 2),
        context_dim=16,
        added_dim=16,
        draft_size=8,
        norm_groups=4,
    ),
    text_dim=16,
    text_layers=1,
    text_heads=2,
    upscaler=replace(CPU.upscaler, channels=8, num_blocks=1),
    crop=16,
    pool_size=16,
    **{
        stage: replace(getattr(CPU, stage), batch_size=4, total_samples=32, warmup_samples=4)
        for stage in ("autoencoder", "grounding", "denoising", "upscaling")
    },
)


def glyphs():
    """Discs and squares of six colours, in place of the font's glyphs."""
    rng = np.random.default_rng(0)
    drawn = np.zeros((len(OBJECTS), 128, 128, 4), np.uint8)
    y, x = np.mgrid[:128, :128] - 63.5
    for i, glyph in enumerate(drawn):
        inside = x**2 + y**2 < 50**2 if i % 2 else np.maximum(abs(x), abs(y)) < 50
        glyph[inside] = [*rng.integers(0, 256, 3), 255]
    return drawn


@pytest.fixture
def making(tmp_path):
    return DefaultModel(SMALL, tmp_path / "making", OBJECTS, glyphs())


def test_all_stages_end_in_a_file_that_loads(making, tmp_path):
    rows = []
    for stage in ("autoencoder", "grounding", "denoising", "upscaling"):
        making.train(stage, stop_after=60, on_log=rows.append)
    path = tmp_path / "model.safetensors"
    family = making.export(path, {"title": "toy"})
    parts = load_parts(path)
    assert parts.family == family
    assert set(parts.family.objects) == {thing.name for thing in OBJECTS}
    assert parts.family.output_size == 128
    trained = making._average("upscaling")["decoder"]["conv_in.weight"]
    torch.testing.assert_close(parts.vae.decoder.conv_in.weight, trained, atol=1e-3, rtol=1e-3)  # half precision
    for name, value in making._average("autoencoder")["vae"].items():  # the last stage trains the decoder, no more
        trained_last = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(parts.vae.state_dict()[name].half(), value.half()) != trained_last, name
    assert {"psnr", "right_999", "psnr_large"} <= {key for row in rows for key in row}


def test_a_later_stage_asks_for_the_earlier(making):
    with pytest.raises(GessoError, match="Train the stage 'autoencoder' first"):
        making.train("denoising", stop_after=1, on_log=print)


def test_latents_have_unit_deviation(making):
    making.train("autoencoder", stop_after=60, on_log=lambda row: None)
    vae = making._trained_vae()
    pictures = making.pictures({"single": 1.0})
    assert 0.5 < float(vae.encode(pictures.pixels(pictures.scenes(32, 1))).mean.std()) < 2.0


def test_pool_follows_from_seed_and_step_and_shows_each_picture_once_a_pass(making):
    vae = AutoencoderKL(
        VAEConfig(channels=(8,), num_res_blocks=1, latent_channels=2, scaling_factor=1.0, norm_groups=4)
    )
    vae.requires_grad_(False)
    phases = [(32, making.pictures({"single": 1.0})), (0, making.pictures({"two": 1.0}))]
    make = lambda: LatentPool(vae, phases, size=8, passes=2, device="cpu")  # noqa: E731
    pool = make()
    seen = [pool.batch(step, 4, 7) for step in range(8)]
    again = make().batch(5, 4, 7)
    assert again[0] == seen[5][0] and torch.equal(again[1], seen[5][1])
    one_pass = [scene for scenes, _ in seen[:2] for scene in scenes]
    next_pass = [scene for scenes, _ in seen[2:4] for scene in scenes]
    assert sorted(map(repr, one_pass)) == sorted(map(repr, next_pass)) and one_pass != next_pass
    assert {scene.category for scenes, _ in seen for scene in scenes} == {"single"}
    assert pool.batch(8, 4, 7)[0][0].category == "two", "the second phase begins after 32 samples"


def test_loss_of_a_perfect_network_is_zero(making):
    for stage in ("autoencoder", "grounding"):
        making.train(stage, stop_after=60, on_log=lambda row: None)
    task = making._denoising()
    latents = torch.randn(3, 4, 8, 8)
    eps = torch.randn(3, 4, 8, 8)
    times = torch.tensor([0, 500, 999])
    alphas = scaled_linear(zero_terminal_snr=True).alphas_cumprod[times].float()[:, None, None, None]
    velocity = alphas.sqrt() * eps - (1 - alphas).sqrt() * latents  # Salimans & Ho 2022, appendix D
    task.unet.forward = lambda x, t, context, added: velocity
    assert task.errors(latents, eps, times, ["", "", ""]).max() < 1e-8  # float32 rounding, squared
