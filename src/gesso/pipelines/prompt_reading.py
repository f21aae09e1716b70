"""Explains how prompts are parsed: weights, tokens, chunks, prompt editing, LoRA and embeddings, without drawing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gesso.notices import Notice
from gesso.pipelines.adapters import RequestedAdapters, find_adapters, read_adapters
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.vocabulary import emoji_notice, language_notice, read_emoji, read_language
from gesso.request.checks import parse_json_object
from gesso.request.finder import Finder
from gesso.request.request import ResolvedRequest
from gesso.runtime.adapter_cache import AdapterCache
from gesso.runtime.model import LoadedModel
from gesso.text.chunks import MAX_CHUNKS, ChunkReport, EmbeddingToken, chunk, known_pieces
from gesso.text.dialects import find_dialect
from gesso.text.grammar import ParsedPrompt, WeightedPrompt
from gesso.text.prompt import Piece, WeightedText

MAX_TEXTS = 64  # shown of a prompt with prompt editing
MAX_NOTES = 2**16  # bytes of the .json file next to a LoRA
MAX_TRIGGER = 500  # characters


@dataclass(frozen=True, kw_only=True)
class ReadText:
    """One text of a prompt, as it is encoded.

    steps    the steps that use it, counted from 1, such as "1-10" or "1, 3, 5"
    weight   of the prompt among those joined by AND, `.and()` or `.blend()`
    pieces   text and weight, in order; None in place of a text is a BREAK
    tokens   number of tokens per chunk, without beginning, end and padding
    room     tokens that fit into a chunk
    cut      text that did not fit
    unknown  words that the model does not know
    clamped  pieces whose weight was out of range: text, requested weight, used weight
    """

    steps: str
    weight: float
    pieces: tuple[tuple[str | None, float], ...]
    tokens: tuple[int, ...]
    room: int
    cut: str = ""
    unknown: tuple[str, ...] = ()
    clamped: tuple[tuple[str, float, float], ...] = ()

    @property
    def lines(self) -> Iterator[str]:
        """For people."""
        for text, weight in self.pieces:
            yield "    BREAK" if text is None else f"    {weight:<8.4g}{text!r}"
        yield f"    tokens: {', '.join(f'{count} of {self.room}' for count in self.tokens)}"
        if self.cut:
            yield f"    cut off: {self.cut[:200]!r}"
        if self.unknown:
            yield f"    unknown words: {', '.join(map(repr, self.unknown[:20]))}"
        for text, requested, used in self.clamped[:20]:
            yield f"    weight of {text[:60]!r} changed from {requested:g} to {used:g}"


@dataclass(frozen=True, kw_only=True)
class ReadField:
    """A prompt or negative prompt.  joined: how several texts of one step are joined (`ParsedPrompt`), "" for one"""

    field: str
    joined: str
    texts: tuple[ReadText, ...]
    notices: tuple[Notice, ...] = ()

    @property
    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.field.replace('_', ' ')}:"
        for text in self.texts:
            share = f", weight {text.weight:g} ({self.joined})" if self.joined else ""
            yield f"  steps {text.steps}{share}"
            yield from text.lines
        yield from (f"  note: {notice}" for notice in self.notices)


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """How the prompts of a request are read.

    loras, words  LoRA and embeddings (textual inversion) of the prompts, for JSON
    """

    syntax: str
    emphasis: str
    fields: tuple[ReadField, ...]
    loras: tuple[Mapping[str, Any], ...] = ()
    words: tuple[Mapping[str, Any], ...] = ()
    notices: tuple[Notice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)

    @property
    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"syntax {self.syntax}, emphasis {self.emphasis}"
        for field in self.fields:
            yield from field.lines
        for lora in self.loras:
            points = "".join(f", x{factor:g} at {share:g}" for share, factor in lora["points"])
            yield f"LoRA {lora['name']}: {lora['weight']:g}, text encoder {lora['text_weight']:g}{points}"
            yield f"  {lora['file']}: {lora['fit']}"
            if lora["trigger"]:
                yield f"  trigger words: {lora['trigger']}"
        for word in self.words:
            yield f"embedding {word['name']}: {word['vectors']} vectors, {word['file']}"
        yield from (f"note: {notice}" for notice in self.notices)


def read_request(request: ResolvedRequest, model: LoadedModel, finder: Finder, cache: AdapterCache) -> ReadRequest:
    """How a model reads the prompts of a request. Runs no network.

    Raises PromptError and RequestError as drawing does, ModelFileError for an adapter that does not fit.
    """
    texts = ParsedTexts(request)
    requested = find_adapters(request, texts, finder, model.tokenizer)
    adapters = read_adapters(requested, model, cache)
    with adapters.embeddings_only(model) as tokens:
        fields = [_field("prompt", texts.prompt, request, model, tokens)]
        if request.negative_prompt:
            fields.append(_field("negative_prompt", texts.negative_prompt, request, model, tokens))
    paths = dict(requested.embeddings)
    return ReadRequest(
        syntax=request.conventions.syntax,
        emphasis=request.conventions.emphasis,
        fields=tuple(fields),
        loras=tuple(_loras(requested, model, cache)),
        words=tuple(
            {"name": word.name, "vectors": word.num_vectors, "file": str(paths.get(word.name, word.where))}
            for word in adapters.embeddings
        ),
        notices=adapters.notices,
    )


def _loras(requested: RequestedAdapters, model: LoadedModel, cache: AdapterCache) -> Iterator[Mapping[str, Any]]:
    for each in requested.loras:
        use, lora = each.use, cache.lora(each.path, model)
        kinds = ", ".join(f"{count} {kind}" for kind, count in lora.kinds.items())
        yield {
            "name": use.name,
            "weight": use.weight,
            "text_weight": use.weight if use.text_weight is None else use.text_weight,
            "points": use.points,
            "rank": each.rank,
            "file": str(each.path),
            "trigger": _trigger(each.path, lora.metadata),
            "fit": f"{lora.match.matched} modules matched ({kinds}), {len(lora.match.unmatched)} unmatched",
        }


def _trigger(path: Path, metadata: Mapping[str, str]) -> str:
    """The trigger words of a LoRA, from A1111's .json file next to it or from its metadata; "" if neither has any."""
    notes = path.with_suffix(".json")
    words: object = None
    with suppress(OSError, ValueError):
        if notes.is_file() and notes.stat().st_size <= MAX_NOTES:
            words = parse_json_object(notes.read_text(encoding="utf-8"), "notes").get("activation text")
    trigger = words if isinstance(words, str) and words else metadata.get("modelspec.trigger_phrase", "")
    return trigger[:MAX_TRIGGER]


def _field(
    name: str, parsed: ParsedPrompt, request: ResolvedRequest, model: LoadedModel, embeddings: Sequence[EmbeddingToken]
) -> ReadField:
    dialect, keep = find_dialect(request.conventions.syntax), [embedding.name for embedding in embeddings]
    steps: dict[tuple[int, str], list[int]] = {}  # subprompt and its text -> steps
    prompts: dict[tuple[int, str], WeightedPrompt] = {}
    first = 1
    for planned in parsed.plan(request.num_steps):
        for place, prompt in enumerate(planned.prompts):
            prompts[place, prompt.text] = prompt
            steps.setdefault((place, prompt.text), []).extend(range(first, planned.last_step + 1))
        first = planned.last_step + 1
    shown = sorted(prompts, key=lambda key: (key[0], steps[key]))[:MAX_TEXTS]
    more = len(prompts) - len(shown)
    notices = parsed.notices
    if more:
        notices = (*notices, Notice(f"{more} more texts", code="texts_left_out", data={"count": more}))
    most = 1 if request.conventions.chunks == "first" or model.tokenizer.kind == "words" else MAX_CHUNKS
    texts = []
    for key in shown:
        pieces, emoji = read_emoji(prompts[key].pieces, model.tokenizer, model.family.objects)
        if emoji:
            notices = (*notices, emoji_notice(emoji, name))
        pieces, language = read_language(pieces, model.tokenizer, model.family.objects, keep)
        if language is not None:
            notices = (*notices, language_notice(language, name))
        report = chunk(
            known_pieces(pieces, model.tokenizer, keep),
            model.tokenizer,
            whole_words=dialect.whole_words,
            max_chunks=most,
            embeddings=embeddings,
        ).report
        texts.append(_text(prompts[key], steps[key], report, _unknown(pieces, model, keep), model.tokenizer.length - 2))
    return ReadField(
        field=name, joined=parsed.joined if len(parsed.subprompts) > 1 else "", texts=tuple(texts), notices=notices
    )


def _text(
    prompt: WeightedPrompt, steps: Sequence[int], report: ChunkReport, unknown: tuple[str, ...], room: int
) -> ReadText:
    return ReadText(
        steps=_ranges(steps),
        weight=prompt.weight,
        pieces=tuple(
            (piece.text, piece.weight) if isinstance(piece, WeightedText) else (None, 1.0) for piece in prompt.pieces
        ),
        tokens=report.num_tokens,
        room=room,
        cut=report.cut,
        unknown=unknown,
        clamped=report.clamped,
    )


def _unknown(pieces: Iterable[Piece], model: LoadedModel, keep: Sequence[str]) -> tuple[str, ...]:
    texts = [piece.text for piece in pieces if isinstance(piece, WeightedText)]
    return tuple(dict.fromkeys(word for text in texts for word in model.tokenizer.unknown_words(text, keep=keep)))


def _ranges(steps: Sequence[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7" """
    parts: list[list[int]] = []
    for step in steps:
        if parts and parts[-1][-1] == step - 1:
            parts[-1][1:] = [step]
        else:
            parts.append([step])
    return ", ".join("-".join(map(str, part)) for part in parts)
