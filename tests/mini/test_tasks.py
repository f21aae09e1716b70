"""Each task at toy size: the CPU's way to make pictures (one by one) and the GPU's (prepared), both on a CPU here."""

from dataclasses import replace

import pytest
import torch

from gesso.diffusion.schedule import scaled_linear
from gesso.errors import GessoError
from gesso.families.loading import load_parts
from gesso.mini.default_model import DefaultModel
from gesso.mini.pools import CHUNK, LatentPool, PreparedPool
from gesso.mini.recipes import STAGES
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.training.loop import Plan, load_state
from toy_training import OBJECTS, PREPARED, SMALL, glyphs


def quiet(row):
    """No log."""


@pytest.fixture(scope="module", params=[SMALL, PREPARED], ids=["one by one", "prepared"])
def made(request, tmp_path_factory):
    """All stages trained, and what they logged."""
    making, rows = DefaultModel(request.param, tmp_path_factory.mktemp("made"), OBJECTS, glyphs()), []
    for stage in STAGES:
        making.train(stage, stop_after=60, on_log=rows.append)
    return making, rows


def another(made, folder):
    """The same making from its start, in another folder."""
    return DefaultModel(made[0].recipe, folder, OBJECTS, glyphs())


@pytest.mark.sampled(2)
def test_all_stages_end_in_a_file_that_loads(made, tmp_path):
    making, rows = made
    path = tmp_path / "model.safetensors"
    family = making.export(path, {"title": "toy"})
    parts = load_parts(path)
    assert parts.family == family
    assert set(parts.family.objects) == {thing.name for thing in OBJECTS}
    assert parts.family.output_size == 32 * making.recipe.upscaler.scale
    trained = making._average("upscaling")["decoder"]["conv_in.weight"]
    torch.testing.assert_close(parts.vae.decoder.conv_in.weight, trained, atol=1e-3, rtol=1e-3)  # half precision
    for name, value in making._average("autoencoder")["vae"].items():  # the last stage trains the decoder, no more
        if name.endswith("to_k.bias"):
            continue  # the softmax does not feel it: its gradient is rounding
        trained_last = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(parts.vae.state_dict()[name].half(), value.half()) != trained_last, name
    assert {"psnr", "right_999", "psnr_large"} <= {key for row in rows for key in row}


# Each trains eleven steps.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "stage"),
    [
        (SMALL, "autoencoder"),
        pytest.param(SMALL, "denoising", marks=pytest.mark.slow),
        pytest.param(PREPARED, "autoencoder", marks=pytest.mark.slow),
        pytest.param(PREPARED, "denoising", marks=pytest.mark.slow),
    ],
    indirect=["made"],
    ids=["one by one-autoencoder", "one by one-denoising", "prepared-autoencoder", "prepared-denoising"],
)
def test_a_stage_that_was_cut_off_ends_with_the_same_bits(made, tmp_path, stage):
    """Three steps, a cut amid a segment of the pool, five steps more: the bits of eight steps."""
    making = another(made, tmp_path)
    for earlier in STAGES[: STAGES.index(stage)]:
        (tmp_path / earlier).symlink_to(made[0].folder / earlier)
    plan = getattr(making.recipe, stage)
    first = replace(plan, total_samples=12, decay_share=0.01)  # of the same rates as far as it goes
    assert [first.factor(samples) for samples in (0, 4, 8)] == [plan.factor(samples) for samples in (0, 4, 8)]
    making.train(stage, first, stop_after=60, on_log=quiet)
    assert load_state(tmp_path / stage / "last.pt")["samples"] == 12
    going_on = another(made, tmp_path)
    if going_on.recipe.prepared and stage == "denoising":  # who prepares the pictures makes no difference either
        going_on.recipe = replace(going_on.recipe, workers=1)
    going_on.train(stage, stop_after=60, on_log=quiet)
    whole, parts = made[0]._average(stage), making._average(stage)
    for module, weights in whole.items():
        for name, value in weights.items():
            assert torch.equal(value, parts[module][name]), name


def test_latents_have_unit_deviation(made):
    vae = made[0]._trained_vae()
    pictures = made[0].pictures({"single": 1.0})
    assert 0.5 < float(vae.encode(pictures.pixels(pictures.scenes(32, 1))).mean.std()) < 2.0


def test_loss_of_a_perfect_network_is_zero(made):
    task = made[0]._denoising()
    channels = made[0].recipe.vae.latent_channels
    latents, eps = torch.randn(3, channels, 8, 8), torch.randn(3, channels, 8, 8)
    times = torch.tensor([0, 500, 999])
    alphas = scaled_linear(zero_terminal_snr=True).alphas_cumprod[times].float()[:, None, None, None]
    velocity = alphas.sqrt() * eps - (1 - alphas).sqrt() * latents  # Salimans & Ho 2022, appendix D
    task.unet.forward = lambda x, t, context, added: velocity
    ids = made[0].tokenizer.encode(["", "", ""])
    assert task.errors(latents, eps, times, ids).max() < 1e-8  # float32 rounding, squared


def test_a_later_stage_asks_for_the_earlier(tmp_path):
    with pytest.raises(GessoError, match="Train the stage 'autoencoder' first"):
        DefaultModel(SMALL, tmp_path, OBJECTS, glyphs()).train("denoising", stop_after=1, on_log=quiet)


# ---- pools -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def vae():
    config = VAEConfig(channels=(8,), num_res_blocks=1, latent_channels=2, scaling_factor=1.0, norm_groups=4)
    return AutoencoderKL(config).requires_grad_(False)


def phases(making):
    return [(32, making.pictures({"single": 1.0})), (0, making.pictures({"two": 1.0}))]


def test_pool_follows_from_seed_and_step_and_shows_each_picture_once_a_pass(made, vae):
    making = made[0]
    make = lambda: LatentPool(vae, making.captions, phases(making), size=8, passes=2)  # noqa: E731
    pool = make()
    seen = [pool.scenes_and_latents(step, 4, 7) for step in range(8)]
    again = make().scenes_and_latents(5, 4, 7)
    assert again[0] == seen[5][0]
    assert torch.equal(again[1], seen[5][1])
    one_pass = [scene for scenes, _ in seen[:2] for scene in scenes]
    next_pass = [scene for scenes, _ in seen[2:4] for scene in scenes]
    assert sorted(map(repr, one_pass)) == sorted(map(repr, next_pass))
    assert one_pass != next_pass
    assert {scene.category for scenes, _ in seen for scene in scenes} == {"single"}
    assert pool.scenes_and_latents(8, 4, 7)[0][0].category == "two", "the second phase begins after 32 samples"


def test_prepared_pool_follows_from_seed_and_step_and_shows_each_picture_once_a_pass(made, vae):
    making = DefaultModel(PREPARED, made[0].folder, OBJECTS, glyphs())
    make = lambda: PreparedPool(  # noqa: E731
        vae, making.captions, phases(making), size=8, passes=2, workers=0, device="cpu"
    )
    pool = make()
    seen = [pool.batch(step, 4, 7) for step in range(8)]
    for ours, again in zip(seen[5], make().batch(5, 4, 7), strict=True):
        assert torch.equal(ours, again)
    one_pass, next_pass = ([row.numpy().tobytes() for _, rows in seen[i : i + 2] for row in rows] for i in (0, 2))
    assert sorted(one_pass) == sorted(next_pass)
    assert one_pass != next_pass
    assert seen[0][0].dtype == torch.int64
    assert seen[0][0].shape == (4, PREPARED.text_length)


def test_prepared_captions_tell_the_picture(made, vae):
    """The words of each row belong to its latents: scenes of one category told by the pool's own numbers."""
    making = DefaultModel(PREPARED, made[0].folder, OBJECTS, glyphs())
    pool = PreparedPool(
        vae, making.captions, [(0, making.pictures({"single": 1.0}))], size=8, passes=2, workers=0, device="cpu"
    )
    names = {thing.name: thing for thing in OBJECTS}
    wanted = {}
    for ids, latents in (pool.batch(step, 8, 3) for step in range(2)):
        for row, latent in zip(ids, latents, strict=True):
            told = [name for name in names if _ids_hold(making.tokenizer, row, [name, *names[name].synonyms])]
            if told:  # else the caption was left out
                wanted.setdefault(latent.numpy().tobytes(), set()).update(told)
    assert wanted
    assert all(len(told) == 1 for told in wanted.values())


def _ids_hold(tokenizer, row, words):
    found = row.tolist()
    for word in words:
        wanted = tokenizer.encode([word])[0].tolist()
        wanted = wanted[1 : wanted.index(tokenizer.eos)]
        if any(found[i : i + len(wanted)] == wanted for i in range(len(found))):
            return True
    return False


def test_segments_of_the_prepared_pool_divide_into_chunks(made, vae):
    making = DefaultModel(PREPARED, made[0].folder, OBJECTS, glyphs())
    with pytest.raises(ValueError, match=f"chunks of {CHUNK}"):
        PreparedPool(vae, making.captions, phases(making), size=CHUNK + 1, passes=1, workers=0, device="cpu")


def test_plan_by_samples_needs_no_minutes():
    plan = Plan(batch_size=1, total_samples=100, learning_rate=1.0, warmup_samples=1, decay_share=0.5, ema_decay=0.9)
    assert not plan.falls(50)
    assert plan.falls(51)
