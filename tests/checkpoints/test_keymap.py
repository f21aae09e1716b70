from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gesso.checkpoints import diffusers, ldm
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import (
    CONV1X1,
    IDENTITY,
    LINEAR,
    STACKED_QKV,
    TRANSPOSE,
    Rule,
    Transform,
    expand,
    load,
    nest,
    plan,
    save,
    shapes_of,
)
from gesso.checkpoints.shared import clip_rules
from gesso.families.parts import empty_networks
from tiny_sd import TINY_SD

RULES = [
    Rule("block.{i}.conv.{p}", "layers.{i}.conv.{p}"),
    Rule("block.{i}.proj.weight", "layers.{i}.proj.weight", CONV1X1),
    Rule("old.{i}.proj.weight", "layers.{i}.proj.weight", CONV1X1, load_only=True),
    Rule("table", None),
    Rule("ema.{name}", None),
    Rule("loss.{rest*}", None),
]
PARAMS = {
    "layers.0.conv.weight": (3, 2, 3, 3),
    "layers.0.conv.bias": (3,),
    "layers.0.proj.weight": (3, 2),
    "layers.1.conv.weight": (1, 2),
    "layers.1.proj.weight": (2, 2),
}
FILES = {
    "block.0.conv.weight": (3, 2, 3, 3),
    "block.0.conv.bias": (3,),
    "block.0.proj.weight": (3, 2, 1, 1),
    "block.1.conv.weight": (1, 2),
    "block.1.proj.weight": (2, 2, 1, 1),
}


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_both_ways_bit_by_bit() -> None:
    params = random_tensors(PARAMS)
    files = save(RULES, params)
    assert shapes_of(files) == FILES
    assert_same(load(plan(RULES, FILES, PARAMS, where="file"), files), params)


def test_dropped_tensors_and_other_spellings() -> None:
    files = dict(FILES)
    files["old.1.proj.weight"] = files.pop("block.1.proj.weight")
    extra = {"table": (1000,), "ema.layers0convweight": (2,), "loss.a.b.c": (3, 3), "loss.a": ()}
    rows = plan(RULES, files | extra, PARAMS, where="file")
    assert [row.file for row in rows if row.load_only] == ["old.1.proj.weight"]
    assert len(rows) == len(PARAMS)


def change(**changes: tuple[int, ...] | None) -> dict[str, tuple[int, ...]]:
    """The files with some added or, where None, removed; two underscores stand for a dot."""
    files: dict[str, tuple[int, ...] | None] = {**FILES}
    files |= {name.replace("__", "."): shape for name, shape in changes.items()}
    return {name: shape for name, shape in files.items() if shape is not None}


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        (change(block__2__conv__weight=(3, 2)), "unknown_key", ["1 tensors", "block.2.conv.weight"]),
        (change(table__x=(3,)), "unknown_key", ["table.x"]),
        (change(ema=(3,)), "unknown_key", ["ema"]),
        (change(loss=(3,)), "unknown_key", ["loss"]),
        (change(block__0__conv__bias=None), "missing_key", ["block.0.conv.bias", "layers.0.conv.bias"]),
        (change(old__1__proj__weight=(2, 2)), "duplicate_key", ["old.1.proj.weight", "block.1.proj.weight"]),
        (change(block__0__conv__weight=(3, 2)), "shape", ["[3, 2]", "[3, 2, 3, 3]"]),
        (change(block__0__proj__weight=(2, 3, 1, 1)), "shape", ["[2, 3, 1, 1]", "[3, 2, 1, 1]"]),
        (change(block__0__proj__weight=(3, 2, 3, 3)), "shape", ["[3, 2, 3, 3]", "[3, 2, 1, 1]"]),
        (change(block__0__proj__weight=()), "shape", ["[]", "[3, 2, 1, 1]"]),
    ],
)
def test_what_does_not_fit_is_refused(files: dict[str, tuple[int, ...]], reason: str, words: list[str]) -> None:
    with pytest.raises(ModelFileError) as caught:
        plan(RULES, files, PARAMS, where=Path("model.safetensors"))
    assert caught.value.reason == reason
    for word in ["model.safetensors", *words]:
        assert word in caught.value.message


def test_long_lists_and_names_are_cut() -> None:
    files = {**FILES, **{f"{'x' * 300}{i}": (1,) for i in range(100)}}
    with pytest.raises(ModelFileError, match=r"100 tensors .* and 97 more") as caught:
        plan(RULES, files, PARAMS, where="file")
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (RULES[1:], "no row saves layers.0.conv.weight"),
        ([*RULES, Rule("other.{i}.conv.{p}", "layers.{i}.conv.{p}")], "two rows save"),
        ([*RULES, Rule("block.0.conv.{p}", "layers.0.conv.{p}", load_only=True)], "two rows name the file tensor"),
        ([*RULES, Rule("qkv.{i}", ("layers.{i}.proj.weight", "layers.{i}.no"), load_only=True)], "has not all"),
    ],
)
def test_wrong_tables_are_found(rules: list[Rule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(rules, PARAMS)


@pytest.mark.parametrize(
    ("file", "native"),
    [
        ("block{i}.conv", "layers.conv"),  # not a whole segment
        ("a{b}", None),
        ("{rest*}.x", None),  # not the last
        ("x.{rest*}", "y.{rest*}"),  # would not be read backwards
        ("x.{i}", "y"),
        ("x", "y.{i}"),
        ("x.{i}", ("y.{i}", "z.{j}")),
    ],
)
def test_rows_that_mean_nothing(file: str, native: str | tuple[str, ...] | None) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        Rule(file, native)


@pytest.mark.parametrize("transform", [IDENTITY, LINEAR, CONV1X1, TRANSPOSE])
def test_transforms_have_inverses(transform: Transform) -> None:
    native = torch.randn(4, 3)
    (back,) = transform.load(transform.save((native,)))
    assert torch.equal(back, native)
    again = transform.save(transform.load(transform.save((native,))))
    assert torch.equal(again, transform.save((native,)))


@pytest.mark.parametrize("transform", [CONV1X1, LINEAR])
def test_projections_load_from_either_shape(transform: Transform) -> None:
    weight = torch.randn(4, 3)
    assert torch.equal(transform.load(weight)[0], weight)
    assert torch.equal(transform.load(weight[:, :, None, None])[0], weight)


def test_stacked_projections() -> None:
    """OpenCLIP keeps q, k and v in one tensor, so one row fills three parameters."""
    targets = tuple(f"layers.{{i}}.attention.to_{name}.weight" for name in "qkv")
    rules = [Rule("resblocks.{i}.attn.in_proj_weight", targets, STACKED_QKV)]
    files = random_tensors({f"resblocks.{i}.attn.in_proj_weight": (12, 4) for i in range(2)})
    params = {f"layers.{i}.attention.to_{name}.weight": (4, 4) for i in range(2) for name in "qkv"}
    loaded = load(plan(rules, shapes_of(files), params, where="file"), files)
    assert torch.equal(loaded["layers.1.attention.to_k.weight"], files["resblocks.1.attn.in_proj_weight"][4:8])
    assert_same(save(rules, loaded), files)
    with pytest.raises(ModelFileError, match=r"is \[13, 4\], the model expects \[12, 4\]"):
        plan(rules, {**shapes_of(files), "resblocks.0.attn.in_proj_weight": (13, 4)}, params, where="file")


def test_nesting_keeps_everything() -> None:
    targets = ("a.{i}", "b.{i}", "c.{i}")
    rules = [Rule("x.{i}", targets, STACKED_QKV), Rule("y.{rest*}", None), Rule("z", "d", load_only=True)]
    assert nest(rules, "file.", "native.") == [
        Rule("file.x.{i}", ("native.a.{i}", "native.b.{i}", "native.c.{i}"), STACKED_QKV),
        Rule("file.y.{rest*}", None),
        Rule("file.z", ("native.d",), load_only=True),
    ]


NETWORKS = empty_networks(TINY_SD, "test")
TABLES: dict[str, tuple[str, Callable[[], list[Rule]]]] = {
    "ldm unet": ("unet", lambda: ldm.unet_rules(TINY_SD.unet)),
    "ldm unet, linear": ("unet", lambda: ldm.unet_rules(TINY_SD.unet, linear=True)),
    "ldm vae": ("vae", lambda: ldm.vae_rules(TINY_SD.vae)),
    "diffusers unet": ("unet", lambda: diffusers.unet_rules(TINY_SD.unet)),
    "diffusers vae": ("vae", diffusers.vae_rules),
    "clip": ("text", clip_rules),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_exact_both_ways(name: str) -> None:
    part, make = TABLES[name]
    rules = make()
    params = random_tensors(shapes_of(NETWORKS[part].state_dict()))
    files = save(rules, params)
    assert len(files) == len(params)
    assert_same(load(plan(rules, shapes_of(files), shapes_of(params), where="file"), files), params)


def test_no_weight_meets_a_dropped_row() -> None:
    """Each tensor of a file meets exactly one row: a row that drops must not cover one that is used."""
    rules = ldm.file_rules("sd1", TINY_SD.unet, TINY_SD.vae)
    params = [f"{part}.{name}" for part, network in NETWORKS.items() for name in network.state_dict()]
    used = {row.file: () for row in expand(rules, params)}
    dropping = [rule for rule in rules if not rule.natives]
    with pytest.raises(ModelFileError, match=f"{len(used)} tensors fit nothing in the model"):
        plan(dropping, used, {}, where="file")
