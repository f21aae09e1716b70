"""A1111's prompt syntax: comments, extra networks (LoRA), AND, prompt editing, emphasis, BREAK, parsed in its order.

    # to the end of the line     a comment
    <type:arguments>             an extra network, such as <lora:name:0.8>; taken out of the text
    a AND b :0.5 AND c           subprompts, each with a weight, drawn together; AND parts even inside brackets
    [from:to:when], [a|b]        schedules (`gesso.text.schedule`)
    (text:1.2), BREAK            emphasis, chunks (`gesso.text.attention`)

A backslash before # or < makes it text; one inside a word (A\\ND) keeps the word from being read as a sign. In one
place this differs from the reference on purpose: the number behind a last colon is a weight only where there is an AND,
so that "a clock at 12:30" is no prompt of weight 30.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gesso.errors import short
from gesso.notices import Notice
from gesso.text.attention import escape
from gesso.text.prompt import MAX_WEIGHT, Piece, PromptError, Traced, check_prompt, number_text
from gesso.text.schedule import PromptSchedule, WhenRule, parse_schedule

MAX_SUBPROMPTS = 32
MAX_BREAKS = 128
MAX_NETWORKS = 16
MAX_NAME = 128  # characters of a network's name
MAX_POINTS = 64  # of a LoRA's weight that changes over the steps
LORA_KINDS = ("lora", "lyco")

_COMMENT = re.compile(r"\\.|#[^\n]*", re.DOTALL)
_TAG = re.compile(r"\\.|<(?=(\w+):)", re.DOTALL)
_AND = re.compile(r"\bAND\b")
_BREAK = re.compile(r"\bBREAK\b")
_WEIGHT = re.compile(r"[-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)")
_FORBIDDEN_IN_NAME = frozenset('/\\:*?"<>|')
_LORA_ARGUMENTS = ("te", "unet", "dyn")
# Of the extension "LoRA Block Weight": a weight for each block of the UNet, and the steps in which a LoRA acts.
_BLOCK_WEIGHT_ARGUMENTS = ("lbw", "lbwe", "start", "stop", "step")


@dataclass(frozen=True, kw_only=True)
class ExtraNetwork:
    """<kind:name:argument:key=argument> as it was typed; start, end: its place in the source."""

    kind: str
    name: str
    arguments: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict, hash=False)
    start: int = 0
    end: int = 0


@dataclass(frozen=True, kw_only=True)
class LoraTag:
    """<lora:name:text_weight:unet_weight:rank>, also typed as <lyco:...>.

    name    looked up among the adapters that are known, never a path
    rank    the rank to cut it to; None: its own
    points  of a weight such as 1@0,0.2@0.6, which changes over the steps: (share of the steps, factor of unet_weight);
            the text encoders take the first point's, since they read the prompt once
    """

    name: str
    text_weight: float
    unet_weight: float
    rank: int | None = None
    points: tuple[tuple[float, float], ...] = ()


Joined = Literal["guidance", "blend", "sum", "chain"]


@dataclass(frozen=True, kw_only=True)
class SubPrompt:
    """One of the prompts of a whole; `ParsedPrompt.joined` says how they are joined."""

    schedule: PromptSchedule
    weight: float = 1.0


@dataclass(frozen=True)
class WeightedPrompt:
    """One subprompt as it is at some steps."""

    text: str
    pieces: tuple[Piece, ...]
    weight: float


@dataclass(frozen=True)
class PlannedPrompt:
    """What all subprompts say up to and including a step, counted from 1."""

    last_step: int
    prompts: tuple[WeightedPrompt, ...]


@dataclass(frozen=True, kw_only=True)
class ParsedPrompt:
    """A parsed prompt.

    subprompts  at least one
    joined      how they become one: "guidance" draws with all of them, x0 = uncond + sum of weight * guidance_scale *
                (cond - uncond); "blend" draws with the mean of their states, shared out by the weights, "sum" with
                their sum; "chain" lays their states one behind the other, each moved from the empty prompt's by weight
    networks    every tag, in its order; `loras` reads those that are LoRA
    notices     what the user should know: comments left out, weights changed
    """

    source: str
    subprompts: tuple[SubPrompt, ...]
    joined: Joined = "guidance"
    networks: tuple[ExtraNetwork, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether one context holds for all steps and all of the guidance: no schedule, no AND."""
        separate = len(self.subprompts) > 1 and self.joined == "guidance"
        return not separate and all(subprompt.schedule.is_constant for subprompt in self.subprompts)

    def plan(self, num_steps: int, *, base_steps: int = 0, rule: WhenRule = "point") -> tuple[PlannedPrompt, ...]:
        """What is drawn from step to step; each entry differs from its neighbours, and the last ends the steps.

        Arguments as `PromptSchedule.plan` takes them. Equal texts are equal objects: encode each pieces once.
        """
        plans = [entry.schedule.plan(num_steps, base_steps=base_steps, rule=rule) for entry in self.subprompts]
        steps = sorted({entry.last_step for plan in plans for entry in plan})
        places = [0] * len(plans)
        planned = []
        for step in steps:
            prompts = []
            for index, plan in enumerate(plans):
                places[index] += plan[places[index]].last_step < step
                entry = plan[places[index]]
                prompts.append(WeightedPrompt(entry.text, entry.pieces, self.subprompts[index].weight))
            planned.append(PlannedPrompt(step, tuple(prompts)))
        return tuple(planned)

    @property
    def loras(self) -> tuple[LoraTag, ...]:
        """The LoRA of the prompt. Raises PromptError for a weight that is none, or a name that cannot be one."""
        return tuple(lora_of(network) for network in self.networks if network.kind in LORA_KINDS)


def parse_prompt(text: str, *, negative: bool = False) -> ParsedPrompt:
    """A prompt as it was typed, to its parts. Time is linear in its length.

    negative: as A1111 reads negative prompts, in which AND and tags of extra networks are text.
    Raises PromptError for a text that `check_prompt` refuses and for more parts of a kind than the limits above;
    everything else means something, if need be itself.
    """
    check_prompt(text)
    notices: list[Notice] = []
    comments = list(_comments(text))
    notices += [
        Notice(f"ignored as a comment: {short(text[start:end].strip())}", code="comment_ignored")
        for start, end in comments[:3]
    ]
    uncommented = Traced.whole(text).without(comments)
    networks = [] if negative else list(_networks(uncommented))
    traced = uncommented.without((tag.start, tag.end) for tag in networks)
    others = dict.fromkeys(tag.kind for tag in networks if tag.kind not in LORA_KINDS)
    notices += [
        Notice(
            f"ignored: <{short(kind)[1:-1]}:...>, an unknown kind of extra network",
            code="network_ignored",
            data={"kind": kind},
        )
        for kind in others
    ]
    for tag in networks:
        if tag.kind in LORA_KINDS and (ignored := [name for name in tag.named if name in _BLOCK_WEIGHT_ARGUMENTS]):
            label = f"<{tag.kind}:{short(tag.name)[1:-1]}:...>"
            text = f"ignored in {label}: {', '.join(ignored)}; gesso has no block weights"
            data = {"name": tag.name, "arguments": ignored}
            notices.append(Notice(text, code="lora_argument_ignored", data=data))
    _check_count("extra networks such as <lora:name:1>", len(networks), MAX_NETWORKS)
    _check_count("times BREAK", sum(1 for _ in _BREAK.finditer(traced.text)), MAX_BREAKS)
    subprompts = (SubPrompt(schedule=parse_schedule(traced)),) if negative else tuple(_subprompts(traced, notices))
    tags = tuple(_placed(tag, uncommented) for tag in networks)
    return ParsedPrompt(source=text, subprompts=subprompts, networks=tags, notices=tuple(notices))


def escape_prompt(text: str) -> str:
    """A text that `parse_prompt` reads as one piece of exactly this text.

    A1111 reads it as the same too, unless it holds a comment or a tag: there no sign escapes those.
    """
    return re.sub(r"([#<])", r"\\\1", _AND.sub(r"A\\ND", escape(text)))


def write_subprompts(subprompts: Sequence[tuple[str, float]]) -> str:
    """Texts in the grammar, with weights, joined by AND, as `parse_prompt` reads them.

    Raises ValueError for a single text of another weight than 1: that is a matter of the guidance scale.
    """
    if len(subprompts) == 1:
        if subprompts[0][1] != 1:
            raise ValueError(f"a single prompt of weight {subprompts[0][1]:g}; change the guidance scale instead")
        return subprompts[0][0]
    return " AND ".join(f"{text} :{number_text(weight)}" for text, weight in subprompts)


def lora_of(network: ExtraNetwork) -> LoraTag:
    """The meaning of a <lora:...> tag: te is 1 where it is not said, unet the same as te. Raises PromptError."""
    name = network.name
    if not name or len(name) > MAX_NAME or not name.isprintable() or _FORBIDDEN_IN_NAME & set(name) or ".." in name:
        raise PromptError(
            "network_tag",
            f"prompt: {short(name)} is not the name of a LoRA. Give the name of its file, without folder and extension",
        )
    named = {key: value for key, value in network.named.items() if key not in _BLOCK_WEIGHT_ARGUMENTS}
    if unknown := sorted(set(named) - set(_LORA_ARGUMENTS)) or len(network.arguments) > len(_LORA_ARGUMENTS):
        what = f"the argument {short(str(unknown[0]))}" if isinstance(unknown, list) else "too many arguments"
        raise PromptError(
            "network_tag", f"prompt: <{network.kind}:{short(name)[1:-1]}:...> has {what}; expected te, unet and dyn"
        )
    arguments = dict(zip(_LORA_ARGUMENTS, network.arguments, strict=False)) | named
    text = read_points(arguments["te"], name) if "te" in arguments else ((0.0, 1.0),)
    unet = read_points(arguments["unet"], name) if "unet" in arguments else text
    rank = int(_number(arguments["dyn"], name)) if "dyn" in arguments else None
    if rank is not None and rank < 1:
        raise PromptError("number", f"prompt: the LoRA {short(name)} is cut to rank {rank}, expected 1 or more")
    points = unet if len(unet) > 1 else ()
    return LoraTag(
        name=name,
        text_weight=text[0][1],
        unet_weight=1.0 if points else unet[0][1],
        rank=rank,
        points=points,
    )


def read_points(text: str, name: str) -> tuple[tuple[float, float], ...]:
    """ "0.8" or "1@0,0.2@0.6" as (share of the steps, weight), rising; one alone where the weight does not change.

    name: of the LoRA, for messages. Raises PromptError.
    """
    points = []
    for part in text.split(",", MAX_POINTS):
        weight, sign, share = part.partition("@")
        points.append((_number(share, name) if sign else 0.0, _number(weight, name)))
    shares = [share for share, _ in points]
    rises = shares == sorted(set(shares)) and min(shares) >= 0 and max(shares) <= 1
    if len(points) > MAX_POINTS or not rises:
        raise PromptError(
            "number",
            f"prompt: the LoRA {short(name)} has the weight {short(text)}, expected a number, or at most {MAX_POINTS} "
            "of them at rising shares of the steps, such as 1@0,0.2@0.6",
        )
    return tuple(points)


def _comments(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _COMMENT.finditer(text) if match[0][0] == "#")


def _networks(traced: Traced) -> Iterator[ExtraNetwork]:
    """The tags of a text, with their places in it."""
    text, position = traced.text, 0
    while match := _TAG.search(text, position):
        position = match.end()
        if match[1] is None:  # an escape
            continue
        first = match.end() + len(match[1]) + 1
        end = text.find(">", first)
        if end < 0:
            return
        if end == first:  # <lora:> is text
            continue
        name, *arguments = text[first:end].split(":")
        pairs = [argument.partition("=") for argument in arguments]
        yield ExtraNetwork(
            kind=match[1],
            name=name,
            arguments=tuple(key for key, equals, _ in pairs if not equals),
            named={key: value for key, equals, value in pairs if equals},
            start=match.start(),
            end=end + 1,
        )
        position = end + 1


def _placed(tag: ExtraNetwork, traced: Traced) -> ExtraNetwork:
    start, end = traced.span(tag.start, tag.end)
    return ExtraNetwork(kind=tag.kind, name=tag.name, arguments=tag.arguments, named=tag.named, start=start, end=end)


def _subprompts(traced: Traced, notices: list[Notice]) -> Iterator[SubPrompt]:
    joints = [match.span() for match in _AND.finditer(traced.text)]
    _check_count("prompts joined by AND", len(joints) + 1, MAX_SUBPROMPTS)
    if not joints:
        yield SubPrompt(schedule=parse_schedule(traced))
        return
    starts = [0, *(end for _, end in joints)]
    ends = [*(start for start, _ in joints), len(traced.text)]
    for start, end in zip(starts, ends, strict=True):
        end, asked = _split_weight(traced.text, start, end)
        weight = max(-MAX_WEIGHT, min(MAX_WEIGHT, asked))
        if weight != asked:
            notices.append(
                Notice(
                    f"the weight {asked:g} of {short(traced.text[start:end].strip())} was changed to {weight:g}",
                    code="weight_clamped",
                    data={"asked": asked, "taken": weight},
                )
            )
        yield SubPrompt(schedule=parse_schedule(traced.cut([(start, end)])), weight=weight)


def _split_weight(text: str, start: int, end: int) -> tuple[int, float]:
    """Where the text of a subprompt ends, without white space behind it, and its weight: 1 where none is given."""
    whole = start + len(text[start:end].rstrip())
    colon = text.rfind(":", start, whole)
    if colon >= 0 and _WEIGHT.fullmatch(number := text[colon + 1 : whole].strip()):
        return start + len(text[start:colon].rstrip()), float(number)
    return whole, 1.0


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PromptError("number", f"prompt: the LoRA {short(name)} has the weight {short(text)}, expected a number")
    return value


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise PromptError("prompt_limit", f"prompt: {count} {what}, at most {most} are allowed. Remove some")
