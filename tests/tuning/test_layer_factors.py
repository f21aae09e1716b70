"""Each kind of factors beside one layer: output and gradients of LyCORIS' own module, and of the changed weight."""

from typing import Any

import pytest
import torch
from torch import nn

from gesso.errors import GessoError
from gesso.tuning.factors import Blocks, LoraFactors
from gesso.tuning.layer_factors import Factors, KroneckerFactors, LayerFactors, MagnitudeFactors, divisors
from gesso.tuning.learners import LoraLearner, make_factors
from gesso.tuning.settings import TuningSettings, completed
from tiny_sd import TINY_SD
from tuning.made import double

LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "convolution": lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1),
    "pointwise": lambda: nn.Conv2d(12, 20, 1, bias=False),
}
KINDS = {
    "LoRA": ({}, lambda layer: Factors(layer, 3, scale=0.5)),
    "LoKr": ({"factor": 2}, lambda layer: KroneckerFactors(layer, 3, factor=2, scale=0.5)),
    "LoKr, whole": ({"factor": 4, "full_matrix": True}, lambda layer: KroneckerFactors(layer, 3, factor=4, whole=True)),
    "DoRA": ({"weight_decompose": True}, lambda layer: MagnitudeFactors(layer, Factors(layer, 3, scale=0.5))),
}


def stirred(factors: LayerFactors) -> LayerFactors:
    """With numbers that do something, in float64."""
    generator = torch.Generator().manual_seed(5)
    factors.double()
    with torch.no_grad():
        for name, parameter in factors.named_parameters():
            if name != "magnitude":
                parameter.normal_(0, 0.3, generator=generator)
    return factors


def input_for(layer: nn.Module) -> torch.Tensor:
    shape = (2, 5, 24) if isinstance(layer, nn.Linear) else (2, 12, 6, 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_changed_weight_does_what_the_hooks_do(kind: str, layer: str) -> None:
    own = LAYERS[layer]().double()
    factors = stirred(KINDS[kind][1](own))
    x = input_for(own)
    before = own(x)
    after = before + factors(own, x, before)
    change = factors.change()
    with torch.no_grad():
        own.weight += change.delta(own.weight.float())
        torch.testing.assert_close(own(x), after, rtol=1e-5, atol=1e-5)  # a change is computed in float32
        assert (after - before).abs().max() > 0.1


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "DoRA"])  # whose length LyCORIS differentiates
def test_output_and_gradients_are_those_of_lycoris(kind: str, layer: str) -> None:
    lycoris = pytest.importorskip("lycoris.modules")
    own = LAYERS[layer]().double().requires_grad_(False)
    options, make = KINDS[kind]
    factors = stirred(make(own))
    module: Any = lycoris.LoConModule if kind == "LoRA" else lycoris.LokrModule
    peer = module("a", own, lora_dim=3, alpha=1.5, **options).double()
    if kind != "LoRA" and not options.get("full_matrix"):
        assert (peer.use_w1, peer.use_w2) == (True, factors.w2 is not None)
    pairs = dict(factors.named_parameters())
    pairs = {
        {"down": "lora_down.weight", "up": "lora_up.weight"}.get(name, f"lokr_{name}"): one
        for name, one in pairs.items()
    }
    theirs = dict(peer.named_parameters())
    with torch.no_grad():
        for name, one in pairs.items():
            theirs[name].copy_(one)
    x = input_for(own)
    before = own(x)
    ours = before + factors(own, x, before)
    peer.apply_to()
    expected = own(x)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, one in pairs.items():
        torch.testing.assert_close(one.grad, theirs[name].grad, rtol=1e-10, atol=1e-12)


def test_a_change_starts_at_zero() -> None:
    for layer in LAYERS.values():
        own = layer().double()
        x = input_for(own)
        before = own(x)
        for _, make in KINDS.values():
            assert make(own).double()(own, x, before).abs().max() < 1e-6  # DoRA's lengths are float32


@pytest.mark.parametrize("size", [1, 7, 12, 36, 320, 640, 1280, 77])
@pytest.mark.parametrize("factor", [None, 1, 4, 8, 16])
def test_divisors_are_those_of_lycoris(size: int, factor: int | None) -> None:
    functional = pytest.importorskip("lycoris.functional")
    assert divisors(size, factor) == functional.factorization(size, factor or -1)


# ---- which layers, at which rank and rate ---------------------------------------------------------------------------


def settings_of(**changes: Any) -> TuningSettings:
    return completed(TuningSettings(preset="cpu", rank=4, **changes), TINY_SD, 4)


def test_blocks_have_ranks_of_their_own() -> None:
    networks = double(TINY_SD).networks
    plain = settings_of(conv_rank=2, train_text=True)
    factors = make_factors(networks, settings_of(
        conv_rank=2, train_text=True, block_ranks=("up=8", "up.0=0", "mid=2", "text=1")
    ), None)  # fmt: skip
    ranks = {name: one.down.shape[0] for name, one in factors.items()}  # type: ignore[union-attr]
    assert {rank for name, rank in ranks.items() if name.startswith("text.")} == {1}
    assert not any(name.startswith("unet.up.0.") for name in ranks)
    assert {rank for name, rank in ranks.items() if name.startswith("unet.up.1.")} == {8, 4}  # convolutions alike
    assert {rank for name, rank in ranks.items() if name.startswith("unet.mid.")} == {2, 1}
    assert {rank for name, rank in ranks.items() if name.startswith("unet.down.")} == {4, 2}
    assert {one.scale for _, one in factors.items()} == {1.0}  # type: ignore[union-attr]
    everywhere = {name for name, _ in make_factors(networks, plain, None).items()}
    assert ranks.keys() < everywhere


def test_rates_follow_the_block_and_the_matrix() -> None:
    networks = double(TINY_SD).networks
    settings = settings_of(train_text=True, dora=True)
    factors = make_factors(networks, settings, None)
    learner = LoraLearner(factors, trains_text=True, ratio=16, block_rates=Blocks(("up=0.5",), "block_rates", 0, 9))
    rate_of = {
        id(parameter): group["lr"]
        for group in learner.groups(1e-4, 1e-5)
        for parameter in group["params"]
        if (group.get("weight_decay") == 0.0) == (parameter.ndim == 1)
    }
    assert len(rate_of) == sum(1 for _ in factors.parameters())
    for name, one in factors.items():
        base = 1e-5 if name.startswith("text.") else 5e-5 if name.startswith("unet.up.") else 1e-4
        for part, parameter in one.named_parameters():
            assert rate_of[id(parameter)] == pytest.approx(base * 16 if part == "inner.up" else base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_ranks": ("down.1",)}, r"`block_ranks` 'down\.1': expected a block and a number of 0 to 1024"),
        ({"block_ranks": ("middle=3",)}, r"`block_ranks` 'middle': expected one of down, down\.0, "),
        ({"block_ranks": ("text=3",)}, "`block_ranks` 'text': expected one of down"),  # it does not learn
        ({"algorithm": "loha"}, "`algorithm` 'loha': expected one of lora, lokr"),
        ({"algorithm": "lokr", "loraplus": 16.0}, "`loraplus` 16.0: expected 0"),
        ({"lokr_factor": 4}, "`lokr_factor` 4: expected an `algorithm` of lokr"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GessoError, match=message):
        make_factors(double(TINY_SD).networks, settings_of(**changes), None)


def test_networks_without_their_factors() -> None:
    own = nn.Sequential(nn.Linear(24, 40))
    factors = LoraFactors({"unet": own}, 3)
    x = torch.randn(2, 24)
    before = own(x)
    with torch.no_grad():
        next(one for name, one in factors.named_parameters() if name.endswith("up")).fill_(1.0)
    assert not torch.equal(own(x), before)
    with factors.off():
        assert torch.equal(own(x), before)
    assert not torch.equal(own(x), before)
