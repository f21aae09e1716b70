import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from gesso.checkpoints.config_json import MAX_JSON, from_json, parse_object, read_object, to_json
from gesso.checkpoints.errors import ModelFileError


@dataclass(frozen=True, kw_only=True)
class Inner:
    channels: tuple[int, ...]
    scaling_factor: float
    activation: Literal["relu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    deep: bool
    inner: Inner
    spare: Inner | None = None
    added_dim: int | None = None
    words: dict[str, str] = field(default_factory=dict)


INNER = {"channels": [1, 2], "scaling_factor": 0.5, "activation": "gelu"}
OUTER = {"name": "x", "deep": True, "inner": INNER}


def test_both_ways() -> None:
    config = Outer(name="x", deep=True, inner=Inner(channels=(1, 2), scaling_factor=2.0, activation="relu"))
    found = to_json(config)
    assert found.pop("words") == {}
    assert from_json(Outer, json.loads(json.dumps(found)), "file", "it", words={}) == config


def test_defaults_and_nothing() -> None:
    assert from_json(Outer, OUTER, "file", "it", words={}).spare is None
    assert from_json(Outer, {**OUTER, "spare": INNER, "added_dim": None}, "file", "it", words={}).spare is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "it.name is 3, expected a short text"),
        ({"name": "x" * 1001}, "expected a short text"),
        ({"deep": 1}, "it.deep is 1, expected true or false"),
        ({"inner": None}, "it.inner is not an object"),
        ({"inner": [1]}, "it.inner is not an object"),
        ({"inner": {**INNER, "code": "x"}}, "it.inner has the unknown field 'code'"),
        ({"inner": {"channels": [1]}}, "it.inner has no field 'scaling_factor'"),
        ({"inner": {**INNER, "channels": []}}, "a list of 1 to 16"),
        ({"inner": {**INNER, "channels": [1] * 17}}, "a list of 1 to 16"),
        ({"inner": {**INNER, "channels": 3}}, "a list of 1 to 16"),
        ({"inner": {**INNER, "channels": [1, 0]}}, r"it.inner.channels\[1\] is 0, expected a whole number from 1"),
        ({"inner": {**INNER, "channels": [True]}}, "is True, expected a whole number"),
        ({"inner": {**INNER, "channels": [1.0]}}, "is 1.0, expected a whole number"),
        ({"inner": {**INNER, "channels": [10**30]}}, "expected a whole number from 1 to 8192"),
        ({"inner": {**INNER, "scaling_factor": 10**400}}, "expected a number from"),
        ({"inner": {**INNER, "scaling_factor": "0.5"}}, "expected a number from"),
        ({"inner": {**INNER, "scaling_factor": 0}}, "expected a number from"),
        ({"inner": {**INNER, "activation": "os.system"}}, "expected one of relu, gelu"),
        ({"inner": {**INNER, "activation": ["gelu"]}}, "expected one of relu, gelu"),
        ({"added_dim": -1}, "expected a whole number"),
        ({"words": {}}, "unknown field 'words'"),  # given by the caller, so not the file's to say
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=f"^file: .*{message}") as caught:
        from_json(Outer, {**OUTER, **change}, "file", "it", words={})
    assert caught.value.reason == "config"


# Field: least and greatest value that a file may give it. Published models lie far inside; what lies outside would
# take memory without end or divide by zero.
BOUNDS = {
    "channels": (1, 8192),
    "attention": (0, 12),
    "mid_attention": (1, 12),
    "num_heads": (1, 256),
    "num_res_blocks": (1, 8),
    "num_layers": (1, 64),
    "dim": (1, 16_384),
    "mlp_dim": (1, 65_536),
    "context_dim": (1, 16_384),
    "added_dim": (1, 16_384),
    "projection_dim": (1, 16_384),
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
    "norm_groups": (1, 1024),
    "scaling_factor": (1e-6, 1e6),
    "num_timesteps": (2, 100_000),
    "beta_start": (1e-9, 0.999),
    "beta_end": (1e-9, 0.999),
    "native_size": (8, 4096),
    "scale": (1, 8),
    "num_blocks": (0, 64),
    "sharpness": (0.01, 100.0),
    "image_channels": (1, 16),
    "in_channels": (1, 256),
    "out_channels": (1, 256),
    "latent_channels": (1, 256),
    "clip_skip": (1, 64),
    "num_steps": (1, 1000),
    "guidance_scale": (0.0, 100.0),
    "any_other": (0, 8192),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_least_and_the_greatest_value_are_read_and_none_beyond(name: str) -> None:
    low, high = BOUNDS[name]
    kind = int if isinstance(low, int) else float
    made = make_dataclass("made", [(name, kind)])
    for value in (low, high):
        assert getattr(from_json(made, {name: value}, "file", "it"), name) == value
    near = (low - 1, high + 1) if kind is int else (low - max(low, 1e-6) * 1e-3, high * 1.001)
    for value in near:
        with pytest.raises(ModelFileError, match=f"it.{name} is .*, expected a .*number from {low:g} to "):
            from_json(made, {name: value}, "file", "it")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[1]",
        "3",
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a":' * 100_000,
        b'{"\xff": 1}',
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(ModelFileError) as caught:
        parse_object(text, "file")
    assert caught.value.reason == "config"


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{" + b" " * (MAX_JSON - 1) + b"}")
    with pytest.raises(ModelFileError, match="larger than"):
        read_object(path)
    path.write_bytes(b"{" + b" " * (MAX_JSON - 2) + b"}")
    assert read_object(path) == {}
    path.write_bytes(b'{"a": 1}')
    assert read_object(path) == {"a": 1}


def test_infinity_is_read_where_it_is_allowed(tmp_path: Path) -> None:
    """diffusers writes it into schedulers' configs; NaN is never a value."""
    path = tmp_path / "config.json"
    path.write_text('{"a": Infinity, "b": -Infinity}')
    assert read_object(path, infinite=True) == {"a": float("inf"), "b": float("-inf")}
    with pytest.raises(ModelFileError, match="not valid JSON"):
        read_object(path)
    with pytest.raises(ModelFileError, match="not valid JSON"):
        parse_object('{"a": NaN}', "file", infinite=True)


def test_the_longest_text_and_list_are_read() -> None:
    inner = {**INNER, "channels": [1] * 16}
    found = from_json(Outer, {**OUTER, "name": "x" * 1000, "inner": inner}, "file", "it", words={})
    assert (len(found.name), len(found.inner.channels)) == (1000, 16)


def test_only_plain_values_are_written() -> None:
    with pytest.raises(ValueError, match="object cannot be stored"):
        to_json({"a": object()})
