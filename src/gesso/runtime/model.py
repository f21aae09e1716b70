"""A loaded model: encodes prompts, predicts noise with the UNet, decodes and encodes with the VAE."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gesso.adapters.attaching import Attachment
from gesso.adapters.names import Target
from gesso.checkpoints.hashing import sha256_of
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.encoding import PromptEmbeds, Reading, Sizes, encode_prompt
from gesso.families.parts import ModelParts
from gesso.models.vae import AutoencoderKL
from gesso.nn.attention import Kept, keeping
from gesso.runtime.conditioning import Conditioning, ControlFunction, ControlResiduals
from gesso.runtime.deep_features import DeepFeatures
from gesso.runtime.kernels import cpu_kernels
from gesso.runtime.mapped import give_back_freed_memory
from gesso.runtime.plan import Footprint, MemoryPlan
from gesso.runtime.precision import Precision
from gesso.runtime.residency import NO_COMPONENTS, Component, Residency
from gesso.runtime.seamless import seamless
from gesso.runtime.tiling import decode_tiled, encode_tiled, upscale_tiled
from gesso.text.prompt import Piece
from gesso.text.tokenizer import Tokenizer

LARGE_DECODE = 64 * 64  # latent places from which on a decode makes room first
LARGE_TEXT = 2**27  # bytes in the file, of a text encoder that is worth it
KEPT_MERGED = 64 * 2**20  # bytes of merged weights that a model keeps from one run to the next


@dataclass(frozen=True)
class LoadedWeightFile:
    """A file that weights were loaded from.  stamp: its size and time of change at that moment"""

    name: str  # without the path to the model
    path: Path
    stamp: tuple[int, ...]

    def sha256(self, hash_file: Callable[[Path], str]) -> str:
        """Raises GessoError if the file has changed or is missing."""
        try:
            same = stamp(self.path) == self.stamp
        except OSError:
            same = False
        if not same:
            raise GessoError(
                f"{self.path}: changed or removed since it was loaded; load the model again",
                code="changed",
                data={"path": str(self.path)},
            )
        return hash_file(self.path)


_STAMPED = (".safetensors", ".bin", ".json", ".txt")  # scheduler_config.json, model_index.json, merges.txt, ...


def stamp(path: Path) -> tuple[int, ...]:
    """Size and time of change of a file, or of each file of a folder that decides what the model is: its weights, its
    settings and its vocabulary. They show whether a model changed."""
    files = sorted(file for file in path.rglob("*") if file.suffix in _STAMPED) if path.is_dir() else [path]
    return tuple(number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns))


@dataclass(frozen=True, eq=False, kw_only=True)
class Execution:
    """How the networks of a model compute for one run. It is part of each call; the model itself is not changed.

    plan      memory plan: offloading, batch sizes, tiles; None: everything stays in memory and is computed whole
    float32   networks that compute in float32, whatever the model's dtypes
    controls  control networks by name, onloaded with the UNet
    tiling    axes of seamless tiling: x, y, xy; None: none
    watch     context manager entered around each call: hooks that check the outputs of networks
    """

    plan: MemoryPlan | None = None
    float32: frozenset[str] = frozenset()
    controls: Mapping[str, Component] = field(default_factory=lambda: NO_COMPONENTS)
    tiling: str | None = None
    watch: Callable[["LoadedModel"], AbstractContextManager[None]] | None = None


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The networks of one model on one device. Made by `Engine.load`; any number of threads may use it at once.

    Networks are loaded into memory when they are first used, and stay there unless a plan says otherwise. A network
    call holds `device_lock`, so it has the device for itself, and what a run attaches to the networks (LoRA,
    IP-Adapters, ControlNets, a memory plan, seamless tiling) is there during its own calls alone. `with_plan`,
    `in_float32` and the like give the same model with another `execution`; they share everything else.
    """

    name: str  # "gesso-mini", or the name of the file or folder, without the path to it
    parts: ModelParts
    device: torch.device
    precision: Precision
    weights: tuple[LoadedWeightFile, ...] = ()  # the UNet's first
    packed: frozenset[str] = frozenset()  # networks that compute with own kernels and packed weights in bfloat16
    hash_file: Callable[[Path], str] = sha256_of  # or a function with a cache
    device_lock: AbstractContextManager[Any] = field(default_factory=RLock)  # one for all models of a device
    execution: Execution = Execution()
    _shared: "_Shared | None" = None

    def __post_init__(self) -> None:
        if self._shared is None:
            object.__setattr__(self, "_shared", _Shared(self))

    @property
    def shared(self) -> "_Shared":
        """What all views of one model have in common, computed when first needed."""
        assert self._shared is not None
        return self._shared

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and SHA-256 of each weight file, the UNet first. Reads them when first asked: seconds for large ones.

        Raises GessoError where a file is no longer the one that was loaded.
        """
        return self.shared.files

    @property
    def residency(self) -> Residency:
        """Onloads and offloads the networks: which are in memory, in which dtype."""
        return self.shared.residency

    @property
    def target(self) -> Target:
        """The model's modules, which adapters are matched to."""
        return self.shared.target

    @property
    def footprint(self) -> Footprint:
        """How much memory its networks need."""
        return self.shared.footprint

    @property
    def plan(self) -> MemoryPlan | None:
        """The memory plan in use."""
        return self.execution.plan

    def with_plan(self, plan: MemoryPlan | None) -> "LoadedModel":
        """The same model, run by a memory plan."""
        return self._with(plan=plan)

    def in_float32(self, part: str) -> "LoadedModel":
        """The same model with one of its networks computing in float32."""
        return self._with(float32=self.execution.float32 | {part})

    def with_controls(self, controls: Mapping[str, Component]) -> "LoadedModel":
        """The same model with ControlNets or T2I-Adapters, which are onloaded with the UNet, in its dtype.

        Raises ValueError for a name that the model uses for a network of its own.
        """
        if taken := controls.keys() & self.parts.networks.keys():
            raise ValueError(f"the model has a network named {sorted(taken)[0]!r} already")
        return self._with(controls=controls)

    def with_tiling(self, axes: str | None) -> "LoadedModel":
        """The same model with seamless tiling along these axes: x, y or xy; None: none."""
        return self._with(tiling=axes)

    def with_watch(self, watch: Callable[["LoadedModel"], AbstractContextManager[None]]) -> "LoadedModel":
        """The same model with a context manager that is entered around each network call."""
        return self._with(watch=watch)

    def _with(self, **changes: Any) -> "LoadedModel":
        return replace(self, execution=replace(self.execution, **changes))

    def dtype(self, part: str) -> torch.dtype:
        """The dtype that a network computes in."""
        return torch.float32 if part in self.execution.float32 else self.residency.dtype(part)

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """These networks are in memory within the block, and this thread holds the device. Blocks may be nested."""
        execution = self.execution
        stay = execution.plan.stay if execution.plan is not None else "resident"
        with self.device_lock, ExitStack() as stack:
            self.residency.use(
                *names, stay=stay, float32=execution.float32, controls=execution.controls, packed=self.packed
            )
            if not self.packed.isdisjoint(names):
                stack.enter_context(cpu_kernels())
            stack.enter_context(seamless(execution.tiling))
            if execution.watch is not None:
                stack.enter_context(execution.watch(self))
            yield

    def offload(self) -> None:
        """Offloads all networks, ControlNets included; a network that is used next is onloaded again."""
        with self.device_lock:
            self.residency.offload_all()
            for control in self.execution.controls.values():
                control.offload()

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
    ) -> PromptEmbeds:
        """A prompt to embeddings, one row, in the UNet's dtype; see `families.encoding.encode_prompt`."""
        with self.using(*(name for name in self.parts.networks if name.startswith("text"))):
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

    def predict(
        self,
        z: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        control_function: ControlFunction | None = None,
        adapters: AbstractContextManager[Any] | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """One call of the UNet.  z [B, C, h, w], timestep [B], conditioning of B rows -> [B, C, h, w]

        Extra channels of the conditioning are appended to z.
        control_function  gives the control residuals for the same rows
        adapters          context manager of the LoRA on the UNet, entered for the call once the UNet is in memory
        deep              features that one run keeps from call to call
        """
        dtype = self.dtype("unet")
        parts = deep.of_call(z, conditioning) if deep is not None else None
        # Adapters change what modules compute, a plan what is in memory, and training the weights.
        keeps = adapters is None and self.plan is None and torch.is_inference_mode_enabled()
        kept = self.shared.kept.setdefault(conditioning, {}).setdefault(dtype, {}) if keeps else None
        conditioning = conditioning.to(dtype)
        if conditioning.concat is not None:
            z = torch.cat([z.to(conditioning.concat), conditioning.concat], dim=1)
        z = z.to(dtype, memory_format=torch.channels_last)
        at_once = self.plan.unet_rows if self.plan else len(z)
        with self.using("unet"), adapters or nullcontext():
            outputs = [
                self._predict(
                    z[rows],
                    timestep[rows],
                    conditioning.rows(rows),
                    control_function,
                    parts.setdefault(rows.start, []) if parts is not None else None,
                    kept,
                )
                for rows in (slice(first, first + at_once) for first in range(0, len(z), at_once))
            ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _predict(
        self,
        z: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        control_function: ControlFunction | None,
        deep: list[Tensor] | None,
        kept: Kept | None,
    ) -> Tensor:
        if kept is not None:
            keeping(conditioning.context, kept)
        latents = z[:, : self.family.vae.latent_channels]
        residuals = (
            control_function(latents, timestep, conditioning) if control_function is not None else ControlResiduals()
        )
        more: dict[str, Any] = {} if conditioning.window is None else {"window": conditioning.window}
        if deep is not None and residuals.control is None and residuals.features is None:
            more["deep"] = deep
        with ExitStack() as stack:
            for ip_adapter in residuals.ip_adapters:
                stack.enter_context(ip_adapter)
            output: Tensor = self.parts.unet(
                z,
                timestep,
                conditioning.context,
                conditioning.added,
                conditioning.level,
                conditioning.guidance,
                control=residuals.control,
                features=residuals.features,
                **more,
            )
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w], scaled -> pixels [B, 3, H, W] in about [-1, 1]."""
        latents = latents.to(self.dtype("vae"), memory_format=torch.channels_last)
        vae, plan = self.parts.vae, self.plan
        large = latents[:, 0].numel() >= LARGE_DECODE
        with self.using("vae"), self._room() if large else nullcontext():
            if plan is None:
                return vae.decode(latents)
            return torch.cat(
                [
                    decode_tiled(vae, rows, plan.tile)
                    if plan.tile and isinstance(vae, AutoencoderKL)
                    else vae.decode(rows)
                    for rows in latents.split(plan.vae_rows)
                ]
            )

    @contextmanager
    def _room(self) -> Iterator[None]:
        """For a large decode, at whose peak a picture's memory ends; a memory plan makes its own.

        Large text encoders go back to their file, from which the next prompt takes them in a quarter of a second; freed
        memory goes back to the system, and once more before the level of all pixels, since what the levels before it
        leave is too small for it.
        """
        if self.plan is not None or self.device.type != "cpu":
            yield
            return
        for name, component in self.residency.components.items():
            if name.startswith("text") and component.stored_nbytes >= LARGE_TEXT:
                component.offload()
        give_back_freed_memory()
        vae = self.parts.vae
        if not isinstance(vae, AutoencoderKL):
            yield
            return
        hook = vae.decoder.levels[-1].register_forward_pre_hook(lambda _level, _inputs: give_back_freed_memory())
        try:
            yield
        finally:
            hook.remove()

    def encode_image(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w] in float32, scaled.

        noise  of unit variance and the latents' shape: a sample of the VAE's posterior; None: its mean
        Raises ValueError unless H and W are multiples of the VAE's downscale factor.
        """
        pixels = pixels.to(self.device, self.dtype("vae"), memory_format=torch.channels_last)
        vae, plan = self.parts.vae, self.plan
        with self.using("vae"):
            encoded = [
                encode_tiled(vae, rows, plan.tile)
                if plan and plan.tile and isinstance(vae, AutoencoderKL)
                else vae.encode(rows)
                for rows in pixels.split(plan.vae_rows if plan else len(pixels))
            ]
        mean = torch.cat([posterior.mean.float() for posterior in encoded])
        if noise is None:
            return mean
        return mean + torch.cat([posterior.std.float() for posterior in encoded]) * noise.to(mean)

    def upscale(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, 3, sH, sW] with s = family.output_scale. Raises ValueError without an upscaler."""
        if self.parts.upscaler is None:
            raise ValueError(f"{self.name} has no upscaler")
        upscaler, pixels, plan = self.parts.upscaler, pixels.to(self.dtype("upscaler")), self.plan
        with self.using("upscaler"):
            if plan is None:
                larger: Tensor = upscaler(pixels)
                return larger
            return torch.cat(
                [
                    upscale_tiled(upscaler, rows, plan.upscaler_tile) if plan.upscaler_tile else upscaler(rows)
                    for rows in pixels.split(plan.vae_rows)
                ]
            )


class _Shared:
    """What all views of a model have in common."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        precision, parts = model.precision, model.parts
        dtypes = {name: precision.of(name) for name in parts.networks}
        where = parts.files[0] if parts.files else model.name
        self.residency = Residency(parts, model.device, dtypes, where)
        self.int8: str | None = None  # which layers of the UNet multiply in int8, in a recipe's words
        self.target = Target(model.family.name, model.family.layout, parts.networks)
        self.footprint = Footprint(model.family, self.residency, scores=model.device.type == "mps")
        # What the UNet computes from the text alone, by the run's own conditioning and the dtype of the call.
        self.kept: WeakKeyDictionary[Conditioning, dict[torch.dtype, Kept]] = WeakKeyDictionary()
        self._merged: Attachment | None = None

    def merged(self, attachment: Attachment) -> Attachment:
        """The merged adapters of the last run, if they are the same: they need not be merged again. Else these.

        Only small ones are kept: their weights lie in memory besides the model's.
        """
        if attachment.nbytes > KEPT_MERGED:
            return attachment
        last = self._merged
        if last is None or last.key != attachment.key:
            self._merged = last = attachment
        return last

    @cached_property
    def files(self) -> tuple[tuple[str, str], ...]:
        model = self._model
        return tuple((file.name, file.sha256(model.hash_file)) for file in model.weights)
