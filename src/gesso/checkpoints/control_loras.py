"""Control-LoRA (Stability AI 2023): a ControlNet stored as low-rank differences to the UNet that it was copied from.

Names are those of cldm without a prefix. In place of "NAME.weight" a layer may have "NAME.up" and "NAME.down": its
weight is that of the UNet plus up @ down. Whatever else the file holds stands for itself; the rest is the UNet's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from gesso.checkpoints.errors import ModelFileError, examples, shape_text
from gesso.checkpoints.keymap import Row, Rule, Shape, TensorSource, expand

MAX_RANK = 4096


def control_lora_tensors(
    rules: Sequence[Rule],
    files: Mapping[str, Shape],
    source: TensorSource,
    params: Mapping[str, Shape],
    unet: Mapping[str, Tensor],
    where: str | Path,
) -> dict[str, Tensor]:
    """The parameters of the ControlNet by name.

    files: names and shapes of the file's tensors; unet: parameters of the model's UNet, by native names. Sums are
    computed in float32 and rounded once, to the dtype of the UNet's parameter. Raises ModelFileError where a
    tensor has no place, a parameter is nowhere, or shapes do not fit.
    """
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    for row in expand(rules, params):
        if row.load_only:
            continue
        (native,) = row.natives
        stem = row.file.removesuffix(".weight")
        if row.file in files:
            used.add(row.file)
            (tensors[native],) = row.transform.load(source[row.file])
        elif f"{stem}.up" in files and f"{stem}.down" in files:
            used |= {f"{stem}.up", f"{stem}.down"}
            tensors[native] = _added(
                row, source[f"{stem}.up"], source[f"{stem}.down"], _base(native, unet, where), where
            )
        else:
            tensors[native] = _base(native, unet, where)
        if tuple(tensors[native].shape) != params[native]:
            shape, expected = shape_text(tensors[native].shape), shape_text(params[native])
            raise ModelFileError("shape", where, f"{row.file} is {shape}, the model expects {expected}")
    if unknown := [name for name in files if name not in used]:
        message = f"{len(unknown)} tensors fit nothing in the model: {examples(unknown)}"
        raise ModelFileError("unknown_key", where, message)
    return tensors


def _base(native: str, unet: Mapping[str, Tensor], where: str | Path) -> Tensor:
    if native not in unet:
        raise ModelFileError("missing_key", where, f"{native} is neither in the file nor in the model's UNet")
    return unet[native].to("cpu")


def _added(row: Row, up: Tensor, down: Tensor, base: Tensor, where: str | Path) -> Tensor:
    rank = down.shape[0] if down.ndim else 0
    fits = up.ndim > 1 and up.shape[0] == base.shape[0] and up[0].numel() == rank
    if not fits or not 0 < rank <= MAX_RANK or down.numel() != rank * base[0].numel():
        factors = f"{shape_text(up.shape)} and {shape_text(down.shape)}"
        raise ModelFileError("shape", where, f"{row.file}: factors {factors} do not make {shape_text(base.shape)}")
    delta = up.flatten(1).float() @ down.flatten(1).float()
    return (base.float() + delta.reshape(base.shape)).to(base.dtype)
