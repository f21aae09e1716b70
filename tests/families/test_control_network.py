"""ControlNets from every published form: names and shapes of real files, and their numbers beside diffusers."""

import gzip
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gesso.checkpoints import keymap
from gesso.checkpoints.controlnets import ControlNetFile
from gesso.checkpoints.errors import ModelFileError
from gesso.families.base import Family
from gesso.families.control_network import control_unet, load_control_network
from gesso.families.diffusers_folder import folder_configs
from gesso.families.native_control import save_control
from gesso.families.parts import on_meta
from gesso.families.saving import folder_rules
from gesso.families.sd15 import SD15
from gesso.families.sd21 import SD21
from gesso.families.sdxl import SDXL
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.nn.embedding import sinusoid
from tiny_sd import TINY_INPAINT, TINY_SD, TINY_SD21, TINY_SDXL, tiny_parts

with warnings.catch_warnings():  # theirs, not ours
    warnings.simplefilter("ignore")
    from diffusers import ControlNetModel, UNet2DConditionModel

PUBLISHED = Path(__file__).parents[1] / "golden" / "published.json.gz"
TOLERANCE = 1e-5  # float32 sums in another order, over some twenty layers


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("controlnet-v1.1-sd15.ldm", SD15),
        ("controlnet-sd21.ldm", SD21),
        ("diffusers.sd15.controlnet", SD15),
        ("diffusers.sd21.controlnet", SD21),
        ("diffusers.sdxl.controlnet", SDXL),
    ],
)
@pytest.mark.sampled(2)
def test_every_published_list_is_made_name_for_name_and_shape_for_shape(name: str, family: Family) -> None:
    listed = json.loads(gzip.decompress(PUBLISHED.read_bytes()))["files"][name]
    shapes = {key: tuple(shape) for key, (shape, _) in listed.items()}
    found = ControlNetFile.of(shapes)
    assert found is not None
    config = found.config(control_unet(family), name)
    with on_meta():
        network = ControlNet(config)
    rules = found.rules(config, linear=family.layout != "sd1")
    keymap.plan(rules, shapes, keymap.shapes_of(network.state_dict()), where=name)
    assert keymap.shapes_of(keymap.save(rules, network.state_dict())) == shapes


def theirs(family: Family, **changes: Any) -> ControlNetModel:
    """Their ControlNet of a family's sizes with random numbers; what starts at 0 or 1 is made random too."""
    unet = family.unet
    torch.manual_seed(3)
    sizes = {
        "down_block_types": [("CrossAttn" if depth else "") + "DownBlock2D" for depth in unet.attention],
        "transformer_layers_per_block": [depth or 1 for depth in unet.attention],
    }
    network = ControlNetModel(
        in_channels=4,
        block_out_channels=unet.channels,
        layers_per_block=unet.num_res_blocks,
        cross_attention_dim=unet.context_dim,
        attention_head_dim=unet.num_heads,
        use_linear_projection=family.layout != "sd1",
        norm_num_groups=unet.norm_groups,
        conditioning_embedding_out_channels=(4, 8, 12, 16),
        **(
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": family.size_dim,
                "projection_class_embeddings_input_dim": unet.added_dim,
            }
            if family.num_sizes
            else {}
        ),
        **(sizes | changes),
    )
    network.eval().requires_grad_(False)
    for name, param in network.named_parameters():
        if param.ndim == 1 or name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
            param.add_(0.1 * torch.randn_like(param))
    return network


def told(family: Family, batch: int = 2) -> tuple[dict[str, Any], Tensor | None]:
    """What their SDXL is told, and our vector of it."""
    if not family.num_sizes:
        return {}, None
    pooled = torch.randn(batch, family.unet.added_dim - family.num_sizes * family.size_dim)
    sizes = torch.randint(0, 1025, (batch, family.num_sizes)).float()
    added = torch.cat([pooled, sinusoid(sizes.flatten(), family.size_dim).reshape(batch, -1)], dim=1)
    return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}, added


def cldm_names(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The same numbers under the names of the ControlNet authors' program."""
    shapes = keymap.shapes_of(tensors)
    found = ControlNetFile.of(shapes)
    assert found is not None
    config = found.config(control_unet(family), "test")
    with on_meta():
        params = keymap.shapes_of(ControlNet(config).state_dict())
    linear = family.layout != "sd1"
    native = keymap.load(keymap.plan(found.rules(config, linear=linear), shapes, params, where="test"), tensors)
    other = ControlNetFile({}, "control_model.", folder=False)
    return keymap.save(other.rules(config, linear=linear), native)


@torch.no_grad()
@pytest.mark.parametrize("family", [TINY_SD, TINY_SD21, TINY_SDXL], ids=lambda family: family.name)
@pytest.mark.parametrize("form", ["diffusers", "cldm", "cldm without prefix"])
@pytest.mark.sampled(3)
def test_network_beside_diffusers(family: Family, form: str, tmp_path: Path) -> None:
    reference = theirs(family)
    tensors = {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}
    if form != "diffusers":
        tensors = {name: tensor.contiguous() for name, tensor in cldm_names(tensors, family).items()}
    if form == "cldm without prefix":
        tensors = {name.removeprefix("control_model."): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "control.safetensors")
    network = load_control_network(tmp_path / "control.safetensors", family).network
    assert isinstance(network, ControlNet)
    kwargs, added = told(family)
    x, context = torch.randn(2, 4, 8, 12), torch.randn(2, 7, family.unet.context_dim)
    timestep, hint = torch.tensor([999.0, 17.5]), torch.rand(1, 3, 64, 96)
    # In float64, which tells another formula from other rounding: a group norm over two places, as there are in the
    # middle of so small a network, makes 2e-5 of float32's last bits on some processors.
    reference.double(), network.double()
    x, context, hint, timestep = x.double(), context.double(), hint.double(), timestep.double()
    kwargs = {name: {k: v.double() for k, v in each.items()} for name, each in kwargs.items()}
    down, mid = reference(x, timestep, context, hint.expand(2, -1, -1, -1), return_dict=False, **kwargs)
    found = network(x, timestep, context, hint, None if added is None else added.double())
    gaps = [(a - b).abs().max().item() for a, b in zip(found, [*down, mid], strict=True)]
    print(f"{family.name} {form}: largest difference {max(gaps):.1e}, deviation {mid.std().item():.2f}")
    assert max(gaps) < 1e-6  # the sinusoids of the time are float32


@torch.no_grad()
@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=lambda family: family.name)
def test_a_unet_that_is_steered_beside_diffusers(family: Family) -> None:
    """Each output meets its own skip, the last one the middle."""
    ours = tiny_parts(family).unet
    config = folder_configs(family)["unet/config.json"]
    reference = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    reference.load_state_dict(keymap.save(folder_rules(family)["unet"], ours.state_dict()))
    control = theirs(family)
    kwargs, added = told(family)
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 7, family.unet.context_dim)
    timestep, hint = torch.tensor([999.0, 17.5]), torch.rand(2, 3, 64, 64)
    down, mid = control(x, timestep, context, hint, return_dict=False, **kwargs)
    expected = reference(
        x,
        timestep,
        context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        **kwargs,
    ).sample
    found = ours(x, timestep, context, added, control=[*down, mid])
    gap = (found - expected).abs().max().item()
    print(f"steered {family.name}: largest difference {gap:.1e}, deviation {expected.std().item():.2f}")
    assert gap < TOLERANCE
    assert (ours(x, timestep, context, added) - expected).abs().max().item() > 0.01


@torch.no_grad()
def test_a_small_network_without_any_transformer_beside_diffusers(tmp_path: Path) -> None:
    reference = theirs(
        TINY_SDXL, down_block_types=["DownBlock2D"] * 3, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=1
    )
    save_file(reference.state_dict(), tmp_path / "small.safetensors")
    network = load_control_network(tmp_path / "small.safetensors", TINY_SDXL).network
    assert isinstance(network, ControlNet)
    assert (network.config.unet.attention, network.config.unet.mid_attention) == ((0, 0, 0), 0)
    kwargs, added = told(TINY_SDXL)
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 7, TINY_SDXL.unet.context_dim)
    timestep, hint = torch.tensor([999.0, 17.5]), torch.rand(1, 3, 64, 64)
    down, mid = reference(x, timestep, context, hint.expand(2, -1, -1, -1), return_dict=False, **kwargs)
    found = network(x, timestep, context, hint, added)
    assert max((a - b).abs().max().item() for a, b in zip(found, [*down, mid], strict=True)) < TOLERANCE
    with pytest.raises(ModelFileError, match=r"ControlNet for Stable Diffusion XL, the model is 'sd15'"):
        load_control_network(tmp_path / "small.safetensors", TINY_SD)


def test_a_folder_says_how_it_is_used(tmp_path: Path) -> None:
    theirs(TINY_SD, global_pool_conditions=True, controlnet_conditioning_channel_order="bgr").save_pretrained(tmp_path)
    found = load_control_network(tmp_path, TINY_SD)
    assert (found.pooled, found.swapped) == (True, True)


@pytest.mark.parametrize(("name", "pooled"), [("control_v11e_sd15_shuffle", True), ("control_v11p_sd15_canny", False)])
def test_the_shuffle_controlnet_is_known_by_its_name(tmp_path: Path, name: str, pooled: bool) -> None:
    save_file(theirs(TINY_SD).state_dict(), tmp_path / f"{name}.safetensors")
    assert load_control_network(tmp_path / f"{name}.safetensors", TINY_SD).pooled is pooled


def test_published_pth_files_are_read(tmp_path: Path) -> None:
    """ControlNet 1.1 came as PyTorch files; the numbers outlive the temporary copy that they are read from."""
    tensors = {name: t.contiguous() for name, t in cldm_names(theirs(TINY_SD).state_dict(), TINY_SD).items()}
    torch.save(tensors, tmp_path / "control_v11p_sd15_canny.pth")
    save_file(tensors, tmp_path / "same.safetensors")
    found, same = (
        load_control_network(tmp_path / name, TINY_SD) for name in ("control_v11p_sd15_canny.pth", "same.safetensors")
    )
    assert found.files == (tmp_path / "control_v11p_sd15_canny.pth",)
    for name, tensor in same.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor), name


def test_a_model_that_sees_more_takes_the_controlnet_of_its_kind(tmp_path: Path) -> None:
    save_file(theirs(TINY_SD).state_dict(), tmp_path / "c.safetensors")
    assert load_control_network(tmp_path / "c.safetensors", TINY_INPAINT).network.conv_in.in_channels == 4


def test_differences_are_added_to_the_unet(tmp_path: Path) -> None:
    unet, whole = tiny_parts(TINY_SD).unet, theirs(TINY_SD)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    wanted = load_control_network(tmp_path / "whole.safetensors", TINY_SD).network.state_dict()
    base = unet.state_dict()
    network = ControlNet(ControlNetConfig(unet=control_unet(TINY_SD), hint_channels=(4, 8, 12, 16)))
    network.load_state_dict(
        {n: t - base[n] if n in base and base[n].shape == t.shape else t for n, t in wanted.items()}
    )
    names = ControlNetFile({}, "control_model.", folder=False)
    tensors = keymap.save(names.rules(network.config, linear=False), network.state_dict())
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()} | {"difference": torch.zeros(())},
        tmp_path / "diff.safetensors",
    )
    found = load_control_network(tmp_path / "diff.safetensors", TINY_SD, unet).network.state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)
    with pytest.raises(ModelFileError, match="holds differences to a UNet"):
        load_control_network(tmp_path / "diff.safetensors", TINY_SD)


def control_lora(whole: ControlNet, family: Family, rank: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file as Stability's are, and the parameters that it stands for."""
    unet = tiny_parts(family).unet.state_dict()
    names = ControlNetFile({}, "", folder=False)
    rows = keymap.expand(names.rules(whole.config, linear=family.layout != "sd1"), whole.state_dict())
    torch.manual_seed(7)
    tensors, wanted = {"lora_controlnet": torch.zeros(())}, {}
    for row in rows:
        (native,) = row.natives
        own = whole.state_dict()[native]
        if row.load_only:
            continue
        if native not in unet or "norm" in native or own.ndim == 1:  # zero convolutions, hint, norms, biases
            tensors[row.file], wanted[native] = row.transform.save((own,)).contiguous(), own
        elif native.endswith("proj_in.weight"):  # left out: the UNet's own
            wanted[native] = unet[native]
        else:
            down = 0.1 * torch.randn(rank, *own.shape[1:])
            up = torch.randn(len(own), rank, *[1] * (own.ndim - 2))
            stem = row.file.removesuffix(".weight")
            tensors |= {f"{stem}.up": up, f"{stem}.down": down}
            wanted[native] = unet[native] + torch.einsum("or,r...->o...", up.flatten(1), down)
    return tensors, wanted


@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=lambda family: family.name)
@pytest.mark.sampled(2)
def test_a_control_lora_is_the_unet_with_what_it_adds(family: Family, tmp_path: Path) -> None:
    save_file(theirs(family).state_dict(), tmp_path / "whole.safetensors")
    whole = load_control_network(tmp_path / "whole.safetensors", family).network
    assert isinstance(whole, ControlNet)
    tensors, wanted = control_lora(whole, family)
    save_file(tensors, tmp_path / "lora.safetensors")
    found = load_control_network(tmp_path / "lora.safetensors", family, tiny_parts(family).unet).network.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)
    with pytest.raises(ModelFileError, match="holds differences to a UNet"):
        load_control_network(tmp_path / "lora.safetensors", family)
    other = TINY_SDXL if family is TINY_SD else TINY_SD
    with pytest.raises(ModelFileError, match=rf"ControlNet for .*, the model is '{other.name}'"):
        load_control_network(tmp_path / "lora.safetensors", other, tiny_parts(other).unet)
    for changes, reason in (
        ({"input_blocks.1.0.in_layers.2.up": torch.zeros(5, 3, 1, 1)}, "shape"),
        ({"zero_convs.0.0.weight": torch.zeros(2, 2, 1, 1)}, "shape"),
        ({"zero_convs.77.0.weight": torch.zeros(1)}, "unknown_key"),
        ({"middle_block_out.0.weight": None}, "missing_key"),
    ):
        damaged = {name: t for name, t in (tensors | changes).items() if t is not None}
        save_file(damaged, tmp_path / "bad.safetensors")
        with pytest.raises(ModelFileError) as caught:
            load_control_network(tmp_path / "bad.safetensors", family, tiny_parts(family).unet)
        assert caught.value.reason == reason


@pytest.mark.parametrize("form", ["diffusers", "cldm"])
def test_another_architecture_is_refused_and_both_are_named(tmp_path: Path, form: str) -> None:
    other = replace(
        TINY_SD, unet=replace(TINY_SD.unet, context_dim=2048, channels=(32, 32, 32, 32))
    )  # as wide as the text of SDXL
    tensors = theirs(other).state_dict()
    save_file(
        {n: t.contiguous() for n, t in (tensors if form == "diffusers" else cldm_names(tensors, other)).items()},
        tmp_path / "xl.safetensors",
    )
    with pytest.raises(ModelFileError, match=r"ControlNet for Stable Diffusion XL, the model is 'sd15'"):
        load_control_network(tmp_path / "xl.safetensors", TINY_SD)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"controlnet_mid_block.weight": None}, "missing_key"),
        ({"controlnet_mid_block.weight": torch.zeros(3, 3, 1, 1)}, "shape"),
        ({"controlnet_cond_embedding.conv_in.weight": torch.zeros(4)}, "shape"),
        ({"controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 1, 3, 3)}, "shape"),
        ({"controlnet_down_blocks.99.weight": torch.zeros(1)}, "unknown_key"),
        ({"down_blocks.0.attentions.0.transformer_blocks.700.norm1.weight": torch.zeros(1)}, "shape"),
        ({"down_blocks.0.attentions.0.transformer_blocks.5.norm1.weight": torch.zeros(1)}, "missing_key"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict[str, Tensor | None], reason: str) -> None:
    tensors: dict[str, Tensor | None] = {**theirs(TINY_SD).state_dict(), **changes}
    save_file({n: t.contiguous() for n, t in tensors.items() if t is not None}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError) as caught:
        load_control_network(tmp_path / "bad.safetensors", TINY_SD)
    assert caught.value.reason == reason


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    save_file({"a.lora_down.weight": torch.zeros(1, 1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelFileError, match="looks like a LoRA, expected a ControlNet or a T2I-Adapter"):
        load_control_network(tmp_path / "lora.safetensors", TINY_SD)


def test_gessos_own_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ControlNetConfig(unet=control_unet(TINY_SD), hint_channels=(4, 8, 12, 16))
    network = ControlNet(config)
    save_control(tmp_path / "own.safetensors", network, "sd15", "canny", {"title": "own"})
    found = load_control_network(tmp_path / "own.safetensors", TINY_SD)
    assert (found.network.config, found.preprocessor) == (config, "canny")
    with pytest.raises(ModelFileError, match=r"ControlNet for 'sd15', the model is 'sdxl'"):
        load_control_network(tmp_path / "own.safetensors", TINY_SDXL)
    wider = replace(TINY_SD, unet=replace(TINY_SD.unet, channels=(64, 64, 64, 64)))
    with pytest.raises(ModelFileError, match=r"of other sizes: channels \[32, 64, 32, 32\]"):
        load_control_network(tmp_path / "own.safetensors", wider)


@pytest.mark.parametrize(("depth", "is_refused"), [(12, False), (13, True)])
def test_the_most_transformer_blocks_in_a_row(depth: int, is_refused: bool) -> None:
    place = "control_model.input_blocks.1.1.transformer_blocks"
    shapes = {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}
    shapes |= {f"{place}.{i}.norm1.weight": (32,) for i in range(depth)}
    file = ControlNetFile.of(shapes)
    assert file is not None
    if is_refused:
        with pytest.raises(ModelFileError, match="13 transformer blocks in a row"):
            file.config(TINY_SD.unet, "x")
    else:
        assert file.config(TINY_SD.unet, "x").unet.attention[0] == depth
