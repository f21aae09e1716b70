"""ControlNet files: their tensor names, and the config from a file's header.

Two spellings: of the ControlNet authors' cldm ("control_model.input_blocks...", the prefix often left out) and of the
diffusers library. Both name the copied way down as they name the UNet.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gesso.checkpoints import diffusers, ldm
from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.checkpoints.keymap import STACKED_QKV, Rule, Shape, nest
from gesso.models.controlnet import ControlNetConfig
from gesso.models.controlnet_union import NUM_HEADS, UnionConfig
from gesso.models.unet import UNetConfig

PREFIX = "control_model."  # of cldm's files
DIFFERENCE = "difference"  # a mark: the weights are to be added to the UNet's
CONTROL_LORA = "lora_controlnet"  # a mark: the weights are the UNet's with factors of low rank added
TASKS = "task_embedding"  # only ControlNet Unions have it
MAX_HALVINGS = 6
MAX_KINDS = 64
MAX_WIDTH = 4096
MAX_DEPTH = 12  # transformer blocks in a row; SDXL has 10

_DIFFUSERS_HINT, _LDM_HINT = "controlnet_cond_embedding.", "input_hint_block."
_CONTEXT = re.compile(r"attn2\.to_k\.(weight|down)$")


_UNION = [
    Rule(TASKS, "tasks"),
    Rule("spatial_ch_projs.{p}", "to_hint.{p}"),
    Rule("control_add_embedding.linear_1.{p}", "kind_embed.linear1.{p}"),
    Rule("control_add_embedding.linear_2.{p}", "kind_embed.linear2.{p}"),
    *nest(  # their spelling
        [
            Rule("attn.in_proj_weight", tuple(f"attention.to_{name}.weight" for name in "qkv"), STACKED_QKV),
            Rule("attn.in_proj_bias", tuple(f"attention.to_{name}.bias" for name in "qkv"), STACKED_QKV),
            Rule("attn.out_proj.{p}", "attention.to_out.{p}"),
            Rule("ln_1.{p}", "norm1.{p}"),
            Rule("ln_2.{p}", "norm2.{p}"),
            Rule("mlp.c_fc.{p}", "fc1.{p}"),
            Rule("mlp.c_proj.{p}", "fc2.{p}"),
        ],
        "transformer_layes.{i}.",
        "layers.{i}.",
    ),
]


def diffusers_rules(config: ControlNetConfig, *, linear: bool) -> list[Rule]:
    """The table of the diffusers library. linear: projections of the transformers are linear (SD 2, SDXL)."""
    return [
        *diffusers.unet_rules(config.unet, linear=linear),
        Rule(f"{_DIFFUSERS_HINT}conv_in.{{p}}", "hint.conv_in.{p}"),
        Rule(f"{_DIFFUSERS_HINT}blocks.{{i}}.{{p}}", "hint.blocks.{i}.{p}"),
        Rule(f"{_DIFFUSERS_HINT}conv_out.{{p}}", "hint.conv_out.{p}"),
        Rule("controlnet_down_blocks.{i}.{p}", "zero_down.{i}.{p}"),
        Rule("controlnet_mid_block.{p}", "zero_mid.{p}"),
        *_UNION,
    ]


@dataclass(frozen=True)
class ControlNetFile:
    """The header of a ControlNet file.

    shapes   of the ControlNet's tensors by their names in the file, the prefix included
    prefix   that these names have
    folder   whether the names are those of the diffusers library
    """

    shapes: Mapping[str, Shape]
    prefix: str
    folder: bool

    @staticmethod
    def of(shapes: Mapping[str, Shape]) -> "ControlNetFile | None":
        """The ControlNet in a file; None if there is none. A whole model in the same file is ignored."""
        for prefix in (PREFIX, ""):
            for hint, folder in ((_LDM_HINT, False), (_DIFFUSERS_HINT, True)):
                if any(name.startswith(prefix + hint) for name in shapes):
                    own = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
                    for mark in (DIFFERENCE, CONTROL_LORA):
                        own.pop(mark, None)
                    return ControlNetFile(own, prefix, folder)
        return None

    @property
    def context_dim(self) -> int | None:
        """Width of the text embeddings that it takes; None if it takes none."""
        for name, shape in self.shapes.items():
            if _CONTEXT.search(name) and len(shape) == 2:
                return shape[1]
        return None

    @property
    def takes_sizes(self) -> bool:
        """Whether it takes size conditioning, as those of SDXL do."""
        return any(
            name.startswith((f"{self.prefix}add_embedding.", f"{self.prefix}label_emb.")) for name in self.shapes
        )

    def config(self, unet: UNetConfig, where: object) -> ControlNetConfig:
        """At the sizes of a UNet, but for what ControlNets of one UNet differ in: depths and the hint's encoder.

        Nothing is believed but what `keymap.plan` checks afterwards. Raises ModelFileError.
        """
        first = self._shape(self._hint("conv_in"), where)
        widths = [first[0]]
        for step in range(MAX_HALVINGS):
            name = self._hint(f"blocks.{2 * step + 1}")
            if f"{self.prefix}{name}.weight" not in self.shapes:
                break
            widths.append(self._shape(name, where)[0])
        if max(widths) > MAX_WIDTH or first[1] != 3:
            problem = f"a hint of {first[1]} channels through widths {shape_text(widths)}"
            raise ModelFileError("shape", str(where), f"{problem}; expected 3 channels, widths of at most {MAX_WIDTH}")
        attention, mid = self._depths(unet, where)
        sizes = replace(unet, attention=attention, mid_attention=mid)
        if (tasks := self.shapes.get(f"{self.prefix}{TASKS}")) is None:
            return ControlNetConfig(unet=sizes, hint_channels=tuple(widths))
        layers = sum(name.endswith(".attn.in_proj_weight") for name in self.shapes)
        added = self.shapes.get(f"{self.prefix}control_add_embedding.linear_1.weight", ())
        if len(tasks) != 2 or len(added) != 2 or not 0 < tasks[0] <= MAX_KINDS or tasks[1] % NUM_HEADS:
            message = f"{TASKS} is {shape_text(tasks)}: not the sizes of a ControlNet Union"
            raise ModelFileError("shape", str(where), message)
        if max(tasks[1], added[1]) > MAX_WIDTH * MAX_KINDS or layers > MAX_DEPTH:
            raise ModelFileError("shape", str(where), f"{layers} layers of {tasks[1]}, taking {added[1]} numbers")
        kinds = tasks[0]
        return UnionConfig(
            unet=sizes,
            hint_channels=tuple(widths),
            num_kinds=kinds,
            kind_dim=added[1] // kinds,
            task_dim=tasks[1],
            num_layers=layers,
        )

    def rules(self, config: ControlNetConfig, *, linear: bool) -> list[Rule]:
        """The table of the file. linear: projections of the transformers are linear (SD 2, SDXL)."""
        blocks = 2 * (len(config.hint_channels) - 1)
        if self.folder:
            rules = diffusers_rules(config, linear=linear)
        else:  # every second number is an activation
            rules = [
                *ldm.unet_rules(config.unet, linear=linear),
                Rule(f"{_LDM_HINT}0.{{p}}", "hint.conv_in.{p}"),
                *(Rule(f"{_LDM_HINT}{2 * i + 2}.{{p}}", f"hint.blocks.{i}.{{p}}") for i in range(blocks)),
                Rule(f"{_LDM_HINT}{2 * blocks + 2}.{{p}}", "hint.conv_out.{p}"),
                Rule("zero_convs.{i}.0.{p}", "zero_down.{i}.{p}"),
                Rule("middle_block_out.0.{p}", "zero_mid.{p}"),
            ]
        return nest(rules, self.prefix, "")

    def _hint(self, layer: str) -> str:
        if self.folder:
            return _DIFFUSERS_HINT + layer
        return f"{_LDM_HINT}{0 if layer == 'conv_in' else 2 * int(layer.removeprefix('blocks.')) + 2}"

    def _depths(self, unet: UNetConfig, where: object) -> tuple[tuple[int, ...], int]:
        """Transformer blocks a level and in the middle: small ControlNets of SDXL have fewer than the UNet."""
        deepest: dict[str, int] = {}
        for name in self.shapes:
            place, separator, rest = name.removeprefix(self.prefix).partition(".transformer_blocks.")
            number = rest.partition(".")[0]
            if separator and number.isdigit() and len(number) < 4:
                deepest[place] = max(deepest.get(place, 0), int(number) + 1)
        if deepest and max(deepest.values()) > MAX_DEPTH:
            raise ModelFileError("shape", str(where), f"{max(deepest.values())} transformer blocks in a row")
        levels = []
        for level in range(len(unet.channels)):
            block = 1 + level * (unet.num_res_blocks + 1)  # cldm counts the halvings, too
            place = f"down_blocks.{level}.attentions.0" if self.folder else f"input_blocks.{block}.1"
            levels.append(deepest.get(place, 0))
        middle = deepest.get("mid_block.attentions.0" if self.folder else "middle_block.1", 0)
        return tuple(levels), middle

    def _shape(self, layer: str, where: object) -> Shape:
        name = f"{self.prefix}{layer}.weight"
        shape = self.shapes.get(name)
        if shape is None or len(shape) != 4 or 0 in shape:
            message = f"{name} is {shape_text(shape) if shape else 'missing'}, expected a convolution"
            raise ModelFileError("shape", str(where), message)
        return shape
