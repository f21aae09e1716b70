"""Loads IP-Adapters and CLIP image encoders from their published files, for a model."""

from pathlib import Path
from typing import TypeVar

from torch import nn

from gesso.adapters.architecture import context_name
from gesso.checkpoints.clip_vision import clip_vision_config, clip_vision_rules
from gesso.checkpoints.detect import detect
from gesso.checkpoints.diffusers import weight_file
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.ip_adapters import (
    ip_adapter_config,
    ip_adapter_rules,
    is_ip_adapter,
)
from gesso.checkpoints.keymap import Rule, load, plan, shapes_of
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import open_weights
from gesso.families.base import Family
from gesso.families.parts import fill, on_meta
from gesso.models.clip_vision import CLIPVisionModel
from gesso.models.ip_adapter import IPAdapter

N = TypeVar("N", bound=nn.Module)


def is_ip_adapter_file(path: Path) -> bool:
    """Whether a file looks like an IP-Adapter, by its header. Raises ModelFileError for what is no file of weights."""
    return is_ip_adapter(shapes_of(open_weights(path).tensors))


def load_ip_adapter(path: str | Path, family: Family, *, converted: Path | None = None) -> tuple[IPAdapter, Path]:
    """An IP-Adapter for models of a family -> with its file.

    Raises ModelFileError for another kind of file, and for one of another architecture, naming both.
    """
    file = open_weights(Path(path), converted=converted)
    shapes = shapes_of(file.tensors)
    if not is_ip_adapter(shapes):
        raise _other(file, "an IP-Adapter")
    config, widths = ip_adapter_config(shapes, file.path)
    if config.context_dim != family.unet.context_dim:
        base, has = context_name(config.context_dim), context_name(family.unet.context_dim)
        message = f"is an IP-Adapter for {base}, the model is {family.name!r} ({has}). Use one made for this model"
        raise ModelFileError("architecture_mismatch", file.path, message)
    try:
        with on_meta():
            network = IPAdapter(config, widths)
    except ValueError as error:
        raise ModelFileError("shape", file.path, str(error)) from None
    return _filled(network, file, ip_adapter_rules(config, len(widths))), file.path


def load_image_encoder(path: str | Path, *, converted: Path | None = None) -> tuple[CLIPVisionModel, Path]:
    """CLIP's image encoder: a file, or a folder as transformers writes it -> with its file. Raises ModelFileError."""
    file = open_weights(_file_in(Path(path)), converted=converted)
    config = clip_vision_config(shapes_of(file.tensors), file.path)
    with on_meta():
        network = CLIPVisionModel(config)
    return _filled(network, file, clip_vision_rules()), file.path


def _filled(network: N, file: TensorFile, rules: list[Rule]) -> N:
    rows = plan(rules, shapes_of(file.tensors), shapes_of(network.state_dict()), where=file.path)
    with file.reader() as reader:
        fill(network, load(rows, reader), file.path, device="cpu", dtype=None, check=False)
    return network


def _file_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    inside = path / "image_encoder"
    return weight_file(inside if inside.is_dir() else path, "model")


def _other(file: TensorFile, expected: str) -> ModelFileError:
    message = f"looks like {detect(file).what}, expected {expected}"
    return ModelFileError("architecture_mismatch", file.path, message)
