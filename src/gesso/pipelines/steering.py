"""Networks that steer a run: found, given their hints, and asked before each call of the UNet for the right rows.

How strong which output is, which half of guidance it reaches and at which steps differ between tools; the request's
`control_rule` says whose way it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from PIL import Image
from torch import Tensor

from gesso.diffusion.tiles import Tile
from gesso.errors import GessoError
from gesso.hints.registry import canonical
from gesso.models.controlnet_union import UnionControlNet
from gesso.models.t2i_adapter import T2IAdapter
from gesso.pipelines.clock import Clock
from gesso.pipelines.hint_pictures import HintPicture, Size, hint_digest
from gesso.pipelines.image_prompts import PictureGuide, PictureVoices, find_guide
from gesso.request.checks import RequestError, check_multiple, short
from gesso.request.finder import Finder
from gesso.request.parts import ControlUse
from gesso.request.recipe import ExtraFile
from gesso.request.request import ResolvedRequest
from gesso.runtime.conditioning import Conditioning, Influence, Steer
from gesso.runtime.control import LoadedControl
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.plan import PictureReading, SteeringConfig
from gesso.runtime.residency import Component
from gesso.runtime.shelf import AdapterShelf

SOFT = 0.825  # of the ControlNet authors' program: each output further from the middle is so much weaker
_SOFT_OUTPUTS = 13  # of Stable Diffusion 1, which the rule was made for
_XL_OUTPUTS = 10
# What a ControlNet Union is told for each kind of hint; the last two are known to "promax" alone.
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
    """What steers a request, each network with the picture that was given for it; IP-Adapters are pictures."""

    parts: tuple[tuple[LoadedControl, HintPicture], ...] = ()
    pictures: tuple[PictureGuide, ...] = ()
    rule: str = "a1111"
    _hints: dict[tuple[int, Size], Tensor] = field(default_factory=dict, repr=False)

    @property
    def networks(self) -> list[LoadedControl]:
        """Each once."""
        return list(dict.fromkeys(control for control, _ in self.parts))

    @property
    def components(self) -> dict[str, Component]:
        """The networks as they lie in memory, by a name each."""
        return {f"control {number}": control.component for number, control in enumerate(self.networks)}

    @property
    def configs(self) -> tuple[SteeringConfig, ...]:
        """Sizes of the networks, for what they take of memory."""
        return tuple(control.network.config for control in self.networks)

    @property
    def readings(self) -> tuple[PictureReading, ...]:
        """Pictures that are read, for what that takes of memory."""
        return tuple(PictureReading(guide.adapter, guide.encoder) for guide in self.pictures)

    @cached_property
    def voices(self) -> PictureVoices:
        """The IP-Adapters, whose pictures are read when this is first asked for."""
        return PictureVoices(self.pictures)

    def files(self, shelf: AdapterShelf) -> tuple[ExtraFile, ...]:
        """For the recipe, each once. Raises ModelFileError where one is gone."""
        named = {picture.use.model: control.parts.files[0] for control, picture in self.parts}
        found = [ExtraFile(kind="control", name=name, sha256=shelf.hashes(file).sha256) for name, file in named.items()]
        found += [file for guide in self.pictures for file in guide.files(shelf)]
        return tuple(dict.fromkeys(found))

    def at(self, rows: int, columns: int, device: torch.device) -> "Steering | None":
        """With the hints for latents of this size; None where nothing steers. Raises RequestError as `HintPicture`."""
        guides = []
        for number, (control, picture) in enumerate(self.parts):
            side = control.parts.hint_scale
            size = (columns * side, rows * side)
            if (number, size) not in self._hints:
                self._hints[number, size] = picture.pixels(size, swapped=control.parts.swapped)
            guides.append(Guide(picture.use, control, self._hints[number, size].to(device)))
        if not guides and not self.pictures:
            return None
        return Steering(tuple(guides), self.rule, self.voices)


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
    """The networks that a request names, loaded, and the pictures among `hints` that it means, in any order.

    mask: that of the request, where inpainting hints have their hole.
    part: what is drawn of the picture that goes in, as shares of its sides; hints are of the whole picture.
    Raises RequestError where a picture is missing or too many, GessoError where a file is none or does not fit.
    """
    given = {hint_digest(image): image for image in hints}
    if unused := sorted(given.keys() - {use.image for use in request.controls}):
        raise RequestError("controls", f"the hint {unused[0][:10]}... is given, and no control names it")
    mode = "stretch" if request.conventions.control_rule == "diffusers" else "crop"
    if part is not None:
        mode = "fill"  # as the picture itself comes to size then
    parts, pictures = [], []
    for use in request.controls:
        if use.image not in given:
            raise RequestError("controls", f"{use.model}: its hint {use.image[:10]}... was not given")
        try:
            path = finder.find("control", use.model)
        except GessoError as error:
            raise RequestError("controls", error.one_line) from None
        if engine.shelf.is_image_prompt(path):
            pictures.append(find_guide(use, path, given[use.image], engine=engine, model=model, finder=finder))
            continue
        if use.encoder is not None:
            raise RequestError("controls", f"{use.model}: an encoder is for IP-Adapters; leave {use.encoder} out")
        control = engine.load_control(path, model)
        _check_patches(control, request)
        _check_kind(control, use)
        parts.append((control, HintPicture(use, given[use.image], mask, mode, part)))
    return Controls(tuple(parts), tuple(pictures), request.conventions.control_rule)


def kind_of(use: ControlUse) -> str:
    """What a hint for a ControlNet Union is: as it is said, else as its preprocessor makes it. Raises RequestError."""
    known = ", ".join(UNION_KINDS)
    kind = use.kind
    if kind is None and use.preprocessor is not None:
        kind = canonical(use.preprocessor)
    if kind is None:
        raise RequestError("controls", f"{use.model}: takes many kinds of hints; say which with kind=, one of {known}")
    if kind not in UNION_KINDS:
        raise RequestError("controls", f"{use.model}: takes no hint of kind {short(kind)}. Known: {known}")
    return kind


def _check_kind(control: LoadedControl, use: ControlUse) -> None:
    """Raises RequestError for a kind that a ControlNet Union does not know, and for any where there is no choice."""
    network = control.network
    if not isinstance(network, UnionControlNet):
        if use.kind is not None:
            raise RequestError("controls", f"{use.model}: takes one kind of hint; leave kind {short(use.kind)} out")
        return
    if UNION_KINDS[kind := kind_of(use)] >= network.union.num_kinds:
        raise RequestError("controls", f"{use.model}: knows {network.union.num_kinds} kinds of hints, not {kind}")


def _check_patches(control: LoadedControl, request: ResolvedRequest) -> None:
    """A T2I-Adapter of SDXL sees whole patches of 16 pixels."""
    if isinstance(control.network, T2IAdapter):
        for side in ("width", "height"):
            check_multiple(side, getattr(request, side), control.network.config.patch)


@dataclass(frozen=True, eq=False)
class Guide:
    """One network with its hint, float32 [1, 3, P h, P w]."""

    use: ControlUse
    control: LoadedControl
    hint: Tensor
    _features: dict[torch.dtype, list[Tensor]] = field(default_factory=dict, repr=False)  # of a hint, the same always

    def part(self, tile: Tile) -> "Guide":
        """The same for one tile of the latents."""
        side = self.control.parts.hint_scale
        whole = Tile(tile.top * side, tile.left * side, tile.height * side, tile.width * side)
        return Guide(self.use, self.control, whole.of(self.hint))

    def reached(self, told: Conditioning) -> Tensor | None:
        """bool [B]: the rows that it reaches; None: all of them."""
        if told.negative is None or not (self.use.mode == "control" or self.control.parts.pooled):
            return None
        return ~told.negative

    def __call__(self, z: Tensor, timestep: Tensor, told: Conditioning, rule: str) -> Influence:
        """What it adds in a call; nothing to rows that it does not reach."""
        reached = self.reached(told)
        if reached is not None and not bool(reached.any()):
            return Influence()
        network = self.control.network
        if isinstance(network, T2IAdapter):
            return self._adapt(network, z, reached, rule)
        seen = told if reached is None else told.rows(reached)
        if reached is not None:
            z, timestep = z[reached], timestep[reached]
        call = partial(network, z, timestep, seen.context, self.hint.to(z), seen.added)
        if isinstance(network, UnionControlNet):
            call = partial(call, kind=UNION_KINDS[kind_of(self.use)])
        found = call()
        factors = strengths(self.use.mode, rule, len(found), pooled=self.control.parts.pooled)
        said = []
        for output, factor in zip(found, factors, strict=True):
            if self.control.parts.pooled:
                output = output.mean(dim=(2, 3), keepdim=True).expand_as(output)
            output = output * (factor * self.use.weight)
            if reached is not None:
                everywhere = output.new_zeros(len(reached), *output.shape[1:])
                everywhere[reached] = output
                output = everywhere
            said.append(output)
        return Influence(control=said)

    def _adapt(self, network: T2IAdapter, z: Tensor, reached: Tensor | None, rule: str) -> Influence:
        if z.dtype not in self._features:
            hint = self.hint.to(z)
            if network.config.image_channels == 1:
                hint = (hint * hint.new_tensor(GREY).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
            self._features[z.dtype] = network(hint)
        factors = (1.0,) * len(T2I_SOFT) if self.use.mode == "balanced" else T2I_SOFT
        rows = 1.0 if reached is None else reached.to(z).reshape(-1, 1, 1, 1)
        return Influence(
            features=[
                feature * (factor * self.use.weight) * rows
                for feature, factor in zip(self._features[z.dtype], factors, strict=True)
            ]
        )


@dataclass(frozen=True, eq=False)
class Steering:
    """The networks of one run, with their hints at its size."""

    guides: tuple[Guide, ...]
    rule: str
    voices: PictureVoices

    def part(self, tile: Tile) -> "Steering":
        """The same for one tile of the latents."""
        return replace(self, guides=tuple(guide.part(tile) for guide in self.guides))

    def over(self, clock: Clock, first: int) -> Steer:
        """What is asked before each call of a run that begins at step `first` of its schedule."""
        return partial(self._ask, lambda: (clock.step - first, clock.num_steps - first))

    def _ask(
        self, now: Callable[[], tuple[int, int]], z: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Influence:
        step, num_steps = now()
        on = [is_on(guide.use, step, num_steps, self.rule) for guide in self.voices.guides]
        influence = Influence(pictures=self.voices.at(on, conditioning.negative))
        for guide in self.guides:
            if guide.use.weight != 0 and is_on(guide.use, step, num_steps, self.rule):
                influence = influence + guide(z, timestep, conditioning, self.rule)
        return influence


def is_on(use: ControlUse, step: int, num_steps: int, rule: str) -> bool:
    """Whether a network steers at a step, counted from 0 over the steps that are run.

    a1111: while the share of the steps before it lies within start and end. diffusers: the step's own end must, too.
    """
    if rule == "diffusers":
        return not (step / num_steps < use.start or (step + 1) / num_steps > use.end)
    return use.start <= step / num_steps <= use.end


def strengths(mode: str, rule: str, count: int, *, pooled: bool = False) -> list[float]:
    """Factor of each output: the skips from the finest on, then the middle.

    Where prompt or picture is more important, fine outputs are weaker. a1111: 0.825 ** (12 - i), of which SDXL takes
    the first ten; a network with another number of outputs spans the same range. diffusers: from 0.1 to 1 at equal
    ratios, but for networks that average over the picture.
    """
    if mode == "balanced" or (rule == "diffusers" and pooled):
        return [1.0] * count
    if rule == "diffusers":
        return [10 ** (i / (count - 1) - 1) for i in range(count)]
    if count in (_SOFT_OUTPUTS, _XL_OUTPUTS):
        return [SOFT ** (_SOFT_OUTPUTS - 1 - i) for i in range(count)]
    return [SOFT ** ((_SOFT_OUTPUTS - 1) * (1 - i / (count - 1))) for i in range(count)]
