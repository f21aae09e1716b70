"""Training recipes of gesso's default model: its sizes and training plans, for a CPU and for one GPU."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from gesso.families.base import Family, FamilyDefaults, ScheduleConfig
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.upscaler import MiniUpscalerConfig
from gesso.models.vae import VAEConfig
from gesso.scenes.scene import Category
from gesso.scenes.vocabulary import Thing
from gesso.text.tokenizer import Tokenizer
from gesso.training.loop import Plan
from gesso.training.precision import TrainingPrecision

Stage = Literal["autoencoder", "grounding", "denoising", "upscaling"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Mix = dict[Category, float]

# Objects first, at both sizes that they come in (alone, and as one of several); then how they stand together; at last,
# while the learning rate falls, again mostly one object, whose details are the larger part of what can be seen, and
# tinted ones above all: every object in every colour is the most that there is to learn.
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
LAST_MIX: Mix = {
    "single": 0.14,
    "background": 0.22,
    "colours": 0.34,
    "counting": 0.07,
    "two": 0.06,
    "position": 0.05,
    "attribution": 0.10,
    "size": 0.01,
    "style": 0.01,
}


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
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
    upscaler: MiniUpscalerConfig
    decoder_smear: float  # of the latents, in the training of the upscaler
    autoencoder: Plan
    grounding: Plan
    denoising: Plan
    upscaling: Plan
    first_samples: int  # of the denoising, that see FIRST_MIX
    full_samples: int  # of the denoising after those, that see FULL_MIX; the rest sees LAST_MIX
    pool_size: int
    pool_passes: int
    defaults: FamilyDefaults
    objects: str = "default"  # table of what it draws, see scenes.vocabulary.things
    precision: TrainingPrecision | Literal["auto"] = "auto"
    compile: bool = False
    # Pictures drawn many at a time on the device and captions made ahead, for a device that would wait for a CPU.
    prepared: bool = False
    workers: int = 0  # processes that lay out pictures and word captions ahead, where prepared; 0: the training process
    scaling_pictures: int = 512  # that the scaling factor of the latents is measured on
    report_pictures: int | None = None  # of each report; None: as many as each task sees fit
    save_every: float = 120.0  # seconds, as is the next
    report_every: float = 300.0

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


CPU = ModelRecipe(
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
    upscaler=MiniUpscalerConfig(scale=4, channels=(40, 80, 160), num_blocks=(1, 2, 3), sharpness=3.0, patch_size=1),
    decoder_smear=0.6,
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
        total_samples=380_000,
        learning_rate=1e-3,
        warmup_samples=5000,
        decay_share=0.35,
        ema_decay=0.999,
    ),
    upscaling=Plan(
        batch_size=4,
        total_samples=40_000,
        learning_rate=5e-4,
        warmup_samples=500,
        decay_share=0.5,
        ema_decay=0.998,
    ),
    first_samples=60_000,
    full_samples=130_000,
    pool_size=4096,
    pool_passes=3,
    defaults=FamilyDefaults(num_steps=20, guidance_scale=3.5, sampler="dpmpp_2m", schedule="sgm_uniform"),
)

# Sizes: what 60 MB of half precision hold, and what some 10 million pictures can teach in a quarter of an hour.
# - The autoencoder goes from 128 pixels a side to 16 as the CPU's goes from 64 to 16: patches of 2 fold the finest
#   level away, whose large, thin feature maps cost the most time and memory traffic of all.
# - 8 channels of latents: of composed pictures, a linear code of 8 numbers for 8 x 8 pixels keeps 23.8 dB and one of 4
#   keeps 21.1, where the 4 for 4 x 4 that serve the CPU's 64 pixels keep 22.3.
# - Each head of an attention has 32 channels; the text is 224 wide so that the draft's heads divide it as well.
GPU = ModelRecipe(
    name="gpu",
    device="cuda",
    objects="full",
    native_size=128,
    vae=VAEConfig(channels=(64, 128, 192), num_res_blocks=1, latent_channels=8, scaling_factor=1.0, patch_size=2),
    vae_kl_weight=0.05,
    vae_decoder_noise=0.3,
    unet=UNetConfig(
        in_channels=8,
        out_channels=8,
        channels=(64, 128, 224),
        attention=(1, 1, 1),
        mid_attention=1,
        num_heads=(2, 4, 7),
        num_res_blocks=1,
        context_dim=224,
        added_dim=224,
        draft_size=16,
    ),
    text_dim=224,
    text_layers=3,
    text_heads=7,
    text_length=32,
    upscaler=MiniUpscalerConfig(scale=2, channels=(40, 80, 160), num_blocks=(1, 2, 3), sharpness=3.0, patch_size=2),
    decoder_smear=0.6,
    autoencoder=Plan(
        batch_size=64,
        minutes=4.5,
        learning_rate=1e-3,
        warmup_samples=20_000,
        decay_share=0.35,
        ema_decay=0.999,
    ),
    grounding=Plan(
        batch_size=1024,
        minutes=1,
        learning_rate=1e-3,
        warmup_samples=100_000,
        decay_share=0.3,
        ema_decay=0.998,
    ),
    denoising=Plan(
        batch_size=1024,
        minutes=12,
        learning_rate=1e-3,
        warmup_samples=300_000,
        decay_share=0.25,
        ema_decay=0.9995,
    ),
    upscaling=Plan(
        batch_size=64,
        minutes=2.5,
        learning_rate=5e-4,
        warmup_samples=5_000,
        decay_share=0.5,
        ema_decay=0.998,
    ),
    first_samples=2_000_000,
    full_samples=5_500_000,
    pool_size=131_072,
    pool_passes=4,
    precision="bfloat16",
    compile=True,
    prepared=True,
    workers=12,
    save_every=60.0,
    report_every=60.0,
    defaults=CPU.defaults,
)
RECIPES = {recipe.name: recipe for recipe in (CPU, GPU)}


def on_device(recipe: ModelRecipe, device: str) -> ModelRecipe:
    """The same training on another device. A CPU computes in the precision that is faster there, uncompiled."""
    if device == recipe.device:
        return recipe
    if device.startswith("cpu"):
        return replace(recipe, device=device, compile=False, precision="auto")
    return replace(recipe, device=device)


def rehearsal(recipe: ModelRecipe, steps: int = 3, batch_size: int = 4) -> ModelRecipe:
    """The same networks on the same path for a few steps of a few pictures: whether a machine can run it at all."""
    plans: dict[str, Any] = {
        stage: replace(
            getattr(recipe, stage),
            batch_size=batch_size,
            total_samples=steps * batch_size,
            minutes=None,
            warmup_samples=1,
        )
        for stage in STAGES
    }
    small: dict[str, Any] = {
        "pool_size": 2 * batch_size,
        "pool_passes": 1,
        "first_samples": 2 * batch_size,
        "full_samples": batch_size,
    }
    return replace(recipe, **plans, **small, scaling_pictures=batch_size, report_pictures=batch_size)
