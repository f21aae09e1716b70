"""The prompt syntaxes by name (a1111, comfyui, compel, plain), each with its tool's emphasis. Imports no torch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from gesso.arguments import check_callable, check_flag, check_text
from gesso.registry import Registry
from gesso.text.comfyui import parse_comfyui
from gesso.text.grammar import ParsedPrompt, SubPrompt, parse_prompt
from gesso.text.prompt import Piece, PromptError, Traced, WeightedText, check_prompt
from gesso.text.schedule import constant

if TYPE_CHECKING:
    from gesso.text.emphasis import Emphasis


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A prompt syntax.

    parse        text to its parts; raises PromptError
    parse_negative  the same for a negative prompt
    emphasis     how weights are applied, unless a request sets it
    whole_words  chunks end between words, as in ComfyUI, rather than after a comma
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


def _compel(text: str) -> ParsedPrompt:
    from gesso.text.compel import parse_compel  # with its grammar, which few prompts need

    return parse_compel(text)


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
        Dialect(name="compel", parse=_compel, parse_negative=_compel, emphasis="compel"),
        Dialect(name="plain", parse=_plain, parse_negative=_plain, emphasis="ignore"),  # every sign is text
    )
}

DIALECTS: Registry[Dialect] = Registry(Dialect, "gesso.dialects", _BUILTIN)


def find_dialect(name: str) -> Dialect:
    """The dialect of a name. Raises PromptError, which names all of them, for any other."""
    if name not in DIALECTS:
        raise PromptError("dialect", f"unknown prompt dialect {name[:32]!r}. Known: {', '.join(DIALECTS)}")
    dialect = DIALECTS[name]
    if DIALECTS.origin(name) is None:
        return dialect

    def guarded(parse: Callable[[str], ParsedPrompt], text: str) -> ParsedPrompt:
        with DIALECTS.guard(name):
            return parse(text)

    return replace(
        dialect, parse=partial(guarded, dialect.parse), parse_negative=partial(guarded, dialect.parse_negative)
    )


def weighted_dialect(
    name: str,
    read: Callable[[str], Sequence[WeightedText]],
    *,
    emphasis: "Emphasis" = "no_norm",
    whole_words: bool = False,
) -> Dialect:
    """A dialect in which a prompt is pieces of text with weights, and nothing else: for plug-ins.

    read  a prompt -> its pieces in their order, with the places where they stood; no piece: an empty prompt
    emphasis, whole_words  as in Dialect
    """

    check_text("name", name, "the name of the syntax")
    check_callable("read", read, "a function that gives the WeightedText of a prompt")
    check_text("emphasis", emphasis, "the name of a way to apply weights, such as no_norm")
    check_flag("whole_words", whole_words)

    def parse(text: str) -> ParsedPrompt:
        check_prompt(text)
        pieces = tuple(read(text)) or (WeightedText(""),)
        for piece in pieces:
            if not (math.isfinite(piece.weight) and 0 <= piece.start <= piece.end <= len(text)):
                raise ValueError(
                    f"a piece of the prompt has weight {piece.weight} and lies at {piece.start}:{piece.end}"
                )
        return ParsedPrompt(source=text, subprompts=(SubPrompt(schedule=constant(text, lambda traced: pieces)),))

    return Dialect(name=name, parse=parse, parse_negative=parse, emphasis=emphasis, whole_words=whole_words)
