"""gesso's own layout: a whole model in one safetensors file, with native names and everything needed to use it.

Tensors      "<component>.<parameter>", the components being unet, text, vae and where there is one upscaler.
Metadata     modelspec.*      ModelSpec 1.0.1, for other tools and people
             gesso.config     JSON: format, version and what the model is, see families/gesso_mini.py
             gesso.tokenizer  JSON of the tokenizer
Nothing is chosen by the modelspec keys: they are shown, not trusted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gesso.checkpoints.config_json import parse_object, to_json
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import SafetensorsFile, open_safetensors, write_safetensors

FORMAT = "gesso-model"
VERSION = 1
COMPONENTS = ("unet", "text", "vae", "upscaler")
CONFIG_KEY, TOKENIZER_KEY = "gesso.config", "gesso.tokenizer"

_PREDICTION_NAMES = {"eps": "epsilon", "v": "v", "x0": "x0"}
_REQUIRED = ("title", "resolution")  # of ModelSpec; the others that it requires are filled in here


@dataclass(frozen=True, eq=False)
class NativeFile:
    """An opened file of this layout: header and texts checked, tensors not yet read."""

    file: SafetensorsFile
    config: dict[str, Any]  # "gesso.config", parsed but not yet understood
    tokenizer: str

    def load(self, component: str) -> dict[str, Tensor]:
        """Tensors of one component by parameter name, as stored (half precision): views of the mapped file."""
        prefix = f"{component}."
        with self.file.reader() as reader:
            return {name.removeprefix(prefix): reader[name] for name in self.file.tensors if name.startswith(prefix)}

    @property
    def components(self) -> tuple[str, ...]:
        """Those that the file has tensors of, in the order of COMPONENTS."""
        prefixes = {name.partition(".")[0] for name in self.file.tensors}
        return tuple(name for name in COMPONENTS if name in prefixes)


def save_native(
    path: str | Path,
    components: Mapping[str, nn.Module | Mapping[str, Tensor]],
    config: Mapping[str, Any],
    tokenizer: str,
    modelspec: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
    *,
    training: Mapping[str, str] | None = None,
) -> None:
    """Writes a model whole or not at all; the same arguments give the same bytes.

    components  "unet", "text", "vae" and optionally "upscaler": modules, or their parameters by native name
    config      what `families.gesso_mini.config_of` gives: dataclasses and plain values; the format and its version
                are added
    tokenizer   `Tokenizer.to_json()`
    modelspec   keys without "modelspec."; title and resolution are required, date is never made up
    dtype       of the floating-point numbers in the file
    training    further metadata: ss_* keys
    Raises ValueError for wrong arguments and for numbers that are not finite in `dtype`, ModelFileError where the
    file cannot be written.
    """
    if unknown := set(components) - set(COMPONENTS):
        raise ValueError(f"unknown components {sorted(unknown)}, expected some of {COMPONENTS}")
    tensors: dict[str, Tensor] = {}
    for component, source in components.items():
        params = source.state_dict() if isinstance(source, nn.Module) else source
        for name, tensor in params.items():
            stored = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
            if not bool(stored.isfinite().all()):
                raise ValueError(f"{component}.{name} holds numbers that are not finite in {dtype}")
            tensors[f"{component}.{name}"] = stored
    whole = {"format": FORMAT, "version": VERSION, **to_json(config)}
    metadata = {
        **(training or {}),
        **_modelspec(modelspec, whole),
        CONFIG_KEY: json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False),
        TOKENIZER_KEY: tokenizer,
    }
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")


def _modelspec(metadata: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    if missing := [key for key in _REQUIRED if not metadata.get(key)]:
        raise ValueError(f"modelspec needs {', '.join(missing)}")
    filled = {
        "sai_model_spec": "1.0.1",
        "architecture": str(config.get("name", "gesso-mini")),
        "implementation": "gesso",
        "prediction_type": _PREDICTION_NAMES.get(str(config.get("prediction")), "v"),
        **metadata,
    }
    return {f"modelspec.{key}": str(value) for key, value in filled.items()}


def is_native(file: SafetensorsFile) -> bool:
    """Whether the metadata of a file claims this layout."""
    return CONFIG_KEY in file.metadata


def load_native(path: str | Path | SafetensorsFile) -> NativeFile:
    """Opens a file of this layout; `NativeFile.load` reads the tensors. Raises ModelFileError."""
    file = path if isinstance(path, SafetensorsFile) else open_safetensors(path)
    if CONFIG_KEY not in file.metadata or TOKENIZER_KEY not in file.metadata:
        message = f"not a gesso model: its metadata lack {CONFIG_KEY} or {TOKENIZER_KEY}"
        raise ModelFileError("architecture_mismatch", file.path, message)
    config = parse_object(file.metadata[CONFIG_KEY], f"{file.path}: {CONFIG_KEY}")
    layout = (config.pop("format", None), config.pop("version", None))
    if layout != (FORMAT, VERSION):
        message = f"format {layout[0]!r} version {layout[1]!r}, expected {FORMAT!r} version {VERSION}; update gesso"
        raise ModelFileError("config", file.path, message)
    foreign = [name for name in file.tensors if name.partition(".")[0] not in COMPONENTS]
    if foreign:
        message = f"{len(foreign)} tensors belong to no part of a gesso model, {foreign[0]!r} first"
        raise ModelFileError("unknown_key", file.path, message)
    return NativeFile(file=file, config=config, tokenizer=file.metadata[TOKENIZER_KEY])
