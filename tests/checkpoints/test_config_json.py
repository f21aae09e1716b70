import json
import math
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from gesso.checkpoints.config_json import _BOUNDS, MAX_JSON, from_json, parse_object, read_object, to_json
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


FRACTIONS = ("scaling_factor", "beta_start", "beta_end", "sharpness", "guidance_scale")

# What a file may not say: nothing of its sizes divides by zero, and none of them takes memory without end.
HARMFUL = {
    **dict.fromkeys(
        ("channels", "num_heads", "norm_groups", "patch_size", "latent_channels", "vocab_size"), (0, 10**8)
    ),
    **dict.fromkeys(("num_layers", "num_res_blocks", "dim", "mlp_dim", "context_dim", "max_length"), (0, 10**6)),
    **dict.fromkeys(("attention", "num_blocks", "any_other"), (-1, 10**4)),
    **dict.fromkeys(("scaling_factor", "beta_start", "beta_end", "sharpness"), (0.0, math.inf)),
    **dict.fromkeys(("native_size", "num_timesteps", "num_steps", "scale"), (0, 10**7)),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_sizes_that_do_harm_are_refused(name: str) -> None:
    kind = type(HARMFUL[name][0])
    made = make_dataclass("made", [(name, kind)])
    for value in HARMFUL[name]:
        with pytest.raises(ModelFileError, match=f"it.{name} is .*, expected a .*number from "):
            from_json(made, {name: value}, "file", "it")


@pytest.mark.parametrize("name", [*_BOUNDS, "any_other"])
def test_the_least_and_the_greatest_value_are_read_and_none_beyond(name: str) -> None:
    low, high = _BOUNDS.get(name, (0, 8192))
    kind = float if name in FRACTIONS else int
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
