"""The conventions in which tools differ: what each choice means, and which one each preset takes.

A preset sets every convention; a request can override each, and the recipe records all values and the name of the
preset. Conventions are declared only here: `presets.PRESETS` is generated from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from gesso.arguments import known_fields
from gesso.request.checks import RequestError, brief
from gesso.request.fields import by_preset, choice, flag, named, validate, whole

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


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class Conventions:
    """The conventions that a request sets itself; None means that the preset decides. Raises RequestError."""

    initial_noise: Annotated[
        InitialNoise | None,
        choice(
            label="Initial noise",
            help="Scale of the initial noise.",
            means=_means(
                sigma="n * sigma_0 (k-diffusion)",
                variance="n * sqrt(1 + sigma_0^2), the variance seen in training for a signal of variance 1 (DDIM, "
                "SDXL, most of diffusers); noise left at the end is scaled back likewise",
                comfyui="variance if the run starts at the top of the noise table, else sigma",
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
            help="Timesteps from which the sigmas of a run are computed.",
            means=_means(
                schedule="placed by the schedule alone",
                leading='diffusers\' "leading"',
                linspace='diffusers\' "linspace"',
                trailing='diffusers\' "trailing"',
                a1111="A1111's timesteps for DDIM, PLMS and UniPC; includes its CFG scale for DDIM CFG++ (1/12.5 of "
                "the user's)",
            ),
            diffusers="timestep_spacing",
            presets=by_preset("schedule", "schedule", "linspace"),
        ),
    ] = None
    round_timesteps: Annotated[
        bool | None,
        flag(
            label="Whole timesteps",
            help="Round the timesteps that the network gets to whole numbers.",
            a1111="enable_quantization",
            presets=by_preset(False, False, False),
        ),
    ] = None
    discard_penultimate_sigma: Annotated[
        bool | None,
        flag(
            label="Discard penultimate sigma",
            help="Plan one more step and drop the last noise level above zero.",
            a1111="always_discard_next_to_last_sigma",
            infotext="Discard penultimate sigma",
            presets=by_preset(False, False, False),
        ),
    ] = None
    sigma_table: Annotated[
        SigmaTable | None,
        choice(
            label="Noise table",
            help="Precision of the table of noise levels.",
            means=_means(
                exact="float64",
                rounded="float64, rounded to float32 at the end (k-diffusion, A1111)",
                float32="float32 throughout (diffusers)",
            ),
            presets=by_preset("exact", "rounded", "float32"),
        ),
    ] = None
    strength_rule: Annotated[
        StrengthRule | None,
        choice(
            label="Strength rule",
            help="Which steps image to image takes.",
            means=_means(
                share="num_steps * strength, rounded to the nearest whole number",
                a1111="one step more, and a strength of at most 0.999",
                diffusers="num_steps * strength, rounded down; inpainting at strength 1 starts from pure noise",
            ),
            presets=by_preset("share", "a1111", "diffusers"),
        ),
    ] = None
    vae_encode: Annotated[
        VaeEncode | None,
        choice(
            label="VAE encoding",
            help="Which latents the VAE encoder gives for a source picture.",
            means=_means(
                mean="the mean of its distribution",
                sample="a sample from its distribution, drawn before any other noise",
            ),
            # A1111's is a sample from the global generator, which nobody can repeat.
            presets=by_preset("mean", "mean", "sample"),
        ),
    ] = None
    mask_blend: Annotated[
        MaskBlend | None,
        choice(
            label="Mask blending",
            help="How the area outside the mask is kept during sampling.",
            means=_means(
                x0="put back into every prediction (A1111); the mask is resized and rounded",
                x="put back into the noisy latents before every call but the first (diffusers); the mask is resized to "
                "the nearest pixel",
                differential="as x, but with shades of grey: the lighter an area, the earlier it is freed "
                "(differential diffusion)",
            ),
            presets=by_preset("x0", "x0", "x"),
        ),
    ] = None
    paste_back: Annotated[
        bool | None,
        flag(
            label="Paste back",
            help="Copy the area outside the mask from the source picture, bit for bit.",
            jobs=("inpaint", "outpaint"),
            presets=by_preset(True, True, False),
        ),
    ] = None
    refiner_rule: Annotated[
        RefinerRule | None,
        choice(
            label="Refiner rule",
            help="What refiner_switch_at is a fraction of.",
            means=_means(
                calls="the network calls (A1111)",
                timesteps="the timesteps; the sampler starts afresh (diffusers)",
            ),
            presets=by_preset("calls", "calls", "timesteps"),
        ),
    ] = None
    sde_noise: Annotated[
        SdeNoise | None,
        choice(
            label="SDE noise",
            help="Noise of the SDE samplers.",
            means=_means(
                brownian="one Brownian path over sigma, the same for any number of steps",
                independent="independent draws (diffusers)",
                torchsde="torchsde's Brownian tree between the ends of the schedule (A1111, ComfyUI)",
            ),
            presets=by_preset("brownian", "torchsde", "independent"),
        ),
    ] = None
    syntax: Annotated[
        str | None,
        named(
            label="Prompt syntax",
            group="Prompt",
            help="How the prompt is parsed.",
            means=_means(
                a1111="(weights:1.2), [schedules] and <lora:tags>",
                comfyui="ComfyUI's weights",
                compel="Compel's weights, blends and conjunctions (InvokeAI)",
                plain="no syntax, every character is text",
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
            help="How weights in a prompt are applied.",
            means=_means(
                original="multiply the text embeddings, then restore their mean (A1111)",
                no_norm="multiply the text embeddings",
                ignore="not at all",
                comfyui="move the text embeddings away from the empty prompt (ComfyUI)",
                compel="blend with the prompt without the weighted words (Compel)",
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
            help="What happens to a prompt longer than the text encoder's limit.",
            means=_means(
                all="it is encoded in chunks",
                first="it is cut off at the limit",
            ),
            presets=by_preset("all", "all", "first"),
        ),
    ] = None
    prompt_timing: Annotated[
        PromptTiming | None,
        choice(
            label="Prompt timing",
            help="When prompt editing switches.",
            means=_means(
                steps="[a:b:5] uses a for the first 5 steps of the full schedule, some of which image to image skips",
                a1111="one step later, counted from where the run begins",
            ),
            presets=by_preset("steps", "a1111", "steps"),
        ),
    ] = None
    lora_mode: Annotated[
        LoraMode | None,
        choice(
            label="LoRA mode",
            help="How a LoRA is applied to the UNet.",
            means=_means(
                run="added to the output of each layer",
                merged="merged into the weights for each picture, rounded to their dtype; run under a memory limit",
            ),
            presets=by_preset("run", "run", "run"),
        ),
    ] = None
    uneven_chunks: Annotated[
        UnevenChunks | None,
        choice(
            label="Uneven prompts",
            help="What happens if prompt and negative prompt differ in their number of chunks.",
            means=_means(
                padded="the shorter one is padded with empty chunks, and one call takes both",
                apart="each one gets a call of its own",
            ),
            a1111="pad_cond_uncond",
            presets=by_preset("padded", "apart", "padded"),
        ),
    ] = None
    control_rule: Annotated[
        ControlRule | None,
        choice(
            label="ControlNet rule",
            help="How ControlNet applies the control mode and the end step, and how it fits hints of another shape.",
            means=_means(
                a1111="output i of 13 is weighted by 0.825 ** (12 - i); it acts while the fraction of steps done is in "
                "start .. end; hints are cropped",
                diffusers="outputs are weighted from 0.1 to 1 at equal ratios (guess mode); a step must finish before "
                "the end; hints are stretched",
            ),
            presets=by_preset("a1111", "a1111", "diffusers"),
        ),
    ] = None
    empty_negative: Annotated[
        EmptyNegative | None,
        choice(
            label="Empty negative prompt",
            help="What SDXL gets for an empty negative prompt.",
            means=_means(as_trained="zeros", encoded="the encoding of an empty text"),
            presets=by_preset("as_trained", "as_trained", "as_trained"),
        ),
    ] = None
    clip_skip_everywhere: Annotated[
        bool | None,
        flag(
            label="CLIP skip everywhere",
            help="As diffusers: clip_skip for SD 2 and SDXL too, for no negative prompt (its own is one less).",
            presets=by_preset(False, False, True),
        ),
    ] = None
    levels: Annotated[
        Levels | None,
        choice(
            label="Levels",
            help="How pixel values are rounded to 256 levels.",
            means=_means(round="to the nearest level", truncate="down, which is half a level darker"),
            presets=by_preset("round", "truncate", "round"),
        ),
    ] = None
    ensd: Annotated[
        int | None,
        whole(
            -(2**32),
            2**32,
            label="Eta noise seed delta",
            help="Number added to the seed for all noise but the initial (ENSD); NovelAI's pictures need 31337.",
            a1111="eta_noise_seed_delta",
            infotext="ENSD",
            presets=by_preset(0, 0, 0),
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, type(self), "conventions.")


@dataclass(frozen=True, kw_only=True, repr=False)
class ResolvedConventions(Conventions):
    """A value for every convention."""

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
