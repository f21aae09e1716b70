"""Names every node of a graph of ComfyUI that had a part in the picture and was not used, once."""

import re
from collections.abc import Iterable, Iterator

from gesso.errors import short
from gesso.metadata.comfyui_graph import Graph, Node, inputs_of, is_link, kind_of, stem
from gesso.metadata.comfyui_models import PICTURE_LOADERS, ancestors
from gesso.metadata.comfyui_passes import Chosen
from gesso.metadata.comfyui_texts import named
from gesso.metadata.picture_metadata import Draft, real

MAX_LINE = 260
MAX_VALUES = 4
MAX_NAME = 200  # characters of an input's name that are searched
MAX_ALIKE = 3  # nodes of one kind with different values that are told apart

# Nodes that change nothing which a request would say: they come with the model, or only show or measure.
_NEUTRAL = re.compile(
    r"VAEDecode.*|VAEEncode|(Markdown)?Note|Reroute.*|Primitive.*|GetImageSize.*|PreviewAny|ImageCompare|Save.*|Preview.*|CreateVideo|EmptyImage|CLIPSetLastLayer"
    r"|MaskPreview|ImageFromBatch|BatchImagesNode|StringConcatenate|Text Multiline|Fast .*\(rgthree\)|Label.*"
    r"|Bookmark.*|ComfySwitchNode|CR Seed|Seed \(rgthree\)|easy seed"
)
_LOADERS = re.compile(r"CLIPLoader|CheckpointLoader|UpscaleModelLoader|^LoadImage")  # which alone do nothing
_CONTROL = re.compile(
    r"ControlNet.*Apply|ApplyControlNet|ControlNetApply|cnet|T2IAdapterApply|ControlLora", re.IGNORECASE
)
_ADAPTER = re.compile(r"IP.?Adapter(?!.*(Loader|Encoder))", re.IGNORECASE)
_GUIDE = re.compile(f"{_CONTROL.pattern}|{_ADAPTER.pattern}|Loader$|Encode$|Preprocessor$", re.IGNORECASE)
# Inputs that change nothing here: of the screen and the files, of how ComfyUI loads and shows.
_QUIET = re.compile(
    r"value [0-9]+|filename_prefix|control_after_generate|weight_dtype|device|upload|preview_method|vae_decode|type"
    r"|.*(lora|switch_|model_str|clip_str|model_weight|clip_weight|strength_).*|toggle|mode|input_mode|num_loras|on"
    r"|image_output|link_id|save_prefix|speak_and_recognation|output_format|extension|quality|format|codec|title"
    r"|string_[ab]|text.*|string.*|prompt.*|delimiter|clean_whitespace|positive|negative|on_(true|false)|length|fps"
    r"|noise_device|rho|s_noise|solver_type|display.*|tile_size|overlap|crop|interpolation|multiple|megapixels"
    r"|use_same_seed|iterations|return_with_leftover_noise|end_at_step|start_at_step|add_noise"
)
_NOTHING = ("", "none", "default", "disabled", "disable", "baked vae", "false", "fixed", "randomize")
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
    _note_pictures(draft, graph, way)
    left = [
        node
        for node in way
        if not _is_used(graph, node)
        and not _NEUTRAL.fullmatch(kind_of(node))
        and (drawable or "CLIPLoader" not in kind_of(node))
    ]
    for line in _lines(graph, left):
        draft.note(f"not supported, ignored: {line}")
    for line in _packed(_fields(graph, way)):
        draft.note(f"not supported, ignored: {line}")
    on_the_way = {id(node) for node in way}
    aside = [
        node
        for node in graph.nodes.values()
        if id(node) not in on_the_way
        and not _is_used(graph, node)
        and not _NEUTRAL.fullmatch(kind_of(node))
        and not _LOADERS.search(kind_of(node))
    ]
    for line in _lines(graph, aside, values=False):
        draft.note(f"ignored, no part in the picture: {line}", code="node_aside")


def _note_pictures(draft: Draft, graph: Graph, way: list[Node]) -> None:
    """The pictures that guided this one in other ways than as its source or by a ControlNet."""
    given = [node for node in way if kind_of(node) in PICTURE_LOADERS and not _is_used(graph, node)]
    graph.use(*given)
    called = [value for node in given if isinstance(value := graph.value(node, "image", "file", "audio"), str)]
    if called:
        more = f" and {len(called) - 8} more" if len(called) > 8 else ""
        draft.note(
            f"ignored, not in the file: what the graph was given, {', '.join(name[:60] for name in called[:8])}{more}",
            code="source_absent",
        )


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
    if preprocessor:
        values.append(f"preprocessor {preprocessor[:40]}")
    about = f" ({', '.join(values)})" if values else ""
    draft.note(
        f"{what} {model[:100] or named(graph, node)}{about} is not taken over: its picture is not in the file. "
        "Give model and picture with --control",
        code="control_absent",
        field="controls",
    )


def _fields(graph: Graph, way: list[Node]) -> Iterator[str]:
    """Values of nodes that were used, which were not used themselves and are not those that change nothing."""
    for node in way:
        number = graph.number(node)
        if number not in graph.used or _NEUTRAL.fullmatch(kind_of(node)) or _GUIDE.search(kind_of(node)):
            continue
        left = [
            f"{name[:40]} {_shown(value)}"
            for name, value in list(inputs_of(node).items())[:200]
            if isinstance(value, str | int | float)
            and (number, name) not in graph.read
            and not _QUIET.fullmatch(name[:MAX_NAME])
            and str(value).lower() not in _NOTHING
            and (name, value) != ("batch_size", 1)
        ]
        if left:
            yield f"{', '.join(left[:6])} of {named(graph, node)}"


def _packed(parts: Iterable[str]) -> Iterator[str]:
    """As many parts in a line as fit."""
    line = ""
    for part in parts:
        if line and len(line) + len(part) > MAX_LINE:
            yield line
            line = ""
        line = f"{line}, {part}" if line else part
    if line:
        yield line


def _lines(graph: Graph, nodes: list[Node], *, values: bool = True) -> Iterator[str]:
    """The nodes by their kinds, as many in a line as fit."""
    by_kind: dict[str, list[Node]] = {}
    for node in nodes:
        by_kind.setdefault(kind_of(node), []).append(node)
    parts = []
    for same in by_kind.values():
        by_values: dict[str, list[Node]] = {}
        for node in same:
            by_values.setdefault(_values(node) if values else "", []).append(node)
        if len(by_values) > MAX_ALIKE:
            by_values = {"": same}
        for stored, alike in by_values.items():
            about = named(graph, alike[0])[:-1] + (f" and {len(alike) - 1} more" if len(alike) > 1 else "")
            parts.append(f"{about}: {stored})" if stored else f"{about})")
    return _packed(parts)


def _values(node: Node) -> str:
    shown = [
        f"{name[:30]} {_shown(value)}" if not name.startswith("value ") else _shown(value)
        for name, value in inputs_of(node).items()
        if not is_link(value) and isinstance(value, str | int | float) and value != ""
    ]
    return ", ".join(shown[:MAX_VALUES])


def _shown(value: str | int | float) -> str:
    return f"{value:g}" if isinstance(value, float) else short(value) if isinstance(value, str) else str(value)
