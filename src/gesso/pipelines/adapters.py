"""LoRA and textual inversion embeddings of a request: found by name, read, and attached only during network calls.

`find_adapters` finds the files of a request; `read_adapters` reads them for a model. The text encoders have them while
a prompt is encoded, the UNet during the calls of a run, and nothing stays on a model between calls: a run that is
cancelled leaves no trace, and runs can share a model call by call.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gesso.adapters.attaching import Attachment, Strength, attach, attachment_of
from gesso.adapters.changes import LowRank
from gesso.adapters.lora import Lora
from gesso.adapters.textual_inversion import Embedding, attach_embeddings
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import hashes_of
from gesso.errors import GessoError, short
from gesso.models.clip import CLIPTextModel
from gesso.notices import Notice
from gesso.pipelines.clock import Clock
from gesso.pipelines.parsed import ParsedTexts
from gesso.request.checks import RequestError
from gesso.request.finder import Finder, Kind
from gesso.request.parts import MAX_LORAS, LoraUse
from gesso.request.recipe import ExtraFile
from gesso.request.request import ResolvedRequest
from gesso.runtime.adapter_cache import AdapterCache
from gesso.runtime.engine import LoadedModel
from gesso.text.chunks import EmbeddingToken, words_apart
from gesso.text.tokenizer import Tokenizer

MAX_EMBEDDINGS = 64  # of one request


@dataclass(frozen=True, kw_only=True)
class RequestedLora:
    """A LoRA that a request names, and its file.  rank: resize it to this rank; None: keep its own"""

    use: LoraUse
    path: Path
    rank: int | None = None


@dataclass(frozen=True)
class RequestedAdapters:
    """The LoRA and embedding files that a request needs.  embeddings: name and file of each one in its prompts"""

    loras: tuple[RequestedLora, ...] = ()
    embeddings: tuple[tuple[str, Path], ...] = ()

    def files(self) -> tuple[ExtraFile, ...]:
        """Each file once, with its hashes, for the recipe. Raises ModelFileError if one is missing."""
        named: dict[tuple[Kind, str], Path] = {("lora", lora.use.name): lora.path for lora in self.loras}
        named |= {("embedding", name): path for name, path in self.embeddings}
        files = []
        for (kind, name), path in named.items():
            hashes = hashes_of(path)
            files.append(ExtraFile(kind=kind, name=name, sha256=hashes.sha256, autov3=hashes.autov3 or ""))
        return tuple(files)


def find_adapters(
    request: ResolvedRequest, texts: ParsedTexts, finder: Finder, tokenizer: Tokenizer
) -> RequestedAdapters:
    """The LoRA of the request and of its prompt, and the embeddings that its prompts name.

    Raises RequestError for a name that the finder does not know, PromptError for a prompt that cannot be read.
    """
    loras = [_requested_lora("loras", use, finder) for use in request.loras]
    for tag in texts.prompt.loras:
        use = LoraUse(name=tag.name, weight=tag.unet_weight, text_weight=tag.text_weight, points=tag.points)
        loras.append(_requested_lora("prompt", use, finder, tag.rank))
    if len(loras) > MAX_LORAS:
        raise RequestError(
            "loras", f"{len(loras)} LoRAs in the request and its prompt, at most {MAX_LORAS} are allowed"
        )
    embeddings = embeddings_in_text(finder.names("embedding"), (request.prompt, request.negative_prompt), tokenizer)
    return RequestedAdapters(tuple(loras), tuple((name, finder.find("embedding", name)) for name in embeddings))


def _requested_lora(field: str, use: LoraUse, finder: Finder, rank: int | None = None) -> RequestedLora:
    try:
        return RequestedLora(use=use, path=finder.find("lora", use.name), rank=rank)
    except GessoError as error:
        before, _, last = use.name.rpartition(":")
        if before.casefold() in {name.casefold() for name in finder.names("lora")}:
            raise RequestError(
                field, f"the LoRA {short(before)} has the weight {short(last)}, expected a number", data={"value": last}
            ) from None
        raise RequestError(field, error.one_line, data=error.data) from None


def embeddings_in_text(names: Collection[str], texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The names that occur in texts, compared token by token as a text encoder reads them; the longest first.

    Raises RequestError for more than MAX_EMBEDDINGS.
    """
    folded = [text.casefold() for text in texts]
    likely = sorted({name for name in names if name and any(name.casefold() in text for text in folded)})
    if not likely:
        return []
    ids = [_ids(words_apart(text, likely), tokenizer) for text in texts]
    names_found = [name for name in likely if (own := _ids(name, tokenizer)) and any(own in text for text in ids)]
    if len(names_found) > MAX_EMBEDDINGS:
        raise RequestError(
            "prompt", f"{len(names_found)} embeddings in the prompt, at most {MAX_EMBEDDINGS} are allowed"
        )
    return sorted(names_found, key=len, reverse=True)


def _ids(text: str, tokenizer: Tokenizer) -> str:
    """Token ids as a text, so that a substring search finds the ids of a name."""
    ids = [str(token.id) for token in tokenizer.tokens(text)]
    return f" {' '.join(ids)} " if ids else ""


@dataclass(frozen=True, eq=False)
class Adapters:
    """LoRA and embeddings of a request, read for one model.

    loras    each with its strengths
    embeddings  textual inversion, including those bundled with a LoRA
    notices  about what does not fit the model
    merged   LoRA is merged into the UNet's weights instead of added at run time; the same up to rounding
    """

    loras: tuple[tuple[Lora, LoraUse], ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    notices: tuple[Notice, ...] = ()
    merged: bool = False
    _constant: dict[bool, Attachment] = field(default_factory=dict, repr=False)

    @property
    def spellings(self) -> tuple[str, ...]:
        """What a prompt may call the embeddings."""
        return tuple(spelling for embedding in self.embeddings for spelling in embedding.spellings)

    def nbytes(self, model: LoadedModel) -> int:
        """Bytes of memory that they need while they are attached at run time."""
        total = sum(embedding.nbytes for embedding in self.embeddings)
        for lora, _ in self.loras:
            for name, change in lora.changes.items():
                component, _, module = name.partition(".")
                weight = change.weight
                if isinstance(weight, LowRank):
                    count = sum(part.numel() for part in (weight.up, weight.down, weight.mid) if part is not None)
                else:
                    layer = model.parts.networks[component].get_submodule(module)
                    count = sum(param.numel() for param in layer.parameters(recurse=False))
                total += count * model.dtype(component).itemsize
        return total

    @contextmanager
    def on_text_encoders(self, model: LoadedModel) -> Iterator[tuple[EmbeddingToken, ...]]:
        """Attaches them to the text encoders within the block; yields the embeddings' tokens."""
        if not self.loras and not self.embeddings:
            yield ()
            return
        texts = _text_encoders(model)
        strengths = [(lora, 0.0, _text_weight(use)) for lora, use in self.loras]
        with (
            model.using(*texts),
            attach(texts, strengths),
            attach_embeddings(texts, self.embeddings, model.tokenizer) as attached,
        ):
            yield attached.tokens

    @contextmanager
    def embeddings_only(self, model: LoadedModel) -> Iterator[tuple[EmbeddingToken, ...]]:
        """Attaches only the embeddings, to tokenize prompts without computing; yields their tokens."""
        with model.device_lock, attach_embeddings(_text_encoders(model), self.embeddings, model.tokenizer) as attached:
            yield attached.tokens

    def for_unet(self, model: LoadedModel, clock: Clock) -> Attachment | None:
        """What is attached to the UNet in the calls of a run; None: nothing. Scheduled strengths follow the clock.

        Runs with constant strengths share one attachment.
        """
        if not self.loras:
            return None
        # Weights that a memory plan offloads cannot be merged into.
        merged = self.merged and model.plan is None
        strengths = [(lora, _strength(use, clock), 0.0) for lora, use in self.loras]
        if any(callable(unet) for _, unet, _ in strengths):
            return attachment_of({"unet": model.parts.unet}, strengths, merged=merged)
        if merged not in self._constant:
            made = attachment_of({"unet": model.parts.unet}, strengths, merged=merged)
            self._constant[merged] = model.shared.merged(made) if merged else made
        return self._constant[merged]


def read_adapters(
    requested: RequestedAdapters, model: LoadedModel, cache: AdapterCache, *, merged: bool = False
) -> Adapters:
    """Reads the adapters of a request for a model.

    An embedding for another architecture is read as plain text, with a notice. Raises ModelFileError for a file that is
    no adapter, and for a LoRA for another architecture; a refiner does without it.
    """
    loras: list[tuple[Lora, LoraUse]] = []
    embeddings: list[Embedding] = []
    notices: list[Notice] = []
    for each in requested.loras:
        name = each.use.name
        try:
            lora = cache.lora(each.path, model)
        except ModelFileError as error:
            if error.reason != "architecture_mismatch" or not model.family.is_refiner:
                raise
            text = f"LoRA {name}: not applied to the refiner, which it does not fit"
            notices.append(Notice(text, code="lora_left_out", field="loras", data={"name": name}))
            continue
        notices += [notice.reworded(f"LoRA {name}: {notice}") for notice in lora.notices]
        loras.append((lora if each.rank is None else lora.cut(each.rank), each.use))
        embeddings += lora.embeddings
    for name, path in requested.embeddings:
        embeddings.append(cache.embedding(path, name))
    fitting = []
    for embedding in embeddings:
        if (problem := _misfit(embedding, model)) is None:
            fitting.append(embedding)
        else:
            text = f"embedding {embedding.name}: read as plain text, since {problem}"
            notices.append(Notice(text, code="embedding_as_text", field="embeddings", data={"name": embedding.name}))
    return Adapters(tuple(loras), tuple(fitting), tuple(dict.fromkeys(notices)), merged)


def _misfit(embedding: Embedding, model: LoadedModel) -> str | None:
    """Why an embedding does not fit the model; None if it does."""
    try:
        with model.device_lock, attach_embeddings(_text_encoders(model), [embedding], model.tokenizer):
            return None
    except ModelFileError as error:
        return error.detail


def _text_encoders(model: LoadedModel) -> dict[str, CLIPTextModel]:
    return {name: net for name, net in model.parts.networks.items() if isinstance(net, CLIPTextModel)}


def _text_weight(use: LoraUse) -> float:
    return use.weight if use.text_weight is None else use.text_weight


def _strength(use: LoraUse, clock: Clock) -> Strength:
    if not use.points:
        return use.weight
    return partial(_at, use, clock)


def _at(use: LoraUse, clock: Clock) -> float:
    return use.weight * factor_at(use.points, clock.share)


def factor_at(points: Sequence[tuple[float, float]], share: float) -> float:
    """A factor interpolated linearly between points, at a share of the steps; constant before and after them."""
    after = bisect_right([place for place, _ in points], share)
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (first, low), (last, high) = points[after - 1], points[after]
    return low + (high - low) * (share - first) / (last - first)
