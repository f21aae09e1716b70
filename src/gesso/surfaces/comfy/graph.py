"""A graph in the form of ComfyUI's API, checked as ComfyUI checks it, with its kinds of errors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gesso.errors import short
from gesso.request.checks import as_json
from gesso.surfaces.comfy.node_types import NODE_TYPES, OF_THE_PAGE, WRITTEN, Choices, Input, NodeType, reason_against

MAX_NODES = 1000
MAX_ID = 200  # characters of a node's number
MAX_TEXT = 100_000  # characters of a value
OF_EDITOR = "this is a workflow as ComfyUI's editor saves it; choose Export (API) there, and send that file"


class PromptRefusedError(Exception):
    """A graph that is not drawn.

    error        as ComfyUI has it: type, message, details, extra_info
    node_errors  by the node's number: errors, dependent_outputs, class_type
    """

    def __init__(
        self, type: str, message: str, details: str = "", *, extra: Mapping[str, Any] | None = None, **nodes: Any
    ) -> None:
        super().__init__(f"{message}: {details}")
        self.error = {"type": type, "message": message, "details": details, "extra_info": dict(extra or {})}
        self.node_errors: dict[str, Any] = nodes.get("node_errors", {})


class NodeError(Exception):
    """What is wrong with one node.

    node   its number
    input  that it is about
    """

    def __init__(
        self,
        node: str,
        details: str,
        *,
        type: str = "custom_validation_failed",
        message: str = "",
        input: str = "",
        **extra: Any,
    ) -> None:
        super().__init__(details)
        self.node = node
        self.value = {
            "type": type,
            "message": message or "Custom validation failed for node",
            "details": f"{input} - {details}" if input and type == "custom_validation_failed" else details,
            "extra_info": ({"input_name": input} if input else {}) | extra,
        }


@dataclass(frozen=True, eq=False)
class Node:
    """One node.  id: its number; values: what is written into it; links: input -> number and output of another"""

    id: str
    type: NodeType
    values: Mapping[str, Any]
    links: Mapping[str, tuple[str, int]]

    @property
    def kind(self) -> str:
        """The name of its type."""
        return self.type.name

    def __str__(self) -> str:
        return f"{self.kind} ({self.id})"


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes by their numbers; outputs: numbers of those that graphs are walked back from."""

    nodes: Mapping[str, Node]
    outputs: tuple[str, ...]
    order: tuple[str, ...] = field(default=())

    def before(self, output: str) -> list[str]:
        """The nodes that lead to one, itself last, each after all that it is linked to."""
        needed, waiting = {output}, [output]
        while waiting:
            for origin, _ in self.nodes[waiting.pop()].links.values():
                if origin not in needed:
                    needed.add(origin)
                    waiting.append(origin)
        return [id for id in self.order if id in needed]


def is_of_editor(graph: Mapping[str, Any]) -> bool:
    """Whether this is what ComfyUI's editor saves, with places and colours, in place of a graph for its API."""
    return isinstance(graph.get("nodes"), list)


def read_graph(prompt: Any, choices: Choices, *, only: Sequence[str] | None = None) -> Graph:
    """A graph from the JSON of a prompt.

    choices  values of the lists that inputs choose from
    only     numbers of the output nodes that are wanted; None: all
    Raises PromptRefusedError.
    """
    if not isinstance(prompt, dict) or not prompt:
        raise PromptRefusedError("no_prompt", "No prompt provided", "prompt has to be an object of nodes")
    if is_of_editor(prompt):
        raise PromptRefusedError("invalid_prompt", "Invalid prompt", OF_EDITOR)
    if len(prompt) > MAX_NODES:
        raise PromptRefusedError(
            "invalid_prompt", "Invalid prompt", f"{len(prompt)} nodes, expected at most {MAX_NODES}"
        )
    types = {id: _type_of(id, values) for id, values in prompt.items()}
    outputs = tuple(id for id, kind in types.items() if kind.is_output and (only is None or id in only))
    if not outputs:
        raise PromptRefusedError("prompt_no_outputs", "Prompt has no outputs", "expected SaveImage or PreviewImage")
    reached = _reached(prompt, outputs)
    nodes: dict[str, Node] = {}
    errors: dict[str, list[dict[str, Any]]] = {}
    for id in reached:
        node, wrong = _node(id, prompt[id]["inputs"], types, choices)
        nodes[id] = node
        if wrong:
            errors[id] = wrong
    if not errors:
        order, cycle = _ordered(nodes)
        if cycle:
            path = " -> ".join(f"{id} ({types[id].name})" for id in cycle)
            for id in cycle:
                errors[id] = [
                    _error("dependency_cycle", "Dependency cycle detected", path, node_id=id, cycle_nodes=cycle)
                ]
    if errors:
        raise refusal(Graph(nodes, outputs), errors, prompt)
    return Graph(nodes, outputs, tuple(order))


def refusal(
    graph: Graph, errors: Mapping[str, Sequence[Mapping[str, Any]]], prompt: Mapping[str, Any]
) -> PromptRefusedError:
    """The refusal for errors of nodes, by their numbers."""
    dependent: dict[str, list[str]] = {id: [] for id in errors}
    for output in graph.outputs:
        seen, waiting = {output}, [output]
        while waiting:
            id = waiting.pop()
            if id in dependent:
                dependent[id].append(output)
            for origin, _ in graph.nodes[id].links.values() if id in graph.nodes else ():
                if origin not in seen:
                    seen.add(origin)
                    waiting.append(origin)
    node_errors = {
        id: {"errors": list(held), "dependent_outputs": dependent[id], "class_type": prompt[id]["class_type"]}
        for id, held in errors.items()
    }
    lines = [
        f"{error['message']}: {error['details']} (node {id}, {prompt[id]['class_type']})"
        for id, held in errors.items()
        for error in held
    ]
    return PromptRefusedError(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        "\n".join(lines[:20]),
        node_errors=node_errors,
    )


def _type_of(id: str, values: Any) -> NodeType:
    if not isinstance(values, dict) or not isinstance(values.get("inputs", {}), dict) or len(id) > MAX_ID:
        raise PromptRefusedError(
            "invalid_prompt", "Invalid prompt", f"node {short(id)} is no object with class_type and inputs"
        )
    kind, meta = values.get("class_type"), values.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    extra = {"node_id": id, "class_type": as_json(kind), "node_title": as_json(title)}
    if not isinstance(kind, str):
        raise PromptRefusedError(
            "missing_node_type", f"Node '{title or f'ID #{id}'}' has no class_type", f"Node ID '#{id}'", extra=extra
        )
    values.setdefault("inputs", {})
    if kind not in NODE_TYPES:
        why = reason_against(kind)
        error = _error("missing_node_type", "Node not found", f"{kind[:80]}: {why}")
        raise PromptRefusedError(
            "missing_node_type",
            f"Node '{str(title or kind)[:80]}' not found. {why[0].upper()}{why[1:]}",
            f"Node ID '#{id}'",
            extra=extra,
            node_errors={id: {"errors": [error], "dependent_outputs": [], "class_type": kind[:80]}},
        )
    return NODE_TYPES[kind]


def _reached(prompt: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    """The nodes that lead to an output; what leads to none is not looked at, as in ComfyUI."""
    found, waiting = dict.fromkeys(outputs), list(outputs)
    while waiting:
        for value in prompt[waiting.pop()]["inputs"].values():
            if _is_link(value) and value[0] in prompt and value[0] not in found:
                found[value[0]] = None
                waiting.append(value[0])
    return list(found)


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def _error(type: str, message: str, details: str, **extra: Any) -> dict[str, Any]:
    return {"type": type, "message": message, "details": details, "extra_info": extra}


def _node(
    id: str, given: Mapping[str, Any], types: Mapping[str, NodeType], choices: Choices
) -> tuple[Node, list[dict[str, Any]]]:
    kind = types[id]
    inputs, errors = kind.by_name, list[dict[str, Any]]()
    values: dict[str, Any] = {}
    links: dict[str, tuple[str, int]] = {}
    for name, value in given.items():
        one = inputs.get(name)
        if one is None:
            if name not in OF_THE_PAGE:
                known = ", ".join(inputs)
                details = f"{short(name)} - this node has no such input here; it has {known}"
                errors.append(
                    _error(
                        "custom_validation_failed", "Custom validation failed for node", details, input_name=name[:80]
                    )
                )
        elif isinstance(value, list):
            if error := _link_error(one, value, types):
                errors.append(error)
            else:
                links[name] = value[0], value[1]
        elif one.type not in WRITTEN:
            details = f"{name}, expected a link to a node that gives a {one.type}"
            errors.append(_error("bad_linked_input", "Bad linked input", details, input_name=name))
        else:
            held, error = read_value(one, value, choices)
            if error:
                errors.append(error)
            else:
                values[name] = held
    for name, one in inputs.items():
        if name not in given:
            if not one.optional:
                errors.append(_error("required_input_missing", "Required input is missing", name, input_name=name))
            elif one.default is not None:
                values[name] = one.default
    return Node(id, kind, values, links), errors


def _link_error(one: Input, value: list[Any], types: Mapping[str, NodeType]) -> dict[str, Any] | None:
    extra = {"input_name": one.name, "received_value": [as_json(part) for part in value[:4]]}
    if not _is_link(value):
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        return _error("bad_linked_input", message, one.name, **extra)
    origin, slot = value
    if origin not in types:
        details = f"{one.name}, there is no node {short(origin)}"
        return _error("bad_linked_input", "Bad linked input", details, **extra)
    outputs = types[origin].outputs
    if not 0 <= slot < len(outputs):
        details = f"{one.name}, node {short(origin)} has {len(outputs)} outputs, and no number {slot}"
        return _error("bad_linked_input", "Bad linked input", details, **extra)
    received = outputs[slot][0]
    if received != one.type and (received, one.type) != ("STRING", "COMBO"):
        details = f"{one.name}, received_type({received}) mismatch input_type({one.type})"
        return _error("return_type_mismatch", "Return type mismatch between linked nodes", details, **extra)
    return None


def read_value(one: Input, value: Any, choices: Choices) -> tuple[Any, dict[str, Any] | None]:
    """A written value as its input takes it -> the value, and what is wrong with it, or None."""
    extra = {"input_name": one.name, "received_value": as_json(value)}
    held = _converted(one.type, value)
    if held is None:
        message = f"Failed to convert an input value to a {one.type} value"
        return None, _error("invalid_input_type", message, f"{one.name}, {short(value)}", **extra)
    if one.low is not None and held < one.low:
        message = f"Value {short(held)} smaller than min of {one.low:g}"
        return None, _error("value_smaller_than_min", message, one.name, **extra)
    if one.high is not None and held > one.high:
        high = int(one.high) if one.type == "INT" else one.high
        return None, _error(
            "value_bigger_than_max", f"Value {short(held)} bigger than max of {high}", one.name, **extra
        )
    if one.type == "COMBO" and one.choices != "input":  # pictures are looked up by whoever loads them
        known = one.listed(choices)
        chosen = chosen_of(held, known)
        if chosen is None:
            shown = str(known) if len(known) <= 20 else f"(list of length {len(known)})"
            return None, _error(
                "value_not_in_list", "Value not in list", f"{one.name}: {held[:80]!r} not in {shown}", **extra
            )
        held = chosen
    return held, None


ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")


def chosen_of(value: str, known: Sequence[str]) -> str | None:
    """The one of these names that is meant: exactly, or by the file's name without folders, ending and case."""
    if value in known:
        return value
    found = [name for name in known if _stem(name) == _stem(value)]
    return found[0] if len(found) == 1 else None


def _stem(name: str) -> str:
    plain = name.replace("\\", "/").rpartition("/")[2].casefold()
    return next((plain.removesuffix(ending) for ending in ENDINGS if plain.endswith(ending)), plain)


def _converted(type: str, value: Any) -> Any:
    """The value as ComfyUI converts it, as far as nothing of it is lost; None where it is of another type."""
    if isinstance(value, dict) and set(value) == {"__value__"}:
        value = value["__value__"]
    match type:
        case "BOOLEAN":
            return value if isinstance(value, bool) else None
        case "STRING" | "COMBO":
            if isinstance(value, int | float) and type == "STRING":
                value = str(value)
            return value if isinstance(value, str) and len(value) <= MAX_TEXT else None
    if isinstance(value, bool):
        return None
    try:
        if type == "INT" and isinstance(value, str):
            return int(value) if len(value) <= 40 else None
        number = float(value) if isinstance(value, int | float | str) and len(str(value)) <= 40 else math.nan
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if type == "FLOAT":
        return number
    return value if isinstance(value, int) else int(number) if number == int(number) else None


def _ordered(nodes: Mapping[str, Node]) -> tuple[list[str], list[str]]:
    """The nodes, each after all that it is linked to; or, second, a circle of them."""
    done: dict[str, None] = {}
    for start in nodes:
        path: dict[str, Iterator[str]] = {}
        if start not in done:
            path[start] = _origins(nodes[start])
        while path:
            id, rest = next(reversed(path.items()))
            following = next((one for one in rest if one not in done), None)
            if following is None:
                done[id] = None
                del path[id]
            elif following in path:
                way = list(path)
                return [], [*way[way.index(following) :], following][:50]
            else:
                path[following] = _origins(nodes[following])
    return list(done), []


def _origins(node: Node) -> Iterator[str]:
    return iter([origin for origin, _ in node.links.values()])
