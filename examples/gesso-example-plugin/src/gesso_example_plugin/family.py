"""A family: what a release is, as one value. Here one that looks like Stable Diffusion 1.5 and wants other settings."""

from dataclasses import replace

from gesso import FAMILIES, FamilyDefaults

SD15_HYPER = replace(
    FAMILIES["sd15"],
    name="sd15-hyper",
    defaults=FamilyDefaults(num_steps=8, guidance_scale=1.0, sampler="ddim", schedule="turbo"),
)
