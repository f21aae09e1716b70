"""The releases that gesso knows by name. gesso-mini is not among them: its sizes come from its file."""

from gesso.families.base import Family
from gesso.families.sd15 import SD15

FAMILIES: dict[str, Family] = {family.name: family for family in (SD15,)}
