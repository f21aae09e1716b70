"""Sizes and plans of the recipes; what runs on a GPU is at least traced here."""

import pytest
import torch

from gesso.errors import GessoError
from gesso.families.gesso_mini import config_of, family_from_config
from gesso.mini.default_model import DefaultModel
from gesso.mini.recipes import CPU, GPU, RECIPES, STAGES, on_device, rehearsal
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL
from gesso.scenes.caption import all_words
from gesso.scenes.vocabulary import things
from gesso.text.tokenizer import learn_vocabulary
from toy_training import OBJECTS, PREPARED, glyphs

LIMIT = 60e6  # bytes of the file that ships


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_file_fits(recipe):
    """Parameters in half precision, with room for the texts; the family passes the checks of a file from a stranger."""
    objects = things(recipe.objects)
    family = recipe.family(learn_vocabulary(all_words(objects), 4096, length=recipe.text_length), objects, 1.0)
    assert family_from_config(config_of(family), "here") == family
    with torch.device("meta"):
        networks = (
            UNet(family.unet),
            CLIPTextModel(family.text),
            AutoencoderKL(family.vae),
            MiniUpscaler(family.upscaler),
        )
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert 2 * count < LIMIT - 1e6
    assert family.output_size == 256


def test_plans_of_the_gpu_take_less_than_25_minutes():
    assert sum(getattr(GPU, stage).minutes for stage in STAGES) <= 25
    assert all(getattr(CPU, stage).minutes is None for stage in STAGES)


def test_pools_and_batches_divide():
    for recipe in RECIPES.values():
        assert recipe.pool_size % recipe.denoising.batch_size == 0
        assert recipe.pool_size % recipe.grounding.batch_size == 0


def test_the_gpus_recipe_needs_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GessoError, match=r"'gpu' trains on 'cuda'.*`device`.*`recipe=cpu`"):
        DefaultModel(GPU, tmp_path, OBJECTS, glyphs())


def test_on_a_cpu_a_recipe_runs_uncompiled():
    assert on_device(GPU, "cuda") is GPU
    assert on_device(GPU, "cuda:1").compile
    moved = on_device(GPU, "cpu")
    assert (moved.device, moved.compile, moved.precision) == ("cpu", False, "auto")
    assert moved.unet == GPU.unet


def test_a_rehearsal_is_the_same_networks_for_a_few_steps():
    short = rehearsal(GPU)
    assert (short.unet, short.vae, short.compile) == (GPU.unet, GPU.vae, True)
    assert all(getattr(short, stage).total_samples == 12 and getattr(short, stage).minutes is None for stage in STAGES)


@pytest.mark.slow
def test_each_network_is_one_graph():
    """torch.compile must not fall out of a network: no backend here, the tracing alone (fullgraph raises otherwise)."""
    tokenizer = learn_vocabulary(all_words(OBJECTS), 4096, length=32)
    family = PREPARED.family(tokenizer, OBJECTS, 1.0)
    unet, text, vae = UNet(family.unet), CLIPTextModel(family.text), AutoencoderKL(family.vae)
    palette = MiniUpscaler(family.upscaler).palette
    ids, latents = tokenizer.encode(["a cat", ""]), torch.randn(2, family.vae.latent_channels, 8, 8)
    with torch.no_grad():
        encoding = text(ids)
        calls = [
            (text, (ids,), lambda out: out.last),
            (unet, (latents, torch.arange(2), encoding.last, encoding.pooled), lambda out: out),
            (unet.draft, (encoding.last,), lambda out: out),
            (vae.encoder, (torch.zeros(2, 3, 32, 32),), lambda out: out),
            (vae.decoder, (latents,), lambda out: out),
            (palette, (torch.zeros(2, 3, 32, 32),), lambda out: out),
        ]
        torch._dynamo.reset()
        for network, arguments, read in calls:
            traced = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
            torch.testing.assert_close(read(traced(*arguments)), read(network(*arguments)))
        torch._dynamo.reset()
