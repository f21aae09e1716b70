"""gesso-mini: the model that gesso trains itself. Its sizes are in its file, since it can be trained at any.

The architecture is Stable Diffusion's at small size, with two additions: the pooled text vector is added to the time
embedding (`UNetConfig.added_dim` is the text encoder's width), and a network of its own may enlarge the picture.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from gesso.checkpoints.config_json import from_json, to_json
from gesso.checkpoints.errors import ModelFileError
from gesso.diffusion.samplers import SAMPLERS
from gesso.diffusion.schedule import SCHEDULES
from gesso.errors import shorten
from gesso.families.base import Family

NAME = "gesso-mini"
MAX_OBJECTS = 10_000
MAX_SYNONYMS = 100
MAX_WORD = 100  # characters


def config_of(family: Family) -> dict[str, Any]:
    """The JSON object that describes a family in a native file; `family_from_config` is its inverse."""
    return dict(to_json(family))


def family_from_config(config: Mapping[str, Any], where: str | Path) -> Family:
    """A family from the JSON of an untrusted file. Raises ModelFileError.

    Every number has bounds, every field is known, and sizes that depend on each other agree.
    """

    def refuse(message: str) -> NoReturn:
        raise ModelFileError("config", where, message)

    plain = dict(config)
    objects = _objects(plain.pop("objects", {}), refuse)
    family = from_json(Family, plain, where, "the configuration", objects=objects)
    if family.name != NAME:
        message = f"is a model of family {shorten(family.name)!r}, expected {NAME!r}"
        raise ModelFileError("architecture_mismatch", where, message)
    if family.defaults.sampler not in SAMPLERS:
        refuse(f"the default sampler {shorten(family.defaults.sampler)!r} is unknown; update gesso")
    if family.defaults.schedule not in SCHEDULES:
        refuse(f"the default schedule {shorten(family.defaults.schedule)!r} is unknown; update gesso")
    unet, vae, text, rows = family.unet, family.vae, family.text, len(objects)
    agreements = {
        "unet.context_dim and text.dim": (unet.context_dim, text.dim),
        "unet.in_channels and vae.latent_channels": (unet.in_channels, vae.latent_channels),
        "unet.out_channels and vae.latent_channels": (unet.out_channels, vae.latent_channels),
        "unet.added_dim and text.dim": (unet.added_dim or text.dim, text.dim),
        "text.memory.objects and the number of objects": (text.memory.objects if text.memory else rows, rows),
        "the numbers of unet.attention and unet.channels": (len(unet.attention), len(unet.channels)),
        "the numbers of unet.num_heads and unet.channels": (len(unet.num_heads), len(unet.channels)),
        "layout and gesso-mini's": (family.layout, "sd1"),
        "the number of text encoders and gesso-mini's": (1 + (family.text_2 is not None), 1),
        "concat and gesso-mini's": (family.concat, "none"),
        "text_layer and gesso-mini's": (family.text_layer, 1),
        "unet.noise_levels and gesso-mini's": (unet.noise_levels, None),
        "vae.image_channels and a picture's": (vae.image_channels, 3),
        "upscaler.image_channels and a picture's": (family.upscaler.image_channels if family.upscaler else 3, 3),
    }
    for what, (value, expected) in agreements.items():
        if value != expected:
            refuse(f"{what} differ: {value} and {expected}")
    if family.upscaler and vae.downscale % family.upscaler.multiple:
        refuse(f"the upscaler's {family.upscaler.multiple} pixels do not divide the VAE's {vae.downscale}")
    if family.output_size % family.size_multiple:
        refuse(f"native_size {family.native_size} is not a multiple of {family.size_multiple // family.output_scale}")
    try:
        family.schedule.build()
    except ValueError as error:
        refuse(str(error))
    return family


def _objects(value: Any, refuse: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or len(value) > MAX_OBJECTS:
        refuse(f"objects is not a table of at most {MAX_OBJECTS} names")
    objects: dict[str, tuple[str, ...]] = {}
    for name, words in value.items():
        if not isinstance(words, list) or len(words) > MAX_SYNONYMS or not all(map(_is_word, [name, *words])):
            refuse(f"objects: {shorten(str(name))!r} is not a word with its synonyms")
        objects[name] = tuple(words)
    return objects


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_WORD and value.isprintable()
