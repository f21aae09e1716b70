"""LoRA tools: convert to another format, merge several, resize to a rank, extract from two checkpoints.

Shapes: O out, I in, R rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gesso.adapters.changes import (
    Difference,
    DoRA,
    Generalized,
    Hadamard,
    Kronecker,
    LowRank,
    Rotation,
    Scaling,
    WeightChange,
)
from gesso.adapters.lora import Lora, ModuleChange
from gesso.adapters.names import Target
from gesso.errors import GessoError

DIALECTS = ("kohya", "peft")
SPEC = {
    "sd1": ("sd_v1", "stable-diffusion-v1"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "refiner": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-refiner"),
}

Changes = Mapping[str, ModuleChange]


# ---- writing ---------------------------------------------------------------------------------------------------------


def file_tensors(changes: Changes, target: Target, dialect: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Changes by the names and shapes of a dialect of DIALECTS.

    dtype: of the numbers, None as they are. Raises ValueError for another dialect, GessoError for what the dialect has
    no form for: PEFT's files hold LoRA and DoRA alone.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect!r}: expected one of {', '.join(DIALECTS)}")
    tensors: dict[str, Tensor] = {}
    for name, change in changes.items():
        component, _, module = name.partition(".")
        layer = target.networks[component].get_submodule(module)
        pointwise = target.is_pointwise(component, module)
        if dialect == "kohya":
            stem = target.stem_of(component, module)
            parts = _kohya_parts(change, layer)
        else:
            stem = target.dotted_of(component, module)
            parts = _peft_parts(change, layer, name)
        for part, tensor in parts.items():
            stored = tensor if dtype is None or tensor.ndim == 0 else tensor.to(dtype)
            if pointwise and stored.ndim == 2 and part.startswith(("lora_up", "lora_down", "lora_A", "lora_B")):
                stored = stored[:, :, None, None]
            elif stored.ndim == 4 and isinstance(layer, nn.Linear) and not pointwise and stored.shape[2:] == (1, 1):
                stored = stored.flatten(1)
            tensors[f"{stem}.{part}"] = stored.contiguous()
    return tensors


def _kohya_parts(change: ModuleChange, layer: nn.Module) -> dict[str, Tensor]:
    is_norm = isinstance(layer, nn.GroupNorm | nn.LayerNorm)
    parts = {} if change.weight is None else _parts(change.weight, layer)
    if is_norm and "diff" in parts:
        parts["w_norm"] = parts.pop("diff")
    if change.bias is not None:
        parts["b_norm" if is_norm else "diff_b"] = change.bias
    return parts


def _parts(change: WeightChange, layer: nn.Module) -> dict[str, Tensor]:
    def present(**tensors: Tensor | None) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def alpha(rank: int, scale: float) -> dict[str, Tensor]:
        return {"alpha": torch.tensor(scale * rank)}

    if isinstance(change, LowRank):
        parts = {"lora_up.weight": change.up, "lora_down.weight": change.down} | alpha(change.rank, change.scale)
        return parts if change.mid is None else parts | {"lora_mid.weight": change.mid}
    if isinstance(change, Hadamard):
        names = {"hada_w1_a": change.a1, "hada_w1_b": change.b1, "hada_w2_a": change.a2, "hada_w2_b": change.b2}
        return names | present(hada_t1=change.t1, hada_t2=change.t2) | alpha(change.b1.shape[0], change.scale)
    if isinstance(change, Kronecker):
        halves = present(w1=change.w1, w1_a=change.w1_a, w1_b=change.w1_b, t2=change.t2)
        halves |= present(w2=change.w2, w2_a=change.w2_a, w2_b=change.w2_b)
        factor = change.w1_b if change.w1_b is not None else change.w2_b
        names = {f"lokr_{name}": tensor for name, tensor in halves.items()}
        if factor is None and change.scale != 1:  # two whole matrices have no alpha in files
            names["lokr_w2"] = names["lokr_w2"].float() * change.scale
        return names if factor is None else names | alpha(factor.shape[0], change.scale)
    if isinstance(change, Generalized):
        names = {"a1.weight": change.a_in, "a2.weight": change.a_out}
        names |= {"b1.weight": change.b_up, "b2.weight": change.b_down}
        names |= {} if change.core is None else {"bm.weight": change.core}
        return names | alpha(change.b_down.shape[0], change.scale)
    if isinstance(change, Scaling):
        return {"weight": change.factor, "on_input": torch.tensor(change.on_input)}
    if isinstance(change, Rotation):
        out = change.blocks.shape[-3] * change.blocks.shape[-1]
        return {"oft_blocks": change.blocks, "alpha": torch.tensor(change.constraint / out)} | present(
            rescale=change.rescale
        )
    if isinstance(change, DoRA):
        sizes = [1] * _dims(layer)
        sizes[1 if change.on_input else 0] = -1
        return _parts(change.inner, layer) | {"dora_scale": change.magnitude.reshape(sizes)}
    if isinstance(change, Difference):
        return {"diff": change.difference if change.scale == 1 else change.difference.float() * change.scale}
    raise GessoError(f"{type(change).__name__}: cannot be written to a file", code="unsupported")


def _dims(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.ndim


def _peft_parts(change: ModuleChange, layer: nn.Module, name: str) -> dict[str, Tensor]:
    """PEFT assumes alpha = rank without a config, so the scale goes into the upper factor."""
    weight = change.weight
    inner = weight.inner if isinstance(weight, DoRA) and not weight.on_input else weight
    if not isinstance(inner, LowRank) or inner.mid is not None or change.bias is not None:
        raise GessoError(
            f"{name}: PEFT files can hold only LoRA and DoRA, this is {type(weight).__name__}. Convert to kohya",
            code="unsupported",
        )
    up = inner.up if inner.scale == 1 else (inner.up.float() * inner.scale).to(inner.up.dtype)
    parts = {"lora_A.weight": inner.down, "lora_B.weight": up}
    if isinstance(weight, DoRA):
        sizes = (1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        parts["lora_magnitude_vector"] = weight.magnitude.reshape(sizes)
    return parts


def file_metadata(target: Target, changes: Changes, dialect: str, kept: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a new file: that of the old one without hashes, and its network in kohya's keys."""
    gone = ("sshs_", "modelspec.hash", "lora_adapter_metadata", "format")
    metadata = {key: value for key, value in kept.items() if not key.startswith(gone)}
    if dialect == "peft":
        return metadata | {"format": "pt"}
    ranks = [w.rank for change in changes.values() if isinstance(w := change.weight, LowRank)]
    base, spec = SPEC[target.layout]
    metadata |= {"ss_network_module": "networks.lora", "modelspec.architecture": f"{spec}/lora"}
    if ranks:
        metadata |= {"ss_network_dim": str(max(ranks)), "ss_network_alpha": str(float(max(ranks)))}
    metadata.setdefault("ss_base_model_version", base)
    metadata.setdefault("ss_v2", str(target.layout == "sd2"))
    metadata.setdefault("modelspec.sai_model_spec", "1.0.1")
    return metadata


# ---- ranks -----------------------------------------------------------------------------------------------------------


def resized(changes: Changes, *, rank: int | None = None, energy: float | None = None) -> dict[str, ModuleChange]:
    """LoRA cut to the largest singular values of each product: at most `rank`, or as many as hold a share of energy.

    energy: in 0..1, of the sum of squares. The result is the nearest of its rank (Eckart and Young 1936). Kinds other
    than LoRA and LoCon stay as they are. Raises ValueError unless exactly one is given, and within its range.
    """
    if (rank is None) == (energy is None):
        raise ValueError("rank or energy: give exactly one")
    if (rank is not None and rank < 1) or (energy is not None and not 0 < energy <= 1):
        raise ValueError(f"rank {rank}, energy {energy}: expected 1 or more, above 0 to 1")
    changed = {}
    for name, change in changes.items():
        weight = change.weight
        if isinstance(weight, LowRank) and weight.mid is None:
            keep = _keep(rank, energy)
            changed[name] = replace(change, weight=_cut(weight, keep))
        else:
            changed[name] = change
    return changed


def _keep(rank: int | None, energy: float | None) -> Callable[[Tensor], int]:
    def count(singular: Tensor) -> int:
        if rank is not None:
            return min(rank, len(singular))
        share = (singular.double() ** 2).cumsum(0)
        if share[-1] == 0:
            return 1
        # One part in 10^9: what rounding leaves of values that are zero does not count.
        return min(int((share < (energy or 1.0) * share[-1] * (1 - 1e-9)).sum()) + 1, len(singular))

    return count


def _cut(change: LowRank, keep: Callable[[Tensor], int]) -> LowRank:
    """By QR of the factors: the product itself may be a thousand times as large."""
    up, down = change.up.float().flatten(1) * change.scale, change.down.float().flatten(1)
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.mT)
    u, singular, vh = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
    kept = keep(singular)
    root = singular[:kept].sqrt()
    new_up, new_down = (left @ u[:, :kept]) * root, root[:, None] * (vh[:kept] @ right.mT)
    return LowRank(
        new_up.reshape(-1, kept, *change.up.shape[2:]).to(change.up.dtype),
        new_down.reshape(kept, *change.down.shape[1:]).to(change.down.dtype),
        1.0,
    )


def from_difference(difference: Tensor, rank: int) -> LowRank:
    """The nearest LoRA of a rank.  difference [O, I(, k, k)]"""
    u, singular, vh = torch.linalg.svd(difference.float().flatten(1), full_matrices=False)
    kept = min(rank, len(singular))
    root = singular[:kept].sqrt()
    up = (u[:, :kept] * root).reshape(-1, kept, *[1] * (difference.ndim - 2))
    return LowRank(up, (root[:, None] * vh[:kept]).reshape(kept, *difference.shape[1:]), 1.0)


# ---- several as one --------------------------------------------------------------------------------------------------


def merged_loras(
    loras: Sequence[tuple[Lora, float, float]], target: Target, *, rank: int | None = None
) -> dict[str, ModuleChange]:
    """One adapter that does what several do together, with their strengths for UNet and text in it.

    LoRA are laid side by side, so the rank is their sum, and nothing is lost unless `rank` cuts it. Where a module has
    other kinds, whole differences are summed. Raises GessoError for kinds that depend on the model's own weights.
    """
    gathered: dict[str, list[tuple[Lora, ModuleChange, float]]] = {}
    for lora, unet, text in loras:
        for name, change in lora.changes.items():
            strength = unet if name.startswith("unet.") else text
            gathered.setdefault(name, []).append((lora, change, strength))
    merged = {}
    for name, parts in gathered.items():
        component, _, module = name.partition(".")
        layer = target.networks[component].get_submodule(module)
        merged[name] = _merged(name, parts, layer, rank)
    return resized(merged, rank=rank) if rank is not None else merged


def _merged(
    name: str, parts: Sequence[tuple[Lora, ModuleChange, float]], layer: nn.Module, rank: int | None
) -> ModuleChange:
    bias: Tensor | None = None
    for _, change, strength in parts:
        if change.bias is not None:
            share = change.bias.float() * strength
            bias = share if bias is None else bias + share
    weights = [(lora, change.weight, strength) for lora, change, strength in parts if change.weight is not None]
    if not weights:
        return ModuleChange(None, bias)
    plain = [
        (weight, strength) for _, weight, strength in weights if isinstance(weight, LowRank) and weight.mid is None
    ]
    if len(plain) == len(weights):
        return ModuleChange(_side_by_side(plain), bias)
    stored = layer.weight
    assert isinstance(stored, Tensor)
    total = torch.zeros(stored.shape)
    for lora, weight, strength in weights:
        if weight.needs_weight:
            raise GessoError(
                f"{lora.where}: {name} depends on the model's own weights, so it cannot be merged with other "
                "adapters. Merge it into a model instead, with `into`",
                code="unsupported",
            )
        total += strength * weight.delta(torch.zeros(stored.shape))
    is_matrix = total.ndim >= 2 and not isinstance(layer, nn.Embedding)
    return ModuleChange(from_difference(total, rank) if rank and is_matrix else Difference(total), bias)


def _side_by_side(parts: Sequence[tuple[LowRank, float]]) -> LowRank:
    dims = max(weight.down.ndim for weight, _ in parts)

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.float().reshape(*tensor.shape, *[1] * (dims - tensor.ndim))

    up = torch.cat([shaped(weight.up) * (strength * weight.scale) for weight, strength in parts], dim=1)
    return LowRank(up, torch.cat([shaped(weight.down) for weight, _ in parts]), 1.0)


# ---- out of two checkpoints ------------------------------------------------------------------------------------------

_LEAST = 1e-6  # of the weight's own size: differences below are rounding


def extracted(
    base: Mapping[str, nn.Module], tuned: Mapping[str, nn.Module], *, rank: int, text: bool = True
) -> dict[str, ModuleChange]:
    """The LoRA that takes a model nearest to another of the same sizes.

    Every linear layer and convolution of the UNet and, with `text`, of the text encoders whose numbers differ. Costs a
    decomposition a layer: minutes for SD 1.5, more for SDXL. Raises GessoError where nothing differs, or sizes do.
    """
    if rank < 1:
        raise ValueError(f"rank {rank}: expected 1 or more")
    changes: dict[str, ModuleChange] = {}
    for component in ("unet", "text", "text_2"):
        if component not in base or (component != "unet" and not text):
            continue
        others = dict(tuned[component].named_modules()) if component in tuned else {}
        for name, module in base[component].named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            other = getattr(others.get(name), "weight", None)
            if other is None or other.shape != module.weight.shape:
                raise GessoError(
                    f"{component}.{name}: the two models have different sizes; give two models of one family",
                    code="mismatch",
                )
            before = module.weight.detach().float()
            difference = other.detach().float() - before
            if difference.abs().max() > _LEAST * before.abs().max():
                changes[f"{component}.{name}"] = ModuleChange(from_difference(difference, rank))
    if not changes:
        raise GessoError("the two models have the same weights; there is nothing to extract", code="mismatch")
    return changes
