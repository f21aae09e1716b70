"""From a wanted picture to a request: the passes that lead to it, read as one job of gesso."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.metadata.comfyui_texts import together
from gesso.request.checks import MAX_SIDE
from gesso.request.parts import MAX_CONTROLS, MAX_LORAS
from gesso.request.request import MAX_PIXELS
from gesso.surfaces.comfy.graph import NodeError
from gesso.surfaces.comfy.values import (
    Clip,
    Control,
    Drawn,
    Empty,
    Encoded,
    Enlarged,
    Latent,
    Mask,
    Model,
    Picture,
    Sampled,
    Scaled,
    Size,
    Upscaled,
    Wanted,
    is_drawn,
    is_made,
)

# ComfyUI's names, where they mean something else than the same words of A1111.
_SCHEDULES = {"beta": "beta_comfyui", "kl_optimal": "kl_optimal_comfyui"}
# Its samplers that leave out the last but one sigma.
_DISCARDING = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
# Those of ComfyUI that gesso may have, in its order.
_SAMPLER_NAMES = (
    *(
        "euler",
        "euler_cfg_pp",
        "euler_ancestral",
        "heun",
        "dpm_2",
        "dpm_2_ancestral",
        "lms",
        "dpm_fast",
        "dpm_adaptive",
    ),
    *(
        "dpmpp_2s_ancestral",
        "dpmpp_sde",
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_heun",
        "dpmpp_3m_sde",
        "ddpm",
        "lcm",
    ),
    *("ipndm", "deis", "er_sde", "sa_solver", "ddim", "uni_pc", "uni_pc_bh2"),
)
_SCHEDULE_NAMES = (
    *("simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic"),
    "kl_optimal",
)
_LATENT_UPSCALERS = {
    "nearest-exact": "latent_nearest_exact",
    "bilinear": "latent_bilinear",
    "bicubic": "latent_bicubic",
}
PICTURE_UPSCALERS = {"lanczos": "lanczos", "nearest-exact": "nearest"}
# How ComfyUI draws. docs/serving-comfy.md says what remains different.
CONVENTIONS: Mapping[str, Any] = {
    "emphasis": "comfyui",
    "initial_noise": "comfyui",
    "sigma_table": "rounded",
    "strength_rule": "share",
    "vae_encode": "mean",
    "mask_blend": "x0",
    "paste_back": False,
    "sde_noise": "torchsde",
    "uneven_chunks": "apart",
    "empty_negative": "encoded",
    "control_rule": "a1111",
    "levels": "truncate",
}


def sampler_names() -> list[str]:
    """The samplers that a graph may name."""
    return [name for name in _SAMPLER_NAMES if SAMPLERS.find(name) is not None]


def schedule_names() -> list[str]:
    """The schedules that a graph may name."""
    return [name for name in _SCHEDULE_NAMES if SCHEDULES.find(_SCHEDULES.get(name, name)) is not None]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the translation asks of a model.

    kind      "none", "inpaint", "edit", "upscale"
    takes_skip, own_skip   whether CLIP skip does anything; the layer that it has without
    zeroed    whether an empty negative prompt may be zeros
    """

    name: str
    kind: str = "none"
    takes_skip: bool = True
    own_skip: int = 1
    zeroed: bool = False


@dataclass(frozen=True, kw_only=True)
class Files:
    """Names of a graph -> what the library calls them: checkpoints with their facts, adapters by their kind."""

    models: Mapping[str, ModelFacts]
    loras: Mapping[str, str]
    controls: Mapping[str, str]
    upscalers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Enlarging:
    """A job that brings a finished picture to another size.

    upscaler  as the library, or gesso, calls it
    size      to which; None: the network's own factor
    node      that does so
    """

    upscaler: str
    size: Size | None
    node: str = field(compare=False)

    @property
    def values(self) -> dict[str, int]:
        """What the job is asked for."""
        return {} if self.size is None else {"width": self.size[0], "height": self.size[1]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A job.

    kind      "generate", or "upscale" of the picture with the role "image"
    values    of its request, nested, without the hashes of its pictures
    pictures  role -> picture or mask that is to be made and uploaded
    samplers  numbers of the nodes that it draws, in their order
    blame     path of a field -> the node and the input that it comes from
    then      what is done to each picture when it is drawn
    """

    model: str
    values: Mapping[str, Any]
    pictures: Mapping[str, Picture | Mask]
    samplers: tuple[str, ...]
    kind: str = "generate"
    blame: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    then: Enlarging | None = None

    @property
    def num_images(self) -> int:
        """How many pictures it makes."""
        return int(self.values.get("num_images", 1))

    def same_as(self, other: "Order") -> bool:
        """Whether both draw the same pictures, before anything is done to them."""
        own = (self.kind, self.model, self.values, self.pictures)
        return own == (other.kind, other.model, other.values, other.pictures)


def translate(wanted: Wanted, files: Files) -> Order:
    """The job that makes a picture. Raises NodeError, which names the node that gesso cannot follow."""
    then, picture = _enlarging(wanted, files)
    if not is_drawn(picture):
        if then is None:
            raise NodeError(wanted.node, "nothing is drawn for this output", input="images")
        if not is_made(picture):
            raise NodeError(then.node, "gesso enlarges a picture by one network only", input="image")
        return Order(
            kind="upscale",
            model=then.upscaler,
            values=then.values,
            pictures={"image": picture},
            samplers=(then.node,),
            blame={"": (then.node, "")},
        )
    if not isinstance(picture, Drawn):
        raise NodeError(
            wanted.node,
            "after VAEDecode gesso only changes the size of a picture (ImageUpscaleWithModel, ImageScale, both)",
            input="images",
        )
    latent = picture.latent
    if not isinstance(latent, Sampled):
        raise NodeError(wanted.node, "no sampler leads to this output", input="images")
    first, second, enlarged = _passes(latent)
    return replace(_Writer(first, second, enlarged, files).order(), then=then)


def _enlarging(wanted: Wanted, files: Files) -> tuple[Enlarging | None, Picture]:
    """How the size of a picture is changed at the end, and the picture before."""
    picture, size, node = wanted.picture, None, ""
    if isinstance(picture, Scaled) and (is_drawn(picture) or isinstance(picture.picture, Upscaled)):
        scaled = picture
        picture, size, node = scaled.picture, scaled.size, scaled.node
        is_network = isinstance(picture, Upscaled)
        known = ("lanczos",) if is_network else tuple(PICTURE_UPSCALERS)
        if scaled.method not in known:
            behind = " what a network made" if is_network else " a drawn picture"
            why = f"gesso brings{behind} to a size by {' or '.join(known)}, not by {scaled.method}"
            raise NodeError(node, why, input="upscale_method")
        if scaled.crop != "disabled" and size[0] * picture.size[1] != size[1] * picture.size[0]:
            raise NodeError(node, "gesso does not crop a drawn picture", input="crop")
        if size[0] * size[1] > MAX_PIXELS or max(size) > MAX_SIDE:
            raise NodeError(node, f"expected at most {MAX_PIXELS} pixels and {MAX_SIDE} a side", input="width")
        if not is_network:
            return Enlarging(upscaler=PICTURE_UPSCALERS[scaled.method], size=size, node=node), picture
    if isinstance(picture, Upscaled):
        return Enlarging(upscaler=files.upscalers[picture.model.name], size=size, node=picture.node), picture.picture
    return None, picture


@dataclass(frozen=True)
class _Enlargement:
    """What happens between two passes."""

    node: str
    size: Size
    crop: str
    upscaler: str
    network: str = ""


def _passes(last: Sampled) -> tuple[Sampled, Sampled | None, _Enlargement | None]:
    """The first pass, a second one, and what is between."""
    between = _between(last, last.latent)
    if between is None:
        return last, None, None
    first, enlargement = between
    if _between(first, first.latent) is not None:
        raise NodeError(
            last.node, "gesso draws two passes, one after the other, and here are more", input="latent_image"
        )
    return first, last, enlargement


def _between(sampler: Sampled, latent: Latent) -> tuple[Sampled, _Enlargement] | None:
    """The sampler before one, and how its picture comes to it; None where it starts from noise or an upload."""
    match latent:
        case Sampled():
            return latent, _Enlargement(sampler.node, latent.size, "disabled", "latent_nearest_exact")
        case Enlarged(latent=Sampled() as first):
            upscaler = _LATENT_UPSCALERS[latent.method]
            return first, _Enlargement(latent.node, latent.size, latent.crop, upscaler)
        case Enlarged():
            raise NodeError(latent.node, "gesso enlarges latents once, and between two samplers only", input="samples")
        case Encoded() if is_drawn(latent.picture):
            if latent.mask is not None:
                raise NodeError(sampler.node, "gesso takes no mask in a second pass", input="latent_image")
            return _through_picture(sampler, latent.picture)
    return None


def _through_picture(sampler: Sampled, picture: Picture) -> tuple[Sampled, _Enlargement]:
    node = sampler.node
    size, crop, upscaler, network = picture.size, "disabled", "lanczos", ""
    if isinstance(picture, Scaled):
        inner, size, crop = picture.picture, picture.size, picture.crop
        if isinstance(inner, Upscaled):
            if picture.method != "lanczos":
                raise NodeError(
                    node, "gesso brings what an upscaler network makes to its size by lanczos", input="latent_image"
                )
            network, inner = inner.model.name, inner.picture
        elif picture.method in PICTURE_UPSCALERS:
            upscaler = PICTURE_UPSCALERS[picture.method]
        else:
            known = ", ".join(PICTURE_UPSCALERS)
            raise NodeError(
                node,
                f"gesso enlarges a drawn picture by {known}, or its latents, not by {picture.method}",
                input="latent_image",
            )
        picture = inner
    if isinstance(picture, Upscaled):
        raise NodeError(
            node,
            "put ImageScale (lanczos) with a width and a height behind ImageUpscaleWithModel",
            input="latent_image",
        )
    if not isinstance(picture, Drawn) or not isinstance(picture.latent, Sampled):
        raise NodeError(node, "gesso only enlarges a drawn picture before the next sampler", input="latent_image")
    return picture.latent, _Enlargement(node, size, crop, upscaler, network)


class _Writer:
    """Writes the request of one or two passes."""

    def __init__(self, first: Sampled, second: Sampled | None, enlarged: _Enlargement | None, files: Files) -> None:
        self.first, self.second, self.enlarged, self.files = first, second, enlarged, files
        self.facts = files.models[first.model.checkpoint]
        self.values: dict[str, Any] = {"preset": "gesso", "noise": "cpu"}
        self.conventions: dict[str, Any] = dict(CONVENTIONS)
        self.pictures: dict[str, Picture | Mask] = {}
        self.blame: dict[str, tuple[str, str]] = {"": (first.node, "")}

    def order(self) -> Order:
        """Raises NodeError."""
        first = self.first
        self._model()
        self._sampling()
        self._texts()
        self._controls()
        self._source()
        if self.second is not None and self.enlarged is not None:
            self._second_pass(self.second, self.enlarged)
        self.values["conventions"] = self.conventions
        return Order(
            model=self.facts.name,
            values=self.values,
            pictures=self.pictures,
            samplers=(first.node,) if self.second is None else (first.node, self.second.node),
            blame=self.blame,
        )

    def _error(self, why: str, input: str = "", node: str = "") -> NodeError:
        return NodeError(node or self.first.node, why, input=input)

    # ---- model and LoRA ----------------------------------------------------------------------------------------------

    def _clip(self) -> Clip:
        """The text encoder of all texts that count."""
        first = self.first
        texts = [*first.positive, *(first.negative if first.guidance != 1 else ())]
        if not texts:
            raise self._error("no text says what to draw", "positive")
        for text in texts:
            if text.clip != texts[0].clip:
                raise self._error(
                    "gesso encodes all texts of a picture with the same text encoder, LoRA and CLIP skip; link all "
                    "CLIPTextEncode to the same output",
                    "negative",
                )
        return texts[0].clip

    def _model(self) -> None:
        model, clip = self.first.model, self._clip()
        names = {model.checkpoint, clip.checkpoint}
        if isinstance(self.first.latent, Encoded):
            names.add(self.first.latent.vae.checkpoint)
        if len({self.files.models[name].name for name in names}) > 1:
            raise self._error(
                f"gesso draws with the parts of one model, and here are those of {', '.join(sorted(names))}", "model"
            )
        self._loras(model, clip)
        if model.rescale:
            self.values["guidance_rescale"] = model.rescale
        if model.differential:
            self.conventions["mask_blend"] = "differential"
        skip = clip.skip
        if skip is not None and skip != self.facts.own_skip:
            if not self.facts.takes_skip:
                raise self._error(
                    f"CLIPSetLastLayer: {self.facts.name} takes layer {-self.facts.own_skip} of its text encoder only; "
                    "leave the node out",
                    "positive",
                )
            self.values["clip_skip"] = skip

    def _loras(self, model: Model, clip: Clip) -> None:
        nodes = dict.fromkeys(lora.node for lora in (*model.loras, *clip.loras))
        if len(nodes) > MAX_LORAS:
            raise self._error(f"{len(nodes)} LoRA, expected at most {MAX_LORAS}", "model")
        of_model = {lora.node: lora for lora in model.loras}
        of_clip = {lora.node: lora for lora in clip.loras}
        uses = []
        for number, node in enumerate(nodes):
            both = of_model.get(node) or of_clip[node]
            uses.append(
                {
                    "name": self.files.loras[both.name],
                    "weight": of_model[node].weight if node in of_model else 0.0,
                    "text_weight": of_clip[node].weight if node in of_clip else 0.0,
                }
            )
            self.blame[f"loras[{number}]"] = node, "lora_name"
        if uses:
            self.values["loras"] = uses

    # ---- steps -------------------------------------------------------------------------------------------------------

    def _sampling(self) -> None:
        first = self.first
        self.values |= {
            "seed": first.seed,
            "num_steps": first.before + first.steps,
            "guidance_scale": first.guidance,
            "sampler": SAMPLERS.find(first.sampler),
            "schedule": _schedule(first.scheduler),
            "num_images": first.batch,
        }
        if first.sampler in _DISCARDING:
            self.conventions["discard_penultimate_sigma"] = True
        names = {"num_steps": "steps", "guidance_scale": "cfg", "sampler": "sampler_name", "schedule": "scheduler"}
        for path, input in (names | {"seed": "seed", "num_images": "latent_image", "source": "latent_image"}).items():
            self.blame[path] = first.node, input

    # ---- texts -------------------------------------------------------------------------------------------------------

    def _prompts(self, sampler: Sampled) -> tuple[str, dict[str, str]]:
        """The syntax of both prompts, and these."""
        counted = sampler.guidance != 1  # else ComfyUI does not look at the negative prompt
        for text in sampler.positive:
            if text.zeroed:
                raise self._error(
                    "gesso draws with a positive prompt; ConditioningZeroOut is for the negative one",
                    "positive",
                    sampler.node,
                )
        zeroed = [text.zeroed for text in sampler.negative] if counted else []
        if any(zeroed):
            if not all(zeroed) or not self.facts.zeroed:
                raise self._error(
                    f"ConditioningZeroOut: {self.facts.name} knows no negative prompt of zeros; use an empty "
                    "CLIPTextEncode, or set cfg to 1",
                    "negative",
                    sampler.node,
                )
            self.conventions["empty_negative"] = "as_trained"
        sides = {"positive": tuple(text.part for text in sampler.positive)}
        if counted and not any(zeroed):
            sides["negative"] = tuple(text.part for text in sampler.negative)
        syntax, written = together(sides)
        for side, one in written.items():
            if one.lost:
                raise self._error(f"gesso cannot say {one.lost}", side, sampler.node)
        return syntax, {side: one.text for side, one in written.items()}

    def _texts(self) -> None:
        syntax, texts = self._prompts(self.first)
        self.conventions["syntax"] = syntax
        self.values |= {"prompt": texts["positive"], "negative_prompt": texts.get("negative", "")}
        self.blame |= {"prompt": (self.first.node, "positive"), "negative_prompt": (self.first.node, "negative")}

    # ---- control networks --------------------------------------------------------------------------------------------

    def _steering(self, sampler: Sampled) -> tuple[Control, ...]:
        """The control networks of all texts that count."""
        controls = sampler.positive[0].controls
        nodes = [use.node for use in controls]
        for text in (*sampler.positive, *(sampler.negative if sampler.guidance != 1 else ())):
            if [use.node for use in text.controls] != nodes:
                raise self._error(
                    "gesso steers both prompts by the same ControlNet; link both outputs of ControlNetApplyAdvanced",
                    "negative",
                    sampler.node,
                )
        return controls

    def _controls(self) -> None:
        uses = self._steering(self.first)
        if len(uses) > MAX_CONTROLS:
            raise self._error(f"{len(uses)} control networks, expected at most {MAX_CONTROLS}", "positive")
        written = []
        for number, use in enumerate(uses):
            if not is_made(use.picture):
                why = "gesso does not steer by a picture that the graph draws or enlarges; upload it"
                raise NodeError(use.node, why, input="image")
            self.pictures[f"hint:{number}"] = _cut_to(use.picture, self._size())
            self.blame[f"controls[{number}]"] = use.node, "control_net"
            written.append(
                {
                    "model": self.files.controls[use.network.name],
                    "weight": use.weight,
                    "start": use.start,
                    "end": use.end,
                }
            )
        if written:
            self.values["controls"] = written

    # ---- where it starts ---------------------------------------------------------------------------------------------

    def _size(self) -> Size:
        return self.first.latent.size

    def _source(self) -> None:
        first, latent = self.first, self.first.latent
        width, height = self._size()
        self.values |= {"width": width, "height": height}
        self.blame |= {"width": (first.node, "latent_image"), "height": (first.node, "latent_image")}
        self._check_inpaint(latent)
        if isinstance(latent, Empty):
            return
        assert isinstance(latent, Encoded)
        if self.facts.kind in ("edit", "upscale"):
            raise self._error(f"{self.facts.name} is a model for another job than this graph describes", "model")
        if not is_made(latent.picture):
            raise self._error(
                "gesso does not draw from what ImageUpscaleWithModel makes of an uploaded picture; save that first, in "
                "a graph of its own",
                "latent_image",
            )
        self.pictures["image"] = latent.picture
        self.values["source"] = {"strength": first.steps / (first.before + first.steps)}
        if latent.mask is not None:
            self.pictures["mask"] = latent.mask
            self.values["mask"] = {"content": "original", "area": "whole", "blur": 0.0}

    def _check_inpaint(self, latent: Latent) -> None:
        node = latent.inpaint if isinstance(latent, Encoded) else ""
        texts = (*self.first.positive, *(self.first.negative if self.first.guidance != 1 else ()))
        if any(text.inpaint != node for text in texts):
            raise self._error(
                "link positive, negative and latent of one InpaintModelConditioning to the sampler, all three",
                "latent_image",
            )

    # ---- a second pass -----------------------------------------------------------------------------------------------

    def _second_pass(self, second: Sampled, enlarged: _Enlargement) -> None:
        first, node = self.first, second.node
        if second.model != first.model:
            raise self._error("gesso draws both passes with the same model and LoRA", "model", node)
        if any(text.clip != first.positive[0].clip for text in (*second.positive, *second.negative)):
            raise self._error("gesso encodes the texts of both passes with the same text encoder", "positive", node)
        if second.seed != first.seed:
            raise self._error(
                f"gesso draws the noise of both passes from one seed; give it that of node {first.node}, {first.seed}",
                "seed",
                node,
            )
        if [use.node for use in self._steering(second)] != [use.node for use in self._steering(first)]:
            raise self._error("gesso steers both passes by the same ControlNet", "positive", node)
        if any(text.inpaint for text in (*second.positive, *second.negative)):
            raise self._error("gesso takes no mask in a second pass", "positive", node)
        if isinstance(first.latent, Encoded) and first.latent.mask is not None:
            raise self._error("gesso draws no second pass behind one with a mask", "latent_image", node)
        (width, height), (larger, taller) = self._size(), enlarged.size
        if larger * height != taller * width and enlarged.crop != "center":
            raise self._error(
                f"gesso does not stretch a picture between two passes: {width}x{height} to {larger}x{taller}",
                "width",
                enlarged.node,
            )
        if second.sampler in _DISCARDING and second.sampler != first.sampler:
            raise self._error(
                f"gesso draws a second pass with {second.sampler} behind one with the same sampler only",
                "sampler_name",
                node,
            )
        syntax, texts = self._prompts(second)
        hires: dict[str, Any] = {
            "width": larger,
            "height": taller,
            "upscaler": self.files.upscalers[enlarged.network] if enlarged.network else enlarged.upscaler,
            "strength": second.steps / (second.before + second.steps),
            "num_steps": second.before + second.steps,
            "sampler": SAMPLERS.find(second.sampler),
            "schedule": _schedule(second.scheduler),
            "guidance_scale": second.guidance,
        }
        for side, name in (("positive", "prompt"), ("negative", "negative_prompt")):
            if side in texts and texts[side] != self.values[name]:
                if syntax != self.conventions["syntax"]:
                    raise self._error(
                        "gesso reads the texts of both passes in one syntax; combine or time them in both", side, node
                    )
                hires[name] = texts[side]
        self.values["hires"] = hires
        self.blame["hires"] = node, ""


def _schedule(name: str) -> str | None:
    return SCHEDULES.find(_SCHEDULES.get(name, name))


def _cut_to(picture: Picture, size: Size) -> Picture:
    """A hint as ComfyUI brings it to the size that is drawn."""
    return picture if picture.size == size else Scaled(picture, "nearest-exact", size, "center")


@dataclass(kw_only=True)
class Planned:
    """A job that serves output nodes: itself, and by what is made of its pictures then."""

    order: Order
    nodes: list[str] = field(default_factory=list)
    then: list[tuple[Enlarging, list[str]]] = field(default_factory=list)


def merged(orders: Sequence[tuple[str, Order]]) -> list[Planned]:
    """Each job once, with the output nodes that it serves."""
    found: list[Planned] = []
    for node, order in orders:
        plan = next((one for one in found if one.order.same_as(order)), None)
        if plan is None:
            plan = Planned(order=order)
            found.append(plan)
        if order.then is None:
            plan.nodes.append(node)
            continue
        served = next((nodes for then, nodes in plan.then if then == order.then), None)
        if served is None:
            plan.then.append((order.then, [node]))
        else:
            served.append(node)
    return found


def blamed(order: Order, path: str, outputs: Collection[str] = ()) -> tuple[str, str]:
    """The node and input that a field of the request comes from, by the longest known part of its path."""
    while path:
        if path in order.blame:
            return order.blame[path]
        path = path[: max(path.rfind("."), path.rfind("[") if path.endswith("]") else -1, 0)]
    return order.blame[""]
