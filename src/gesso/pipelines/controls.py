"""ControlNets, T2I-Adapters and IP-Adapters of a request: found, given their hints, and run before each UNet call.

Tools differ in how strong each output is, whether the negative prompt is affected, and at which steps; the request's
`control_rule` selects whose rule it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from PIL import Image
from torch import Tensor

from gesso.checkpoints.hashing import hashes_of
from gesso.diffusion.tiles import Tile
from gesso.errors import GessoError, short
from gesso.hints.registry import canonical
from gesso.hints.sizing import Size
from gesso.models.controlnet_union import UnionControlNet
from gesso.models.t2i_adapter import T2IAdapter
from gesso.pipelines.clock import Clock
from gesso.pipelines.hint_pictures import HintPicture, hint_digest
from gesso.pipelines.ip_adapters import IPAdapterInput, IPAdapters, find_ip_adapter
from gesso.request.checks import RequestError, check_multiple, unknown_data
from gesso.request.finder import Finder
from gesso.request.parts import ControlUse
from gesso.request.recipe import ExtraFile
from gesso.request.request import ResolvedRequest
from gesso.runtime.conditioning import Conditioning, ControlFunction, ControlResiduals
from gesso.runtime.control import LoadedControl
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.plan import ControlConfig, ImagePromptWork
from gesso.runtime.residency import Component

SOFT = 0.825  # soft weights, from the ControlNet authors: factor for each output further from the middle
_SOFT_OUTPUTS = 13  # of Stable Diffusion 1, which the rule was made for
_XL_OUTPUTS = 10
# The control_type input of a ControlNet Union for each kind of hint; only "promax" has the last two.
UNION_KINDS = {
    "openpose": 0,
    "depth": 1,
    "softedge": 2,
    "scribble": 2,
    "canny": 3,
    "lineart": 3,
    "normal": 4,
    "segmentation": 5,
    "tile": 6,
    "inpaint": 7,
}
T2I_SOFT = (0.25, 0.62, 0.825, 1.0)  # of a T2I-Adapter's features, in A1111's extension
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow makes grey


@dataclass(frozen=True, eq=False)
class Controls:
    """The control networks of a request, each with its hint, and its IP-Adapters."""

    parts: tuple[tuple[LoadedControl, HintPicture], ...] = ()
    ip_adapter_inputs: tuple[IPAdapterInput, ...] = ()
    rule: str = "a1111"
    _hints: dict[tuple[int, Size], Tensor] = field(default_factory=dict, repr=False)

    @property
    def networks(self) -> list[LoadedControl]:
        """The ControlNets and T2I-Adapters, each once."""
        return list(dict.fromkeys(control for control, _ in self.parts))

    @property
    def components(self) -> dict[str, Component]:
        """The networks as components, by a name each."""
        return {f"control {number}": control.component for number, control in enumerate(self.networks)}

    @property
    def configs(self) -> tuple[ControlConfig, ...]:
        """Configs of the networks, for memory plans."""
        return tuple(control.network.config for control in self.networks)

    @property
    def image_prompt_work(self) -> tuple[ImagePromptWork, ...]:
        """The image prompts, for memory plans."""
        return tuple(ImagePromptWork(each.adapter, each.encoder) for each in self.ip_adapter_inputs)

    @cached_property
    def ip_adapters(self) -> IPAdapters:
        """The IP-Adapters; their image prompts are encoded at the first access."""
        return IPAdapters(self.ip_adapter_inputs)

    def files(self) -> tuple[ExtraFile, ...]:
        """The files for the recipe, each once. Raises ModelFileError if one is missing."""
        named = {picture.use.model: control.parts.files[0] for control, picture in self.parts}
        files = [ExtraFile(kind="control", name=name, sha256=hashes_of(file).sha256) for name, file in named.items()]
        files += [file for each in self.ip_adapter_inputs for file in each.files()]
        return tuple(dict.fromkeys(files))

    def at(self, rows: int, columns: int, device: torch.device) -> "RunControls | None":
        """With hints for latents of this size; None if there are no networks. Raises RequestError as `HintPicture`."""
        controls = []
        for number, (control, picture) in enumerate(self.parts):
            side = control.parts.hint_scale
            size = (columns * side, rows * side)
            if (number, size) not in self._hints:
                self._hints[number, size] = picture.pixels(size, swapped=control.parts.swapped)
            controls.append(HintedControl(picture.use, control, self._hints[number, size].to(device)))
        if not controls and not self.ip_adapter_inputs:
            return None
        return RunControls(tuple(controls), self.rule, self.ip_adapters)


NO_CONTROLS = Controls()


def find_controls(
    request: ResolvedRequest,
    hints: Sequence[Image.Image],
    mask: Image.Image | None,
    *,
    engine: Engine,
    model: LoadedModel,
    finder: Finder,
    part: tuple[float, float, float, float] | None = None,
) -> Controls:
    """Loads the control networks of a request and matches them to their hints, given in any order.

    mask: of the request, for inpaint hints.
    part: the part of the source picture that is drawn, as shares of its sides; hints are of the whole picture.
    Raises RequestError if a hint is missing or not used, GessoError for a file that is no control network or does not
    fit.
    """
    images = {hint_digest(image): image for image in hints}
    if unused := sorted(images.keys() - {use.image for use in request.controls}):
        raise RequestError("controls", f"the hint {unused[0][:10]}... is not used by any of `controls`")
    mode = "stretch" if request.conventions.control_rule == "diffusers" else "crop"
    if part is not None:
        mode = "fill"  # as the source picture is resized then
    parts, ip_adapters = [], []
    for use in request.controls:
        if use.image not in images:
            raise RequestError("controls", f"{use.model}: the hint {use.image[:10]}... is missing")
        try:
            path = finder.find("control", use.model)
        except GessoError as error:
            raise RequestError("controls", error.one_line, data=error.data) from None
        if engine.adapter_cache.is_ip_adapter(path):
            ip_adapters.append(find_ip_adapter(use, path, images[use.image], engine=engine, model=model, finder=finder))
            continue
        if use.encoder is not None:
            raise RequestError("controls", f"{use.model}: only IP-Adapters take an encoder; remove {use.encoder}")
        control = engine.load_control(path, model)
        _check_patches(control, request)
        _check_kind(control, use)
        parts.append((control, HintPicture(use, images[use.image], mask, mode, part)))
    return Controls(tuple(parts), tuple(ip_adapters), request.conventions.control_rule)


def kind_of(use: ControlUse) -> str:
    """The kind of a hint for a ControlNet Union: as set, else that of its preprocessor. Raises RequestError."""
    known = ", ".join(UNION_KINDS)
    kind = use.kind
    if kind is None and use.preprocessor is not None:
        kind = canonical(use.preprocessor)
    if kind is None:
        raise RequestError("controls", f"{use.model}: a ControlNet Union needs kind=, the kind of hint. Known: {known}")
    if kind not in UNION_KINDS:
        raise RequestError(
            "controls",
            f"{use.model}: unknown kind of hint {short(kind)}. Known: {known}",
            data=unknown_data(kind, UNION_KINDS),
        )
    return kind


def _check_kind(control: LoadedControl, use: ControlUse) -> None:
    """Raises RequestError for a kind that a ControlNet Union does not support, and for any with another network."""
    network = control.network
    if not isinstance(network, UnionControlNet):
        if use.kind is not None:
            raise RequestError("controls", f"{use.model}: not a ControlNet Union; remove kind {short(use.kind)}")
        return
    if UNION_KINDS[kind := kind_of(use)] >= network.union.num_kinds:
        raise RequestError("controls", f"{use.model}: does not support hints of kind {kind}")


def _check_patches(control: LoadedControl, request: ResolvedRequest) -> None:
    """SDXL's T2I-Adapters need sides that are multiples of 16 pixels."""
    if isinstance(control.network, T2IAdapter):
        for side in ("width", "height"):
            check_multiple(side, getattr(request, side), control.network.config.patch)


@dataclass(frozen=True, eq=False)
class HintedControl:
    """A ControlNet or T2I-Adapter with its hint, float32 [1, 3, P h, P w]."""

    use: ControlUse
    control: LoadedControl
    hint: Tensor
    _features: dict[torch.dtype, list[Tensor]] = field(default_factory=dict, repr=False)  # of the hint alone

    def part(self, tile: Tile) -> "HintedControl":
        """The same for one tile of the latents."""
        side = self.control.parts.hint_scale
        whole = Tile(tile.top * side, tile.left * side, tile.height * side, tile.width * side)
        return HintedControl(self.use, self.control, whole.of(self.hint))

    def affected_rows(self, conditioning: Conditioning) -> Tensor | None:
        """bool [B]: the rows that it affects; None: all of them."""
        if conditioning.negative is None or not (self.use.mode == "control" or self.control.parts.pooled):
            return None
        return ~conditioning.negative

    def __call__(self, z: Tensor, timestep: Tensor, conditioning: Conditioning, rule: str) -> ControlResiduals:
        """Its residuals in a call; none for rows that it does not affect."""
        affected = self.affected_rows(conditioning)
        if affected is not None and not bool(affected.any()):
            return ControlResiduals()
        network = self.control.network
        if isinstance(network, T2IAdapter):
            return self._adapt(network, z, affected, rule)
        if affected is not None:
            conditioning = conditioning.rows(affected)
            z, timestep = z[affected], timestep[affected]
        call = partial(network, z, timestep, conditioning.context, self.hint.to(z), conditioning.added)
        if isinstance(network, UnionControlNet):
            call = partial(call, kind=UNION_KINDS[kind_of(self.use)])
        outputs = call()
        factors = strengths(self.use.mode, rule, len(outputs), pooled=self.control.parts.pooled)
        residuals = []
        for output, factor in zip(outputs, factors, strict=True):
            if self.control.parts.pooled:
                output = output.mean(dim=(2, 3), keepdim=True).expand_as(output)
            output = output * (factor * self.use.weight)
            if affected is not None:
                everywhere = output.new_zeros(len(affected), *output.shape[1:])
                everywhere[affected] = output
                output = everywhere
            residuals.append(output)
        return ControlResiduals(control=residuals)

    def _adapt(self, network: T2IAdapter, z: Tensor, affected: Tensor | None, rule: str) -> ControlResiduals:
        if z.dtype not in self._features:
            hint = self.hint.to(z)
            if network.config.image_channels == 1:
                hint = (hint * hint.new_tensor(GREY).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
            self._features[z.dtype] = network(hint)
        factors = (1.0,) * len(T2I_SOFT) if self.use.mode == "balanced" else T2I_SOFT
        rows = 1.0 if affected is None else affected.to(z).reshape(-1, 1, 1, 1)
        return ControlResiduals(
            features=[
                feature * (factor * self.use.weight) * rows
                for feature, factor in zip(self._features[z.dtype], factors, strict=True)
            ]
        )


@dataclass(frozen=True, eq=False)
class RunControls:
    """The control networks of one run, with hints at its size."""

    controls: tuple[HintedControl, ...]
    rule: str
    ip_adapters: IPAdapters

    def part(self, tile: Tile) -> "RunControls":
        """The same for one tile of the latents."""
        return replace(self, controls=tuple(control.part(tile) for control in self.controls))

    def over(self, clock: Clock, first: int) -> ControlFunction:
        """The control function of a run that starts at step `first` of its schedule."""
        return partial(self._ask, lambda: (clock.step - first, clock.num_steps - first))

    def _ask(
        self, now: Callable[[], tuple[int, int]], z: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> ControlResiduals:
        step, num_steps = now()
        on = [is_on(each.use, step, num_steps, self.rule) for each in self.ip_adapters.inputs]
        residuals = ControlResiduals(ip_adapters=self.ip_adapters.at(on, conditioning.negative))
        for control in self.controls:
            if control.use.weight != 0 and is_on(control.use, step, num_steps, self.rule):
                residuals = residuals + control(z, timestep, conditioning, self.rule)
        return residuals


def is_on(use: ControlUse, step: int, num_steps: int, rule: str) -> bool:
    """Whether a network is active at a step, counted from 0 over the steps that are run.

    a1111: if the share of the steps before it is within start and end. diffusers: the end of the step must be, too.
    """
    if rule == "diffusers":
        return not (step / num_steps < use.start or (step + 1) / num_steps > use.end)
    return use.start <= step / num_steps <= use.end


def strengths(mode: str, rule: str, count: int, *, pooled: bool = False) -> list[float]:
    """Factor of each output: the skips from the finest on, then the middle.

    In the modes "prompt" and "control" (my prompt, ControlNet is more important), fine outputs are weaker. a1111:
    0.825 ** (12 - i), of which SDXL takes the first ten; a network with another number of outputs spans the same range.
    diffusers: from 0.1 to 1 at equal ratios (guess mode), except for networks that average over the picture.
    """
    if mode == "balanced" or (rule == "diffusers" and pooled):
        return [1.0] * count
    if rule == "diffusers":
        return [10 ** (i / (count - 1) - 1) for i in range(count)]
    if count in (_SOFT_OUTPUTS, _XL_OUTPUTS):
        return [SOFT ** (_SOFT_OUTPUTS - 1 - i) for i in range(count)]
    return [SOFT ** ((_SOFT_OUTPUTS - 1) * (1 - i / (count - 1))) for i in range(count)]
