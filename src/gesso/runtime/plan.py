"""Memory plans: how much memory a request needs, computed before it runs, and how to run it within a limit.

A request passes through phases: text, encode (image to image), image encoder (IP-Adapter), unet, decode, upscale,
enlarge (an upscaler network between two passes). Each needs the weights that are in memory then, and its own
activations; the plan is the fastest one whose largest phase fits. The measures, in the order in which they are tried:

    smaller batches    pictures, and the two halves of classifier-free guidance, are computed one after the other
    model offload      "turns": a network's weights are in memory only while it works
    tiles              tiled VAE, see `runtime.tiling`; takes four to six times as long. An upscaler network always
                       works in tiles, see `runtime.upscaling`; these get smaller
    sequential offload "stream": the UNet's weights are loaded and freed layer by layer, in every step

All compute the same numbers, up to the order of sums: a picture may differ by a level here and there, as it does with
another batch size; smaller tiles of an upscaler network move levels by hundredths, see docs/upscaling.md. With a memory
limit, a model and its refiner are never in memory together: each has a plan of its own.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.parts import empty_networks, on_meta
from gesso.models.clip_vision import CLIPVisionModel
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.models.controlnet_union import UnionConfig, UnionControlNet
from gesso.models.rrdb import RRDBNet, RRDBNetConfig
from gesso.models.srvgg import SRVGG, SRVGGConfig
from gesso.models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from gesso.models.taesd import TAESD, TAESDConfig
from gesso.models.unet import UNet
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL
from gesso.runtime.footprint import peak_nbytes
from gesso.runtime.ip_adapter import LoadedImageEncoder, LoadedIPAdapter, image_features
from gesso.runtime.residency import Component, Residency, Stay
from gesso.runtime.seamless import seamless
from gesso.runtime.tiling import MIN_TILE, Stage, decode_front, decoder_stages, encode_tail, encoder_stages
from gesso.runtime.upscaling import RIM, TILE

ControlConfig = ControlNetConfig | T2IAdapterConfig
MIB, GIB = 2**20, 2**30
# Memory that activations really need for each byte that is counted: scratch space of convolutions, and what the
# allocator keeps. Measured, see benchmarks/README.md.
OVERHEAD = 1.4
SLACK = 128 * MIB  # kernels and tables that the first call of each kind loads
_UPSCALER_TILES = (256, 128, 64)  # pixels a side of its input
_NETWORK_TILES = (128, 64, 32)  # the same of an upscaler network; with its rim that is 64 and more
_TILES = (96, 64, 48, 32, 24, MIN_TILE)  # latents a side

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: str) -> int:
    """ "6GiB", "6 GB", "800M", "6442450944" -> bytes. Raises GessoError."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([kmgt]i?)?b?)", text.strip().lower())
    nbytes = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if not 0 < nbytes < 2**50:
        raise GessoError(
            f"`memory` {text[:40]}: expected a size such as 6GiB, 800MB or auto", code="invalid_value", field="memory"
        )
    return nbytes


def size_text(nbytes: int) -> str:
    """ "5.93 GiB", "212 MiB" """
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.0f} MiB"


@dataclass(frozen=True)
class ImagePromptWork:
    """An image prompt to encode: its IP-Adapter and the image encoder."""

    adapter: LoadedIPAdapter
    encoder: LoadedImageEncoder

    def attached_nbytes(self, dtype: torch.dtype) -> int:
        """Bytes that stay attached to the UNet: keys and values of the picture's tokens and of the empty ones."""
        prompt = self.adapter.network
        widths = sum(param.shape[0] for layers in (prompt.to_k, prompt.to_v) for param in layers.parameters())
        return 2 * prompt.config.num_tokens * widths * dtype.itemsize


@dataclass(frozen=True)
class EnlargingWork:
    """An upscaler network between two passes.  input_size: width and height of its largest input"""

    config: RRDBNetConfig | SRVGGConfig
    component: Component
    input_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the memory need of a request depends on.

    width, height  of the finished pictures, in pixels
    rows           batch size: pictures that are computed together
    guided         whether each step computes a conditional and an unconditional half (classifier-free guidance)
    tokens         length of the context; None: that of the text encoder
    encodes        whether pictures are encoded first (image to image, inpainting)
    tile           pixels a side of the UNet's tiles (tiled diffusion); None: the whole at once
    controls       configs of the ControlNets and T2I-Adapters
    components     the same networks as components
    seamless       axes of seamless tiling: x, y, xy; rules out a tiled VAE
    prompts        number of prompts joined by AND, each with a row of its own per picture
    adapters       bytes of LoRA and embeddings
    image_prompts  of IP-Adapters
    enlarging      the upscaler network before the second pass
    """

    width: int
    height: int
    rows: int = 1
    guided: bool = True
    tokens: int | None = None
    encodes: bool = False
    seamless: str | None = None
    controls: tuple[ControlConfig, ...] = ()
    components: tuple[Component, ...] = ()
    tile: int | None = None
    prompts: int = 1
    adapters: int = 0
    image_prompts: tuple[ImagePromptWork, ...] = ()
    enlarging: EnlargingWork | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a request: bytes of the weights in memory, and of the activations."""

    name: str
    weights: int
    activations: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a request runs, and how much memory it needs.

    budget        memory limit in bytes; None: no limit
    base          bytes that the process uses before (torch itself, and what else it holds)
    stay          resident (no offload), turns (model offload) or stream (sequential offload); see `runtime.residency`
    unet_rows     rows of one UNet call; a guided picture has 2
    vae_rows      pictures that the VAE, and the model's own upscaler, takes at a time
    tile          latents a side of the VAE's tiles; None: whole pictures
    upscaler_tile input pixels a side of the tiles of the model's own upscaler; None: whole pictures
    network_tile  the same of an upscaler network between two passes
    """

    budget: int | None
    base: int
    stay: Stay
    unet_rows: int
    vae_rows: int
    tile: int | None
    upscaler_tile: int | None = None
    network_tile: int = TILE
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> int:
        """Bytes that the process needs in the largest phase."""
        return self.base + SLACK + max(phase.weights + phase.activations for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether the plan keeps the limit."""
        return self.budget is None or self.peak <= self.budget

    @property
    def measures(self) -> tuple[str, ...]:
        """How memory is saved, one line each."""
        lines = []
        if self.stay != "resident":
            lines.append("model offload: text encoder, UNet and VAE take turns in memory")
        if self.stay == "stream":
            lines.append("sequential offload: the UNet is loaded layer by layer in every step (slow)")
        lines.append(f"UNet: {self.unet_rows} row{'s' if self.unet_rows > 1 else ''} per call")
        lines.append(f"VAE: {self.vae_rows} picture{'s' if self.vae_rows > 1 else ''} per call")
        if self.tile:
            lines.append(f"tiled VAE: tiles of {self.tile} x {self.tile} latents (slow)")
        if self.upscaler_tile:
            lines.append(f"upscaler: tiles of {self.upscaler_tile} x {self.upscaler_tile} pixels")
        if self.network_tile < TILE:
            lines.append(f"hires upscaler: tiles of {self.network_tile} x {self.network_tile} pixels")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"peak": self.peak, "fits": self.fits, "measures": self.measures}

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_dict())

    def table(self) -> str:
        """A table for people: one row per phase, then the measures."""
        rows = [("phase", "weights", "activations", "total")]
        for phase in self.phases:
            together = self.base + SLACK + phase.weights + phase.activations
            rows.append((phase.name, size_text(phase.weights), size_text(phase.activations), size_text(together)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        limit = "no limit" if self.budget is None else f"limit {size_text(self.budget)}"
        lines.append(f"peak {size_text(self.peak)}, of which the process {size_text(self.base + SLACK)}; {limit}")
        return "\n".join(lines + [f"- {measure}" for measure in self.measures])


class Footprint:
    """How much memory the networks of a family need, by phase. Counts on the meta device and caches the figures."""

    def __init__(self, family: Family, residency: Residency, *, scores: bool) -> None:
        """scores: whether attention materialises its scores on the device."""
        self.family, self.residency, self.scores = family, residency, scores
        self._networks: dict[str, nn.Module] = {}
        self._known: dict[tuple[Any, ...], int] = {}
        self._channels: dict[tuple[Any, ...], int] = {}  # that a stage gives
        self._axes: str | None = None  # of seamless tiling in the workload that is being counted

    @property
    def tiny(self) -> TAESDConfig | None:
        """The config of a TAESD in place of the VAE; None for a full VAE."""
        vae = self.residency.components["vae"].network
        return vae.config if isinstance(vae, TAESD) else None

    def phases(self, work: Workload, plan: MemoryPlan) -> tuple[Phase, ...]:
        """The phases of a workload under a plan's measures."""
        names: dict[str, tuple[str, ...]] = {"text": self._texts()}
        if work.encodes:
            names["encode"] = ("vae",)
        names |= {"unet": ("unet",), "decode": ("vae",)}
        if self.family.upscaler is not None:
            names["upscale"] = ("upscaler",)
        self._axes = work.seamless
        with seamless(work.seamless):
            activations = self._activations(work, plan)
        adapters = dict.fromkeys(("text", "unet"), work.adapters)
        adapters["unet"] += sum(picture.attached_nbytes(self.residency.dtype("text")) for picture in work.image_prompts)
        phases = [
            Phase(
                name=name,
                weights=self._weights(parts, plan, work) + adapters.get(name, 0),
                activations=activations[name],
            )
            for name, parts in names.items()
        ]
        if work.enlarging is not None:
            own = work.enlarging.component.onloaded_nbytes(self.residency.dtype("unet"))
            weights = self._weights((), plan, work) + own
            phases.append(Phase(name="enlarge", weights=weights, activations=self._enlarge(work, plan)))
        if work.image_prompts:
            at = next(place for place, phase in enumerate(phases) if phase.name == "unet")
            phases.insert(at, self._read(work, plan))
        return tuple(phases)

    def _texts(self) -> tuple[str, ...]:
        return tuple(name for name in self.residency.components if name.startswith("text"))

    def _weights(self, parts: tuple[str, ...], plan: MemoryPlan, work: Workload) -> int:
        """Bytes of the weights of these networks, or of all without offload; control networks come with the UNet."""
        components = self.residency.components
        if plan.stay == "resident":
            parts = tuple(components)
        total = 0
        for name in parts:
            dtype = self.residency.dtype(name)
            for component in (components[name], *(work.components if name == "unet" else ())):
                if plan.stay == "stream" and name == "unet":
                    total += component.largest_layer_nbytes(dtype)
                else:
                    total += component.onloaded_nbytes(dtype)
        return total

    def _activations(self, work: Workload, plan: MemoryPlan) -> dict[str, int]:
        family, scale = self.family, self.family.output_scale
        f = family.vae.downscale
        height, width = work.height // scale // f, work.width // scale // f
        pixels = 3 * work.height * work.width * 4  # float32
        latents = family.vae.latent_channels * height * width * 4
        side = work.tile // scale // f if work.tile else max(height, width)
        size = min(height, side), min(width, side)
        nbytes = {
            "text": 64 * MIB
            if max(component.stored_nbytes for component in self._text_components()) > GIB
            else 16 * MIB,
            "unet": self._unet(plan.unet_rows, size, work.tokens, work.controls) + 12 * work.rows * latents,
            "decode": self._decode(plan.vae_rows, height, width, plan.tile) + 2 * work.rows * pixels // scale**2,
        }
        if work.encodes:
            nbytes["encode"] = self._encode(plan.vae_rows, height, width, plan.tile) + 2 * work.rows * pixels
        if family.upscaler is not None:
            nbytes["upscale"] = (
                self._upscale(plan.vae_rows, height * f, width * f, plan.upscaler_tile) + 2 * work.rows * pixels
            )
        return {name: int(count * OVERHEAD) if name != "text" else count for name, count in nbytes.items()}

    def _text_components(self) -> Iterator[Any]:
        return (self.residency.components[name] for name in self._texts())

    def _unet(self, rows: int, size: tuple[int, int], tokens: int | None, controls: tuple[ControlConfig, ...]) -> int:
        height, width = size
        config, tokens = self.family.unet, tokens or self.family.text.max_length
        dtype = self.residency.dtype("unet")
        network = self._network("unet")
        assert isinstance(network, UNet)
        x = _meta(dtype, rows, config.in_channels, height, width)
        time, context = torch.empty(rows, device="meta"), _meta(dtype, rows, tokens, config.context_dim)
        added = _meta(dtype, rows, config.added_dim) if config.added_dim else None
        level = torch.empty(rows, dtype=torch.int64, device="meta") if config.noise_levels else None
        guidance = torch.empty(rows, device="meta") if config.guidance_dim else None
        residuals: list[Tensor] | None = None
        features: list[Tensor] | None = None
        key, most = (rows, height, width, tokens, dtype), 0
        for control_config in dict.fromkeys(controls):
            if isinstance(control_config, T2IAdapterConfig):
                with on_meta():
                    adapter = T2IAdapter(control_config).to(dtype)
                side = self.family.vae.downscale
                hint = _meta(dtype, 1, control_config.image_channels, height * side, width * side)
                adapt = partial(adapter, hint)
                most = max(most, self._count(("control", control_config, *key), adapt))
                with torch.no_grad():
                    features = adapt()
                continue
            with on_meta():
                cls = UnionControlNet if isinstance(control_config, UnionConfig) else ControlNet
                control = cls(control_config).to(dtype)  # type: ignore[arg-type]
            side = control_config.downscale
            hint = _meta(dtype, 1, 3, height * side, width * side)
            call = partial(control, kind=0) if isinstance(control, UnionControlNet) else control
            run = partial(call, x[:, : control_config.unet.in_channels], time, context, hint, added)
            most = max(most, self._count(("control", control_config, *key), run))
            with torch.no_grad():
                residuals = run()
        whole = self._count(
            ("unet", residuals is not None, features is not None, *key),
            lambda: network(x, time, context, added, level, guidance, control=residuals, features=features),
        )
        # The residuals of all control networks are kept while the next one and the UNet work.
        whole = max(whole, most) + sum(part.nbytes for part in (*(residuals or ()), *(features or ())))
        if not self.scores:
            return whole
        places = height * width
        heads = max(config.num_heads)
        return whole + rows * heads * places * places * dtype.itemsize

    def _decode(self, rows: int, height: int, width: int, tile: int | None) -> int:
        config, dtype = self.family.vae, self.residency.dtype("vae")
        vae = self._network("vae")
        assert isinstance(vae, AutoencoderKL | TAESD)
        latents = _meta(dtype, rows, config.latent_channels, height, width)
        if tile is None or max(height, width) <= tile or isinstance(vae, TAESD):
            return self._count(("decode", rows, height, width, dtype), lambda: vae.decode(latents))
        front = self._count(("front", rows, height, width, dtype), lambda: decode_front(vae, latents))
        x = _meta(dtype, rows, config.channels[-1], height, width)
        return max(front, self._staged("decode", decoder_stages(vae), x, tile))

    def _staged(self, name: str, stages: list[Stage], x: Tensor, tile: int) -> int:
        """The memory of the largest stage: its whole input and output, and one tile with its rim."""
        largest = 0
        for i, stage in enumerate(stages):
            height, width = (min(tile + 2 * stage.rim, side) for side in x.shape[-2:])
            part = _meta(x.dtype, len(x), x.shape[1], height, width)
            key = (name, i, *part.shape, x.dtype)

            def call(stage: Stage = stage, part: Tensor = part, key: tuple[Any, ...] = key) -> None:
                self._channels[key] = stage.run(part).shape[1]

            run, channels = self._count(key, call), self._channels[key]
            out = _meta(x.dtype, len(x), channels, *(side * stage.up // stage.down for side in x.shape[-2:]))
            # The statistics are summed in float32 copies, at most of the widest activation of a tile.
            largest = max(largest, x.nbytes + out.nbytes + run + run // 2)
            x, tile = out, tile * stage.up // stage.down
        return largest

    def _encode(self, rows: int, height: int, width: int, tile: int | None) -> int:
        config, dtype = self.family.vae, self.residency.dtype("vae")
        f = config.downscale
        vae = self._network("vae")
        assert isinstance(vae, AutoencoderKL | TAESD)
        pixels = _meta(dtype, rows, 3, height * f, width * f)
        if tile is None or max(height, width) <= tile or isinstance(vae, TAESD):
            return self._count(("encode", rows, height, width, dtype), lambda: vae.encode(pixels))
        folded = _meta(
            dtype, rows, 3 * config.patch_size**2, *(side * f // config.patch_size for side in (height, width))
        )
        features = _meta(dtype, rows, config.channels[-1], height, width)
        tail = self._count(("encode tail", rows, height, width, dtype), lambda: encode_tail(vae, features))
        return max(self._staged("encode", encoder_stages(vae), folded, tile * f // config.patch_size), tail)

    def _upscale(self, rows: int, height: int, width: int, tile: int | None) -> int:
        upscaler = self._network("upscaler")
        assert isinstance(upscaler, MiniUpscaler)
        if tile is not None:
            most = tile + 2 * upscaler.config.sight
            height, width = min(height, most), min(width, most)
        pixels = _meta(self.residency.dtype("upscaler"), rows, 3, height, width)
        return self._count(("upscale", *pixels.shape, pixels.dtype), lambda: upscaler(pixels))

    def _enlarge(self, work: Workload, plan: MemoryPlan) -> int:
        """A tile with its rim, and the pictures before and after."""
        assert work.enlarging is not None
        config, dtype = work.enlarging.config, self.residency.dtype("unet")
        with on_meta():
            network = (RRDBNet(config) if isinstance(config, RRDBNetConfig) else SRVGG(config)).to(dtype)
        most = plan.network_tile + 2 * RIM
        width, height = (min(side, most) for side in work.enlarging.input_size)
        pixels = _meta(dtype, 1, 3, height, width)
        tile = self._count(("enlarge", config, *pixels.shape, dtype), lambda: network(pixels))
        return int((tile + 2 * work.rows * 3 * work.width * work.height * 4) * OVERHEAD)

    def _read(self, work: Workload, plan: MemoryPlan) -> Phase:
        """Image prompts, encoded one by one: encoder, then IP-Adapter; with a memory limit, the model is offloaded."""
        dtype, weights, most = self.residency.dtype("text"), 0, 0
        for picture in work.image_prompts:
            weights = max(
                weights, *(part.component.onloaded_nbytes(dtype) for part in (picture.encoder, picture.adapter))
            )
            config, prompt = picture.encoder.network.config, picture.adapter.network.config
            with on_meta():
                encoder = CLIPVisionModel(config).to(dtype)
            pixels = _meta(dtype, 1, 3, config.image_size, config.image_size)
            read = partial(image_features, encoder, pixels, prompt.kind)
            most = max(most, self._count(("image encoder", config, prompt.kind, dtype), read))
        model = self._weights(tuple(self.residency.components), plan, work) if plan.budget is None else 0
        return Phase(name="image encoder", weights=model + weights, activations=int(most * OVERHEAD))

    def _network(self, name: str) -> nn.Module:
        """The network on the meta device, in the dtype of the real one."""
        if not self._networks:
            self._networks = empty_networks(self.family, self.family.name)
            if self.tiny is not None:
                with on_meta():
                    self._networks["vae"] = TAESD(self.tiny)
        network, dtype = self._networks[name], self.residency.dtype(name)
        return network if next(network.parameters()).dtype == dtype else network.to(dtype)

    def _count(self, key: tuple[Any, ...], call: Any, *, scores: bool = False) -> int:
        key = (*key, self._axes)
        if key not in self._known:
            self._known[key] = peak_nbytes(call, scores=scores)
        return self._known[key]


def make_plan(footprint: Footprint, work: Workload, *, budget: int | None, base: int) -> MemoryPlan:
    """The fastest plan that keeps the limit. Raises GessoError, naming the least that is possible."""
    rows = work.rows * (work.prompts + work.guided)

    def counted(plan: MemoryPlan) -> MemoryPlan:
        return replace(plan, phases=footprint.phases(work, plan))

    plan = counted(
        MemoryPlan(
            budget=budget,
            base=base,
            stay="resident",
            unet_rows=rows,
            vae_rows=work.rows,
            tile=None,
            phases=(Phase(name="none", weights=0, activations=0),),
        )
    )
    while not plan.fits:
        smaller = next((counted(step) for step in _steps(plan, footprint, work)), None)
        if smaller is None:
            raise _too_small(plan, footprint.family, work)
        plan = smaller
    return plan


def _too_small(plan: MemoryPlan, family: Family, work: Workload) -> GessoError:
    phase = _largest(plan)
    less = "leave out the IP-Adapter" if phase.name == "image encoder" else "draw a smaller picture"
    budget = plan.budget or 0
    limit = size_text(budget) if budget >= MIB else f"{budget} byte{'' if budget == 1 else 's'}"  # a unit was forgotten
    return GessoError(
        f"`memory` {limit}: {work.width}x{work.height} with {family.name} needs at least "
        f"{size_text(plan.peak)} ({phase.name}: weights {size_text(phase.weights)}, activations "
        f"{size_text(phase.activations)}, process {size_text(plan.base + SLACK)}). "
        f"Raise the memory limit, or {less}",
        code="memory_exceeded",
        field="memory",
    )


def _largest(plan: MemoryPlan) -> Phase:
    return max(plan.phases, key=lambda phase: phase.weights + phase.activations)


def _steps(plan: MemoryPlan, footprint: Footprint, work: Workload) -> Iterator[MemoryPlan]:
    """Changes that help the largest phase, the cheapest first."""
    name = _largest(plan).name
    vae = name in ("encode", "decode")
    if (vae or name == "upscale") and plan.vae_rows > 1:
        yield replace(plan, vae_rows=1)
    if name == "unet" and plan.unet_rows > 1:
        yield replace(plan, unet_rows=(plan.unet_rows + 1) // 2)
    if plan.stay == "resident":
        yield replace(plan, stay="turns")
    if vae and work.seamless is None and footprint.tiny is None:
        side = max(work.width, work.height) // footprint.family.size_multiple
        now = plan.tile or side
        yield from (replace(plan, tile=tile) for tile in _TILES if tile < now)
    config = footprint.family.upscaler
    if name == "upscale" and config is not None and work.seamless is None:
        side = max(work.width, work.height) // footprint.family.output_scale
        now = plan.upscaler_tile or side
        yield from (
            replace(plan, upscaler_tile=tile) for tile in _UPSCALER_TILES if tile < now and not tile % config.multiple
        )
    if name == "enlarge":
        yield from (replace(plan, network_tile=tile) for tile in _NETWORK_TILES if tile < plan.network_tile)
    if name == "unet" and plan.stay == "turns":
        yield replace(plan, stay="stream")


def _meta(dtype: torch.dtype, *shape: int) -> Tensor:
    tensor = torch.empty(*shape, dtype=dtype, device="meta")
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
