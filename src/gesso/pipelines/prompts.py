"""The text of a request becomes conditioning: read by its syntax, encoded, told about in notices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gesso.diffusion.samplers import SAMPLERS
from gesso.families.encoding import EncodedPrompt as EncodedText
from gesso.families.encoding import Reading, join_prompts, pad_chunks, zeros_like
from gesso.pipelines.checks import RequestError
from gesso.pipelines.request import ResolvedRequest
from gesso.pipelines.vocabulary import vocabulary_notices
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import LoadedModel
from gesso.runtime.finite import rescued
from gesso.text.chunks import known_pieces
from gesso.text.dialects import find_dialect
from gesso.text.emphasis import Emphasis
from gesso.text.grammar import ParsedPrompt
from gesso.text.prompt import Piece, WeightedText

MAX_CUT = 80  # characters of what was left out that a notice shows


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its negative as the network wants them, one row each, with what the user should know about them."""

    cond: Conditioning
    uncond: Conditioning | None  # None where guidance is off
    notices: tuple[str, ...]


def encode_prompts(model: LoadedModel, request: ResolvedRequest) -> EncodedPrompt:
    """Prompt and negative prompt to conditioning of one row each.

    Raises RequestError for a syntax that cannot be drawn, PromptError for a prompt beyond the limits, NotFiniteError
    for numbers that are not finite.
    """
    cond, notices = _encode(model, request, "prompt")
    if model.family.is_told_guidance:
        left_out = ("left out: the negative prompt; the model is told its guidance and draws without",)
        return EncodedPrompt(_conditioning(cond), None, notices + (left_out if request.negative_prompt else ()))
    unguided = request.guidance_scale == 1 and request.image_guidance_scale is None
    if unguided and not SAMPLERS[request.sampler].asks_uncond:
        return EncodedPrompt(_conditioning(cond), None, notices)
    uncond, more = _encode(model, request, "negative_prompt")
    if cond.context.shape != uncond.context.shape:  # one call for both: the shorter one gets chunks of the empty text
        empty, length = _plain(model, request, "", negative=True), max(cond.context.shape[1], uncond.context.shape[1])
        cond, uncond = pad_chunks(cond, empty, length), pad_chunks(uncond, empty, length)
    return EncodedPrompt(_conditioning(cond), _conditioning(uncond), notices + more)


def _conditioning(encoded: EncodedText) -> Conditioning:
    return Conditioning(context=encoded.context, added=encoded.added)


def _encode(model: LoadedModel, request: ResolvedRequest, field: str) -> tuple[EncodedText, tuple[str, ...]]:
    text, negative, said = getattr(request, field), field == "negative_prompt", field.replace("_", " ")
    parsed, notices = _parse(request, text, field)
    prompts = parsed.plan(request.num_steps)[0].prompts
    words = " ".join(_words(prompt.pieces) for prompt in prompts)
    notices += vocabulary_notices(model.tokenizer, words, field=said, objects=model.family.objects, model=model.name)
    known = [known_pieces(prompt.pieces, model.tokenizer) for prompt in prompts]
    texts = [_text(model, request, pieces, negative=negative) for pieces in known]
    encoded = texts[0]
    if len(texts) > 1:
        empty = _plain(model, request, "", negative=negative)
        ((encoded, _),) = join_prompts(texts, [prompt.weight for prompt in prompts], parsed.joined, empty)
    if negative and not text and request.empty_negative == "as_trained" and model.family.zero_empty_negative:
        encoded = zeros_like(model.family, encoded)
    return encoded, notices + tuple(notice for text in texts for notice in _cut(text, said))


def _words(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text if isinstance(piece, WeightedText) else " " for piece in pieces)


def _parse(request: ResolvedRequest, text: str, field: str) -> tuple[ParsedPrompt, tuple[str, ...]]:
    """The text by its syntax. Raises RequestError for prompts that change from step to step, and for AND."""
    dialect = find_dialect(request.syntax)
    parsed = dialect.parse_negative(text) if field == "negative_prompt" else dialect.parse(text)
    if not parsed.is_constant:
        raise RequestError(
            field,
            "the prompt changes between steps ([a:b:0.5], [a|b]) or joins several (AND), which is not drawn yet. "
            "Write \\[ for a bracket that is text, or read every sign as text with --set syntax=plain",
        )
    loras = tuple(f"left out: <{tag.kind}:{tag.name[:MAX_CUT]}>, which is not attached yet" for tag in parsed.networks)
    return parsed, parsed.notices + loras


def _plain(model: LoadedModel, request: ResolvedRequest, text: str, *, negative: bool) -> EncodedText:
    return _text(model, request, (WeightedText(text),), negative=negative)


def _text(model: LoadedModel, request: ResolvedRequest, pieces: tuple[Piece, ...], *, negative: bool) -> EncodedText:
    dialect = find_dialect(request.syntax)
    emphasis: Emphasis = request.emphasis  # type: ignore[assignment]  # checked by the request
    most = 1 if request.chunks == "first" else None
    reading = Reading(emphasis=emphasis, whole_words=dialect.whole_words, max_chunks=most)
    found: list[EncodedText] = []

    def run() -> Tensor:
        found.append(
            model.encode_prompt(
                pieces,
                clip_skip=request.clip_skip,
                width=request.width,
                height=request.height,
                negative=negative,
                skip_everywhere=request.clip_skip_everywhere,
                reading=reading,
            )
        )
        added = found[-1].added
        return found[-1].context if added is None else torch.cat([found[-1].context.flatten(1), added], dim=1)

    with torch.inference_mode():
        rescued(model, "text", run)
    return found[-1]


def _cut(encoded: EncodedText, said: str) -> tuple[str, ...]:
    """Notices about text that found no room and weights that were changed."""
    report = encoded.chunks
    if not report.cut:
        return report.notices
    shown = report.cut if len(report.cut) <= MAX_CUT else f"{report.cut[: MAX_CUT - 3]}..."
    return (*report.notices[:-1], f"of the {said} {report.total_tokens} tokens fit: left out from '{shown}' on")
