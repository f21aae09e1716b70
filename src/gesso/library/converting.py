"""Conversion: the same weights in another layout or dtype, as files that other tools read.

A single file gets ModelSpec 1.0.1 metadata; a diffusers folder says the same in its configurations.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.files import hidden_name
from gesso.library.containers import PYTORCH, container, to_safetensors
from gesso.notices import Notice

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gesso.checkpoints.detect import Description
    from gesso.diffusion.denoiser import Prediction
    from gesso.families.base import Family
    from gesso.families.parts import ModelParts

log = logging.getLogger(__name__)

LAYOUTS = ("ldm", "diffusers", "native", "safetensors")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SPEC = "modelspec."

# Family -> architecture as ModelSpec names it. A family that is not listed goes by its own name.
ARCHITECTURES: Mapping[str, str] = {
    "sd15": "stable-diffusion-v1",
    "sd15-lcm": "stable-diffusion-v1",
    "sd15-lcm-full": "stable-diffusion-v1",
    "sd15-inpaint": "stable-diffusion-v1-inpainting",
    "instruct-pix2pix": "stable-diffusion-v1-edit",
    "sd20": "stable-diffusion-v2-512",
    "sd21-base": "stable-diffusion-v2-512",
    "sd-turbo": "stable-diffusion-v2-512",
    "sd21": "stable-diffusion-v2-768-v",
    "sd2-inpaint": "stable-diffusion-v2-inpainting",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-lcm": "stable-diffusion-xl-v1-base",
    "sdxl-lcm-full": "stable-diffusion-xl-v1-base",
    "sdxl-lightning": "stable-diffusion-xl-v1-base",
    "sdxl-turbo": "stable-diffusion-xl-turbo-v1",
    "sdxl-inpaint": "stable-diffusion-xl-v1-inpainting",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
}
_PREDICTIONS = {"eps": "epsilon", "v": "v", "x0": "x0"}


@dataclass(frozen=True)
class ConversionResult:
    """A converted model. notes: what was left out, for the user to read."""

    path: Path
    layout: str
    dtypes: tuple[str, ...]
    nbytes: int
    notes: tuple[Notice, ...] = ()


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    family: "Family | str | None" = None,
    prediction: "Prediction | None" = None,
    title: str | None = None,
    date: str | None = None,
) -> ConversionResult:
    """Convert a model to another layout or dtype; written whole or not at all.

    to         "ldm": one file with the names of the first releases; "diffusers": a folder; "native": gesso's own file;
               "safetensors": the same names in one safetensors file, for adapters and parts as well
    dtype      one of DTYPES; None keeps the values as they are
    family     model family, and
    prediction prediction type of its UNet, if detection is wrong; see `families.loading.load_parts`
    title      of the ModelSpec metadata; that of the source, or the name of the target, where None
    date       of the ModelSpec metadata, ISO 8601; now where None
    Raises GessoError: for a source that cannot be read, a layout that its family does not have, numbers that do not fit
    the format, a target that is there already.
    """
    if to not in LAYOUTS or (dtype is not None and dtype not in DTYPES):
        raise ValueError(f"to {to!r}, dtype {dtype!r}: expected one of {', '.join(LAYOUTS)}; {', '.join(DTYPES)}")
    source, target = Path(source), Path(os.path.abspath(target))
    _check_target(source, target, to, overwrite)
    spec = {"title": title, "date": date or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    import torch

    from gesso.checkpoints.detect import describe

    log.info("converting %r to %s%s", str(source), to, f" in {dtype}" if dtype else "")
    with _safetensors(source, target) as plain:
        description = describe(plain)
        if to == "safetensors":
            return _same_names(description, target, dtype, spec)
        if description.family is None:
            raise GessoError(
                f"{source}: looks like {description.kind.what}, which has only one layout; `to=safetensors` keeps its "
                "tensor names",
                code="unsupported",
                data={"path": str(source)},
            )
        from gesso.families.loading import load_parts

        torch_dtype = getattr(torch, DTYPES[dtype]) if dtype else None
        parts = load_parts(plain, dtype=torch_dtype, family=family, prediction=prediction)
        try:
            return _other_names(parts, description, target, to, spec, overwrite)
        except ValueError as error:  # a family without that layout
            raise GessoError(f"{source}: {error}", code="unsupported", data={"path": str(source)}) from None


@contextmanager
def _safetensors(source: Path, target: Path) -> Iterator[Path]:
    """The source, or for the while a safetensors copy of a PyTorch file beside the target."""
    if container(source) not in PYTORCH:
        yield source
        return
    copy = hidden_name(target)
    try:
        to_safetensors(source, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _check_target(source: Path, target: Path, to: str, overwrite: bool) -> None:
    if to != "diffusers" and target.suffix.lower() != ".safetensors":
        raise GessoError(
            f"{target}: expected a file name ending in .safetensors for this layout",
            code="invalid_name",
            data={"path": str(target)},
        )
    if to == "diffusers" and target.suffix.lower() == ".safetensors":
        raise GessoError(
            f"{target}: expected a folder name, as `to=diffusers` writes a folder",
            code="invalid_name",
            data={"path": str(target)},
        )
    if not os.path.lexists(target):
        if not target.parent.is_dir():
            raise GessoError(f"{target.parent}: no such folder", code="missing", data={"path": str(target.parent)})
        return
    same = target.resolve() == source.resolve()
    if same or not overwrite:
        what = "is also the source" if same else "already exists; left unchanged"
        raise GessoError(
            f"{target} {what}. Choose another name{'' if same else ', or add `overwrite`'}",
            code="name_taken",
            data={"path": str(target)},
        )
    if target.is_dir() != (to == "diffusers"):
        raise GessoError(
            f"{target}: is a {'folder, expected a file' if target.is_dir() else 'file, expected a folder'}",
            code="unsupported",
            data={"path": str(target)},
        )
    if target.is_dir() and not (target / "model_index.json").is_file():
        raise GessoError(
            f"{target}: is a folder with other files, which gesso does not replace",
            code="protected",
            data={"path": str(target)},
        )


# ---- names stay ------------------------------------------------------------------------------------------------------


def _same_names(
    description: "Description", target: Path, dtype: str | None, spec: Mapping[str, str | None]
) -> ConversionResult:
    import torch

    from gesso.checkpoints.safetensors_file import write_safetensors
    from gesso.checkpoints.weight_file import open_weights

    if len(description.files) != 1:
        raise GessoError(
            f"{description.path}: is a folder of several files. Give one of them, or use `to=ldm` or `to=diffusers`",
            code="unsupported",
            data={"path": str(description.path)},
        )
    torch_dtype = getattr(torch, DTYPES[dtype]) if dtype else None
    file = open_weights(description.files[0].path)
    metadata = {key: value for key, value in file.metadata.items() if not key.startswith("sshs_")}
    model_spec_pairs = _spec_of_names(description, target, spec)
    with file.reader() as reader:
        tensors = {name: _cast(reader[name], torch_dtype, f"{file.path}: {name}") for name in file.tensors}
        hash_key = f"{SPEC}hash_sha256" if model_spec_pairs else None
        write_safetensors(target, tensors, {**metadata, **model_spec_pairs}, hash_key=hash_key)
    kept = tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    return ConversionResult(target, "safetensors", kept, target.stat().st_size)


def _spec_of_names(description: "Description", target: Path, spec: Mapping[str, str | None]) -> dict[str, str]:
    """What ModelSpec can say without loading the model: nothing new of adapters and parts, nor of SD 2, whose names do
    not tell what it predicts."""
    from gesso.families.registry import FAMILIES

    family = FAMILIES.get(description.family or "")
    if description.layout == "ldm" and family is not None and family.layout != "sd2":
        return model_spec(family, description, target, spec)
    has_spec = any(key.startswith(SPEC) for file in description.files for key in file.metadata)
    pairs = {f"{SPEC}date": str(spec["date"])} if has_spec else {}
    return pairs | ({f"{SPEC}title": str(spec["title"])} if spec["title"] else {})


def _cast(tensor: "Tensor", dtype: "torch.dtype | None", where: str) -> "Tensor":
    """Floating-point numbers in another format. Raises GessoError for those that do not fit."""
    if dtype is None or not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    if not bool(cast.isfinite().all()) and bool(tensor.float().isfinite().all()):
        raise GessoError(f"{where}: values overflow {dtype}. Convert to bf16 or fp32", code="overflow")
    return cast


# ---- names change ----------------------------------------------------------------------------------------------------


def _other_names(
    parts: "ModelParts",
    description: "Description",
    target: Path,
    to: str,
    spec: Mapping[str, str | None],
    overwrite: bool,
) -> ConversionResult:
    """Raises ValueError for a layout that the family does not have."""
    from gesso.families.saving import save_diffusers, save_ldm

    if to == "ldm":
        metadata = model_spec(parts.family, description, target, spec)
        _save_with_metadata(target, metadata, lambda path: save_ldm(path, parts))
    elif to == "native":
        _save_native(target, parts, description, spec)
    else:
        _replace_folder(target, overwrite, lambda folder: save_diffusers(folder, parts))
    files = [file for file in target.rglob("*") if file.is_file()] if target.is_dir() else [target]
    nbytes = sum(file.stat().st_size for file in files)
    return ConversionResult(target, to, _dtypes_of(parts), nbytes, _notes(parts, description, to))


def _dtypes_of(parts: "ModelParts") -> tuple[str, ...]:
    params = (param for network in parts.networks.values() for param in network.parameters())
    return tuple(sorted({str(param.dtype).removeprefix("torch.") for param in params}))


def _notes(parts: "ModelParts", description: "Description", to: str) -> tuple[Notice, ...]:
    notes = []
    if to == "diffusers" and parts.family.layout == "sd2" and parts.family.text_layer > 1:
        text = (
            "left out: the last layer and the projection of SD 2's text encoder, which are unused and do not fit "
            "into a diffusers folder"
        )
        notes.append(Notice(text, code="left_out"))
    if to == "ldm" and not _has_released_sizes(parts.family):
        text = (
            "its sizes are those of no release, which a single file cannot say: gesso and other programs cannot load "
            "it by itself. Keep the source, or use `to=diffusers`"
        )
        notes.append(Notice(text, code="unusual_sizes", field="to"))
    if description.layout == "diffusers" and to == "ldm":
        text = "left out: the tokenizer, which a single file cannot hold; programs use CLIP's standard one"
        notes.append(Notice(text, code="left_out"))
    if description.layout == "ldm":
        from gesso.checkpoints.safetensors_file import open_safetensors

        average = sum(name.startswith("model_ema.") for name in open_safetensors(description.path).tensors)
        if average:
            text = f"left out: {average} tensors of the moving average (EMA)"
            notes.append(Notice(text, code="left_out", data={"tensors": average}))
    return tuple(notes)


def _has_released_sizes(family: "Family") -> bool:
    """Whether a single file of a model is read as what it is: such files are told by the sizes of the releases."""
    from gesso.families.diffusers_folder import folder_text
    from gesso.families.registry import FAMILIES

    def sizes(one: "Family") -> tuple[object, ...]:
        unet = replace(one.unet, upcast_attention=False)  # which changes no tensor
        return one.layout, one.concat, unet, one.vae, folder_text(one), one.text_2

    return any(sizes(release) == sizes(family) for release in FAMILIES.values())


def model_spec(
    family: "Family", description: "Description", target: Path, spec: Mapping[str, str | None]
) -> dict[str, str]:
    """ModelSpec 1.0.1 without its hash: what the source said about author and licence, and what is true of the file."""
    side = family.output_size
    kept: dict[str, str] = {}
    for file in description.files:
        kept |= {key: value for key, value in file.metadata.items() if key.startswith(SPEC)}
    for key in ("hash_sha256", "sai_model_spec", "unet_dtype", "vae_dtype"):
        kept.pop(f"{SPEC}{key}", None)
    title = spec["title"] or kept.get(f"{SPEC}title") or target.stem
    own = {
        "sai_model_spec": "1.0.1",
        "architecture": ARCHITECTURES.get(family.name, family.name),
        "implementation": "gesso" if family.name == "gesso-mini" else "sgm",
        "title": title,
        "resolution": f"{side}x{side}",
        "date": str(spec["date"]),
        "prediction_type": _PREDICTIONS.get(family.prediction, str(family.prediction)),
    }
    return {**kept, **{f"{SPEC}{key}": value for key, value in own.items()}}


def _save_native(target: Path, parts: "ModelParts", description: "Description", spec: Mapping[str, str | None]) -> None:
    from gesso.checkpoints.native import save_native
    from gesso.families.gesso_mini import NAME, config_of

    if parts.family.name != NAME:
        raise ValueError(
            f"a model of family {parts.family.name!r} cannot be saved in gesso's own layout; use `to=ldm` or "
            "`to=diffusers`"
        )
    keys = model_spec(parts.family, description, target, spec)
    named = {key.removeprefix(SPEC): value for key, value in keys.items()}
    dtype = next(parts.unet.parameters()).dtype
    save_native(target, dict(parts.networks), config_of(parts.family), parts.tokenizer.to_json(), named, dtype)


def _save_with_metadata(target: Path, metadata: Mapping[str, str], save: Callable[[Path], object]) -> None:
    """What `save` writes, with more metadata and the hash of its data; under its name only when it is whole."""
    from gesso.checkpoints.safetensors_file import open_safetensors, write_safetensors

    plain = hidden_name(target)
    try:
        save(plain)
        file = open_safetensors(plain)
        with file.reader() as reader:
            tensors = {name: reader[name] for name in file.tensors}
            write_safetensors(target, tensors, {**file.metadata, **metadata}, hash_key=f"{SPEC}hash_sha256")
    finally:
        plain.unlink(missing_ok=True)


def _replace_folder(target: Path, overwrite: bool, save: Callable[[Path], object]) -> None:
    """The new folder is written whole before an old one gives way."""
    if not target.exists():
        save(target)
        return
    assert overwrite
    fresh = target.with_name(f".{target.name}.new")
    old = target.with_name(f".{target.name}.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    save(fresh)
    os.rename(target, old)
    os.rename(fresh, target)
    shutil.rmtree(old, ignore_errors=True)
