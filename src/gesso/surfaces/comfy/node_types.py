"""The nodes of ComfyUI that a graph may have here: their inputs and outputs, as /object_info tells them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gesso.request.checks import MAX_GUIDANCE, MAX_SEED, MAX_SIDE, MAX_STEPS
from gesso.request.parts import MAX_STRENGTH

# Types of values that are written into a graph rather than linked.
WRITTEN = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
# Inputs that ComfyUI's page writes into graphs for itself, which no node reads.
OF_THE_PAGE = ("upload", "control_after_generate", "choose file to upload", "image_upload")

Choices = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of a node.

    type      MODEL, CLIP, ..., or one of WRITTEN
    choices   of a COMBO: the values, or the name of a list that is made anew for each request
    low, high, step, default   of a number; multiline: of a text
    """

    name: str
    type: str
    optional: bool = False
    default: Any = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | str = ()
    multiline: bool = False
    upload: bool = False

    def listed(self, known: Choices) -> list[str]:
        """The values of a COMBO."""
        return list(known.get(self.choices, ())) if isinstance(self.choices, str) else list(self.choices)

    def described(self, known: Choices) -> list[Any]:
        """As /object_info has it."""
        options: dict[str, Any] = {
            name: value
            for name, value in (("default", self.default), ("min", self.low), ("max", self.high), ("step", self.step))
            if value is not None
        }
        if self.multiline:
            options["multiline"] = True
        if self.type != "COMBO":
            return [self.type, options] if options else [self.type]
        if self.upload:
            options["image_upload"] = True
        return [self.listed(known), options] if options else [self.listed(known)]


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A kind of node.  outputs: type and name of each; is_output: graphs are walked back from it"""

    name: str
    title: str
    category: str
    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]
    is_output: bool = False
    description: str = ""

    @property
    def by_name(self) -> dict[str, Input]:
        """The inputs by their names."""
        return {one.name: one for one in self.inputs}

    def described(self, known: Choices) -> dict[str, Any]:
        """As /object_info has it."""
        required = {one.name: one.described(known) for one in self.inputs if not one.optional}
        optional = {one.name: one.described(known) for one in self.inputs if one.optional}
        order = {"required": list(required)} | ({"optional": list(optional)} if optional else {})
        return {
            "input": {"required": required} | ({"optional": optional} if optional else {}),
            "input_order": order,
            "is_input_list": False,
            "output": [kind for kind, _ in self.outputs],
            "output_is_list": [False] * len(self.outputs),
            "output_name": [name for _, name in self.outputs],
            "name": self.name,
            "display_name": self.title,
            "description": self.description,
            "python_module": "nodes",
            "category": self.category,
            "output_node": self.is_output,
            "has_intermediate_output": False,
            "search_aliases": [],
        }


def _link(name: str, type: str, *, optional: bool = False) -> Input:
    return Input(name=name, type=type, optional=optional)


def _int(name: str, default: int, low: int, high: int, step: int = 1, *, optional: bool = False) -> Input:
    return Input(name=name, type="INT", default=default, low=low, high=high, step=step, optional=optional)


def _float(name: str, default: float, low: float, high: float, step: float = 0.01, *, optional: bool = False) -> Input:
    return Input(name=name, type="FLOAT", default=default, low=low, high=high, step=step, optional=optional)


def _choice(name: str, choices: tuple[str, ...] | str, *, optional: bool = False, default: str | None = None) -> Input:
    return Input(name=name, type="COMBO", choices=choices, optional=optional, default=default)


def _text(name: str, default: str = "", *, multiline: bool = False) -> Input:
    return Input(name=name, type="STRING", default=default, multiline=multiline)


def _flag(name: str, default: bool, *, optional: bool = False) -> Input:
    return Input(name=name, type="BOOLEAN", default=default, optional=optional)


def _node(
    name: str,
    title: str,
    category: str,
    inputs: Sequence[Input],
    *outputs: str,
    is_output: bool = False,
    about: str = "",
) -> NodeType:
    """outputs: each a type, or "TYPE name" where it is called otherwise"""
    pairs = tuple((kind, name or kind) for kind, _, name in (one.partition(" ") for one in outputs))
    return NodeType(
        name=name,
        title=title,
        category=category,
        inputs=tuple(inputs),
        outputs=pairs,
        is_output=is_output,
        description=about,
    )


MAX_BATCH = 64
_SCALINGS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
_LATENT_SCALINGS = ("nearest-exact", "bilinear", "bicubic")
_CROPS = ("disabled", "center")
_COLOURS = ("red", "green", "blue")
_PICTURE = Input(name="image", type="COMBO", choices="input", upload=True)
_SEED = _int("seed", 0, 0, MAX_SEED)
_NOISE_SEED = _int("noise_seed", 0, 0, MAX_SEED)
_STEPS = _int("steps", 20, 1, MAX_STEPS)
_CFG = _float("cfg", 8.0, 0.0, MAX_GUIDANCE, 0.1)
_SAMPLING = (_choice("sampler_name", "samplers"), _choice("scheduler", "schedulers"))
_DENOISE = _float("denoise", 1.0, 0.0, 1.0)
_SIZE = (_int("width", 512, 16, MAX_SIDE, 8), _int("height", 512, 16, MAX_SIDE, 8))
_BATCH = _int("batch_size", 1, 1, MAX_BATCH)
_GUIDED = (_link("positive", "CONDITIONING"), _link("negative", "CONDITIONING"))
_SHARES = (_float("start_percent", 0.0, 0.0, 1.0, 0.001), _float("end_percent", 1.0, 0.0, 1.0, 0.001))
_SEMANTIC = ("CONDITIONING positive", "CONDITIONING negative")
_PREFIX = _text("filename_prefix", "ComfyUI")
_ENCODER_TYPES = ("stable_diffusion", "sdxl")
_MODEL = _link("model", "MODEL")
_CLIP = _link("clip", "CLIP")
_VAE = _link("vae", "VAE")
_IMAGE = _link("image", "IMAGE")
_MASK = _link("mask", "MASK")
_LATENT = _link("samples", "LATENT")
_TILED = (
    *(_int("tile_size", 512, 64, 4096, 32), _int("overlap", 64, 0, 4096, 32)),
    *(_int("temporal_size", 64, 8, 4096, 4), _int("temporal_overlap", 8, 4, 4096, 4)),
)
_OWN_PARTS = "The part of one of the models here. The parts of a graph have to be those of one model."

_TYPES = (
    # ---- loaders
    _node(
        "CheckpointLoaderSimple",
        "Load Checkpoint",
        "loaders",
        [_choice("ckpt_name", "checkpoints")],
        *("MODEL", "CLIP", "VAE"),
    ),
    _node("VAELoader", "Load VAE", "loaders", [_choice("vae_name", "vae")], "VAE", about=_OWN_PARTS),
    _node(
        "CLIPLoader",
        "Load CLIP",
        "advanced/loaders",
        [
            _choice("clip_name", "clip"),
            _choice("type", _ENCODER_TYPES),
            _choice("device", ("default", "cpu"), optional=True),
        ],
        "CLIP",
        about=_OWN_PARTS,
    ),
    _node(
        "DualCLIPLoader",
        "DualCLIPLoader",
        "advanced/loaders",
        [
            *(_choice("clip_name1", "clip"), _choice("clip_name2", "clip"), _choice("type", ("sdxl",))),
            _choice("device", ("default", "cpu"), optional=True),
        ],
        "CLIP",
        about=_OWN_PARTS,
    ),
    _node(
        "UNETLoader",
        "Load Diffusion Model",
        "advanced/loaders",
        [_choice("unet_name", "diffusion_models"), _choice("weight_dtype", ("default",))],
        "MODEL",
        about=_OWN_PARTS,
    ),
    _node(
        "LoraLoader",
        "Load LoRA",
        "loaders",
        [
            *(_MODEL, _CLIP, _choice("lora_name", "loras")),
            *(_float(f"strength_{of}", 1.0, -MAX_STRENGTH, MAX_STRENGTH) for of in ("model", "clip")),
        ],
        *("MODEL", "CLIP"),
    ),
    _node(
        "LoraLoaderModelOnly",
        "LoraLoaderModelOnly",
        "loaders",
        [_MODEL, _choice("lora_name", "loras"), _float("strength_model", 1.0, -MAX_STRENGTH, MAX_STRENGTH)],
        "MODEL",
    ),
    _node(
        "ControlNetLoader",
        "Load ControlNet Model",
        "loaders",
        [_choice("control_net_name", "controlnet")],
        "CONTROL_NET",
    ),
    _node(
        "UpscaleModelLoader",
        "Load Upscale Model",
        "loaders",
        [_choice("model_name", "upscale_models")],
        "UPSCALE_MODEL",
    ),
    # ---- texts
    _node(
        "CLIPTextEncode",
        "CLIP Text Encode (Prompt)",
        "conditioning",
        [_text("text", multiline=True), _CLIP],
        "CONDITIONING",
    ),
    _node(
        "CLIPSetLastLayer",
        "CLIP Set Last Layer",
        "conditioning",
        [_CLIP, _int("stop_at_clip_layer", -1, -24, -1)],
        "CLIP",
    ),
    _node(
        "ConditioningCombine",
        "Conditioning (Combine)",
        "conditioning",
        [_link("conditioning_1", "CONDITIONING"), _link("conditioning_2", "CONDITIONING")],
        "CONDITIONING",
    ),
    _node(
        "ConditioningConcat",
        "Conditioning (Concat)",
        "conditioning",
        [_link("conditioning_to", "CONDITIONING"), _link("conditioning_from", "CONDITIONING")],
        "CONDITIONING",
    ),
    _node(
        "ConditioningAverage",
        "ConditioningAverage",
        "conditioning",
        [
            *(_link("conditioning_to", "CONDITIONING"), _link("conditioning_from", "CONDITIONING")),
            _float("conditioning_to_strength", 1.0, 0.0, 1.0),
        ],
        "CONDITIONING",
    ),
    _node(
        "ConditioningSetAreaStrength",
        "ConditioningSetAreaStrength",
        "conditioning",
        [_link("conditioning", "CONDITIONING"), _float("strength", 1.0, 0.0, 10.0)],
        "CONDITIONING",
    ),
    _node(
        "ConditioningSetTimestepRange",
        "ConditioningSetTimestepRange",
        "advanced/conditioning",
        [
            _link("conditioning", "CONDITIONING"),
            _float("start", 0.0, 0.0, 1.0, 0.001),
            _float("end", 1.0, 0.0, 1.0, 0.001),
        ],
        "CONDITIONING",
    ),
    _node(
        "ConditioningZeroOut",
        "ConditioningZeroOut",
        "advanced/conditioning",
        [_link("conditioning", "CONDITIONING")],
        "CONDITIONING",
    ),
    _node(
        "ControlNetApply",
        "Apply ControlNet (OLD)",
        "conditioning/controlnet",
        [
            *(_link("conditioning", "CONDITIONING"), _link("control_net", "CONTROL_NET"), _IMAGE),
            _float("strength", 1.0, 0.0, 10.0),
        ],
        "CONDITIONING",
    ),
    _node(
        "ControlNetApplyAdvanced",
        "Apply ControlNet",
        "conditioning/controlnet",
        [
            *(*_GUIDED, _link("control_net", "CONTROL_NET"), _IMAGE, _float("strength", 1.0, 0.0, 10.0)),
            *(*_SHARES, _link("vae", "VAE", optional=True)),
        ],
        *_SEMANTIC,
    ),
    # ---- latents
    _node("EmptyLatentImage", "Empty Latent Image", "latent", [*_SIZE, _BATCH], "LATENT"),
    _node("EmptySD3LatentImage", "EmptySD3LatentImage", "latent/sd3", [*_SIZE, _BATCH], "LATENT"),
    _node("VAEEncode", "VAE Encode", "latent", [_link("pixels", "IMAGE"), _VAE], "LATENT"),
    _node(
        "VAEEncodeForInpaint",
        "VAE Encode (for Inpainting)",
        "latent/inpaint",
        [_link("pixels", "IMAGE"), _VAE, _MASK, _int("grow_mask_by", 6, 0, 64)],
        "LATENT",
    ),
    _node("SetLatentNoiseMask", "Set Latent Noise Mask", "latent/inpaint", [_LATENT, _MASK], "LATENT"),
    _node(
        "InpaintModelConditioning",
        "InpaintModelConditioning",
        "conditioning/inpaint",
        [*_GUIDED, _VAE, _link("pixels", "IMAGE"), _MASK, _flag("noise_mask", True)],
        *(*_SEMANTIC, "LATENT latent"),
    ),
    _node(
        "LatentUpscale",
        "Upscale Latent",
        "latent",
        [
            *(_LATENT, _choice("upscale_method", _LATENT_SCALINGS), _int("width", 512, 0, MAX_SIDE, 8)),
            *(_int("height", 512, 0, MAX_SIDE, 8), _choice("crop", _CROPS)),
        ],
        "LATENT",
    ),
    _node(
        "LatentUpscaleBy",
        "Upscale Latent By",
        "latent",
        [_LATENT, _choice("upscale_method", _LATENT_SCALINGS), _float("scale_by", 1.5, 0.01, 8.0)],
        "LATENT",
    ),
    _node(
        "RepeatLatentBatch", "Repeat Latent Batch", "latent/batch", [_LATENT, _int("amount", 1, 1, MAX_BATCH)], "LATENT"
    ),
    _node("VAEDecode", "VAE Decode", "latent", [_LATENT, _VAE], "IMAGE"),
    _node(
        "VAEDecodeTiled",
        "VAE Decode (Tiled)",
        "experimental",
        [_LATENT, _VAE, *_TILED],
        "IMAGE",
        about="Decoded as by VAEDecode; how much is decoded at once is for the server to say.",
    ),
    # ---- sampling
    _node(
        "KSampler",
        "KSampler",
        "sampling",
        [_MODEL, _SEED, _STEPS, _CFG, *_SAMPLING, *_GUIDED, _link("latent_image", "LATENT"), _DENOISE],
        "LATENT",
    ),
    _node(
        "KSamplerAdvanced",
        "KSampler (Advanced)",
        "sampling",
        [
            *(_MODEL, _choice("add_noise", ("enable", "disable")), _NOISE_SEED, _STEPS, _CFG, *_SAMPLING, *_GUIDED),
            *(
                _link("latent_image", "LATENT"),
                _int("start_at_step", 0, 0, 10000),
                _int("end_at_step", 10000, 0, 10000),
            ),
            _choice("return_with_leftover_noise", ("disable", "enable")),
        ],
        "LATENT",
    ),
    _node("RandomNoise", "RandomNoise", "sampling/custom_sampling/noise", [_NOISE_SEED], "NOISE"),
    _node("KSamplerSelect", "KSamplerSelect", "sampling/custom_sampling/samplers", [_SAMPLING[0]], "SAMPLER"),
    _node(
        "BasicScheduler",
        "BasicScheduler",
        "sampling/custom_sampling/schedulers",
        [_MODEL, _SAMPLING[1], _STEPS, _DENOISE],
        "SIGMAS",
    ),
    _node("CFGGuider", "CFGGuider", "sampling/custom_sampling/guiders", [_MODEL, *_GUIDED, _CFG], "GUIDER"),
    _node(
        "BasicGuider",
        "BasicGuider",
        "sampling/custom_sampling/guiders",
        [_MODEL, _link("conditioning", "CONDITIONING")],
        "GUIDER",
    ),
    _node(
        "SamplerCustomAdvanced",
        "SamplerCustomAdvanced",
        "sampling/custom_sampling",
        [
            *(
                _link("noise", "NOISE"),
                _link("guider", "GUIDER"),
                _link("sampler", "SAMPLER"),
                _link("sigmas", "SIGMAS"),
            ),
            _link("latent_image", "LATENT"),
        ],
        *("LATENT output", "LATENT denoised_output"),
    ),
    _node(
        "SamplerCustom",
        "SamplerCustom",
        "sampling/custom_sampling",
        [
            *(_MODEL, _flag("add_noise", True), _NOISE_SEED, _CFG, *_GUIDED, _link("sampler", "SAMPLER")),
            *(_link("sigmas", "SIGMAS"), _link("latent_image", "LATENT")),
        ],
        *("LATENT output", "LATENT denoised_output"),
    ),
    _node("RescaleCFG", "RescaleCFG", "advanced/model", [_MODEL, _float("multiplier", 0.7, 0.0, 1.0)], "MODEL"),
    _node(
        "DifferentialDiffusion",
        "Differential Diffusion",
        "_for_testing",
        [_MODEL, _float("strength", 1.0, 0.0, 1.0, optional=True)],
        "MODEL",
    ),
    # ---- pictures
    _node("LoadImage", "Load Image", "image", [_PICTURE], *("IMAGE", "MASK")),
    _node(
        "LoadImageMask", "Load Image (as Mask)", "mask", [_PICTURE, _choice("channel", ("alpha", *_COLOURS))], "MASK"
    ),
    _node(
        "ImageScale",
        "Upscale Image",
        "image/upscaling",
        [
            *(
                _IMAGE,
                _choice("upscale_method", _SCALINGS),
                _int("width", 512, 0, MAX_SIDE),
                _int("height", 512, 0, MAX_SIDE),
            ),
            _choice("crop", _CROPS),
        ],
        "IMAGE",
    ),
    _node(
        "ImageScaleBy",
        "Upscale Image By",
        "image/upscaling",
        [_IMAGE, _choice("upscale_method", _SCALINGS), _float("scale_by", 1.0, 0.01, 8.0)],
        "IMAGE",
    ),
    _node(
        "ImageUpscaleWithModel",
        "Upscale Image (using Model)",
        "image/upscaling",
        [_link("upscale_model", "UPSCALE_MODEL"), _IMAGE],
        "IMAGE",
    ),
    _node("ImageInvert", "Invert Image", "image", [_IMAGE], "IMAGE"),
    _node(
        "ImagePadForOutpaint",
        "Pad Image for Outpainting",
        "image",
        [
            _IMAGE,
            *(_int(side, 0, 0, MAX_SIDE, 8) for side in ("left", "top", "right", "bottom")),
            _int("feathering", 40, 0, MAX_SIDE),
        ],
        *("IMAGE", "MASK"),
    ),
    _node("MaskToImage", "Convert Mask to Image", "mask", [_MASK], "IMAGE"),
    _node("ImageToMask", "Convert Image to Mask", "mask", [_IMAGE, _choice("channel", _COLOURS)], "MASK"),
    _node("InvertMask", "InvertMask", "mask", [_MASK], "MASK"),
    _node(
        "GrowMask", "GrowMask", "mask", [_MASK, _int("expand", 0, -256, 256), _flag("tapered_corners", True)], "MASK"
    ),
    _node(
        "SolidMask",
        "SolidMask",
        "mask",
        [_float("value", 1.0, 0.0, 1.0), _int("width", 512, 1, MAX_SIDE), _int("height", 512, 1, MAX_SIDE)],
        "MASK",
    ),
    # ---- values
    _node("PrimitiveInt", "Int", "utils/primitive", [_int("value", 0, -(2**63), MAX_SEED)], "INT"),
    _node("PrimitiveFloat", "Float", "utils/primitive", [_float("value", 0.0, -1e18, 1e18)], "FLOAT"),
    _node("PrimitiveString", "String", "utils/primitive", [_text("value")], "STRING"),
    _node(
        "PrimitiveStringMultiline", "String (Multiline)", "utils/primitive", [_text("value", multiline=True)], "STRING"
    ),
    _node("PrimitiveBoolean", "Boolean", "utils/primitive", [_flag("value", False)], "BOOLEAN"),
    # ---- outputs
    _node("SaveImage", "Save Image", "image", [_link("images", "IMAGE"), _PREFIX], is_output=True),
    _node("PreviewImage", "Preview Image", "image", [_link("images", "IMAGE")], is_output=True),
    _node("SaveImageWebsocket", "SaveImageWebsocket", "api/image", [_link("images", "IMAGE")], is_output=True),
)
NODE_TYPES: Mapping[str, NodeType] = {one.name: one for one in _TYPES}

# Nodes that many graphs have and gesso cannot follow -> why.
REASONS: Mapping[str, str] = {
    "LatentCompositeMasked": "gesso does not paste latents together; draw with a mask (SetLatentNoiseMask)",
    "LatentComposite": "gesso does not paste latents together; draw with a mask (SetLatentNoiseMask)",
    "ConditioningSetArea": "gesso has no prompts for a part of the picture",
    "ConditioningSetAreaPercentage": "gesso has no prompts for a part of the picture",
    "ConditioningSetMask": "gesso has no prompts for a part of the picture",
    "FluxGuidance": "it sets a number that only Flux models read, and gesso draws none of them; leave the node out",
    "ModelSamplingSD3": "it is for Stable Diffusion 3, which gesso does not draw",
    "ModelSamplingFlux": "it is for Flux, which gesso does not draw",
    "ModelSamplingDiscrete": "gesso samples each model as it was trained; leave the node out",
    "TripleCLIPLoader": "it is for Stable Diffusion 3, which gesso does not draw",
    "CLIPTextEncodeSDXL": "gesso gives both encoders one text and the size that is drawn; use CLIPTextEncode",
    "DisableNoise": "gesso does not draw without noise",
    "SplitSigmas": "gesso does not draw a part of the steps",
}
_UNKNOWN = "gesso does not draw with this node; GET /object_info lists those that it does"


def reason_against(kind: str) -> str:
    """Why a node cannot be drawn with."""
    return REASONS.get(kind, _UNKNOWN)
