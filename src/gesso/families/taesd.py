"""TAESD, the tiny autoencoder: sizes of its releases, and the reading of its files.

One for the latents of SD 1 and SD 2 (taesd), another for those of SDXL (taesdxl); their files look alike.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gesso.checkpoints import diffusers
from gesso.checkpoints import taesd as names
from gesso.checkpoints.detect import detect
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import Rule, load, nest, plan, save, shapes_of
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import open_weights
from gesso.families.parts import fill, on_meta
from gesso.models.taesd import TAESD, TAESDConfig

TAESD_CONFIG = TAESDConfig()
_PREFIXES = {"encoder": ("taesd_encoder.", ""), "decoder": ("taesd_decoder.", "")}
_DROPPED = [Rule("vae_scale", None), Rule("vae_shift", None)]  # ComfyUI's
_OTHER = {"encoder": "decoder", "decoder": "encoder"}


def load_taesd(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    config: TAESDConfig = TAESD_CONFIG,
    check: bool = True,
    converted: Path | None = None,
) -> tuple[TAESD, tuple[Path, ...]]:
    """The tiny autoencoder of a file or a folder, and the files that it was read from.

    It is without an encoder where only the decoder is there.

    path: a file or folder of the diffusers library, or one of the author's two files, beside which the other is looked
    for ("taesd_decoder.safetensors", "taesd_encoder.safetensors"). check, converted: as for `load_parts`. Raises
    ModelFileError.
    """
    file = open_weights(_file_in(Path(path)), converted=converted)
    with on_meta():
        model = TAESD(config)
    sources = {"": file} if "encoder.layers.0.weight" in file.tensors else _halves(file, converted)
    tensors = _whole(file, model, config) if "" in sources else _joined(sources, model, config)
    if not any(name.startswith("encoder.") for name in tensors):
        model.encoder = None
    fill(model, tensors, file.path, device=device, dtype=dtype, check=check)
    return model, tuple(sorted(path for source in sources.values() for path in source.files))


def save_taesd(path: str | Path, model: TAESD) -> None:
    """One file with the names of the diffusers library. Raises ValueError for a model without an encoder."""
    if model.encoder is None:
        raise ValueError("this TAESD has a decoder only; use a file that holds both halves")
    write_safetensors(path, save(names.diffusers_rules(model.config), model.state_dict()), {"format": "pt"})


def _file_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    halves = (path / f"taesd_decoder{end}" for end in (".safetensors", ".pth"))
    return next((half for half in halves if half.is_file()), None) or diffusers.weight_file(
        path, diffusers.STEMS["vae"]
    )


def _whole(file: TensorFile, model: TAESD, config: TAESDConfig) -> dict[str, Tensor]:
    rows = plan(names.diffusers_rules(config), shapes_of(file.tensors), shapes_of(model.state_dict()), where=file.path)
    with file.reader() as reader:
        return load(rows, reader)


def _halves(file: TensorFile, converted: Path | None) -> dict[str, TensorFile]:
    """The halves of the author's files: in this one, and in the other next to it."""
    halves = {half: file for half in _OTHER if _half_prefix(file, half) is not None}
    if not halves:
        message = f"looks like {detect(file).what}, expected a TAESD (tiny autoencoder)"
        raise ModelFileError("architecture_mismatch", file.path, message)
    for half, other in _OTHER.items():
        other_file = file.path.with_name(file.path.name.replace(other, half))
        if half not in halves and other_file != file.path and other_file.is_file():
            halves[half] = open_weights(other_file, converted=converted)
    if "decoder" not in halves:
        message = "is the encoder of a TAESD, but taesd_decoder.safetensors is not beside it; both are needed"
        raise ModelFileError("missing", file.path, message)
    return halves


def _joined(sources: Mapping[str, TensorFile], model: TAESD, config: TAESDConfig) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for half, source in sources.items():
        rules = names.encoder_rules(config) if half == "encoder" else names.decoder_rules(config)
        prefix = _half_prefix(source, half) or ""
        half_shapes = {name: shape for name, shape in shapes_of(source.tensors).items() if name.startswith(prefix)}
        params = {n: shape for n, shape in shapes_of(model.state_dict()).items() if n.startswith(f"{half}.")}
        rows = plan([*nest(rules, prefix, f"{half}."), *_DROPPED], half_shapes, params, where=source.path)
        with source.reader() as reader:
            tensors |= load(rows, reader)
    return tensors


def _half_prefix(file: TensorFile, half: str) -> str | None:
    """The prefix under which a file has a half; None where it has it not. The encoder's first number is 0."""
    first = "0.weight" if half == "encoder" else "1.weight"
    return next((prefix for prefix in _PREFIXES[half] if f"{prefix}{first}" in file.tensors), None)
