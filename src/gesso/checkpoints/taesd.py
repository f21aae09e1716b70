"""TAESD files: tensor names of its author's two files, and of the diffusers library's one.

Both number the layers of a sequence. The author's decoder begins with a layer without weights, so its numbers are one
higher there.
"""

from gesso.checkpoints.keymap import Rule, nest
from gesso.models.taesd import TAESDConfig

_BLOCK = [
    Rule("conv.0.{p}", "conv1.{p}"),
    Rule("conv.2.{p}", "conv2.{p}"),
    Rule("conv.4.{p}", "conv3.{p}"),
]


def encoder_rules(config: TAESDConfig) -> list[Rule]:
    """taesd_encoder, without a prefix."""
    rules = [Rule("0.{p}", "conv_in.{p}")]
    number = 1
    for level, count in enumerate(config.encoder_blocks):
        if level > 0:
            rules.append(Rule(f"{number}.{{p}}", f"levels.{level}.downsample.{{p}}"))
            number += 1
        for block in range(count):
            rules += nest(_BLOCK, f"{number}.", f"levels.{level}.blocks.{block}.")
            number += 1
    return [*rules, Rule(f"{number}.{{p}}", "conv_out.{p}")]


def decoder_rules(config: TAESDConfig, *, first: int = 1) -> list[Rule]:
    """taesd_decoder, without a prefix. first: number of the first convolution, 1 in the author's file."""
    rules = [Rule(f"{first}.{{p}}", "conv_in.{p}")]
    number = first + 2  # a ReLU has a number, too
    for level, count in enumerate(config.decoder_blocks):
        for block in range(count):
            rules += nest(_BLOCK, f"{number}.", f"levels.{level}.blocks.{block}.")
            number += 1
        if level < len(config.decoder_blocks) - 1:
            number += 1  # enlarging has no weights
            rules.append(Rule(f"{number}.{{p}}", f"levels.{level}.upsample.{{p}}"))
            number += 1
    return [*rules, Rule(f"{number}.{{p}}", "conv_out.{p}")]


def diffusers_rules(config: TAESDConfig) -> list[Rule]:
    """Both halves in one file, as the diffusers library names them."""
    return [
        *nest(encoder_rules(config), "encoder.layers.", "encoder."),
        *nest(decoder_rules(config, first=0), "decoder.layers.", "decoder."),
    ]
