"""A VAE from a separate file in place of a model's own."""

from pathlib import Path

import torch

from gesso.checkpoints import diffusers, ldm
from gesso.checkpoints.detect import detect
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import Rule, load, nest, plan, shapes_of
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import open_weights
from gesso.families.parts import empty_vae, fill
from gesso.families.taesd import TAESD_CONFIG, load_taesd
from gesso.models.taesd import TAESD
from gesso.models.vae import AutoencoderKL, VAEConfig

# What a file of a VAE's training holds besides.
_DROPPED = [Rule("loss.{rest*}", None), Rule("model_ema.{name}", None)]


def load_vae(
    path: str | Path,
    config: VAEConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    check: bool = True,
    converted: Path | None = None,
) -> tuple[AutoencoderKL | TAESD, tuple[Path, ...]]:
    """An autoencoder, and the files that it was read from.

    path: a file with the names of latent-diffusion, with the prefix that they have in a whole model or without it, or
    with those of the diffusers library; a whole model; a folder of the diffusers library; a TAESD, which is quick and
    loses detail. config: sizes and scale of the latents that the UNet was trained with. Other arguments: as for
    `load_parts`. Raises ModelFileError.
    """
    file = open_weights(_file_in(Path(path)), converted=converted)
    names = shapes_of(file.tensors)
    if any(name.startswith(ldm.VAE) for name in names):  # a whole model, or a VAE that kept its prefix
        names = {name: shape for name, shape in names.items() if name.startswith(ldm.VAE)}
        rules = nest([*ldm.vae_rules(config), *_DROPPED], ldm.VAE, "")
    elif any(name.startswith("encoder.down.") for name in names):
        rules = [*ldm.vae_rules(config), *_DROPPED]
    elif any(name.startswith("encoder.down_blocks.") for name in names):
        rules = diffusers.vae_rules()
    elif "TAESD" in (what := detect(file).what):
        return _tiny(file, config, device, dtype, check=check, converted=converted)
    else:
        message = f"looks like {what}, expected a VAE; give the file of an autoencoder"
        raise ModelFileError("architecture_mismatch", file.path, message)
    vae = empty_vae(config, file.path)
    rows = plan(rules, names, shapes_of(vae.state_dict()), where=file.path)
    with file.reader() as reader:
        fill(vae, load(rows, reader), file.path, device=device, dtype=dtype, check=check)
    return vae, file.files


def _tiny(
    file: TensorFile,
    config: VAEConfig,
    device: str | torch.device,
    dtype: torch.dtype | None,
    *,
    check: bool,
    converted: Path | None,
) -> tuple[TAESD, tuple[Path, ...]]:
    """A TAESD as VAE; its file does not show whether it is for the latents of SD 1 and 2 or of SDXL."""
    if (config.latent_channels, config.downscale) != (TAESD_CONFIG.latent_channels, TAESD_CONFIG.downscale):
        message = "is a TAESD, which does not exist for this model's latents; leave out `vae`"
        raise ModelFileError("architecture_mismatch", file.path, message)
    tiny, files = load_taesd(file.path, device, dtype, check=check, converted=converted)
    if tiny.encoder is None:
        message = "is the decoder of a TAESD, but taesd_encoder.safetensors is not beside it; both are needed"
        raise ModelFileError("missing", file.path, message)
    return tiny, files


def _file_in(path: Path) -> Path:
    """The weights of a folder: of a VAE, or of a whole model."""
    if not path.is_dir():
        return path
    folder = path / "vae" if (path / diffusers.INDEX).is_file() else path
    return diffusers.weight_file(folder, diffusers.STEMS["vae"])
