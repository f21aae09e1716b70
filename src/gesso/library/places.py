"""Where models of a kind lie in the folders of A1111 (and Forge) and ComfyUI, by the names of subfolders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Subfolder -> kind of what lies in it. Both tools tell kinds by folder alone.
A1111: Mapping[str, str] = {
    "models/Stable-diffusion": "checkpoint",
    "models/diffusers": "checkpoint",
    "models/VAE": "vae",
    "models/VAE-approx": "taesd",
    "models/Lora": "lora",
    "models/LyCORIS": "lora",
    "embeddings": "embedding",
    "models/embeddings": "embedding",
    "models/ControlNet": "controlnet",
    "extensions/sd-webui-controlnet/models": "controlnet",
    "models/ESRGAN": "upscaler",
    "models/RealESRGAN": "upscaler",
    "models/SwinIR": "upscaler",
    "models/DAT": "upscaler",
    "models/hypernetworks": "hypernetwork",
    "models/text_encoder": "text_encoder",
    "models/unet": "unet",
}
COMFYUI_TYPES: Mapping[str, str] = {
    "checkpoints": "checkpoint",
    "diffusers": "checkpoint",
    "vae": "vae",
    "vae_approx": "taesd",
    "loras": "lora",
    "embeddings": "embedding",
    "controlnet": "controlnet",
    "t2i_adapter": "t2i_adapter",
    "ipadapter": "ip_adapter",
    "upscale_models": "upscaler",
    "diffusion_models": "unet",
    "unet": "unet",
    "text_encoders": "text_encoder",
    "clip": "text_encoder",
    "clip_vision": "clip_vision",
    "hypernetworks": "hypernetwork",
}
COMFYUI: Mapping[str, str] = {f"models/{name}": kind for name, kind in COMFYUI_TYPES.items()}


@dataclass(frozen=True)
class Place:
    """A folder to look into.

    kind    of what lies there, by the folder's name; None: the files have to tell
    but_in  names in it that are not looked at
    """

    path: Path
    kind: str | None
    but_in: frozenset[str] = frozenset()
