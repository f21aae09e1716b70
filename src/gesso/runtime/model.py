"""A model that is ready to run: its networks by the jobs that pipelines give them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gesso.adapters.names import Target
from gesso.checkpoints.safetensors_file import sha256_of
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.encoding import EncodedPrompt, Reading, Sizes, encode_prompt
from gesso.families.parts import Parts
from gesso.models.vae import AutoencoderKL
from gesso.runtime.conditioning import Conditioning, Influence, Steer
from gesso.runtime.plan import Footprint, MemoryPlan
from gesso.runtime.precision import Precision
from gesso.runtime.residency import Residency
from gesso.runtime.tiling import decode_tiled, encode_tiled, upscale_tiled
from gesso.text.prompt import Piece
from gesso.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class WeightFile:
    """A file that weights were read from, as it was then."""

    name: str  # without the path to the model
    path: Path
    stamp: tuple[int, ...]

    def sha256(self, hash_file: Callable[[Path], str]) -> str:
        """Raises GessoError where the file has changed or gone."""
        try:
            same = stamp(self.path) == self.stamp
        except OSError:
            same = False
        if not same:
            raise GessoError(f"{self.path}: changed or gone since it was loaded; load the model again")
        return hash_file(self.path)


def stamp(path: Path) -> tuple[int, ...]:
    """Size and time of change of the file, or of every file of a folder, since a changed model is loaded again."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return tuple(number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns))


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The networks of one model on one device. Made by `Engine.load`.

    Networks become ready when they are first used, and stay so unless a plan says otherwise. One request at a time.
    """

    name: str  # "gesso-mini", or the name of the file or folder, without the path to it
    parts: Parts
    device: torch.device
    precision: Precision
    weights: tuple[WeightFile, ...] = ()  # the UNet's first
    hash_file: Callable[[Path], str] = sha256_of  # a cache of hashes may stand in

    @cached_property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and SHA-256 of each weight file, the UNet first. Reads them when first asked: seconds for large ones.

        Raises GessoError where a file is no longer the one that was loaded.
        """
        return tuple((file.name, file.sha256(self.hash_file)) for file in self.weights)

    @cached_property
    def residency(self) -> Residency:
        """Which networks are in memory, and in which number format."""
        precision = self.precision
        dtypes = {name: precision.of(name) for name in self.parts.networks}
        where = self.parts.files[0] if self.parts.files else self.name
        return Residency(self.parts, self.device, dtypes, where)

    @cached_property
    def target(self) -> Target:
        """What adapters are read for."""
        return Target(self.family.name, self.family.layout, self.parts.networks)

    @cached_property
    def footprint(self) -> Footprint:
        """What its networks take of memory."""
        return Footprint(self.family, self.residency, scores=self.device.type == "mps")

    @cached_property
    def _plans(self) -> list[MemoryPlan]:
        return []

    @contextmanager
    def under(self, plan: MemoryPlan) -> Iterator[None]:
        """Within the block the networks run as the plan says."""
        before = self.residency.stay
        self._plans.append(plan)
        self.residency.stay = plan.stay
        try:
            yield
        finally:
            self._plans.pop()
            self.residency.stay = before

    @property
    def plan(self) -> MemoryPlan | None:
        """The plan that is followed now."""
        return self._plans[-1] if self._plans else None

    @property
    def family(self) -> Family:
        return self.parts.family

    @property
    def tokenizer(self) -> Tokenizer:
        return self.parts.tokenizer

    @property
    def has_upscaler(self) -> bool:
        return self.parts.upscaler is not None

    def encode_prompt(
        self,
        text: str | Sequence[Piece],
        *,
        clip_skip: int,
        width: int,
        height: int,
        negative: bool = False,
        sizes: Sizes | None = None,
        skip_everywhere: bool = False,
        reading: Reading | None = None,
    ) -> EncodedPrompt:
        """A prompt to one row of what the UNet is told, in its number format; see `families.encoding.encode_prompt`."""
        self.residency.use(*(name for name in self.parts.networks if name.startswith("text")))
        encoded = encode_prompt(
            self.parts,
            text,
            clip_skip=clip_skip,
            width=width,
            height=height,
            negative=negative,
            sizes=sizes,
            skip_everywhere=skip_everywhere,
            reading=reading,
        )
        dtype = self.precision.unet
        added = None if encoded.added is None else encoded.added.to(dtype)
        return replace(encoded, context=encoded.context.to(dtype), added=added)

    def predict(self, z: Tensor, timestep: Tensor, conditioning: Conditioning, steer: Steer | None = None) -> Tensor:
        """One call of the UNet.  z [B, C, h, w], timestep [B], conditioning of B rows -> [B, C, h, w]

        The conditioning's pictures join z as further channels. steer: control networks, asked for the same rows.
        """
        self.residency.use("unet")
        told = conditioning.to(self.residency.dtype("unet"))
        if told.concat is not None:
            z = torch.cat([z.to(told.concat), told.concat], dim=1)
        z = z.to(self.residency.dtype("unet"), memory_format=torch.channels_last)
        at_once = self.plan.unet_rows if self.plan else len(z)
        outputs = [
            self._predict(z[rows], timestep[rows], told.rows(rows), steer)
            for rows in (slice(first, first + at_once) for first in range(0, len(z), at_once))
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _predict(self, z: Tensor, timestep: Tensor, told: Conditioning, steer: Steer | None) -> Tensor:
        said = steer(z[:, : self.family.vae.latent_channels], timestep, told) if steer is not None else Influence()
        further = {} if told.window is None else {"window": told.window}
        with said.pictures or nullcontext():
            output: Tensor = self.parts.unet(
                z,
                timestep,
                told.context,
                told.added,
                told.level,
                told.guidance,
                control=said.control,
                features=said.features,
                **further,
            )
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w], scaled -> pixels [B, 3, H, W] in about [-1, 1]."""
        self.residency.use("vae")
        latents = latents.to(self.residency.dtype("vae"), memory_format=torch.channels_last)
        vae, plan = self.parts.vae, self.plan
        if plan is None:
            return vae.decode(latents)
        return torch.cat(
            [
                decode_tiled(vae, rows, plan.tile) if plan.tile and isinstance(vae, AutoencoderKL) else vae.decode(rows)
                for rows in latents.split(plan.vae_rows)
            ]
        )

    def encode_image(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w] in float32, scaled.

        noise  of unit variance and the latents' shape: a sample of what the autoencoder says; None: its mean
        Raises ValueError unless H and W are multiples of the autoencoder's.
        """
        self.residency.use("vae")
        pixels = pixels.to(self.device, self.residency.dtype("vae"), memory_format=torch.channels_last)
        vae, plan = self.parts.vae, self.plan
        found = [
            encode_tiled(vae, rows, plan.tile)
            if plan and plan.tile and isinstance(vae, AutoencoderKL)
            else vae.encode(rows)
            for rows in pixels.split(plan.vae_rows if plan else len(pixels))
        ]
        mean = torch.cat([posterior.mean.float() for posterior in found])
        if noise is None:
            return mean
        return mean + torch.cat([posterior.std.float() for posterior in found]) * noise.to(mean)

    def upscale(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, 3, sH, sW] with s = family.output_scale. Raises ValueError without an upscaler."""
        if self.parts.upscaler is None:
            raise ValueError(f"{self.name} has no upscaler")
        self.residency.use("upscaler")
        upscaler, pixels = self.parts.upscaler, pixels.to(self.residency.dtype("upscaler"))
        if (plan := self.plan) is None:
            larger: Tensor = upscaler(pixels)
            return larger
        return torch.cat(
            [
                upscale_tiled(upscaler, rows, plan.upscaler_tile) if plan.upscaler_tile else upscaler(rows)
                for rows in pixels.split(plan.vae_rows)
            ]
        )
