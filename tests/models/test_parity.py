"""The networks beside diffusers and transformers, on the same random weights in float32.

Two programs that sum the same products in different order differ by float32 rounding, 6e-8 of the numbers on the way,
which grows by layers. Measured, for outputs with a standard deviation of 0.3 to 1, at these sizes and at the real
ones: UNet 1e-6 to 2e-6; VAE 0; text 0. With the real scaling factor the VAE's pixels differ by 3e-6 to 9e-6, since we
multiply by 0.18215 and divide by it again; a power of two is exact, so the small test takes one. Allowed: 1e-5 at these
sizes, 1e-4 at the real ones. pytest -s prints them.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gesso.checkpoints import diffusers as layout
from gesso.checkpoints import taesd
from gesso.checkpoints.keymap import Rule, load, plan, shapes_of
from gesso.families.base import Family
from gesso.families.diffusers_folder import folder_configs
from gesso.families.encoding import encode_prompt, zeros_like
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts, empty_networks, fill
from gesso.families.saving import folder_rules
from gesso.families.sd15 import SD15
from gesso.models.taesd import TAESD, TAESDConfig
from gesso.nn.embedding import sinusoid
from tiny_sd import TINY_FAMILIES, TINY_REFINER, TINY_SD, TINY_SDXL, save_tiny_folder

with warnings.catch_warnings():  # theirs, not ours
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL, AutoencoderTiny, LatentConsistencyModelPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TINY_TOLERANCE = 1e-5
FULL_TOLERANCE = 1e-4


def assert_close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    gap = (found - expected).abs().max().item()
    print(f"{what}: largest difference {gap:.1e}, standard deviation {expected.std().item():.2f}")
    assert gap < tolerance


def theirs(part: str, family: Family, **changes: Any) -> nn.Module:
    """Their network with random weights; what starts at 0 or 1 is made random too, so that it counts."""
    config = folder_configs(family)[f"{layout.folders_of(family.layout)[part]}/config.json"] | changes
    make: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
        "projected": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
    }
    torch.manual_seed(0)
    if layout.folders_of(family.layout)[part] == "text_encoder_2":
        part = "projected"
    network = make[part](config).eval().requires_grad_(False)
    for param in network.parameters():
        if param.ndim == 1:
            param.add_(0.1 * torch.randn_like(param))
    return network


def ours(part: str, family: Family, rules: Sequence[Rule], source: nn.Module) -> nn.Module:
    """Our network with the same numbers: the same memory where the shapes agree."""
    network = empty_networks(family, "test")[part]
    tensors = source.state_dict()
    rows = plan(rules, shapes_of(tensors), shapes_of(network.state_dict()), where="test")
    fill(network, load(rows, tensors), "test", device="cpu", dtype=torch.float32)
    return network


def compare_unet(family: Family, size: tuple[int, int], tolerance: float, *, batch: int = 2, length: int = 77) -> None:
    reference = theirs("unet", family)
    unet = ours("unet", family, folder_rules(family)["unet"], reference)
    x = torch.randn(batch, family.unet.in_channels, *size)
    timestep = torch.linspace(999.0, 0.5, batch)  # fractions occur between the steps of some samplers
    context = torch.randn(batch, length, family.unet.context_dim)
    added = level = guidance = None
    told: dict[str, Any] = {}
    if family.num_sizes:  # their network makes the vector itself
        pooled = torch.randn(batch, family.unet.added_dim - family.num_sizes * family.size_dim)
        sizes = torch.randint(0, 1025, (batch, family.num_sizes)).float()
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        added = torch.cat([pooled, sinusoid(sizes.flatten(), family.size_dim).reshape(batch, -1)], dim=1)
    if family.unet.noise_levels is not None:
        level = told["class_labels"] = torch.randint(0, family.unet.noise_levels, (batch,))
    if family.unet.guidance_dim is not None:  # their pipeline makes the embedding
        guidance = torch.linspace(1.0, 8.5, batch)
        embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
        told["timestep_cond"] = embed(None, guidance - 1, family.unet.guidance_dim)
    expected = reference(x, timestep, context, **told).sample
    found = unet(x, timestep, context, added, level, guidance)
    assert_close(f"unet {family.name} {size} {list(family.unet.channels)}", found, expected, tolerance)


def compare_vae(family: Family, size: tuple[int, int], tolerance: float) -> None:
    reference = theirs("vae", family)
    vae = ours("vae", family, layout.vae_rules(), reference)
    pixels = torch.rand(1, 3, *size) * 2 - 1
    expected = reference.encode(pixels).latent_dist
    mean, logvar = vae.moments(pixels)
    assert_close(f"vae mean {size}", mean, expected.mean, tolerance)
    assert_close(f"vae log-variance {size}", logvar, expected.logvar, tolerance)
    z = torch.randn_like(mean)
    decoded = vae.decode(z * family.vae.scaling_factor)
    assert_close(f"vae pixels {size}", decoded, reference.decode(z).sample, tolerance)


def compare_text(family: Family, tolerance: float) -> None:
    reference = theirs("text", family)
    text = ours("text", family, layout.text_rules(), reference)
    bos, eos = family.text.eos_id - 1, family.text.eos_id
    ids = torch.randint(0, bos, (2, family.text.max_length))
    ids[:, 0], ids[0, 9:], ids[1, -1] = bos, eos, eos  # a short text padded with the end, and one that fills its row
    expected = reference(ids, output_hidden_states=True)
    encoding = text(ids)
    assert len(encoding.hidden) == len(expected.hidden_states) == family.text.num_layers + 1
    # The embeddings start with a standard deviation of 0.02; everything is compared at its own scale.
    for i, (found, hidden) in enumerate(zip(encoding.hidden, expected.hidden_states, strict=True)):
        assert_close(f"text hidden {i}", found, hidden, tolerance)
    assert_close("text last", encoding.last, expected.last_hidden_state, tolerance)
    assert_close("text pooled", encoding.pooled, expected.pooler_output, tolerance)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (9, 14)])  # the last halves to odd numbers
@pytest.mark.sampled(2)
def test_unet(size: tuple[int, int]) -> None:
    compare_unet(TINY_SD, size, TINY_TOLERANCE)


@torch.no_grad()
def test_unet_with_a_long_context() -> None:
    compare_unet(TINY_SD, (8, 8), TINY_TOLERANCE, length=154)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(TINY_FAMILIES.keys() - {"sd15", "sd21-base", "sdxl-inpaint"}))
@pytest.mark.sampled(3)
def test_unet_of_every_release(name: str) -> None:
    """Linear projections, heads of one width, depths, sizes beside the time, noise levels, channels beside the latents;
    at a size that halves to odd numbers."""
    compare_unet(TINY_FAMILIES[name], (12, 20), TINY_TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_vae(size: tuple[int, int]) -> None:
    compare_vae(replace(TINY_SD, vae=replace(TINY_SD.vae, scaling_factor=0.25)), size, TINY_TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text(activation: Any) -> None:
    compare_text(replace(TINY_SD, text=replace(TINY_SD.text, activation=activation)), TINY_TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize(("family", "part"), [(TINY_SDXL, "text_2"), (TINY_REFINER, "text")])
def test_text_with_a_projection(family: Family, part: str) -> None:
    """Published configs say 2 and mean that the end is the greatest id; theirs takes ours, which says it."""
    reference = theirs(part, family)
    text = ours(part, family, layout.text_rules(), reference)
    ids = torch.tensor([[49406, 320, 1125, 49407, *[0] * 73]])  # padded with 0, as OpenCLIP is
    expected = reference(ids, output_hidden_states=True)
    encoding = text(ids)
    assert_close("text hidden -2", encoding.hidden[-2], expected.hidden_states[-2], TINY_TOLERANCE)
    assert encoding.projected is not None
    assert_close("text projected", encoding.projected, expected.text_embeds, TINY_TOLERANCE)


@torch.no_grad()
def test_taesd() -> None:
    """Their decoder gives [-1, 1], too."""
    torch.manual_seed(0)
    reference = AutoencoderTiny().eval()
    model = TAESD(TAESDConfig())
    tensors = reference.state_dict()
    rows = plan(taesd.diffusers_rules(model.config), shapes_of(tensors), shapes_of(model.state_dict()), where="test")
    fill(model, load(rows, tensors), "test", device="cpu", dtype=torch.float32)
    pixels = torch.rand(1, 3, 64, 48) * 2 - 1
    latents = model.encode(pixels).mean
    assert_close("taesd latents", latents, reference.encode(pixels).latents, TINY_TOLERANCE)
    assert_close("taesd pixels", model.decode(latents * 9), reference.decode(latents * 9).sample, TINY_TOLERANCE)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModelParts]:
    """A folder in diffusers and here."""
    folder = save_tiny_folder(tmp_path_factory.mktemp("models") / "xl", TINY_SDXL)
    with warnings.catch_warnings():  # theirs, not ours
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionXLPipeline

        reference = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, add_watermarker=False)
    return reference, load_parts(folder)


@torch.no_grad()
@pytest.mark.parametrize("repeats", [1, 10])  # of which one fits, the other is cut off
def test_what_sdxl_is_told(xl: tuple[Any, ModelParts], repeats: int) -> None:
    """The whole way from the prompt: two tokenizers with their own padding, two towers, sizes."""
    reference, parts = xl
    prompt = "a red cat, très bien " * repeats
    encoded = encode_prompt(parts, prompt, clip_skip=1, width=832, height=1216)
    context, _, pooled, _ = reference.encode_prompt(prompt, do_classifier_free_guidance=False)
    assert_close("sdxl context", encoded.context, context, TINY_TOLERANCE)
    sizes = reference._get_add_time_ids(
        (1216, 832), (0, 0), (1216, 832), torch.float32, text_encoder_projection_dim=pooled.shape[1]
    )
    told = torch.cat([pooled, sinusoid(sizes.flatten(), TINY_SDXL.size_dim).reshape(1, -1)], dim=1)
    assert encoded.added is not None
    assert_close("sdxl added", encoded.added, told, TINY_TOLERANCE)
    earlier = encode_prompt(parts, prompt, clip_skip=2, width=832, height=1216, skip_everywhere=True)
    context, *_ = reference.encode_prompt(prompt, do_classifier_free_guidance=False, clip_skip=1)
    assert_close("sdxl context, clip skip", earlier.context, context, TINY_TOLERANCE)
    ignored = encode_prompt(parts, prompt, clip_skip=2, width=832, height=1216)
    assert torch.equal(ignored.context, encoded.context)
    # An empty negative prompt that nobody gave: zeros, by their index file and ours.
    assert reference.config.force_zeros_for_empty_prompt
    assert parts.family.zero_empty_negative
    _, zeros, _, pooled_zeros = reference.encode_prompt(prompt)
    emptied = zeros_like(parts.family, encoded)
    assert torch.equal(emptied.context, zeros)
    assert emptied.added is not None
    assert torch.equal(emptied.added[:, : pooled_zeros.shape[1]], pooled_zeros)
    assert torch.equal(emptied.added[:, pooled_zeros.shape[1] :], encoded.added[:, pooled_zeros.shape[1] :])


@pytest.mark.slow
@torch.no_grad()
def test_full_size_unet() -> None:
    compare_unet(SD15, (32, 32), FULL_TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_vae() -> None:
    compare_vae(SD15, (128, 128), FULL_TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_text() -> None:
    compare_text(SD15, FULL_TOLERANCE)
