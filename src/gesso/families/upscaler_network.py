"""Loads upscaler networks: ESRGAN, Real-ESRGAN, SRVGGNetCompact."""

from pathlib import Path

import torch

from gesso.checkpoints.keymap import Renamed, load, plan, shapes_of
from gesso.checkpoints.upscalers import bare_names, upscaler_layout
from gesso.checkpoints.weight_file import open_weights
from gesso.families.parts import fill, on_meta
from gesso.models.rrdb import RRDBNet, RRDBNetConfig
from gesso.models.srvgg import SRVGG


def load_upscaler_network(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    converted: Path | None = None,
) -> tuple[RRDBNet | SRVGG, tuple[Path, ...]]:
    """The network, and the files that it was read from. Its sizes and scale follow from the header.

    path       safetensors or a PyTorch file (.pth)
    dtype      None: that of the file, and no weight is checked yet, for `runtime.residency.Component`
    converted  as for `open_weights`
    Raises ModelFileError.
    """
    file = open_weights(path, converted=converted)
    in_file = bare_names(file.tensors)
    names = shapes_of({name: file.tensors[stored] for name, stored in in_file.items()})
    config, rules = upscaler_layout(names, file.path)
    with on_meta():
        network = RRDBNet(config) if isinstance(config, RRDBNetConfig) else SRVGG(config)
    rows = plan(rules, names, shapes_of(network.state_dict()), where=file.path)
    with file.reader() as reader:
        tensors = load(rows, Renamed(reader, in_file))
        fill(network, tensors, file.path, device=device, dtype=dtype, check=dtype is not None)
    return network, file.files
