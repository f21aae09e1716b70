"""Settings from a graph of ComfyUI: the sampler that leads to the picture, and what its inputs are linked to.

Links are followed by their names, a bounded number of times, and never in a circle. Nodes of plugins are passed through
where they have an input of the name that is looked for.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gesso.errors import GessoError
from gesso.metadata.comfyui_workflow import graph_of_workflow
from gesso.metadata.picture_metadata import Draft, PictureMetadata, real, whole
from gesso.notices import Notice
from gesso.request.hires import upscaler_name
from gesso.request.parts import HiresPass, LoraUse

MAX_CHARS = 8 * 2**20
MAX_NODES = 5000
MAX_HOPS = 200  # links from one node to another that one question follows

_SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
_ENDS = ("SaveImage", "PreviewImage", "SaveImageWebsocket", "SaveAnimatedWEBP")
_THROUGH_PICTURE = ("images", "image", "samples", "pixels", "latent_image", "latent", "upscale_model_output")
_THROUGH_TEXT = ("conditioning", "positive", "conditioning_1", "conditioning_to", "cond", "text_encode")
_VALUES = ("value", "text", "string", "int", "float", "number", "seed", "noise_seed")
_FROM_WORKFLOW = Notice(
    "read from ComfyUI's workflow (the graph as the UI shows it), which does not name the inputs of custom nodes",
    code="workflow_only",
)

Node = Mapping[str, Any]


def from_graph(text: str) -> PictureMetadata:
    """The settings of a graph in the form of the API (the text chunk "prompt").

    Raises GessoError for what is no such graph, or one without a sampler.
    """
    return _settings(_Graph(_parsed(text)))


def from_workflow(text: str) -> PictureMetadata:
    """The same from a workflow (the text chunk "workflow"), as far as possible. Raises GessoError as `from_graph`."""
    workflow = _parsed(text)
    try:
        metadata = _settings(_Graph(graph_of_workflow(workflow)))
    except GessoError as error:
        inside = "; its subgraphs are not read" if "definitions" in workflow else ""
        raise GessoError(f"{error.message}{inside}", code=error.code, field=error.field, data=error.data) from error
    return replace(metadata, notices=(_FROM_WORKFLOW, *metadata.notices))


def _settings(graph: "_Graph") -> PictureMetadata:
    sampler = graph.last_sampler()
    draft = Draft(preset="gesso", syntax="comfyui", emphasis="comfyui", noise="cpu", initial_noise="comfyui")
    first, second = graph.passes(sampler)
    _sampling(draft, graph, first)
    _texts(draft, graph, first)
    _size(draft, graph, first)
    model = _model(draft, graph, first)
    if second is not None:
        _second_pass(draft, graph, first, second)
    pairs = {key: str(value)[:200] for key, value in _inputs(first).items() if not isinstance(value, list | dict)}
    return draft.build("ComfyUI", pairs=pairs, model=model)


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_CHARS:
        raise GessoError(f"a graph of {len(text)} characters, expected at most {MAX_CHARS}", code="too_large")
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GessoError(
            f"the graph is not valid JSON ({str(error)[:100] or 'nested too deeply'})", code="damaged"
        ) from error
    if not isinstance(graph, dict):
        raise GessoError("the graph is not a JSON object of nodes", code="damaged")
    return graph


class _Graph:
    """Nodes by their numbers."""

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        if len(nodes) > MAX_NODES:
            raise GessoError(f"the graph has {len(nodes)} nodes, expected at most {MAX_NODES}", code="too_large")
        self.nodes: dict[str, Node] = {str(key): node for key, node in nodes.items() if isinstance(node, dict)}

    def linked(self, node: Node, name: str) -> Node | None:
        """The node that an input is linked to."""
        link = _inputs(node).get(name)
        return self.nodes.get(str(link[0])) if isinstance(link, list) and len(link) == 2 else None

    def upstream(self, node: Node | None, names: tuple[str, ...], kinds: tuple[str, ...]) -> Node | None:
        """The first node of one of these kinds, this one included, along inputs of these names."""
        visited: set[int] = set()
        while node is not None and id(node) not in visited and len(visited) < MAX_HOPS:
            if _kind(node).startswith(kinds):
                return node
            visited.add(id(node))
            node = next((other for name in names if (other := self.linked(node, name)) is not None), None)
        return None

    def value(self, node: Node | None, *names: str) -> Any:
        """The value of an input, also where it comes from a node that only holds it."""
        for _ in range(MAX_HOPS):
            value = next((_inputs(node)[name] for name in names if node is not None and name in _inputs(node)), None)
            if not isinstance(value, list):
                return value
            node = self.nodes.get(str(value[0])) if len(value) == 2 else None
            names = (*names, *_VALUES)
        return None

    def last_sampler(self) -> Node:
        """The sampler whose picture is kept."""
        for node in self.nodes.values():
            if _kind(node) in _ENDS and (samplers := self.upstream(node, _THROUGH_PICTURE, _SAMPLERS)) is not None:
                return samplers
        samplers = next((node for node in self.nodes.values() if _kind(node) in _SAMPLERS), None)
        if samplers is None:
            raise GessoError(
                "the graph has no sampler node that gesso knows (KSampler and its relatives)", code="no_settings"
            )
        return samplers

    def passes(self, sampler: Node) -> tuple[Node, Node | None]:
        """The first sampler, and the one that draws its enlarged picture again, if any."""
        before = self.linked(sampler, "latent_image") or self.linked(sampler, "samples")
        earlier = self.upstream(before, _THROUGH_PICTURE, _SAMPLERS)
        return (sampler, None) if earlier is None or earlier is sampler else (earlier, sampler)


def _sampling(draft: Draft, graph: _Graph, sampler: Node) -> None:
    guider, steps = graph.linked(sampler, "guider"), graph.linked(sampler, "sigmas")
    noise, chosen = graph.linked(sampler, "noise"), graph.linked(sampler, "sampler")
    draft.set("seed", whole(graph.value(noise or sampler, "noise_seed", "seed")), "seed")
    draft.set("num_steps", whole(graph.value(steps or sampler, "steps")), "steps")
    draft.set("guidance_scale", real(graph.value(guider or sampler, "cfg")), "cfg")
    name, schedule = graph.value(chosen or sampler, "sampler_name"), graph.value(steps or sampler, "scheduler")
    draft.sampler(*(value if isinstance(value, str) else None for value in (name, schedule)))
    denoise = real(graph.value(steps or sampler, "denoise"))
    if denoise is not None and denoise < 1:
        draft.set("source.strength", denoise, "denoise")


def _texts(draft: Draft, graph: _Graph, sampler: Node) -> None:
    source = graph.linked(sampler, "guider") or sampler
    for name, field in (("positive", "prompt"), ("negative", "negative_prompt")):
        node = graph.linked(source, name)
        if node is None and field == "prompt":
            node = graph.linked(source, "conditioning")
        text = graph.upstream(
            node, _THROUGH_TEXT if field == "prompt" else ("negative", *_THROUGH_TEXT), ("CLIPTextEncode",)
        )
        encoded = graph.value(text, "text", "text_g", "text_l")
        if isinstance(encoded, str):
            draft.set(field, encoded, name)
        elif node is not None and _kind(node) != "ConditioningZeroOut":
            draft.note(
                f"ignored: the {name} prompt, which comes from the node {_kind(node)[:60]}", code="prompt_ignored"
            )
        clip = graph.upstream(graph.linked(text, "clip") if text else None, ("clip",), ("CLIPSetLastLayer",))
        skip = whole(graph.value(clip, "stop_at_clip_layer"))
        if skip is not None and skip < 0:
            draft.set("clip_skip", -skip, "stop_at_clip_layer")


def _size(draft: Draft, graph: _Graph, sampler: Node) -> None:
    start = graph.linked(sampler, "latent_image")
    empty = graph.upstream(start, _THROUGH_PICTURE, ("EmptyLatentImage", "EmptySD3LatentImage"))
    if empty is None and start is not None:
        draft.note("image to image: the source picture is not in the file", code="source_absent")
    for side in ("width", "height"):
        draft.set(side, whole(graph.value(empty, side)), side)


def _model(draft: Draft, graph: _Graph, sampler: Node) -> str:
    """Name of the model; LoRA on the way there."""
    node = graph.linked(graph.linked(sampler, "guider") or sampler, "model")
    loras: list[LoraUse] = []
    visited: set[int] = set()
    while node is not None and id(node) not in visited and len(visited) < MAX_HOPS:
        visited.add(id(node))
        inputs = _inputs(node)
        for key in ("ckpt_name", "unet_name"):
            if isinstance(name := inputs.get(key), str):
                draft.values["loras"] = tuple(reversed(loras))[:32]
                return name
        if isinstance(name := inputs.get("lora_name"), str):
            use = draft.part(
                LoraUse,
                "lora",
                name=_stem(name),
                weight=real(graph.value(node, "strength_model")),
                text_weight=real(graph.value(node, "strength_clip")),
            )
            loras += [use] if use is not None else []
        node = graph.linked(node, "model")
    draft.values["loras"] = tuple(reversed(loras))[:32]
    return ""


def _second_pass(draft: Draft, graph: _Graph, first: Node, second: Node) -> None:
    own = Draft()
    _sampling(own, graph, second)
    draft.note_all(own.notices)
    node = graph.linked(second, "latent_image")
    scaled = graph.upstream(node, _THROUGH_PICTURE, ("LatentUpscale", "ImageScale", "ImageUpscaleWithModel"))
    width, height = (whole(graph.value(scaled, side)) for side in ("width", "height"))
    method = graph.value(scaled, "upscale_method")
    latent = scaled is not None and _kind(scaled).startswith("Latent")
    names = [method] if isinstance(method, str) else []
    upscaler = upscaler_name(" ".join((["latent"] if latent else []) + names)) or None
    own.values.setdefault("source.strength", 1.0)
    draft.values["hires"] = draft.part(
        HiresPass,
        "second pass",
        scale=real(graph.value(scaled, "scale_by")),
        width=width,
        height=height,
        upscaler=upscaler,
        strength=own.values["source.strength"],
        **{key: own.values.get(key) for key in ("num_steps", "sampler", "schedule", "guidance_scale")},
    )


def _inputs(node: Node | None) -> Mapping[str, Any]:
    inputs = node.get("inputs") if node is not None else None
    return inputs if isinstance(inputs, dict) else {}


def _kind(node: Node) -> str:
    return str(node.get("class_type", ""))


def _stem(name: str) -> str:
    """The last part of a path, without its ending."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if "." in last else last
