"""What makes a release of a model: sizes, schedule, prediction and default settings, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.schedule import NoiseSchedule, scaled_linear
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.upscaler import UpscalerConfig
from gesso.models.vae import VAEConfig


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The numbers behind a noise schedule."""

    beta_start: float
    beta_end: float
    num_timesteps: int
    zero_terminal_snr: bool

    def build(self) -> NoiseSchedule:
        """The schedule itself. Raises ValueError for betas that are none."""
        return scaled_linear(
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            num_timesteps=self.num_timesteps,
            zero_terminal_snr=self.zero_terminal_snr,
        )


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a request gets where it says nothing. sampler and schedule are names of SAMPLERS and SCHEDULES."""

    num_steps: int
    guidance_scale: float
    sampler: str
    schedule: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """One release.

    upscaler     the network that draws the VAE's picture larger, where the model has one
    native_size  pixels a side that the VAE makes at the size of the training
    clip_skip    1: the text model's last layer, 2: the one before
    objects      what a model with a vocabulary of its own can draw: name -> other words for it; empty: not known
    """

    name: str
    unet: UNetConfig
    vae: VAEConfig
    text: CLIPTextConfig
    upscaler: UpscalerConfig | None = None
    prediction: Prediction
    schedule: ScheduleConfig
    native_size: int
    clip_skip: int = 1
    defaults: Defaults
    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def output_scale(self) -> int:
        """Sides of the picture by those of what the VAE makes: above 1 where an upscaler follows."""
        return self.upscaler.scale if self.upscaler else 1

    @property
    def output_size(self) -> int:
        """Pixels a side of a picture at the native size."""
        return self.native_size * self.output_scale

    @property
    def size_multiple(self) -> int:
        """Width and height of a picture are multiples of this."""
        return self.vae.downscale * self.output_scale
