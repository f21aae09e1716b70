"""Graphs as ComfyUI's page writes them for its API, for the model that comes with gesso."""

from typing import Any

Graph = dict[str, dict[str, Any]]

PROMPT = "a red car on a green meadow"


def text_to_image(*, width: int = 128, height: int = 128, **sampler: Any) -> Graph:
    """The graph that ComfyUI starts with."""
    graph = {
        "3": _node(
            "KSampler",
            seed=7,
            steps=6,
            cfg=3.5,
            sampler_name="dpmpp_2m",
            scheduler="sgm_uniform",
            denoise=1.0,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": _node("CheckpointLoaderSimple", ckpt_name="gesso-mini.safetensors"),
        "5": _node("EmptyLatentImage", width=width, height=height, batch_size=1),
        "6": _node("CLIPTextEncode", text=PROMPT, clip=["4", 1]),
        "7": _node("CLIPTextEncode", text="", clip=["4", 1]),
        "8": _node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": _node("SaveImage", filename_prefix="ComfyUI", images=["8", 0], _title="Save Image"),
    }
    graph["3"]["inputs"] |= sampler
    return graph


def image_to_image(name: str, *, denoise: float = 0.6) -> Graph:
    """The same from a picture."""
    graph = text_to_image(denoise=denoise)
    graph["10"] = _node("LoadImage", image=name)
    graph["11"] = _node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    graph["3"]["inputs"]["latent_image"] = ["11", 0]
    del graph["5"]
    return graph


def inpaint(name: str, *, grow: int = 6) -> Graph:
    """The transparent part of a picture is drawn anew."""
    graph = text_to_image()
    graph["10"] = _node("LoadImage", image=name)
    graph["11"] = _node("VAEEncodeForInpaint", pixels=["10", 0], vae=["4", 2], mask=["10", 1], grow_mask_by=grow)
    graph["3"]["inputs"]["latent_image"] = ["11", 0]
    del graph["5"]
    return graph


def lora(name: str = "comic.safetensors", *, model: float = 1.0, clip: float = 1.0) -> Graph:
    """With a LoRA."""
    graph = text_to_image()
    graph["12"] = _node(
        "LoraLoader", lora_name=name, strength_model=model, strength_clip=clip, model=["4", 0], clip=["4", 1]
    )
    graph["3"]["inputs"]["model"] = ["12", 0]
    for text in ("6", "7"):
        graph[text]["inputs"]["clip"] = ["12", 1]
    return graph


def controlnet(name: str, *, strength: float = 1.0, start: float = 0.0, end: float = 1.0) -> Graph:
    """Steered by the edges in a picture."""
    graph = text_to_image()
    graph["10"] = _node("LoadImage", image=name)
    graph["13"] = _node("ControlNetLoader", control_net_name="gesso-edges.safetensors")
    graph["14"] = _node(
        "ControlNetApplyAdvanced",
        strength=strength,
        start_percent=start,
        end_percent=end,
        positive=["6", 0],
        negative=["7", 0],
        control_net=["13", 0],
        image=["10", 0],
    )
    graph["3"]["inputs"] |= {"positive": ["14", 0], "negative": ["14", 1]}
    return graph


def upscale(*, by: float = 2.0, denoise: float = 0.5, seed: int = 7) -> Graph:
    """Enlarged latents, which a second sampler redraws."""
    graph = text_to_image()
    graph["15"] = _node("LatentUpscaleBy", upscale_method="bilinear", scale_by=by, samples=["3", 0])
    graph["16"] = _node(
        "KSampler", **{**graph["3"]["inputs"], "latent_image": ["15", 0], "denoise": denoise, "seed": seed}
    )
    graph["8"]["inputs"]["samples"] = ["16", 0]
    return graph


def _node(kind: str, _title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": _title or kind}}
