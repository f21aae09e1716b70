"""The model that an adapter was made for, from names and shapes in its header and from its metadata."""

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
_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", ".hada_w1_b")


def architecture_of(tensors: Mapping[str, TensorInfo]) -> str:
    """The base architecture in words, for "is made for ..."."""
    names = list(tensors)
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in names):
        return "FLUX"
    if any("joint_blocks" in name or "context_block" in name for name in names):
        return "Stable Diffusion 3"
    if any(name.startswith(("lora_prior_", "prior.")) for name in names):
        return "Stable Cascade"
    for name, info in tensors.items():
        if ("attn2_to_k." in name or "attn2.to_k." in name) and len(info.shape) in (2, 4) and name.endswith(_DOWN):
            return context_name(info.shape[1])
    if any(name.startswith(("lora_te2_", "lora_te1_", "text_encoder_2.")) for name in names):
        return "Stable Diffusion XL"
    if any("transformer_blocks_2_" in name or "transformer_blocks.2." in name for name in names):
        return "Stable Diffusion XL"  # the others have one a place
    for name, info in tensors.items():
        if ("self_attn_q_proj." in name or "self_attn.q_proj." in name) and name.endswith(_DOWN):
            return _TOWERS.get(info.shape[-1], f"a text encoder of width {info.shape[-1]}")
    if any("down_blocks" in name or "input_blocks" in name for name in names):
        return "a UNet like Stable Diffusion's"
    return UNKNOWN


def context_name(width: int) -> str:
    """The release whose UNet takes text embeddings of this width, in words."""
    return _CONTEXTS.get(width, f"a model with text embeddings {width} wide")


def declared_base(metadata: Mapping[str, str]) -> str | None:
    """The base model that the metadata states: ModelSpec's architecture, else ss_base_model_version."""
    return metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or None
