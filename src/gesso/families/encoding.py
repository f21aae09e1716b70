"""Encodes prompts for a family's UNet: hidden states of its text encoders, and the pooled vector if it takes one.

Which states: SD 1 the last layer's, with the last norm; SD 2 those of the layer before, with the norm; SDXL those of
the layer before, without a norm, of both towers side by side (768 and 1280 wide). The vector of SDXL is the second
tower's pooled text, projected, beside sinusoids of sizes (Podell et al. 2023, arXiv:2307.01952, section 2.2).

A prompt with weights, or too long for the text encoder, comes as pieces (`gesso.text.grammar`): each chunk of it is
encoded alone, weighted, and concatenated to the one before. The pooled vector is that of the first chunk, without
weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gesso.families.base import Family
from gesso.families.parts import ModelParts
from gesso.models.clip import CLIPTextModel, TextEncoding
from gesso.models.object_memory import NONE
from gesso.nn.embedding import sinusoid
from gesso.text import emphasis
from gesso.text.chunks import BACKTRACK, MAX_CHUNKS, ChunkReport, Chunks, EmbeddingToken, chunk
from gesso.text.emphasis import NEEDS_EMPTY, Emphasis
from gesso.text.grammar import Joined
from gesso.text.prompt import Piece, PromptError, WeightedText
from gesso.text.tokenizer import Tokenizer

# What Stability AI's refiner was asked for and away from.
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
CHUNKS_AT_ONCE = 16  # all layers of OpenCLIP bigG for as many take 0.2 GB
MAX_DOWNWEIGHTED = 32  # pieces of weight below 1 that Compel's rule encodes without


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """SDXL's size conditioning in pixels: original_size (height, width), crops_coords_top_left, target_size. The
    refiner takes an aesthetic score instead of the target size.
    """

    original: tuple[int, int]
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int]
    aesthetic_score: float = AESTHETIC_SCORE

    def values(self, family: Family) -> tuple[float, ...]:
        """The numbers that the family takes: 0, 6 or 5."""
        last = (self.aesthetic_score,) if family.is_refiner else self.target
        return (*self.original, *self.crop, *last) if family.num_sizes else ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the pieces of a prompt are encoded. Each of these settings changes pictures.

    emphasis    the rule of `gesso.text.emphasis`
    backtrack   tokens after the last comma that may move to the next chunk (A1111: comma padding backtrack); 0: none
    whole_words chunks end between words, as in ComfyUI, without backtrack
    max_chunks  None: as many as the text needs, and one for a learned vocabulary, whose UNet knows no more
    embeddings  those attached to the text encoders (`adapters.textual_inversion`)
    """

    emphasis: Emphasis = "original"
    backtrack: int = BACKTRACK
    whole_words: bool = False
    max_chunks: int | None = None
    embeddings: tuple[EmbeddingToken, ...] = ()


PLAIN = Reading(max_chunks=1)


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """The embeddings of one prompt.  context [1, N * L, D] of N chunks; added [1, A], or None if the UNet takes none

    chunks: for notices: tokens per chunk, text that was cut off, unknown words, weights that were changed.
    """

    context: Tensor
    added: Tensor | None
    chunks: ChunkReport


def encode_prompt(
    parts: ModelParts,
    text: str | Sequence[Piece],
    *,
    clip_skip: int,
    width: int,
    height: int,
    negative: bool = False,
    sizes: Sizes | None = None,
    skip_everywhere: bool = False,
    reading: Reading | None = None,
) -> PromptEmbeds:
    """A prompt through the text encoders of a family, on the device of its first.

    text             a str is plain text, cut to one chunk; pieces are encoded by `reading`
    clip_skip        as A1111 counts: 1 is the layer that the model was trained with, n > 1 is n - 1 layers earlier
    skip_everywhere  it moves the layer of SD 2 and SDXL, too, as the diffusers library does; A1111 leaves them alone
    width, height    of the finished picture, in pixels, for families with size conditioning
    negative         this is a negative prompt: the refiner gets a low aesthetic score
    sizes            size conditioning; by default the picture's own size without crop
    `zeros_like` gives SDXL's embeddings of an empty negative prompt.
    """
    family = parts.family
    skip = clip_skip - 1 if skip_everywhere or family.layout == "sd1" else 0
    pieces: Sequence[Piece] = (WeightedText(text),) if isinstance(text, str) else text
    if reading is None or isinstance(text, str):
        reading = PLAIN if isinstance(text, str) else Reading()
    first = _read(family, parts.text, parts.tokenizer, pieces, reading, skip)
    context, last, chunks = first.states, first, first.chunks.report
    if parts.text_2 is not None:
        last = _read(family, parts.text_2, parts.tokenizer_2 or parts.tokenizer, pieces, reading, skip)
        context = torch.cat([context, last.states.to(context)], dim=-1)
    if not family.unet.added_dim:
        return PromptEmbeds(context, None, chunks)
    if not family.num_sizes:  # gesso-mini takes the pooled text
        return PromptEmbeds(_with_objects(parts, first), last.pooled, chunks)
    if sizes is None:
        score = NEGATIVE_AESTHETIC_SCORE if negative else AESTHETIC_SCORE
        sizes = Sizes(original=(height, width), target=(height, width), aesthetic_score=score)
    return PromptEmbeds(context, _added(family, last, sizes), chunks)


def zeros_like(family: Family, encoded: PromptEmbeds) -> PromptEmbeds:
    """SDXL's embeddings of an empty negative prompt: zeros for hidden states and pooled text, the sizes kept.

    This is how it was trained (diffusers: force_zeros_for_empty_prompt); `Family.zero_empty_negative` says for which.
    """
    context = torch.zeros_like(encoded.context)
    if encoded.added is None or not family.num_sizes:
        return replace(encoded, context=context)
    added = encoded.added.clone()
    added[:, : added.shape[1] - family.num_sizes * family.size_dim] = 0
    return replace(encoded, context=context, added=added)


def pad_chunks(encoded: PromptEmbeds, empty: PromptEmbeds, length: int) -> PromptEmbeds:
    """The prompt with the chunk of an empty one behind it, as often as a context of `length` rows needs.

    For guidance in one network call, where a prompt has more chunks than its negative (pad_cond_uncond in A1111).
    Raises ValueError where chunks of `empty` do not give the length.
    """
    missing, size = length - encoded.context.shape[1], empty.context.shape[1]
    if missing < 0 or missing % size:
        raise ValueError(f"a context of {encoded.context.shape[1]} does not become {length} by chunks of {size}")
    return replace(encoded, context=torch.cat([encoded.context, *[empty.context] * (missing // size)], dim=1))


def join_prompts(
    encoded: Sequence[PromptEmbeds], weights: Sequence[float], joined: Joined, empty: PromptEmbeds
) -> list[tuple[PromptEmbeds, float]]:
    """Joins the prompts of one text by the rule `ParsedPrompt.joined` -> embeddings, each with its guidance weight.

    "guidance" keeps them apart, at one length: shorter ones repeat their last vector, as in A1111. All others make one
    of them, shorter ones padded with chunks of `empty`; the vector is that of the first, or the mean of all for
    "blend". Raises ValueError for no prompt or other counts.
    """
    if not encoded or len(encoded) != len(weights):
        raise ValueError(f"{len(encoded)} prompts, {len(weights)} weights")
    length = max(prompt.context.shape[1] for prompt in encoded)
    if joined == "guidance":
        separate = [replace(prompt, context=_repeat_last(prompt.context, length)) for prompt in encoded]
        return list(zip(separate, weights, strict=True))
    if joined == "chain":
        moved = []
        for prompt, weight in zip(encoded, weights, strict=True):
            behind = pad_chunks(empty, empty, prompt.context.shape[1]).context
            moved.append(emphasis.from_empty(prompt.context, torch.full(prompt.context.shape[:2], weight), behind))
        return [(replace(encoded[0], context=torch.cat(moved, dim=1)), 1.0)]
    contexts = [pad_chunks(prompt, empty, length).context for prompt in encoded]
    context = emphasis.blend(contexts, weights, normalize=joined == "blend")
    vectors = [prompt.added for prompt in encoded if prompt.added is not None]
    # A sum would scale the sizes in the vector, too; a mean leaves them.
    added = emphasis.blend(vectors, weights) if vectors and joined == "blend" else encoded[0].added
    return [(replace(encoded[0], context=context, added=added), 1.0)]


def _repeat_last(context: Tensor, length: int) -> Tensor:
    missing = length - context.shape[1]
    return torch.cat([context, context[:, -1:].expand(-1, missing, -1)], dim=1)


@dataclass(frozen=True, eq=False)
class _Tower:
    """The output of one text encoder.

    states [1, N * L, D], weighted; pooled [1, D] and projected [1, P], where the model projects, of the first chunk
    """

    states: Tensor
    pooled: Tensor
    projected: Tensor | None
    chunks: Chunks


def _read(
    family: Family, model: CLIPTextModel, tokenizer: Tokenizer, pieces: Sequence[Piece], reading: Reading, skip: int
) -> _Tower:
    """Encodes pieces with one text encoder: chunks, hidden states, weights."""
    most = reading.max_chunks or (1 if tokenizer.kind == "words" else MAX_CHUNKS)
    chunks = chunk(
        pieces,
        tokenizer,
        backtrack=reading.backtrack,
        whole_words=reading.whole_words,
        max_chunks=most,
        embeddings=reading.embeddings,
    )
    states, first = _encode(family, model, chunks.ids, skip)
    if not chunks.is_plain:
        states = _weigh(family, model, tokenizer, chunks, states, reading.emphasis, skip)
    projected = None if first.projected is None else first.projected[:1]
    return _Tower(states.flatten(0, 1)[None], first.pooled[:1], projected, chunks)


def _weigh(
    family: Family,
    model: CLIPTextModel,
    tokenizer: Tokenizer,
    chunks: Chunks,
    states: Tensor,
    rule: Emphasis,
    skip: int,
) -> Tensor:
    """Applies the weights to hidden states [N, L, D] by a rule of emphasis; for each text encoder on its own."""
    weights = chunks.weights.to(states.device)
    if rule == "ignore":
        return emphasis.ignore(states, weights)
    if rule == "original":
        return emphasis.original(states, weights)
    if rule == "no_norm":
        return emphasis.no_norm(states, weights)
    assert rule in NEEDS_EMPTY
    empty, _ = _encode(family, model, tokenizer.encode([""]), skip)
    if rule == "comfyui":
        return emphasis.from_empty(states, weights, empty)
    without = []
    for weight, hidden in _downweighted(chunks):
        without.append((_encode(family, model, chunks.ids, skip, ~hidden)[0], weight))
    return emphasis.compel(states, weights, empty, without)


def _downweighted(chunks: Chunks) -> list[tuple[float, Tensor]]:
    """The pieces of weight below 1, each with where its tokens are: bool [N, L]."""
    variants = []
    below = chunks.pieces[chunks.weights < 1].unique()
    if len(below) > MAX_DOWNWEIGHTED:
        raise PromptError(
            "prompt_limit",
            f"prompt: {len(below)} pieces of weight below 1, at most {MAX_DOWNWEIGHTED} with Compel's emphasis, "
            "which encodes the prompt again for each. Remove some, or choose another emphasis",
        )
    for piece in below.tolist():
        tokens = chunks.pieces == piece
        variants.append((float(chunks.weights[tokens][0]), tokens))
    return variants


def _encode(
    family: Family, model: CLIPTextModel, ids: Tensor, skip: int, visible: Tensor | None = None
) -> tuple[Tensor, TextEncoding]:
    """Ids [N, L] to states [N, L, D], and the encoding of the first chunks."""
    device = model.position_embedding.weight.device
    encodings: list[TextEncoding] = []
    states = []
    for start in range(0, len(ids), CHUNKS_AT_ONCE):
        rows = slice(start, start + CHUNKS_AT_ONCE)
        encoding: TextEncoding = model(ids[rows].to(device), None if visible is None else visible[rows].to(device))
        states.append(_states(family, model, encoding, skip))
        encodings = encodings or [encoding]
    return torch.cat(states) if len(states) > 1 else states[0], encodings[0]


def _states(family: Family, model: CLIPTextModel, encoding: TextEncoding, skip: int) -> Tensor:
    layer = family.text_layer + skip
    if layer == 1 and family.text_norm:
        return encoding.last
    hidden = encoding.hidden[max(-layer, -len(encoding.hidden))]
    return model.norm(hidden) if family.text_norm else hidden


def _with_objects(parts: ModelParts, tower: _Tower) -> Tensor:
    """The states, with the drawings of the objects that the text names behind them where the model has such."""
    memory = parts.text.memory
    if memory is None:
        return tower.states
    slots, length = memory.config.slots, tower.chunks.ids.shape[1]
    objects, places = parts.lexicon.find(tower.chunks.ids.numpy(), slots)
    objects_found = torch.full((1, slots), NONE)
    places_found = torch.zeros(1, slots, dtype=torch.int64)
    first: dict[int, int] = {}
    for chunk_number, slot in np.argwhere(objects != NONE):
        first.setdefault(int(objects[chunk_number, slot]), int(chunk_number * length + places[chunk_number, slot]))
    for slot, (number, place) in enumerate(list(first.items())[:slots]):
        objects_found[0, slot], places_found[0, slot] = number, place
    device = tower.states.device
    context: Tensor = memory(tower.states, tower.pooled, objects_found.to(device), places_found.to(device))
    return context


def _added(family: Family, tower: _Tower, sizes: Sizes) -> Tensor:
    if tower.projected is None:
        raise ValueError(f"the text encoder of {family.name!r} has no text projection, which its UNet needs")
    values = torch.tensor(sizes.values(family), device=tower.pooled.device)
    embedded = sinusoid(values, family.size_dim).flatten()[None]  # float32: of numbers about 1024
    return torch.cat([tower.projected, embedded.to(tower.projected)], dim=1)
