"""ControlNet Union: its numbers beside diffusers, and files that are none."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from families.test_control_network import TOLERANCE, told
from gesso.checkpoints.errors import ModelFileError
from gesso.families.base import Family
from gesso.families.control_network import load_control_network
from gesso.models.controlnet_union import UnionControlNet
from tiny_sd import TINY_SD, TINY_SDXL

with warnings.catch_warnings():  # theirs, not ours
    warnings.simplefilter("ignore")
    from diffusers import ControlNetUnionModel


def their_union(family: Family = TINY_SDXL, *, kinds: int = 6) -> ControlNetUnionModel:
    """Their network of a family's sizes with random numbers; what starts at 0 or 1 is made random too."""
    unet = family.unet
    torch.manual_seed(4)
    network = ControlNetUnionModel(
        down_block_types=[("CrossAttn" if depth else "") + "DownBlock2D" for depth in unet.attention],
        block_out_channels=unet.channels,
        layers_per_block=unet.num_res_blocks,
        cross_attention_dim=unet.context_dim,
        attention_head_dim=unet.num_heads,
        transformer_layers_per_block=[depth or 1 for depth in unet.attention],
        use_linear_projection=True,
        conditioning_embedding_out_channels=(4, 8, 12, 16),
        addition_embed_type="text_time",
        addition_time_embed_dim=family.size_dim,
        projection_class_embeddings_input_dim=unet.added_dim,
        num_control_type=kinds,
        num_trans_channel=unet.channels[0],
        num_proj_channel=unet.channels[0],
        num_trans_layer=2,
    )
    network.eval().requires_grad_(False)
    ends = ("controlnet_", "controlnet_cond_embedding.conv_out", "spatial_ch_projs")
    for name, param in network.named_parameters():
        if param.ndim == 1 or name.startswith(ends):
            param.add_(0.1 * torch.randn_like(param))
    return network


@torch.no_grad()
@pytest.mark.parametrize(("kinds", "kind"), [(6, 0), (6, 3), (8, 7)])
def test_network_beside_diffusers(kinds: int, kind: int, tmp_path: Path) -> None:
    reference = their_union(kinds=kinds)
    save_file(reference.state_dict(), tmp_path / "union.safetensors")
    network = load_control_network(tmp_path / "union.safetensors", TINY_SDXL).network
    assert isinstance(network, UnionControlNet)
    assert (network.union.num_kinds, network.union.num_layers) == (kinds, 2)
    kwargs, added = told(TINY_SDXL)
    assert added is not None
    x, context = torch.randn(2, 4, 8, 12), torch.randn(2, 7, TINY_SDXL.unet.context_dim)
    timestep, hint = torch.tensor([999.0, 17.5]), torch.rand(1, 3, 64, 96)

    chosen = torch.zeros(2, kinds)
    chosen[:, kind] = 1
    down, mid = reference(
        x,
        timestep,
        context,
        [hint.expand(2, -1, -1, -1)],
        control_type=chosen,
        control_type_idx=[kind],
        conditioning_scale=[1.0],
        return_dict=False,
        **kwargs,
    )

    def gap(found: list[Tensor]) -> float:
        return max((a - b).abs().max().item() for a, b in zip(found, [*down, mid], strict=True))

    found = gap(network(x, timestep, context, hint, added, kind=kind))
    print(f"{kinds} kinds, {kind}: largest difference {found:.1e}, deviation {mid.std().item():.2f}")
    assert found < TOLERANCE < gap(network(x, timestep, context, hint, added, kind=(kind + 1) % kinds))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task_embedding": torch.zeros(6, 5)}, "shape"),
        ({"task_embedding": torch.zeros(600, 32)}, "shape"),
        ({"control_add_embedding.linear_1.weight": None}, "shape"),
        ({"spatial_ch_projs.bias": None}, "missing_key"),
        ({"transformer_layes.0.attn.in_proj_weight": torch.zeros(3, 3)}, "shape"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    tensors = {**their_union().state_dict(), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError) as caught:
        load_control_network(tmp_path / "bad.safetensors", TINY_SDXL)
    assert caught.value.reason == reason


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    wide = replace(TINY_SDXL, unet=replace(TINY_SDXL.unet, context_dim=2048))
    save_file(their_union(wide).state_dict(), tmp_path / "xl.safetensors")
    with pytest.raises(ModelFileError, match=r"ControlNet for Stable Diffusion XL, the model is 'sd15'"):
        load_control_network(tmp_path / "xl.safetensors", TINY_SD)
