"""Files of upscaler networks, small and of hashed weights, in every spelling that is published."""

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from hashed_weights import hashed, normal

Shapes = Mapping[str, tuple[int, ...]]
GROWTH = 32  # what spandrel, which made the golden numbers, takes for granted

# Name of a golden number -> names of the layers, and what `rrdb_shapes` needs to know.
RRDB_FILES = {
    "real_x4": ("real", {"enlargements": 2}),
    "real_x2plus": ("real", {"enlargements": 2, "fold": 2}),
    "real_x1": ("real", {"enlargements": 2, "fold": 4}),
    "second_x4": ("second", {"enlargements": 2}),
    "second_x2": ("second", {"enlargements": 1}),
    "numbered_x1": ("numbered", {"enlargements": 0}),
    "numbered_x2": ("numbered", {"enlargements": 1}),
    "numbered_x4": ("numbered", {"enlargements": 2}),
}
COMPACT_FILES = {"compact_x1": 1, "compact_x2": 2, "compact_x4": 4}


def rrdb_shapes(spelling: str, *, enlargements: int, fold: int = 1, channels: int = 8, blocks: int = 2) -> Shapes:
    """Names and shapes of the tensors of a small RRDBNet."""
    convs = {
        "in": (channels, 3 * fold**2),
        "body": (channels, channels),
        "hr": (channels, channels),
        "out": (3, channels),
    }
    convs |= {f"up{i}": (channels, channels) for i in range(1, enlargements + 1)}
    for block in range(blocks):
        for dense in range(1, 4):
            for conv in range(1, 6):
                out = GROWTH if conv < 5 else channels
                convs[f"{block}.{dense}.{conv}"] = (out, channels + (conv - 1) * GROWTH)
    last = 3 * enlargements
    names = {
        "real": {"in": "conv_first", "body": "conv_body", "hr": "conv_hr", "out": "conv_last"},
        "second": {"in": "conv_first", "body": "trunk_conv", "hr": "HRconv", "out": "conv_last"},
        "numbered": {
            "in": "model.0",
            "body": f"model.1.sub.{blocks}",
            "hr": f"model.{last + 2}",
            "out": f"model.{last + 4}",
        },
    }[spelling]
    patterns = {
        "real": (r"body.\1.rdb\2.conv\3", r"conv_up{}"),
        "second": (r"RRDB_trunk.\1.RDB\2.conv\3", "upconv{}"),
        "numbered": (r"model.1.sub.\1.RDB\2.conv\3.0", "model.{}"),
    }[spelling]
    found: dict[str, tuple[int, ...]] = {}
    for key, (out, into) in convs.items():
        if key.startswith("up"):
            name = patterns[1].format(3 * int(key[2:]) if spelling == "numbered" else key[2:])
        else:
            name = names.get(key) or re.sub(r"(\d+)\.(\d+)\.(\d+)", patterns[0], key)
        found |= {f"{name}.weight": (out, into, 3, 3), f"{name}.bias": (out,)}
    return found


def compact_shapes(scale: int, *, channels: int = 8, convs: int = 3) -> Shapes:
    """Names and shapes of the tensors of a small SRVGGNetCompact."""
    sizes = [3, *[channels] * (convs + 1), 3 * scale**2]
    found: dict[str, tuple[int, ...]] = {}
    for index, (into, out) in enumerate(pairwise(sizes)):
        found |= {f"body.{2 * index}.weight": (out, into, 3, 3), f"body.{2 * index}.bias": (out,)}
        if index <= convs:
            found[f"body.{2 * index + 1}.weight"] = (out,)
    return found


def weights(shapes: Shapes) -> dict[str, Tensor]:
    """Hashed weights; the slopes of SRVGGNetCompact a quarter of it, or they would change nothing."""
    return {
        name: hashed(name, shape) * (0.25 if len(shape) == 1 and name.endswith("weight") else 1)
        for name, shape in shapes.items()
    }


def upscaler_weights(name: str) -> dict[str, Tensor]:
    """The tensors of one of RRDB_FILES or COMPACT_FILES."""
    if name in COMPACT_FILES:
        return weights(compact_shapes(COMPACT_FILES[name]))
    spelling, sizes = RRDB_FILES[name]
    return weights(rrdb_shapes(spelling, **sizes))


def golden_picture() -> Tensor:
    """What the golden numbers were made from: [1, 3, 10, 13] in [0, 1], of sides that no network's fold divides."""
    return (normal("upscaler.x", (1, 3, 10, 13)) / 4 + 0.5).clamp(0, 1)


if __name__ == "__main__":  # torch, and spandrel 0.4.2 with a stub for torchvision, made the golden numbers:
    import sys

    from safetensors.torch import save_file
    from spandrel import ModelLoader

    made = {}
    for golden in (*RRDB_FILES, *COMPACT_FILES):
        network = ModelLoader().load_from_state_dict(upscaler_weights(golden)).model
        with torch.no_grad():
            made[golden] = network(golden_picture()).contiguous()
    save_file(made, sys.argv[1])
