"""Loads ControlNets and T2I-Adapters of any published format.

ControlNets in cldm's single files, in files and folders of diffusers and in gesso's own layout; T2I-Adapters in their
authors' and in diffusers' layout."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gesso.adapters.architecture import context_name
from gesso.checkpoints.config_json import read_object
from gesso.checkpoints.control_loras import control_lora_tensors
from gesso.checkpoints.controlnets import CONTROL_LORA, DIFFERENCE, ControlNetFile
from gesso.checkpoints.detect import T2I_ADAPTER, detect
from gesso.checkpoints.diffusers import STEMS, weight_file
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import load, plan, shapes_of
from gesso.checkpoints.safetensors_file import SafetensorsFile
from gesso.checkpoints.t2i_adapters import XL_PATCH, t2i_adapter_layout
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import open_weights
from gesso.families.base import Family
from gesso.families.native_control import is_native_control, load_control
from gesso.families.parts import fill, on_meta
from gesso.models.controlnet import ControlNet, skip_widths
from gesso.models.controlnet_union import UnionConfig, UnionControlNet
from gesso.models.t2i_adapter import T2IAdapter
from gesso.models.unet import UNetConfig

CONFIG = "config.json"
POOLED_NAME = "shuffle"  # what the published ControlNet that averages over the picture is called


ControlNetwork = ControlNet | T2IAdapter


@dataclass(frozen=True, eq=False)
class ControlParts:
    """A control network (ControlNet or T2I-Adapter), with its weights as they are stored.

    files         that it was read from
    hint_scale    pixels a side of its hint per latent pixel
    pooled        its outputs are averaged over the picture (global average pooling): it controls colours and style
    swapped       it was trained on BGR
    preprocessor  of its training hints, if the file states it
    """

    network: ControlNetwork
    files: tuple[Path, ...]
    hint_scale: int
    pooled: bool = False
    swapped: bool = False
    preprocessor: str | None = None


def load_control_network(
    path: str | Path, family: Family, unet: nn.Module | None = None, *, converted: Path | None = None
) -> ControlParts:
    """A control network for models of a family; on the CPU, in the dtype of the file, its weights not checked.

    path       a file, or a folder of the diffusers library
    unet       of the model: for a file with differences to it, whole or low-rank (Control-LoRA)
    converted  as for `open_weights`
    Raises ModelFileError for another kind of file, and for a network of another architecture, naming both.
    """
    path = Path(path)
    settings: Mapping[str, Any] = {}
    if path.is_dir():
        settings = read_object(path / CONFIG) if (path / CONFIG).is_file() else {}
        path = weight_file(path, STEMS["unet"])
    file = open_weights(path, converted=converted)
    if isinstance(file, SafetensorsFile) and is_native_control(file):
        return _native(file, family)
    header = ControlNetFile.of(shapes_of(file.tensors))
    if header is None and (kind := detect(file).what) == T2I_ADAPTER:
        return _t2i_adapter(file, family)
    if header is None:
        message = f"looks like {kind}, expected a ControlNet or {T2I_ADAPTER}"
        raise ModelFileError("architecture_mismatch", path, message)
    network = _network(header, file, family, unet)
    if DIFFERENCE in file.tensors:
        _add_unet(network, unet, path)
    pooled = settings.get("global_pool_conditions", POOLED_NAME in path.stem.lower())
    return ControlParts(
        network=network,
        files=file.files,
        hint_scale=network.config.downscale,
        pooled=pooled is True,
        swapped=settings.get("controlnet_conditioning_channel_order") == "bgr",
    )


def control_unet(family: Family) -> UNetConfig:
    """The config of the UNet that a ControlNet copies: without extra channels and guidance embedding."""
    channels = family.vae.latent_channels
    return replace(family.unet, in_channels=channels, draft_size=None, guidance_dim=None, noise_levels=None)


def _network(header: ControlNetFile, file: TensorFile, family: Family, unet: nn.Module | None) -> ControlNet:
    sizes = control_unet(family)
    other_text = header.context_dim not in (None, sizes.context_dim)
    if other_text or header.takes_sizes != (sizes.added_dim is not None):
        small = "Stable Diffusion XL" if header.takes_sizes else "Stable Diffusion 1 or 2"
        made_for = context_name(header.context_dim) if header.context_dim is not None else small
        message = f"is a ControlNet for {made_for}, the model is {family.name!r} ({context_name(sizes.context_dim)})"
        raise ModelFileError("architecture_mismatch", file.path, f"{message}. Use one made for this model")
    config = header.config(sizes, file.path)
    with on_meta():
        network = UnionControlNet(config) if isinstance(config, UnionConfig) else ControlNet(config)
    rules = header.rules(config, linear=family.layout != "sd1")
    params = shapes_of(network.state_dict())
    with file.reader() as reader:
        if CONTROL_LORA in file.tensors:
            base = _of(unet, file.path)
            tensors = control_lora_tensors(rules, header.shapes, reader, params, base, file.path)
        else:
            tensors = load(plan(rules, header.shapes, params, where=file.path), reader)
        fill(network, tensors, file.path, device="cpu", dtype=None, check=False)
    return network


def _of(unet: nn.Module | None, where: Path) -> Mapping[str, Tensor]:
    if unet is None:
        raise ModelFileError("architecture_mismatch", where, "holds differences to a UNet, but no UNet is given")
    return unet.state_dict()


def _add_unet(network: ControlNet, unet: nn.Module | None, where: Path) -> None:
    """Adds the UNet's weights to a ControlNet stored as differences (files with the mark "difference")."""
    base = _of(unet, where)
    for name, param in network.named_parameters():
        if name in base and base[name].shape == param.shape:
            param.data = param.data.float() + base[name].to("cpu", param.data.float().dtype)


def _native(file: SafetensorsFile, family: Family) -> ControlParts:
    native = load_control(file.path)
    expected, has = control_unet(family), native.control.config.unet
    if native.family != family.name:
        message = f"is a ControlNet for {native.family!r}, the model is {family.name!r}. Use one made for this model"
        raise ModelFileError("architecture_mismatch", file.path, message)
    same = (has.in_channels, has.context_dim, has.added_dim) == (
        expected.in_channels,
        expected.context_dim,
        expected.added_dim,
    )
    if not same or skip_widths(has) != skip_widths(expected):
        message = f"is a ControlNet for a {family.name!r} of other sizes: channels {list(has.channels)}"
        raise ModelFileError("shape", file.path, f"{message}, the model has {list(expected.channels)}")
    return ControlParts(
        network=native.control,
        files=file.files,
        hint_scale=native.control.config.downscale,
        preprocessor=native.hint or None,
    )


def _t2i_adapter(file: TensorFile, family: Family) -> ControlParts:
    names = shapes_of(file.tensors)
    config, rules = t2i_adapter_layout(names, file.path)
    is_xl = config.patch == XL_PATCH
    places = (*family.unet.channels, family.unet.channels[-1])[: len(config.channels)]
    if is_xl != (family.layout == "sdxl") or config.channels != places or family.output_scale != 1:
        base = "Stable Diffusion XL" if is_xl else "Stable Diffusion 1 or 2"
        message = f"is {T2I_ADAPTER} for {base} (widths {list(config.channels)}), the model is {family.name!r}"
        raise ModelFileError("architecture_mismatch", file.path, f"{message}. Use one made for this model")
    with on_meta():
        network = T2IAdapter(config)
    rows = plan(rules, names, shapes_of(network.state_dict()), where=file.path)
    with file.reader() as reader:
        fill(network, load(rows, reader), file.path, device="cpu", dtype=None, check=False)
    return ControlParts(network=network, files=file.files, hint_scale=family.vae.downscale)
