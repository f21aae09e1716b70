"""Detects the prediction type of a UNet, eps or v, which names and shapes of its file do not show.

In the order of trust: the user; a .yaml file of the same name beside the model, as A1111 reads it; tensors that are
only there as marks; the file's metadata; and for Stable Diffusion 2 the answer of the network itself.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gesso.checkpoints import ldm
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import read_small_file
from gesso.diffusion.denoiser import Prediction
from gesso.models.unet import UNet

MAX_YAML = 64 * 1024  # bytes; published ones have 2 kB
_PREDICTION_NAMES: Mapping[str, Prediction] = {"v": "v", "v_prediction": "v", "epsilon": "eps", "eps": "eps"}


def declared_prediction(path: Path, names: Mapping[str, Any], metadata: Mapping[str, str]) -> Prediction | None:
    """The prediction type that a file or the .yaml next to it states; None if neither does.

    names: those of its tensors. Raises ModelFileError for a .yaml that cannot be read.
    """
    if (declared := _yaml_prediction(path)) is not None:
        return declared
    if ldm.V_PREDICTION in names:
        return "v"
    if metadata.get("modelspec.architecture", "").startswith("stable-diffusion-v2-768-v"):
        return "v"
    return _PREDICTION_NAMES.get(metadata.get("modelspec.prediction_type", "").lower())


def _yaml_prediction(path: Path) -> Prediction | None:
    """From a config of latent-diffusion or of generative-models; only these words of it are looked for."""
    file = next((path.with_suffix(end) for end in (".yaml", ".yml") if path.with_suffix(end).is_file()), None)
    if file is None:
        return None
    try:
        text = read_small_file(file, MAX_YAML).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError("config", file, "is not UTF-8 text; remove it, or give `prediction`") from None
    if match := re.search(r"""^\s*parameterization:\s*["']?(\w+)["']?\s*(?:#.*)?$""", text, re.MULTILINE):
        return _PREDICTION_NAMES.get(match[1])
    if "denoiser_scaling.VScaling" in text:
        return "v"
    # latent-diffusion's default, which its configs leave out
    return "eps" if "denoiser_scaling.EpsScaling" in text or "LatentDiffusion" in text else None


@torch.no_grad()
def probe_prediction(unet: UNet) -> Prediction:
    """Noise or velocity, from the output of an SD 2 UNet for one flat grey input at the last timestep.

    A noise prediction gives about the input back; a velocity is far below it: A1111's test, with its numbers
    (sd_models_config.py). Computed in float32, a layer at a time, whatever the weights are stored as. One call at 8 x 8
    latents.
    """
    config, device = unet.config, unet.conv_in.weight.device
    x = torch.full((1, config.in_channels, 8, 8), 0.5, device=device)
    context = torch.full((1, 2, config.context_dim), 0.5, device=device)
    with _widened(unet):
        out: Tensor = unet(x, torch.tensor([999], device=device), context)
    return "v" if (out - x[:, : out.shape[1]]).mean().item() < -1 else "eps"


@contextmanager
def _widened(network: nn.Module) -> Iterator[None]:
    """Every layer computes in float32 while it runs; its stored weights are put back after it."""
    stored: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, args: Any) -> None:
        for param in module.parameters(recurse=False):
            stored[param] = param.data
            param.data = param.data.float()

    def restore(module: nn.Module, args: Any, output: Any) -> None:
        for param in module.parameters(recurse=False):
            param.data = stored.pop(param)

    layers = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_pre_hook(widen) for layer in layers]
    hooks += [layer.register_forward_hook(restore) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for param, data in stored.items():  # a layer that failed
            param.data = data
