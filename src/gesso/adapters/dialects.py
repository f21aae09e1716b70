"""Parses the tensor names of adapter files (kohya, PEFT, diffusers) into module and part.

kohya          lora_unet_down_blocks_0_..._to_q.lora_down.weight; LyCORIS and OFT: the same stem, other parts
LyCORIS        lycoris_down_blocks_0_..._to_q.lokr_w1: the network is not named (SimpleTuner)
dotted         diffusion_model.input_blocks.1....to_q.lora_down.weight (ComfyUI), clip_l....lora_up.weight (OneTrainer)
PEFT           unet.down_blocks.0....to_q.lora_A.weight; raw saves: base_model.model. before, an adapter's name within
diffusers old  ....to_q.lora.down.weight, ....processor.to_q_lora.down.weight, ....q_proj.lora_linear_layer.up.weight
"""

import re
from dataclasses import dataclass

from gesso.adapters.kinds import PARTS
from gesso.adapters.names import ModulePlace, Target

BUNDLED = "bundle_emb."
MAX_WORDS = 32  # between the dots of a name; those of the networks have about ten
_RAW_PREFIX = "base_model.model."
_PARTS = {
    "lora_A": "lora_down.weight",
    "lora_B": "lora_up.weight",
    "lora.down": "lora_down.weight",
    "lora.up": "lora_up.weight",
    "lora_linear_layer.down": "lora_down.weight",
    "lora_linear_layer.up": "lora_up.weight",
    "lora_magnitude_vector": "magnitude",
    "ia3_l": "ia3_l",
    "oft_R": "oft_R",
    "boft_R": "boft_R",
    "boft_s": "boft_s",
}
_OLDER = ("lora.down", "lora.up", "lora_linear_layer.down", "lora_linear_layer.up")  # than PEFT, in diffusers
_PEFT = re.compile(
    r"(?P<module>.+)\.(?P<part>"
    + "|".join(map(re.escape, _PARTS))
    + r")(?:\.(?!(?:weight|bias)$)[^.]+)?(?P<end>\.weight|\.bias)?"
)
_OLD = re.compile(r"(?P<base>.+)\.to_(?P<which>q|k|v|out)_lora\.(?P<way>down|up)\.weight")


@dataclass(frozen=True)
class TensorName:
    """A parsed tensor name.  module: as the file spells it"""

    dialect: str
    module: str
    part: str
    place: ModulePlace | None


def parse_tensor_name(name: str, target: Target) -> TensorName | None:
    """Parses a tensor name; None for a name that no format uses. `place` is None if the model has no such module."""
    stem, _, part = name.partition(".")
    if part in PARTS and stem.startswith(("lora_", "oft_", "lycoris_")):
        return TensorName("kohya", stem, part, target.stems.get(stem))
    plain = name.removeprefix(_RAW_PREFIX)
    if match := _OLD.fullmatch(plain):
        way = "lora_down.weight" if match["way"] == "down" else "lora_up.weight"
        base = match["base"].removesuffix(".processor")
        q, out = (f"to_{match['which']}", "to_out.0") if base != match["base"] else ("", "")
        names = [f"{base}.{out if match['which'] == 'out' else q}"] if q else []
        names.append(f"{base}.{'out' if match['which'] == 'out' else match['which']}_proj")
        place = next((target.dotted[each] for each in names if each in target.dotted), None)
        return TensorName("diffusers (2023)", names[0], way, place)
    if match := _PEFT.fullmatch(plain):
        dialect = "diffusers (2023)" if match["part"] in _OLDER else "PEFT"
        part = _PARTS[match["part"]]
        if match["end"] == ".bias":
            part = part.removesuffix("weight") + "bias"
        return TensorName(dialect, match["module"], part, target.dotted.get(match["module"]))
    for split in (1, 2):
        words = plain.rsplit(".", split)
        part = ".".join(words[1:])
        if len(words) == split + 1 and part in PARTS and words[0] in target.dotted:
            return TensorName("dotted", words[0], part, target.dotted[words[0]])
    return None


def is_raw(name: str) -> bool:
    """Whether PEFT alone wrote a name, whose files say alpha in another file."""
    return name.startswith(_RAW_PREFIX)


def part_of_module(name: str, target: Target) -> tuple[str, str] | None:
    """The module of the model that begins a tensor's name, and what is behind it, known or not; None for no module."""
    stem, _, part = name.partition(".")
    if part and stem in target.stems:
        return stem, part
    words = name.removeprefix(_RAW_PREFIX).split(".")
    for count in range(min(len(words), MAX_WORDS) - 1, 0, -1):
        module = ".".join(words[:count])
        if module in target.dotted:
            return module, ".".join(words[count:])
    return None
