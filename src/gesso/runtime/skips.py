"""Which layers of a UNet bear int8: measured once for a model, and kept in a file.

The UNet computes a few steps from noise to a picture in bfloat16, layer by layer from the file, so that no more than
one layer is in memory. Each linear layer and convolution multiplies what enters it in int8 as well; those whose output
is then further off than BOUND, in any step, stay in bfloat16. Small layers and those of the time embedding, which cost
nothing, do so anyway. Text, noise and steps are fixed, so that a model has one list, up to the rounding of a layer that
is at the bound; a recipe holds its hash.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gesso.diffusion.denoiser import Denoiser
from gesso.diffusion.noise import philox_normal
from gesso.files import atomic_file
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.model import LoadedModel
from gesso.runtime.packing import Packed, convolve, linear, pack
from gesso.runtime.plan import MemoryPlan

BOUND = 0.02  # of the difference to bfloat16, relative root mean square over the numbers of an output
FEWEST = 32  # channels in and out, below which a layer is not worth it: the first and the last
PROMPTS = ("a photograph of a red bicycle in front of a house", "")
TIMES = (0.98, 0.6, 0.2)  # of the schedule, from noise to the picture
_VERSION = 1  # of all that decides the list beside the model
_STREAMED = MemoryPlan(budget=None, base=0, stay="stream", unet_rows=2, vae_rows=1, tile=None, phases=())


@dataclass(frozen=True)
class Skips:
    """The answer for one model.  layers: how many could multiply in int8; names: weights of those that do not"""

    layers: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        """For recipes: "int8 but for 3 of 282 layers, 9f86d081"."""
        digest = hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:8]
        return f"int8 but for {len(self.names)} of {self.layers} layers, {digest}"


def skips_of(model: LoadedModel, kept: Path | None) -> Skips:
    """The list of a model, measured if the file does not have it.

    kept: file of the lists, by the hash of the models' files; None: none. One that cannot be read is replaced.
    """
    digests = [digest for _, digest in model.files]
    key = hashlib.sha256(json.dumps([_VERSION, BOUND, digests]).encode()).hexdigest()
    candidates = _candidates(model)
    known = _read(kept) if kept is not None and digests else {}
    if key not in known or not candidates.issuperset(known[key]):
        errors = measured_errors(model)
        known[key] = sorted(name for name in candidates if not errors.get(name, float("inf")) <= BOUND)
        if kept is not None and digests:
            with suppress(OSError):
                kept.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(kept) as file:
                    file.write(json.dumps(known, indent=1, sort_keys=True).encode())
    return Skips(len(candidates), tuple(known[key]))


def int8_weights(model: LoadedModel, skips: Skips) -> frozenset[str]:
    """Names of the UNet's weights that multiply in int8."""
    return frozenset(_candidates(model) - set(skips.names))


def _candidates(model: LoadedModel) -> set[str]:
    unet = model.residency.components["unet"]
    of_time = {f"{name}.weight" for name, _ in unet.network.named_modules() if "time" in name or "embed" in name}
    weights = dict(unet.network.named_parameters())
    return {name for name in unet.packable() if name not in of_time and min(weights[name].shape[:2]) >= FEWEST}


# Measuring ------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def measured_errors(model: LoadedModel) -> dict[str, float]:
    """By the names of the UNet's weights, how far off bfloat16 the layer's output is in int8, at most.

    Relative root mean square. All networks are offloaded afterwards.
    """
    errors: dict[str, float] = {}

    @contextmanager
    def watch(model: LoadedModel) -> Iterator[None]:
        with _Measuring(model, errors):
            yield

    streamed = model.with_plan(_STREAMED)
    family, config = model.family, model.family.unet
    side = family.native_size // (2 if family.native_size >= 512 else 1)
    embeds = [
        streamed.encode_prompt(text, clip_skip=family.clip_skip, width=side, height=side, negative=not text)
        for text in PROMPTS
    ]
    rows, latent = len(embeds), side // family.vae.downscale
    added = [each.added for each in embeds if each.added is not None]
    extra = config.in_channels - family.vae.latent_channels
    conditioning = Conditioning(
        context=torch.cat([each.context for each in embeds]),
        added=torch.cat(added) if added else None,
        concat=torch.zeros(rows, extra, latent, latent) if extra else None,
        level=torch.zeros(rows, dtype=torch.int64) if config.noise_levels else None,
        guidance=torch.ones(rows) if config.guidance_dim else None,
    )
    watched = streamed.with_watch(watch)
    schedule = family.schedule.build()
    denoise = Denoiser(
        lambda z, timestep: watched.predict(z, timestep, conditioning).float(), schedule, family.prediction
    )
    sigmas = [float(schedule.sigma_of(time * (schedule.num_timesteps - 1))) for time in TIMES]
    x = philox_normal((rows, family.vae.latent_channels, latent, latent), seed=0) * sigmas[0]
    for i, sigma in enumerate(sigmas):
        x0 = denoise(x, sigma)
        if i + 1 < len(sigmas):
            x = x0 + (x - x0) * (sigmas[i + 1] / sigma)
    model.offload()
    return errors


class _Measuring(TorchFunctionMode):
    """Linear layers and convolutions multiply in int8 as well, beside what they give."""

    def __init__(self, model: LoadedModel, errors: dict[str, float]) -> None:
        super().__init__()
        unet = model.residency.components["unet"]
        modules = dict(unet.network.named_modules())
        self.layers = {
            id(param): (name, modules[name.rpartition(".")[0]], name in unet.doubled)
            for name, param in unet.network.named_parameters()
            if name in _candidates(model)
        }
        self.errors = errors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.linear, F.conv2d) and len(args) > 1 and id(args[1]) in self.layers:
            name, module, doubled = self.layers[id(args[1])]
            with _in_int8(module, args[1], doubled=doubled):
                found = (linear if func is F.linear else convolve)(*args, **(kwargs or {}))
            self.errors[name] = max(self.errors.get(name, 0.0), _distance(found, output))
        return output


@contextmanager
def _in_int8(module: nn.Module, weight: Any, *, doubled: bool) -> Iterator[None]:
    weight.packed = Packed(pack(module, weight.data, doubled=doubled, int8=True), weight.dtype, weight.data_ptr())
    try:
        yield
    finally:
        del weight.packed


def _distance(found: Tensor | None, expected: Tensor) -> float:
    """NaN counts as infinitely far."""
    if found is None:
        return float("inf")
    off = float((found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-30))
    return off if off == off else float("inf")


def _read(path: Path) -> dict[str, list[str]]:
    try:
        found: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        str(key): names
        for key, names in found.items()
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
    }
