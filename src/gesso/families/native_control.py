"""A ControlNet that gesso trained itself, in one safetensors file with native names.

Metadata     modelspec.*    ModelSpec 1.0.1, for other tools and people
             gesso.control  JSON: format, version, the family that it is for, and its sizes
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from gesso.checkpoints.config_json import from_json, parse_object, to_json
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import SafetensorsFile, open_safetensors, write_safetensors
from gesso.errors import shorten
from gesso.families.parts import fill, on_meta
from gesso.models.controlnet import ControlNet, ControlNetConfig

FORMAT, VERSION, KEY = "gesso-controlnet", 1, "gesso.control"


@dataclass(frozen=True)
class NativeControl:
    """A ControlNet that was read.  family: of the models that it is for; hint: the preprocessor of its hints"""

    control: ControlNet
    family: str
    hint: str


def save_control(
    path: Path,
    control: ControlNet,
    family: str,
    hint: str,
    about: Mapping[str, str],
    training: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a ControlNet in half precision, whole or not at all; the same arguments give the same bytes.

    about: ModelSpec keys without "modelspec.", title among them. training: further metadata
    """
    whole = {"format": FORMAT, "version": VERSION, "family": family, "hint": hint, "config": to_json(control.config)}
    known = {"sai_model_spec": "1.0.1", "architecture": f"{family}/controlnet", "implementation": "gesso", **about}
    metadata = {**training, **{f"modelspec.{key}": value for key, value in known.items()}}
    metadata[KEY] = json.dumps(whole, separators=(",", ":"), allow_nan=False)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in control.state_dict().items()}
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")


def is_native_control(file: SafetensorsFile) -> bool:
    """Whether the metadata of a file claims this layout."""
    return KEY in file.metadata


def load_control(path: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> NativeControl:
    """Reads a file of `save_control`. dtype: of the network, None as it is stored. Raises ModelFileError."""
    file = open_safetensors(path)
    if not is_native_control(file):
        raise ModelFileError(
            "architecture_mismatch", path, f"not a ControlNet in gesso's own layout: its metadata lack {KEY}"
        )
    whole = parse_object(file.metadata[KEY], f"{path}: {KEY}")
    layout = (whole.get("format"), whole.get("version"))
    if layout != (FORMAT, VERSION):
        message = (
            f"format {shorten(str(layout[0]))} version {shorten(str(layout[1]))}, expected {FORMAT} version {VERSION}"
        )
        raise ModelFileError("config", path, f"{message}; update gesso")
    config = from_json(ControlNetConfig, whole.get("config"), path, "config")
    family, hint = (shorten(str(whole.get(key, ""))) for key in ("family", "hint"))
    try:
        with on_meta():
            control = ControlNet(config)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ModelFileError("config", path, f"sizes that make no ControlNet: {shorten(str(error))}") from None
    with file.reader() as reader:
        fill(control, {name: reader[name] for name in file.tensors}, path, device=device, dtype=dtype)
    return NativeControl(control, family, hint)
