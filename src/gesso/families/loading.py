"""Loads a whole model from files: `load_parts`."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gesso.checkpoints import diffusers, ldm, native
from gesso.checkpoints.detect import FileKind, require_model
from gesso.checkpoints.errors import ModelFileError, examples
from gesso.checkpoints.keymap import Renamed, load, plan, shapes_of
from gesso.checkpoints.safetensors_file import SafetensorsFile
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import open_weights
from gesso.diffusion.denoiser import Prediction
from gesso.errors import shorten
from gesso.families.base import Family
from gesso.families.diffusers_folder import check_pipeline, folder_text, read_family, unused_parts
from gesso.families.gesso_mini import family_from_config
from gesso.families.parts import ModelParts, empty_networks, fill, param_shapes
from gesso.families.prediction import declared_prediction, probe_prediction
from gesso.families.registry import family_named, release_like
from gesso.families.saving import folder_rules
from gesso.families.separate_unet import SeparateUNet
from gesso.families.separate_vae import load_vae
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNet
from gesso.notices import Notice
from gesso.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def load_parts(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    family: Family | str | None = None,
    prediction: Prediction | None = None,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    average: bool = False,
    check: bool = True,
    converted: str | Path | None = None,
) -> ModelParts:
    """A model from a single file (LDM names, or gesso's own layout) or from a diffusers folder.

    family      what the model is, by name or as a value; None: detected from the header. A name is for what looks like
                another, such as "sdxl-turbo"
    prediction  what its UNet predicts, if gesso would detect it wrongly; see `families.prediction`
    vae         a file or folder with another autoencoder
    unet        a file or folder with another UNet, which may have extra input channels or a guidance embedding
    average     the UNet's moving average from a file of LDM names that holds both; few do
    dtype       of the networks; None: each tensor as it is stored, mapped and not read
    check       read all weights once to refuse NaN and infinity; False leaves that to the caller
    converted   folder for safetensors copies of PyTorch files (.ckpt); None: a copy that lasts while it is read
    Tensors that need no change stay views of the mapped file, so the file must not change while they are used.
    Raises ModelFileError, and GessoError for an unknown name of a family.
    """
    path, begin = Path(path), time.monotonic()
    named = family_named(family) if isinstance(family, str) else family
    separate = None if unet is None else SeparateUNet.open(unet, converted=_path(converted))
    how = _How(device, dtype, named, prediction, _path(vae), separate, average, check, _path(converted))
    parts = _load(path, how)
    log.debug(
        "opened %r as %s predicting %s: %d networks, %d files, %.2f s",
        str(path),
        parts.family.name,
        parts.family.prediction,
        len(parts.networks),
        len(parts.files),
        time.monotonic() - begin,
    )
    return parts


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


@dataclass(frozen=True)
class _How:
    """The arguments of `load_parts`."""

    device: str | torch.device
    dtype: torch.dtype | None
    family: Family | None
    prediction: Prediction | None
    vae: Path | None
    unet: SeparateUNet | None
    average: bool
    check: bool
    converted: Path | None

    def fill(self, network: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
        fill(network, tensors, where, device=self.device, dtype=self.dtype, check=self.check)


def _load(path: Path, how: _How) -> ModelParts:
    if path.is_dir():
        _refuse_average(how.average, path)
        return _load_folder(path, how)
    file = open_weights(path, converted=how.converted)
    kind = require_model(file)
    if kind.layout == "native":
        assert isinstance(file, SafetensorsFile)
        _refuse_average(how.average, path)
        return _load_native(file, how)
    return _load_ldm(file, kind, how)


def _refuse_average(average: bool, path: Path) -> None:
    if average:
        raise ModelFileError("missing_key", path, "has no moving average (EMA) beside its weights")


def _load_native(file: SafetensorsFile, how: _How) -> ModelParts:
    if any(value is not None for value in (how.family, how.prediction, how.vae, how.unet)):
        message = "states its family and holds all its parts; leave out `family`, `prediction`, `vae` and `unet`"
        raise ModelFileError("architecture_mismatch", file.path, message)
    opened = native.load_native(file)
    family = family_from_config(opened.config, file.path)
    networks = empty_networks(family, file.path)
    if set(opened.components) != set(networks):
        message = f"has tensors of {', '.join(opened.components)}, its configuration of {', '.join(networks)}"
        raise ModelFileError("missing_key", file.path, message)
    tokenizer = Tokenizer.from_json(opened.tokenizer, name=f"{file.path}: {native.TOKENIZER_KEY}")
    _check_tokenizer(tokenizer, family.text, file.path)
    for component, network in networks.items():
        how.fill(network, opened.load(component), f"{file.path}: {component}")
    return _parts(family, networks, {"text": tokenizer}, [file.path])


# ---------------------------------------------------------------------------------------------------------------------


def _load_ldm(file: TensorFile, kind: FileKind, how: _How) -> ModelParts:
    family = _as_stored(_ldm_family(file, kind, how), file)
    networks = empty_networks(family, file.path)
    rules = ldm.file_rules(family.layout, family.unet, family.vae)
    names = shapes_of(file.tensors)
    if how.vae is not None:
        del networks["vae"]
        names = {name: shape for name, shape in names.items() if not name.startswith(ldm.VAE)}
    elif not any(name.startswith(ldm.VAE) for name in names):
        raise ModelFileError("missing_key", file.path, "has no VAE; give the file of one with `vae`")
    if how.unet is not None:
        del networks["unet"]
        names = {name: shape for name, shape in names.items() if not name.startswith((ldm.UNET, "model_ema."))}
    extra = ldm.extra_tensors(family.layout, rules, names)
    _refuse_edm(extra, file.path)
    for name in extra:
        del names[name]
    rows = plan(rules, names, param_shapes(networks), where=file.path)
    averages = ldm.average_names(file.tensors) if how.average else {}
    _refuse_average(how.average and not averages, file.path)
    with file.reader() as reader:
        tensors = load(rows, Renamed(reader, averages))
        # Of the file, not of the table: these are dropped there.
        scalars = {name: reader[name] for name, info in file.tensors.items() if info.shape == () and name in _SCALARS}
    for component, network in networks.items():
        own = {name.removeprefix(f"{component}."): t for name, t in tensors.items() if name.startswith(f"{component}.")}
        how.fill(network, own, f"{file.path}: {component}")
    files = [*file.files, *_other_unet(family, networks, how), *_other_vae(family, networks, how)]
    family = _with_prediction(family, networks["unet"], how.unet.file if how.unet else file, how)
    tokenizers = {tower.component: _clip_tokenizer(openclip=tower.openclip) for tower in ldm.TOWERS[family.layout]}
    return replace(_parts(family, networks, tokenizers, files, scalars), notices=_notices(extra, file.path))


def _refuse_edm(names: Collection[str], where: Path) -> None:
    """CosXL and its like: SDXL's network, which takes noise of EDM's sigmas and predicts by EDM's rule."""
    if marks := [name for name in names if name.startswith(("edm_vpred.", "edm_eps."))]:
        message = (
            f"is a CosXL or another EDM model ({', '.join(map(shorten, marks))}), which samples by rules that gesso "
            "does not have (EDM, Karras et al. 2022). Use an ordinary SDXL model"
        )
        raise ModelFileError("architecture_mismatch", where, message)


def _notices(extra: Sequence[str], where: Path) -> tuple[Notice, ...]:
    """Every weight of the model is there; what else is in the file is named, once."""
    if not extra:
        return ()
    text = f"{where.name}: {len(extra)} tensors belong to no network of the model and are ignored: {examples(extra)}"
    return (Notice(text, code="tensors_ignored", data={"count": len(extra)}),)


# Tensors without dimensions that are nothing of a model's, and that saving writes again as they were.
_SCALARS = (
    "model_ema.decay",
    "model_ema.num_updates",
    ldm.V_PREDICTION,
    ldm.ZERO_TERMINAL_SNR,
    *(name for layout in ldm.TOWERS for name in ldm.logit_scales(layout)),
)


def _ldm_family(file: TensorFile, kind: FileKind, how: _How) -> Family:
    """The requested family, else the one detected from the header."""
    detected = family_named(str(kind.family))
    if how.unet is not None:
        detected = how.unet.family(detected)
    if how.family is None:
        return detected
    requested = how.family
    if requested.architecture != detected.architecture:
        message = f"looks like {kind.what}, not like {requested.name!r}. Try: `family={detected.name}`"
        raise ModelFileError("architecture_mismatch", file.path, message)
    return requested


def _as_stored(family: Family, file: TensorFile) -> Family:
    """SD 2 as converted from a diffusers folder lacks the text layer that is not read, and perhaps the projection."""
    if family.layout != "sd2":
        return family
    prefix = f"{ldm.TOWERS['sd2'][0].prefix}"
    missing = f"{prefix}transformer.resblocks.{family.text.num_layers - 1}.ln_1.weight" not in file.tensors
    layers = folder_text(family).num_layers if missing else family.text.num_layers
    width = family.text.projection_dim if f"{prefix}text_projection" in file.tensors else None
    text = replace(family.text, num_layers=layers, projection_dim=width)
    return replace(family, text=text, text_layer=family.text_layer - (family.text.num_layers - layers))


def _with_prediction(family: Family, unet: nn.Module, file: TensorFile, how: _How) -> Family:
    """The family with the detected prediction type, which tells SD 2 of 512 from SD 2 of 768 pixels."""
    is_open = how.family is None and (family.layout, family.concat) == ("sd2", "none")
    prediction = how.prediction
    if prediction is None and (is_open or family.layout != "sd2"):
        prediction = declared_prediction(file.path, file.tensors, file.metadata)
    if prediction is None and is_open:
        assert isinstance(unet, UNet)
        prediction = probe_prediction(unet)
    if ldm.ZERO_TERMINAL_SNR in file.tensors:
        family = replace(family, schedule=replace(family.schedule, zero_terminal_snr=True))
    if prediction is None or prediction == family.prediction:
        return family
    family = replace(family, prediction=prediction)
    if is_open:
        like = release_like(family)
        return replace(family, name=like.name, native_size=like.native_size, scheduler=like.scheduler)
    return family


def _clip_tokenizer(*, openclip: bool) -> Tokenizer:
    """A single file holds none. OpenCLIP pads with 0, OpenAI's CLIP with the end."""
    return Tokenizer.clip(pad=0 if openclip else None)


# ---------------------------------------------------------------------------------------------------------------------


def _load_folder(folder: Path, how: _How) -> ModelParts:
    check_pipeline(folder)  # before what another pipeline lacks is asked for
    paths = diffusers.weight_files(folder)
    family = read_family(folder, how.family) if how.unet is None else _with_unet(read_family(folder), how.unet, how)
    if how.prediction is not None:
        family = replace(family, prediction=how.prediction)
    networks = empty_networks(family, folder)
    rules = folder_rules(family)
    files: list[Path] = []
    if how.vae is not None:
        del networks["vae"], paths["vae"]
    if how.unet is not None:
        del networks["unet"], paths["unet"]
    files += _other_unet(family, networks, how)
    for part, path in paths.items():
        network, file = networks[part], open_weights(path, converted=how.converted)
        rows = plan(rules[part], shapes_of(file.tensors), shapes_of(network.state_dict()), where=file.path)
        with file.reader() as reader:
            how.fill(network, load(rows, reader), file.path)
        files.extend(file.files)
    files += _other_vae(family, networks, how)
    names = diffusers.tokenizers_of(family.layout)
    tokenizers = {part: Tokenizer.from_folder(folder / name) for part, name in names.items()}
    return replace(_parts(family, networks, tokenizers, files), notices=unused_parts(folder))


def _with_unet(family: Family, unet: SeparateUNet, how: _How) -> Family:
    """The family of a folder whose UNet comes from elsewhere, under the name that was asked for."""
    joined, requested = unet.family(family), how.family
    if requested is None:
        return joined
    if requested.architecture != joined.architecture:
        message = f"makes a {joined.name!r} of this model, not a {requested.name!r}. Try: `family={joined.name}`"
        raise ModelFileError("architecture_mismatch", unet.file.path, message)
    return replace(joined, name=requested.name, defaults=requested.defaults)


def _other_unet(family: Family, networks: dict[str, nn.Module], how: _How) -> list[Path]:
    """Puts the UNet of a file of its own among the networks, where one is asked for -> its files."""
    if how.unet is None:
        return []
    networks["unet"], files = how.unet.load(family, how.device, how.dtype, check=how.check)
    return list(files)


def _other_vae(family: Family, networks: dict[str, nn.Module], how: _How) -> list[Path]:
    """Puts the VAE of a file of its own among the networks, where one is asked for -> its files."""
    if how.vae is None:
        return []
    networks["vae"], files = load_vae(
        how.vae, family.vae, how.device, how.dtype, check=how.check, converted=how.converted
    )
    return list(files)


def _check_tokenizer(tokenizer: Tokenizer, text: CLIPTextConfig, where: Path) -> None:
    if tokenizer.size > text.vocab_size:
        message = f"its tokenizer has {tokenizer.size} token ids, its text encoder has {text.vocab_size}"
        raise ModelFileError("architecture_mismatch", where, message)
    pairs = {
        "ids a text": (tokenizer.length, text.max_length),
        "as the id of the end": (tokenizer.eos, text.eos_id),
    }
    for what, (value, expected) in pairs.items():
        if value != expected:
            message = f"its tokenizer has {value} {what}, its text encoder {expected}"
            raise ModelFileError("architecture_mismatch", where, message)


def _parts(
    family: Family,
    networks: dict[str, Any],
    tokenizers: Mapping[str, Tokenizer],
    files: list[Path],
    scalars: Mapping[str, Tensor] | None = None,
) -> ModelParts:
    """Raises ModelFileError where a tokenizer and its text encoder do not belong together."""
    for part, tokenizer in tokenizers.items():
        _check_tokenizer(tokenizer, networks[part].config, files[0])
    return ModelParts(
        family=family,
        unet=networks["unet"],
        vae=networks["vae"],
        text=networks["text"],
        text_2=networks.get("text_2"),
        upscaler=networks.get("upscaler"),
        tokenizer=tokenizers["text"],
        tokenizer_2=tokenizers.get("text_2"),
        files=tuple(files),
        scalars=scalars or {},
    )
