"""Prompt encoding: the prompts of a request become conditioning for the UNet, with notices about what was changed.

A prompt may change over the steps (prompt editing), and several may be joined by AND. Each text is encoded once,
whatever the number of steps that use it; the run's clock selects the current one (`networks.PromptEditing`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gesso.diffusion.samplers import SAMPLERS
from gesso.families.base import Family
from gesso.families.encoding import PromptEmbeds, Reading, join_prompts, pad_chunks, zeros_like
from gesso.notices import Notice
from gesso.pipelines.adapters import Adapters
from gesso.pipelines.given_tensors import NOTHING_GIVEN, GivenTensors
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.vocabulary import (
    emoji_notice,
    language_notice,
    read_emoji,
    read_language,
    vocabulary_notices,
)
from gesso.request.checks import RequestError
from gesso.request.request import ResolvedRequest
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import LoadedModel
from gesso.runtime.finite import finite
from gesso.text.chunks import known_pieces
from gesso.text.dialects import find_dialect
from gesso.text.emphasis import Emphasis
from gesso.text.grammar import ParsedPrompt, PlannedPrompt
from gesso.text.prompt import Piece, PromptError, WeightedText

MAX_CUT = 80  # characters of ignored text that a notice shows
MAX_TEXT_NOTICES = 16  # of one text
MAX_ENCODED_CHUNKS = 512  # of all texts over the steps; 0.3 GB for SDXL

NO_ADAPTERS = Adapters()


@dataclass(frozen=True, eq=False)
class TextConditioning:
    """Conditional and unconditional conditioning of some steps.

    cond     [n, ...]: one row for each prompt joined by AND
    uncond   [1, ...]; None if guidance is off
    weights  of the n prompts
    In place of one row there may be one for each picture of a batch; then n is 1.
    """

    cond: Conditioning
    uncond: Conditioning | None
    weights: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """An encoded prompt and negative prompt, with notices about them.

    moments: (last step, conditioning) pairs, steps counted from 1 and rising; the last holds to the end
    adapters: LoRA and embeddings that the prompt was encoded with; the picture is drawn with them, too
    """

    moments: tuple[tuple[int, TextConditioning], ...]
    notices: tuple[Notice, ...] = ()
    adapters: Adapters = NO_ADAPTERS

    @classmethod
    def constant(cls, texts: TextConditioning, notices: tuple[Notice, ...] = ()) -> "EncodedPrompt":
        """One conditioning for all steps."""
        return cls(((1, texts),), notices)

    @property
    def cond(self) -> Conditioning:
        """Of the first step."""
        return self.moments[0][1].cond

    @property
    def uncond(self) -> Conditioning | None:
        """Of the first step."""
        return self.moments[0][1].uncond


def encode_prompts(
    model: LoadedModel,
    request: ResolvedRequest,
    parsed: ParsedTexts | None = None,
    *,
    num_steps: int | None = None,
    base_steps: int = 0,
    adapters: Adapters = NO_ADAPTERS,
    given: GivenTensors = NOTHING_GIVEN,
) -> EncodedPrompt:
    """Encodes prompt and negative prompt.

    parsed: the parsed prompts, if there are any. num_steps: of the whole schedule; by default those of the request.
    base_steps: steps of the first pass, for a second one whose prompt editing counts from there. adapters: attached to
    the text encoders meanwhile. given: embeddings that take the place of an empty prompt or negative prompt.
    Raises RequestError for a prompt that the model does not support, PromptError for a prompt beyond the limits,
    NotFiniteError for NaN and infinity.
    """
    texts = _Encoder(
        model, request, parsed or ParsedTexts(request), num_steps or request.num_steps, base_steps, adapters, given
    )
    prompt = texts.read("prompt")
    prompt = replace(prompt, notices=prompt.notices + _guided_to_the_end(request, model.family, prompt))
    if model.family.takes_guidance_scale:
        if any(len(planned.prompts) > 1 for planned in prompt.plan):
            raise RequestError(
                "prompt",
                "AND needs classifier-free guidance, which this guidance-distilled model does without. Remove AND",
            )
        text = "negative prompt ignored: this guidance-distilled model does without classifier-free guidance"
        left_out = Notice(text, code="negative_prompt_left_out", field="negative_prompt")
        notices = prompt.notices + ((left_out,) if request.negative_prompt else ())
        return texts.combined(prompt, None, notices)
    unguided = request.guidance_scale == 1 and request.source.guidance_scale is None and not prompt.is_joined
    if unguided and not SAMPLERS[request.sampler].asks_uncond:
        text = "negative prompt ignored: guidance 1 turns guidance off, and the negative prompt with it"
        left_out = Notice(text, code="negative_prompt_left_out", field="negative_prompt")
        return texts.combined(prompt, None, prompt.notices + ((left_out,) if request.negative_prompt else ()))
    negative = texts.read("negative_prompt")
    return texts.combined(prompt, negative, prompt.notices + negative.notices)


def _guided_to_the_end(request: ResolvedRequest, family: Family, prompt: "_Text") -> tuple[Notice, ...]:
    """What to tell where `guidance_until` changes nothing."""
    if request.guidance_until in (None, 1.0):
        return ()
    if family.takes_guidance_scale:
        why = "this guidance-distilled model does without classifier-free guidance"
    elif SAMPLERS[request.sampler].asks_uncond:
        why = f"{SAMPLERS[request.sampler].label} asks for the negative prompt in every step"
    elif request.source.guidance_scale is not None:
        why = "guidance by text and picture (InstructPix2Pix) goes to the end"
    elif prompt.is_joined:
        why = "prompts that AND joins are guided to the end"
    elif request.guidance_scale == 1:
        why = "guidance 1 turns guidance off"
    else:
        return ()
    return (Notice(f"`guidance_until` has no effect: {why}", code="guidance_until_left_out", field="guidance_until"),)


@dataclass(frozen=True, eq=False)
class _Text:
    """One parsed field of the request.  plan: its texts from step to step"""

    field: str
    parsed: ParsedPrompt
    plan: tuple[PlannedPrompt, ...]
    notices: tuple[Notice, ...]

    @property
    def is_joined(self) -> bool:
        """Whether several prompts are joined by AND."""
        return self.parsed.joined == "guidance" and len(self.parsed.subprompts) > 1


_Key = tuple[tuple[str, ...], bool]  # texts of the prompts, negative


class _Encoder:
    """Encodes each text of a request once."""

    def __init__(
        self,
        model: LoadedModel,
        request: ResolvedRequest,
        parsed: ParsedTexts,
        num_steps: int,
        base_steps: int,
        adapters: Adapters,
        given: GivenTensors,
    ) -> None:
        self.model, self.request, self.parsed, self.adapters = model, request, parsed, adapters
        self.num_steps, self.base_steps = num_steps, base_steps
        self.dialect = find_dialect(request.conventions.syntax)
        self._encoded: dict[tuple[str, bool], PromptEmbeds] = {}
        self._joined: dict[_Key, list[tuple[PromptEmbeds, float]]] = {}
        self._conditioned: dict[tuple[_Key, _Key | None], TextConditioning] = {}
        self._num_chunks = 0
        self._filler: PromptEmbeds | None = None  # the empty text, where embeddings take its place
        self._is_given = {"prompt": given.prompt_embeddings, "negative_prompt": given.negative_prompt_embeddings}
        if any(one is not None for one in self._is_given.values()):
            self._filler = self._empty()
            self._encoded.update(given.encoded(like=self._filler))

    def read(self, field: str) -> _Text:
        """Plans a field of the request over the steps and encodes its texts."""
        negative, label = field == "negative_prompt", field.replace("_", " ")
        parsed = self.parsed.negative_prompt if negative else self.parsed.prompt
        plan = parsed.plan(self.num_steps, base_steps=self.base_steps)
        notices = list(parsed.notices)
        texts = {prompt.text: prompt.pieces for planned in plan for prompt in planned.prompts}
        model, keep = self.model, self.adapters.spellings
        named = {text: read_emoji(pieces, model.tokenizer, model.family.objects) for text, pieces in texts.items()}
        texts = {text: pieces for text, (pieces, _) in named.items()}
        if emoji := {sign: name for _, read in named.values() for sign, name in read.items()}:
            notices.append(emoji_notice(emoji, field))
        for text, pieces in texts.items():
            texts[text], read = read_language(pieces, model.tokenizer, model.family.objects, keep)
            if read is not None:
                notices.append(language_notice(read, field))
        words = " ".join(map(_words, texts.values()))
        if self._is_given[field] is None:
            notices += vocabulary_notices(
                model.tokenizer, words, field=label, objects=model.family.objects, model=model.name, keep=keep
            )
        for each, pieces in texts.items():
            notices += _cut(self._text(each, pieces, negative=negative), label)
        return _Text(field, parsed, plan, _few(notices))

    def combined(self, prompt: _Text, negative: _Text | None, notices: tuple[Notice, ...]) -> EncodedPrompt:
        """Conditioning from step to step; equal steps share one object."""
        plans = [text.plan for text in (prompt, negative) if text is not None]
        moments = []
        for last in sorted({planned.last_step for plan in plans for planned in plan}):
            conds = self._join(prompt, _at(prompt.plan, last))
            unconds = None if negative is None else self._join(negative, _at(negative.plan, last))
            moments.append((last, self._condition(conds, unconds)))
        return EncodedPrompt(tuple(moments), self.adapters.notices + notices, self.adapters)

    def _condition(self, cond: _Key, uncond: _Key | None) -> TextConditioning:
        if (cond, uncond) not in self._conditioned:
            prompts, weights = map(list, zip(*self._joined[cond], strict=True))
            parts = [*prompts]
            if uncond is not None:
                parts.append(self._joined[uncond][0][0])
                if self.request.conventions.uneven_chunks == "padded":
                    parts = self._padded(parts)
            self._count(sum(len(part.chunks.num_tokens) for part in parts) if self._conditioned else 0)
            last = None if uncond is None else _conditioning([parts.pop()])
            self._conditioned[cond, uncond] = TextConditioning(_conditioning(parts), last, tuple(weights))
        return self._conditioned[cond, uncond]

    def _padded(self, parts: list[PromptEmbeds]) -> list[PromptEmbeds]:
        """Pads all to one length with chunks of the empty text, so that one call takes them all."""
        length = max(part.context.shape[1] for part in parts)
        if self._filler is not None and any(
            (length - part.context.shape[1]) % self._filler.context.shape[1] for part in parts
        ):
            lengths = " and ".join(str(part.context.shape[1]) for part in parts)
            raise RequestError(
                "prompt_embeddings",
                f"`prompt_embeddings` and the negative prompt have {lengths} tokens, expected the same number, or "
                f"multiples of {self._filler.context.shape[1]}",
            )
        return [pad_chunks(part, self._empty(), length) if part.context.shape[1] < length else part for part in parts]

    def _join(self, text: _Text, planned: PlannedPrompt) -> _Key:
        """Joins the prompts of one step by the rule of their syntax, and returns the key of the result in the cache."""
        negative = text.field == "negative_prompt"
        key = tuple(prompt.text for prompt in planned.prompts), negative
        if key not in self._joined:
            encoded = [self._text(prompt.text, prompt.pieces, negative=negative) for prompt in planned.prompts]
            if len(encoded) > 1:
                weights = [prompt.weight for prompt in planned.prompts]
                self._joined[key] = join_prompts(encoded, weights, text.parsed.joined, self._empty())
            else:
                zeros = (
                    self.request.conventions.empty_negative == "as_trained" and self.model.family.zero_empty_negative
                )
                if zeros and negative and not (self.request.negative_prompt or self._is_given["negative_prompt"]):
                    encoded = [zeros_like(self.model.family, encoded[0])]
                self._joined[key] = [(encoded[0], 1.0)]
        return key

    def _empty(self) -> PromptEmbeds:
        return self._filler if self._filler is not None else self._text("", (WeightedText(""),), negative=True)

    def _text(self, text: str, pieces: tuple[Piece, ...], *, negative: bool) -> PromptEmbeds:
        key = text.strip(), negative
        if key not in self._encoded:
            encoded = self._encode(
                known_pieces(pieces, self.model.tokenizer, self.adapters.spellings), negative=negative
            )
            self._count(len(encoded.chunks.num_tokens))
            self._encoded[key] = encoded
        return self._encoded[key]

    def _count(self, num_chunks: int) -> None:
        self._num_chunks += num_chunks
        if self._num_chunks > MAX_ENCODED_CHUNKS:
            raise PromptError(
                "prompt_limit",
                f"prompt: its texts over {self.num_steps} steps fill more than {MAX_ENCODED_CHUNKS} chunks. "
                "Shorten it, or remove prompt editing and alternating words such as [a|b]",
            )

    def _encode(self, pieces: Sequence[Piece], *, negative: bool) -> PromptEmbeds:
        model, request = self.model, self.request
        emphasis: Emphasis = request.conventions.emphasis
        most = 1 if request.conventions.chunks == "first" else None
        as_diffusers = request.conventions.clip_skip_everywhere  # it skips no layer of a negative prompt
        reading = Reading(emphasis=emphasis, whole_words=self.dialect.whole_words, max_chunks=most)
        embeds: list[PromptEmbeds] = []

        def run(model: LoadedModel) -> Tensor:
            with self.adapters.on_text_encoders(model) as tokens:
                embeds.append(
                    model.encode_prompt(
                        pieces,
                        clip_skip=1 if as_diffusers and negative else request.clip_skip,
                        width=request.width,
                        height=request.height,
                        negative=negative,
                        skip_everywhere=as_diffusers,
                        reading=replace(reading, embeddings=tokens),
                    )
                )
            added = embeds[-1].added
            return embeds[-1].context if added is None else torch.cat([embeds[-1].context.flatten(1), added], dim=1)

        with torch.inference_mode():
            finite("text", run, model)
        return embeds[-1]


def _at(plan: Sequence[PlannedPrompt], step: int) -> PlannedPrompt:
    """The prompts of a step, counted from 1."""
    return next(planned for planned in plan if step <= planned.last_step)


def _conditioning(prompts: Sequence[PromptEmbeds]) -> Conditioning:
    """One row per prompt."""
    added = [prompt.added for prompt in prompts if prompt.added is not None]
    return Conditioning(
        context=torch.cat([prompt.context for prompt in prompts]), added=torch.cat(added) if added else None
    )


def _words(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text if isinstance(piece, WeightedText) else " " for piece in pieces)


def _cut(encoded: PromptEmbeds, label: str) -> Iterator[Notice]:
    """Notices about a prompt that is too long and weights that were changed."""
    report = encoded.chunks
    yield from report.notices[: -1 if report.cut else None]
    if report.cut:
        shown = report.cut if len(report.cut) <= MAX_CUT else f"{report.cut[: MAX_CUT - 3]}..."
        why = f"{label} too long: the first {report.total_tokens} tokens are used"
        if report.broken:
            why = f"{label}: BREAK begins another chunk, but one chunk is all that is used here; leave BREAK out"
        text = f"{why}; ignored from '{shown}' on"
        yield Notice(text, code="prompt_cut", data={"cut": report.cut, "num_tokens": report.total_tokens})


def _few(notices: Sequence[Notice]) -> tuple[Notice, ...]:
    """Notices without duplicates, at most MAX_TEXT_NOTICES."""
    unique = tuple(dict.fromkeys(notices))
    if len(unique) <= MAX_TEXT_NOTICES:
        return unique
    more = len(unique) - MAX_TEXT_NOTICES + 1
    last = Notice(f"and {more} more notices about this text", code="notices_left_out", data={"count": more})
    return (*unique[: MAX_TEXT_NOTICES - 1], last)
