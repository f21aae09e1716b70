"""Each kind of adapter against its closed form, read from a file, merged and at run time."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters.files import kohya, layers, lora_parts, randn, read, target_of
from gesso.adapters.attaching import attach, attachment_of
from gesso.adapters.names import Target
from gesso.checkpoints.errors import ModelFileError
from tiny_sd import TINY_SD, TINY_SD21, TINY_SDXL

LINEAR, CONV, POINT = (6, 4), (6, 4, 3, 3), (6, 4, 1, 1)
Parts = dict[str, Tensor]


class Single(nn.Module):
    """A network of one layer; what reads files finds it by our own names."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        out, into = shape[:2]
        self.layer: nn.Module = (
            nn.Linear(into, out) if len(shape) == 2 else nn.Conv2d(into, out, shape[2], padding=shape[2] // 2)
        )


class SingleTarget(Target):
    """The same as a target: no table of names, only "lora_unet_layer"."""

    @property
    def _spellings(self):  # type: ignore[override]
        return {"unet": [{"layer": ("layer",)}]}


def made(shape: tuple[int, ...], parts: Parts, tmp_path: Path) -> tuple[Tensor, Tensor]:
    """The layer's weight, and what the adapter makes of it; run time and merged are compared on the way."""
    torch.manual_seed(1)
    network = Single(shape).requires_grad_(False)
    target = SingleTarget("toy", "sd1", {"unet": network})
    tensors = {f"lora_unet_layer.{part}": tensor for part, tensor in parts.items()}
    lora = read(tmp_path / "one.safetensors", tensors, target)
    before = network.layer.weight.clone()
    x = torch.randn(2, 5, shape[1]) if len(shape) == 2 else torch.randn(2, shape[1], 7, 7)
    plain = network.layer(x)
    with attach(target.networks, [(lora, 1.0, 0.0)]):
        at_run_time = network.layer(x)
        assert torch.equal(network.layer.weight, before)
    with attach(target.networks, [(lora, 1.0, 0.0)], merged=True):
        after = network.layer.weight.clone()
        merged = network.layer(x)
    assert torch.equal(network.layer.weight, before) and torch.equal(network.layer(x), plain)
    torch.testing.assert_close(at_run_time, merged, atol=1e-5, rtol=1e-5)  # float32 sums in another order
    return before, after


def assert_made(shape: tuple[int, ...], parts: Parts, expected: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    before, after = made(shape, parts, tmp_path)
    torch.testing.assert_close(after, expected(before), atol=2e-6, rtol=1e-5)  # a few float32 steps
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [LINEAR, CONV, POINT])
@pytest.mark.parametrize(("alpha", "scale"), [(3.0, 1.5), (None, 1.0), (0.0, 1.0)])
def test_lora(shape: tuple[int, ...], alpha: float | None, scale: float, tmp_path: Path) -> None:
    """No alpha and an alpha of zero both mean a scale of 1."""
    up, down = torch.randn(6, 2, *[1] * (len(shape) - 2)), torch.randn(2, *shape[1:])
    parts = {"lora_up.weight": up, "lora_down.weight": down}
    if alpha is not None:
        parts["alpha"] = torch.tensor(alpha)
    product = torch.einsum("or,r...->o...", up.flatten(1), down)
    assert_made(shape, parts, lambda w: w + scale * product, tmp_path)


def test_matrices_for_a_pointwise_convolution(tmp_path: Path) -> None:
    up, down = torch.randn(6, 2), torch.randn(2, 4)
    parts = {"lora_up.weight": up, "lora_down.weight": down}
    assert_made(POINT, parts, lambda w: w + (up @ down)[..., None, None], tmp_path)


def test_tucker(tmp_path: Path) -> None:
    up, down, mid = torch.randn(6, 2, 1, 1), torch.randn(2, 4, 1, 1), torch.randn(2, 2, 3, 3)
    parts = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid}
    product = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    assert_made(CONV, parts, lambda w: w + product, tmp_path)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_loha(shape: tuple[int, ...], tmp_path: Path) -> None:
    into = torch.Size(shape[1:]).numel()
    a1, b1, a2, b2 = torch.randn(6, 2), torch.randn(2, into), torch.randn(6, 2), torch.randn(2, into)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(1.0)}
    assert_made(shape, parts, lambda w: w + 0.5 * ((a1 @ b1) * (a2 @ b2)).reshape(shape), tmp_path)


def test_loha_tucker(tmp_path: Path) -> None:
    t1, t2 = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)
    a1, b1, a2, b2 = torch.randn(2, 6), torch.randn(2, 4), torch.randn(2, 6), torch.randn(2, 4)
    parts = {"hada_t1": t1, "hada_t2": t2, "hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}

    def rebuilt(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("pqkl,po,qi->oikl", core, a, b)

    assert_made(CONV, parts, lambda w: w + rebuilt(t1, a1, b1) * rebuilt(t2, a2, b2), tmp_path)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("factors", ["none", "second", "both"])
def test_lokr(shape: tuple[int, ...], factors: str, tmp_path: Path) -> None:
    """Two whole matrices know no alpha."""
    kernel = shape[2:]
    parts = {"alpha": torch.tensor(1.0)}
    if factors == "both":
        parts |= {"lokr_w1_a": torch.randn(3, 2), "lokr_w1_b": torch.randn(2, 2)}
        w1 = parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    else:
        w1 = parts["lokr_w1"] = torch.randn(3, 2)
    if factors == "none":
        w2 = parts["lokr_w2"] = torch.randn(2, 2, *kernel)
    else:
        parts |= {"lokr_w2_a": torch.randn(2, 2), "lokr_w2_b": torch.randn(2, torch.Size((2, *kernel)).numel())}
        w2 = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).reshape(2, 2, *kernel)
    scale = 1.0 if factors == "none" else 0.5
    product = torch.einsum("ab,cd...->acbd...", w1, w2).reshape(shape)
    assert_made(shape, parts, lambda w: w + scale * product, tmp_path)


def test_lokr_tucker(tmp_path: Path) -> None:
    """LyCORIS' rebuild_tucker: einsum("i j ..., i p, j r -> p r ...", t, wa, wb)."""
    core, a, b, w1 = torch.randn(2, 2, 3, 3), torch.randn(2, 2), torch.randn(2, 2), torch.randn(3, 2)
    parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": core, "alpha": torch.tensor(1.0)}
    w2 = torch.einsum("ijkl,ip,jr->prkl", core, a, b)
    product = torch.einsum("ab,cdkl->acbdkl", w1, w2).reshape(CONV)
    assert_made(CONV, parts, lambda w: w + 0.5 * product, tmp_path)


@pytest.mark.parametrize("old", [False, True])
def test_glora(old: bool, tmp_path: Path) -> None:
    a_in, a_out, b_up, b_down = torch.randn(4, 2), torch.randn(2, 4), torch.randn(6, 2), torch.randn(2, 4)
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    parts = {f"{name}.weight": t for name, t in zip(names, (a_in, a_out, b_up, b_down), strict=True)}
    parts["alpha"] = torch.tensor(1.0)
    assert_made(LINEAR, parts, lambda w: w + 0.5 * (b_up @ b_down + w @ a_in @ a_out), tmp_path)


LORA = {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4)}
LOHA = {"hada_w1_a": (6, 2), "hada_w1_b": (2, 4), "hada_w2_a": (6, 2), "hada_w2_b": (2, 4)}
LOKR = {"lokr_w1": (3, 2), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 2)}
GLORA = {"a1.weight": (4, 2), "a2.weight": (2, 4), "b1.weight": (6, 2), "b2.weight": (2, 4)}


@pytest.mark.parametrize("shapes", [LORA, LOHA, LOKR, GLORA], ids=["LoRA", "LoHa", "LoKr", "GLoRA"])
def test_numbers_that_multiply_what_a_file_adds(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    """alpha / rank, a scale in its place, and a scalar (LyCORIS) on top of either."""
    factors = {name: torch.randn(shape) for name, shape in shapes.items()}
    before, plain = made(LINEAR, factors, tmp_path)
    for numbers, scale in (
        ({"alpha": 3.0}, 1.5),
        ({"scale": 0.25, "alpha": 3.0}, 0.25),
        ({"scalar": -2.0}, -2.0),
        ({"alpha": 3.0, "scalar": 0.5}, 0.75),
    ):
        _, after = made(LINEAR, factors | {name: torch.tensor(value) for name, value in numbers.items()}, tmp_path)
        torch.testing.assert_close(after - before, scale * (plain - before), atol=1e-5, rtol=1e-4)


def test_a_scalar_multiplies_a_whole_difference(tmp_path: Path) -> None:
    difference = torch.randn(LINEAR)
    parts = {"diff": difference, "scalar": torch.tensor(0.5)}
    assert_made(LINEAR, parts, lambda w: w + 0.5 * difference, tmp_path)


@pytest.mark.parametrize(
    ("shapes", "alpha", "scale"),
    [
        (LORA, 1.0, 1 / 2),  # rank * sqrt(rank) stands in the alpha already
        (GLORA, 1.0, 1 / math.sqrt(2)),
        ({"lokr_w1": (3, 2), "lokr_w2": (2, 2)}, 8.0, 2.0),  # rank^1.5 is written, sqrt(rank) is meant
        ({"lokr_w1": (3, 2), "lokr_w2": (2, 2)}, 0.0, 1.0),
    ],
)
def test_rank_stabilised_adapters_of_lycoris(
    shapes: dict[str, tuple[int, ...]], alpha: float, scale: float, tmp_path: Path
) -> None:
    target = SingleTarget("toy", "sd1", {"unet": Single(LINEAR)})
    tensors = {f"lora_unet_layer.{name}": torch.randn(shape) for name, shape in shapes.items()}
    tensors["lora_unet_layer.alpha"] = torch.tensor(alpha)
    for said in ("True", "1", True):
        lora = read(tmp_path / "one", tensors, target, {"ss_network_args": json.dumps({"rs_lora": said})})
        assert lora.changes["unet.layer"].weight.scale == pytest.approx(scale)
    plain = read(tmp_path / "one", tensors, target, {"ss_network_args": json.dumps({"rs_lora": "False"})})
    assert plain.changes["unet.layer"].weight.scale == (1.0 if "lokr_w2" in shapes else alpha / 2)


@pytest.mark.parametrize(
    ("shape", "shapes", "says"),
    [
        (
            CONV,
            {"lora_up.weight": (6, 2, 3, 3), "lora_down.weight": (2, 4, 1, 1), "lora_mid.weight": (2, 2, 3, 3)},
            "make",
        ),
        (CONV, LORA | {"lora_down.weight": (2, 4, 1, 1), "dora_scale": (6, 1, 1, 1)}, "make"),
        (LINEAR, LORA | {"lora_up.weight": (5, 2), "dora_scale": (6, 1)}, "make"),
        (LINEAR, LORA | {"lora_down.weight": (2, 5), "dora_scale": (6, 1)}, "make"),
        (CONV, {"lora_up.weight": (6, 2, 3, 3), "lora_down.weight": (2, 4, 3, 3)}, r"is \[6, 4, 3, 3\] in the file"),
        (CONV, {"lora_up.weight": (6, 3), "lora_down.weight": (2, 4, 3, 3)}, "in the file"),
        (CONV, {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4, 9)}, "in the file"),
        (CONV, {"lora_up.weight": (7, 2), "lora_down.weight": (2, 4, 3, 3)}, r"is \[7, 4, 3, 3\] in the file"),
        (CONV, {"lora_up.weight": (6, 2), "lora_down.weight": (2, 5, 3, 3)}, "in the file"),
        (CONV, {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4, 1, 1)}, "in the file"),
        (LINEAR, {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4, 3, 3)}, "in the file"),
        (CONV, {"diff": (6, 9, 2, 2)}, "make"),  # as many numbers
        (CONV, {"diff": (4, 6, 3, 3)}, "make"),
        (LINEAR, LOHA | {"hada_w1_b": ()}, "LoHa with shapes that do not fit together"),
        (LINEAR, LORA | {"scale": (2,)}, r"scale is \[2\], expected one number"),
    ],
)
def test_shapes_that_make_another_weight_are_refused(
    shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=says):
        made(shape, {name: torch.ones(size) for name, size in shapes.items()}, tmp_path)


@pytest.mark.parametrize("on_input", [False, True])
def test_ia3(on_input: bool, tmp_path: Path) -> None:
    factor = torch.randn(1, 4) if on_input else torch.randn(6, 1)
    parts = {"weight": factor, "on_input": torch.tensor(on_input)}
    assert_made(LINEAR, parts, lambda w: w * (1 + factor), tmp_path)


@pytest.mark.parametrize("shape", [(1, 5), (6, 2), (6,), (1, 1), (2, 3)])
def test_ia3_of_peft_with_another_shape_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"ia3_l is .*, expected \[1, 4\] for its inputs or \[6, 1\] for its outp"):
        made(LINEAR, {"ia3_l": torch.ones(shape)}, tmp_path)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_oft(shape: tuple[int, ...], alpha: float, tmp_path: Path) -> None:
    """Cayley's map gives an orthogonal matrix a block: lengths of columns stay."""
    blocks = torch.randn(2, 3, 3)
    skew = blocks - blocks.mT
    limit = alpha * 6
    if alpha:
        skew = skew * min(1.0, limit / skew.norm().item())
    one = torch.eye(3)
    whole = torch.block_diag(*((one + q) @ torch.linalg.inv(one - q) for q in skew))
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(alpha)}
    before, after = made(shape, parts, tmp_path)
    torch.testing.assert_close(after, torch.einsum("nm,n...->m...", whole, before), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.norm(dim=0), before.norm(dim=0), atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_boft_of_one_factor_and_orthogonality(tmp_path: Path) -> None:
    blocks = torch.randn(2, 4, 2, 2)  # two butterfly factors of four 2x2 rotations: 8 outputs
    before, after = made((8, 4), {"oft_blocks": blocks}, tmp_path)
    torch.testing.assert_close(after.mT @ after, before.mT @ before, atol=1e-5, rtol=1e-5)
    skew = blocks - blocks.mT
    turns = torch.linalg.solve(torch.eye(2) - skew, torch.eye(2) + skew)
    first = torch.block_diag(*turns[0])  # neighbours
    second = torch.zeros(8, 8)  # outputs two apart, in each half of four
    pairs = [(0, 2), (1, 3), (4, 6), (5, 7)]
    for turn, pair in zip(turns[1], pairs, strict=True):
        second[torch.tensor(pair)[:, None], torch.tensor(pair)] = turn
    torch.testing.assert_close(after, second @ first @ before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("axis", [0, 1])
def test_dora(shape: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    """Afterwards rows, or in older files columns, have the lengths that the file says."""
    up, down = torch.randn(6, 2, *[1] * (len(shape) - 2)), torch.randn(2, *shape[1:])
    lengths = 1 + torch.rand(shape[axis])
    sizes = [-1 if place == axis else 1 for place in range(len(shape))]
    parts = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": lengths.reshape(sizes)}
    before, after = made(shape, parts, tmp_path)
    torch.testing.assert_close(after.transpose(0, axis).flatten(1).norm(dim=1), lengths, atol=1e-5, rtol=1e-5)
    straight = before + torch.einsum("or,r...->o...", up.flatten(1), down)
    ratio = (after / straight).transpose(0, axis).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("shape", "sizes"), [((1, 4), (1, 1)), ((6, 4), (1, 6))])
def test_doras_of_one_output_or_in_one_row_are_per_output(
    shape: tuple[int, int], sizes: tuple[int, int], tmp_path: Path
) -> None:
    up, down, lengths = torch.randn(shape[0], 2), torch.randn(2, shape[1]), 1 + torch.rand(shape[0])
    parts = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": lengths.reshape(sizes)}
    _, after = made(shape, parts, tmp_path)
    torch.testing.assert_close(after.norm(dim=1), lengths, atol=1e-5, rtol=1e-5)


def test_whole_difference_with_bias(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Single(CONV).requires_grad_(False)
    target = SingleTarget("toy", "sd1", {"unet": network})
    parts = {"lora_unet_layer.diff": torch.randn(CONV), "lora_unet_layer.diff_b": torch.randn(6)}
    lora = read(tmp_path / "diff.safetensors", parts, target)
    x = torch.randn(1, 4, 5, 5)
    layer = network.layer
    expected = torch.nn.functional.conv2d(
        x, layer.weight + 0.5 * parts["lora_unet_layer.diff"], layer.bias + 0.5 * parts["lora_unet_layer.diff_b"], 1, 1
    )
    for merged in (False, True):
        with attach(target.networks, [(lora, 0.5, 0.0)], merged=merged):
            torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_a_bias_for_a_layer_that_has_none(tmp_path: Path) -> None:
    """It is added to the output, for the rows that the adapter is for; merged, the weight must not count twice."""
    network = Single(LINEAR)
    network.layer = nn.Linear(4, 6, bias=False).requires_grad_(False)
    target = SingleTarget("toy", "sd1", {"unet": network})
    up, down, bias = torch.randn(6, 2), torch.randn(2, 4), torch.randn(6)
    parts = {"lora_up.weight": up, "lora_down.weight": down, "diff_b": bias}
    lora = read(tmp_path / "one", {f"lora_unet_layer.{part}": tensor for part, tensor in parts.items()}, target)
    x = torch.randn(3, 4)
    plain = network.layer(x)
    expected = x @ (network.layer.weight + 0.5 * up @ down).T + 0.5 * bias
    for merged in (False, True):
        attachment = attachment_of(target.networks, [(lora, 0.5, 0.0)], merged=merged)
        assert (attachment.num_layers, attachment.is_by_row) == (1, not merged)
        with attachment.on():
            torch.testing.assert_close(network.layer(x), expected, atol=1e-5, rtol=1e-5)
        if merged:
            with pytest.raises(ValueError, match="merged adapters apply to all rows"), attachment.on(slice(1, 2)):
                pass
        else:
            with attachment.on(slice(1, 2)):
                some = network.layer(x)
            torch.testing.assert_close(some[1], expected[1], atol=1e-5, rtol=1e-5)
            assert torch.equal(some[[0, 2]], plain[[0, 2]])
        assert torch.equal(network.layer(x), plain)


def test_cutting_keeps_the_first_columns_of_products_alone(tmp_path: Path) -> None:
    """A1111's dyn: no decomposition, and other kinds stay."""
    target = SingleTarget("toy", "sd1", {"unet": Single(LINEAR)})
    up, down = torch.randn(6, 3), torch.randn(3, 4)
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(6.0)}
    lora = read(tmp_path / "one", {f"lora_unet_layer.{part}": tensor for part, tensor in parts.items()}, target)
    shorter = lora.cut(2).changes["unet.layer"].weight
    torch.testing.assert_close(shorter.delta(torch.zeros(6, 4)), 2 * up[:, :2] @ down[:2])
    other = read(
        tmp_path / "two", {f"lora_unet_layer.{name}": torch.randn(size) for name, size in LOHA.items()}, target
    )
    assert other.cut(1).changes["unet.layer"].weight is other.changes["unet.layer"].weight


# ---- whole models ----------------------------------------------------------------------------------------------------


def norm_parts(module: nn.Module) -> Parts:
    return {"w_norm": randn(*module.weight.shape), "b_norm": randn(*module.bias.shape)}


@pytest.mark.parametrize("family", [TINY_SD, TINY_SD21, TINY_SDXL], ids=lambda family: family.name)
@torch.no_grad()
@pytest.mark.sampled(3)
def test_every_layer_of_every_kind_is_found(family, tmp_path: Path) -> None:
    """Linear layers, convolutions, norms and embeddings, named as trainers do; run time and merged agree."""
    target = target_of(family)
    torch.manual_seed(2)
    tensors = kohya(target, lora_parts) | kohya(target, norm_parts, nn.GroupNorm, nn.LayerNorm)
    tensors |= kohya(target, lambda module: {"diff": randn(*module.weight.shape)}, nn.Embedding)
    lora = read(tmp_path / "all.safetensors", tensors, target)
    changed = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    assert set(lora.changes) == {f"{c}.{n}" for c, n, _ in layers(target, *changed)}
    assert lora.match.unmatched == () and lora.match.notice is None
    ids = torch.tensor([[49406, 320, 2368, *[49407] * 74]])
    before = target.networks["text"](ids).last
    with attach(target.networks, [(lora, 0.3, 0.2)]):
        at_run_time = target.networks["text"](ids).last
    with attach(target.networks, [(lora, 0.3, 0.2)], merged=True):
        merged = target.networks["text"](ids).last
    torch.testing.assert_close(at_run_time, merged, atol=2e-5, rtol=1e-4)  # sums in another order through two layers
    assert (merged - before).abs().max() > 1e-2
    assert torch.equal(target.networks["text"](ids).last, before)
