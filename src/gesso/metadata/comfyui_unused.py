"""Names every node of a graph of ComfyUI that had a part in the picture and was not used, once."""

import re
from collections.abc import Iterator

from gesso.metadata.comfyui_graph import Graph, Node, inputs_of, is_link, kind_of, stem
from gesso.metadata.comfyui_models import ancestors
from gesso.metadata.comfyui_passes import Chosen
from gesso.metadata.comfyui_texts import named
from gesso.metadata.picture_metadata import Draft, real
from gesso.request.checks import short

MAX_LINE = 260
MAX_VALUES = 4

# Nodes that change nothing which a request would say: they come with the model, or only show or measure.
_NEUTRAL = re.compile(
    r"VAEDecode.*|VAEEncode|.*CLIPLoader.*|CheckpointLoader.*|(Markdown)?Note|Reroute.*|Primitive.*|GetImageSize.*"
    r"|LoadImage|PreviewAny|ImageCompare|Save.*|Preview.*|CreateVideo|EmptyImage|CLIPSetLastLayer"
    r"|MaskPreview|ImageFromBatch|BatchImagesNode|StringConcatenate|Text Multiline|Fast .*\(rgthree\)|Label.*"
    r"|Bookmark.*|ComfySwitchNode|CR Seed|Seed \(rgthree\)|easy seed|UpscaleModelLoader"
)
_CONTROL = re.compile(
    r"ControlNet.*Apply|ApplyControlNet|ControlNetApply|cnet|T2IAdapterApply|ControlLora", re.IGNORECASE
)
_ADAPTER = re.compile(r"IP.?Adapter(?!.*(Loader|Encoder))", re.IGNORECASE)
_HELPERS = ("control_net", "ipadapter", "clip_vision", "image", "preprocessor", "image_prompt", "pipe", "cnet_stack")
_GUIDES = ("strength", "weight", "start_percent", "end_percent", "start_at", "end_at", "weight_type")


def note_unused(draft: Draft, graph: Graph, picture: Chosen, *, drawable: bool) -> None:
    """One notice for each ControlNet, IP-Adapter and VAE; the other nodes together, by their kinds.

    drawable  whether the model is of a family that gesso draws; else there is no use for its VAE
    """
    start = picture.output if picture.output is not None else picture.steps[-1].sampler
    way = ancestors(graph, start)
    for node in way:
        kind = kind_of(node)
        if _is_used(graph, node):
            continue
        if _CONTROL.search(kind) or _ADAPTER.search(kind):
            _note_guide(draft, graph, node, "ControlNet" if _CONTROL.search(kind) else "IP-Adapter")
        elif kind == "VAELoader" and isinstance(name := graph.value(node, "vae_name"), str):
            graph.use(node)
            if drawable:
                draft.note(f"not taken over: the VAE {name[:120]}; give it with --vae", code="vae_separate")
    left = [node for node in way if not _is_used(graph, node) and not _NEUTRAL.fullmatch(kind_of(node))]
    for line in _lines(graph, left):
        draft.note(f"not supported, ignored: {line}")
    on_the_way = {id(node) for node in way}
    aside = [
        node
        for node in graph.nodes.values()
        if id(node) not in on_the_way and not _is_used(graph, node) and not _NEUTRAL.fullmatch(kind_of(node))
    ]
    for line in _lines(graph, aside, values=False):
        draft.note(f"not on the way to the picture, ignored: {line}", code="node_aside")


def _is_used(graph: Graph, node: Node) -> bool:
    return graph.number(node) in graph.used or not kind_of(node)


def _note_guide(draft: Draft, graph: Graph, node: Node, what: str) -> None:
    """A ControlNet or IP-Adapter: gesso has them, but needs the picture."""
    model, preprocessor = "", ""
    for name in _HELPERS:
        helper = graph.linked(node, name) if name in inputs_of(node) else None
        for _ in range(4):
            if helper is None:
                break
            graph.use(helper)
            called = [
                value for value in inputs_of(helper).values() if isinstance(value, str) and ".safetensors" in value
            ]
            called += [v for k, v in inputs_of(helper).items() if k.endswith("_name") and isinstance(v, str)]
            if called and not model and name != "clip_vision":
                model = stem(called[0])
            if name == "image" and kind_of(helper) != "LoadImage" and not preprocessor:
                preprocessor = kind_of(helper)
            helper = graph.linked(helper, "image", "control_net")
    values = [
        f"{key} {value:g}" if not isinstance(value, str) else f"{key} {value[:40]}"
        for key in _GUIDES
        if (value := graph.value(node, key)) is not None and (isinstance(value, str) or real(value) is not None)
    ]
    graph.use(node)
    by = f", preprocessor {preprocessor[:40]}" if preprocessor else ""
    about = f" ({', '.join(values)}{by})" if values or by else ""
    option = "--control" if what == "ControlNet" else "--control, as a ControlNet is"
    draft.note(
        f"{what} {model[:100] or named(graph, node)}{about} is not taken over: its picture is not in the file. "
        f"Give both with {option}",
        code="control_absent",
        field="controls",
    )


def _lines(graph: Graph, nodes: list[Node], *, values: bool = True) -> Iterator[str]:
    """The nodes by their kinds, as many in a line as fit."""
    by_kind: dict[str, list[Node]] = {}
    for node in nodes:
        by_kind.setdefault(kind_of(node), []).append(node)
    line = ""
    for same in by_kind.values():
        about = named(graph, same[0])
        if len(same) > 1:
            about = f"{about[:-1]} and {len(same) - 1} more)"
        elif values and (stored := _values(same[0])):
            about = f"{about[:-1]}: {stored})"
        if line and len(line) + len(about) > MAX_LINE:
            yield line
            line = ""
        line = f"{line}, {about}" if line else about
    if line:
        yield line


def _values(node: Node) -> str:
    shown = [
        f"{name[:30]} {_shown(value)}" if not name.startswith("value ") else _shown(value)
        for name, value in inputs_of(node).items()
        if not is_link(value) and isinstance(value, str | int | float) and 0 < len(str(value)) <= 40
    ]
    return ", ".join(shown[:MAX_VALUES])


def _shown(value: str | int | float) -> str:
    return f"{value:g}" if isinstance(value, float) else short(value) if isinstance(value, str) else str(value)
