"""Presets: the value of every field that they decide, by path. `conventions` explains the values."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gesso.request.fields import PRESET_NAMES, Preset
from gesso.request.request import ROWS

PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {
        preset: MappingProxyType({path: row.field.presets[preset] for path, row in ROWS.items() if row.field.presets})
        for preset in PRESET_NAMES
    }
)
