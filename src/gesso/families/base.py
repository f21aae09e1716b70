"""`Family`: a release of a model (SD 1.5, SDXL, ...) as a frozen value: sizes, schedule, prediction type, defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.schedule import NoiseSchedule, scaled_linear
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.upscaler import MiniUpscalerConfig
from gesso.models.vae import VAEConfig


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The betas of a noise schedule."""

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
class FamilyDefaults:
    """Defaults of a request. sampler and schedule are names of SAMPLERS and SCHEDULES."""

    num_steps: int
    guidance_scale: float
    sampler: str
    schedule: str


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """The default scheduler of the release in diffusers, for the preset diffusers.

    name is a class of that library: text that is compared and written, never imported.

    stated  settings of a folder's file beside the fields, by diffusers' names, where they differ from what goes without
            saying; a timestep_spacing there is the class's own, but said, so that it holds for other samplers too
    """

    name: str
    timestep_spacing: Literal["leading", "linspace", "trailing"]
    steps_offset: int
    # What follows the last step: sigma 0, or the schedule's least sigma; None: the default of the class that is taken.
    set_alpha_to_one: bool | None = False
    skip_prk_steps: bool = True  # PNDM: no Runge-Kutta steps at the start
    use_karras_sigmas: bool = False
    stated: Mapping[str, object] = field(default_factory=dict, hash=False)


# Where the tensors of a single file stand, and how its text is read; see checkpoints/ldm.py and families/encoding.py.
Layout = Literal["sd1", "sd2", "sdxl", "refiner"]
# Channels beside the latents: mask and masked picture, a picture to edit, a small picture to enlarge.
Concat = Literal["none", "inpaint", "edit", "upscale"]

# Numbers that join the pooled text in the added vector: original size, crop, then target size or an aesthetic score.
_SIZE_VALUES: Mapping[Layout, int] = {"sd1": 0, "sd2": 0, "sdxl": 6, "refiner": 5}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One release.

    layout       tensor names of a single file, and the contents of the added vector
    text_2       the second text encoder of SDXL; its hidden states are concatenated to those of the first
    text_layer   which layer of the text encoders the UNet takes: 1 the last, 2 the one before (clip skip)
    text_norm    whether the text encoder's final norm is applied
    concat       extra input channels of the UNet
    max_level    the highest noise level of the input picture that the UNet was trained with (x4 upscaler)
    zero_empty_negative  an empty negative prompt becomes zeros instead of its encoding, as SDXL was trained
    upscaler     the network that enlarges the VAE's picture, if the model has one
    native_size  pixels a side of the VAE's pictures in training
    clip_skip    default of a request; 1: as trained, 2: a layer earlier
    scheduler    the scheduler of the release's diffusers folder; None: there is none
    objects      objects that a model with its own vocabulary can draw: name -> synonyms; empty: not known
    """

    name: str
    layout: Layout = "sd1"
    unet: UNetConfig
    vae: VAEConfig
    text: CLIPTextConfig
    text_2: CLIPTextConfig | None = None
    text_layer: int = 1
    text_norm: bool = True
    concat: Concat = "none"
    max_level: int | None = None
    zero_empty_negative: bool = False
    upscaler: MiniUpscalerConfig | None = None
    prediction: Prediction
    schedule: ScheduleConfig
    native_size: int
    clip_skip: int = 1
    defaults: FamilyDefaults
    scheduler: SchedulerConfig | None = None
    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def is_refiner(self) -> bool:
        """Whether this is a refiner, which runs the last steps after a base model."""
        return self.layout == "refiner"

    @property
    def architecture(self) -> tuple[Layout, Concat, bool]:
        """What must agree between a family named by the user and the file."""
        return self.layout, self.concat, self.takes_guidance_scale

    @property
    def takes_guidance_scale(self) -> bool:
        """Whether the UNet takes the guidance scale as an input (guidance distillation): one call instead of two."""
        return self.unet.guidance_dim is not None

    @property
    def num_sizes(self) -> int:
        """Numbers besides the pooled text in the added vector: 0, 6 (SDXL) or 5 (its refiner)."""
        return _SIZE_VALUES[self.layout]

    @property
    def size_dim(self) -> int:
        """Width of the embedding of each of these numbers: 256 in every release. 0 without them."""
        pooled = (self.text_2 or self.text).projection_dim or 0
        return ((self.unet.added_dim or 0) - pooled) // self.num_sizes if self.num_sizes else 0

    @property
    def output_scale(self) -> int:
        """Scale from the VAE's picture to the finished one: above 1 if the model has an upscaler."""
        return self.upscaler.scale if self.upscaler else 1

    @property
    def output_size(self) -> int:
        """Pixels a side of a picture at the native size."""
        return self.native_size * self.output_scale

    @property
    def size_multiple(self) -> int:
        """Width and height of a picture are multiples of this."""
        return self.vae.downscale * self.output_scale
