"""From nodes to what their outputs are: one function a kind of node. Nothing is drawn, and no picture is opened."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gesso.metadata.comfyui_texts import Part
from gesso.request.checks import MAX_SIDE, MAX_STEPS
from gesso.serving.jobs import Upload
from gesso.surfaces.comfy.graph import Graph, Node, NodeError, read_value, refusal
from gesso.surfaces.comfy.node_types import MAX_BATCH, Choices
from gesso.surfaces.comfy.values import (
    AlphaMask,
    BorderMask,
    ChannelMask,
    Clip,
    Conditioning,
    Control,
    ControlNet,
    Cropped,
    CroppedMask,
    Drawn,
    Empty,
    Encoded,
    Enlarged,
    FittedMask,
    Greyed,
    GrownMask,
    Guider,
    Inverted,
    InvertedMask,
    Latent,
    Loaded,
    Lora,
    Mask,
    Model,
    Noise,
    OfMask,
    Padded,
    Picture,
    Sampled,
    Scaled,
    Sigmas,
    Size,
    SolidMask,
    Solver,
    Text,
    Upscaled,
    UpscaleModel,
    Vae,
    Wanted,
    mask_is_made,
)

MAX_DEPTH = 200  # nodes that change a picture, a mask or a text one after the other
MAX_PARTS = 16  # texts combined
SNAP = 8  # pixels: ComfyUI cuts pictures to multiples of it before they are encoded
LARGEST = 4096 * 4096  # pixels of a picture that is made here

FindPicture = Callable[[str], Upload | None]


def evaluate(graph: Graph, prompt: Mapping[str, Any], choices: Choices, find: FindPicture) -> list[Wanted]:
    """The pictures at the outputs of a graph.

    find  an uploaded picture by the name that LoadImage gives it; None where there is none
    Raises PromptRefusedError.
    """
    results: dict[str, tuple[Any, ...]] = {}
    errors: dict[str, list[dict[str, Any]]] = {}
    depths: dict[str, int] = {}
    for output in graph.outputs:
        for id in graph.before(output):
            node = graph.nodes[id]
            origins = [origin for origin, _ in node.links.values()]
            if id in results or id in errors or any(origin not in results for origin in origins):
                continue
            depths[id] = 1 + max((depths[origin] for origin in origins), default=0)
            try:
                if depths[id] > MAX_DEPTH:
                    raise NodeError(id, f"more than {MAX_DEPTH} nodes one after the other")
                results[id] = _Inputs(node, results, choices, find).outputs()
            except NodeError as error:
                errors[id] = [error.value]
    if errors:
        raise refusal(graph, errors, prompt)
    return [results[output][0] for output in graph.outputs]


class _Inputs:
    """The inputs of one node, worked out."""

    def __init__(self, node: Node, results: Mapping[str, tuple[Any, ...]], choices: Choices, find: FindPicture) -> None:
        self.node, self.find, self.choices = node, find, choices
        self.values = dict(node.values)
        for name, (origin, slot) in node.links.items():
            value = results[origin][slot]
            one = node.type.by_name[name]
            if one.type in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                value, error = read_value(one, value, choices)
                if error:
                    raise self.error(error["details"], input=name, type=error["type"], message=error["message"])
            self.values[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str) -> Any:
        """The value of an input that may be missing."""
        return self.values.get(name)

    def error(self, why: str, *, input: str = "", **more: Any) -> NodeError:
        """An error of this node."""
        return NodeError(self.node.id, why, input=input, **more)

    def outputs(self) -> tuple[Any, ...]:
        """What the node gives. Raises NodeError."""
        return _NODES[self.node.kind](self)

    def size(self, size: Size) -> Size:
        """A size that a picture may have. Raises NodeError."""
        if min(size) < 1 or max(size) > 2 * MAX_SIDE or size[0] * size[1] > LARGEST:
            raise self.error(
                f"a picture of {size[0]}x{size[1]}, expected at most {LARGEST} pixels and {2 * MAX_SIDE} a side"
            )
        return size

    def upload(self) -> Upload:
        """The picture that LoadImage names. Raises NodeError."""
        found = self.find(self["image"])
        if found is None:
            raise self.error(
                f"Invalid image file: {self['image'][:200]}; upload it first, and use the name that is answered",
                input="image",
            )
        return found


# ---- loaders


def _checkpoint(given: _Inputs) -> tuple[Any, ...]:
    name = given["ckpt_name"]
    return Model(name), Clip(name), Vae(name)


def _two_encoders(given: _Inputs) -> tuple[Any, ...]:
    if given["clip_name1"] != given["clip_name2"]:
        raise given.error("both encoders have to be those of one model", input="clip_name2")
    return (Clip(given["clip_name1"]),)


def _lora(given: _Inputs) -> tuple[Any, ...]:
    model, clip = given["model"], given["clip"]
    name, id = given["lora_name"], given.node.id
    return (
        _with_lora(model, Lora(id, name, given["strength_model"])),
        _with_lora(clip, Lora(id, name, given["strength_clip"])),
    )


def _with_lora(held: Any, lora: Lora) -> Any:
    return replace(held, loras=(*held.loras, lora)) if lora.weight else held


# ---- texts


def _encode(given: _Inputs) -> tuple[Any, ...]:
    return ((Text(Part((given["text"],)), given["clip"]),),)


def _skip(given: _Inputs) -> tuple[Any, ...]:
    return (replace(given["clip"], skip=-given["stop_at_clip_layer"]),)


def _combine(given: _Inputs) -> tuple[Any, ...]:
    texts: Conditioning = (*given["conditioning_1"], *given["conditioning_2"])
    if len(texts) > MAX_PARTS:
        raise given.error(f"{len(texts)} texts together, expected at most {MAX_PARTS}")
    return (texts,)


def _concat(given: _Inputs) -> tuple[Any, ...]:
    first = given["conditioning_from"][0]
    _check_plain(given, first)
    texts = []
    for text in given["conditioning_to"]:
        if len(text.part.chunks) + len(first.part.chunks) > MAX_PARTS:
            raise given.error(f"more than {MAX_PARTS} texts one after the other")
        if text.part.blend:
            raise given.error("gesso has no text behind a blend of two texts")
        texts.append(replace(text, part=replace(text.part, chunks=(*text.part.chunks, *first.part.chunks))))
    return (tuple(texts),)


def _average(given: _Inputs) -> tuple[Any, ...]:
    share = min(max(given["conditioning_to_strength"], 0.0), 1.0)
    to, other = given["conditioning_to"], given["conditioning_from"][0]
    if share == 1:
        return (to,)
    if share == 0:
        return ((other,),)
    _check_plain(given, other)
    texts = []
    for text in to:
        if len(text.part.chunks) > 1 or len(other.part.chunks) > 1 or text.part.blend or text.zeroed:
            raise given.error("gesso blends two plain texts only")
        blend = ((text.part.text, share), (other.part.text, 1 - share))
        texts.append(replace(text, part=replace(text.part, blend=blend)))
    return (tuple(texts),)


def _check_plain(given: _Inputs, text: Text) -> None:
    if text.zeroed or text.part.blend or text.controls:
        raise given.error("the second text has to be a plain one, without ControlNet, blend or ConditioningZeroOut")


def _strength(given: _Inputs) -> tuple[Any, ...]:
    strength = given["strength"]
    return (tuple(replace(text, part=replace(text.part, strength=strength)) for text in given["conditioning"]),)


def _in_time(given: _Inputs) -> tuple[Any, ...]:
    start, end = given["start"], given["end"]
    if not start < end:
        raise given.error(f"start {start:g} is not before end {end:g}", input="start")
    return (tuple(replace(text, part=replace(text.part, start=start, end=end)) for text in given["conditioning"]),)


def _zero(given: _Inputs) -> tuple[Any, ...]:
    return (tuple(replace(text, zeroed=True) for text in given["conditioning"]),)


def _control(given: _Inputs) -> tuple[Any, ...]:
    start, end = given.get("start_percent"), given.get("end_percent")
    start, end = 0.0 if start is None else start, 1.0 if end is None else end
    sides = ("conditioning",) if "conditioning" in given.values else ("positive", "negative")
    if start > end:
        raise given.error(f"start_percent {start:g} is after end_percent {end:g}", input="start_percent")
    if given["strength"] == 0:
        return tuple(given[side] for side in sides)
    use = Control(given.node.id, given["control_net"], given["image"], given["strength"], start, end)
    return tuple(tuple(replace(text, controls=(*text.controls, use)) for text in given[side]) for side in sides)


# ---- latents


def _empty(given: _Inputs) -> tuple[Any, ...]:
    width, height = given.size((given["width"], given["height"]))
    return (Empty((width // SNAP * SNAP, height // SNAP * SNAP), given["batch_size"]),)


def _snapped(size: Size) -> Size:
    return size[0] // SNAP * SNAP, size[1] // SNAP * SNAP


def _to_encode(given: _Inputs, picture: Picture) -> Picture:
    """The picture without the borders that ComfyUI cuts off."""
    size = _snapped(picture.size)
    if min(size) < SNAP:
        raise given.error(f"a picture of {picture.size[0]}x{picture.size[1]}, expected at least {SNAP} a side")
    return picture if size == picture.size else Cropped(picture, size)


def _vae_encode(given: _Inputs) -> tuple[Any, ...]:
    return (Encoded(_to_encode(given, given["pixels"]), given["vae"]),)


def _fitted(mask: Mask, picture: Picture) -> Mask:
    """A mask at the size of the picture, and cut as that is."""
    if mask.size != picture.size:
        mask = FittedMask(mask, picture.size)
    size = _snapped(picture.size)
    return mask if size == picture.size else CroppedMask(mask, size)


def _check_mask(given: _Inputs, mask: Mask) -> None:
    if not mask_is_made(mask):
        raise given.error("gesso makes no mask of a picture that the graph draws or enlarges", input="mask")


def _encode_for_inpaint(given: _Inputs) -> tuple[Any, ...]:
    _check_mask(given, given["mask"])
    picture = _to_encode(given, given["pixels"])
    mask = _fitted(given["mask"], given["pixels"])
    grown = GrownMask(mask, given["grow_mask_by"], rounded=True)
    return (Encoded(Greyed(picture, mask), given["vae"], mask=grown),)


def _noise_mask(given: _Inputs) -> tuple[Any, ...]:
    latent, mask = given["samples"], given["mask"]
    _check_mask(given, mask)
    if not isinstance(latent, Encoded):
        raise given.error("gesso draws with a mask over an encoded picture (VAEEncode) only", input="samples")
    return (replace(latent, mask=mask if mask.size == latent.size else FittedMask(mask, latent.size)),)


def _inpaint_model(given: _Inputs) -> tuple[Any, ...]:
    _check_mask(given, given["mask"])
    picture, id = _to_encode(given, given["pixels"]), given.node.id
    if not given["noise_mask"]:
        raise given.error("gesso keeps what is outside of the mask; set noise_mask to true", input="noise_mask")
    latent = Encoded(picture, given["vae"], mask=_fitted(given["mask"], given["pixels"]), inpaint=id)
    sides = (tuple(replace(text, inpaint=id) for text in given[side]) for side in ("positive", "negative"))
    return (*sides, latent)


def _upscale_latent(given: _Inputs) -> tuple[Any, ...]:
    latent: Latent = given["samples"]
    width, height = given["width"], given["height"]
    old = latent.size
    if not width and not height:
        return (latent,)
    # A side of 0 follows from the shape, as in ComfyUI.
    width = width or max(64, round(old[0] * height / old[1] / SNAP) * SNAP)
    height = height or max(64, round(old[1] * width / old[0] / SNAP) * SNAP)
    return (
        Enlarged(given.node.id, latent, given["upscale_method"], given.size(_snapped((width, height))), given["crop"]),
    )


def _upscale_latent_by(given: _Inputs) -> tuple[Any, ...]:
    latent: Latent = given["samples"]
    by = given["scale_by"]
    width, height = (round(side // SNAP * by) * SNAP for side in latent.size)
    return (Enlarged(given.node.id, latent, given["upscale_method"], given.size((width, height))),)


def _repeat(given: _Inputs) -> tuple[Any, ...]:
    latent = given["samples"]
    if not isinstance(latent, Empty | Encoded):
        raise given.error("gesso repeats latents before they are sampled only", input="samples")
    count = latent.batch * given["amount"]
    if count > MAX_BATCH:
        raise given.error(f"{count} pictures, expected at most {MAX_BATCH}", input="amount")
    return (replace(latent, batch=count),)


def _decode(given: _Inputs) -> tuple[Any, ...]:
    latent, vae = given["samples"], given["vae"]
    models = _checkpoints(latent)
    if vae.checkpoint not in models:
        raise given.error(
            f"gesso decodes with the autoencoder of the model that draws ({', '.join(sorted(models))}), not that of "
            f"{vae.checkpoint}",
            input="vae",
        )
    return (Drawn(latent),)


def _checkpoints(latent: Latent) -> set[str]:
    match latent:
        case Sampled():
            return {latent.model.checkpoint}
        case Enlarged():
            return _checkpoints(latent.latent)
        case Encoded():
            return {latent.vae.checkpoint}
    return {"none: these latents are empty"}


# ---- sampling


def _steps(given: _Inputs, steps: int, denoise: float) -> tuple[int, int]:
    """Steps that are run, and steps of the schedule before them: ComfyUI's rule of denoise."""
    if denoise > 0.9999:
        return steps, 0
    if denoise <= 0:
        raise given.error("denoise 0 draws nothing; leave the sampler out", input="denoise")
    planned = int(steps / denoise)
    if planned > MAX_STEPS:
        raise given.error(
            f"denoise {denoise:g} takes the last {steps} of {planned} steps, expected at most {MAX_STEPS}",
            input="denoise",
        )
    return steps, planned - steps


def _sampled(given: _Inputs, guider: Guider, latent: Latent, seed: int, solver: str, sigmas: Sigmas) -> Sampled:
    if isinstance(latent, Empty) and sigmas.before:
        raise given.error(
            "denoise below 1 on empty latents; gesso starts from noise alone, so set denoise to 1", input="denoise"
        )
    return Sampled(
        given.node.id,
        guider.model,
        guider.positive,
        guider.negative,
        latent,
        seed,
        sigmas.steps,
        sigmas.before,
        guider.guidance,
        solver,
        sigmas.scheduler,
    )


def _guider_of(given: _Inputs) -> Guider:
    return Guider(given["model"], given["positive"], given["negative"], given["cfg"])


def _ksampler(given: _Inputs) -> tuple[Any, ...]:
    sigmas = Sigmas(given["scheduler"], *_steps(given, given["steps"], given["denoise"]))
    return (_sampled(given, _guider_of(given), given["latent_image"], given["seed"], given["sampler_name"], sigmas),)


def _ksampler_advanced(given: _Inputs) -> tuple[Any, ...]:
    steps, start, end = given["steps"], given["start_at_step"], given["end_at_step"]
    if given["add_noise"] != "enable":
        raise given.error(
            "gesso does not go on with latents that another sampler left noisy; draw all steps in one sampler",
            input="add_noise",
        )
    if end < steps:
        raise given.error(f"gesso draws to the last step; set end_at_step to {steps} or more", input="end_at_step")
    if start >= steps:
        raise given.error(f"no step is left: start_at_step {start} of {steps} steps", input="start_at_step")
    latent = given["latent_image"]
    if start and isinstance(latent, Empty):
        raise given.error("gesso starts empty latents at the first step; set start_at_step to 0", input="start_at_step")
    sigmas = Sigmas(given["scheduler"], steps - start, start)
    return (_sampled(given, _guider_of(given), latent, given["noise_seed"], given["sampler_name"], sigmas),)


def _basic_scheduler(given: _Inputs) -> tuple[Any, ...]:
    return (Sigmas(given["scheduler"], *_steps(given, given["steps"], given["denoise"])),)


def _basic_guider(given: _Inputs) -> tuple[Any, ...]:
    return (Guider(given["model"], given["conditioning"], (), 1.0),)


def _custom_advanced(given: _Inputs) -> tuple[Any, ...]:
    drawn = _sampled(
        given, given["guider"], given["latent_image"], given["noise"].seed, given["sampler"].name, given["sigmas"]
    )
    return drawn, drawn


def _custom(given: _Inputs) -> tuple[Any, ...]:
    if not given["add_noise"]:
        raise given.error("gesso does not draw without noise", input="add_noise")
    drawn = _sampled(
        given, _guider_of(given), given["latent_image"], given["noise_seed"], given["sampler"].name, given["sigmas"]
    )
    return drawn, drawn


def _differential(given: _Inputs) -> tuple[Any, ...]:
    if given["strength"] != 1:
        raise given.error("gesso knows strength 1 only", input="strength")
    return (replace(given["model"], differential=True),)


# ---- pictures


def _load_image(given: _Inputs) -> tuple[Any, ...]:
    upload = given.upload()
    given.size((upload.width, upload.height))
    return Loaded(upload), AlphaMask(upload)


def _load_mask(given: _Inputs) -> tuple[Any, ...]:
    upload, channel = given.upload(), given["channel"]
    given.size((upload.width, upload.height))
    return (AlphaMask(upload) if channel == "alpha" else ChannelMask(Loaded(upload), channel),)


def _scale(given: _Inputs) -> tuple[Any, ...]:
    picture, width, height = given["image"], given["width"], given["height"]
    if not width and not height:
        return (picture,)
    width = width or max(1, round(picture.size[0] * height / picture.size[1]))
    height = height or max(1, round(picture.size[1] * width / picture.size[0]))
    return (Scaled(picture, given["upscale_method"], given.size((width, height)), given["crop"], given.node.id),)


def _scale_by(given: _Inputs) -> tuple[Any, ...]:
    picture = given["image"]
    if isinstance(picture, Upscaled):
        raise given.error("gesso knows no size after ImageUpscaleWithModel; use ImageScale with a width and a height")
    width, height = (round(side * given["scale_by"]) for side in picture.size)
    return (Scaled(picture, given["upscale_method"], given.size((width, height)), node=given.node.id),)


def _pad(given: _Inputs) -> tuple[Any, ...]:
    picture = given["image"]
    left, top, right, bottom = sides = given["left"], given["top"], given["right"], given["bottom"]
    padded = Padded(picture, sides)
    given.size(padded.size)
    return padded, BorderMask(picture.size, (left, top, right, bottom), given["feathering"])


def _save(kind: str) -> Callable[[_Inputs], tuple[Any, ...]]:
    def wanted(given: _Inputs) -> tuple[Any, ...]:
        prefix = given.get("filename_prefix") or "ComfyUI"
        return (Wanted(given.node.id, given["images"], prefix, kind),)

    return wanted


_NODES: Mapping[str, Callable[[_Inputs], tuple[Any, ...]]] = {
    "CheckpointLoaderSimple": _checkpoint,
    "VAELoader": lambda given: (Vae(given["vae_name"]),),
    "CLIPLoader": lambda given: (Clip(given["clip_name"]),),
    "DualCLIPLoader": _two_encoders,
    "UNETLoader": lambda given: (Model(given["unet_name"]),),
    "LoraLoader": _lora,
    "LoraLoaderModelOnly": lambda given: (
        _with_lora(given["model"], Lora(given.node.id, given["lora_name"], given["strength_model"])),
    ),
    "ControlNetLoader": lambda given: (ControlNet(given["control_net_name"]),),
    "UpscaleModelLoader": lambda given: (UpscaleModel(given["model_name"]),),
    "CLIPTextEncode": _encode,
    "CLIPSetLastLayer": _skip,
    "ConditioningCombine": _combine,
    "ConditioningConcat": _concat,
    "ConditioningAverage": _average,
    "ConditioningSetAreaStrength": _strength,
    "ConditioningSetTimestepRange": _in_time,
    "ConditioningZeroOut": _zero,
    "ControlNetApply": _control,
    "ControlNetApplyAdvanced": _control,
    "EmptyLatentImage": _empty,
    "EmptySD3LatentImage": _empty,
    "VAEEncode": _vae_encode,
    "VAEEncodeForInpaint": _encode_for_inpaint,
    "SetLatentNoiseMask": _noise_mask,
    "InpaintModelConditioning": _inpaint_model,
    "LatentUpscale": _upscale_latent,
    "LatentUpscaleBy": _upscale_latent_by,
    "RepeatLatentBatch": _repeat,
    "VAEDecode": _decode,
    "VAEDecodeTiled": _decode,
    "KSampler": _ksampler,
    "KSamplerAdvanced": _ksampler_advanced,
    "RandomNoise": lambda given: (Noise(given["noise_seed"]),),
    "KSamplerSelect": lambda given: (Solver(given["sampler_name"]),),
    "BasicScheduler": _basic_scheduler,
    "CFGGuider": lambda given: (_guider_of(given),),
    "BasicGuider": _basic_guider,
    "SamplerCustomAdvanced": _custom_advanced,
    "SamplerCustom": _custom,
    "RescaleCFG": lambda given: (replace(given["model"], rescale=given["multiplier"]),),
    "DifferentialDiffusion": _differential,
    "LoadImage": _load_image,
    "LoadImageMask": _load_mask,
    "ImageScale": _scale,
    "ImageScaleBy": _scale_by,
    "ImageUpscaleWithModel": lambda given: (Upscaled(given["image"], given["upscale_model"], given.node.id),),
    "ImageInvert": lambda given: (Inverted(given["image"]),),
    "ImagePadForOutpaint": _pad,
    "MaskToImage": lambda given: (OfMask(given["mask"]),),
    "ImageToMask": lambda given: (ChannelMask(given["image"], given["channel"]),),
    "InvertMask": lambda given: (InvertedMask(given["mask"]),),
    "GrowMask": lambda given: (GrownMask(given["mask"], given["expand"], tapered=given["tapered_corners"]),),
    "SolidMask": lambda given: (SolidMask(given["value"], given.size((given["width"], given["height"]))),),
    "PrimitiveInt": lambda given: (given["value"],),
    "PrimitiveFloat": lambda given: (given["value"],),
    "PrimitiveString": lambda given: (given["value"],),
    "PrimitiveStringMultiline": lambda given: (given["value"],),
    "PrimitiveBoolean": lambda given: (given["value"],),
    "SaveImage": _save("output"),
    "PreviewImage": _save("temp"),
    "SaveImageWebsocket": _save("socket"),
}
KINDS = frozenset(_NODES)
