"""Products in int8 beside exact ones, and the list of layers that stay in bfloat16."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.adapters.attaching import attach
from gesso.adapters.changes import LowRank
from gesso.adapters.lora import ModuleChange
from gesso.errors import GessoError
from gesso.nn.resblock import Upsample
from gesso.runtime import int8, precision, skips
from gesso.runtime.compiled import has_kernels
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import SKIPS_FILE, Engine
from gesso.runtime.int8 import (
    Input8,
    arrange_convolution,
    arrange_linear,
    can_multiply,
    convolve8,
    linear8,
    quantize,
    quantize_weight,
)
from gesso.runtime.kernels import cpu_kernels
from gesso.runtime.model import LoadedModel
from gesso.runtime.packing import can_pack
from gesso.runtime.residency import Component
from gesso.runtime.seamless import seamless
from gesso.runtime.skips import Skips, measured_errors, skips_of
from tiny_models import save_tiny_mini

CPU = torch.device("cpu")
own = pytest.mark.skipif(not has_kernels(), reason="no kernel: not compiled, or a processor without AVX512-BF16")
multiplies = pytest.mark.skipif(not (can_multiply() and can_pack()), reason="a processor without VNNI")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def exact(x: Input8) -> Tensor:
    return (x.values.double() - x.zero) * x.scale


def rounded(weight: Tensor) -> Tensor:
    values, scales = quantize_weight(weight)
    return values.double() * scales.double().view(-1, *[1] * (weight.ndim - 1))


# Numbers to 8 bits ----------------------------------------------------------------------------------------------------


@own
@pytest.mark.parametrize("shape", [(2, 64, 20, 20), (3, 7, 11), (1, 5), (1,), (0, 4), (70000,)])
def test_the_kernel_gives_the_bits_of_its_plain_twin(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    tensors = [(numbers(*shape) * 3 + shift).bfloat16() for shift in (0, 2.5, -40)]
    tensors += [torch.zeros(shape).bfloat16(), torch.full(shape, -3e38).bfloat16(), torch.full(shape, 1e-38).bfloat16()]
    found = [quantize(x) for x in tensors]
    monkeypatch.setattr(int8, "library", lambda: None)
    for x, mine in zip(tensors, found, strict=True):
        plain = quantize(x)
        assert torch.equal(mine.values, plain.values)
        assert (mine.scale, mine.zero) == (plain.scale, plain.zero)


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0, 100.0])
def test_a_number_is_at_most_half_a_step_off_and_zero_is_zero(shift: float):
    x = (numbers(50, 60) + shift).bfloat16()
    x[0, 0] = 0
    found = quantize(x)
    assert (exact(found) - x.double()).abs().max() <= 0.5001 * found.scale
    assert found.values[0, 0] == found.zero
    assert found.scale == pytest.approx((max(x.max().item(), 0) - min(x.min().item(), 0)) / 255)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(bad: float):
    x = numbers(4, 40).bfloat16()
    x[2, 3] = bad
    assert math.isnan(quantize(x).scale)
    if can_multiply():
        assert bool(linear8(quantize(x), arrange_linear(numbers(32, 40)), None).isnan().all())


def test_a_weight_has_a_scale_for_each_output_channel():
    weight = numbers(6, 5, 3, 3) * torch.tensor([1e-3, 1, 100, 7, 0, 2])[:, None, None, None]
    before = weight.clone()
    values, scales = quantize_weight(weight)
    assert torch.equal(weight, before)
    assert values.abs().amax((1, 2, 3)).tolist() == [127, 127, 127, 127, 0, 127]
    steps = (rounded(weight) - weight).abs().amax((1, 2, 3)) / scales
    assert steps.max() <= 0.5001


# Products -------------------------------------------------------------------------------------------------------------


@multiplies
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_exact_product_rounded_to_bfloat16(bias: bool):
    x, weight = quantize((numbers(2, 9, 40) + 1).bfloat16()), numbers(48, 40, seed=1)
    shift = numbers(48, seed=2).bfloat16() if bias else None
    expected = F.linear(exact(x), rounded(weight), None if shift is None else shift.double())
    found = linear8(x, arrange_linear(weight), shift)
    assert found.shape == (2, 9, 48)
    assert torch.allclose(found.double(), expected, rtol=2**-8, atol=1e-5)


@multiplies
@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [(3, ((1, 1), (1, 1), (1, 1))), (3, ((1, 1), (2, 2), (1, 1))), (2, ((0, 0), (1, 1), (1, 1)))],
)
def test_a_convolution_is_the_exact_one_rounded_to_bfloat16(kernel: int, geometry: Any):
    x = (numbers(2, 32, 9, 12) + 1).bfloat16().to(memory_format=torch.channels_last)  # zero is not in the middle
    weight, bias = numbers(40, 32, kernel, kernel, seed=1), numbers(40, seed=2).bfloat16()
    padding, stride, dilation = geometry
    eight = quantize(x)
    expected = F.conv2d(exact(eight), rounded(weight), bias.double(), stride, padding, dilation)
    found = convolve8(eight, arrange_convolution(weight, *geometry), bias, *geometry)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found.double(), expected, rtol=2**-8, atol=1e-4)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 48, 3, padding=1)
        self.halved = nn.Conv2d(48, 64, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(64, 40, 1)
        self.upsample = Upsample(40)
        self.linear = nn.Linear(40, 48)
        self.bare = nn.Linear(48, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(self.skip(self.halved(self.conv(x))))
        return self.bare(F.silu(self.linear(x.flatten(2).transpose(1, 2))))


def eight(network: nn.Module) -> Component:
    component = Component("unet", network, CPU, "x")
    component.int8 = frozenset(component.packable())
    return component


@multiplies
def test_a_network_in_int8_is_close_to_float32_the_same_each_time_and_in_memory_once():
    torch.manual_seed(0)
    network = Layers().half().requires_grad_(False)
    stored = {name: param.data_ptr() for name, param in network.named_parameters()}
    component, x = eight(network), numbers(2, 32, 16, 12)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        component.onload(torch.float32)
        expected = network(x)
        component.onload(torch.bfloat16, packed=True)
        for name, param in network.named_parameters():
            assert (param.data_ptr() == stored[name]) == name.endswith("weight"), name  # no plain copy beside
        try:
            with cpu_kernels():
                found = network(x.bfloat16())
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    assert torch.equal(network(x.bfloat16()), found)
        finally:
            torch.set_num_threads(threads)
        assert distance(found, expected) < 0.03  # six layers, each at most 0.015
        component.stream(torch.bfloat16)
        with cpu_kernels():
            assert torch.equal(network(x.bfloat16()), found)
        component.onload(torch.bfloat16)
        plain = network(x.bfloat16().to(memory_format=torch.channels_last))
        assert distance(plain, expected) < distance(found, expected)
    component.offload()
    assert not any(hasattr(param, "packed") for param in network.parameters())


@multiplies
@pytest.mark.parametrize("name", ["conv", "halved", "skip", "linear", "bare", "upsample.conv"])
def test_each_kind_of_layer_keeps_its_bound(name: str):
    torch.manual_seed(0)
    network = Layers().requires_grad_(False)
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    is_linear = isinstance(layer, nn.Linear)
    x = numbers(3, layer.in_features) if isinstance(layer, nn.Linear) else numbers(2, layer.in_channels, 10, 8)
    whole = network.upsample if name == "upsample.conv" else layer
    expected = whole(x)
    component = eight(network)
    component.onload(torch.bfloat16, packed=True)
    with torch.inference_mode(), cpu_kernels():
        found = whole(x.bfloat16() if is_linear else x.bfloat16().to(memory_format=torch.channels_last))
    # Both factors of normal numbers are rounded to steps of some 3 / 127 of their deviation.
    assert 0.002 < distance(found, expected) < 0.015


@multiplies
def test_a_convolution_that_wraps_around_keeps_its_bound():
    """Seamless tiling pads by itself, so that the convolution has another padding than it was packed for."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1)).requires_grad_(False), numbers(2, 32, 9, 12) + 1
    with seamless("xy"):
        expected = network(x)
    eight(network).onload(torch.bfloat16, packed=True)
    with torch.inference_mode(), cpu_kernels(), seamless("xy"):
        found = network(x.bfloat16().to(memory_format=torch.channels_last))
    assert distance(found, expected) < 0.015


@multiplies
def test_weights_in_int8_take_a_byte_each():
    network = Layers().half().requires_grad_(False)
    component = eight(network)
    weights = sum(param.numel() for name, param in network.named_parameters() if name.endswith("weight"))
    rest = sum(param.numel() for name, param in network.named_parameters() if not name.endswith("weight"))
    doubled = network.upsample.conv.weight.numel() * 7 // 9
    assert component.onloaded_nbytes(torch.bfloat16) == weights + doubled + 2 * rest
    assert component.onloaded_nbytes(torch.float32) == 4 * (weights + rest)


@multiplies
def test_a_lora_is_computed_beside_in_bfloat16_and_leaves_no_bit_behind():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 48)).requires_grad_(False)
    eight(network).onload(torch.bfloat16, packed=True)
    down, up = numbers(4, 64, seed=1), numbers(48, 4, seed=2)
    change = ModuleChange(weight=LowRank(down=down, up=up, mid=None, scale=0.5), bias=None)
    lora: Any = SimpleNamespace(changes={"unet.0": change})
    x = numbers(5, 64).bfloat16()
    with torch.inference_mode(), cpu_kernels():
        before = network(x)
        with attach({"unet": network}, [(lora, 0.7, 0.7)]):
            found = network(x)
        assert torch.equal(network(x), before)
        gain = F.linear(F.linear(x, down.bfloat16()), up.bfloat16()) * 0.35
        assert torch.equal(found, before + gain)


# The list of layers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def model(file: Path) -> LoadedModel:
    return Engine("cpu", "bfloat16").load(file)


@multiplies
@pytest.mark.slow
def test_layers_beyond_the_bound_stay_in_bfloat16(model: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    errors = measured_errors(model)
    assert measured_errors(model) == errors
    assert len(errors) > 10
    assert not any(component.is_onloaded for component in model.residency.components.values())
    assert all("time" not in name and "embed" not in name for name in errors)
    assert "conv_in.weight" not in errors
    assert 0.001 < min(errors.values()) < max(errors.values()) < 0.1
    worst = sorted(errors, key=lambda name: errors[name])[-2:]
    monkeypatch.setattr(skips, "BOUND", sorted(errors.values())[-3])
    found = skips_of(model, None)
    assert found == Skips(len(errors), tuple(sorted(worst)))
    assert skips.int8_weights(model, found) == errors.keys() - set(worst)
    assert str(found).startswith(f"int8 but for 2 of {len(errors)} layers, ")
    assert str(found) != str(Skips(len(errors), ("x",)))


@multiplies
@pytest.mark.slow
def test_a_layer_with_one_number_far_above_the_rest_is_beyond_the_bound(model: LoadedModel):
    """Its steps are too wide for the other numbers."""
    name = "mid.attention.blocks.0.feed_forward.proj.weight"
    usual = measured_errors(model)[name]
    norm: Any = model.parts.unet.get_submodule("mid.attention.blocks.0.norm3")
    norm.weight.data = norm.weight.data.clone()
    norm.weight.data[0] = 1e3
    model.residency.components["unet"]._stored["mid.attention.blocks.0.norm3.weight"] = norm.weight.data
    with torch.no_grad():  # the layer itself does not look at that number
        weight: Any = model.parts.unet.get_submodule(name.removesuffix(".weight")).weight
        changed = weight.data.clone()
        changed[:, 0] = 0
        model.residency.components["unet"]._stored[name] = weight.data = changed
    assert usual < skips.BOUND < measured_errors(model)[name]


@multiplies
@pytest.mark.slow
def test_the_list_is_measured_once_and_kept(model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = tmp_path / "cache" / "int8.json"
    found = skips_of(model, kept)
    with monkeypatch.context() as patch:
        patch.setattr(skips, "measured_errors", lambda model: pytest.fail("measured again"))
        assert skips_of(model, kept) == found
    for text in ("[]", "{", '{"x": 1}', kept.read_text().replace("[]", '["no such layer"]')):
        kept.write_text(text)
        assert skips_of(model, kept) == found
        assert kept.read_text() != text or "no such" not in text


@multiplies
def test_an_engine_in_int8_draws_the_same_twice_close_to_float32(file: Path, tmp_path: Path):
    outputs = []
    for dtype in ("float32", "bfloat16", "int8", "int8"):
        engine = Engine("cpu", dtype, speeds=tmp_path / "speed.json")
        model = engine.load(file)
        config = model.family.unet
        conditioning = Conditioning(
            context=numbers(2, 16, config.context_dim), added=numbers(2, config.added_dim or 1, seed=1)
        )
        with torch.inference_mode():
            outputs.append(model.predict(numbers(2, 4, 16, 16, seed=2), torch.tensor([500.0, 500.0]), conditioning))
        said = engine.environment(model)
        assert said.dtype == dtype
        assert ("int8 but for" in said.device) == (dtype == "int8")
    exact, half, found, again = outputs
    assert torch.equal(found, again)
    assert not torch.equal(found, half)
    assert distance(found, exact) < 0.03
    assert (tmp_path / SKIPS_FILE).exists()


def test_int8_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GessoError, match="for CPUs only, found cuda") as caught:
        precision.choose_precision("int8", torch.device("cuda"))
    assert (caught.value.code, caught.value.field) == ("dtype_unsupported", "dtype")
    monkeypatch.setattr(precision, "can_multiply", lambda: False)
    with pytest.raises(GessoError, match="no instructions for it"):
        Engine("cpu", "int8")
