"""How gesso's default model is made: its sizes and the plans of its trainings, for a CPU and for one GPU."""

from dataclasses import dataclass
from typing import Literal, get_args

from gesso.families.base import Defaults, Family, ScheduleConfig
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.upscaler import UpscalerConfig
from gesso.models.vae import VAEConfig
from gesso.scenes.scene import Category
from gesso.scenes.vocabulary import Thing
from gesso.text.tokenizer import Tokenizer
from gesso.training.loop import Plan

Stage = Literal["autoencoder", "grounding", "denoising", "upscaling"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Mix = dict[Category, float]

# Objects first, at both sizes that they come in (alone, and as one of several); then how they stand together.
FIRST_MIX: Mix = {
    "single": 0.28,
    "background": 0.25,
    "colours": 0.25,
    "counting": 0.11,
    "two": 0.05,
    "size": 0.03,
    "style": 0.03,
}
FULL_MIX: Mix = {
    "single": 0.10,
    "background": 0.13,
    "colours": 0.14,
    "counting": 0.17,
    "two": 0.14,
    "position": 0.13,
    "attribution": 0.15,
    "size": 0.02,
    "style": 0.02,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a training of the default model."""

    name: str
    device: str
    native_size: int  # pixels a side of the pictures trained on
    vae: VAEConfig  # its scaling factor is measured after its training
    vae_kl_weight: float
    vae_decoder_noise: float
    unet: UNetConfig
    text_dim: int
    text_layers: int
    text_heads: int
    text_length: int
    upscaler: UpscalerConfig
    crop: int
    autoencoder: Plan
    grounding: Plan
    denoising: Plan
    upscaling: Plan
    first_samples: int  # of the denoising, that see FIRST_MIX
    pool_size: int
    pool_passes: int
    workers: int  # processes that compose pictures; 0: the training process itself
    compile: bool
    defaults: Defaults

    def family(self, tokenizer: Tokenizer, objects: tuple[Thing, ...], scaling_factor: float) -> Family:
        """The model that comes out."""
        vae = self.vae.__class__(**{**vars(self.vae), "scaling_factor": scaling_factor})
        return Family(
            name="gesso-mini",
            unet=self.unet,
            vae=vae,
            text=CLIPTextConfig(
                vocab_size=tokenizer.size,
                max_length=self.text_length,
                dim=self.text_dim,
                num_layers=self.text_layers,
                num_heads=self.text_heads,
                mlp_dim=4 * self.text_dim,
                activation="quick_gelu",
                eos_id=tokenizer.eos,
            ),
            upscaler=self.upscaler,
            prediction="v",
            schedule=ScheduleConfig(beta_start=0.00085, beta_end=0.012, num_timesteps=1000, zero_terminal_snr=True),
            native_size=self.native_size,
            defaults=self.defaults,
            objects={thing.name: (*dict.fromkeys((thing.plural, *thing.synonyms)),) for thing in objects},
        )


CPU = Recipe(
    name="cpu",
    device="cpu",
    native_size=64,
    vae=VAEConfig(
        channels=(48, 96), num_res_blocks=1, latent_channels=4, scaling_factor=1.0, patch_size=2, norm_groups=16
    ),
    vae_kl_weight=0.05,
    vae_decoder_noise=0.3,
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(48, 96, 192),
        attention=(0, 1, 1),
        mid_attention=1,
        num_heads=(2, 3, 6),
        num_res_blocks=1,
        context_dim=192,
        added_dim=192,
        draft_size=16,
        norm_groups=16,
    ),
    text_dim=192,
    text_layers=2,
    text_heads=6,
    text_length=24,
    upscaler=UpscalerConfig(scale=4, channels=80, num_blocks=5, patch_size=2),
    crop=32,
    autoencoder=Plan(
        batch_size=16,
        total_samples=30_000,
        learning_rate=2e-3,
        warmup_samples=1000,
        decay_share=0.35,
        ema_decay=0.998,
    ),
    grounding=Plan(
        batch_size=64,
        total_samples=120_000,
        learning_rate=1e-3,
        warmup_samples=3000,
        decay_share=0.3,
        ema_decay=0.995,
    ),
    denoising=Plan(
        batch_size=16,
        total_samples=320_000,
        learning_rate=1e-3,
        warmup_samples=5000,
        decay_share=0.25,
        ema_decay=0.999,
    ),
    upscaling=Plan(
        batch_size=8,
        total_samples=60_000,
        learning_rate=1e-3,
        warmup_samples=500,
        decay_share=0.3,
        ema_decay=0.998,
    ),
    first_samples=60_000,
    pool_size=4096,
    pool_passes=3,
    workers=0,
    compile=False,
    defaults=Defaults(num_steps=20, guidance_scale=3.0, sampler="dpmpp_2m", schedule="sgm_uniform"),
)
RECIPES = {recipe.name: recipe for recipe in (CPU,)}
