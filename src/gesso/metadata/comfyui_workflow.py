"""ComfyUI's workflow (the graph as the UI saves it, text chunk "workflow"), converted to ComfyUI's API format.

A workflow holds the values of a node only in their order on the screen; the names of ComfyUI's own nodes and of the
most used packs are listed in `comfyui_widgets`. As when ComfyUI runs the graph, subgraphs are unfolded (their nodes are
numbered "instance:node"), bypassed nodes, reroutes and set and get nodes pass their input on, and muted nodes give
nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gesso.errors import GessoError
from gesso.metadata.comfyui_widgets import widgets_of

MAX_NODES = 5000  # of all subgraphs, unfolded
MAX_PARTS = 400_000  # their inputs and values
MAX_DEPTH = 16  # subgraphs inside one another
MAX_HOPS = 200  # nodes on the way of one link that only pass it on
MAX_SLOTS = 64  # inputs of such a node that are looked at
_OFF, _BYPASSED = 2, 4  # a node's mode
_AFTER_A_SEED = ("fixed", "increment", "decrement", "randomize")  # control after generate, stored among the values
_WIDGET_TYPES = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
_DOTS = ("Reroute", "Reroute (rgthree)", "SetNode", "ReroutePrimitive|pysssss")

# Nodes that show a text and write it into the workflow when they run. It goes through them to where it is used.
SHOWING = ("ShowText|pysssss", "easy showAnything")

Node = Mapping[str, Any]
Link = tuple[str, int, str]  # the node that it comes from, which of its outputs, what goes along


@dataclass(frozen=True)
class _Plan:
    """A workflow or the definition of a subgraph, read once however often it is used."""

    nodes: Mapping[str, Node]
    links: Mapping[str, Link]
    inputs: tuple[Node, ...] = ()
    outputs: Mapping[int, str] = field(default_factory=dict)  # output slot -> number of the link into it
    entry: str = "-10"
    named: Mapping[str, Node] = field(default_factory=dict)  # set nodes by their names
    parts: int = 0  # inputs and values of all nodes


@dataclass(frozen=True)
class _Place:
    """A plan where it is used: in front of the numbers of its nodes, and the instance that stands for it."""

    plan: _Plan
    prefix: str = ""
    outer: "_Place | None" = None
    instance: Node = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)  # input of the instance -> number of its link
    inner: dict[str, "_Place"] = field(default_factory=dict)


def graph_of_workflow(workflow: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes by their numbers, each with class_type and inputs. Raises GessoError if it is not a workflow."""
    nodes = workflow.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise GessoError("the workflow has no list of nodes", code="damaged")
    plans = _definitions(workflow)
    places = list(_unfolded(_plan(workflow), plans))
    ways = _Ways(plans)
    return {
        place.prefix + number: {
            "class_type": str(node.get("type", "")),
            "inputs": values_of(node) | ways.into(place, node),
        }
        for place in places
        for number, node in place.plan.nodes.items()
        if node.get("mode") not in (_OFF, _BYPASSED) and node.get("type") not in plans
    }


def texts_shown(workflow: Mapping[str, Any]) -> dict[str, str]:
    """Number -> text of the nodes that show one: of the run that made the picture, since they write it when they run.

    Nodes inside a subgraph are left out, and those that show several texts, one for each picture of a batch.
    """
    nodes = workflow.get("nodes")
    shown: dict[str, str] = {}
    for node in nodes if isinstance(nodes, list) else []:
        if isinstance(node, dict) and node.get("type") in SHOWING:
            texts = node.get("widgets_values")
            for _ in range(2):  # a list of texts, or a list of such a list
                texts = texts[0] if isinstance(texts, list) and len(texts) == 1 else texts
            if isinstance(texts, str):
                shown[str(node.get("id"))] = texts
    return shown


def _definitions(workflow: Mapping[str, Any]) -> dict[str, _Plan]:
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return {
        str(one.get("id")): _plan(one)
        for one in (subgraphs if isinstance(subgraphs, list) else [])
        if isinstance(one, dict)
    }


def _plan(drawn: Mapping[str, Any]) -> _Plan:
    listed = drawn.get("nodes")
    nodes = {str(node.get("id")): node for node in (listed if isinstance(listed, list) else []) if type(node) is dict}
    rows = _links(drawn.get("links"))
    exits, entries = drawn.get("outputNode"), drawn.get("inputNode")
    way_out = str(exits.get("id", -20)) if isinstance(exits, dict) else "-20"
    return _Plan(
        nodes=nodes,
        links={number: link for number, (link, _, _) in rows.items()},
        inputs=tuple(_slots(drawn)),
        outputs={slot: number for number, (_, target, slot) in rows.items() if target == way_out},
        entry=str(entries.get("id", -10)) if isinstance(entries, dict) else "-10",
        named={name: node for node in nodes.values() if node.get("type") == "SetNode" and (name := _first(node))},
        parts=sum(_length(node.get("inputs")) + _length(node.get("widgets_values")) for node in nodes.values()),
    )


def _unfolded(plan: _Plan, plans: Mapping[str, _Plan]) -> Iterator[_Place]:
    """The places of all plans, each before those inside it. A subgraph that is off or bypassed is not unfolded."""
    waiting, count, parts = [(_Place(plan), 0)], 0, 0
    while waiting:
        place, depth = waiting.pop()
        count, parts = count + len(place.plan.nodes), parts + place.plan.parts
        if count > MAX_NODES or parts > MAX_PARTS:
            raise GessoError(
                f"the graph has {count} nodes with {parts} inputs and values or more, expected at most {MAX_NODES} "
                f"with {MAX_PARTS}",
                code="too_large",
            )
        yield place
        for number, node in place.plan.nodes.items():
            kind = node.get("type")
            if depth < MAX_DEPTH and isinstance(kind, str) and kind in plans:
                if node.get("mode") in (_OFF, _BYPASSED):
                    continue
                given = {str(slot.get("name")): str(slot["link"]) for slot in _slots(node) if _is_linked(slot)}
                inner = _Place(plans[kind], f"{place.prefix}{number}:", place, node, given)
                place.inner[number] = inner
                waiting.append((inner, depth + 1))


def values_of(node: Node) -> dict[str, Any]:
    """The values stored in a node, by name; those whose names are unknown as "value 1", "value 2", ..."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return {str(name): value for name, value in values.items() if isinstance(value, str | int | float | dict)}
    left = list(values) if isinstance(values, list) else []
    names = widgets_of(str(node.get("type")), left)
    if names is None:
        drawn = _widgets(node)
        plain = [value for value in left if not (isinstance(value, str) and value in _AFTER_A_SEED)]
        if len(drawn) == len(plain):
            return dict(zip(drawn, plain, strict=True))
        objects = [value for value in left if isinstance(value, dict)]
        if objects:  # such as rows of LoRA with their switches
            return {f"value {number}": value for number, value in enumerate(objects, 1)}
        return {
            f"value {number}": value for number, value in enumerate(left, 1) if isinstance(value, str | int | float)
        }
    by_name: dict[str, Any] = {}
    for name in names:
        if not left:
            break
        value = left.pop(0)
        if isinstance(value, str | int | float | dict):
            by_name[name] = value
        if name in ("seed", "noise_seed") and left and left[0] in _AFTER_A_SEED:
            left.pop(0)
    return by_name


def _widgets(node: Node) -> list[str]:
    """Names of the inputs that are values too, in newer workflows all of them."""
    return [str(slot.get("name")) for slot in _slots(node) if isinstance(slot.get("widget"), dict)]


class _Ways:
    """Traces links back past bypassed nodes and reroutes, in and out of subgraphs."""

    def __init__(self, plans: Mapping[str, _Plan]) -> None:
        self.plans = plans
        self._known: dict[tuple[int, str], Any] = {}
        self._set: dict[int, dict[str, Any]] = {}  # values of the instances of subgraphs

    def into(self, place: _Place, node: Node) -> dict[str, Any]:
        """The linked inputs of a node, as the API has them. A link comes before the value that it stands for."""
        inputs: dict[str, Any] = {}
        for slot in _slots(node):
            if slot.get("link") is not None:
                origin = self._origin(place, str(slot["link"]))
                if origin is not None:
                    inputs[str(slot.get("name"))] = origin
        return inputs

    def _origin(self, place: _Place, number: str) -> Any:
        """What comes along a link: a node and its output, or the value of a subgraph's instance; None for nothing."""
        way: list[tuple[int, str]] = []
        origin: Any = None
        step: tuple[_Place, str] | None = (place, number)
        while step is not None and len(way) < MAX_HOPS:
            place, number = step
            key = (id(place), number)
            if key in self._known:
                origin = self._known[key]
                break
            self._known[key] = None  # so that a circle ends
            way.append(key)
            link = place.plan.links.get(number)
            if link is None:
                break
            step = self._before(place, link)
            if step is None:
                origin = self._end(place, link)
        self._known.update(dict.fromkeys(way, origin))
        return origin

    def _before(self, place: _Place, link: Link) -> tuple[_Place, str] | None:
        """Where the link before this one is, if a node between them only passes it on."""
        number, slot, kind = link
        if number == place.plan.entry and place.outer is not None:
            names = place.plan.inputs
            given = place.given.get(str(names[slot].get("name"))) if 0 <= slot < len(names) else None
            return (place.outer, given) if given is not None else None
        node = place.plan.nodes.get(number)
        if node is None or node.get("mode") == _OFF:
            return None
        if (inner := place.inner.get(number)) is not None:
            way_out = inner.plan.outputs.get(slot)
            return (inner, way_out) if way_out is not None else None
        if node.get("type") == "GetNode":
            return self._set_node(place, _first(node))
        if node.get("type") in _DOTS or node.get("mode") == _BYPASSED:
            before = _passed_on(node, kind)
            return (place, before) if before else None
        return None

    def _end(self, place: _Place, link: Link) -> Any:
        number, slot, _ = link
        if number == place.plan.entry and place.outer is not None:
            names = place.plan.inputs
            name = str(names[slot].get("name")) if 0 <= slot < len(names) else ""
            return self._values(place).get(name)
        node = place.plan.nodes.get(number)
        if node is None or node.get("mode") in (_OFF, _BYPASSED) or node.get("type") in self.plans:
            return None
        if node.get("type") in _DOTS or node.get("type") == "GetNode":
            return None
        return [place.prefix + number, slot]

    def _set_node(self, place: _Place, name: str) -> tuple[_Place, str] | None:
        where: _Place | None = place
        for _ in range(MAX_DEPTH):
            if where is None:
                break
            if (node := where.plan.named.get(name)) is not None:
                before = _passed_on(node, "")
                return (where, before) if before else None
            where = where.outer
        return None

    def _values(self, place: _Place) -> dict[str, Any]:
        """The values of an instance by the names of the subgraph's inputs."""
        if id(place) not in self._set:
            stored = place.instance.get("widgets_values")
            names = _value_inputs(place)
            fits = isinstance(stored, list) and len(stored) == len(names)
            self._set[id(place)] = (
                {n: v for n, v in zip(names, stored, strict=True) if isinstance(v, str | int | float)}
                if fits and isinstance(stored, list)
                else {}
            )
        return self._set[id(place)]


def _value_inputs(place: _Place) -> list[str]:
    """Those inputs of a subgraph that are values: by the instance where it shows them, else by their type."""
    shown = {str(slot.get("name")): isinstance(slot.get("widget"), dict) for slot in _slots(place.instance)}
    return [
        name for one in place.plan.inputs if shown.get(name := str(one.get("name")), one.get("type") in _WIDGET_TYPES)
    ]


def _passed_on(node: Node, kind: str) -> str:
    """The number of the link into a node that passes it on: of a reroute the only one, else one of that kind."""
    for slot in _slots(node, MAX_SLOTS):
        if slot.get("link") is not None and (node.get("type") in _DOTS or slot.get("type") == kind):
            return str(slot["link"])
    return ""


def _length(listed: Any) -> int:
    return len(listed) if isinstance(listed, list | dict) else 0


def _is_linked(slot: Node) -> bool:
    return slot.get("link") is not None


def _first(node: Node) -> str:
    values = node.get("widgets_values")
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _slots(node: Node, most: int | None = None) -> list[Node]:
    slots = node.get("inputs")
    return [slot for slot in slots[:most] if isinstance(slot, dict)] if isinstance(slots, list) else []


def _links(links: Any) -> dict[str, tuple[Link, str, int]]:
    """Links by their numbers, with the node and the input they lead to.

    Rows of number, node and output, node and input, kind; in newer workflows objects.
    """
    by_number: dict[str, tuple[Link, str, int]] = {}
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict):
            link = [link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
        if isinstance(link, list) and len(link) >= 6 and isinstance(link[2], int):
            target = link[4] if isinstance(link[4], int) else -1
            by_number[str(link[0])] = ((str(link[1]), link[2], str(link[5])), str(link[3]), target)
    return by_number
