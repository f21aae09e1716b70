"""CLIP's image encoder and IP-Adapters beside diffusers and transformers: same random weights."""

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gesso.adapters.ip_adapter import ImagePromptTokens, IPAdapterAttachment, cross_attentions
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.ip_adapters import ip_adapter_config, ip_adapter_rules
from gesso.checkpoints.keymap import plan, shapes_of
from gesso.families.base import Family
from gesso.families.ip_adapter import load_image_encoder, load_ip_adapter
from gesso.families.parts import on_meta
from gesso.families.registry import FAMILIES
from gesso.families.saving import folder_rules
from gesso.models.ip_adapter import IPAdapter
from gesso.models.unet import UNet
from gesso.nn.embedding import sinusoid
from models.test_parity import ours, theirs
from tiny_sd import TINY_SD, TINY_SDXL

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

TOLERANCE = 1e-5


def close(found: Tensor, expected: Tensor) -> None:
    gap = (found - expected).abs().max().item()
    print(f"largest difference {gap:.1e}, standard deviation {expected.std().item():.2f}")
    assert found.shape == expected.shape
    assert gap < TOLERANCE * max(1.0, expected.abs().max().item())


def randomise(network: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for param in network.parameters():
        if param.ndim == 1:
            param.data.add_(0.1 * torch.randn_like(param))
    return network.eval().requires_grad_(False)


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def unets(family: Family) -> tuple[Any, UNet]:
    reference = theirs("unet", family)
    return reference, ours("unet", family, folder_rules(family)["unet"], reference)  # type: ignore[return-value]


def told(family: Family, batch: int) -> tuple[dict[str, Any], Tensor | None]:
    if not family.num_sizes:
        return {}, None
    pooled = torch.randn(batch, family.unet.added_dim - family.num_sizes * family.size_dim)
    sizes = torch.randint(0, 1025, (batch, family.num_sizes)).float()
    added = torch.cat([pooled, sinusoid(sizes.flatten(), family.size_dim).reshape(batch, -1)], dim=1)
    return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}, added


VISION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
    "projection_dim": 48,
}


@torch.no_grad()
def test_the_image_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))
    network, _ = load_image_encoder(saved(tmp_path / "model.safetensors", reference.state_dict()))
    again, _ = load_image_encoder(tmp_path)
    pixels = torch.randn(2, 3, 28, 28)
    expected = reference(pixels, output_hidden_states=True)
    for encoder in (network, again):
        found = encoder(pixels)
        close(found.projected, expected.image_embeds)
        close(found.penultimate, expected.hidden_states[-2])
    with pytest.raises(ValueError, match="expected"):
        network(torch.randn(1, 3, 32, 32))


def image_prompt_file(kind: str, family: Family, encoder_dim: int = 128) -> dict[str, Tensor]:
    """Random weights by the names of the published files."""
    torch.manual_seed(2)
    with on_meta():
        unet = UNet(family.unet)
    context, dim = family.unet.context_dim, 64
    projections: dict[str, dict[str, tuple[int, ...]]] = {
        "base": {
            "proj.weight": (4 * context, 48),
            "proj.bias": (4 * context,),
            "norm.weight": (context,),
            "norm.bias": (context,),
        },
        "full": {
            "proj.0.weight": (encoder_dim, encoder_dim),
            "proj.0.bias": (encoder_dim,),
            "proj.2.weight": (context, encoder_dim),
            "proj.2.bias": (context,),
            "proj.3.weight": (context,),
            "proj.3.bias": (context,),
        },
        "plus": {
            "latents": (1, 5, dim),
            "proj_in.weight": (dim, encoder_dim),
            "proj_in.bias": (dim,),
            "proj_out.weight": (context, dim),
            "proj_out.bias": (context,),
            "norm_out.weight": (context,),
            "norm_out.bias": (context,),
            **{
                f"layers.{i}.{name}": shape
                for i in range(4)
                for name, shape in {
                    "0.norm1.weight": (dim,),
                    "0.norm1.bias": (dim,),
                    "0.norm2.weight": (dim,),
                    "0.norm2.bias": (dim,),
                    "0.to_q.weight": (dim, dim),
                    "0.to_kv.weight": (2 * dim, dim),
                    "0.to_out.weight": (dim, dim),
                    "1.0.weight": (dim,),
                    "1.0.bias": (dim,),
                    "1.1.weight": (4 * dim, dim),
                    "1.3.weight": (dim, 4 * dim),
                }.items()
            },
        },
    }
    tensors = {f"image_proj.{name}": torch.randn(shape) * 0.1 for name, shape in projections[kind].items()}
    for number, attention in enumerate(cross_attentions(unet)):
        for part in ("k", "v"):
            wide = attention.to_q.out_features
            tensors[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = torch.randn(wide, context) * 0.3
    return tensors


def nested(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    return groups


@torch.no_grad()
@pytest.mark.parametrize("kind", ["base", "plus", "full"])
@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=["sd15", "sdxl"])
@pytest.mark.sampled(3)
def test_an_ip_adapter_on_a_unet(tmp_path: Path, kind: str, family: Family) -> None:
    reference, unet = unets(family)
    tensors = image_prompt_file(kind, family)
    network, _ = load_ip_adapter(saved(tmp_path / "ip.safetensors", tensors), family)
    said = torch.randn(1, 48) if kind == "base" else torch.randn(1, 257 if kind == "full" else 6, 128)
    nothing = torch.zeros_like(said)
    x, time = torch.randn(2, 4, 12, 16), torch.tensor([900.0, 3.0])
    context = torch.randn(2, 77, family.unet.context_dim)
    more, added = told(family, 2)
    before = unet(x, time, context, added)
    reference._load_ip_adapter_weights([nested(tensors)])
    for processor in reference.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    more.setdefault("added_cond_kwargs", {})["image_embeds"] = [torch.stack([nothing, said])]
    expected = reference(x, time, context, **more).sample
    prompt = ImagePromptTokens(network, network(said), network(nothing))
    with IPAdapterAttachment(unet, [prompt]).use([0.7], torch.tensor([True, False])):
        found = unet(x, time, context, added)
    close(found, expected)
    assert (found - before).abs().max() > 1e-3
    assert torch.equal(unet(x, time, context, added), before)


def test_two_pictures_add_up_and_strength_may_change(tmp_path: Path) -> None:
    _, unet = unets(TINY_SD)
    network, _ = load_ip_adapter(saved(tmp_path / "ip.safetensors", image_prompt_file("base", TINY_SD)), TINY_SD)
    prompts = [ImagePromptTokens(network, network(torch.randn(1, 48)), network(torch.zeros(1, 48))) for _ in range(2)]
    x, time, context = torch.randn(1, 4, 16, 16), torch.tensor([500.0]), torch.randn(1, 77, TINY_SD.unet.context_dim)
    with torch.no_grad():
        before = unet(x, time, context)
        attachment = IPAdapterAttachment(unet, prompts)
        with attachment.use([0.0, 0.0]):
            assert torch.equal(unet(x, time, context), before)
        with attachment.use([1.0, 1.0]):
            both = unet(x, time, context)
        with attachment.use([1.0, 0.0]):
            first = unet(x, time, context)
        assert not torch.equal(first, before) and not torch.equal(both, first)
        assert torch.equal(unet(x, time, context), before)


def test_a_pickled_ip_adapter_is_read(tmp_path: Path) -> None:
    tensors = image_prompt_file("base", TINY_SD)
    torch.save(nested(tensors), tmp_path / "ip-adapter.bin")
    network, _ = load_ip_adapter(tmp_path / "ip-adapter.bin", TINY_SD)
    plain, _ = load_ip_adapter(saved(tmp_path / "ip.safetensors", tensors), TINY_SD)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ip_adapter.2.to_k_ip.weight": (32, 32)}, "odd numbers"),
        ({"image_proj.proj.weight": None}, "an unknown kind of IP-Adapter"),
        ({"image_proj.proj.weight": None, "image_proj.proj.0.weight": (8, 8)}, "face recognition network"),
        ({"image_proj.proj.weight": (130, 48)}, "no whole tokens"),
        ({"ip_adapter.1.to_k_ip.weight": (32,)}, "expected a matrix"),
        ({"image_proj.proj.weight": (2**20 * 32, 48)}, "tokens through"),
    ],
)
def test_files_that_make_no_sense(change: dict[str, Any], words: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in image_prompt_file("base", TINY_SD).items()}
    shapes |= {name: shape for name, shape in change.items() if shape}
    for name, shape in change.items():
        if shape is None:
            del shapes[name]
    with pytest.raises(ModelFileError, match=words):
        ip_adapter_config(shapes, "x")


def test_another_architecture_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "ip.safetensors", image_prompt_file("base", TINY_SD))
    with pytest.raises(ModelFileError, match=r"is an IP-Adapter for .*the model is 'sdxl'"):
        load_ip_adapter(path, TINY_SDXL)
    other = saved(tmp_path / "x.safetensors", {"first_stage_model.encoder.down.0.block.0.norm1.weight": torch.zeros(4)})
    with pytest.raises(ModelFileError, match="looks like a VAE alone, expected an IP-Adapter"):
        load_ip_adapter(other, TINY_SD)
    with pytest.raises(ModelFileError, match="not an image encoder of CLIP"):
        load_image_encoder(path)


FILES = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden" / "published.json.gz").read_bytes()))["files"]


@pytest.mark.parametrize(("name", "family"), [("ip-adapter_sd15", "sd15"), ("ip-adapter_sdxl-base", "sdxl")])
def test_published_ip_adapters_have_every_name_and_shape_and_fit_their_unet(name: str, family: str) -> None:
    shapes = {key: tuple(shape) for key, (shape, _) in FILES[name].items()}
    config, widths = ip_adapter_config(shapes, name)
    assert (config.kind, config.num_tokens) == ("base", 4)
    with on_meta():
        network, unet = IPAdapter(config, widths), UNet(FAMILIES[family].unet)
    rows = plan(ip_adapter_rules(config, len(widths)), shapes, shapes_of(network.state_dict()), where=name)
    assert {row.file for row in rows} == shapes.keys()
    assert [attention.to_q.out_features for attention in cross_attentions(unet)] == list(widths)


PLUS = {
    "image_proj.latents": (1, 16, 64),
    "image_proj.proj_in.weight": (64, 48),
    "image_proj.layers.0.0.to_q.weight": (64, 64),
    "image_proj.layers.1.0.to_q.weight": (64, 64),
    "ip_adapter.1.to_k_ip.weight": (320, 768),
    "ip_adapter.3.to_k_ip.weight": (640, 768),
}


def test_sizes_follow_from_shapes() -> None:
    config, widths = ip_adapter_config(PLUS, "x")
    assert (config.kind, config.num_tokens, config.dim, config.num_layers) == ("plus", 16, 64, 2)
    assert (config.encoder_dim, config.context_dim, widths) == (48, 768, (320, 640))
    assert ip_adapter_config(PLUS | {"image_proj.latents": (1, 1024, 8192)}, "x")[0].num_tokens == 1024


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_proj.latents": (2, 16, 64)}, r"image_proj.latents is \[2, 16, 64\]"),
        ({"image_proj.latents": (16, 64)}, r"image_proj.latents is \[16, 64\]"),
        ({"image_proj.latents": (1, 1025, 64)}, "1025 tokens through 2 layers of 64"),
        ({"image_proj.latents": (1, 16, 8193)}, "16 tokens through 2 layers of 8193"),
        ({"image_proj.proj_in.weight": (64, 8193)}, "16 tokens through 2 layers of 64"),
        ({f"image_proj.layers.{i}.0.to_q.weight": (1, 1) for i in range(65)}, "16 tokens through 65 layers"),
        ({"ip_adapter.7.to_k_ip.weight": (640, 768)}, "has 3 attentions with odd numbers"),
    ],
)
def test_sizes_of_no_ip_adapter_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        ip_adapter_config(PLUS | change, "x")
