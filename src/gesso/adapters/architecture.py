"""The model that an adapter was made for, from names and shapes in its header and from its metadata."""

import re
from collections.abc import Mapping

from gesso.checkpoints.safetensors_file import TensorInfo

UNKNOWN = "an unknown model"
# Width of the text embeddings that cross-attention takes.
_CONTEXTS = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "Stable Diffusion XL",
    1280: "the refiner of Stable Diffusion XL",
}
_TOWERS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}
_LAYOUTS = {"sd1": 768, "sd2": 1024, "sdxl": 2048, "refiner": 1280}
_REFINER_WIDTHS = (768, 1536)  # of its transformers; those of SDXL are 640 and 1280 wide
_DOWN = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    "lora_linear_layer.down.weight",
    ".hada_w1_b",
    ".diff",
)
_TO_K = re.compile(r"attn2[._](?:processor\.)?to_[kv](?:\.|_lora\.)")  # keys and values take the text embeddings
_SECOND_TEXT = ("lora_te2_", "lora_te1_", "text_encoder_2.", "text_encoders.clip_g.", "clip_g.", "conditioner.")


def architecture_of(tensors: Mapping[str, TensorInfo]) -> str:
    """The base architecture in words, for "is made for ..."."""
    names = list(tensors)
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in names):
        return "FLUX"
    if any("joint_blocks" in name or "context_block" in name for name in names):
        return "Stable Diffusion 3"
    if any(name.startswith(("lora_prior_", "prior.")) for name in names):
        return "Stable Cascade"
    for name in names:
        if _TO_K.search(name) and (width := _input_width(name, tensors)) is not None:
            return context_name(width)
    if any(name.startswith(_SECOND_TEXT) for name in names):
        return "Stable Diffusion XL"
    if any("transformer_blocks_2_" in name or "transformer_blocks.2." in name for name in names):
        return _of_several_blocks(tensors)
    for name, info in tensors.items():
        if ("self_attn_q_proj." in name or "self_attn.q_proj." in name) and name.endswith(_DOWN):
            return _TOWERS.get(info.shape[-1], f"a text encoder of width {info.shape[-1]}")
    if any("down_blocks" in name or "input_blocks" in name for name in names):
        return "a UNet like Stable Diffusion's"
    return UNKNOWN


def _of_several_blocks(tensors: Mapping[str, TensorInfo]) -> str:
    """SDXL or its refiner, which alone have more than one transformer block a place."""
    for name in tensors:
        if "attn1" in name and _input_width(name, tensors) in _REFINER_WIDTHS:
            return _CONTEXTS[1280]
        if "net_0_proj" in name or "net.0.proj" in name:
            return _CONTEXTS[1280 if _input_width(name, tensors) in _REFINER_WIDTHS else 2048]
    return _CONTEXTS[2048]


def _input_width(name: str, tensors: Mapping[str, TensorInfo]) -> int | None:
    """The width that the module of a tensor takes, where this tensor and its neighbours show it."""
    shape = tensors[name].shape
    if name.endswith(_DOWN) and len(shape) in (2, 4):
        return shape[1]
    module, _, part = name.rpartition(".")
    if part not in ("lokr_w1", "lokr_w1_b"):
        return None
    # W = kron(w1, w2), and of a factor that is itself a product the second matrix has the inputs.
    second = next((tensors[name] for name in (f"{module}.lokr_w2", f"{module}.lokr_w2_b") if name in tensors), None)
    if second is None or len(shape) < 2 or len(second.shape) < 2:
        return None
    return shape[1] * second.shape[1]


def is_made_for(looks: str, layout: str, width: int | None = None) -> bool:
    """Whether `architecture_of` names the release that a model belongs to.

    layout  of the model, see `ldm.TOWERS`
    width   of its text embeddings, where it need not be that of the layout's releases: gesso-mini's layout is that of
            SD 1
    """
    return looks == context_name(_LAYOUTS[layout] if width is None else width)


def has_layout_of(looks: str, layout: str) -> bool:
    """Whether `architecture_of` names the release that a layout is known from."""
    return looks == context_name(_LAYOUTS[layout])


def context_name(width: int) -> str:
    """The release whose UNet takes text embeddings of this width, in words."""
    return _CONTEXTS.get(width, f"a model with text embeddings {width} wide")


def declared_base(metadata: Mapping[str, str]) -> str | None:
    """The base model that the metadata states: ModelSpec's architecture, else ss_base_model_version."""
    return metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or None
