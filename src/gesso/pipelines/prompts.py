"""The text of a request becomes conditioning: read by its syntax, encoded, told about in notices.

A prompt may change over the steps, and several may guide together (AND). Each text is encoded once, whatever the number
of steps that have it; which one counts, the run's clock says (`networks.ChangingText`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gesso.diffusion.samplers import SAMPLERS
from gesso.families.encoding import EncodedPrompt as EncodedText
from gesso.families.encoding import Reading, join_prompts, pad_chunks, zeros_like
from gesso.notices import Notice
from gesso.pipelines.adapters import Adapters
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.vocabulary import vocabulary_notices
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

MAX_CUT = 80  # characters of what was left out that a notice shows
MAX_TEXT_NOTICES = 16  # of one text
MAX_ENCODED_CHUNKS = 512  # of all texts over the steps; 0.3 GB for SDXL

NO_ADAPTERS = Adapters()


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of some steps, encoded.

    cond     [n, ...]: one row for each prompt that guides
    uncond   [1, ...]; None where guidance is off
    weights  of the n prompts
    In place of one row there may be as many as pictures are drawn together, then n is 1.
    """

    cond: Conditioning
    uncond: Conditioning | None
    weights: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt and its negative as the network wants them, with what the user should know about them.

    moments: last step, counted from 1, and the texts up to it, rising; the last hold to the end
    adapters: with which the text was encoded, and with which the picture is to be drawn
    """

    moments: tuple[tuple[int, Texts], ...]
    notices: tuple[Notice, ...] = ()
    adapters: Adapters = NO_ADAPTERS

    @classmethod
    def constant(cls, texts: Texts, notices: tuple[Notice, ...] = ()) -> "EncodedPrompt":
        """The same at every step."""
        return cls(((1, texts),), notices)

    @property
    def cond(self) -> Conditioning:
        """That of the first step."""
        return self.moments[0][1].cond

    @property
    def uncond(self) -> Conditioning | None:
        """That of the first step."""
        return self.moments[0][1].uncond


def encode_prompts(
    model: LoadedModel,
    request: ResolvedRequest,
    parsed: ParsedTexts | None = None,
    *,
    num_steps: int | None = None,
    base_steps: int = 0,
    adapters: Adapters = NO_ADAPTERS,
) -> EncodedPrompt:
    """Prompt and negative prompt to conditioning.

    parsed: its texts, where they are parsed already. num_steps: of the whole schedule; by default those of the request.
    base_steps: of the pass before a second one, from whose start moments are counted. adapters: on the text models
    meanwhile.
    Raises RequestError for text that the model cannot be told, PromptError for a prompt beyond the limits,
    NotFiniteError for numbers that are not finite.
    """
    texts = _Encoder(
        model, request, parsed or ParsedTexts(request), num_steps or request.num_steps, base_steps, adapters
    )
    prompt = texts.read("prompt")
    if model.family.is_told_guidance:
        if any(len(planned.prompts) > 1 for planned in prompt.plan):
            raise RequestError(
                "prompt", "AND needs guidance, which this model is told and draws without. Leave AND out"
            )
        text = "left out: the negative prompt; the model is told its guidance and draws without"
        left_out = Notice(text, code="negative_prompt_left_out", field="negative_prompt")
        notices = prompt.notices + ((left_out,) if request.negative_prompt else ())
        return texts.together(prompt, None, notices)
    unguided = request.guidance_scale == 1 and request.source.guidance_scale is None and not prompt.is_joined
    if unguided and not SAMPLERS[request.sampler].asks_uncond:
        return texts.together(prompt, None, prompt.notices)
    negative = texts.read("negative_prompt")
    return texts.together(prompt, negative, prompt.notices + negative.notices)


@dataclass(frozen=True, eq=False)
class _Text:
    """One field of the request, read.  plan: what it says from step to step"""

    field: str
    parsed: ParsedPrompt
    plan: tuple[PlannedPrompt, ...]
    notices: tuple[Notice, ...]

    @property
    def is_joined(self) -> bool:
        """Whether several prompts guide together."""
        return self.parsed.joined == "guidance" and len(self.parsed.subprompts) > 1


_Key = tuple[tuple[str, ...], bool]  # texts of the prompts, negative


class _Encoder:
    """Reads the texts of a request and encodes each once."""

    def __init__(
        self,
        model: LoadedModel,
        request: ResolvedRequest,
        parsed: ParsedTexts,
        num_steps: int,
        base_steps: int,
        adapters: Adapters,
    ) -> None:
        self.model, self.request, self.parsed, self.adapters = model, request, parsed, adapters
        self.num_steps, self.base_steps = num_steps, base_steps
        self.dialect = find_dialect(request.conventions.syntax)
        self._encoded: dict[tuple[str, bool], EncodedText] = {}
        self._joined: dict[_Key, list[tuple[EncodedText, float]]] = {}
        self._conditioned: dict[tuple[_Key, _Key | None], Texts] = {}
        self._num_chunks = 0

    def read(self, field: str) -> _Text:
        """A field of the request to its texts over the steps, each encoded."""
        negative, label = field == "negative_prompt", field.replace("_", " ")
        parsed = self.parsed.negative_prompt if negative else self.parsed.prompt
        plan = parsed.plan(self.num_steps, base_steps=self.base_steps)
        notices = list(parsed.notices)
        texts = {prompt.text: prompt.pieces for planned in plan for prompt in planned.prompts}
        words, model = " ".join(map(_words, texts.values())), self.model
        notices += vocabulary_notices(
            model.tokenizer, words, field=label, objects=model.family.objects, model=model.name
        )
        for each, pieces in texts.items():
            notices += _cut(self._text(each, pieces, negative=negative), label)
        return _Text(field, parsed, plan, _few(notices))

    def together(self, prompt: _Text, negative: _Text | None, notices: tuple[Notice, ...]) -> EncodedPrompt:
        """What the network is told from step to step; equal moments are one object."""
        plans = [text.plan for text in (prompt, negative) if text is not None]
        moments = []
        for last in sorted({planned.last_step for plan in plans for planned in plan}):
            conds = self._join(prompt, _at(prompt.plan, last))
            unconds = None if negative is None else self._join(negative, _at(negative.plan, last))
            moments.append((last, self._condition(conds, unconds)))
        return EncodedPrompt(tuple(moments), self.adapters.notices + notices, self.adapters)

    def _condition(self, cond: _Key, uncond: _Key | None) -> Texts:
        if (cond, uncond) not in self._conditioned:
            prompts, weights = map(list, zip(*self._joined[cond], strict=True))
            parts = [*prompts]
            if uncond is not None:
                parts.append(self._joined[uncond][0][0])
                if self.request.conventions.uneven_chunks == "padded":
                    parts = self._padded(parts)
            self._count(sum(len(part.chunks.num_tokens) for part in parts) if self._conditioned else 0)
            last = None if uncond is None else _conditioning([parts.pop()])
            self._conditioned[cond, uncond] = Texts(_conditioning(parts), last, tuple(weights))
        return self._conditioned[cond, uncond]

    def _padded(self, parts: list[EncodedText]) -> list[EncodedText]:
        """At one length, so that one call takes them all: the shorter ones get chunks of the empty text."""
        length = max(part.context.shape[1] for part in parts)
        return [pad_chunks(part, self._empty(), length) if part.context.shape[1] < length else part for part in parts]

    def _join(self, text: _Text, planned: PlannedPrompt) -> _Key:
        """The prompts of one moment, as their syntax joins them, by a name under which they are kept."""
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
                if zeros and negative and not self.request.negative_prompt:
                    encoded = [zeros_like(self.model.family, encoded[0])]
                self._joined[key] = [(encoded[0], 1.0)]
        return key

    def _empty(self) -> EncodedText:
        return self._text("", (WeightedText(""),), negative=True)

    def _text(self, text: str, pieces: tuple[Piece, ...], *, negative: bool) -> EncodedText:
        key = text.strip(), negative
        if key not in self._encoded:
            encoded = self._encode(known_pieces(pieces, self.model.tokenizer), negative=negative)
            self._count(len(encoded.chunks.num_tokens))
            self._encoded[key] = encoded
        return self._encoded[key]

    def _count(self, num_chunks: int) -> None:
        self._num_chunks += num_chunks
        if self._num_chunks > MAX_ENCODED_CHUNKS:
            raise PromptError(
                "prompt_limit",
                f"prompt: its texts over {self.num_steps} steps fill more than {MAX_ENCODED_CHUNKS} chunks. "
                "Shorten it, or take schedules such as [a|b] out.",
            )

    def _encode(self, pieces: Sequence[Piece], *, negative: bool) -> EncodedText:
        model, request = self.model, self.request
        emphasis: Emphasis = request.conventions.emphasis
        most = 1 if request.conventions.chunks == "first" else None
        reading = Reading(emphasis=emphasis, whole_words=self.dialect.whole_words, max_chunks=most)
        found: list[EncodedText] = []

        def run(model: LoadedModel) -> Tensor:
            with self.adapters.on_text(model) as words:
                found.append(
                    model.encode_prompt(
                        pieces,
                        clip_skip=request.clip_skip,
                        width=request.width,
                        height=request.height,
                        negative=negative,
                        skip_everywhere=request.conventions.clip_skip_everywhere,
                        reading=replace(reading, words=words),
                    )
                )
            added = found[-1].added
            return found[-1].context if added is None else torch.cat([found[-1].context.flatten(1), added], dim=1)

        with torch.inference_mode():
            finite("text", run, model)
        return found[-1]


def _at(plan: Sequence[PlannedPrompt], step: int) -> PlannedPrompt:
    """What is said at a step, counted from 1."""
    return next(planned for planned in plan if step <= planned.last_step)


def _conditioning(prompts: Sequence[EncodedText]) -> Conditioning:
    """One row a prompt."""
    added = [prompt.added for prompt in prompts if prompt.added is not None]
    return Conditioning(
        context=torch.cat([prompt.context for prompt in prompts]), added=torch.cat(added) if added else None
    )


def _words(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text if isinstance(piece, WeightedText) else " " for piece in pieces)


def _cut(encoded: EncodedText, said: str) -> Iterator[Notice]:
    """Notices about text that found no room and weights that were changed."""
    report = encoded.chunks
    yield from report.notices[: -1 if report.cut else None]
    if report.cut:
        shown = report.cut if len(report.cut) <= MAX_CUT else f"{report.cut[: MAX_CUT - 3]}..."
        text = f"of the {said} {report.total_tokens} tokens fit: left out from '{shown}' on"
        yield Notice(text, code="prompt_cut", data={"cut": report.cut, "num_tokens": report.total_tokens})


def _few(notices: Sequence[Notice]) -> tuple[Notice, ...]:
    """Each once, and not too many."""
    found = tuple(dict.fromkeys(notices))
    if len(found) <= MAX_TEXT_NOTICES:
        return found
    more = len(found) - MAX_TEXT_NOTICES + 1
    last = Notice(f"and {more} notices more of that kind", code="notices_left_out", data={"count": more})
    return (*found[: MAX_TEXT_NOTICES - 1], last)
