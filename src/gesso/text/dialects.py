"""The grammars of prompts by name, each with the rule of emphasis that its own tool goes with. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gesso.registry import Registry
from gesso.text.comfyui import parse_comfyui
from gesso.text.compel import parse_compel
from gesso.text.grammar import ParsedPrompt, SubPrompt, parse_prompt
from gesso.text.prompt import Piece, PromptError, Traced, WeightedText, check_prompt
from gesso.text.schedule import constant

if TYPE_CHECKING:
    from gesso.text.emphasis import Emphasis


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to write a prompt.

    parse        text to its parts; raises PromptError
    parse_negative  the same for a negative prompt
    emphasis     what weights do, unless a request says something else
    whole_words  chunks end between words, rather than behind a near comma
    """

    name: str
    parse: Callable[[str], ParsedPrompt]
    parse_negative: Callable[[str], ParsedPrompt]
    emphasis: "Emphasis"
    whole_words: bool = False


def _plain(text: str) -> ParsedPrompt:
    return _constant(text, lambda traced: (WeightedText(traced.text, 1.0, *traced.span(0, len(traced.text))),))


def _comfyui(text: str) -> ParsedPrompt:
    return _constant(text, parse_comfyui)


def _constant(text: str, read: Callable[[Traced], tuple[Piece, ...]]) -> ParsedPrompt:
    check_prompt(text)
    return ParsedPrompt(source=text, subprompts=(SubPrompt(schedule=constant(text, read)),))


_BUILTIN = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="a1111",
            parse=parse_prompt,
            parse_negative=partial(parse_prompt, negative=True),
            emphasis="original",
        ),
        Dialect(name="comfyui", parse=_comfyui, parse_negative=_comfyui, emphasis="comfyui", whole_words=True),
        Dialect(name="compel", parse=parse_compel, parse_negative=parse_compel, emphasis="compel"),
        Dialect(name="plain", parse=_plain, parse_negative=_plain, emphasis="ignore"),  # every sign is text
    )
}

DIALECTS: Registry[Dialect] = Registry(Dialect, "gesso.dialects", _BUILTIN)


def find_dialect(name: str) -> Dialect:
    """The dialect of a name. Raises PromptError, which names all of them, for any other."""
    if name not in DIALECTS:
        raise PromptError("dialect", f"unknown prompt dialect {name[:32]!r}. Known: {', '.join(DIALECTS)}.")
    return DIALECTS[name]
