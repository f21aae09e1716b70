"""The conventions in which tools differ: which there are, what each choice means, and what each preset takes.

A preset gives every convention a value; what a request names itself wins over it, and the recipe records each value
beside the name of the preset. A convention is declared here alone: `presets.PRESETS` is made of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from gesso.request.checks import brief
from gesso.request.fields import by_preset, choice, flag, named, settle, whole

InitialNoise = Literal["sigma", "variance", "comfyui"]
TimestepSpacing = Literal["schedule", "leading", "linspace", "trailing", "a1111"]
SigmaTable = Literal["exact", "rounded", "float32"]
StrengthRule = Literal["share", "a1111", "diffusers"]
VaeEncode = Literal["mean", "sample"]
MaskBlend = Literal["x0", "x", "differential"]
RefinerRule = Literal["calls", "timesteps"]
SdeNoise = Literal["brownian", "independent", "torchsde"]
Emphasis = Literal["original", "no_norm", "ignore", "comfyui", "compel"]
Chunks = Literal["all", "first"]
PromptTiming = Literal["steps", "a1111"]
LoraMode = Literal["run", "merged"]
UnevenChunks = Literal["padded", "apart"]
ControlRule = Literal["a1111", "diffusers"]
EmptyNegative = Literal["as_trained", "encoded"]
Levels = Literal["round", "truncate"]


def _means(**means: str) -> Mapping[str, str]:
    return MappingProxyType(means)


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """A value for each convention; None: the preset decides. Raises RequestError."""

    initial_noise: Annotated[
        InitialNoise | None,
        choice(
            label="Initial noise",
            help="How strong the first noise is.",
            means=_means(
                sigma="n * sigma_0 (k-diffusion)",
                variance="n * sqrt(1 + sigma_0^2), the variance that the network was trained with at a signal of one "
                "(DDIM, SDXL, most of diffusers); noise left at the end is scaled back the same way",
                comfyui="variance from the top of the noise table, else sigma",
            ),
            a1111="sgm_noise_multiplier",
            infotext="SGM noise multiplier",
            words={"variance": "True", "sigma": "False"},
            presets=by_preset("sigma", "sigma", "variance"),
        ),
    ] = None
    timestep_spacing: Annotated[
        TimestepSpacing | None,
        choice(
            label="Timestep spacing",
            help="What chooses the timesteps from which the sigmas of a run are made.",
            means=_means(
                schedule="the schedule alone says where the steps are",
                leading='as diffusers\' "leading"',
                linspace='as diffusers\' "linspace"',
                trailing='as diffusers\' "trailing"',
                a1111="the timesteps that A1111 takes for DDIM, PLMS and UniPC; its scale of DDIM CFG++ (1/12.5 of "
                "the user's) goes with them",
            ),
            diffusers="timestep_spacing",
            presets=by_preset("schedule", "schedule", "linspace"),
        ),
    ] = None
    round_timesteps: Annotated[
        bool | None,
        flag(
            label="Whole timesteps",
            help="Tell the network whole timesteps.",
            a1111="enable_quantization",
            presets=by_preset(False, False, False),
        ),
    ] = None
    discard_penultimate_sigma: Annotated[
        bool | None,
        flag(
            label="Discard penultimate sigma",
            help="Plan one step more and leave out the last noise level above zero.",
            a1111="always_discard_next_to_last_sigma",
            infotext="Discard penultimate sigma",
            presets=by_preset(False, False, False),
        ),
    ] = None
    sigma_table: Annotated[
        SigmaTable | None,
        choice(
            label="Noise table",
            help="How the table of noise levels is computed.",
            means=_means(
                exact="in float64",
                rounded="in float64, rounded to float32 at the end (k-diffusion, A1111)",
                float32="in float32 throughout (diffusers)",
            ),
            presets=by_preset("exact", "rounded", "float32"),
        ),
    ] = None
    strength_rule: Annotated[
        StrengthRule | None,
        choice(
            label="Strength rule",
            help="Which steps an image-to-image run takes.",
            means=_means(
                share="the nearest whole number of steps, num_steps * strength",
                a1111="one step more, and never all the way up to strength 1",
                diffusers="that number rounded down; inpainting at strength 1 starts from noise alone",
            ),
            presets=by_preset("share", "a1111", "diffusers"),
        ),
    ] = None
    vae_encode: Annotated[
        VaeEncode | None,
        choice(
            label="Encoding",
            help="What the autoencoder makes of a picture that goes in.",
            means=_means(
                mean="what the encoder holds most likely",
                sample="a draw from its distribution, before any other noise",
            ),
            # A1111's is a sample from the global generator, which nobody can repeat.
            presets=by_preset("mean", "mean", "sample"),
        ),
    ] = None
    mask_blend: Annotated[
        MaskBlend | None,
        choice(
            label="Mask blending",
            help="How the part outside the mask is held to the picture while it is drawn.",
            means=_means(
                x0="put into every prediction (A1111), the mask made small and rounded",
                x="put into the noisy latents before every call but the first (diffusers), the mask shrunk by picking",
                differential="as x, but with a grey mask: the lighter a place, the earlier it is freed",
            ),
            presets=by_preset("x0", "x0", "x"),
        ),
    ] = None
    paste_back: Annotated[
        bool | None,
        flag(
            label="Paste back",
            help="Copy what is not masked from the picture that came in, bit for bit.",
            jobs=("inpaint", "outpaint"),
            presets=by_preset(True, True, False),
        ),
    ] = None
    refiner_rule: Annotated[
        RefinerRule | None,
        choice(
            label="Refiner rule",
            help="What the share before the refiner is a share of.",
            means=_means(
                calls="of the network calls (A1111)",
                timesteps="of the timesteps, with a fresh start of the sampler (diffusers)",
            ),
            presets=by_preset("calls", "calls", "timesteps"),
        ),
    ] = None
    sde_noise: Annotated[
        SdeNoise | None,
        choice(
            label="SDE noise",
            help="Where samplers of the SDE family take their noise from.",
            means=_means(
                brownian="one path in sigma, which does not change with the number of steps",
                independent="fresh draws (diffusers)",
                torchsde="the tree of that package between the ends of the schedule (A1111, ComfyUI)",
            ),
            presets=by_preset("brownian", "torchsde", "independent"),
        ),
    ] = None
    syntax: Annotated[
        str | None,
        named(
            label="Prompt syntax",
            help="How the prompt is written.",
            means=_means(
                a1111="with (weights:1.2), [schedules] and <lora:tags>",
                comfyui="ComfyUI's weights",
                compel="Compel's weights, blends and conjunctions (InvokeAI)",
                plain="every character is text",
            ),
            registry="dialects",
            options=("syntax",),
            presets=by_preset("a1111", "a1111", "plain"),
        ),
    ] = None
    emphasis: Annotated[
        Emphasis | None,
        choice(
            label="Emphasis",
            help="What weights in a prompt do.",
            means=_means(
                original="multiply the text states, then restore their mean (A1111)",
                no_norm="multiply the text states",
                ignore="nothing",
                comfyui="move away from the empty prompt (ComfyUI)",
                compel="blend with the prompt without the words (Compel)",
            ),
            a1111="emphasis",
            infotext="Emphasis",
            words={"original": "Original", "no_norm": "No norm", "ignore": "Ignore"},
            presets=by_preset("no_norm", "original", "ignore"),
        ),
    ] = None
    chunks: Annotated[
        Chunks | None,
        choice(
            label="Long prompts",
            help="What is done with a prompt that is longer than the text encoder reads.",
            means=_means(
                all="it is read in chunks of that length",
                first="what does not fit is left out",
            ),
            presets=by_preset("all", "all", "first"),
        ),
    ] = None
    prompt_timing: Annotated[
        PromptTiming | None,
        choice(
            label="Prompt timing",
            help="When a prompt that changes does so.",
            means=_means(
                steps="[a:b:5] has a for 5 steps of the whole schedule, of which an image-to-image run leaves some out",
                a1111="a step later, counted from where the run begins",
            ),
            presets=by_preset("steps", "a1111", "steps"),
        ),
    ] = None
    lora_mode: Annotated[
        LoraMode | None,
        choice(
            label="LoRA mode",
            help="How a LoRA acts on the UNet.",
            means=_means(
                run="its share is added to what a layer gives",
                merged="it is added to the weights for each picture, rounded to their dtype; a UNet that a memory "
                "plan moves about takes run",
            ),
            presets=by_preset("run", "run", "run"),
        ),
    ] = None
    uneven_chunks: Annotated[
        UnevenChunks | None,
        choice(
            label="Uneven prompts",
            help="What is done where a prompt has more chunks than its negative prompt.",
            means=_means(
                padded="the shorter gets chunks of the empty text, and one call takes both",
                apart="a call for each",
            ),
            a1111="pad_cond_uncond",
            presets=by_preset("padded", "apart", "padded"),
        ),
    ] = None
    control_rule: Annotated[
        ControlRule | None,
        choice(
            label="ControlNet rule",
            help="How a ControlNet is weighed where prompt or picture is more important, when it ends, and "
            "what is done with a hint of another shape.",
            means=_means(
                a1111="output i of 13 counts 0.825 ** (12 - i); it acts while the share of steps done lies in "
                "start .. end; the hint is cropped",
                diffusers="from 0.1 to 1 at equal ratios (its guess mode); a step must end before the end; the hint is "
                "stretched",
            ),
            presets=by_preset("a1111", "a1111", "diffusers"),
        ),
    ] = None
    empty_negative: Annotated[
        EmptyNegative | None,
        choice(
            label="Empty negative prompt",
            help="What SDXL gets in place of an empty negative prompt.",
            means=_means(as_trained="zeros", encoded="the encoding of the empty text"),
            presets=by_preset("as_trained", "as_trained", "as_trained"),
        ),
    ] = None
    clip_skip_everywhere: Annotated[
        bool | None,
        flag(
            label="CLIP skip everywhere",
            help="Let clip_skip move the layer of SD 2 and SDXL, too, as diffusers does (its clip_skip is one less).",
            presets=by_preset(False, False, True),
        ),
    ] = None
    levels: Annotated[
        Levels | None,
        choice(
            label="Levels",
            help="How 256 levels are made of the numbers of a picture.",
            means=_means(round="the nearest", truncate="the one below, which is half a level darker"),
            presets=by_preset("round", "truncate", "round"),
        ),
    ] = None
    ensd: Annotated[
        int | None,
        whole(
            -(2**32),
            2**32,
            label="Eta noise seed delta",
            help="Joins the seed for every draw of noise but the first; NovelAI's pictures need 31337.",
            a1111="eta_noise_seed_delta",
            infotext="ENSD",
            presets=by_preset(0, 0, 0),
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        settle(self, type(self), "conventions.")


@dataclass(frozen=True, kw_only=True, repr=False)
class ResolvedConventions(Conventions):
    """A value for each, none open."""

    initial_noise: InitialNoise
    timestep_spacing: TimestepSpacing
    round_timesteps: bool
    discard_penultimate_sigma: bool
    sigma_table: SigmaTable
    strength_rule: StrengthRule
    vae_encode: VaeEncode
    mask_blend: MaskBlend
    paste_back: bool
    refiner_rule: RefinerRule
    sde_noise: SdeNoise
    syntax: str
    emphasis: Emphasis
    chunks: Chunks
    prompt_timing: PromptTiming
    lora_mode: LoraMode
    uneven_chunks: UnevenChunks
    control_rule: ControlRule
    empty_negative: EmptyNegative
    clip_skip_everywhere: bool
    levels: Levels
    ensd: int
