"""Which node of a graph of ComfyUI gave the picture, and the sampling passes on the way there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from gesso.errors import GessoError
from gesso.metadata.comfyui_graph import MAX_HOPS, Graph, Node, inputs_of, is_link, kind_of, stem
from gesso.metadata.picture_metadata import real, whole

SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
_PACK_SAMPLERS = re.compile(r"sampler|UltimateSDUpscale|SUPIR_sample", re.IGNORECASE)
_NO_SAMPLERS = re.compile(
    r"select|presampling|preview|config|scheduler|settings|provider|seed|sigma|upsampl|resampl", re.IGNORECASE
)
_DRAWN_FROM = ("latent_image", "positive", "guider", "sigmas", "samples", "pipe", "basic_pipe", "sdxl_tuple")
_SAVES = re.compile(r"save|websocket|VideoCombine", re.IGNORECASE)
_SHOWS = re.compile(r"preview|compare|showimage", re.IGNORECASE)
# Inputs that carry the picture, the most direct first.
_PICTURE = (
    *("images", "image", "samples", "pixels", "latent_image", "latent", "upscaled_image", "video_latent", "video"),
    *("frames", "image_a", "images_a", "image1", "av_latent", "optional_latent", "base_image", "upscale_image"),
    *("input", "voxel", "mesh", "audio", "x", "on_true", "on_false"),
)
_NOT_THE_PICTURE = re.compile(
    r"model|clip|vae|positive|negative|cond|mask|control|noise|sigmas|guider|sampler|lora|reference|start_image"
    r"|first_frame|last_frame|seed|text|prompt|cnet|style|fps|width|height|steps"
)
_LATENTS = ("latent_image", "latent", "optional_latent", "samples", "video_latent", "latents", "latent_1")
MAX_PASSES = 16
MAX_FACTOR, MAX_SIZE = 1e4, 2**30  # beyond, numbers make no sense
_UPSCALES = re.compile(r"Upscale|ImageScale|ImageResize|LatentScale|ResizeImage|Upsampler|LatentResize", re.IGNORECASE)
_FACTOR = re.compile(r"(?<![0-9])([1-8])x|x([1-8])(?![0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """One sampler, and what stands between it and the one before.

    between    nodes between it and the sampler before, from this one on
    continues  whether it takes over from the one before in the middle of its steps
    """

    sampler: Node
    between: list[Node] = field(default_factory=list)
    continues: bool = False


@dataclass(frozen=True)
class Chosen:
    """The output node that the picture came from, and the samplers on the way, first to last.

    output  None if no output node leads to a sampler
    others  output nodes that show other pictures, which fit as well or worse
    sure    whether the file's size or name told which one it is, or there is only one
    """

    output: Node | None
    steps: tuple[Step, ...]
    others: tuple[Node, ...] = ()
    sure: bool = True


def chosen(graph: Graph, *, width: int | None = None, height: int | None = None, name: str = "") -> Chosen:
    """The picture's own output: by its size and file name where they tell, else the one with the most passes.

    width, height, name  of the picture file; None and "" if unknown
    Raises GessoError if there is no sampler.
    """
    nearest = _Nearest(graph)
    found: list[tuple[Node, tuple[Step, ...]]] = []
    known: dict[int, tuple[Step, ...]] = {}
    for node in graph.nodes.values():
        kind = kind_of(node)
        if not (_SAVES.search(kind) or _SHOWS.search(kind)) or is_sampler(node):
            continue
        sampler = nearest.of(node)
        if sampler is not None:
            if id(sampler) not in known:
                known[id(sampler)] = _steps(nearest, sampler)
            found.append((node, known[id(sampler)]))
    if not found:
        return Chosen(None, _without_output(graph, nearest))

    def fit(entry: tuple[Node, tuple[Step, ...]]) -> tuple[bool, int, bool, int]:
        node, steps = entry
        size = size_of(graph, steps) if width and height else None
        return (
            size is not None and abs(size[0] - (width or 0)) < 8 and abs(size[1] - (height or 0)) < 8,
            _named_so(graph, node, name),
            not _SHOWS.search(kind_of(node)),
            len(steps),
        )

    scores = [fit(entry) for entry in found]
    best = scores.index(max(scores))
    samplers = {id(steps[-1].sampler) for _, steps in found}
    told = [score[:2] for score in scores]
    sure = len(samplers) == 1 or (told[best] > (False, 0) and told.count(told[best]) == 1)
    others = tuple(node for node, steps in found if steps[-1].sampler is not found[best][1][-1].sampler)
    return Chosen(*found[best], others, sure)


def _without_output(graph: Graph, nearest: "_Nearest") -> tuple[Step, ...]:
    """The longest row of passes where nothing is saved or shown."""
    samplers = [node for node in graph.nodes.values() if is_sampler(node)]
    if not samplers:
        raise GessoError(
            "the graph has no sampler node that gesso knows (KSampler and its relatives)", code="no_settings"
        )
    fed = {id(before) for node in samplers if (before := nearest.before(node)) is not None}
    last = [node for node in samplers if id(node) not in fed] or samplers
    rows = [_steps(nearest, node) for node in last[:64]]
    return max(rows, key=len)


def is_sampler(node: Node) -> bool:
    """Whether a node draws: one of ComfyUI's samplers, or one of a pack."""
    kind = kind_of(node)
    if kind in SAMPLERS:
        return True
    if not _PACK_SAMPLERS.search(kind) or _NO_SAMPLERS.search(kind):
        return False
    given = inputs_of(node)
    return any(is_link(given.get(name)) for name in _DRAWN_FROM)


def _named_so(graph: Graph, node: Node, name: str) -> int:
    """How much of the file's name comes from the prefix of an output node."""
    prefix = graph.value(node, "filename_prefix")
    if not name or not isinstance(prefix, str):
        return 0
    plain = PurePath(prefix.replace("\\", "/").partition("%")[0]).name
    rest = name[len(plain) :]
    fits = bool(plain) and name.startswith(plain) and ("%" in prefix or re.match(r"_?[0-9]{5}", rest) is not None)
    return len(plain) if fits else 0


class _Nearest:
    """For each node the sampler whose picture it gets."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[int, Node | None] = {}
        self._inputs: dict[int, list[Node]] = {}
        self._steps: dict[int, tuple[Step, Node | None]] = {}

    def of(self, start: Node) -> Node | None:
        """The nearest sampler, `start` included: a walk in depth, on which each node is entered once in all."""
        waiting: list[tuple[Node, list[Node] | None]] = [(start, None)]
        while waiting:
            node, before = waiting.pop()
            if before is not None:
                found = (self._known.get(id(one)) for one in before)
                self._known[id(node)] = next((one for one in found if one is not None), None)
            elif id(node) not in self._known:
                self._known[id(node)] = node if is_sampler(node) else None
                if self._known[id(node)] is None:
                    before = self.inputs(node)
                    waiting.append((node, before))
                    waiting += [(one, None) for one in reversed(before)]
        return self._known[id(start)]

    def before(self, sampler: Node) -> Node | None:
        """The sampler whose picture this one goes on with."""
        for one in self.inputs(sampler):
            if (found := self.of(one)) is not None and found is not sampler:
                return found
        return None

    def inputs(self, node: Node) -> list[Node]:
        """Nodes that a picture may come from, the likeliest first."""
        if id(node) not in self._inputs:
            given = inputs_of(node)
            names = [name for name in _PICTURE if is_link(given.get(name))]
            known = set(names)
            names += [
                name
                for name, value in given.items()
                if is_link(value) and name not in known and not _NOT_THE_PICTURE.search(name.lower())
            ]
            found = [self.graph.origin(given[name]) for name in names[:64]]
            self._inputs[id(node)] = [one[0] for one in found if one is not None]
        return self._inputs[id(node)]

    def step(self, sampler: Node) -> tuple[Step, Node | None]:
        """A sampler as one step, and the sampler before it."""
        if id(sampler) not in self._steps:
            before, step = self.before(sampler), Step(sampler)
            if before is not None:
                step = Step(sampler, self._between(sampler, before), _continues(self.graph, sampler))
            self._steps[id(sampler)] = step, before
        return self._steps[id(sampler)]

    def _between(self, sampler: Node, before: Node) -> list[Node]:
        path: list[Node] = []
        visited = {id(sampler)}
        node = sampler
        while len(path) < MAX_HOPS:
            after = next((one for one in self.inputs(node) if self.of(one) is before), None)
            if after is None or after is before or id(after) in visited:
                break
            visited.add(id(after))
            path.append(after)
            node = after
        return path


def _steps(nearest: _Nearest, sampler: Node) -> tuple[Step, ...]:
    """The samplers up to this one, first to last."""
    steps: list[Step] = []
    visited: set[int] = set()
    node: Node | None = sampler
    while node is not None and id(node) not in visited and len(visited) < MAX_PASSES:
        visited.add(id(node))
        step, node = nearest.step(node)
        steps.append(step)
    steps.reverse()
    steps[0] = Step(steps[0].sampler)
    return tuple(steps)


def _continues(graph: Graph, sampler: Node) -> bool:
    """Whether a sampler goes on with the steps of the one before."""
    if (start := whole(graph.value(sampler, "start_at_step"))) is not None and start > 0:
        return graph.value(sampler, "add_noise") in ("disable", False, None)
    noise = graph.linked(sampler, "noise")
    adds_none = graph.value(sampler, "add_noise") is False if noise is None else kind_of(noise) == "DisableNoise"
    return adds_none and split_of(graph, sampler) is not None


def split_of(graph: Graph, sampler: Node) -> Node | None:
    """The node that cuts the sigmas of a sampler."""
    return graph.upstream(
        graph.linked(sampler, "sigmas"), ("sigmas",), lambda node: kind_of(node).startswith("SplitSigmas")
    )


def empty_of(graph: Graph, sampler: Node) -> Node | None:
    """The node that sets the size of the first pass, if it begins with an empty picture."""

    def begins(node: Node) -> bool:
        kind, given = kind_of(node), inputs_of(node)
        if kind == "EmptyImage":
            return False
        return kind.startswith(("Empty", "CR SDXL Aspect", "CR Aspect")) or (
            any(given.get(name) is not None for name in ("width", "empty_latent_width", "resolution"))
            and not _UPSCALES.search(kind)
            and not any(is_link(given.get(name)) for name in ("pixels", "samples", "image"))
        )

    return graph.upstream(graph.linked(sampler, *_LATENTS), _LATENTS, begins) or graph.upstream(
        graph.linked(sampler, "pipe", "basic_pipe", "sdxl_tuple"), ("pipe", "basic_pipe"), begins
    )


@dataclass(frozen=True)
class Enlarged:
    """How a picture was enlarged between two passes. upscaler: as ComfyUI calls it; latent: of latents."""

    nodes: tuple[Node, ...] = ()
    scale: float | None = None
    width: int | None = None
    height: int | None = None
    upscaler: str = ""
    latent: bool = False
    network: bool = False
    known: bool = True  # whether the size is


def enlarged(graph: Graph, between: Sequence[Node]) -> Enlarged:
    """What the nodes between two passes do to the size, from the last of them on."""
    scale, upscaler, latent, network, known = 1.0, "", False, False, True
    size: tuple[int | None, int | None] | None = None
    nodes: list[Node] = []
    for node in reversed(between):
        kind = kind_of(node)
        if not _UPSCALES.search(kind):
            continue
        nodes.append(node)
        loader = graph.linked(node, "upscale_model")
        if loader is not None:
            called = graph.value(loader, "model_name")
            upscaler, network = (stem(called) if isinstance(called, str) else ""), True
            nodes.append(loader)
            factor = _FACTOR.search(upscaler)
            if "Up" in kind and "By" not in kind and real(graph.value(node, "scale_by", "upscale_by")) is None:
                scale, known = (scale * int(factor[1] or factor[2]), known) if factor else (scale, False)
                size = None
        width, height = (whole(graph.value(node, side, f"resize_type.{side}", f"target_{side}")) for side in _SIDES)
        by = real(graph.value(node, "scale_by", "upscale_by", "rescale_factor", "scale", "resize_type.multiplier"))
        if width or height:
            size, scale, known = (width or None, height or None), 1.0, True
        elif by is not None:
            scale *= by
        elif loader is None:
            known = False
        method = graph.value(node, "upscale_method", "rescale_method", "scale_method", "interpolation", "resampling")
        if isinstance(method, str) and not network:
            upscaler = method
            latent = "atent" in kind and "Image" not in kind
    if not nodes:
        return Enlarged()
    if not 0 < scale < MAX_FACTOR or any(side is not None and not 0 <= side < MAX_SIZE for side in size or ()):
        return Enlarged(tuple(nodes), upscaler=upscaler, latent=latent, network=network, known=False)
    if size is not None and scale != 1:  # an enlargement behind one to a size
        across, down = (None if side is None else round(side * scale) for side in size)
        size = across, down
    return Enlarged(
        tuple(nodes),
        scale if size is None and known else None,
        *(size or (None, None)),
        upscaler=upscaler,
        latent=latent,
        network=network,
        known=known,
    )


_SIDES = ("width", "height")


def size_of(graph: Graph, steps: Sequence[Step]) -> tuple[int, int] | None:
    """Width and height of the picture after these passes, if the graph tells."""
    empty = empty_of(graph, steps[0].sampler)
    sides: list[Any] = [first_side(graph, empty, side) for side in _SIDES]
    for step in steps[1:]:
        change = enlarged(graph, step.between)
        if not change.known:
            return None
        if change.width or change.height:
            sides = [change.width or sides[0], change.height or sides[1]]
        elif change.scale is not None:
            sides = [None if side is None or side >= MAX_SIZE else int(side * change.scale) for side in sides]
    return (sides[0], sides[1]) if None not in sides else None


def encoded_size(graph: Graph, sampler: Node) -> tuple[int, int] | None:
    """Width and height of the picture that a sampler starts from, if the graph brings it to a size."""
    source = graph.linked(sampler, *_LATENTS)
    return graph.picture_size(source) if source is not None else None


def first_side(graph: Graph, empty: Node | None, side: str) -> int | None:
    """Width or height that a node sets."""
    value = whole(graph.value(empty, side, f"empty_latent_{side}"))
    if value is None and empty is not None:
        resolution = graph.value(empty, "resolution")  # "832 x 1216"
        if isinstance(resolution, str) and (match := re.match(r"\s*([0-9]{2,5})\s*[x*]\s*([0-9]{2,5})", resolution)):
            return int(match[1 if side == "width" else 2])
    return value
