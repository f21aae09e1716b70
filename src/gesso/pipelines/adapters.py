"""LoRA and learned words of a request: found by their names, read, and on the networks only while these work.

What a request wants (`find_adapters`) is known before anything is read; how it fits is a matter of each model
(`read_adapters`). Text models have their adapters while a prompt is encoded, the UNet during the calls of a run, and
nothing is left on a model between calls: a run that is given up leaves no trace, and runs may share a model call by
call.
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
from gesso.errors import GessoError
from gesso.models.clip import CLIPTextModel
from gesso.notices import Notice
from gesso.pipelines.clock import Clock
from gesso.pipelines.parsed import ParsedTexts
from gesso.request.checks import RequestError
from gesso.request.finder import Finder, Kind
from gesso.request.parts import MAX_LORAS, LoraUse
from gesso.request.recipe import ExtraFile
from gesso.request.request import ResolvedRequest
from gesso.runtime.engine import LoadedModel
from gesso.runtime.shelf import AdapterShelf
from gesso.text.chunks import LearnedWord
from gesso.text.tokenizer import Tokenizer

MAX_WORDS = 64  # learned words of one request


@dataclass(frozen=True, kw_only=True)
class WantedLora:
    """A LoRA by the name that the request gives it.  rank: to cut it to; None: its own"""

    use: LoraUse
    path: Path
    rank: int | None = None


@dataclass(frozen=True)
class Wanted:
    """The files that a request asks for.  words: name and file of each learned word that its texts spell"""

    loras: tuple[WantedLora, ...] = ()
    words: tuple[tuple[str, Path], ...] = ()

    def files(self, shelf: AdapterShelf) -> tuple[ExtraFile, ...]:
        """Each once, with its hashes, for the recipe. Raises ModelFileError where one is gone."""
        named: dict[tuple[Kind, str], Path] = {("lora", lora.use.name): lora.path for lora in self.loras}
        named |= {("embedding", name): path for name, path in self.words}
        found = []
        for (kind, name), path in named.items():
            hashes = shelf.hashes(path)
            found.append(ExtraFile(kind=kind, name=name, sha256=hashes.sha256, autov3=hashes.autov3 or ""))
        return tuple(found)


def find_adapters(request: ResolvedRequest, texts: ParsedTexts, finder: Finder, tokenizer: Tokenizer) -> Wanted:
    """The LoRA of the request and of its prompt, and the learned words that its texts spell.

    Raises RequestError for a name that the finder does not know, PromptError for a prompt that cannot be read.
    """
    loras = [_wanted("loras", use, finder) for use in request.loras]
    for tag in texts.prompt.loras:
        use = LoraUse(name=tag.name, weight=tag.unet_weight, text_weight=tag.text_weight, points=tag.points)
        loras.append(_wanted("prompt", use, finder, tag.rank))
    if len(loras) > MAX_LORAS:
        raise RequestError("loras", f"{len(loras)} LoRA in the request and its prompt, at most {MAX_LORAS}")
    words = spelled(finder.names("embedding"), (request.prompt, request.negative_prompt), tokenizer)
    return Wanted(tuple(loras), tuple((name, finder.find("embedding", name)) for name in words))


def _wanted(field: str, use: LoraUse, finder: Finder, rank: int | None = None) -> WantedLora:
    try:
        return WantedLora(use=use, path=finder.find("lora", use.name), rank=rank)
    except GessoError as error:
        raise RequestError(field, error.one_line) from None


def spelled(names: Collection[str], texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The names that stand in texts, token for token as a text model reads them; the longest first.

    Raises RequestError for more than MAX_WORDS.
    """
    folded = [text.casefold() for text in texts]
    likely = sorted({name for name in names if name and any(name.casefold() in text for text in folded)})
    if not likely:
        return []
    ids = [_ids(text, tokenizer) for text in texts]
    found = [name for name in likely if (own := _ids(name, tokenizer)) and any(own in text for text in ids)]
    if len(found) > MAX_WORDS:
        raise RequestError("prompt", f"{len(found)} learned words in the prompt, at most {MAX_WORDS}")
    return sorted(found, key=len, reverse=True)


def _ids(text: str, tokenizer: Tokenizer) -> str:
    """Ids as a text in which those of a word can be looked for."""
    ids = [str(token.id) for token in tokenizer.tokens(text)]
    return f" {' '.join(ids)} " if ids else ""


@dataclass(frozen=True, eq=False)
class Adapters:
    """Adapters as they fit one model.

    loras    each with its strengths
    words    learned words, those that came with a LoRA too
    notices  what has no place in the model
    merged   into the UNet's weights, rather than at run time; both the same up to rounding
    """

    loras: tuple[tuple[Lora, LoraUse], ...] = ()
    words: tuple[Embedding, ...] = ()
    notices: tuple[Notice, ...] = ()
    merged: bool = False
    _constant: dict[bool, Attachment] = field(default_factory=dict, repr=False)

    def nbytes(self, model: LoadedModel) -> int:
        """Bytes that they take beside the model while they are on at run time."""
        total = sum(word.nbytes for word in self.words)
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
    def on_text(self, model: LoadedModel) -> Iterator[tuple[LearnedWord, ...]]:
        """The text models have them within the block; gives the words that they know more."""
        if not self.loras and not self.words:
            yield ()
            return
        texts = _text_models(model)
        strengths = [(lora, 0.0, _text_weight(use)) for lora, use in self.loras]
        with (
            model.using(*texts),
            attach(texts, strengths),
            attach_embeddings(texts, self.words, model.tokenizer) as taught,
        ):
            yield taught.words

    @contextmanager
    def on_words(self, model: LoadedModel) -> Iterator[tuple[LearnedWord, ...]]:
        """The words alone, for whoever reads text and computes nothing."""
        with model.turn, attach_embeddings(_text_models(model), self.words, model.tokenizer) as taught:
            yield taught.words

    def for_unet(self, model: LoadedModel, clock: Clock) -> Attachment | None:
        """What the UNet's calls of a run have on; None: nothing. A strength that changes goes by the clock.

        Runs whose strengths do not change share one.
        """
        if not self.loras:
            return None
        # Weights that come and go with a plan of memory cannot be merged into.
        merged = self.merged and model.plan is None
        strengths = [(lora, _strength(use, clock), 0.0) for lora, use in self.loras]
        if any(callable(unet) for _, unet, _ in strengths):
            return attachment_of({"unet": model.parts.unet}, strengths, merged=merged)
        if merged not in self._constant:
            self._constant[merged] = attachment_of({"unet": model.parts.unet}, strengths, merged=merged)
        return self._constant[merged]


def read_adapters(wanted: Wanted, model: LoadedModel, shelf: AdapterShelf, *, merged: bool = False) -> Adapters:
    """What a request wants, read for a model.

    A word of another model is text, and told. Raises ModelFileError for a file that is none, and for a LoRA of another
    kind of model; a refiner goes without.
    """
    loras: list[tuple[Lora, LoraUse]] = []
    words: list[Embedding] = []
    notices: list[Notice] = []
    for each in wanted.loras:
        name = each.use.name
        try:
            lora = shelf.lora(each.path, model)
        except ModelFileError as error:
            if error.reason != "architecture_mismatch" or not model.family.is_refiner:
                raise
            text = f"the LoRA {name} is left out of the refiner: it fits nothing there"
            notices.append(Notice(text, code="lora_left_out", field="loras", data={"name": name}))
            continue
        if (notice := lora.match.notice) is not None:
            notices.append(notice.reworded(f"the LoRA {name}: {notice}"))
        loras.append((lora if each.rank is None else lora.cut(each.rank), each.use))
        words += lora.embeddings
    for name, path in wanted.words:
        words.append(shelf.embedding(path, name))
    fitting = []
    for word in words:
        if (problem := _misfit(word, model)) is None:
            fitting.append(word)
        else:
            text = f"the learned word {word.name} is read as text: {problem}"
            notices.append(Notice(text, code="embedding_as_text", field="embeddings", data={"name": word.name}))
    return Adapters(tuple(loras), tuple(fitting), tuple(dict.fromkeys(notices)), merged)


def _misfit(word: Embedding, model: LoadedModel) -> str | None:
    """Why the model cannot be taught the word; None where it can."""
    try:
        with model.turn, attach_embeddings(_text_models(model), [word], model.tokenizer):
            return None
    except ModelFileError as error:
        return error.detail


def _text_models(model: LoadedModel) -> dict[str, CLIPTextModel]:
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
    """A factor on the straight lines between points, at a share of the steps; constant before and after them."""
    after = bisect_right([place for place, _ in points], share)
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (first, low), (last, high) = points[after - 1], points[after]
    return low + (high - low) * (share - first) / (last - first)
