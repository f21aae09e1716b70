"""What a training changes in a model: factors of a LoRA, whole networks, or the vectors of an embedding."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gesso.adapters.textual_inversion import AttachedEmbeddings
from gesso.errors import GessoError
from gesso.models.clip import CLIPTextModel
from gesso.text.chunks import EmbeddingToken
from gesso.text.tokenizer import Tokenizer
from gesso.training.muon import split_groups
from gesso.tuning.factors import Blocks, LoraFactors, chooser, layers_of
from gesso.tuning.layer_factors import Factors, KroneckerFactors, Layer, LayerFactors, MagnitudeFactors, is_wide
from gesso.tuning.settings import MAX_RANK, TuningSettings


class Learner(Protocol):
    """What learns in a `TuningTask`.

    modules      whose parameters learn; their average is kept in the state, and becomes the file
    trains_text  whether gradients pass through the text encoders
    words        that captions spell and that stand for learned vectors
    """

    modules: Mapping[str, nn.Module]
    trains_text: bool
    words: tuple[EmbeddingToken, ...]

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; text_rate: of what is in the text encoders."""
        ...

    def begin_step(self, seed: int, step: int, rows: Sequence[int], count: int) -> None:
        """What is drawn at random in this step follows from seed and step. rows: of `count` that this process has"""
        ...


class LoraLearner:
    """Low-rank factors beside frozen layers.

    ratio        of the learning rate of LoRA's upper factors to that of the others (LoRA+: Hayou et al. 2024,
                 arXiv:2402.12354)
    block_rates  share of the learning rate by block
    """

    words: tuple[EmbeddingToken, ...] = ()

    def __init__(
        self,
        factors: LoraFactors,
        *,
        trains_text: bool = False,
        muon: bool = False,
        ratio: float = 1.0,
        block_rates: Blocks | None = None,
    ) -> None:
        self.factors, self.trains_text, self.muon = factors, trains_text, muon
        self.ratio, self.block_rates = ratio, block_rates or Blocks((), "block_rates", 0, 0)
        self.modules: Mapping[str, nn.Module] = {"factors": factors}

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        by_rate: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}  # in the text encoders, rate, no vector
        for name, factors in self.factors.items():
            is_text = not name.startswith("unet.")
            share = self.block_rates(name)
            own = (text_rate if is_text else rate) * (1.0 if share is None else share)
            for part, parameter in factors.named_parameters():
                scaled = own * (self.ratio if part in factors.up_names else 1.0)
                by_rate.setdefault((is_text, scaled, parameter.ndim >= 2), []).append(parameter)
        groups: list[dict[str, Any]] = []
        for key in sorted(by_rate):
            _, own, is_matrix = key
            groups.append({"params": by_rate[key], "lr": own})
            if not is_matrix:  # magnitudes begin as the weight's lengths, and must not shrink
                groups[-1]["weight_decay"] = 0.0
            if self.muon:
                groups[-1]["muon"] = is_matrix
        return groups

    def begin_step(self, seed: int, step: int, rows: Sequence[int], count: int) -> None:
        self.factors.step_seed = seed, step
        self.factors.rows = tuple(rows), count

    def before(self) -> AbstractContextManager[None]:
        """Within the block the networks are without factors; words that learn are as they are now."""
        return self.factors.off()


class NewWords:
    """The last rows of a text encoder's table, words that it had not, which learn while the rest of it stays.

    rate: learning rate of these vectors, which get no weight decay
    """

    def __init__(self, text: CLIPTextModel, count: int, rate: float) -> None:
        self.text, self.count, self.rate = text, count, rate

    def let_learn(self) -> None:
        """Gradients reach these rows from now on."""
        table = self.text.token_embedding.weight
        learning = torch.zeros(len(table), 1, device=table.device, dtype=table.dtype)
        learning[-self.count :] = 1
        table.requires_grad_(True)
        table.register_hook(lambda gradient: gradient * learning)

    @property
    def group(self) -> dict[str, Any]:
        """For the optimiser."""
        return {"params": [self.text.token_embedding.weight], "lr": self.rate, "weight_decay": 0.0}


class FullLearner:
    """All weights of the UNet, and of the text encoders if they are to learn (DreamBooth: Ruiz et al. 2022).

    new_words  of the vocabulary, whose vectors learn, too; of a text encoder that does not learn they alone
    """

    words: tuple[EmbeddingToken, ...] = ()

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        muon: bool = False,
        remembers: bool = False,
        new_words: NewWords | None = None,
    ) -> None:
        """networks: those that learn, by component name; their parameters get gradients from now on

        remembers: keeps a copy of them as they are, for `before`
        """
        self.modules: Mapping[str, nn.Module] = dict(networks)
        self.new_words = new_words
        self._learning = [p for network in networks.values() for p in network.parameters()]
        self._kept = [p.detach().clone() for p in self._learning if remembers]
        self.muon = muon
        for network in networks.values():
            network.requires_grad_(True)
        if new_words is not None:
            self.modules = {**networks, "text": new_words.text}
            new_words.let_learn()
        self.trains_text = any(name.startswith("text") for name in self.modules)

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for name, network in self.modules.items():
            own = text_rate if name.startswith("text") else rate
            if self.new_words is not None and name == "text":
                groups.append(self.new_words.group)
                continue
            if self.muon and not name.startswith("text"):
                groups += split_groups(network, own, [getattr(network, end) for end in ("conv_in", "conv_out")])
            else:
                groups.append({"params": list(network.parameters()), "lr": own})
        return [{"muon": False, **group} for group in groups] if self.muon else groups

    def begin_step(self, seed: int, step: int, rows: Sequence[int], count: int) -> None:
        """Nothing in it is random."""

    @contextmanager
    def before(self) -> Iterator[None]:
        """Within the block, in which nothing may learn, the networks are as they were when this was made.

        Raises ValueError for a learner that does not remember.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Puts the numbers that are kept in place of those that learn, and the other way round."""
        for place, (parameter, kept) in enumerate(zip(self._learning, self._kept, strict=True)):
            self._kept[place], parameter.data = parameter.data, kept


class Vectors(nn.Module):
    """Vectors [N, D] of an embedding for each text encoder, in effect in its lookup from now on."""

    def __init__(
        self,
        name: str,
        models: Mapping[str, CLIPTextModel],
        tokenizer: Tokenizer,
        starts: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.table = nn.ParameterDict({part: nn.Parameter(start.clone()) for part, start in starts.items()})
        ids = tuple(token.id for token in tokenizer.tokens(name))
        first = max(model.config.vocab_size for model in models.values())
        words = {ids: EmbeddingToken(name, ids, len(next(iter(starts.values()))), first, name)}
        self.attached = AttachedEmbeddings(models, dict(self.table.items()), words)

    @property
    def words(self) -> tuple[EmbeddingToken, ...]:
        return self.attached.tokens


class PivotalLearner(LoraLearner):
    """A LoRA and the word that calls it, at once (pivotal tuning: Roich et al. 2021, arXiv:2106.05744).

    vector_rate: learning rate of the word's vectors, which get no weight decay
    """

    def __init__(self, factors: LoraFactors, vectors: Vectors, vector_rate: float, **options: Any) -> None:
        super().__init__(factors, **options)
        self.vectors, self.vector_rate = vectors, vector_rate
        self.modules = {"factors": factors, "vectors": vectors}
        self.words = vectors.words
        self.trains_text = True  # the gradient passes through

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        own: dict[str, Any] = {"params": list(self.vectors.parameters()), "lr": self.vector_rate, "weight_decay": 0.0}
        return [*super().groups(rate, text_rate), own | ({"muon": False} if self.muon else {})]


class EmbeddingLearner:
    """Vectors that a word stands for, in a frozen model (textual inversion: Gal et al. 2022, arXiv:2208.01618)."""

    trains_text = True  # the gradient passes through

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.modules: Mapping[str, nn.Module] = {"vectors": vectors}
        self.words = vectors.words

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.vectors.parameters()), "lr": rate}]

    def begin_step(self, seed: int, step: int, rows: Sequence[int], count: int) -> None:
        """Nothing in it is random."""


def text_networks(networks: Mapping[str, nn.Module]) -> dict[str, CLIPTextModel]:
    """The text encoders among networks."""
    return {name: network for name, network in networks.items() if isinstance(network, CLIPTextModel)}


def trained_networks(networks: Mapping[str, nn.Module], settings: TuningSettings) -> dict[str, nn.Module]:
    """The networks whose layers learn, or get factors."""
    names = ["unet", *(name for name in ("text", "text_2") if name in networks and settings.train_text)]
    return {name: networks[name] for name in names}


def make_factors(
    networks: Mapping[str, nn.Module], settings: TuningSettings, generator: torch.Generator | None
) -> LoraFactors:
    """Factors as the settings say. generator: of the start values; None: on the meta device."""
    trained = trained_networks(networks, settings)
    own = chooser(settings.rank, settings.conv_rank or 0, trained)
    blocks = Blocks(settings.block_ranks, "block_ranks", 0, MAX_RANK)
    alphas = {
        False: settings.alpha or float(settings.rank),
        True: settings.conv_alpha or float(settings.conv_rank or 1),
    }

    def choose(name: str, layer: Layer) -> int:
        size, block = own(name, layer), blocks(name)
        if size == 0 or block is None:
            return size
        return max(round(size * block / settings.rank), 1) if block else 0

    def make(name: str, layer: Layer, size: int) -> LayerFactors:
        nominal = own(name, layer)  # in a block with a rank of its own, alpha changes alike
        alpha = alphas[is_wide(layer)] * size / nominal
        scale = alpha / (math.sqrt(size) if settings.rslora else size)
        factors: LayerFactors
        if settings.algorithm == "lokr":
            factors = KroneckerFactors(
                layer,
                size,
                factor=settings.lokr_factor or None,
                whole=settings.lokr_whole,
                scale=scale,
                generator=generator,
            )
        else:
            factors = Factors(layer, size, scale=scale, generator=generator)
        return MagnitudeFactors(layer, factors) if settings.dora else factors

    named = [name for name, layer in layers_of(trained) if own(name, layer)]
    blocks.check(named)
    return LoraFactors(trained, choose, make=make, dropout=settings.dropout)


def make_vectors(
    networks: Mapping[str, nn.Module],
    tokenizers: Sequence[Tokenizer],
    settings: TuningSettings,
    generator: torch.Generator,
) -> Vectors:
    """Vectors that begin as the words of `settings.init`, in turn; without words, at random.

    tokenizers: of text and, in SDXL, text_2. Raises GessoError for a word that the vocabulary does not know.
    """
    assert settings.vectors is not None
    models = text_networks(networks)
    starts = {}
    for (part, model), tokenizer in zip(models.items(), [*tokenizers, tokenizers[-1]], strict=False):
        if unknown := tokenizer.unknown_words(settings.init):
            raise GessoError(
                f"`init` {unknown[0]!r}: the model does not know this word. Give words of its vocabulary, or none",
                code="unknown_name",
                field="init",
            )
        ids = [token.id for token in tokenizer.tokens(settings.init)] if settings.init else []
        table = model.token_embedding.weight.detach()
        if ids:
            starts[part] = torch.stack([table[ids[place % len(ids)]] for place in range(settings.vectors)]).float()
        else:
            drawn = torch.randn(settings.vectors, table.shape[1], generator=generator)
            starts[part] = (drawn * table.float().std().cpu()).to(table.device)
    return Vectors(settings.trigger, models, tokenizers[0], starts)


def make_learner(
    networks: Mapping[str, nn.Module],
    tokenizers: Sequence[Tokenizer],
    settings: TuningSettings,
    generator: torch.Generator,
    new_words: int = 0,
) -> Learner:
    """What the settings train. new_words: how many the text encoder got for this training"""
    muon = settings.optimizer == "muon"
    if settings.kind in ("lora", "distil"):
        factors = make_factors(networks, settings, generator)
        rates = Blocks(settings.block_rates, "block_rates", 0, 1000)
        rates.check([name for name, _ in factors.items()])
        options: dict[str, Any] = {"muon": muon, "ratio": settings.loraplus or 1.0, "block_rates": rates}
        if settings.learn_word:
            assert settings.vector_rate is not None
            vectors = make_vectors(networks, tokenizers, settings, generator)
            return PivotalLearner(factors, vectors, settings.vector_rate, **options)
        return LoraLearner(factors, trains_text=settings.train_text, **options)
    if settings.kind == "embedding":
        return EmbeddingLearner(make_vectors(networks, tokenizers, settings, generator))
    words: NewWords | None = None
    if new_words and not settings.train_text:
        assert settings.vector_rate is not None
        words = NewWords(text_networks(networks)["text"], new_words, settings.vector_rate)
    remembers = bool(settings.prior_answers)
    return FullLearner(trained_networks(networks, settings), muon=muon, remembers=remembers, new_words=words)
