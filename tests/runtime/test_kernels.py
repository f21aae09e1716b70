"""Own attention beside torch's, and packed weights beside plain ones."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.adapters.attaching import _sum
from gesso.families.loading import load_parts
from gesso.nn.attention import gated
from gesso.nn.resblock import Upsample, silu_of
from gesso.runtime import compiled
from gesso.runtime.compiled import has_kernels
from gesso.runtime.engine import Engine
from gesso.runtime.int8 import quantize
from gesso.runtime.kernels import attention, cpu_kernels, gate, layer_norm, silu_norm
from gesso.runtime.packing import Doubled, can_pack, is_packable, packed_of
from gesso.runtime.residency import Component
from gesso.runtime.seamless import seamless
from tiny_models import save_tiny_mini

CPU = torch.device("cpu")
own = pytest.mark.skipif(not has_kernels(), reason="no kernel: not compiled, or a processor without AVX512-BF16")
packs = pytest.mark.skipif(not can_pack(), reason="torch packs no weights in bfloat16 on this processor")


def heads(*shape: int, seed: int, by: float = 1.0) -> Tensor:
    """[B, H, N, D] as a linear layer leaves it: [B, N, H D] in memory."""
    B, H, N, D = shape
    numbers = torch.randn(B, N, H * D, generator=torch.Generator().manual_seed(seed)) * by
    return numbers.bfloat16().unflatten(2, (H, D)).transpose(1, 2)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(found: Tensor, expected: Tensor) -> float:
    return float(((found.float() - expected).norm() / expected.norm()).item())


def test_kernels_of_another_version_are_left_out(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(compiled.log, "warning", lambda words, *values: said.append(words % values))
    monkeypatch.setattr("ctypes.CDLL", lambda path: object())
    compiled.library.cache_clear()
    try:
        assert not has_kernels()
    finally:
        compiled.library.cache_clear()
    assert len(said) == 1 and "is of another version" in said[0] and "build it again" in said[0]


@own
@pytest.mark.parametrize(
    "sizes",
    [
        (2, 8, 256, 256, 40),
        (1, 3, 37, 150, 24),  # no multiple of anything
        (2, 2, 12, 77, 40),
        (1, 5, 130, 129, 64),
        (1, 2, 100, 200, 80),
        (1, 2, 64, 64, 160),
        (1, 1, 60, 70, 512),
        (1, 1, 1, 1, 2),
        (2, 3, 7, 300, 130),  # nine vectors: a group of four, of four and of one
    ],
)
def test_the_kernel_is_as_close_to_float32_as_torch(sizes: tuple[int, ...]):
    B, H, N, L, D = sizes
    q, k, v = heads(B, H, N, D, seed=0, by=2), heads(B, H, L, D, seed=1), heads(B, H, L, D, seed=2)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    found = attention(q, k, v)
    assert found is not None
    assert found.shape == expected.shape
    assert found.transpose(1, 2).is_contiguous()
    theirs = distance(F.scaled_dot_product_attention(q, k, v), expected)
    assert distance(found, expected) < max(1.4 * theirs, 2e-3)  # two roundings to 8 bits, in another order
    scaled = attention(q, k, v, 0.5)
    assert scaled is not None
    assert distance(scaled, F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=0.5)) < 4e-3


@own
def test_a_row_is_the_same_alone_and_with_any_threads():
    q, k, v = (heads(3, 4, 50, 40, seed=seed) for seed in range(3))
    together, threads = attention(q, k, v), torch.get_num_threads()
    assert together is not None
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            alone = [attention(*(t[row : row + 1] for t in (q, k, v))) for row in range(3)]
            assert torch.equal(torch.cat(alone), together)
            few = attention(q[:, :, 20:23], k, v)
            assert few is not None
            assert torch.equal(few, together[:, :, 20:23])
    finally:
        torch.set_num_threads(threads)


@own
def test_scores_of_any_size_stay_finite():
    for by in (1e-3, 30.0, 1e4):
        q, k, v = heads(1, 2, 20, 40, seed=0, by=by), heads(1, 2, 300, 40, seed=1, by=by), heads(1, 2, 300, 40, seed=2)
        found = attention(q, k, v)
        assert found is not None
        expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
        assert distance(found.double(), expected) < 4e-3
    rising = heads(1, 1, 1, 16, seed=0)
    keys = torch.linspace(-50, 50, 400)[None, None, :, None] * rising  # the maximum moves with every block
    found = attention(rising, keys.bfloat16(), heads(1, 1, 400, 16, seed=1))
    assert found is not None
    assert bool(found.isfinite().all())


@own
def test_a_value_that_is_not_finite_is_not_hidden():
    q, k, v = (heads(1, 1, 40, 16, seed=seed) for seed in range(3))
    for bad in (float("nan"), float("inf")):
        for tensor in (q, k, v):
            kept = tensor[0, 0, 3, 5].clone()
            tensor[0, 0, 3, 5] = bad
            found = attention(q, k, v)
            assert found is not None
            assert not bool(found.isfinite().all()), bad
            tensor[0, 0, 3, 5] = kept


@own
@pytest.mark.parametrize("shape", [(2, 100, 2560), (3, 7, 38), (1, 2), (0, 8)])
def test_the_gate_is_closer_to_float64_than_torchs(shape: tuple[int, ...]):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    found, expected = gate(x), gated(x.double())
    assert found is not None
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= (gated(x).double() - expected).norm()
    with cpu_kernels():
        assert torch.equal(gated(x), found)
        assert torch.equal(gated(x.float()), gated(x.float()))
    assert gate(x.float()) is None
    assert gate(torch.ones(4, 8).bfloat16()[:, ::2]) is None


@own
def test_a_gate_far_out_is_nothing_or_all_and_what_is_not_finite_is_not_hidden():
    gates = torch.tensor([-1e30, -300.0, -9.0, 0.0, 9.0, 300.0, 1e30, torch.nan, torch.inf, -torch.inf])
    found = gate(torch.cat([torch.ones(10), gates]).bfloat16())
    assert found is not None
    assert torch.allclose(found[:7], gates[:7].clamp(min=0).bfloat16(), rtol=0, atol=1e-15)
    assert not bool(found[7:9].isfinite().any())


def norm_of(channels: int, groups: int, eps: float = 1e-5) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=eps).bfloat16().requires_grad_(False)
    norm.weight.data, norm.bias.data = (numbers(channels, seed=seed).bfloat16() for seed in (8, 9))
    return norm


@own
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 320, 16, 16), 32), ((1, 64, 33, 7), 4), ((3, 96, 5, 5), 32), ((1, 6, 1, 1), 3)]
)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_a_norm_with_silu_is_closer_to_float64_than_torchs(shape: tuple[int, ...], groups: int, mean: float):
    norm = norm_of(shape[1], groups)
    x = (numbers(*shape) * 3 + mean).bfloat16().to(memory_format=torch.channels_last)
    exact = F.silu(F.group_norm(x.double(), groups, norm.weight.double(), norm.bias.double(), norm.eps))
    with torch.no_grad():
        found = silu_norm(norm, x)
        assert found is not None
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found.double() - exact).norm() <= (F.silu(norm(x)).double() - exact).norm()
        assert spans(found)
        with cpu_kernels():
            assert torch.equal(silu_of(norm, x), found)
        assert torch.equal(silu_of(norm, x), F.silu(norm(x)))
        alone = [silu_norm(norm, row[None].contiguous(memory_format=torch.channels_last)) for row in x]
        assert torch.equal(torch.cat(alone), found)
        whole = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            again = silu_norm(norm, x)
        finally:
            torch.set_num_threads(whole)
        assert again is not None and torch.equal(again, found) and again.span == found.span


@own
@pytest.mark.parametrize("shape", [(2, 50, 320), (3, 7, 100), (4, 16), (5, 3)])
def test_a_layer_norm_is_as_close_to_float64_as_torchs(shape: tuple[int, ...]):
    x = (numbers(*shape) * 3 + 50).bfloat16()
    weight, bias = (numbers(shape[-1], seed=seed).bfloat16() for seed in (1, 2))
    found = layer_norm(x, shape[-1:], weight, bias)
    exact = F.layer_norm(x.double(), shape[-1:], weight.double(), bias.double())
    theirs = F.layer_norm(x, shape[-1:], weight, bias)
    assert found is not None
    assert (found.double() - exact).norm() <= 1.05 * (theirs.double() - exact).norm()
    assert spans(found)
    with cpu_kernels():
        assert torch.equal(F.layer_norm(x, shape[-1:], weight, bias), found)
        assert torch.equal(F.layer_norm(x, shape[-1:]), F.layer_norm(x, shape[-1:], None, None))


def spans(found: Tensor) -> bool:
    """Whether what the kernel says of its result's numbers is so."""
    low, high = min(0.0, float(found.min())), max(0.0, float(found.max()))
    return (found.span.low, found.span.high) == (low, high)


@own
def test_what_is_not_finite_shows_in_the_range_and_the_result():
    norm = norm_of(64, 4)
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = numbers(1, 64, 6, 5).bfloat16().to(memory_format=torch.channels_last)
        x[0, 3, 2, 2] = bad
        rows = x.permute(0, 2, 3, 1).contiguous()
        with torch.no_grad():
            for found in (silu_norm(norm, x), layer_norm(rows, (64,), norm.weight, norm.bias), gate(rows)):
                assert found is not None
                assert not bool(found.isfinite().all())
                assert math.isnan(found.span.low) and math.isnan(found.span.high)
                assert math.isnan(quantize(found).scale)


@own
def test_norms_that_something_hangs_on_are_torchs():
    norm, x = norm_of(64, 4), numbers(1, 64, 6, 5).bfloat16().to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert silu_norm(norm, x) is not None
        assert silu_norm(norm, x.contiguous()) is None
        assert silu_norm(norm, x.float()) is None
        assert silu_norm(norm, x[:0]) is None
        seen: list[Tensor] = []
        for hang in (norm.register_forward_hook, norm.register_forward_pre_hook):
            handle = hang(lambda _module, inputs, *_: seen.append(inputs[0]))
            assert silu_norm(norm, x) is None
            with cpu_kernels():
                silu_of(norm, x)
            handle.remove()
        assert len(seen) == 2
        assert layer_norm(x, (6, 5), numbers(6, 5).bfloat16(), numbers(6, 5).bfloat16()) is None
        assert layer_norm(x.float(), (5,), numbers(5), numbers(5)) is None
    assert silu_norm(norm, x) is None  # gradients are wanted


@own
def test_several_layers_share_what_enters_them_in_8_bits():
    x = layer_norm(numbers(40, 64).bfloat16(), (64,), torch.ones(64).bfloat16(), torch.zeros(64).bfloat16())
    assert x is not None
    plain = quantize(x.clone())
    first = quantize(x)
    assert quantize(x) is first
    assert torch.equal(first.values, plain.values)
    assert (first.scale, first.zero) == (plain.scale, plain.zero)


@own
def test_what_the_kernel_cannot_is_torchs():
    q, k, v = (heads(1, 8, 256, 64, seed=seed) for seed in range(3))
    odd = q[..., :63]
    assert attention(q.float(), k.float(), v.float()) is None
    assert attention(odd, odd, odd) is None
    assert attention(q, k[:, :, :0], v[:, :, :0]) is None
    assert attention(q, k, v[:, :, 1:]) is None
    mask = torch.ones(256, 256, dtype=torch.bool).tril()
    with cpu_kernels():
        assert not torch.equal(F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, mask))
        causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(causal, F.scaled_dot_product_attention(q, k, v, is_causal=True))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.halved = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(16, 20, 1)
        self.linear = nn.Linear(20, 24)
        self.bare = nn.Linear(24, 4, bias=False)
        self.table = nn.Embedding(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.skip(self.halved(self.conv(x)))
        return self.bare(self.linear(x.flatten(2).transpose(1, 2))) + self.table.weight[0]


@packs
def test_packed_weights_give_the_same_bits_and_are_in_memory_once():
    torch.manual_seed(0)
    network = Layers().half().requires_grad_(False)
    component = Component("unet", network, CPU, "x")
    stored = {name: param.data_ptr() for name, param in network.named_parameters()}
    inputs = [torch.randn(n, 8, h, w).bfloat16() for n, h, w in ((2, 16, 16), (1, 9, 20), (3, 5, 4))]
    with torch.inference_mode():
        component.onload(torch.bfloat16)
        expected = [network(x.to(memory_format=torch.channels_last)) for x in inputs]
        component.onload(torch.bfloat16, packed=True)
        assert component.is_packed
        with cpu_kernels():
            for x, plain in zip(inputs, expected, strict=True):
                assert torch.equal(network(x.to(memory_format=torch.channels_last)), plain)
                assert torch.equal(network(x), plain)
                features = network.skip(network.halved(network.conv(x)))
                assert features.is_contiguous(memory_format=torch.channels_last)
        for name, param in network.named_parameters():
            packed = name.endswith("weight") and is_packable(network.get_submodule(name.rpartition(".")[0]))
            assert (packed_of(param, torch.bfloat16) is not None) == packed, name
            assert (param.data_ptr() == stored[name]) == packed, name  # no plain copy beside the packed one
        component.onload(torch.bfloat16)
        assert not component.is_packed
        assert torch.equal(network(inputs[0].to(memory_format=torch.channels_last)), expected[0])
    component.offload()
    assert all(packed_of(param, torch.bfloat16) is None for param in network.parameters())


class DoubledThenConvolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.upsample = Upsample(24)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.upsample(x, size)


@packs
def test_a_convolution_after_doubling_is_as_close_to_float32_as_the_plain_one():
    torch.manual_seed(0)
    network = DoubledThenConvolved().requires_grad_(False)
    x = torch.randn(2, 24, 9, 12)
    component = Component("unet", network, CPU, "x")
    small = x.bfloat16().to(memory_format=torch.channels_last)
    sizes = (None, (18, 24), (17, 23))  # the last doubles nothing
    with torch.inference_mode():
        expected = [network(x, size) for size in sizes]
        component.onload(torch.bfloat16)
        plain = [network(small, size) for size in sizes]
        with seamless("xy"):
            plain_seamless = network(small)
        nbytes = component.onloaded_nbytes(torch.bfloat16)
        component.onload(torch.bfloat16, packed=True)
        assert nbytes == 2 * (24 * 24 * 16 + 24)
        with cpu_kernels():
            for size, exact, usual in zip(sizes, expected, plain, strict=True):
                found = network(small, size)
                assert found.is_contiguous(memory_format=torch.channels_last)
                assert distance(found, exact) < 1.3 * distance(usual, exact)  # one more rounding, of the summed weights
            with seamless("xy"):
                assert torch.equal(network(small), plain_seamless)


@packs
def test_a_doubled_picture_is_made_for_what_is_no_convolution():
    x = numbers(2, 24, 5, 4).bfloat16().to(memory_format=torch.channels_last)
    plain = F.interpolate(x, scale_factor=2.0)
    with torch.inference_mode(), cpu_kernels():
        found = F.interpolate(x, scale_factor=2.0)
        assert isinstance(found, Doubled)
        assert (found.shape, found.dtype, found.stride()) == (plain.shape, plain.dtype, plain.stride())
        assert torch.equal(found, plain)
        for change in (
            lambda each: each + 1,
            lambda each: each[:, :, 3:, ::2],
            lambda each: F.pad(each, (1, 1, 1, 1), mode="circular"),
            lambda each: torch.cat([each, each]),
            lambda each: F.conv2d(each, torch.ones(2, 24, 3, 3).bfloat16(), padding=1),
            lambda each: each.float().flatten(1),
            lambda each: each.contiguous(),
        ):
            changed = change(found)
            assert type(changed) is Tensor
            assert torch.equal(changed, change(plain))


@packs
def test_a_hook_on_such_a_convolution_gets_the_doubled_picture():
    """As a LoRA has one."""
    network, given = DoubledThenConvolved().requires_grad_(False), []
    Component("unet", network, CPU, "x").onload(torch.bfloat16, packed=True)
    network.upsample.conv.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0]))
    x = torch.randn(1, 24, 4, 4).bfloat16()
    with torch.inference_mode(), cpu_kernels():
        network(x)
    assert torch.equal(given[0], F.interpolate(x, scale_factor=2.0))


@packs
def test_a_weight_that_was_replaced_is_taken_as_it_is():
    """As merged adapters do it."""
    network = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False)
    Component("unet", network, CPU, "x").onload(torch.bfloat16, packed=True)
    x, other = torch.randn(4, 8).bfloat16(), torch.randn(8, 8).bfloat16()
    bias, original = network[0].bias, network[0].weight.data
    with torch.inference_mode(), cpu_kernels():
        before = network(x)
        network[0].weight.data = other
        assert torch.equal(network(x), F.linear(x, other, bias))
        network[0].weight.data = original
        assert torch.equal(network(x), before)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@packs
def test_an_engine_packs_in_bfloat16_alone(file: Path):
    for dtype in ("float32", "bfloat16"):
        engine = Engine("cpu", dtype)
        model = engine.load(file)
        packed = {name for name, component in model.residency.components.items() if component.is_packed}
        assert packed == ({"unet", "vae"} if dtype == "bfloat16" else set())
        said = engine.environment(model).device
        assert said.endswith(" gesso-kernels") == (dtype == "bfloat16" and has_kernels())


@packs
def test_a_packed_model_decodes_as_close_to_float32_as_a_plain_one(file: Path):
    model = Engine("cpu", "bfloat16").load(file)
    plain = load_parts(file, dtype=torch.bfloat16).vae.to(memory_format=torch.channels_last)
    latents = torch.randn(1, model.family.vae.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        usual = plain.decode(latents.bfloat16().to(memory_format=torch.channels_last))
        found = model.decode(latents)
        exact = model.in_float32("vae").decode(latents)
        assert exact.dtype == torch.float32
        assert distance(found, exact) < 1.1 * distance(usual, exact)
        assert torch.equal(model.decode(latents), found)


@packs
def test_merged_weights_of_a_packed_layer_have_the_dtype_of_the_network():
    """The plain weight has that of the file."""
    network = nn.Sequential(nn.Linear(8, 8)).half().requires_grad_(False)
    stored = network[0].weight.detach().clone()
    Component("unet", network, CPU, "x").onload(torch.bfloat16, packed=True)
    summed = _sum(network[0].weight, [(torch.ones(8, 8), 0.5)])
    assert summed is not None
    assert summed.dtype == torch.bfloat16
    assert torch.equal(summed, (stored.float() + 0.5).bfloat16())
