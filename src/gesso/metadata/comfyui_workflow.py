"""ComfyUI's workflow (the graph as the UI saves it, text chunk "workflow"), converted to ComfyUI's API format.

A workflow holds the values of a node only in their order on the screen; the names of ComfyUI's own nodes are listed
here. As when ComfyUI runs the graph, bypassed nodes and reroutes pass their input on, and muted nodes give nothing.
"""

from collections.abc import Mapping
from typing import Any

from gesso.errors import GessoError

MAX_HOPS = 200  # nodes on the way of one link that only pass it on
MAX_SLOTS = 64  # inputs of such a node that are looked at
_OFF, _BYPASSED = 2, 4  # a node's mode
_AFTER_A_SEED = ("fixed", "increment", "decrement", "randomize")  # control after generate, stored among the values

# Names of the values by the kind of node, in their order on the screen.
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler"),
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        "width",
        "height",
        "crop_w",
        "crop_h",
        "target_width",
        "target_height",
        "text_g",
        "text_l",
    ),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "LatentUpscale": ("upscale_method", "width", "height"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "ImageScale": ("upscale_method", "width", "height"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}

Node = Mapping[str, Any]
Link = tuple[str, int, str]  # the node that it comes from, which of its outputs, what goes along


def graph_of_workflow(workflow: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes by their numbers, each with class_type and inputs. Raises GessoError if it is not a workflow."""
    nodes = workflow.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise GessoError("the workflow has no list of nodes", code="damaged")
    by_number = {str(node.get("id")): node for node in nodes}
    ways = _Ways(by_number, _links(workflow.get("links")))
    return {
        number: {"class_type": str(node.get("type", "")), "inputs": _values(node) | ways.into(node)}
        for number, node in by_number.items()
        if node.get("mode") not in (_OFF, _BYPASSED)
    }


def _values(node: Node) -> dict[str, Any]:
    """The values stored in a node, by name."""
    values, names = node.get("widgets_values"), WIDGETS.get(str(node.get("type")), ())
    if isinstance(values, dict):
        values = [values.get(name) for name in names]
    left = list(values) if isinstance(values, list) else []
    by_name: dict[str, Any] = {}
    for name in names:
        if not left:
            break
        value = left.pop(0)
        if isinstance(value, str | int | float):
            by_name[name] = value
        if name in ("seed", "noise_seed") and left and left[0] in _AFTER_A_SEED:
            left.pop(0)
    return by_name


class _Ways:
    """Traces links back past bypassed nodes and reroutes."""

    def __init__(self, nodes: Mapping[str, Node], links: Mapping[str, Link]) -> None:
        self.nodes, self.links = nodes, links
        self._known: dict[str, Link | None] = {}

    def into(self, node: Node) -> dict[str, list[str | int]]:
        """The linked inputs of a node, as the API has them. A link comes before the value that it stands for."""
        inputs: dict[str, list[str | int]] = {}
        for slot in _slots(node):
            link = self._origin(str(slot.get("link")))
            if link is not None:
                inputs[str(slot.get("name"))] = [link[0], link[1]]
        return inputs

    def _origin(self, number: str) -> Link | None:
        """The link that this one passes on; None if it has no origin or goes in a circle."""
        way: list[str] = []
        origin: Link | None = None
        while number not in self._known and number in self.links and len(way) < MAX_HOPS:
            self._known[number] = None  # so that a circle ends
            way.append(number)
            link = self.links[number]
            node = self.nodes.get(link[0], {"mode": _OFF})
            if node.get("mode") != _OFF and not _passes_on(node):
                origin = link
                break
            number = _before(node, link[2]) if node.get("mode") != _OFF else ""
        origin = origin or self._known.get(number)
        self._known.update(dict.fromkeys(way, origin))
        return origin


def _passes_on(node: Node) -> bool:
    return node.get("type") == "Reroute" or node.get("mode") == _BYPASSED


def _before(node: Node, kind: str) -> str:
    """The number of the link into a node that passes it on: of a reroute the only one, else one of that kind."""
    for slot in _slots(node, MAX_SLOTS):
        if slot.get("link") is not None and (node.get("type") == "Reroute" or slot.get("type") == kind):
            return str(slot["link"])
    return ""


def _slots(node: Node, most: int | None = None) -> list[Node]:
    slots = node.get("inputs")
    return [slot for slot in slots[:most] if isinstance(slot, dict)] if isinstance(slots, list) else []


def _links(links: Any) -> dict[str, Link]:
    """Links by their numbers: rows of number, node and output, node and input, kind; in newer workflows objects."""
    by_number: dict[str, Link] = {}
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict):
            link = [link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
        if isinstance(link, list) and len(link) >= 6 and isinstance(link[2], int):
            by_number[str(link[0])] = (str(link[1]), link[2], str(link[5]))
    return by_number
