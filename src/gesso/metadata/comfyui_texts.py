"""The prompts of a graph of ComfyUI: what its conditioning nodes make of texts, and how gesso says the same.

ConditioningConcat is A1111's BREAK, ConditioningCombine its AND, a range of timesteps its prompt editing, and
ConditioningAverage Compel's blend. What has no such form is drawn as one text, with a notice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gesso.errors import short
from gesso.metadata.comfyui_graph import UNKNOWABLE, Graph, Node, inputs_of, is_link, kind_of, makes_texts
from gesso.metadata.picture_metadata import Draft, real
from gesso.text.attention import write_attention
from gesso.text.comfyui import parse_comfyui
from gesso.text.grammar import parse_prompt, write_subprompts
from gesso.text.prompt import PromptError, WeightedText, number_text

MAX_PARTS = 16  # texts that are combined into one prompt
_TEXTS = (
    *("text", "text_g", "t5xxl", "prompt", "llama", "user_prompt", "populated_text", "wildcard_text", "tags"),
    *("text_positive", "mt5xl", "clip_l", "text_l", "bert", "style", "caption", "prompt_text"),
)
_SECOND_TEXTS = ("text_l", "clip_l", "clip_g", "lyrics")
_AREAS = ("ConditioningSetArea", "ConditioningSetMask", "GLIGENTextBoxApply")
_PLAIN = re.compile(r"[\w\s,.';]*")


@dataclass(frozen=True)
class Part:
    """A text that guides the picture: chunks one behind the other, or a blend of texts; how much, from when to when."""

    chunks: tuple[str, ...] = ()
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    blend: tuple[tuple[str, float], ...] = ()

    @property
    def text(self) -> str:
        return ", ".join(chunk for chunk in self.chunks if chunk)


Parts = tuple[Part, ...]


class Texts:
    """Reads the texts behind the inputs of samplers and guiders."""

    def __init__(self, graph: Graph, draft: Draft) -> None:
        self.graph, self.draft = graph, draft
        self.zeroed = False
        self.encoders: list[Node] = []
        self._known: dict[tuple[str, int, str], Parts | None] = {}

    def parts(self, found: tuple[Node, int] | None, side: str) -> Parts | None:
        """The texts at an output of a node; none of them where it is zeroed; None where they cannot be found."""
        if found is None:
            return None
        node, slot = found
        key = (self.graph.number(node), slot, side)
        if key not in self._known:
            self._known[key] = None  # so that a circle ends
            self._known[key] = self.graph.inside(lambda: self._parts(node, slot, side))
        return self._known[key]

    def _parts(self, node: Node, slot: int, side: str) -> Parts | None:
        kind, graph = kind_of(node), self.graph
        if kind == "ConditioningZeroOut":
            graph.use(node)
            self.zeroed = True
            return ()
        if "Combine" in kind and "onditioning" in kind:
            return self._combined(node, side)
        if kind in ("ConditioningConcat", "ConditioningAverage", "ConditioningAverage "):
            return self._merged(node, side, concat=kind == "ConditioningConcat")
        if kind.startswith(("ConditioningSet", "GLIGEN")):
            return self._limited(node, side)
        own = self._encoded(node, slot, side)
        return own if own is not None else self._passed(node, slot, side)

    def _combined(self, node: Node, side: str) -> Parts | None:
        names = [name for name, value in inputs_of(node).items() if is_link(value)][:MAX_PARTS]
        sides = [self.parts(self.graph.link(node, name), side) for name in names]
        found = [part for parts in sides if parts is not None for part in parts]
        if len(found) > MAX_PARTS:
            self.draft.note(
                f"ignored: all but {MAX_PARTS} of the texts combined in {named(self.graph, node)}",
                code="prompt_ignored",
            )
        self._count(node, sides)
        return tuple(found[:MAX_PARTS]) if any(parts is not None for parts in sides) else None

    def _merged(self, node: Node, side: str, *, concat: bool) -> Parts | None:
        to = self.parts(self.graph.link(node, "conditioning_to"), side)
        other = self.parts(self.graph.link(node, "conditioning_from"), side)
        self._count(node, (to, other))
        if not to or not other:
            return to or other
        first = other[0]
        if concat:
            return tuple(replace(part, chunks=(part.chunks + first.chunks)[: 4 * MAX_PARTS]) for part in to)
        share = real(self.graph.value(node, "conditioning_to_strength"))
        share = 1.0 if share is None else min(1.0, max(0.0, share))
        if share in (0.0, 1.0):
            return to if share else other[:1]
        return tuple(
            replace(
                part,
                chunks=(part.chunks + first.chunks)[: 4 * MAX_PARTS],
                blend=((part.text, share), (first.text, 1 - share)),
            )
            for part in to
        )

    def _count(self, node: Node, sides: Any) -> None:
        """Marks a node as used, and says where one of its texts is missing."""
        self.graph.use(node)
        if any(parts is None for parts in sides):
            self.draft.note(
                f"ignored: a text of {named(self.graph, node)}, which cannot be found in the graph",
                code="prompt_ignored",
            )

    def _limited(self, node: Node, side: str) -> Parts | None:
        parts = self.parts(self.graph.link(node, "conditioning", "conditioning_to"), side)
        if parts is None:
            return None
        kind = kind_of(node)
        self.graph.use(node)
        if kind == "ConditioningSetTimestepRange":
            start, end = (real(self.graph.value(node, name)) for name in ("start", "end"))
            return tuple(
                replace(part, start=0.0 if start is None else start, end=1.0 if end is None else end) for part in parts
            )
        strength = real(self.graph.value(node, "strength"))
        if kind.startswith(_AREAS) and kind != "ConditioningSetAreaStrength":
            about = "; ".join(short(part.text) for part in parts[:2])
            self.draft.note(
                f"not supported, ignored: the area of {named(self.graph, node)}; {about} holds for the whole picture"
            )
        return tuple(replace(part, strength=1.0 if strength is None else strength) for part in parts)

    def _encoded(self, node: Node, slot: int, side: str) -> Parts | None:
        """The text that a node encodes or holds itself."""
        graph, given = self.graph, inputs_of(node)
        name = _side_at(given, slot, side) if is_link(given.get("positive")) else side
        if isinstance(given.get(name), str):  # loaders with prompts of their own
            graph.use(node)
            self.encoders.append(node)
            return (Part((given[name],)),)
        names = [name for name in _TEXTS if given.get(name) is not None]
        if slot == 1 and "negative_prompt" in given:
            names = ["negative_prompt"]
        texts = [(name, graph.value(node, name)) for name in names]
        for name, text in texts:
            if isinstance(text, str):
                graph.use(node)
                self.encoders.append(node)
                self._second(node, name, text)
                self._rewritten(node, name, text, side)
                return (Part((text,)),)
        for name, text in texts:
            if not isinstance(text, str) and graph.linked(node, name) is not None:
                graph.use(node)
                self._rewritten(node, name, "", side)
                return (Part(("",)),)
        if "TextEncode" in kind_of(node) or not any(is_link(value) for value in given.values()):
            return self._guessed(node, slot, side)
        return None

    def _guessed(self, node: Node, slot: int, side: str) -> Parts | None:
        """The only text of a node that gesso does not know."""
        if side == "negative" and slot == 1:  # the other output of a node whose text is the prompt
            return None
        texts = [value for value in inputs_of(node).values() if isinstance(value, str) and value.strip()]
        only = texts if len(texts) == 1 else [text for text in texts if " " in text.strip()]
        if len(only) != 1:
            return None
        self.graph.use(node)
        self.draft.note(
            f"gesso does not know the node {named(self.graph, node)}; its only text is taken for the prompt: "
            f"{short(only[0])}",
            code="prompt_guessed",
        )
        return (Part((only[0],)),)

    def _second(self, node: Node, name: str, text: str) -> None:
        for other in _SECOND_TEXTS:
            second = self.graph.value(node, other) if other != name and other in inputs_of(node) else None
            if isinstance(second, str) and second.strip() and second.strip() != text.strip():
                self.draft.note(
                    f"ignored: {other} of {named(self.graph, node)}, a second text: {short(second)}",
                    code="prompt_ignored",
                )

    def _rewritten(self, node: Node, name: str, text: str, side: str) -> None:
        """Says so where the text is made, or made anew, by a node when it runs."""
        if (shown := self.graph.displayed(inputs_of(node).get(name))) is not None and shown.text == text:
            if not shown.is_of_run:
                self.draft.note(
                    f"the {side} prompt is what {named(self.graph, shown.node)} showed before the picture was drawn, "
                    "which may be of an earlier run",
                    code="prompt_guessed",
                )
            return
        source = self.graph.linked(node, name)
        maker = source if not text.strip() and source is not None and not kind_of(source).startswith("Prim") else None
        for _ in range(8):
            if source is None:
                break
            if makes_texts(source):
                maker = source  # the first on the way, unless that only cuts what another has made
                if kind_of(source) not in UNKNOWABLE:
                    break
            source = self.graph.linked(source, "value", "string", "text", "source", "string_a", "string_b", "prompt")
        if maker is not None and not text.strip():
            if makes_texts(maker) or not isinstance(self.graph.value(node, name), str):
                self.graph.use(maker)
                self.draft.note(
                    f"the {side} prompt was made by {named(self.graph, maker)} when the picture was drawn and is not "
                    "in the file",
                    code="prompt_ignored",
                )
        elif maker is not None:
            self.draft.note(
                f"the prompt was rewritten by {named(self.graph, maker)} when the picture was drawn; "
                "the text here is the one it was given",
                code="prompt_guessed",
            )

    def _passed(self, node: Node, slot: int, side: str) -> Parts | None:
        """The texts before a node that changes them in ways that gesso does not follow."""
        given = inputs_of(node)
        names = [_side_at(given, slot, side), "conditioning", "cond", "cond1"]
        names += ["conditioning_1", "conditioning_to", "text_encode"]
        others = [name for name in given if "cond" in name.lower() and name not in names][:8]
        if side == "positive":
            others.append("positive")
        for name in (*names, *others):
            if is_link(given.get(name)) and (parts := self.parts(self.graph.link(node, name), side)) is not None:
                return parts
        before = self.graph.pipe(node)
        return self.parts((before, -1), side) if before is not None else None


def _side_at(given: Mapping[str, Any], slot: int, side: str) -> str:
    """Which side comes out of a node that both go into: in their order, behind the model if it hands that on too."""
    if not {"positive", "negative"} <= given.keys() or slot not in (0, 1):
        return side
    if slot == 1 and side == "positive" and is_link(given.get("model")):
        return side
    return ("positive", "negative")[slot]


def named(graph: Graph, node: Node) -> str:
    """A node as a person finds it: its kind and number."""
    return f"{kind_of(node)[:60]} ({graph.number(node)[:40]})"


@dataclass(frozen=True)
class Written:
    """A prompt, and the syntax that reads it as the graph does; `lost`: what it does not say."""

    text: str
    syntax: str = "comfyui"
    lost: str = ""


def written(parts: Parts, *, negative: bool, syntax: str = "comfyui") -> Written:
    """The texts as one prompt. syntax: that of the other prompt, which this one has to share."""
    parts = tuple(dict.fromkeys(parts))
    if not parts:
        return Written("")
    simple = len(parts) == 1 and len(parts[0].chunks) == 1 and not parts[0].blend
    if simple and (parts[0].start, parts[0].end) == (0.0, 1.0):
        text = parts[0].chunks[0]
        if syntax == "compel":
            return Written(text, "compel" if _PLAIN.fullmatch(text) else "comfyui")
        return Written(text) if syntax == "comfyui" else Written(_a1111(text), "a1111")
    one = ", ".join(part.text for part in parts if part.text)
    if any(part.blend for part in parts):
        (first, share), (second, rest) = parts[0].blend or (("", 1.0), ("", 0.0))
        if len(parts) == 1 and not negative and _PLAIN.fullmatch(first) and _PLAIN.fullmatch(second):
            shares = f"{number_text(round(share, 4))}, {number_text(round(rest, 4))}"
            return Written(f'("{first}", "{second}").blend({shares})', "compel")
        return Written(one, lost="a blend of texts (ConditioningAverage)")
    try:
        text = _in_time(parts, negative=negative)
    except _NoFormError as error:
        return Written(one, lost=str(error))
    try:
        parsed = parse_prompt(text, negative=negative)
    except PromptError as error:
        return Written(one, lost=str(error))
    return Written(text, "a1111") if not parsed.notices and not parsed.networks else Written(one, lost="texts together")


def together(sides: Mapping[str, Parts]) -> tuple[str, dict[str, Written]]:
    """The "positive" and the "negative" prompt in a syntax that they share, and that syntax."""
    texts = {side: written(parts, negative=side == "negative") for side, parts in sides.items()}
    needed = {text.syntax for side, text in texts.items() if text.text} - {"comfyui"}
    if not needed:
        return "comfyui", texts
    if len(needed) == 1:
        (syntax,) = needed
        shared = {side: written(parts, negative=side == "negative", syntax=syntax) for side, parts in sides.items()}
        if all(text.syntax == syntax or not text.text for text in shared.values()):
            return syntax, shared
    return "comfyui", {
        side: text
        if text.syntax == "comfyui"
        else Written(", ".join(part.text for part in sides[side] if part.text), lost="texts joined in several ways")
        for side, text in texts.items()
    }


class _NoFormError(Exception):
    """gesso has no way to say this."""


def _in_time(parts: Parts, *, negative: bool) -> str:
    """Texts in A1111's syntax: those of the same time together, one time after the other."""
    times = sorted({(part.start, part.end) for part in parts})
    if times == [(0.0, 1.0)]:
        return _together(parts, negative=negative)
    ends = [0.0, *(end for _, end in times)]
    if any(abs(start - end) > 1e-6 for (start, _), end in zip(times, ends, strict=False)) or ends[-1] < 1:
        raise _NoFormError("texts at times that overlap or leave gaps (ConditioningSetTimestepRange)")
    texts = [
        _together(tuple(part for part in parts if (part.start, part.end) == time), negative=True) for time in times
    ]
    text = texts[-1]
    for earlier, (_, end) in zip(reversed(texts[:-1]), reversed(times[:-1]), strict=True):
        text = f"[{earlier}:{text}:{end:.6f}]"
    return text


def _together(parts: Parts, *, negative: bool) -> str:
    texts = [" BREAK ".join(_a1111(chunk) for chunk in part.chunks) for part in parts]
    if len(texts) == 1:
        return texts[0]
    total = sum(part.strength for part in parts)
    if negative or total <= 0:
        raise _NoFormError("several texts at the same time (ConditioningCombine)")
    weights = [round(part.strength / total, 6) for part in parts]
    return write_subprompts(list(zip(texts, weights, strict=True)))


def _a1111(text: str) -> str:
    """A text of ComfyUI's syntax in A1111's."""
    written_out = []
    for piece in parse_comfyui(text):
        if isinstance(piece, WeightedText):
            plain = write_attention([replace(piece, weight=1.0)])
            plain = re.sub(r"([#<:|])", r"\\\1", re.sub(r"\bAND\b", r"A\\ND", plain))
            written_out.append(plain if piece.weight == 1 else f"({plain}:{number_text(piece.weight)})")
    return "".join(written_out)
