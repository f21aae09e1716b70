"""Settings of Easy Diffusion: a text chunk for each, or one JSON object; by their names in requests or in its form."""

from collections.abc import Mapping
from typing import Any

from gesso.metadata.picture_metadata import Draft, PictureMetadata, pairs_of, says_nothing, stem_of

# As its form shows them -> as its requests have them.
_LABELS = {
    "Prompt": "prompt",
    "Negative Prompt": "negative_prompt",
    "Seed": "seed",
    "Steps": "num_inference_steps",
    "Guidance Scale": "guidance_scale",
    "Width": "width",
    "Height": "height",
    "Sampler": "sampler_name",
    "Stable Diffusion model": "use_stable_diffusion_model",
    "VAE model": "use_vae_model",
    "LoRA model": "use_lora_model",
    "LoRA Strength": "lora_alpha",
    "Clip Skip": "clip_skip",
    "Seamless Tiling": "tiling",
    "Prompt Strength": "prompt_strength",
    "Use Face Correction": "use_face_correction",
    "Use Upscaling": "use_upscale",
    "Upscale By": "upscale_amount",
    "Hypernetwork model": "use_hypernetwork_model",
    "Hypernetwork Strength": "hypernetwork_strength",
    "ControlNet model": "use_controlnet_model",
    "Embedding models": "use_embeddings_model",
}
_NUMBERS = {
    "num_inference_steps": "num_steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "prompt_strength": "source.strength",
}
_READ = (
    *(*_NUMBERS, "prompt", "negative_prompt", "sampler_name", "scheduler_name", "clip_skip", "tiling"),
    *("use_stable_diffusion_model", "use_lora_model", "lora_alpha"),
)
# What decides files and the screen, or goes with something that is named itself.
_PROVENANCE = (
    *("original_prompt", "active_tags", "inactive_tags", "num_outputs", "output_format", "output_quality"),
    *("output_lossless", "metadata_output_format", "session_id", "show_only_filtered_image", "used_random_seed"),
    *("stream_progress_updates", "stream_image_progress", "stream_image_progress_interval", "vram_usage_level"),
    *(
        "upscale_amount",
        "hypernetwork_strength",
        "block_nsfw",
        "save_to_disk_path",
        "Software",
        "use_text_encoder_model",
    ),
)


def is_easy_diffusion(stored: Mapping[str, Any]) -> bool:
    """Whether these texts, or these fields of an object, are Easy Diffusion's."""
    return (
        "use_stable_diffusion_model" in stored or "num_inference_steps" in stored or "Stable Diffusion model" in stored
    )


def from_easy_diffusion(stored: Mapping[str, Any]) -> PictureMetadata:
    """The settings of a picture."""
    said = {_LABELS.get(key, key): value for key, value in stored.items()}
    draft = Draft(preset="diffusers", syntax="compel", emphasis="compel")
    for key in ("prompt", "negative_prompt"):
        value = said.get(key)
        draft.set(key, value if isinstance(value, str) else "", key)
    for key, path in _NUMBERS.items():
        draft.number(path, said.get(key), key)
    chosen = (said.get("sampler_name"), said.get("scheduler_name"))
    draft.sampler(*(None if says_nothing(name) else name for name in chosen))
    if not says_nothing(said.get("clip_skip")):
        draft.set("clip_skip", 2, "clip_skip")  # a switch there
    if not says_nothing(tiling := said.get("tiling")):
        draft.set("tiling", tiling if isinstance(tiling, str) else str(tiling), "tiling")
    names, weights = (_listed(said.get(key)) for key in ("use_lora_model", "lora_alpha"))
    for at, name in enumerate(names):
        draft.lora(name, weights[at] if at < len(weights) else None)
    draft.ignored(said, (*_READ, *_PROVENANCE))
    model = said.get("use_stable_diffusion_model")
    pairs = pairs_of(said)
    return draft.build("Easy Diffusion", pairs=pairs, model=stem_of(model))


def _listed(value: Any) -> list[Any]:
    """One value, a list, or a list that is written as text: "['a', 'b']", "a, b"."""
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip("[] ").split(",")]
    return value[:32] if isinstance(value, list) else ([] if value is None else [value])
