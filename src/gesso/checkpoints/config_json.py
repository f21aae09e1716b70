"""Untrusted JSON <-> frozen config dataclasses, with checks.

Objects may not repeat a name, numbers are finite and bounded, every field is present unless it has a default, and no
field is unknown. What a config describes is therefore small enough to be built without harm.
"""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from gesso import strict_json
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import read_small_file
from gesso.errors import shorten

MAX_JSON = 4 * 2**20  # bytes; the largest read is a tokenizer.json of 2 MB
MAX_ITEMS = 16  # of a tuple in a config

# Least and greatest value by the name of the field; other whole numbers lie in 0..8192.
_BOUNDS: dict[str, tuple[float, float]] = {
    "channels": (1, 8192),
    "attention": (0, 12),  # SDXL has 10
    "mid_attention": (1, 12),
    "num_heads": (1, 256),
    "num_res_blocks": (1, 8),
    "num_layers": (1, 64),
    "dim": (1, 16384),
    "mlp_dim": (1, 65536),
    "context_dim": (1, 16384),
    "added_dim": (1, 16384),
    "projection_dim": (1, 16384),
    "text_layer": (1, 64),
    "noise_levels": (1, 100_000),
    "guidance_dim": (4, 16_384),
    "max_level": (0, 100_000),
    "draft_size": (1, 4096),
    "vocab_size": (1, 2**20),
    "eos_id": (0, 2**20),
    "max_length": (3, 4096),
    "patch_size": (1, 16),
    "hint_channels": (1, 8192),
    "hint_patch": (1, 16),
    "objects": (1, 10_000),
    "looks": (1, 16),
    "patches": (1, 1024),
    "memory_channels": (1, 256),
    "slots": (1, 16),
    "norm_groups": (1, 1024),
    "scaling_factor": (1e-6, 1e6),
    "num_timesteps": (2, 100_000),
    "beta_start": (1e-9, 0.999),
    "beta_end": (1e-9, 0.999),
    "native_size": (8, 4096),
    "scale": (1, 8),
    "num_blocks": (0, 64),
    "sharpness": (0.01, 100),
    "image_channels": (1, 16),
    "in_channels": (1, 256),
    "out_channels": (1, 256),
    "latent_channels": (1, 256),
    "clip_skip": (1, 64),
    "num_steps": (1, 1000),
    "guidance_scale": (0, 100),
}

Config = TypeVar("Config")


def parse_object(text: str | bytes, where: str | Path, *, infinite: bool = False) -> dict[str, Any]:
    """A JSON object. Raises ModelFileError for anything else, repeated names and numbers that are not finite.

    infinite: Infinity and -Infinity are read, as diffusers writes them into a scheduler's config.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = strict_json.loads(text, infinite=infinite)
    except (ValueError, RecursionError) as error:
        raise ModelFileError("config", where, f"is not valid JSON ({shorten(str(error))})") from None
    if not isinstance(value, dict):
        raise ModelFileError("config", where, f"is a JSON {type(value).__name__}, expected an object")
    return value


def read_object(path: Path, *, infinite: bool = False) -> dict[str, Any]:
    """A JSON file that holds an object; `infinite` as in `parse_object`. Raises ModelFileError."""
    return parse_object(read_small_file(path, MAX_JSON), path, infinite=infinite)


def to_json(config: Any) -> Any:
    """A config dataclass, or a table that holds some, as plain JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: to_json(getattr(config, item.name)) for item in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_json(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_json(value) for value in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ValueError(f"{type(config).__name__} cannot be stored in a configuration")


def from_json(cls: type[Config], raw: Any, where: str | Path, name: str, **fixed: Any) -> Config:
    """A config dataclass from JSON. `name` is what the message calls it. Raises ModelFileError.

    given: fields that the caller has read; JSON may not name them.
    """
    if not isinstance(raw, dict):
        raise ModelFileError("config", where, f"{name} is not an object")
    fields = {item.name: item for item in dataclasses.fields(cls) if item.name not in fixed}  # type: ignore[arg-type]
    if unknown := sorted(set(raw) - set(fields)):
        raise ModelFileError("config", where, f"{name} has the unknown field {shorten(unknown[0])!r}; update gesso")
    types_ = get_type_hints(cls)
    values = {}
    for key, item in fields.items():
        if key in raw:
            values[key] = _value(types_[key], raw[key], where, f"{name}.{key}", key)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ModelFileError("config", where, f"{name} has no field {key!r}")
    try:
        return cls(**values, **fixed)
    except ValueError as error:
        raise ModelFileError("config", where, f"{name}: {error}") from None


def _value(kind: Any, value: Any, where: str | Path, name: str, key: str) -> Any:
    def refuse(expected: str) -> NoReturn:
        raise ModelFileError("config", where, f"{name} is {shorten(repr(value))}, expected {expected}")

    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (kind,) = (arg for arg in args if arg is not type(None))
        return _value(kind, value, where, name, key)
    if origin is Literal:
        if type(value) is not str or value not in args:
            refuse(f"one of {', '.join(args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
            refuse(f"a list of 1 to {MAX_ITEMS}")
        return tuple(_value(args[0], item, where, f"{name}[{i}]", key) for i, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where, name)  # type: ignore[arg-type]
    if kind is bool:
        if type(value) is not bool:
            refuse("true or false")
        return value
    if kind is str:
        if not isinstance(value, str) or len(value) > 1000:
            refuse("a short text")
        return value
    if kind in (int, float):
        low, high = _BOUNDS.get(key, (0, 8192))
        if type(value) not in (int, kind) or not low <= value <= high:
            refuse(f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}")
        return kind(value)
    raise AssertionError(f"{name}: no rule reads a {kind}")
