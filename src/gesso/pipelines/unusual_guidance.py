"""Guidance below 1, where diffusers switches it off, or far above what is usual, and what to tell of it."""

from collections.abc import Iterator

from gesso.diffusion.conventions import CFGPP_SCALE
from gesso.diffusion.samplers import SAMPLERS
from gesso.families.base import Family
from gesso.notices import Notice
from gesso.request.request import ResolvedRequest, TextToImageRequest, with_values

HIGH_GUIDANCE = 30.0  # models are used at 1 to 15; from here on colours burn out, whatever the model


def as_diffusers_guides(resolved: ResolvedRequest, family: Family) -> ResolvedRequest:
    """With the preset diffusers, guidance 1, which switches it off, in place of a scale at which diffusers does so.

    That is one of 1 or less; of InstructPix2Pix also one of the picture below 1, and both become 1 then.
    """
    if resolved.preset != "diffusers" or not _is_guidance(resolved, family):
        return resolved
    image_scale, hires = resolved.source.guidance_scale, resolved.hires
    values: dict[str, float] = {}
    if image_scale is not None and (resolved.guidance_scale <= 1 or image_scale < 1):
        values = {"guidance_scale": 1.0, "source.guidance_scale": 1.0}
    elif resolved.guidance_scale < 1:
        values = {"guidance_scale": 1.0}
    if hires is not None and hires.guidance_scale is not None and hires.guidance_scale < 1:
        values["hires.guidance_scale"] = 1.0
    return with_values(resolved, values)


def guidance_notices(asked: TextToImageRequest, resolved: ResolvedRequest, family: Family) -> tuple[Notice, ...]:
    """What to tell of a guidance scale below 1, and of those far above what is usual."""
    return (*_low(asked, resolved, family), *_high(resolved, family))


def _high(resolved: ResolvedRequest, family: Family) -> Iterator[Notice]:
    hires, scales = resolved.hires, {"guidance_scale": resolved.guidance_scale}
    if hires is not None and hires.guidance_scale not in (None, resolved.guidance_scale):
        scales["hires.guidance_scale"] = hires.guidance_scale
    if resolved.source.guidance_scale is not None:
        scales["source.guidance_scale"] = resolved.source.guidance_scale
    for field, scale in scales.items():
        sampler = hires.sampler if hires is not None and field == "hires.guidance_scale" else resolved.sampler
        if not family.takes_guidance_scale and sampler is not None and SAMPLERS[sampler].asks_uncond:
            most = 1 / CFGPP_SCALE if resolved.conventions.timestep_spacing == "a1111" else 1.0
            usual = f"{SAMPLERS[sampler].label} takes 0 to {most:g}"
        else:
            most, usual = HIGH_GUIDANCE, "the usual range is 1 to 15"
        if scale > most:
            text = f"guidance {scale:g} is far too high, so colours and shapes burn out; {usual}"
            yield Notice(text, code="guidance_too_high", field=field, data={"value": scale, "high": most})


def _low(asked: TextToImageRequest, resolved: ResolvedRequest, family: Family) -> tuple[Notice, ...]:
    if not _is_guidance(resolved, family):
        return ()
    scale, used = asked.guidance_scale, resolved.guidance_scale
    if scale is not None and scale < 1 and used == 1:
        text = f"guidance {scale:g}: diffusers switches guidance off below 1, so the picture is drawn at guidance 1"
    elif used == 0:
        text = (
            "guidance 0 draws from the negative prompt alone and ignores the prompt. To switch guidance off, as "
            "few-step models need it, use 1"
        )
    elif used < 1:
        text = (
            f"guidance {used:g} lies between the negative prompt (0) and the prompt (1). To switch guidance off, use 1"
        )
    else:
        return ()
    return (Notice(text, code="guidance_below_one", field="guidance_scale"),)


def _is_guidance(resolved: ResolvedRequest, family: Family) -> bool:
    """Whether the scale is that of classifier-free guidance: not CFG++'s, nor an input of the network."""
    return not (family.takes_guidance_scale or SAMPLERS[resolved.sampler].asks_uncond)
