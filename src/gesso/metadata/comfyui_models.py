"""Model, LoRA and family of models of a graph of ComfyUI."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gesso.metadata.comfyui_graph import MAX_HOPS, Graph, Node, inputs_of, is_link, kind_of, stem
from gesso.metadata.picture_metadata import Draft, real, whole
from gesso.request.parts import LoraUse

MAX_ROWS = 64  # LoRA in one node
_NAMES = (
    *("ckpt_name", "unet_name", "base_ckpt_name", "gguf_name", "checkpoint_name", "model_name", "model_path"),
    *("Checkpoint", "checkpoint", "model"),
)
_BEFORE = ("model", "model1", "base_model", "unet", "MODEL", "model_a", "model_in")
_STACKS = ("lora_stack", "optional_lora_stack", "LORA_STACK")
_ROW = re.compile(r"lora(?:_name)?_?([0-9]{1,2})(?:_name)?")
_TAG = re.compile(r"<lora:([^:<>]{1,200}):(-?[0-9.]{1,8})(?::(-?[0-9.]{1,8}))?>")

# Words in the names of files and text encoders, and in the kinds of nodes, of the families that gesso does not draw.
_WORDS = (
    (r"^pid|pixeldit", "PiD (pixel decoder)"),
    (r"flux[-_ .]?2|klein", "FLUX.2"),
    (r"flux[-_ .]?3", "FLUX.3"),
    (r"flux", "FLUX.1"),
    (r"chroma([-_ ]?radiance)?", "Chroma"),
    (r"sd[-_ ]?3|stable[-_ ]diffusion[-_ ]3", "Stable Diffusion 3"),
    (r"qwen[-_ ]?image", "Qwen-Image"),
    (r"z[-_]?image", "Z-Image"),
    (r"lumina2?|neta[-_ ]?(yume|lumina)(v)?", "Lumina"),
    (r"hunyuan[-_]?3d", "Hunyuan3D"),
    (r"hunyuan[-_]?image", "HunyuanImage"),
    (r"hunyuan([-_]?video)?|capybara", "HunyuanVideo"),
    (r"wan([-_ ]?video|animate)?|infinitetalk|humo|causvid|scail|self[-_]forcing", "Wan"),
    (r"ltx(v|av)?", "LTX-Video"),
    (r"hidream", "HiDream"),
    (r"omnigen", "OmniGen"),
    (r"ace|ace[-_]?step", "ACE-Step (audio)"),
    (r"stable[-_]audio", "Stable Audio"),
    (r"yue", "YuE (audio)"),
    (r"stable[-_]cascade", "Stable Cascade"),
    (r"svd|stable[-_]video|img2vid", "Stable Video Diffusion"),
    (r"pixart", "PixArt"),
    (r"kandinsky", "Kandinsky"),
    (r"cosmos|anima", "Cosmos"),
    (r"mochi", "Mochi"),
    (r"aura[-_]?flow", "AuraFlow"),
    (r"kolors", "Kolors"),
    (r"trellis|triposplat|pixal3d", "a 3D model"),
    (r"minimax", "MiniMax"),
    (r"seedvr", "SeedVR (video upscaling)"),
)
_FAMILIES = tuple((re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE), family) for words, family in _WORDS)
_KINDS = tuple(
    (re.compile(words), family)
    for words, family in (
        (r"Hunyuan3D", "Hunyuan3D"),
        (r"Flux2", "FLUX.2"),
        (r"Flux(?!Kontext)", "FLUX.1"),
        (r"Hunyuan", "HunyuanVideo"),
        (r"^Wan|WanVideo", "Wan"),
        (r"LTXV|LTXAV", "LTX-Video"),
        (r"AceStep", "ACE-Step (audio)"),
        (r"Trellis2|TripoSplat|Pixal3D", "a 3D model"),
        (r"SeedVR2", "SeedVR (video upscaling)"),
        (r"SVD_img2vid|^ImageOnlyCheckpointLoader", "Stable Video Diffusion"),
        (r"StableCascade", "Stable Cascade"),
        (r"^(EmptySD3LatentImage|ModelSamplingSD3|ModelSamplingAuraFlow)", "a model newer than Stable Diffusion XL"),
    )
)
PICTURE_LOADERS = ("LoadImage", "LoadImageMask", "LoadImageOutput", "LoadVideo", "LoadAudio", "VHS_LoadVideo")
_OURS = ("stable_diffusion", "sdxl")


@dataclass
class Loaded:
    """What a sampler draws with."""

    name: str = ""
    loras: list[LoraUse] = field(default_factory=list)
    guidance_rescale: float | None = None


def loaded_by(graph: Graph, draft: Draft, sampler: Node) -> Loaded:
    """The model of a sampler, and the LoRA on the way there, the one next to the model first."""
    node = graph.linked(graph.linked(sampler, "guider") or sampler, *_BEFORE) or graph.pipe(sampler)
    loaded = Loaded()
    visited: set[int] = set()
    stacks: set[int] = set()
    while node is not None and id(node) not in visited and len(visited) < MAX_HOPS:
        visited.add(id(node))
        loaded.loras += reversed(list(loras_of(graph, draft, node, stacks)))
        if kind_of(node) == "RescaleCFG":
            graph.use(node)
            loaded.guidance_rescale = real(graph.value(node, "multiplier"))
        if name := name_of(graph, node):
            graph.use(node)
            loaded.name = name
            break
        node = graph.linked(node, *_BEFORE) or graph.pipe(node)
    loaded.loras.reverse()
    return loaded


def name_of(graph: Graph, node: Node) -> str:
    """The model's file that a node loads."""
    given = inputs_of(node)
    for key in _NAMES:
        if key in given and not (key == "model" and is_link(given[key])):
            value = graph.value(node, key)
            if isinstance(value, str) and value:
                return value
    return ""


def loras_of(graph: Graph, draft: Draft, node: Node, stacks: set[int]) -> Iterator[LoraUse]:
    """The LoRA that a node puts on a model: its stack before its own. stacks: those that were read."""
    stack = _stack(graph, node)
    chain: list[Node] = []
    while stack is not None and id(stack) not in stacks and len(chain) < MAX_HOPS:
        stacks.add(id(stack))
        chain.append(stack)
        stack = _stack(graph, stack)
    for one in (*reversed(chain), node):
        for called, weight, text_weight in _rows(graph, one):
            graph.use(one)
            if called.lower() in ("none", "") or weight == 0 == (text_weight or 0.0):
                continue
            use = draft.part(LoraUse, "lora", name=stem(called), weight=weight, text_weight=text_weight)
            if use is not None:
                yield use


def _stack(graph: Graph, node: Node) -> Node | None:
    given = inputs_of(node)
    origins = (graph.origin(given[name]) for name in _STACKS if name in given)
    return next((found[0] for found in origins if found is not None), None)


def _rows(graph: Graph, node: Node) -> Iterator[tuple[str, float | None, float | None]]:
    """Name, strength in the network and in the text encoder of each LoRA of a node that is not switched off."""
    given = inputs_of(node)
    listed = graph.value(node, "loras") if "loras" in given else None
    if isinstance(listed, list):
        yield from (row for entry in listed[:MAX_ROWS] if (row := _row(entry)) is not None)
        return
    if isinstance(text := given.get("text"), str) and "ora" in kind_of(node):
        for tag in list(_TAG.finditer(text[:100_000]))[:MAX_ROWS]:
            yield tag[1], real(tag[2]), real(tag[3])
    numbered = [(key, match) for key in given if (match := _ROW.fullmatch(key)) is not None]
    if "lora_name" in given:
        name = graph.value(node, "lora_name")
        if isinstance(name, str):
            yield (
                name,
                real(graph.value(node, "strength_model", "lora_model_strength", "strength", "model_weight", "weight")),
                real(graph.value(node, "strength_clip", "lora_clip_strength", "clip_weight")),
            )
    for _, value in list(given.items())[: 2 * MAX_ROWS]:
        if isinstance(value, dict) and (row := _row(value)) is not None:
            yield row
    if given.get("toggle") is False:
        return
    most = whole(graph.value(node, "lora_count", "num_loras")) if numbered else None
    for key, match in numbered[:MAX_ROWS]:
        name = graph.value(node, key)
        if isinstance(name, str) and not (most is not None and int(match[1]) > most):
            yield from _numbered(graph, node, name, match[1])


def _numbered(graph: Graph, node: Node, name: str, number: str) -> Iterator[tuple[str, float | None, float | None]]:
    """One row of a stack whose inputs have numbers."""
    given = inputs_of(node)
    if str(given.get(f"switch_{number}", "On")).lower() in ("off", "false"):
        return
    simple = str(given.get("input_mode", given.get("mode", ""))).lower() == "simple"
    alike = (f"lora_wt_{number}", f"lora_{number}_strength", f"strength_{number}", f"lora_strength_{number}")
    network = (
        *(f"model_weight_{number}", f"model_str_{number}", f"lora_{number}_model_strength"),
        f"model_strength_{number}",
    )
    texts = (
        *(f"clip_weight_{number}", f"clip_str_{number}", f"lora_{number}_clip_strength"),
        f"clip_strength_{number}",
    )
    weight = real(graph.value(node, *(alike + network if simple else network + alike)))
    yield name, weight, None if simple else real(graph.value(node, *texts))


def _row(entry: Any) -> tuple[str, float | None, float | None] | None:
    """A LoRA that is kept as an object; None if it is switched off, or none."""
    if not isinstance(entry, dict) or entry.get("on") is False or entry.get("active") is False:
        return None
    name = entry.get("lora", entry.get("name"))
    if not isinstance(name, str):
        return None
    both = [entry.get(key) for key in ("strengthTwo", "clipStrength")]
    return name, real(entry.get("strength")), next((real(value) for value in both if value is not None), None)


def family_of(graph: Graph, sampler: Node, model: str) -> str:
    """The family of models, if it is one that gesso does not draw."""
    if family := _family(stem(model)):
        return family
    nodes = ancestors(graph, sampler)
    for node in nodes:
        said = inputs_of(node).get("type") if "CLIPLoader" in kind_of(node) else None
        if isinstance(said, str) and said not in _OURS:
            return _family(said) or said[:40]
    return next(
        (family for node in nodes for pattern, family in _KINDS if pattern.search(kind_of(node))),
        "",
    )


def _family(name: str) -> str:
    return next((family for pattern, family in _FAMILIES if pattern.search(name)), "")


def ancestors(graph: Graph, start: Node) -> list[Node]:
    """All nodes that a node depends on, itself first; each once, in one walk. Of a switch only the side that is on."""
    waiting, found = [start], {id(start): start}
    while waiting:
        for value in inputs_of(waiting.pop()).values():
            origin = graph.origin(value) if is_link(value) else None
            if origin is not None and id(origin[0]) not in found:
                found[id(origin[0])] = origin[0]
                waiting.append(origin[0])
    return list(found.values())
