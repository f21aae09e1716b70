"""What a request needs of memory, found before it runs, and the way to run it within a budget.

A request passes through phases: text, encode (image to image), image encoder (a picture that prompts), unet, decode,
upscale, enlarge (an upscaler network between two passes). Each needs the weights that are in memory then, and its own
activations; the plan is the quickest way whose largest phase fits. The measures, in the order in which they are tried:

    fewer rows a call     pictures, and the guided and the unguided half, go through the networks one after the other
    turns                 a network's weights are in memory only while it works; then they are read again from the file
    tiles                 the autoencoder works in tiles, see `runtime.tiling`; takes four to six times as long. An
                          upscaler network always does, see `runtime.upscaling`: in smaller ones
    stream                the UNet's weights come and go layer by layer, in every step

All compute the same numbers, up to the order of sums: a picture may differ by a level here and there, as it does with
another size of batch; smaller tiles of an upscaler network move levels by hundredths, see docs/upscaling.md. A model
and its refiner are never in memory together where it is limited: each has a plan of its own.
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
from gesso.models.upscaler import Upscaler
from gesso.models.vae import AutoencoderKL
from gesso.runtime.footprint import peak_nbytes
from gesso.runtime.image_prompt import LoadedImageEncoder, LoadedImagePrompt, said_of
from gesso.runtime.residency import Component, Residency, Stay
from gesso.runtime.seamless import seamless
from gesso.runtime.tiling import MIN_TILE, Stage, decode_front, decoder_stages, encode_tail, encoder_stages
from gesso.runtime.upscaling import RIM, TILE

SteeringConfig = ControlNetConfig | T2IAdapterConfig
MIB, GIB = 2**20, 2**30
# What activations really take for each byte that the count says: convolutions' scratch space, and what the allocator
# keeps. Measured, see benchmarks/README.md.
OVERHEAD = 1.4
SLACK = 128 * MIB  # kernels and tables that the first call of each kind loads
_UPSCALER_TILES = (256, 128, 64)  # pixels a side of its input
_NETWORK_TILES = (128, 64, 32)  # the same of an upscaler network; with its rim that is 64 and more
_TILES = (96, 64, 48, 32, 24, MIN_TILE)  # latents a side

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: str) -> int:
    """ "6GiB", "6 GB", "800M", "6442450944" -> bytes. Raises GessoError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]i?)?b?)", text.strip().lower())
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
class PictureReading:
    """A picture that prompts: the adapter that it goes through, and the encoder before it."""

    adapter: LoadedImagePrompt
    encoder: LoadedImageEncoder

    def kept_nbytes(self, dtype: torch.dtype) -> int:
        """What stays of it: keys and values of the tokens, of the picture and of none, for every attention."""
        prompt = self.adapter.network
        widths = sum(param.shape[0] for layers in (prompt.to_k, prompt.to_v) for param in layers.parameters())
        return 2 * prompt.config.num_tokens * widths * dtype.itemsize


@dataclass(frozen=True)
class EnlargingWork:
    """An upscaler network between two passes.  seen: width and height of the largest picture that goes into it"""

    config: RRDBNetConfig | SRVGGConfig
    component: Component
    seen: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a request asks of the networks, as far as memory depends on it.

    width, height  of the finished pictures, in pixels
    rows           pictures that go through the networks together
    guided         whether each step asks for a guided and an unguided half
    tokens         length of the context; the text model's where None
    encodes        whether pictures are encoded first (image to image, inpainting)
    tile           pixels a side of the tiles that the UNet sees one after the other; None: the whole at once
    controls       networks that steer, by their sizes
    components     the same as they lie in memory
    seamless       axes along which the sides continue each other: x, y, xy; the autoencoder's tiles cannot do that
    prompts        how many guide together, each with a row of its own a picture
    adapters       bytes of what is put on the text models and the UNet
    pictures       that prompt
    enlarging      by an upscaler network, before the second pass
    """

    width: int
    height: int
    rows: int = 1
    guided: bool = True
    tokens: int | None = None
    encodes: bool = False
    seamless: str | None = None
    controls: tuple[SteeringConfig, ...] = ()
    components: tuple[Component, ...] = ()
    tile: int | None = None
    prompts: int = 1
    adapters: int = 0
    pictures: tuple[PictureReading, ...] = ()
    enlarging: EnlargingWork | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of the way: bytes of the weights in memory then, and of everything that is computed."""

    name: str
    weights: int
    activations: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a request runs, and what it takes.

    budget        bytes that it may take in all; None: no limit was stated
    base          bytes that the process has before (torch itself, and what else lives there)
    stay          resident, turns or stream; see `runtime.residency`
    unet_rows     rows of one call of the UNet, of the 2 for each guided picture
    vae_rows      pictures that the autoencoder, and the model's own upscaler, takes at a time
    tile          latents a side of the autoencoder's tiles; None: whole pictures
    upscaler_tile pixels a side of the tiles that the model's own upscaler enlarges; None: whole pictures
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
        """Bytes that the largest phase takes, with everything."""
        return self.base + SLACK + max(phase.weights + phase.activations for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether the budget is kept."""
        return self.budget is None or self.peak <= self.budget

    @property
    def measures(self) -> tuple[str, ...]:
        """What is done to save memory, one line each; none where everything stays in memory."""
        found = []
        if self.stay != "resident":
            found.append("networks take turns in memory: text, UNet, autoencoder")
        if self.stay == "stream":
            found.append("the UNet's layers are read from the file in every step (slow)")
        found.append(f"the UNet takes {self.unet_rows} row{'s' if self.unet_rows > 1 else ''} a call")
        found.append(f"the autoencoder takes {self.vae_rows} picture{'s' if self.vae_rows > 1 else ''} a call")
        if self.tile:
            found.append(f"the autoencoder works in tiles of {self.tile} x {self.tile} latents (slow)")
        if self.upscaler_tile:
            found.append(f"the upscaler works in tiles of {self.upscaler_tile} x {self.upscaler_tile} pixels")
        if self.network_tile < TILE:
            found.append(f"the upscaler network works in tiles of {self.network_tile} x {self.network_tile} pixels")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"peak": self.peak, "fits": self.fits, "measures": self.measures}

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_dict())

    def table(self) -> str:
        """For people: a row a phase, then what is done."""
        rows = [("phase", "weights", "activations", "all together")]
        for phase in self.phases:
            together = self.base + SLACK + phase.weights + phase.activations
            rows.append((phase.name, size_text(phase.weights), size_text(phase.activations), size_text(together)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        budget = "no budget stated" if self.budget is None else f"budget {size_text(self.budget)}"
        lines.append(f"largest {size_text(self.peak)}, of it the process {size_text(self.base + SLACK)}; {budget}")
        return "\n".join(lines + [f"- {measure}" for measure in self.measures])


class Footprint:
    """What the networks of a family take, by phase. Counts on the meta device and remembers."""

    def __init__(self, family: Family, residency: Residency, *, scores: bool) -> None:
        """scores: whether attention writes its scores down on the device."""
        self.family, self.residency, self.scores = family, residency, scores
        self._networks: dict[str, nn.Module] = {}
        self._known: dict[tuple[Any, ...], int] = {}
        self._axes: str | None = None  # of the workload that is being counted

    @property
    def tiny(self) -> TAESDConfig | None:
        """Of a TAESD in the place of the autoencoder."""
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
            found = self._activations(work, plan)
        beside = dict.fromkeys(("text", "unet"), work.adapters)
        beside["unet"] += sum(picture.kept_nbytes(self.residency.dtype("text")) for picture in work.pictures)
        phases = [
            Phase(name=name, weights=self._weights(parts, plan, work) + beside.get(name, 0), activations=found[name])
            for name, parts in names.items()
        ]
        if work.enlarging is not None:
            own = work.enlarging.component.settled_nbytes(self.residency.dtype("unet"))
            weights = self._weights((), plan, work) + own
            phases.append(Phase(name="enlarge", weights=weights, activations=self._enlarge(work, plan)))
        if work.pictures:
            at = next(place for place, phase in enumerate(phases) if phase.name == "unet")
            phases.insert(at, self._read(work, plan))
        return tuple(phases)

    def _texts(self) -> tuple[str, ...]:
        return tuple(name for name in self.residency.components if name.startswith("text"))

    def _weights(self, parts: tuple[str, ...], plan: MemoryPlan, work: Workload) -> int:
        """Of these networks, or of all where all stay; control networks are there whenever the UNet is."""
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
                    total += component.settled_nbytes(dtype)
        return total

    def _activations(self, work: Workload, plan: MemoryPlan) -> dict[str, int]:
        family, scale = self.family, self.family.output_scale
        f = family.vae.downscale
        height, width = work.height // scale // f, work.width // scale // f
        pixels = 3 * work.height * work.width * 4  # float32
        latents = family.vae.latent_channels * height * width * 4
        most = work.tile // scale // f if work.tile else max(height, width)
        seen = min(height, most), min(width, most)
        found = {
            "text": 64 * MIB
            if max(component.stored_nbytes for component in self._text_components()) > GIB
            else 16 * MIB,
            "unet": self._unet(plan.unet_rows, seen, work.tokens, work.controls) + 12 * work.rows * latents,
            "decode": self._decode(plan.vae_rows, height, width, plan.tile) + 2 * work.rows * pixels // scale**2,
        }
        if work.encodes:
            found["encode"] = self._encode(plan.vae_rows, height, width, plan.tile) + 2 * work.rows * pixels
        if family.upscaler is not None:
            found["upscale"] = (
                self._upscale(plan.vae_rows, height * f, width * f, plan.upscaler_tile) + 2 * work.rows * pixels
            )
        return {name: int(nbytes * OVERHEAD) if name != "text" else nbytes for name, nbytes in found.items()}

    def _text_components(self) -> Iterator[Any]:
        return (self.residency.components[name] for name in self._texts())

    def _unet(self, rows: int, size: tuple[int, int], tokens: int | None, controls: tuple[SteeringConfig, ...]) -> int:
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
        steering: list[Tensor] | None = None
        features: list[Tensor] | None = None
        key, beside = (rows, height, width, tokens, dtype), 0
        for control_config in dict.fromkeys(controls):
            if isinstance(control_config, T2IAdapterConfig):
                with on_meta():
                    adapter = T2IAdapter(control_config).to(dtype)
                side = self.family.vae.downscale
                hint = _meta(dtype, 1, control_config.image_channels, height * side, width * side)
                adapt = partial(adapter, hint)
                beside = max(beside, self._count(("control", control_config, *key), adapt))
                with torch.no_grad():
                    features = adapt()
                continue
            with on_meta():
                cls = UnionControlNet if isinstance(control_config, UnionConfig) else ControlNet
                control = cls(control_config).to(dtype)  # type: ignore[arg-type]
            side = control_config.downscale
            hint = _meta(dtype, 1, 3, height * side, width * side)
            call = partial(control, kind=0) if isinstance(control, UnionControlNet) else control
            steer = partial(call, x[:, : control_config.unet.in_channels], time, context, hint, added)
            beside = max(beside, self._count(("control", control_config, *key), steer))
            with torch.no_grad():
                steering = steer()
        whole = self._count(
            ("unet", steering is not None, features is not None, *key),
            lambda: network(x, time, context, added, level, guidance, control=steering, features=features),
        )
        # What all of them say together is kept while the next one and the UNet work.
        whole = max(whole, beside) + sum(part.nbytes for part in (*(steering or ()), *(features or ())))
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
        """The most that any stage takes: what comes in and what goes out whole, and one tile with its rim."""
        found = 0
        for i, stage in enumerate(stages):
            height, width = (min(tile + 2 * stage.rim, side) for side in x.shape[-2:])
            part = _meta(x.dtype, len(x), x.shape[1], height, width)
            run = self._count((name, i, *part.shape, x.dtype), lambda stage=stage, part=part: stage.run(part))
            with torch.no_grad():
                channels = stage.run(part).shape[1]
            out = _meta(x.dtype, len(x), channels, *(side * stage.up // stage.down for side in x.shape[-2:]))
            # Sums for the statistics are of float32 copies, at most of the widest activation of a tile.
            found = max(found, x.nbytes + out.nbytes + run + run // 2)
            x, tile = out, tile * stage.up // stage.down
        return found

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
        assert isinstance(upscaler, Upscaler)
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
        width, height = (min(side, most) for side in work.enlarging.seen)
        pixels = _meta(dtype, 1, 3, height, width)
        tile = self._count(("enlarge", config, *pixels.shape, dtype), lambda: network(pixels))
        return int((tile + 2 * work.rows * 3 * work.width * work.height * 4) * OVERHEAD)

    def _read(self, work: Workload, plan: MemoryPlan) -> Phase:
        """One picture after the other, encoder and adapter in turn; where memory is limited, the model rests."""
        dtype, weights, most = self.residency.dtype("text"), 0, 0
        for picture in work.pictures:
            weights = max(
                weights, *(part.component.settled_nbytes(dtype) for part in (picture.encoder, picture.adapter))
            )
            config, prompt = picture.encoder.network.config, picture.adapter.network.config
            with on_meta():
                encoder = CLIPVisionModel(config).to(dtype)
            pixels = _meta(dtype, 1, 3, config.image_size, config.image_size)
            read = partial(said_of, encoder, pixels, prompt.kind)
            most = max(most, self._count(("image encoder", config, prompt.kind, dtype), read))
        beside = self._weights(tuple(self.residency.components), plan, work) if plan.budget is None else 0
        return Phase(name="image encoder", weights=beside + weights, activations=int(most * OVERHEAD))

    def _network(self, name: str) -> nn.Module:
        """On the meta device, in the number format of the real one."""
        if not self._networks:
            self._networks = empty_networks(self.family, self.family.name)
            if self.tiny is not None:
                with on_meta():
                    self._networks["vae"] = TAESD(self.tiny)
        return self._networks[name].to(self.residency.dtype(name))

    def _count(self, key: tuple[Any, ...], call: Any, *, scores: bool = False) -> int:
        key = (*key, self._axes)
        if key not in self._known:
            self._known[key] = peak_nbytes(call, scores=scores)
        return self._known[key]


def make_plan(footprint: Footprint, work: Workload, *, budget: int | None, base: int) -> MemoryPlan:
    """The quickest plan that keeps the budget. Raises GessoError, saying the least that is possible."""
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
    less = "leave the picture that prompts out" if phase.name == "image encoder" else "ask for a smaller picture"
    return GessoError(
        f"`memory` {size_text(plan.budget or 0)}: {work.width}x{work.height} with {family.name} takes at least "
        f"{size_text(plan.peak)} ({phase.name}: weights {size_text(phase.weights)}, activations "
        f"{size_text(phase.activations)}, process {size_text(plan.base + SLACK)}). "
        f"Allow more memory, or {less}",
        code="memory_exceeded",
        field="memory",
    )


def _largest(plan: MemoryPlan) -> Phase:
    return max(plan.phases, key=lambda phase: phase.weights + phase.activations)


def _steps(plan: MemoryPlan, footprint: Footprint, work: Workload) -> Iterator[MemoryPlan]:
    """What helps the largest phase, the cheapest first."""
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
    made = torch.empty(*shape, dtype=dtype, device="meta")
    return made.to(memory_format=torch.channels_last) if made.ndim == 4 else made
