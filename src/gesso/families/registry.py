"""FAMILIES: the releases by name, and those of plug-ins. gesso-mini is not among them: its file has its sizes."""

from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.instruct_pix2pix import INSTRUCT_PIX2PIX
from gesso.families.lcm import SD15_LCM, SD15_LCM_FULL, SDXL_LCM, SDXL_LCM_FULL
from gesso.families.sd2_inpaint import SD2_INPAINT
from gesso.families.sd15 import SD15
from gesso.families.sd15_inpaint import SD15_INPAINT
from gesso.families.sd21 import SD21
from gesso.families.sd21_base import SD21_BASE
from gesso.families.sd_turbo import SD_TURBO
from gesso.families.sdxl import SDXL
from gesso.families.sdxl_inpaint import SDXL_INPAINT
from gesso.families.sdxl_lightning import SDXL_LIGHTNING
from gesso.families.sdxl_refiner import SDXL_REFINER
from gesso.families.sdxl_turbo import SDXL_TURBO
from gesso.families.x4_upscaler import X4_UPSCALER
from gesso.registry import Registry

# Releases that are detected from a header; SD 2 of 512 and of 768 pixels by their prediction type.
_RELEASES = (
    SD15,
    SD15_INPAINT,
    INSTRUCT_PIX2PIX,
    SD21,
    SD21_BASE,
    SD2_INPAINT,
    X4_UPSCALER,
    SDXL,
    SDXL_INPAINT,
    SDXL_REFINER,
    SD15_LCM_FULL,
    SDXL_LCM_FULL,
)
# Those that look like one of them, and want other settings.
_FEW_STEPS = (SD_TURBO, SDXL_TURBO, SDXL_LIGHTNING, SD15_LCM, SDXL_LCM)

FAMILIES: Registry[Family] = Registry(
    Family, "gesso.families", {family.name: family for family in (*_RELEASES, *_FEW_STEPS)}
)


def family_named(name: str) -> Family:
    """A family by its name. Raises GessoError with the names that there are."""
    if name not in FAMILIES:
        raise GessoError(
            f"`family` {name[:64]}: no such family. Known: {', '.join(FAMILIES)}", code="unknown_name", field="family"
        )
    return FAMILIES[name]


def release_like(family: Family) -> Family:
    """The release that a model of these sizes and conventions belongs to, for what its files do not say.

    Raises ValueError where there is none.
    """
    for release in _RELEASES:
        same = release.architecture == family.architecture
        if same and (family.layout != "sd2" or family.concat != "none" or release.prediction == family.prediction):
            return release
    if family.layout == "sd2":  # predicts x0, as no release does
        return SD21_BASE
    guidance = " and guidance as an input" if family.unet.guidance_dim else ""
    raise ValueError(f"no release has the layout {family.layout!r} with {family.concat!r} beside its latents{guidance}")
