"""The presets: a value for every convention, and what else they fill in. See `conventions` for what each means."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gesso.request.conventions import PRESET_NAMES, Conventions
from gesso.request.fields import rows

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        preset: MappingProxyType({name: row.field.presets[preset] for name, row in rows(Conventions).items()})
        for preset in PRESET_NAMES
    }
)

# What a preset fills in besides its conventions: where random numbers come from, the share of the schedule that is
# drawn again where a request with a picture says nothing, the same of a second pass, and how that enlarges.
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


def by_preset(name: str) -> Mapping[str, Any]:
    """What each preset fills in for a field that is no convention."""
    return MappingProxyType({preset: values[name] for preset, values in PRESET_DEFAULTS.items()})
