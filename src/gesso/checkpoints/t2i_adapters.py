"""T2I-Adapter files: their tensor names, and the config from a file's header.

Two spellings: of its authors (blocks numbered through, "body.3.block1") and of the diffusers library ("adapter.body.1.
resnets.1.block1"); a prefix "adapter." may stand before either.
"""

import re
from collections.abc import Mapping

from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.checkpoints.keymap import Rule, Shape, nest
from gesso.models.t2i_adapter import T2IAdapterConfig

PREFIX = "adapter."
LEVELS = 4
MAX_BLOCKS = 16
MAX_WIDTH = 8192
XL_PATCH = 16
_PATCHES = {64: (1, 8), 192: (3, 8), 256: (1, XL_PATCH), 768: (3, XL_PATCH)}  # channels in -> of the hint, patch


def t2i_adapter_layout(shapes: Mapping[str, Shape], where: object) -> tuple[T2IAdapterConfig, list[Rule]]:
    """Sizes and table of names. Nothing is believed but what `keymap.plan` checks afterwards. Raises ModelFileError."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in shapes) else ""
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    light = "conv_in.weight" not in own
    into = _shape(own, "body.0.in_conv.weight" if light else "conv_in.weight", where)
    if into[1] not in _PATCHES:
        raise _no_adapter(where, f"its first convolution takes {into[1]} channels")
    image_channels, patch = _PATCHES[into[1]]
    folder = "body.0.resnets.0.block1.weight" in own
    if folder:
        block = r"body\.0\.resnets\.(\d{1,3})\.block1\.weight"
    else:
        block = r"body\.0\.body\.(\d{1,3})\.block1\.weight" if light else r"body\.(\d{1,3})\.block1\.weight"
    through = not folder and not light  # blocks are numbered through all levels
    count = sum(re.fullmatch(block, name) is not None for name in own)
    blocks = count // LEVELS if through else count
    if light:
        widest = "body.{}.out_conv.weight"
    else:
        widest = "body.{}.resnets.0.block1.weight" if folder else "body.{}.block1.weight"
    names = [widest.format(level * blocks if through else level) for level in range(LEVELS)]
    if not 1 <= blocks <= MAX_BLOCKS:
        raise _no_adapter(where, f"{blocks} blocks a level, expected 1 to {MAX_BLOCKS}")
    channels = tuple(_shape(own, name, where)[0] for name in names)
    if max(channels) > MAX_WIDTH:
        raise _no_adapter(where, f"features {max(channels)} wide, at most {MAX_WIDTH}")
    config = T2IAdapterConfig(
        image_channels=image_channels,
        patch=patch,
        channels=channels,
        halves=(False, False, True, False) if patch == XL_PATCH else (False, True, True, True),
        num_blocks=blocks,
        light=light,
    )
    return config, nest(_rules(config, folder=folder), prefix, "")


def _rules(config: T2IAdapterConfig, *, folder: bool) -> list[Rule]:
    rules = [] if config.light else [Rule("conv_in.{p}", "conv_in.{p}")]
    for level in range(LEVELS):
        for block in range(config.num_blocks):
            if folder:
                name = f"body.{level}.resnets.{block}."
            else:
                name = f"body.{level}.body.{block}." if config.light else f"body.{level * config.num_blocks + block}."
            rules.append(Rule(f"{name}block1.{{p}}", f"levels.{level}.blocks.{block}.conv1.{{p}}"))
            rules.append(Rule(f"{name}block2.{{p}}", f"levels.{level}.blocks.{block}.conv2.{{p}}"))
        first = level if folder or config.light else level * config.num_blocks
        rules.append(Rule(f"body.{first}.in_conv.{{p}}", f"levels.{level}.conv_in.{{p}}"))
        rules.append(Rule(f"body.{level}.out_conv.{{p}}", f"levels.{level}.conv_out.{{p}}"))
    return rules


def _shape(shapes: Mapping[str, Shape], name: str, where: object) -> Shape:
    shape = shapes.get(name)
    if shape is None or len(shape) != 4 or 0 in shape:
        raise _no_adapter(where, f"{name} is {shape_text(shape) if shape else 'missing'}, expected a convolution")
    return shape


def _no_adapter(where: object, why: str) -> ModelFileError:
    return ModelFileError("architecture_mismatch", str(where), f"is not a T2I-Adapter that gesso knows: {why}")
