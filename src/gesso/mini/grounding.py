"""Pretrains the text transformer: it predicts roughly what the picture will look like.

Stable Diffusion starts from a text transformer that CLIP taught about pictures. Ours learns the same lesson in minutes,
at many times the pictures a second that the UNet gets through: from a caption's tokens the UNet's draft, and from its
vector a head that is thrown away, predict the latents. Words for things that look alike come to lie together, so that
the UNet need not memorise each word alone.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.mini.pools import Pool
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import Draft
from gesso.training.task import Enter, Figures


class GroundingTask:
    """Squared error of both guesses at the latents; shape: of one picture's latents, (C, h, w)."""

    def __init__(
        self,
        text: CLIPTextModel,
        draft: Draft,
        pool: Pool,
        shape: tuple[int, int, int],
        *,
        report_pictures: int = 256,
    ) -> None:
        self.text, self.draft, self.pool, self.report_pictures = text, draft, pool, report_pictures
        head = nn.Sequential(
            nn.Linear(text.config.dim, 512), nn.SiLU(), nn.Linear(512, int(np.prod(shape))), nn.Unflatten(1, shape)
        )
        self.head = head.to(text.token_embedding.weight.device)
        self.precision: Enter = nullcontext
        self.modules: Mapping[str, nn.Module] = {"text": text, "draft": draft, "head": self.head}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        return [{"params": parameters, "lr": learning_rate}]

    def networks(self) -> list[nn.Module]:
        return [self.text, self.draft, self.pool.vae.encoder]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        with self.precision():
            drafted, pooled = self._errors(*self.pool.batch(step, batch_size, seed))
        return drafted + pooled, {"draft": drafted.detach(), "pooled": pooled.detach()}

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Both errors on fresh pictures, where the mean picture alone would have `variance`."""
        pictures = self.pool.phases[-1][1]
        scenes = pictures.scenes(self.report_pictures, 10**9)
        latents = self.pool.vae.encode(pictures.pixels(scenes)).mean
        ids = self.pool.captions.ids(scenes, np.random.default_rng(0)).to(latents.device)
        drafted, pooled = self._errors(ids, latents)
        variance = float((latents - latents.mean(dim=0)).square().mean())
        return {"fresh_draft": float(drafted), "fresh_pooled": float(pooled), "variance": variance}

    def _errors(self, ids: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        encoding = self.text(ids)
        drafted, pooled = self.draft(encoding.last).float(), self.head(encoding.pooled).float()
        return F.mse_loss(drafted, latents), F.mse_loss(pooled, latents)
