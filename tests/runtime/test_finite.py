"""Numbers that leave half precision are computed again; what cannot be saved is an error with a name."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gesso.errors import GessoError
from gesso.families.parts import ModelParts
from gesso.runtime.finite import NoFiniteRowError, NotFiniteError, finite, nonfinite_rows, stop_when_all_nonfinite
from gesso.runtime.model import LoadedModel
from gesso.runtime.precision import Precision
from gesso.runtime.residency import Component
from tiny_sd import tiny_parts

CPU = torch.device("cpu")
F32, F16 = torch.float32, torch.float16


def own_parts() -> ModelParts:
    parts = tiny_parts()
    return replace(parts, unet=copy.deepcopy(parts.unet), vae=copy.deepcopy(parts.vae), text=copy.deepcopy(parts.text))


def model_of(parts: ModelParts, *, vae: torch.dtype = F32, unet: torch.dtype = F32) -> LoadedModel:
    return LoadedModel(name="x", parts=parts, device=CPU, precision=Precision(unet=unet, text=F32, vae=vae))


@pytest.fixture
def loud() -> ModelParts:
    """Its decoder's first convolution gives about 1e6 times what it should; the group norm after it takes that back."""
    parts = own_parts()
    parts.vae.decoder.conv_in.weight.mul_(1e4)
    parts.vae.decoder.conv_in.bias.mul_(1e4)
    return parts


def latents(rows: int = 1) -> Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3


def test_a_decoder_that_overflows_half_precision_is_asked_again_in_float32(loud: ModelParts):
    plain, model = model_of(copy.deepcopy(loud)), model_of(loud, vae=F16)
    with torch.inference_mode():
        expected = plain.decode(latents())
        assert not bool(model.decode(latents()).isfinite().all())  # otherwise this test tests nothing
        found = finite("vae", lambda model: model.decode(latents()), model)
    assert found.rows == (0,)
    assert found.notice == "the VAE produced NaN or infinity in float16 and was recomputed in float32"
    assert found.notices(0) == (found.notice,)
    assert found.value.dtype == F32
    gap = (found.value - expected).abs().max().item()
    assert gap < 0.05, gap  # the latents went through float32 both times; 5e-2 allows for channels last
    assert model.residency.dtype("vae") == F16  # the next picture starts as this one did


def test_only_rows_that_are_lost_are_computed_again(loud: ModelParts):
    """The others keep what half precision gave, bit by bit, although the second try computed them, too."""
    model = model_of(loud, vae=F16)
    both = torch.cat([latents() * 1e-4, latents()])
    tries: list[Tensor] = []

    def run(model: LoadedModel) -> Tensor:
        tries.append(model.decode(both))
        return tries[-1]

    with torch.inference_mode():
        found = finite("vae", run, model)
    half, single = tries
    assert (half.dtype, single.dtype) == (F16, F32)
    assert found.rows == (1,)
    assert found.notices(0) == ()
    assert torch.equal(found.value, torch.stack([half[0].float(), single[1]]))
    assert not torch.equal(half[0].float(), single[0])


def test_what_is_finite_is_left_alone():
    model = model_of(own_parts())
    calls = []

    def run(model: LoadedModel) -> Tensor:
        calls.append(1)
        return model.decode(latents())

    with torch.inference_mode():
        found = finite("vae", run, model)
    assert (found.rows, found.notice, len(calls)) == ((), None, 1)


@pytest.mark.parametrize("dtype", [F32, F16])
def test_an_error_names_the_part_and_the_first_module_that_gave_them(dtype: torch.dtype):
    parts = own_parts()
    parts.vae.decoder.levels[1].blocks[0].conv2.bias[3] = float("inf")
    model = model_of(parts)
    model.residency.components["vae"].dtype = dtype  # as if settled: the check of the weights would find it first
    model.residency._dtypes["vae"] = dtype
    parts.vae.to(dtype)
    if dtype == F16:  # the second try settles, and there the weights are looked at
        with pytest.raises(GessoError, match="NaN or infinity"), torch.inference_mode():
            finite("vae", lambda model: model.decode(latents()), model)
        return
    match = "the VAE produced NaN or infinity in float32"
    with pytest.raises(NotFiniteError, match=match) as found, torch.inference_mode():
        finite("vae", lambda model: model.decode(latents()), model)
    assert found.value.part == "vae"
    assert found.value.module == "decoder.levels.1.blocks.0.conv2"


def test_a_sampler_stops_when_every_row_is_lost_and_starts_again_in_float32():
    model = model_of(own_parts(), unet=torch.bfloat16)
    formats: list[torch.dtype] = []

    def run(model: LoadedModel) -> Tensor:
        dtype = model.dtype("unet")
        formats.append(dtype)
        x = torch.full((2, 4, 8, 8), float("nan") if dtype != F32 else 1.0)
        stop_when_all_nonfinite(x)
        return x

    found = finite("unet", run, model)
    assert formats == [torch.bfloat16, F32]
    assert found.rows == (0, 1)
    assert found.notice is not None
    assert "the UNet produced NaN or infinity in bfloat16" in found.notice
    half = torch.full((2, 1), 1.0)
    half[1] = float("nan")
    stop_when_all_nonfinite(half)  # a row that is left goes on
    assert nonfinite_rows(half).tolist() == [False, True]
    with pytest.raises(NoFiniteRowError):
        stop_when_all_nonfinite(half[1:])


def test_lost_for_good_is_an_error_whatever_stopped_it():
    model = model_of(own_parts(), unet=torch.bfloat16)

    def run(model: LoadedModel) -> Tensor:
        stop_when_all_nonfinite(torch.full((1, 1), float("nan")))
        raise AssertionError

    with pytest.raises(NotFiniteError, match="the UNet produced NaN or infinity in float32"):
        finite("unet", run, model)


def test_a_network_that_steers_is_named():
    """Its result reaches the UNet between two modules, neither of which is to blame."""
    model = model_of(own_parts())
    steering = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(2, 2))
    steering[1].weight.data.fill_(float("nan"))

    def run(model: LoadedModel) -> Tensor:
        with model.using("unet"):
            output: Tensor = steering(torch.ones(1, 2))
        return output

    component = Component("control", steering, CPU, "x")
    component.dtype = F32  # as if settled: the check of the weights would find it first
    match = r"the UNet produced NaN or infinity in float32 \(first in module control 0: 1\)"
    with (
        torch.inference_mode(),
        pytest.raises(NotFiniteError, match=match),
    ):
        finite("unet", run, model.with_controls({"control 0": component}))
