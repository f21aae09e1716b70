"""What a training changes in a model: factors of a LoRA, whole networks, or the vectors of an embedding."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gesso.adapters.textual_inversion import AttachedEmbeddings
from gesso.errors import GessoError
from gesso.models.clip import CLIPTextModel
from gesso.text.chunks import EmbeddingToken
from gesso.text.tokenizer import Tokenizer
from gesso.training.muon import split_groups
from gesso.tuning.factors import Layer, LoraFactors, chooser
from gesso.tuning.settings import TuningSettings

START = 0.02  # deviation of an embedding's vectors that begin with no word, as that of CLIP's own


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

    def begin_step(self, seed: int, step: int) -> None:
        """What is drawn at random in this step follows from these."""
        ...


class LoraLearner:
    """Low-rank factors beside frozen layers."""

    words: tuple[EmbeddingToken, ...] = ()

    def __init__(self, factors: LoraFactors, *, trains_text: bool = False, muon: bool = False) -> None:
        self.factors, self.trains_text, self.muon = factors, trains_text, muon
        self.modules: Mapping[str, nn.Module] = {"factors": factors}

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": self.factors.of("unet"), "lr": rate}]
        if self.trains_text:
            groups.append({"params": self.factors.of("text"), "lr": text_rate})
        return [{**group, "muon": True} for group in groups] if self.muon else groups

    def begin_step(self, seed: int, step: int) -> None:
        self.factors.step_seed = seed, step


class FullLearner:
    """All weights of the UNet, and of the text encoders if they are to learn (DreamBooth: Ruiz et al. 2022)."""

    words: tuple[EmbeddingToken, ...] = ()

    def __init__(self, networks: Mapping[str, nn.Module], *, muon: bool = False) -> None:
        """networks: those that learn, by component name; their parameters get gradients from now on"""
        self.modules: Mapping[str, nn.Module] = dict(networks)
        self.muon = muon
        self.trains_text = any(name.startswith("text") for name in networks)
        for network in networks.values():
            network.requires_grad_(True)

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for name, network in self.modules.items():
            own = text_rate if name.startswith("text") else rate
            if self.muon and not name.startswith("text"):
                groups += split_groups(network, own, [getattr(network, end) for end in ("conv_in", "conv_out")])
            else:
                groups.append({"params": list(network.parameters()), "lr": own})
        return [{"muon": False, **group} for group in groups] if self.muon else groups

    def begin_step(self, seed: int, step: int) -> None:
        """Nothing in it is random."""


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


class EmbeddingLearner:
    """Vectors that a word stands for, in a frozen model (textual inversion: Gal et al. 2022, arXiv:2208.01618)."""

    trains_text = True  # the gradient passes through

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.modules: Mapping[str, nn.Module] = {"vectors": vectors}
        self.words = vectors.words

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.vectors.parameters()), "lr": rate}]

    def begin_step(self, seed: int, step: int) -> None:
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
    choose = chooser(settings.rank, settings.conv_rank or 0, trained)
    alphas = {
        False: settings.alpha or float(settings.rank),
        True: settings.conv_alpha or float(settings.conv_rank or 1),
    }

    def alpha(name: str, layer: Layer) -> float:
        return alphas[isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)]

    return LoraFactors(trained, choose, alpha=alpha, dropout=settings.dropout, generator=generator)


def make_vectors(
    networks: Mapping[str, nn.Module],
    tokenizers: Sequence[Tokenizer],
    settings: TuningSettings,
    generator: torch.Generator,
) -> Vectors:
    """Vectors that begin as the words of `settings.init`, in turn; without words, at random.

    tokenizers: of text and, in SDXL, text_2. Raises GessoError for a word that the vocabulary does not know.
    """
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
) -> Learner:
    """What the settings train."""
    muon = settings.optimizer == "muon"
    if settings.kind == "lora":
        return LoraLearner(make_factors(networks, settings, generator), trains_text=settings.train_text, muon=muon)
    if settings.kind == "embedding":
        return EmbeddingLearner(make_vectors(networks, tokenizers, settings, generator))
    return FullLearner(trained_networks(networks, settings), muon=muon)
