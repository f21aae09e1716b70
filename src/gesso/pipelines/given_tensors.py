"""Tensors that a caller gives in place of the initial noise or of an encoded prompt.

A recipe cannot hold them: it names each by its SHA-256, and a replay refuses.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gesso.families.base import Family
from gesso.families.encoding import PromptEmbeds
from gesso.notices import Notice
from gesso.pictures.given import with_article
from gesso.request.checks import RequestError
from gesso.request.recipe import GIVEN, ExtraFile
from gesso.request.request import ResolvedRequest
from gesso.text.chunks import ChunkReport


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """An encoded prompt, as `TextToImage.encode` gives it.

    context  float [1, L, D], the text states that the UNet attends to: `prompt_embeds` of diffusers
    pooled   float [1, A], the vector that joins the time embedding; of SDXL with its sizes behind it; None for models
             that take none
    """

    context: Tensor
    pooled: Tensor | None = None

    def __repr__(self) -> str:
        pooled = "" if self.pooled is None else f", pooled {list(self.pooled.shape)}"
        return f"<PromptEmbeddings {list(self.context.shape)}{pooled}>"


GivenEmbeddings = PromptEmbeddings | Tensor
_FIELDS = ("latents", "prompt_embeddings", "negative_prompt_embeddings")


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenTensors:
    """What a call was given.  latents: [n, C, h, w] noise of unit variance, a row a picture"""

    latents: Tensor | None = None
    prompt_embeddings: PromptEmbeddings | None = None
    negative_prompt_embeddings: PromptEmbeddings | None = None

    @classmethod
    def of(
        cls,
        latents: Tensor | None,
        prompt_embeddings: GivenEmbeddings | None,
        negative_prompt_embeddings: GivenEmbeddings | None,
    ) -> "GivenTensors":
        """Raises RequestError for what is no tensor of finite numbers, or has the wrong number of dimensions."""
        return cls(
            latents=None if latents is None else _tensor(latents, "latents", 4, "[C, h, w] or [n, C, h, w]"),
            prompt_embeddings=_embeddings(prompt_embeddings, "prompt_embeddings"),
            negative_prompt_embeddings=_embeddings(negative_prompt_embeddings, "negative_prompt_embeddings"),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Those that were given."""
        return tuple(name for name in _FIELDS if getattr(self, name) is not None)

    def rows(self, first: int, count: int) -> "GivenTensors":
        """Those of some pictures of the call."""
        return self if self.latents is None else replace(self, latents=self.latents[first : first + count])

    def check(self, request: ResolvedRequest, family: Family, *, has_refiner: bool) -> None:
        """Whether they go with a request. Raises RequestError, naming the argument."""
        if self.latents is not None:
            scale = family.vae.downscale * family.output_scale
            shape = (request.num_images, family.vae.latent_channels, request.height // scale, request.width // scale)
            if tuple(self.latents.shape) != shape:
                size = f"{request.num_images} picture{'s' if request.num_images > 1 else ''} of "
                raise RequestError(
                    "latents",
                    f"`latents` has the shape {list(self.latents.shape)}, expected {list(shape)} for {size}"
                    f"{request.width}x{request.height} with this model",
                )
            if request.variation.strength or request.variation.width:
                raise RequestError("latents", "`latents` is the whole initial noise; leave variation out")
        for name, text in (("prompt_embeddings", "prompt"), ("negative_prompt_embeddings", "negative_prompt")):
            if getattr(self, name) is None:
                continue
            if getattr(request, text).strip():
                raise RequestError(name, f"`{name}` takes the place of {text}; leave one of them empty")
            if has_refiner:
                raise RequestError(name, f"`{name}` is for one model, but a refiner is given, too; leave one out")
            if request.hires is not None:
                raise RequestError(name, f"`{name}` is for one size, but hires draws a second; leave one out")

    def encoded(self, like: PromptEmbeds) -> "Mapping[tuple[str, bool], PromptEmbeds]":
        """The encoded texts by (text, negative), for the empty texts of the request.

        like: a text that the model encoded. Raises RequestError for embeddings of another model.
        """
        found = {}
        for name, negative in (("prompt_embeddings", False), ("negative_prompt_embeddings", True)):
            given: PromptEmbeddings | None = getattr(self, name)
            if given is not None:
                found["", negative] = _fitted(given, like, name)
        return found

    def files(self, row: int) -> tuple[ExtraFile, ...]:
        """How a recipe names them, for one picture of the call."""
        digests = {}
        if self.latents is not None:
            digests["latents"] = _digest(self.latents[row])
        for name in _FIELDS[1:]:
            given: PromptEmbeddings | None = getattr(self, name)
            if given is not None:
                digests[name] = _digest(given.context, given.pooled)
        return tuple(ExtraFile(kind=name, name=GIVEN, sha256=digest) for name, digest in digests.items())

    @property
    def notices(self) -> tuple[Notice, ...]:
        """That the recipe alone does not draw the picture again."""
        return tuple(
            Notice(
                f"drawn with `{name}` given as a tensor: the recipe alone cannot draw this picture again",
                code="tensor_given",
                field=name,
            )
            for name in self.names
        )


NOTHING_GIVEN = GivenTensors()


def _embeddings(value: Any, field: str) -> PromptEmbeddings | None:
    if value is None:
        return None
    given = value if isinstance(value, PromptEmbeddings) else PromptEmbeddings(value)
    context = _tensor(given.context, field, 3, "[L, D] or [1, L, D], or what `encode` gives")
    pooled = None if given.pooled is None else _tensor(given.pooled, field, 2, "[A] or [1, A] for its pooled part")
    for tensor in (context, pooled):
        if tensor is not None and len(tensor) != 1:
            raise RequestError(field, f"`{field}` has {len(tensor)} rows, expected 1; call once for each prompt")
    return PromptEmbeddings(context, pooled)


def _tensor(value: Any, field: str, dims: int, layout: str) -> Tensor:
    """A tensor with so many dimensions, of which the first may be missing."""
    if not isinstance(value, Tensor):
        raise RequestError(
            field, f"`{field}` is {with_article(type(value).__name__)}, expected a torch tensor {layout}"
        )
    tensor = value.detach()[None] if value.ndim == dims - 1 else value.detach()
    if tensor.ndim != dims or 0 in tensor.shape:
        raise RequestError(field, f"`{field}` has the shape {list(value.shape)}, expected {layout}")
    if not tensor.is_floating_point():
        raise RequestError(field, f"`{field}` is of {value.dtype}, expected floating-point numbers")
    if not bool(tensor.float().isfinite().all()):
        raise RequestError(field, f"`{field}` holds NaN or infinity")
    return tensor


def _fitted(given: PromptEmbeddings, like: PromptEmbeds, field: str) -> PromptEmbeds:
    """As the model's own encoder gives them."""
    context, pooled = given.context, given.pooled
    if context.shape[-1] != like.context.shape[-1]:
        raise RequestError(
            field,
            f"`{field}` has {context.shape[-1]} features, expected {like.context.shape[-1]} for this model",
        )
    if (pooled is None) != (like.added is None):
        has = (
            "takes no pooled part; leave it out" if like.added is None else "takes a pooled part too; `encode` gives it"
        )
        raise RequestError(field, f"`{field}`: this model {has}")
    if pooled is not None and like.added is not None and pooled.shape != like.added.shape:
        raise RequestError(
            field,
            f"`{field}` has a pooled part of {list(pooled.shape)}, expected {list(like.added.shape)} for this model",
        )
    return PromptEmbeds(
        context=context.to(like.context),
        added=None if pooled is None or like.added is None else pooled.to(like.added),
        chunks=ChunkReport(num_tokens=()),
    )


def _digest(*tensors: Tensor | None) -> str:
    """SHA-256 of shapes and values."""
    state = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            state.update(f"{list(values.shape)}".encode() + values.numpy().tobytes())
    return state.hexdigest()
