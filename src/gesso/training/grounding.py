"""The text transformer's first training: say roughly what the picture will look like.

Stable Diffusion starts from a text transformer that CLIP taught about pictures. Ours learns the same lesson in minutes,
at many times the pictures a second that the UNet gets through: from a caption's tokens the UNet's draft, and from its
vector a head that is thrown away, predict the latents. Words for things that look alike come to lie together, so that
the UNet need not memorise each word alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.clip import CLIPTextModel
from gesso.models.unet import Draft
from gesso.scenes.caption import Captioner
from gesso.scenes.scene import Scene
from gesso.text.tokenizer import Tokenizer
from gesso.training.denoising import EMPTY_SHARE, LatentPool


class GroundingTask:
    """Squared error of both guesses at the latents; shape: of one picture's latents, (C, h, w)."""

    def __init__(
        self,
        text: CLIPTextModel,
        draft: Draft,
        tokenizer: Tokenizer,
        captioner: Captioner,
        pool: LatentPool,
        shape: tuple[int, int, int],
    ) -> None:
        self.text, self.draft, self.tokenizer, self.captioner, self.pool = text, draft, tokenizer, captioner, pool
        head = nn.Sequential(
            nn.Linear(text.config.dim, 512), nn.SiLU(), nn.Linear(512, int(np.prod(shape))), nn.Unflatten(1, shape)
        )
        self.head = head.to(text.token_embedding.weight.device)
        self.modules: Mapping[str, nn.Module] = {"text": text, "draft": draft, "head": self.head}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        return [{"params": parameters, "lr": learning_rate}]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, dict[str, float]]:
        scenes, latents = self.pool.batch(step, batch_size, seed)
        drafted, pooled = self._errors(scenes, latents, np.random.default_rng((seed, step, 3)), EMPTY_SHARE)
        return drafted + pooled, {"draft": float(drafted.detach()), "pooled": float(pooled.detach())}

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Both errors on fresh pictures, where the mean picture alone would have `variance`."""
        pictures = self.pool.phases[-1][1]
        scenes = pictures.scenes(256, 10**9)
        latents = self.pool.vae.encode(pictures.pixels(scenes).to(self.pool.device)).mean
        drafted, pooled = self._errors(scenes, latents, np.random.default_rng(0), 0.0)
        variance = float((latents - latents.mean(dim=0)).square().mean())
        return {"fresh_draft": float(drafted), "fresh_pooled": float(pooled), "variance": variance}

    def _errors(
        self, scenes: list[Scene], latents: Tensor, rng: np.random.Generator, empty_share: float
    ) -> tuple[Tensor, Tensor]:
        captions = ["" if rng.random() < empty_share else self.captioner(scene, rng) for scene in scenes]
        encoding = self.text(self.tokenizer.encode(captions).to(latents.device))
        return F.mse_loss(self.draft(encoding.last), latents), F.mse_loss(self.head(encoding.pooled), latents)
