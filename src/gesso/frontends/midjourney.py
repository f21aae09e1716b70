"""Prompts with the flags of Midjourney: "a cat on a mat --ar 3:2 --seed 7 --no dogs".

A front end to the ordinary request: flags become its fields where they mean something here, and a notice where not.
Flags stand at the end, in any order, in upper or lower case, each value behind a space; a long dash is as good as two
hyphens. Links to pictures stand first. `text::2 other text::-0.5` weighs whole prompts against each other.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from gesso.errors import short
from gesso.notices import Notice
from gesso.text.grammar import MAX_SUBPROMPTS, write_subprompts
from gesso.text.prompt import MAX_WEIGHT, PromptError, check_prompt

MAX_SEED = 2**32 - 1
STYLIZE = 100.0  # the value at which nothing changes

_DASH = re.compile("(?<!\\S)(?:--|\u2014|\u2013)(?=[A-Za-z])")
_PART = re.compile(r"::(?:\s*(-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?![\w.]))?")
_LINK = re.compile(r"\s*(https?://\S+)")

Kind = Literal["int", "float", "ratio", "words", "text", "none", "style"]


@dataclass(frozen=True)
class Flag:
    """One flag.  low, high: of its number; notice: why it changes nothing here, where it does not"""

    name: str
    kind: Kind
    low: float = 0
    high: float = 0
    notice: str = ""


_FASTER = "gesso has no queues"
_PICTURES = "give the picture with `image` or `control` instead"
FLAGS: tuple[Flag, ...] = (
    Flag("ar", "ratio"),
    Flag("seed", "int", 0, MAX_SEED),
    Flag("no", "words"),
    Flag("chaos", "int", 0, 100, notice="pictures of one request already differ by their noise"),
    Flag("stylize", "int", 0, 1000),
    Flag("weird", "int", 0, 3000, notice="gesso has no equivalent"),
    Flag("quality", "float", 0.25, 4),
    Flag("iw", "float", 0, 3, notice=_PICTURES),
    Flag("tile", "none"),
    Flag("raw", "none", notice="gesso adds no style by default"),
    Flag("style", "style", notice="gesso adds no style by default"),
    Flag("sref", "text", notice=_PICTURES),
    Flag("sw", "int", 0, 1000, notice=_PICTURES),
    Flag("sv", "int", 1, 6, notice=_PICTURES),
    Flag("cref", "text", notice=_PICTURES),
    Flag("cw", "int", 0, 100, notice=_PICTURES),
    Flag("oref", "text", notice=_PICTURES),
    Flag("ow", "int", 1, 1000, notice=_PICTURES),
    Flag("stop", "int", 10, 100, notice="gesso always draws all steps"),
    Flag("repeat", "int", 2, 40),
    Flag("exp", "int", 0, 100, notice="gesso has no equivalent"),
    Flag("draft", "none"),
    Flag("fast", "none", notice=_FASTER),
    Flag("relax", "none", notice=_FASTER),
    Flag("turbo", "none", notice=_FASTER),
    Flag("v", "text", notice="it names a Midjourney model; choose a model with `model`"),
    Flag("niji", "text", notice="it names a Midjourney model; choose a model with `model`"),
    Flag("profile", "text", notice="it names a profile of a Midjourney account"),
    Flag("video", "none", notice="gesso makes no videos"),
    Flag("hd", "none", notice="ask for a size instead"),
)
SHORT: Mapping[str, str] = MappingProxyType(
    {
        "aspect": "ar",
        "c": "chaos",
        "s": "stylize",
        "w": "weird",
        "q": "quality",
        "r": "repeat",
        "version": "v",
        "p": "profile",
    }
)
_BY_NAME = {flag.name: flag for flag in FLAGS}
FLAG_NAMES = frozenset(_BY_NAME) | frozenset(SHORT)


@dataclass(frozen=True, kw_only=True)
class FlaggedPrompt:
    """A prompt, and what its flags ask for.

    prompt     without flags and links; parts with weights are joined by AND
    negative_prompt  what --no named, separated by commas
    aspect     width and height of --ar, as they stand to each other
    flags      every flag by its full name, with its value: None for one without
    links      of the pictures that stood first
    notices    what has no meaning here
    """

    prompt: str
    negative_prompt: str = ""
    aspect: tuple[int, int] | None = None
    flags: Mapping[str, Any] = field(default_factory=dict, hash=False)
    links: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()

    def fields(self, *, native_size: int, multiple: int, num_steps: int, guidance_scale: float) -> dict[str, Any]:
        """Fields of a request that the flags decide; what they leave open is not in it.

        native_size, multiple, num_steps, guidance_scale: what the model draws with where nothing is said. --ar keeps
        the number of pixels; --quality and --draft multiply the steps; --stylize trades the prompt for taste, which
        here is a guidance of 1.25 times the model's at 0, 1 at 100 and 0.6 at 1000.
        """
        values: dict[str, Any] = {"prompt": self.prompt}
        if self.negative_prompt:
            values["negative_prompt"] = self.negative_prompt
        if self.aspect:
            values["width"], values["height"] = aspect_size(self.aspect, native_size, multiple)
        if "seed" in self.flags:
            values["seed"] = self.flags["seed"]
        if "repeat" in self.flags:
            values["num_images"] = self.flags["repeat"]
        if "tile" in self.flags:
            values["tiling"] = "xy"
        share = self.flags.get("quality", 1.0) * (0.5 if "draft" in self.flags else 1.0)
        if share != 1:
            values["num_steps"] = max(1, round(num_steps * share))
        if "stylize" in self.flags and self.flags["stylize"] != STYLIZE:
            values["guidance_scale"] = round(guidance_scale * _style_factor(self.flags["stylize"]), 4)
        return values


def parse_flags(text: str) -> FlaggedPrompt:
    """A prompt with flags to its parts.

    Raises PromptError for a text that is too long, a flag that is not known, comes twice, has no value, or one outside
    its range.
    """
    check_prompt(text)
    links: list[str] = []
    start = 0
    while link := _LINK.match(text, start):
        links.append(link[1])
        start = link.end()
    dashes = [match.start() for match in _DASH.finditer(text, start)]
    ends = [*dashes, len(text)][1:]
    flags: dict[str, Any] = {}
    notices: list[Notice] = []
    if links:
        notices.append(Notice(f"ignored: {len(links)} links to pictures ({_PICTURES})", code="links_ignored"))
    for first, end in zip(dashes, ends, strict=True):
        flag, value = _read(text[first:end])
        if flag.name in flags:
            raise PromptError("flag", f"prompt: the flag --{flag.name} is given twice. Remove one")
        flags[flag.name] = value
        if flag.notice:
            notices.append(
                Notice(f"ignored: --{flag.name} ({flag.notice})", code="flag_ignored", data={"flag": flag.name})
            )
    return FlaggedPrompt(
        prompt=_weigh(text[start : dashes[0] if dashes else len(text)].strip()),
        negative_prompt=", ".join(flags.get("no", ())),
        aspect=flags.get("ar"),
        flags=MappingProxyType(flags),
        links=tuple(links),
        notices=tuple(notices),
    )


def aspect_size(aspect: tuple[int, int], native_size: int, multiple: int) -> tuple[int, int]:
    """Width and height of about that shape, in multiples of `multiple`, with at most native_size squared pixels.

    Of the sizes around the exact one that which is nearest in shape and in pixels, shape counting double: for SDXL and
    3:2 that is 1216x832, the size that it was trained with.
    """
    wide, high = aspect
    sizes = [
        (width, height)
        for width in _around(native_size * math.sqrt(wide / high), multiple)
        for height in _around(native_size * math.sqrt(high / wide), multiple)
    ]
    fitting = [size for size in sizes if size[0] * size[1] <= native_size**2] or sizes[:1]

    def distance(size: tuple[int, int]) -> float:
        shape = math.log(size[0] * high / (size[1] * wide))
        return 2 * abs(shape) + abs(math.log(size[0] * size[1] / native_size**2))

    return min(fitting, key=distance)


def _around(side: float, multiple: int) -> tuple[int, int]:
    # The root of a square number may fall short of it by a rounding.
    below = max(multiple, int(side * (1 + 1e-9) // multiple) * multiple)
    return below, below + multiple


def _style_factor(stylize: float) -> float:
    if stylize <= STYLIZE:
        return 1.25 - 0.25 * stylize / STYLIZE
    return 1 - 0.4 * (stylize - STYLIZE) / (1000 - STYLIZE)


def _read(text: str) -> tuple[Flag, Any]:
    """One flag with its value, from its dash on."""
    name, _, rest = text.lstrip("-\u2014\u2013").partition(" ")
    name, value = name.strip().lower(), rest.strip()
    flag = _BY_NAME.get(SHORT.get(name, name))
    if flag is None:
        known = ", ".join(f"--{flag.name}" for flag in FLAGS)
        raise PromptError("flag", f"prompt: unknown flag {short('--' + name)}. Known: {known}")
    return flag, _VALUES[flag.kind](flag, value)


def _no_value(flag: Flag, value: str) -> None:
    if value:
        raise PromptError(
            "flag",
            f"prompt: {short(value)} follows --{flag.name}, which takes no value. Write the text before all flags",
        )


def _text(flag: Flag, value: str) -> str:
    if not value and flag.name not in ("niji", "profile"):
        raise _wrong(flag, value, "a value")
    return value


def _style(flag: Flag, value: str) -> str:
    if value.lower() != "raw":
        raise _wrong(flag, value, "raw")
    return "raw"


def _words(flag: Flag, value: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in value.split(",") if word.strip())
    if not words:
        raise _wrong(flag, value, "words, separated by commas")
    return words


def _ratio(flag: Flag, value: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5}):([0-9]{1,5})", value)
    if match is None or not int(match[1]) or not int(match[2]):
        raise _wrong(flag, value, "two whole numbers such as 3:2")
    wide, high = int(match[1]), int(match[2])
    if max(wide, high) > 16 * min(wide, high):
        raise _wrong(flag, value, "a ratio of at most 16:1 or 1:16")
    return wide, high


def _int(flag: Flag, value: str) -> int:
    number = _float(flag, value)
    if number != int(number):
        raise _wrong(flag, value, f"a whole number from {flag.low:.0f} to {flag.high:.0f}")
    return int(number)


def _float(flag: Flag, value: str) -> float:
    match = re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12}", value)
    if match is None or not flag.low <= float(value) <= flag.high:
        raise _wrong(flag, value, f"a number from {flag.low:g} to {flag.high:.0f}")
    return float(value)


_VALUES: Mapping[Kind, Callable[[Flag, str], Any]] = {
    "int": _int,
    "float": _float,
    "ratio": _ratio,
    "words": _words,
    "text": _text,
    "none": _no_value,
    "style": _style,
}


def _wrong(flag: Flag, value: str, expected: str) -> PromptError:
    return PromptError("flag", f"prompt: --{flag.name} is {short(value)}, expected {expected}")


def _weigh(text: str) -> str:
    """a::2 b::-0.5 as prompts joined by AND; other text as it is."""
    parts: list[tuple[str, float]] = []
    last = 0
    for match in _PART.finditer(text):
        parts.append((text[last : match.start()].strip(), float(match[1] or 1)))
        last = match.end()
    if not parts:
        return text
    if rest := text[last:].strip():
        parts.append((rest, 1.0))
    if len(parts) > MAX_SUBPROMPTS:
        raise PromptError("prompt_limit", f"prompt: {len(parts)} parts with ::, expected at most {MAX_SUBPROMPTS}")
    total = sum(weight for _, weight in parts)
    if total <= 0 or any(abs(weight) > MAX_WEIGHT for _, weight in parts):
        raise PromptError("number", f"prompt: the weights behind :: sum to {total:g}, expected more than 0")
    # One part alone has nothing to be weighed against.
    return parts[0][0] if len(parts) == 1 else write_subprompts(parts)
