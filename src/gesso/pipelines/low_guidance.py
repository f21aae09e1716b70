"""Guidance below 1: where diffusers switches it off, and what to tell of it."""

from gesso.diffusion.samplers import SAMPLERS
from gesso.families.base import Family
from gesso.notices import Notice
from gesso.request.request import ResolvedRequest, TextToImageRequest, with_values


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


def low_guidance_notices(asked: TextToImageRequest, resolved: ResolvedRequest, family: Family) -> tuple[Notice, ...]:
    """What to tell of a guidance scale below 1."""
    if not _is_guidance(resolved, family):
        return ()
    scale, used = asked.guidance_scale, resolved.guidance_scale
    if scale is not None and scale < 1 and used == 1:
        text = f"guidance {scale:g}: diffusers switches guidance off below 1, so the picture is drawn at guidance 1"
    elif used == 0:
        text = (
            "guidance 0 draws from the negative prompt alone and ignores the prompt. To switch guidance off, as models "
            "of few steps need it, use 1"
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
