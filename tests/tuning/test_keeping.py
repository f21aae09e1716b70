"""What the backward pass keeps: less, for the same bits."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gesso.training import mixed
from gesso.training.precision import TrainingPrecision, context_of
from gesso.tuning import task as tuning_task
from gesso.tuning.captions import CaptionRules
from gesso.tuning.dataset import Subset
from gesso.tuning.keeping import keeping_less
from gesso.tuning.settings import TuningSettings
from tiny_sd import TINY_SD, tiny_parts
from tuning.made import found, made_task

KINDS = {
    "lora": TuningSettings(rank=4, caption_dropout=0.0),
    "convolutions and text": TuningSettings(rank=4, conv_rank=2, train_text=True, caption_dropout=0.0),
    "dora": TuningSettings(rank=4, conv_rank=2, dora=True, caption_dropout=0.0),
    "full": TuningSettings(kind="full", caption_dropout=0.0, learning_rate=1e-4),
}


def learned(settings: TuningSettings, precision: TrainingPrecision) -> tuple[dict[str, Tensor], int]:
    """The gradients of a step, and the bytes that its backward pass kept beside weights."""
    parts = copy.deepcopy(tiny_parts(TINY_SD))
    for network in parts.networks.values():
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = made_task(parts, found(["a cat", "a red dog"], bucket=(128, 128)), settings)
    task.precision = context_of(precision, torch.device("cpu"))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = task.loss(0, 2, 0)
    loss.backward()
    names = (
        (f"{part}.{name}", parameter)
        for part, module in task.modules.items()
        for name, parameter in module.named_parameters()
    )
    return {name: one.grad for name, one in names if one.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sampled(3)
def test_gradients_are_the_same_bits(kind: str, precision: TrainingPrecision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "MOST_SCORES", 0)  # attention by products would keep its scores in both
    gradients, kept = learned(KINDS[kind], precision)
    monkeypatch.setattr(tuning_task, "keeping_less", lambda wanted: nullcontext())
    usual, kept_usually = learned(KINDS[kind], precision)
    assert gradients.keys() == usual.keys() and len(usual) > 50
    assert [name for name, value in usual.items() if not torch.equal(value, gradients[name])] == []
    assert kept < 0.95 * kept_usually  # what learns needs its inputs, and DoRA its outputs


def test_a_frozen_network_keeps_nothing_of_a_normalised_convolution_but_its_input() -> None:
    norm, conv = nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 3, padding=1, stride=2)
    block = nn.Sequential(norm, nn.SiLU(), conv).requires_grad_(False)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one), keeping_less():
        loss = block(x).square().mean()
    loss.backward()
    mine, x.grad = x.grad, None
    assert {tuple(one.shape) for one in kept if one.ndim == 4 and one is not conv.weight} == {
        (2, 8, 6, 6),
        (2, 8, 3, 3),
    }
    assert {one.data_ptr() for one in kept if one.shape == x.shape} == {x.data_ptr()}
    block(x).square().mean().backward()
    assert mine is not None and x.grad is not None and torch.equal(mine, x.grad)


def test_without_gradients_it_has_no_part() -> None:
    norm = nn.GroupNorm(4, 8)
    with torch.no_grad(), keeping_less():
        assert not hasattr(norm(torch.randn(1, 8, 4, 4)), "normalised")


@pytest.mark.parametrize("kind", ["lora", "convolutions and text"])
@pytest.mark.sampled(2)
def test_text_encoders_that_are_put_away_have_said_all_that_steps_ask(kind: str) -> None:
    settings = replace(KINDS[kind], caption_dropout=0.5, trigger="red dog", preserve="cat")
    pictures = found(["a red dog", "two red dogs"], bucket=(128, 64))
    losses: list[list[float]] = []
    for away in (False, True):
        task = made_task(copy.deepcopy(tiny_parts(TINY_SD)), pictures, settings, held=[1])
        assert away is False or task.put_text_away() is (kind == "lora")
        losses.append([task.loss(step, 2, 0)[0].item() for step in range(6)] + list(task.report({}).values()))
        assert next(task.parts.text.parameters()).is_meta is (away and kind == "lora")
    assert losses[0] == losses[1]


def test_they_stay_where_captions_are_shuffled() -> None:
    rules = Subset(where=Path("x"), captions=CaptionRules(shuffle=True))
    task = made_task(copy.deepcopy(tiny_parts(TINY_SD)), found(["a, b, c"], subset=rules), KINDS["lora"])
    assert not task.put_text_away() and not next(task.parts.text.parameters()).is_meta
