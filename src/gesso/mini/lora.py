"""Training of a LoRA for the default model: its own training, with factors beside the UNet's frozen layers."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.schedule import NoiseSchedule
from gesso.mini.denoising import DenoisingTask
from gesso.mini.pools import Pool
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.tuning.factors import LoraFactors


class LoraTask(DenoisingTask):
    """The base model's own training with everything frozen but the factors beside the UNet's layers."""

    def __init__(
        self,
        unet: UNet,
        text: CLIPTextModel,
        pool: Pool,
        schedule: NoiseSchedule,
        prediction: Prediction,
        *,
        rank: int,
        report_pictures: int = 96,
    ) -> None:
        super().__init__(unet, text, pool, schedule, prediction, report_pictures=report_pictures)
        unet.requires_grad_(False)
        text.requires_grad_(False)
        self.factors = LoraFactors({"unet": unet}, rank)
        self.modules: Mapping[str, nn.Module] = {"factors": self.factors}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.factors.parameters()), "lr": learning_rate}]
