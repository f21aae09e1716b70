"""A graph of ComfyUI in the form of its API: nodes, what their inputs are linked to, and values worked out from others.

Every walk along links is bounded and ends in a circle. Which nodes were used is kept, so that the others can be named.
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gesso.errors import GessoError
from gesso.metadata.comfyui_workflow import MAX_NODES, SHOWING
from gesso.metadata.picture_metadata import real, whole

MAX_HOPS = 200  # links from one node to another that one question follows
MAX_PIPES = 32
MAX_DEPTH = 60  # values that are worked out from others, inside one another
MAX_TEXT = 100_000  # characters of a text that is worked out
MAX_EXPRESSION = 200
MAX_KIND = 200  # characters of a kind of node: searches in it are not all linear

Node = Mapping[str, Any]

# Inputs along which a node of a pack hands on what it has: pipes and contexts.
_PIPES = ("pipe", "basic_pipe", "base_ctx", "context", "ctx", "optional_pipe", "opt_pipe", "sdxl_tuple", "ctx_01")
_SWITCHES = {"ComfySwitchNode": ("switch", "on_true", "on_false"), "easy ifElse": ("boolean", "on_true", "on_false")}
_DOTS = ("Reroute", "Reroute (rgthree)", "easy showAnything", "PreviewAny", "ShowText|pysssss", "Display Any (rgthree)")
_SHOWN = ("text2", "text_0", "text_1", "anything2")  # inputs in which a node that shows a text keeps the last one
# Nodes that bring a picture to a width and a height, other nodes that change its size, and inputs along which it comes.
_RESIZERS = ("ImageScale", "ResizeImageMaskNode", "EmptyImage", "ResizeAndPadImage")
_RESIZES = re.compile(
    r"Scale|Resize|Crop|Pad|Upscale|Stitch|Tile|^Load|^Empty|Rotate|Batch|GetImageSize", re.IGNORECASE
)
_PICTURES = ("samples", "latent_image", "latent", "pixels", "image", "images", "input", "video", "start_image")
_VALUES = (
    *("value", "text", "string", "prompt", "choice", "boolean", "source", "populated_text", "Text", "String"),
    *("text_0", "string_field", "int", "float", "number", "seed", "noise_seed", "positive", "negative", "value 1"),
)


@dataclass(frozen=True)
class Displayed:
    """A text that a node showed.  is_of_run: when the picture was drawn, or else at some time before"""

    text: str
    node: Node
    is_of_run: bool


class Graph:
    """Nodes by their numbers.

    shown  number -> what a node showed when the picture was drawn, see `texts_shown`
    """

    def __init__(self, nodes: Mapping[str, Any], shown: Mapping[str, str] | None = None) -> None:
        if len(nodes) > MAX_NODES:
            raise GessoError(f"the graph has {len(nodes)} nodes, expected at most {MAX_NODES}", code="too_large")
        self.nodes: dict[str, Node] = {str(key): node for key, node in nodes.items() if isinstance(node, dict)}
        self.numbers = {id(node): key for key, node in self.nodes.items()}
        self.used: set[str] = set()
        self.read: set[tuple[str, str]] = set()  # inputs whose values were asked for
        self.worked_out: set[str] = set()  # kinds of nodes whose values are worked out rather than stored
        self.shown = shown or {}
        self._known: dict[tuple[str, int, str], Any] = {}
        self._passed: dict[str, Any] = {}
        self._origins: dict[str, tuple[Node, int] | None] = {}  # of nodes that only pass on
        self._pipes: dict[str, Node | None] = {}
        self._depth = 0

    def number(self, node: Node) -> str:
        return self.numbers.get(id(node), "")

    def use(self, *nodes: Node | None) -> None:
        self.used.update(self.numbers[id(node)] for node in nodes if node is not None and id(node) in self.numbers)

    def origin(self, link: Any) -> tuple[Node, int] | None:
        """The node and output that a link comes from, past reroutes and switches."""
        way: list[str] = []
        found: tuple[Node, int] | None = None
        while is_link(link) and len(way) < MAX_HOPS:
            number = str(link[0])
            if number in self._origins:
                found = self._origins[number]
                break
            node = self.nodes.get(number)
            after = self._passed_on(node) if node is not None else None
            if after is None:
                found = (node, whole(link[1]) or 0) if node is not None else None
                break
            way.append(number)
            self._origins[number] = None  # so that a circle ends
            link = after
        self.used.update(way)
        self._origins.update(dict.fromkeys(way, found))
        return found

    def _passed_on(self, node: Node) -> Any:
        """The link that a node only passes on, or None."""
        number = self.number(node)
        if number not in self._passed:
            self._passed[number] = None  # so that a circle ends
            self._passed[number] = self.inside(lambda: self._before(node))
        return self._passed[number]

    def _before(self, node: Node) -> Any:
        kind, given = kind_of(node), inputs_of(node)
        if kind in _SWITCHES:
            which, on, off = _SWITCHES[kind]
            value = given.get(which)
            if is_link(value):
                value = self.value(node, which)
            chosen = given.get(on if value in (True, "true", 1) else off)
            return chosen if is_link(chosen) else None
        if kind in _DOTS:
            return next((value for value in given.values() if is_link(value)), None)
        if kind == "Any Switch (rgthree)":
            return next((given[name] for name in sorted(given) if is_link(given[name])), None)
        if kind in ("ImpactSwitch", "CR Model Input Switch", "CR Text Input Switch", "easy anythingIndexSwitch"):
            number = whole(self.value(node, "select", "Input", "index"))
            names = [name for name in sorted(given) if is_link(given[name]) and name not in ("select", "Input")]
            first = 0 if kind.startswith("easy") else 1
            return given[names[number - first]] if number is not None and 0 <= number - first < len(names) else None
        return None

    def linked(self, node: Node | None, *names: str) -> Node | None:
        """The node that the first linked of these inputs comes from; also from what a pipe hands on."""
        found = self.link(node, *names)
        return found[0] if found is not None else None

    def link(self, node: Node | None, *names: str) -> tuple[Node, int] | None:
        visited: set[int] = set()
        while node is not None and id(node) not in visited and len(visited) < MAX_PIPES:
            visited.add(id(node))
            given = inputs_of(node)
            for name in names:
                if (found := self.origin(given.get(name))) is not None:
                    return found
            node = self.pipe(node)
        return None

    def pipe(self, node: Node) -> Node | None:
        """The node before this one along a pipe."""
        number = self.number(node)
        if number not in self._pipes:
            given = inputs_of(node)
            origins = (self.origin(given[name]) for name in _PIPES if name in given)
            self._pipes[number] = next((found[0] for found in origins if found is not None), None)
        return self._pipes[number]

    def upstream(self, node: Node | None, names: Iterable[str], wanted: Callable[[Node], bool]) -> Node | None:
        """The first node wanted, this one included, along inputs of these names."""
        names, visited = tuple(names), set[int]()
        while node is not None and id(node) not in visited and len(visited) < MAX_HOPS:
            if wanted(node):
                return node
            visited.add(id(node))
            node = self.linked(node, *names)
        return None

    def picture_size(self, node: Node | None) -> tuple[int, int] | None:
        """Width and height of a picture or its latents, where a node on the way sets both; None if none does."""
        visited: set[int] = set()
        while node is not None and id(node) not in visited and len(visited) < MAX_HOPS:
            visited.add(id(node))
            kind = kind_of(node)
            if kind in _RESIZERS:
                sides = [whole(self.value(node, side, f"resize_type.{side}")) for side in ("width", "height")]
                width, height = sides
                return (width, height) if width and height and min(width, height) > 0 else None
            if _RESIZES.search(kind):
                return None
            node = self.linked(node, *_PICTURES)
        return None

    def holder(self, node: Node | None, *names: str) -> tuple[Node, str] | None:
        """The node that has one of these inputs, and which: this one, or one before it along a pipe."""
        visited: set[int] = set()
        while node is not None and id(node) not in visited and len(visited) < MAX_PIPES:
            visited.add(id(node))
            given = inputs_of(node)
            for name in names:
                if given.get(name) is not None:
                    return node, name
            node = self.pipe(node)
        return None

    def value(self, node: Node | None, *names: str) -> Any:
        """The value of an input, also where it is worked out by other nodes; None for none."""
        held = self.holder(node, *names)
        if held is None:
            return None
        self.read.add((self.number(held[0]), held[1]))
        value = inputs_of(held[0])[held[1]]
        if not is_link(value):
            return _content(value)
        found = self.origin(value)
        text = self.displayed(value) if found is not None else None
        if found is not None and text is not None and (text.is_of_run or makes_texts(found[0])):
            self.use(text.node, found[0])
            return text.text
        return self._output(*found, names) if found is not None else None

    def displayed(self, link: Any) -> "Displayed | None":
        """The text that a node on the way of a link showed, for texts that cannot be worked out; None for none."""
        earlier: Displayed | None = None
        for _ in range(MAX_HOPS):
            node = self.nodes.get(str(link[0])) if is_link(link) else None
            if node is None:
                break
            if kind_of(node) in SHOWING:
                if (text := self.shown.get(self.number(node))) is not None:
                    return Displayed(text, node, is_of_run=True)
                kept = [inputs_of(node).get(name) for name in _SHOWN]
                if (text := next((one for one in kept if isinstance(one, str) and one.strip()), None)) is not None:
                    earlier = earlier or Displayed(text, node, is_of_run=False)
            link = self._passed_on(node)
        return earlier

    def _output(self, node: Node, slot: int, asked: tuple[str, ...]) -> Any:
        """What a node gives at one of its outputs, as far as it can be known without running it.

        asked  what it is for, which nodes of several outputs call the same
        """
        key = (self.number(node), slot, asked[0])
        if key in self._known:
            return self._known[key]
        self._known[key] = None  # so that a circle ends
        value = self.inside(lambda: self._work_out(node, slot, asked))
        if isinstance(value, str) and len(value) > MAX_TEXT:
            value = None
        if value is not None:
            self.use(node)
        self._known[key] = value
        return value

    def inside(self, work: Callable[[], Any]) -> Any:
        """What this gives; None if too many are inside one another."""
        if self._depth >= MAX_DEPTH:
            return None
        self._depth += 1
        try:
            return work()
        finally:
            self._depth -= 1

    def _work_out(self, node: Node, slot: int, asked: tuple[str, ...]) -> Any:
        kind = kind_of(node)
        if kind in _SWITCHES:  # between values; one between links was passed
            which, on, off = _SWITCHES[kind]
            return self.value(node, on if self.value(node, which) in (True, "true", 1) else off)
        if kind in JOINING:
            return self._joined(node)
        if kind == "StringReplace":
            text, find, new = (self.value(node, name) for name in ("string", "find", "replace"))
            if isinstance(text, str) and isinstance(find, str) and find and isinstance(new, str):
                return text.replace(find, new) if len(text) + text.count(find) * len(new) <= MAX_TEXT else None
            return text
        if kind in ("ComfyMathExpression", "MathExpression|pysssss", "SimpleMath+", "easy mathExpression"):
            return self._calculated(node, slot)
        if kind == "ResolutionSelector":
            return self._resolution(node, slot)
        if kind.startswith("GetImageSize") and slot in (0, 1):
            size = self.picture_size(self.linked(node, "image"))
            return size[slot] if size is not None else None
        if kind == "JsonExtractString":
            return self._extracted(node)
        if makes_texts(node):  # what they were given
            return self.value(node, "prompt", "user_prompt", "string", "text")
        if kind == "StringFormat":
            return self._formatted(node)
        wanted = (*asked, *_VALUES)
        if slot == 1 and "negative_prompt" in inputs_of(node):
            wanted = ("negative_prompt", *wanted)
        return self.value(node, *wanted)

    def _joined(self, node: Node) -> str | None:
        given = inputs_of(node)
        parts = [name for name in sorted(given) if name.lower().startswith(("string", "text", "prompt"))][:64]
        if kind_of(node) == "StringFunction|pysssss":
            parts = ["text_a", "text_b", "text_c"]
        texts = [self.value(node, name) for name in parts]
        held = [str(text) for text in texts if isinstance(text, str | int | float)]
        between = self.value(node, "delimiter", "separator")
        between = between if isinstance(between, str) else "" if kind_of(node) == "StringConcatenate" else ", "
        if kind_of(node) == "StringFunction|pysssss":
            held = [text for text in held if text]
        between = between.replace("\\n", "\n")
        if sum(map(len, held)) + len(between) * len(held) > MAX_TEXT:
            return None
        return between.join(held) if held else None

    def _extracted(self, node: Node) -> Any:
        """One value of a text of JSON."""
        text, key = self.value(node, "json_string"), self.value(node, "key")
        try:
            value = json.loads(text).get(key) if isinstance(text, str) and len(text) <= MAX_TEXT else None
        except (ValueError, RecursionError, AttributeError, TypeError):
            return None
        if isinstance(value, dict):
            return json.dumps(value)
        return value if isinstance(value, str | int | float) else None

    def _formatted(self, node: Node) -> str | None:
        """A pattern with values in its braces."""
        given = inputs_of(node)
        pattern = next((text for text in given.values() if isinstance(text, str) and "{" in text), None)
        if pattern is None:
            return None
        for name in [name for name in given if name.startswith("values.")][:32]:
            value, brace = self.value(node, name), "{" + name.removeprefix("values.") + "}"
            if isinstance(value, str | int | float):
                if len(pattern) + pattern.count(brace) * len(str(value)) > MAX_TEXT:
                    return None
                pattern = pattern.replace(brace, str(value))
        return pattern

    def _calculated(self, node: Node, slot: int) -> float | int | None:
        expression = self.value(node, "expression", "value")
        if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
            return None
        names = {
            name.removeprefix("values."): real(self.value(node, name))
            for name in list(inputs_of(node))[:32]
            if name != "expression"
        }
        result = calculated(expression, names)
        if result is not None and (slot == 1 or result == int(result)):
            return int(result)
        return result

    def _resolution(self, node: Node, slot: int) -> int | None:
        """Width or height from a ratio and a number of megapixels."""
        ratio, size = str(self.value(node, "aspect_ratio")), real(self.value(node, "megapixels"))
        across, _, down = ratio.split(" ")[0].partition(":")
        wide, high, step = real(across), real(down), whole(self.value(node, "multiple")) or 8
        if not wide or not high or not size or min(wide, high, size) <= 0 or not 1 <= step <= 256:
            return None
        self.worked_out.add("ResolutionSelector")
        side = (size * 1024 * 1024 * (wide / high if slot == 0 else high / wide)) ** 0.5
        return max(step, round(side / step) * step) if side < 2**20 else None


JOINING = (
    *("StringConcatenate", "Text Concatenate", "CR Text Concatenate", "JoinStrings", "JoinStringMulti"),
    *("StringFunction|pysssss", "Text Concatenate (JPS)", "easy textConcat", "ConcatText_Zho", "StringJoin"),
)
# Nodes that cut a text in ways that gesso does not follow, most often one that a language model wrote.
UNKNOWABLE = ("RegexReplace", "RegexExtract", "JsonExtractString")
# Nodes whose text is made when they run: by a language model, from a picture, or by a random draw.
_MAKES = re.compile(
    r"Generate|Gemini|OpenAI|GPT|Claude|Ollama|LLM|VLM|QwenVL|Florence|Caption|Interrogat|Tagger|RandomPrompt",
    re.IGNORECASE,
)
_OPERATORS: Mapping[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: lambda a, b: int(a) & int(b),
    ast.BitOr: lambda a, b: int(a) | int(b),
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "floor": lambda x: x // 1,
    "ceil": lambda x: -(-x // 1),
    "abs": abs,
    "float": float,
}


def calculated(expression: str, names: Mapping[str, float | None]) -> float | None:
    """The value of an arithmetic expression; None for anything else."""
    try:
        value = _calculated(ast.parse(expression, mode="eval").body, names)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError):
        return None
    return real(value)


def _calculated(tree: ast.expr, names: Mapping[str, float | None]) -> float:
    match tree:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if (held := names.get(name)) is not None:
            return held
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_calculated(inner, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_calculated(left, names), _calculated(right, names))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in _FUNCTIONS:
            return float(_FUNCTIONS[name](*(_calculated(one, names) for one in args)))
    raise ValueError(ast.dump(tree)[:80])


def makes_texts(node: Node) -> bool:
    """Whether a node gives a text that cannot be known without running it."""
    kind = kind_of(node)
    return kind in UNKNOWABLE or _MAKES.search(kind) is not None


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def inputs_of(node: Node | None) -> Mapping[str, Any]:
    inputs = node.get("inputs") if node is not None else None
    return inputs if isinstance(inputs, dict) else {}


def kind_of(node: Node | None) -> str:
    return str(node.get("class_type", ""))[:MAX_KIND] if node is not None else ""


def _content(value: Any) -> Any:
    """A value, also where it is kept in an object beside a picture of it."""
    if isinstance(value, dict):
        return next((value[key] for key in ("content", "__value__", "value") if key in value), value)
    return value


def stem(name: str) -> str:
    """The last part of a path, without its ending."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if "." in last else last
