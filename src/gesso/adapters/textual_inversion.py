"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): learned vectors that stand for a word of the prompt.

Files: A1111's .pt (its vectors come as "emb_params" out of the reader of PyTorch files) and their safetensors form,
diffusers' learned_embeds ({"<token>": vectors}), SDXL's {"clip_l": ..., "clip_g": ...}, those of pivotal tuning
({"text_encoders_0": ..., "text_encoders_1": ...}), and those bundled with a LoRA.

    with attach_embeddings({"text": text_model}, [embedding], tokenizer) as attached:
        chunk(pieces, tokenizer, embeddings=attached.tokens)  # ids that only the attached models know

Shapes: N vectors, D width of the text encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.checkpoints.tensor_file import TensorFile
from gesso.errors import shorten
from gesso.models.clip import CLIPTextModel
from gesso.text.chunks import EmbeddingToken
from gesso.text.tokenizer import Tokenizer

MAX_VECTORS = 75  # a chunk holds no more
_WIDTHS = {768: "Stable Diffusion 1 or SDXL's first text encoder", 1024: "Stable Diffusion 2", 1280: "SDXL's second"}
# Names that say which text encoder a tensor is for, in SDXL's files and in those of SD 3.
_TOWERS = {"clip_l": "text", "clip_g": "text_2", "text_encoders_0": "text", "text_encoders_1": "text_2"}
_IGNORED = ("t5xxl", "text_encoders_2")
_ANONYMOUS = ("*", "emb_params")  # what stands for "the word that the file is called by"


@dataclass(frozen=True, eq=False)
class Embedding:
    """One embedding (textual inversion).

    name      what a prompt spells
    token     the placeholder of its training ("<cat-toy>"), where the file names one
    vectors   [N, D] for a text encoder: "text" and "text_2" in SDXL; "" where the file does not say for which
    """

    name: str
    vectors: Mapping[str, Tensor]
    where: Path
    token: str | None = None

    @property
    def num_vectors(self) -> int:
        return len(next(iter(self.vectors.values())))

    @property
    def what(self) -> str:
        """What it is, in words."""
        widths = [vectors.shape[1] for vectors in self.vectors.values()]
        both = "both text encoders of SDXL" if len(widths) > 1 else ""
        encoder = both or _WIDTHS.get(widths[0], f"a text encoder of width {widths[0]}")
        return f"a word of {self.num_vectors} vector{'s' * (self.num_vectors > 1)} for {encoder}"

    @property
    def nbytes(self) -> int:
        return sum(vectors.nbytes for vectors in self.vectors.values())

    @property
    def spellings(self) -> tuple[str, ...]:
        """What a prompt may call it: A1111's way, ComfyUI's, and the placeholder of diffusers."""
        others = () if self.token is None or self.token == self.name else (self.token,)
        return (self.name, f"embedding:{self.name}", *others)


def read_embedding(file: TensorFile, *, name: str | None = None) -> Embedding:
    """An embedding from a file of any format. name: what a prompt calls it; the file's stem if None.

    Raises ModelFileError for a file that is none.
    """
    with file.reader() as reader:
        return embedding_from({key: reader[key] for key in file.tensors}, file.path, name=name or file.path.stem)


def embedding_from(tensors: Mapping[str, Tensor], where: Path, *, name: str) -> Embedding:
    """The same from tensors at hand. Raises ModelFileError."""
    used = {key: tensor for key, tensor in tensors.items() if key not in _IGNORED}
    if set(used) & set(_TOWERS):
        used = {key: tensor for key, tensor in used.items() if key in _TOWERS}
        vectors = {_TOWERS[key]: _vectors(key, tensor, where) for key, tensor in used.items()}
        token = None
    elif len(used) == 1:
        key, tensor = next(iter(used.items()))
        vectors, token = {"": _vectors(key, tensor, where)}, None if key in _ANONYMOUS else key
    else:
        message = (
            f"{len(used)} tensors that make no embedding (textual inversion): {', '.join(map(shorten, list(used)[:5]))}"
        )
        raise ModelFileError("unknown_key", where, message)
    if len({len(each) for each in vectors.values()}) != 1:
        raise ModelFileError("shape", where, "the text encoders have different numbers of vectors, expected the same")
    return Embedding(name, vectors, where, token)


def _vectors(name: str, tensor: Tensor, where: Path) -> Tensor:
    vectors = tensor[None] if tensor.ndim == 1 else tensor
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_VECTORS or vectors.shape[1] < 1:
        message = f"{shorten(name)} is {shape_text(tensor.shape)}, expected 1 to {MAX_VECTORS} vectors"
        raise ModelFileError("shape", where, message)
    if not vectors.is_floating_point():
        raise ModelFileError("dtype", where, f"{shorten(name)} is {vectors.dtype}, expected floating-point numbers")
    vectors = vectors.to(torch.float32, copy=True)
    if not bool(vectors.isfinite().all()):
        raise ModelFileError("nonfinite", where, f"{shorten(name)} holds NaN or infinity; the file is damaged")
    return vectors


def attach_embeddings(
    models: Mapping[str, CLIPTextModel], embeddings: Sequence[Embedding], tokenizer: Tokenizer
) -> "AttachedEmbeddings":
    """Adds embeddings to text encoders until `detach`, or to the end of a `with` block.

    models     text and, in SDXL, text_2
    tokenizer  of the text encoders, which in SDXL split text alike
    Their weights are not touched. Two of one name: the last counts. Raises ModelFileError (architecture_mismatch) for
    vectors of another width than the model's, or missing for one of the models.
    """
    by_name = {embedding.name: embedding for embedding in embeddings}
    first = max(model.config.vocab_size for model in models.values())
    tables: dict[str, list[Tensor]] = {part: [] for part in models}
    tokens: dict[tuple[int, ...], EmbeddingToken] = {}
    for embedding in by_name.values():
        for part, vectors in _placed(embedding, models).items():
            tables[part].append(vectors)
        for spelling in embedding.spellings:
            ids = tuple(token.id for token in tokenizer.tokens(spelling))
            if ids:
                tokens[ids] = EmbeddingToken(embedding.name, ids, embedding.num_vectors, first, spelling)
        first += embedding.num_vectors
    return AttachedEmbeddings(models, {part: torch.cat(each) for part, each in tables.items() if each}, tokens)


def _placed(embedding: Embedding, models: Mapping[str, CLIPTextModel]) -> dict[str, Tensor]:
    """The vectors for each text encoder."""
    vectors = embedding.vectors
    if "" in vectors and len(models) == 1:
        vectors = {next(iter(models)): vectors[""]}
    elif len(models) == 1 and len(vectors) > 1 and "text_2" in vectors and "text" in models:
        vectors = {"text": vectors["text_2"]}  # the refiner has the second model alone
    for part, model in models.items():
        width = model.config.dim
        if part not in vectors or vectors[part].shape[1] != width:
            own_widths = ", ".join(str(each.shape[1]) for each in vectors.values())
            looks = " and ".join(_WIDTHS.get(each.shape[1], "an unknown model") for each in vectors.values())
            model_widths = ", ".join(str(model.config.dim) for model in models.values())
            message = f"its vectors are {own_widths} wide ({looks}), this model's text encoders take {model_widths}"
            raise ModelFileError("architecture_mismatch", embedding.where, message)
    return {part: vectors[part] for part in models}


class AttachedEmbeddings:
    """Embeddings attached to text encoders.  tokens: for `gesso.text.chunks.chunk`"""

    def __init__(
        self,
        models: Mapping[str, CLIPTextModel],
        vectors: Mapping[str, Tensor],
        tokens: Mapping[tuple[int, ...], EmbeddingToken],
    ) -> None:
        self.tokens = tuple(tokens.values())
        self._hooks: list[Any] = []
        for part, table in vectors.items():
            model = models[part]
            base = max(each.config.vocab_size for each in models.values())
            lookup = _Lookup(base, table)
            embedding = model.token_embedding
            self._hooks += [
                embedding.register_forward_pre_hook(lookup.before),
                embedding.register_forward_hook(lookup.after),
            ]

    def detach(self) -> None:
        """The text encoders as they were."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


class _Lookup:
    """Looks up ids from `base` on in a second embedding table."""

    def __init__(self, base: int, table: Tensor) -> None:
        self.base, self.table = base, table
        self._ids: Tensor | None = None

    def before(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        ids = args[0]
        self._ids = ids if bool((ids >= self.base).any()) else None
        return None if self._ids is None else (ids.masked_fill(ids >= self.base, 0),)

    def after(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        ids, self._ids = self._ids, None
        if ids is None:
            return None
        learned = ids >= self.base
        rows = self.table.to(output)[ids[learned] - self.base]
        mixed = output.clone()
        mixed[learned] = rows
        return mixed
