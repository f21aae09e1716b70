"""Upscaler files (ESRGAN, Real-ESRGAN): their tensor names, and the config from a file's header.

RRDBNet has three spellings: of the first ESRGAN, whose layers are numbered; of its second release (BSRGAN, RealSR); and
of Real-ESRGAN. SRVGGNetCompact has one.
"""

import math
import re
from collections.abc import Iterable, Mapping

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import Rule, Shape
from gesso.models.rrdb import CONVS, DENSE, RRDBNetConfig
from gesso.models.srvgg import SRVGGConfig

MAX_ENLARGEMENTS = 4
MAX_SCALE = 8
MAX_BLOCKS = 64  # ESRGAN has 23
MAX_CONVS = 128  # between the first and the last; published are 16 and 32

# A name that only this spelling has.
_NUMBERED, _SECOND, _REAL = (
    "model.1.sub.0.RDB1.conv1.0.weight",
    "RRDB_trunk.0.RDB1.conv1.weight",
    "body.0.rdb1.conv1.weight",
)
_COMPACT = "body.1.weight"  # the slope after the first convolution
_WRAPPERS = ("module.", "netG.", "generator.")  # torch's DataParallel, and trainers of adversarial networks
_PLUS = "conv1x1."  # ESRGAN+

UpscalerConfig = RRDBNetConfig | SRVGGConfig


def is_upscaler(tensors: Iterable[str]) -> bool:
    """Whether a file of these names looks like an upscaler network that gesso knows."""
    return not {_NUMBERED, _SECOND, _REAL, _COMPACT}.isdisjoint(bare_names(tensors))


def bare_names(tensors: Iterable[str]) -> dict[str, str]:
    """The names as the network has them -> those in the file, where all may begin with what a wrapper has put there.

    Counters of batch normalisation, which no network here has, are left out: nothing of a picture depends on them.
    """
    names = [name for name in tensors if name.rpartition(".")[2] != "num_batches_tracked"]
    prefix = next((each for each in _WRAPPERS if names and all(name.startswith(each) for name in names)), "")
    return {name.removeprefix(prefix): name for name in names}


def upscaler_layout(shapes: Mapping[str, Shape], where: object) -> tuple[UpscalerConfig, list[Rule]]:
    """Sizes and table of names of an upscaler network, from the header of its file.

    Nothing here is believed but what `keymap.plan` checks: a size that the file does not have fails there. Raises
    ModelFileError for another network, and for one that does not make pictures of three channels.
    """
    if any(_PLUS in name for name in shapes):
        raise ModelFileError(
            "architecture_mismatch", str(where), "looks like ESRGAN+, which gesso does not support; expected ESRGAN"
        )
    if _COMPACT in shapes and _REAL not in shapes:
        return _compact(shapes, where)
    if _NUMBERED in shapes:
        last = max((_index(name, r"model\.(\d{1,3})\.weight") for name in shapes), default=-1)
        enlargements, rest = divmod(last - 4, 3)
        if rest or not 0 <= enlargements <= MAX_ENLARGEMENTS:
            raise _no_upscaler(where, f"its last layer is model.{last}")
        count = _count(shapes, r"model\.1\.sub\.(\d{1,4})\.RDB1\.conv1\.0\.weight")
        return _rrdb(shapes, where, _numbered_rules(count, enlargements), count, enlargements)
    for first, rules, blocks, enlarge in (
        (_SECOND, _SECOND_RULES, r"RRDB_trunk\.(\d{1,4})\.RDB1\.conv1\.weight", r"upconv(\d)\.weight"),
        (_REAL, _REAL_RULES, r"body\.(\d{1,4})\.rdb1\.conv1\.weight", r"conv_up(\d)\.weight"),
    ):
        if first in shapes:
            return _rrdb(shapes, where, rules, _count(shapes, blocks), _count(shapes, enlarge))
    raise _no_upscaler(where, "it has no tensor names of ESRGAN, Real-ESRGAN or SRVGGNetCompact")


def _rrdb(
    shapes: Mapping[str, Shape], where: object, rules: list[Rule], num_blocks: int, num_enlargements: int
) -> tuple[RRDBNetConfig, list[Rule]]:
    names = {native: rule.file.replace("{p}", "weight") for rule in rules for native in rule.natives}
    into = _shape(shapes, names["conv_in.{p}"], where)
    out = _shape(shapes, names["conv_out.{p}"], where)
    grown = _shape(shapes, names["blocks.{i}.dense.0.convs.0.{p}"].replace("{i}", "0"), where)
    if num_blocks > MAX_BLOCKS:
        raise _no_upscaler(where, f"{num_blocks} blocks, at most {MAX_BLOCKS}")
    fold = math.isqrt(into[1] // 3)
    if out[0] != 3 or into[1] != 3 * fold**2 or fold not in (1, 2, 4) or not fold <= 2**num_enlargements:
        raise _no_upscaler(where, f"it goes from {into[1]} to {out[0]} channels over {num_enlargements} doublings")
    config = RRDBNetConfig(
        channels=into[0], growth=grown[0], num_blocks=num_blocks, num_enlargements=num_enlargements, fold=fold
    )
    return config, rules


def _compact(shapes: Mapping[str, Shape], where: object) -> tuple[SRVGGConfig, list[Rule]]:
    last = max(_index(name, r"body\.(\d{1,4})\.weight") for name in shapes)
    into, out = (_shape(shapes, f"body.{number}.weight", where) for number in (0, last))
    scale = math.isqrt(out[0] // 3)
    if last % 2 or into[1] != 3 or out[0] != 3 * scale**2 or not 1 <= scale <= MAX_SCALE:
        raise _no_upscaler(where, f"it goes from {into[1]} to {out[0]} channels over {last + 1} layers")
    count = last // 2 - 1
    if not 0 <= count <= MAX_CONVS:
        raise _no_upscaler(where, f"{count} convolutions, at most {MAX_CONVS}")
    rules = [
        *(Rule(f"body.{2 * i}.{{p}}", f"convs.{i}.{{p}}") for i in range(count + 1)),
        *(Rule(f"body.{2 * i + 1}.{{p}}", f"slopes.{i}.{{p}}") for i in range(count + 1)),
        Rule(f"body.{last}.{{p}}", "conv_out.{p}"),
    ]
    return SRVGGConfig(channels=into[0], num_convs=count, scale=scale), rules


def _dense(pattern: str) -> list[Rule]:
    """The rows of all convolutions in a residual block. pattern: of the file, with its {dense} and {conv} from 1."""
    return [
        Rule(
            pattern.replace("{dense}", str(dense + 1)).replace("{conv}", str(conv + 1)),
            f"blocks.{{i}}.dense.{dense}.convs.{conv}.{{p}}",
        )
        for dense in range(DENSE)
        for conv in range(CONVS)
    ]


def _numbered_rules(num_blocks: int, num_enlargements: int) -> list[Rule]:
    """Layers without weights have numbers, too: enlarging before a convolution and ReLU after it."""
    return [
        Rule("model.0.{p}", "conv_in.{p}"),
        *_dense("model.1.sub.{i}.RDB{dense}.conv{conv}.0.{p}"),
        Rule(f"model.1.sub.{num_blocks}.{{p}}", "conv_body.{p}"),
        *(Rule(f"model.{3 * i + 3}.{{p}}", f"enlarge.{i}.{{p}}") for i in range(num_enlargements)),
        Rule(f"model.{3 * num_enlargements + 2}.{{p}}", "conv_hr.{p}"),
        Rule(f"model.{3 * num_enlargements + 4}.{{p}}", "conv_out.{p}"),
    ]


_SECOND_RULES = [
    Rule("conv_first.{p}", "conv_in.{p}"),
    *_dense("RRDB_trunk.{i}.RDB{dense}.conv{conv}.{p}"),
    Rule("trunk_conv.{p}", "conv_body.{p}"),
    *(Rule(f"upconv{i + 1}.{{p}}", f"enlarge.{i}.{{p}}") for i in range(MAX_ENLARGEMENTS)),
    Rule("HRconv.{p}", "conv_hr.{p}"),
    Rule("conv_last.{p}", "conv_out.{p}"),
]
_REAL_RULES = [
    Rule("conv_first.{p}", "conv_in.{p}"),
    *_dense("body.{i}.rdb{dense}.conv{conv}.{p}"),
    Rule("conv_body.{p}", "conv_body.{p}"),
    *(Rule(f"conv_up{i + 1}.{{p}}", f"enlarge.{i}.{{p}}") for i in range(MAX_ENLARGEMENTS)),
    Rule("conv_hr.{p}", "conv_hr.{p}"),
    Rule("conv_last.{p}", "conv_out.{p}"),
]


def _index(name: str, pattern: str) -> int:
    match = re.fullmatch(pattern, name)
    return int(match[1]) if match else -1


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    return sum(_index(name, pattern) >= 0 for name in shapes)


def _shape(shapes: Mapping[str, Shape], name: str, where: object) -> Shape:
    """The shape of a 3x3 convolution. Raises ModelFileError where it is missing or is none."""
    shape = shapes.get(name)
    if shape is None or len(shape) != 4 or 0 in shape:
        raise _no_upscaler(where, f"{name} is {'missing' if shape is None else list(shape)}")
    return shape


def _no_upscaler(where: object, why: str) -> ModelFileError:
    message = f"is not an upscaler network that gesso knows: {why}. Known: ESRGAN, Real-ESRGAN, SRVGGNetCompact"
    return ModelFileError("architecture_mismatch", str(where), message)
