"""The kinds of adapters (LoRA, LoHa, LoKr, DoRA, ...): which tensors each has, and how its weight change is built.

Part names are those of kohya's trainer and of LyCORIS; what PEFT and diffusers call otherwise is renamed before
(`dialects`). Everything is checked by header where possible: a rank without a bound, an alpha that is no number.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gesso.adapters.changes import (
    Difference,
    DoRA,
    Generalized,
    Hadamard,
    InputRotation,
    Kronecker,
    LowRank,
    Rotation,
    Scaling,
    WeightChange,
)
from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.errors import shorten

MAX_RANK = 4096
MAX_ALPHA = 1e6  # trainers write 1 to a few hundred

TensorParts = Mapping[str, Tensor]


@dataclass(frozen=True)
class AdapterKind:
    """A kind of adapter.  needed: parts that identify it; allowed: further parts; build: parts -> the weight change"""

    name: str
    needed: tuple[str, ...]
    allowed: tuple[str, ...]
    build: Callable[[TensorParts, "Reader"], WeightChange]


@dataclass(frozen=True)
class Reader:
    """What building a change needs besides its parts.

    alpha, rank   from the metadata, if they state them
    by_root       rank-stabilised: alpha / sqrt(rank)
    lycoris_root  the same of LyCORIS, which has it in the alphas that it writes, except for GLoRA and for a LoKr of two
                  whole matrices
    has_bias      whether the layer has one
    series        of PEFT's OFT: (terms, bound) of `InputRotation`; None where no settings say them
    """

    where: Path
    module: str
    weight_shape: tuple[int, ...]
    alpha: float | None = None
    rank: float | None = None
    by_root: bool = False
    lycoris_root: bool = False
    has_bias: bool = False
    series: tuple[int | None, float | None] | None = None

    def refuse(self, message: str) -> ModelFileError:
        return ModelFileError("shape", self.where, f"{shorten(self.module)}: {message}")

    def scale(self, parts: TensorParts, rank: int) -> float:
        """What multiplies the product: alpha / rank, 1 where there is no alpha, or 0 is written for none."""
        if not 1 <= rank <= MAX_RANK:
            raise self.refuse(f"rank {rank}, expected 1 to {MAX_RANK}")
        if "scale" in parts:
            return self.number(parts, "scale")
        alpha = self.number(parts, "alpha") if "alpha" in parts else self.alpha
        if not alpha:
            return 1.0
        return alpha / (math.sqrt(rank) if self.by_root else rank)

    def number(self, parts: TensorParts, name: str) -> float:
        if parts[name].numel() != 1:
            raise self.refuse(f"{name} is {shape_text(parts[name].shape)}, expected one number")
        value = float(parts[name].flatten()[0])
        if not math.isfinite(value) or abs(value) > MAX_ALPHA:
            raise self.refuse(f"{name} is {value:g}, expected a number of at most {MAX_ALPHA:g}")
        return value


def _lora(parts: TensorParts, reader: Reader) -> WeightChange:
    down = parts["lora_down.weight"]
    scale = reader.scale(parts, down.shape[0])
    return LowRank(parts["lora_up.weight"], down, scale, parts.get("lora_mid.weight"))


def _loha(parts: TensorParts, reader: Reader) -> WeightChange:
    return Hadamard(
        a1=parts["hada_w1_a"],
        b1=parts["hada_w1_b"],
        a2=parts["hada_w2_a"],
        b2=parts["hada_w2_b"],
        scale=reader.scale(parts, parts["hada_w1_b"].shape[0]),
        t1=parts.get("hada_t1"),
        t2=parts.get("hada_t2"),
    )


def _lokr(parts: TensorParts, reader: Reader) -> WeightChange:
    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
    factors = {name: parts.get(f"lokr_{name}") for name in names}
    for half in ("w1", "w2"):
        if factors[half] is None and (factors[f"{half}_a"] is None or factors[f"{half}_b"] is None):
            raise reader.refuse(f"lacks lokr_{half}")
    factor = next((factors[name] for name in ("w1_b", "w2_b") if factors[name] is not None), None)
    if factor is not None:
        scale = reader.scale(parts, factor.shape[0])
    elif reader.alpha and reader.rank:  # PEFT scales two whole matrices as well
        scale = reader.alpha / reader.rank
    elif reader.lycoris_root and "alpha" in parts and (alpha := reader.number(parts, "alpha")) > 0:
        scale = alpha ** (1 / 3)  # rank^1.5 is written, sqrt(rank) is meant
    else:
        scale = 1.0  # without either, two whole matrices know no alpha
    return Kronecker(scale=scale, t2=parts.get("lokr_t2"), **factors)


def _glora(parts: TensorParts, reader: Reader) -> WeightChange:
    """LyCORIS changed the order of the four tensors between versions; their shapes show which version a file has."""
    a1, a2, b1, b2 = (parts[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    out, into = reader.weight_shape[:2]
    if b1.shape[0] == out and a1.shape[0] == into and b1.shape[1] == b2.shape[0]:
        a_in, a_out, b_up, b_down = a1, a2, b1, b2
    elif b2.shape[0] == out and a2.shape[0] == into and b2.shape[1] == b1.shape[0]:
        a_in, a_out, b_up, b_down = a2, a1, b2, b1
    else:
        raise reader.refuse(f"GLoRA with shapes that do not fit a weight of {shape_text(reader.weight_shape)}")
    if reader.lycoris_root:
        reader = replace(reader, by_root=True)
    return Generalized(a_in, a_out, b_up, b_down, reader.scale(parts, b_down.shape[0]), parts.get("bm.weight"))


def _ia3(parts: TensorParts, reader: Reader) -> WeightChange:
    return Scaling(parts["weight"], bool(reader.number(parts, "on_input")) if "on_input" in parts else False)


def _ia3_of_peft(parts: TensorParts, reader: Reader) -> WeightChange:
    """PEFT has the whole factor, [1, I] on inputs and [O, 1] on outputs, where the bias is multiplied as well."""
    factor = parts["ia3_l"].float()
    out, into = reader.weight_shape[:2]
    if factor.ndim < 2 or sorted(factor.shape[:2]) != sorted((1, factor.numel())) or factor.numel() not in (out, into):
        shape = shape_text(factor.shape)
        raise reader.refuse(f"ia3_l is {shape}, expected [1, {into}] for its inputs or [{out}, 1] for its outputs")
    on_input = factor.shape[0] == 1
    if reader.has_bias and not on_input:
        raise ModelFileError(
            "unknown_key",
            reader.where,
            f"{shorten(reader.module)}: IA3 of PEFT on the outputs of a layer with a bias, which gesso does not read. "
            "Merge it into its model with PEFT, and use that model",
        )
    return Scaling(factor - 1, on_input)


def _oft(parts: TensorParts, reader: Reader) -> WeightChange:
    blocks = parts["oft_blocks"]
    if blocks.ndim not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
        raise reader.refuse(f"oft_blocks is {shape_text(blocks.shape)}, expected [N, S, S] or [M, N, S, S]")
    out = reader.weight_shape[0]
    if blocks.shape[-3] * blocks.shape[-1] != out:
        raise reader.refuse(f"oft_blocks is {shape_text(blocks.shape)}, the weight has {out} outputs")
    constraint = reader.number(parts, "alpha") * out if "alpha" in parts else 0.0
    return Rotation(blocks, constraint, parts.get("rescale"))


def _oft_of_peft(parts: TensorParts, reader: Reader) -> WeightChange:
    """[N, S (S - 1) / 2]: what stands above the diagonals of N blocks; N is 1 where all inputs share one."""
    numbers = parts["oft_R"].float()
    size = (1 + math.isqrt(1 + 8 * numbers.shape[-1])) // 2 if numbers.ndim == 2 else 0
    inputs = math.prod(reader.weight_shape[1:])
    if not numbers.numel() or size * (size - 1) // 2 != numbers.shape[-1] or inputs % size:
        shape = shape_text(numbers.shape)
        raise reader.refuse(f"oft_R is {shape}, expected [N, S (S - 1) / 2] with blocks of S for {inputs} inputs")
    if reader.series is None:
        raise ModelFileError(
            "metadata",
            reader.where,
            "is an OFT of PEFT, whose tensors do not say how they are meant: PEFT's adapter_config.json does. Put it "
            "beside the file, which it expects to be called adapter_model.safetensors",
        )
    if any(side != 1 for side in reader.weight_shape[2:]):
        raise ModelFileError(
            "unknown_key",
            reader.where,
            f"{shorten(reader.module)}: OFT of PEFT on a convolution of {'x'.join(map(str, reader.weight_shape[2:]))}, "
            "where PEFT itself draws one picture with the adapter and another with it merged. Train without those "
            "layers, or merge it with PEFT's merge_and_unload, and use that model",
        )
    rows, columns = torch.triu_indices(size, size, 1)
    upper = numbers.new_zeros(len(numbers), size, size)
    upper[:, rows, columns] = numbers
    terms, bound = reader.series
    return InputRotation((upper - upper.mT)[None], terms, bound)


def _boft_of_peft(parts: TensorParts, reader: Reader) -> WeightChange:
    blocks, rescale = parts["boft_R"].float(), parts.get("boft_s")
    out, inputs = reader.weight_shape[0], math.prod(reader.weight_shape[1:])
    shape = shape_text(blocks.shape)
    if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3] or blocks.shape[1] * blocks.shape[2] != inputs:
        raise reader.refuse(f"boft_R is {shape}, expected [M, N, S, S] with N S = {inputs} inputs")
    size, levels = blocks.shape[2], blocks.shape[0]
    if not 1 <= levels <= inputs.bit_length() or (levels > 1 and (size % 2 or inputs % (size * 2 ** (levels - 1)))):
        raise reader.refuse(f"boft_R is {shape}: {inputs} inputs do not make {levels} butterfly factors of such blocks")
    if rescale is not None and rescale.numel() != out:
        raise reader.refuse(f"boft_s is {shape_text(rescale.shape)}, the weight has {out} outputs")
    return InputRotation((blocks - blocks.mT) / 2, rescale=None if rescale is None else rescale.flatten())


def _difference(parts: TensorParts, reader: Reader) -> WeightChange:
    return Difference(parts["diff"])


def _norm(parts: TensorParts, reader: Reader) -> WeightChange:
    return Difference(parts["w_norm"])


_SCALES = ("alpha", "scale")
_LOKR = tuple(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
KINDS = (
    AdapterKind("LoRA", ("lora_up.weight", "lora_down.weight"), ("lora_up.bias", "lora_mid.weight", *_SCALES), _lora),
    AdapterKind("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("hada_t1", "hada_t2", *_SCALES), _loha),
    AdapterKind("LoKr", (), (*_LOKR, *_SCALES), _lokr),
    AdapterKind("GLoRA", ("a1.weight", "a2.weight", "b1.weight", "b2.weight"), ("bm.weight", *_SCALES), _glora),
    AdapterKind("OFT", ("oft_blocks",), ("rescale", "alpha"), _oft),
    AdapterKind("full difference", ("diff",), ("alpha",), _difference),
    AdapterKind("norm", ("w_norm",), ("alpha",), _norm),
    AdapterKind("IA3", ("weight",), ("on_input", "alpha"), _ia3),
    AdapterKind("IA3", ("ia3_l",), (), _ia3_of_peft),
    AdapterKind("OFT", ("oft_R",), (), _oft_of_peft),
    AdapterKind("BOFT", ("boft_R",), ("boft_s",), _boft_of_peft),
)
# TensorParts that any kind may have.
BIASES = ("diff_b", "b_norm")
WITHOUT_ALPHA = ("ia3_l", "oft_R", "boft_R", "boft_s")  # of PEFT's files
_MAGNITUDES = ("dora_scale", "magnitude")
COMMON = (*BIASES, *_MAGNITUDES, "scalar")
PARTS = frozenset(part for kind in KINDS for part in (*kind.needed, *kind.allowed)) | frozenset(COMMON)


# Kinds that gesso does not read, by how the names of their tensors begin.
FOREIGN = {
    "lora_E": "AdaLoRA",
    "lora_diag": "KaSA",
    "oft_r": "OFT of PEFT before 0.14, which newer releases do not read either",
    "oft_embedding_R": "OFT of PEFT on embeddings",
    "vera_": "VeRA",
    "fourierft_": "FourierFT",
    "waveft_": "WaveFT",
    "hra_": "HRA",
    "bone_": "Bone",
    "miss_": "MiSS",
    "randlora_": "RandLoRA",
    "shira_": "SHiRA",
    "c3a_": "C3A",
    "road_": "RoAd",
    "delora_": "DeLoRA",
    "gralora_": "GraLoRA",
    "vblora_": "VB-LoRA",
    "poly_": "Poly",
    "ln_tuning": "LN tuning",
    "lambda_layer": "T-LoRA",
    "q_layer": "T-LoRA",
    "p_layer": "T-LoRA",
}


def foreign_kind(part: str) -> str | None:
    """The kind of adapter that gesso does not read, by the name of a tensor behind that of its module."""
    return next((kind for start, kind in FOREIGN.items() if part.startswith(start)), None)


def kind_of(parts: TensorParts) -> AdapterKind | None:
    """The kind of a module's parts; None where there is a bias alone, or nothing that is known."""
    for kind in KINDS:
        if kind.name == "LoKr":
            if any(part in parts for part in _LOKR):
                return kind
        elif all(part in parts for part in kind.needed):
            return kind
    return None


def label_of(kind: AdapterKind, parts: TensorParts) -> str:
    """The kind's name as people know it: LoCon, DoRA, BOFT."""
    name = kind.name
    if kind.name == "LoRA" and parts["lora_down.weight"].ndim == 4 and parts["lora_down.weight"].shape[2:] != (1, 1):
        name = "LoCon"
    if kind.name == "LoRA" and "lora_mid.weight" in parts:
        name = "LoCon (Tucker)"
    if "oft_blocks" in parts and parts["oft_blocks"].ndim == 4:
        name = "BOFT"
    return f"DoRA ({name})" if any(part in parts for part in _MAGNITUDES) else name


def build(parts: TensorParts, reader: Reader) -> WeightChange | None:
    """The change of a module's weight; None where the parts change its bias alone. Raises ModelFileError."""
    kind = kind_of(parts)
    if kind is None:
        if any(part in parts for part in BIASES):
            return None
        raise reader.refuse(f"tensors that make no known adapter: {', '.join(sorted(map(shorten, parts))[:5])}")
    if unknown := sorted(set(parts) - set(kind.needed) - set(kind.allowed) - set(COMMON)):
        raise reader.refuse(f"{kind.name} with unknown tensors: {', '.join(map(shorten, unknown[:5]))}")
    try:
        change = kind.build(parts, reader)
    except (IndexError, RuntimeError) as error:
        raise reader.refuse(f"{kind.name} with shapes that do not fit together ({type(error).__name__})") from None
    if "scalar" in parts:
        change = _times(change, reader.number(parts, "scalar"))
    magnitude = next((parts[part] for part in _MAGNITUDES if part in parts), None)
    if magnitude is not None:
        change = DoRA(change, magnitude, _is_per_input(parts, magnitude, reader))
    return change


def _times(change: WeightChange, factor: float) -> WeightChange:
    if isinstance(change, LowRank | Hadamard | Kronecker | Generalized | Difference):
        return replace(change, scale=change.scale * factor)
    return change


def _is_per_input(parts: TensorParts, magnitude: Tensor, reader: Reader) -> bool:
    """PEFT's vector is per output. LyCORIS' is [O, 1, ...], in older files [1, I, ...]: recognised by the shape."""
    out, into = reader.weight_shape[:2]
    if "magnitude" in parts or magnitude.ndim < 2:
        per_input = False
    else:
        per_input = magnitude.shape[0] == 1 and magnitude.shape[1] == into and (out != 1)
    if magnitude.numel() != (into if per_input else out):
        raise reader.refuse(
            f"DoRA's magnitude is {shape_text(magnitude.shape)}, the weight is {shape_text(reader.weight_shape)}"
        )
    return per_input
