"""The conventions in which tools differ, each a named setting, and the presets that are made of them.

A preset gives every setting a value; what a request names itself wins over it, and the recipe records each value beside
the name of the preset. Imports no torch.

initial_noise      how strong the first noise is. sigma: n * sigma_0 (k-diffusion). variance: n * sqrt(1 + sigma_0^2),
                   the variance that the network was trained with at a signal of one (DDIM, SDXL, most of diffusers);
                   noise that is left at the end is then scaled back the same way. comfyui: variance from the top of
                   the noise table, else sigma
timestep_spacing   schedule: the schedule alone says where the steps are. leading, linspace, trailing: diffusers' ways
                   to choose timesteps, from which the schedule's sigmas are made. a1111: the timesteps that A1111
                   chooses for DDIM, PLMS and UniPC; its scale of DDIM CFG++ (1/12.5 of the user's) goes with them
round_timesteps    the network is told whole timesteps
discard_penultimate_sigma  one step more is planned and the last level before zero left out
sigma_table        how the noise table is computed: exact (float64), rounded to float32 at the end (k-diffusion, A1111),
                   or float32 throughout (diffusers)
strength_rule      which steps an image to image run takes. share: the nearest whole number of steps, num_steps *
                   strength. diffusers: that number rounded down; inpainting at strength 1 starts from noise alone.
                   a1111: one step more, and never all the way up to strength 1
vae_encode         mean: what the encoder holds most likely; sample: drawn from its distribution, before any other noise
mask_blend         x0: what is not masked is put into every prediction (A1111), the mask made small and rounded.
                   x: into the noisy latents before every call but the first (diffusers), the mask shrunk by picking.
                   differential: as x, but a grey mask: the lighter a place, the earlier it is freed
mask_blur          pixels by which the edge of the mask is softened before anything else
paste_back         what is not masked is copied from the picture that came in, bit by bit
refiner_rule       calls: the refiner takes over after a share of the network calls (A1111). timesteps: below the same
                   share of the timesteps, with a fresh start of the sampler (diffusers)
syntax             how a prompt is read: a1111 with its (weights:1.2), comfyui, compel, or plain: every sign is text
emphasis           what weights do: original restores the mean of the states (A1111), no_norm does not; comfyui, compel;
                   ignore
chunks             all: a long prompt is read in chunks of the text model's length; first: what does not fit is left out
prompt_timing      when a prompt changes. steps: [a:b:5] has a for 5 steps of the whole schedule, an image to image run
                   leaves some of them out. a1111: a step later, counted from where the run begins
lora_mode          run: a LoRA's share is added to what a layer says. merged: it is added to the weights of the UNet for
                   each picture, rounded to their number format; a UNet that a memory plan moves about has run
control_rule       a1111: where prompt or picture is more important, a control network's output i of 13 counts
                   0.825 ** (12 - i); it steers while the share of steps done lies in start .. end; a hint of another
                   shape is cropped. diffusers: from 0.1 to 1 at equal ratios (its guess mode); a step must end before
                   the end; a hint is stretched
uneven_chunks      where a prompt has more chunks than its negative. padded: the shorter gets chunks of the empty text,
                   and one call takes both. apart: a call for each (A1111, whose pad_cond_uncond is padded)
empty_negative     as_trained: SDXL is told zeros in place of an empty negative prompt; encoded: its encoding
clip_skip_everywhere  clip_skip moves the layer of SD 2 and SDXL, too (diffusers, whose clip_skip is one less)
levels             how 256 levels are made: round, or truncate, which is half a level darker
noise              where random numbers come from
sde_noise          brownian: samplers of the SDE family take their noise from one path in sigma, which does not change
                   with the number of steps. independent: from fresh draws (diffusers). torchsde: from the tree of that
                   package between the ends of the schedule (A1111, ComfyUI)
ensd               "eta noise seed delta": joins the seed for every draw but the first
strength           share of the schedule that is drawn again where a request with a picture says nothing
hires_upscaler, hires_strength   the same of a second pass, and how it enlarges
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Values of the settings that are words. A schedule, a sampler, a syntax and a source of noise have registries of their
# own.
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "initial_noise": ("sigma", "variance", "comfyui"),
        "timestep_spacing": ("schedule", "leading", "linspace", "trailing", "a1111"),
        "sigma_table": ("exact", "rounded", "float32"),
        "strength_rule": ("share", "a1111", "diffusers"),
        "vae_encode": ("mean", "sample"),
        "mask_blend": ("x0", "x", "differential"),
        "mask_content": ("original", "fill", "noise", "nothing"),
        "mask_area": ("whole", "masked"),
        "resize": ("stretch", "crop", "fill"),
        "tiling": ("x", "y", "xy"),
        "refiner_rule": ("calls", "timesteps"),
        "sde_noise": ("brownian", "independent", "torchsde"),
        "emphasis": ("original", "no_norm", "ignore", "comfyui", "compel"),
        "chunks": ("all", "first"),
        "empty_negative": ("as_trained", "encoded"),
        "prompt_timing": ("steps", "a1111"),
        "lora_mode": ("run", "merged"),
        "uneven_chunks": ("padded", "apart"),
        "control_rule": ("a1111", "diffusers"),
        "levels": ("round", "truncate"),
    }
)

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gesso": MappingProxyType(
            {
                "initial_noise": "sigma",
                "timestep_spacing": "schedule",
                "round_timesteps": False,
                "discard_penultimate_sigma": False,
                "sigma_table": "exact",
                "strength_rule": "share",
                "vae_encode": "mean",
                "mask_blend": "x0",
                "mask_blur": 0.0,
                "paste_back": True,
                "refiner_rule": "calls",
                "sde_noise": "brownian",
                "syntax": "a1111",
                "emphasis": "no_norm",
                "chunks": "all",
                "empty_negative": "as_trained",
                "prompt_timing": "steps",
                "lora_mode": "run",
                "uneven_chunks": "padded",
                "control_rule": "a1111",
                "clip_skip_everywhere": False,
                "levels": "round",
                "ensd": 0,
            }
        ),
        "a1111": MappingProxyType(
            {
                "initial_noise": "sigma",
                "timestep_spacing": "schedule",
                "round_timesteps": False,
                "discard_penultimate_sigma": False,
                "sigma_table": "rounded",
                "strength_rule": "a1111",
                "vae_encode": "mean",  # theirs is a sample from the global generator, which nobody can repeat
                "mask_blend": "x0",
                "mask_blur": 4.0,
                "paste_back": True,
                "refiner_rule": "calls",
                "sde_noise": "torchsde",
                "syntax": "a1111",
                "emphasis": "original",
                "chunks": "all",
                "empty_negative": "as_trained",
                "prompt_timing": "a1111",
                "lora_mode": "run",
                "uneven_chunks": "apart",
                "control_rule": "a1111",
                "clip_skip_everywhere": False,
                "levels": "truncate",
                "ensd": 0,
            }
        ),
        "diffusers": MappingProxyType(
            {
                "initial_noise": "variance",
                "timestep_spacing": "linspace",
                "round_timesteps": False,
                "discard_penultimate_sigma": False,
                "sigma_table": "float32",
                "strength_rule": "diffusers",
                "vae_encode": "sample",
                "mask_blend": "x",
                "mask_blur": 0.0,
                "paste_back": False,
                "refiner_rule": "timesteps",
                "sde_noise": "independent",
                "syntax": "plain",
                "emphasis": "ignore",
                "chunks": "first",
                "empty_negative": "as_trained",
                "prompt_timing": "steps",
                "lora_mode": "run",
                "uneven_chunks": "padded",
                "control_rule": "diffusers",
                "clip_skip_everywhere": True,
                "levels": "round",
                "ensd": 0,
            }
        ),
    }
)

# What a preset fills in besides its conventions.
PRESET_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gesso": MappingProxyType(
            {"noise": "philox", "strength": 0.75, "hires_upscaler": "lanczos", "hires_strength": 0.3}
        ),
        "a1111": MappingProxyType(
            # nv: their GPU source, to the last bit or two
            {"noise": "nv", "strength": 0.75, "hires_upscaler": "latent_bilinear", "hires_strength": 0.7}
        ),
        "diffusers": MappingProxyType(
            {"noise": "cpu", "strength": 0.8, "hires_upscaler": "lanczos", "hires_strength": 0.3}
        ),
    }
)
