"""Files to a whole model: `load_parts`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesso.checkpoints import diffusers, ldm, native
from gesso.checkpoints.detect import require_model
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import TensorSource, load, plan, shapes_of
from gesso.checkpoints.safetensors_file import SafetensorsFile, open_safetensors
from gesso.families.base import Family
from gesso.families.diffusers_folder import read_family
from gesso.families.gesso_mini import family_from_config
from gesso.families.parts import Parts, empty_networks, fill, param_shapes
from gesso.families.sd15 import SD15
from gesso.text.tokenizer import Tokenizer


def load_parts(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    family: Family | None = None,
    average: bool = False,
    check: bool = True,
) -> Parts:
    """A model from a single file (LDM names, or gesso's own layout) or from a diffusers folder.

    family   what a file of LDM names holds, SD 1.5 where None; the other layouts say it themselves
    average  the UNet's moving average from a file of LDM names that holds both; few do
    dtype    of the networks; None: each tensor as it is stored, mapped and not read
    check    read every number once to refuse NaN and infinity; False leaves that to the caller
    Tensors that need no change stay views of the mapped file, so the file must not change while they are used.
    Raises ModelFileError.
    """
    path = Path(path)
    if path.is_dir():
        _refuse_average(average, path)
        return _load_folder(path, device, dtype, check=check)
    file = open_safetensors(path)
    kind = require_model(file)
    if kind.layout == "native":
        _refuse_average(average, path)
        return _load_native(file, device, dtype, check=check)
    return _load_ldm(file, device, dtype, family or SD15, average=average, check=check)


def _refuse_average(average: bool, path: Path) -> None:
    if average:
        raise ModelFileError("missing_key", path, "holds one set of weights, without a moving average beside it")


def _load_native(file: SafetensorsFile, device: str | torch.device, dtype: torch.dtype | None, *, check: bool) -> Parts:
    opened = native.load_native(file)
    family = family_from_config(opened.config, file.path)
    networks = empty_networks(family, file.path)
    if set(opened.components) != set(networks):
        message = f"has tensors of {', '.join(opened.components)}, its configuration of {', '.join(networks)}"
        raise ModelFileError("missing_key", file.path, message)
    tokenizer = Tokenizer.from_json(opened.tokenizer, name=f"{file.path}: {native.TOKENIZER_KEY}")
    _check_tokenizer(tokenizer, family, file.path)
    for component, network in networks.items():
        fill(network, opened.load(component), f"{file.path}: {component}", device=device, dtype=dtype, check=check)
    return _parts(family, networks, tokenizer, [file.path])


def _load_ldm(
    file: SafetensorsFile,
    device: str | torch.device,
    dtype: torch.dtype | None,
    family: Family,
    *,
    average: bool,
    check: bool,
) -> Parts:
    networks = empty_networks(family, file.path)
    rules = ldm.sd1_rules(family.unet, family.vae)
    rows = plan(rules, shapes_of(file.tensors), param_shapes(networks), where=file.path)
    names = ldm.average_names(file.tensors) if average else {}
    _refuse_average(average and not names, file.path)
    with file.reader() as reader:
        tensors = load(rows, _Renamed(reader, names))
    for component, network in networks.items():
        own = {name.removeprefix(f"{component}."): t for name, t in tensors.items() if name.startswith(f"{component}.")}
        fill(network, own, f"{file.path}: {component}", device=device, dtype=dtype, check=check)
    tokenizer = Tokenizer.clip()  # a single file holds none
    _check_tokenizer(tokenizer, family, file.path)
    return _parts(family, networks, tokenizer, [file.path])


@dataclass(frozen=True)
class _Renamed:
    """A file in which some names stand for the tensors of others."""

    source: TensorSource
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> Tensor:
        return self.source[self.names.get(name, name)]


def _load_folder(folder: Path, device: str | torch.device, dtype: torch.dtype | None, *, check: bool) -> Parts:
    paths = diffusers.weight_files(folder)
    family = read_family(folder)
    networks = empty_networks(family, folder)
    rules = {"unet": diffusers.unet_rules(family.unet), "vae": diffusers.vae_rules(), "text": diffusers.text_rules()}
    for part, network in networks.items():
        file = open_safetensors(paths[part])
        rows = plan(rules[part], shapes_of(file.tensors), shapes_of(network.state_dict()), where=file.path)
        with file.reader() as reader:
            fill(network, load(rows, reader), file.path, device=device, dtype=dtype, check=check)
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    _check_tokenizer(tokenizer, family, folder)
    return _parts(family, networks, tokenizer, list(paths.values()))


def _check_tokenizer(tokenizer: Tokenizer, family: Family, where: Path) -> None:
    text = family.text
    if tokenizer.size > text.vocab_size:
        message = f"its tokenizer has {tokenizer.size} token ids, its text model knows {text.vocab_size}"
        raise ModelFileError("architecture_mismatch", where, message)
    pairs = {
        "ids a text": (tokenizer.length, text.max_length),
        "as the id of the end": (tokenizer.eos, text.eos_id),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            message = f"its tokenizer has {found} {what}, its text model {expected}"
            raise ModelFileError("architecture_mismatch", where, message)


def _parts(family: Family, networks: dict[str, Any], tokenizer: Tokenizer, files: list[Path]) -> Parts:
    return Parts(
        family=family,
        unet=networks["unet"],
        vae=networks["vae"],
        text=networks["text"],
        upscaler=networks.get("upscaler"),
        tokenizer=tokenizer,
        files=tuple(files),
    )
