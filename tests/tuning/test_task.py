"""Batches, factors and losses of a training on the user's pictures."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.adapters.names import Target
from gesso.checkpoints.weight_file import open_weights
from gesso.errors import GessoError
from gesso.tuning.captions import CaptionRules
from gesso.tuning.conditions import Conditions, sizes_of
from gesso.tuning.dataset import Subset
from gesso.tuning.estimate import estimate
from gesso.tuning.learners import make_factors
from gesso.tuning.lora_file import save_lora
from gesso.tuning.settings import TuningSettings, completed
from gesso.tuning.task import Batches
from tiny_sd import TINY_SD, TINY_SDXL
from tuning.made import double, found, made_task

REG = Subset(where=Path("reg"), is_reg=True)


def test_an_epoch_has_every_picture_as_often_as_it_repeats():
    twice = Subset(where=Path("x"), repeats=2)
    pictures = [
        *found("abc", subset=twice),
        *found("defg", bucket=(64, 96)),
        *found("hijkl", subset=REG),
    ]
    batches = Batches(pictures, [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11], 4, seed=1)
    for number in range(3):
        epoch = batches.epoch(number)
        counts = Counter(place for batch in epoch for place in batch)
        assert {place: counts[place] for place in range(7)} == {0: 2, 1: 2, 2: 0, 3: 1, 4: 1, 5: 1, 6: 1}
        assert sum(counts[place] for place in range(7, 12)) == 8  # as many of the class as of those to learn
        assert all(len({pictures[place].framing.bucket for place in batch}) == 1 for batch in epoch)
        assert all(len(batch) <= 4 for batch in epoch)
    assert batches.epoch(0) != batches.epoch(1)
    seen = Counter(place for number in range(5) for batch in batches.epoch(number) for place in batch)
    assert {seen[place] for place in range(7, 12)} == {8}  # all of the class in turn


def test_a_batch_follows_from_its_number_alone():
    pictures = found("abcdefg")
    order = Batches(pictures, range(7), 2, seed=3)
    whole = [order(number) for number in range(30)]
    assert [Batches(pictures, range(7), 2, seed=3)(number) for number in range(30)] == whole
    fresh = Batches(pictures, range(7), 2, seed=3)
    assert [fresh(number) for number in reversed(range(30))] == whole[::-1]
    assert whole != [Batches(pictures, range(7), 2, seed=4)(number) for number in range(30)]


@pytest.mark.parametrize(
    "settings",
    [
        TuningSettings(rank=4, batch_size=2, dropout=0.3, caption_dropout=0.3, noise_offset=0.1),
        TuningSettings(rank=4, batch_size=2, dropout=0.3, train_text=True, checkpointing=True),
    ],
)
@pytest.mark.sampled(2)
def test_a_loss_follows_from_seed_and_step_alone(settings):
    """Dropout too; so a step that is taken again after a kill is the same, whatever ran before it."""
    pictures = found(["a, b, c", "d"], subset=Subset(where=Path("x"), flip=True, captions=CaptionRules(shuffle=True)))
    first, second = (made_task(double(TINY_SD), pictures, settings) for _ in range(2))
    torch.manual_seed(1)
    values = [first.loss(step, 2, 0)[0].item() for step in range(3)]
    torch.manual_seed(2)
    assert [second.loss(step, 2, 0)[0].item() for step in (2, 0, 1)] == [values[2], values[0], values[1]]
    assert len(set(values)) == 3 and second.loss(0, 2, 1)[0].item() != values[0]


def test_checkpointed_blocks_have_the_same_gradients():
    pictures = found(["a", "b"])
    grads = []
    for checkpointing in (False, True):
        task = made_task(
            double(TINY_SDXL), pictures, TuningSettings(rank=4, batch_size=2, dropout=0.2, checkpointing=checkpointing)
        )
        task.loss(0, 2, 0)[0].backward()
        grads.append(torch.cat([p.grad.flatten() for p in task.learner.factors.parameters()]))
    assert torch.allclose(*grads, rtol=1e-9, atol=1e-15)


def test_only_factors_learn_and_held_pictures_are_reported():
    task = made_task(double(TINY_SD), found(["a", "b", "c"], bucket=(128, 64)), held=[1])
    task.loss(0, 1, 0)[0].backward()
    assert all(p.grad is None for network in task.parts.networks.values() for p in network.parameters())
    task.modules["factors"].eval()
    figures = task.report(task.modules)
    assert task.report(task.modules) == figures
    assert figures["held"] == pytest.approx(sum(figures[f"held_{t}"] for t in range(62, 1000, 125)) / 8, rel=1e-4)
    assert task.reported == {"seen": [0, 2], "held": [1]}


@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=lambda family: family.name)
def test_conditions_are_those_of_drawing(family):
    from gesso.families.encoding import encode_prompt, zeros_like

    parts = double(family)
    (one,) = found(["a red cat"], size=(90, 70))
    sizes = sizes_of(one, flip=False)
    for caption in ("a red cat", ""):
        expected = encode_prompt(parts, caption, clip_skip=family.clip_skip, width=64, height=64, sizes=sizes)
        if not caption and family.zero_empty_negative:
            expected = zeros_like(family, expected)
        context, added = Conditions(parts)([caption], [sizes])
        assert torch.equal(context, expected.context)
        assert (added is None) == (expected.added is None)
        if added is not None:
            assert torch.equal(added, expected.added)


def test_masked_pictures_do_not_learn_what_is_outside():
    task = made_task(double(TINY_SD), found(["a"], bucket=(128, 64)))
    one = task.latents[0, False]
    mask = torch.zeros(1, 8, 16)
    losses = []
    for kept in (mask, None):
        task.latents = {(0, False): replace(one, mask=kept)}
        losses.append(task.loss(0, 1, 0)[0].item())
    assert losses[0] == 0 < losses[1]


@pytest.mark.parametrize("kind", [{}, {"dora": True, "rslora": True}, {"algorithm": "lokr"}, {"lokr_whole": True}])
@pytest.mark.parametrize(
    "family", [TINY_SD, pytest.param(TINY_SDXL, marks=pytest.mark.slow)], ids=lambda family: family.name
)
@pytest.mark.sampled(4)
def test_the_file_does_what_the_training_did(family, kind, tmp_path):
    """The change of the network's output, read from the file and attached, is that of the hooks; to half precision."""
    if kind.get("lokr_whole"):
        kind = {"algorithm": "lokr", "lokr_factor": 4, **kind}
    settings = TuningSettings(
        rank=4, alpha=2.0, conv_rank=3, conv_alpha=6.0, train_text=True, caption_dropout=0.0, **kind
    )
    parts = double(family)
    task = made_task(parts, found(["a"]), settings)
    target = Target(family.name, family.layout, parts.networks)
    save_lora(tmp_path / "my.safetensors", task.learner.factors.changes(), target, {"title": "my"}, dtype=torch.float32)
    clean = double(family)
    lora = read_lora(open_weights(tmp_path / "my.safetensors"), Target(family.name, family.layout, clean.networks))
    assert lora.match.unmatched == () and len(lora.changes) == len(task.learner.factors.layers)
    added = torch.randn(1, family.unet.added_dim).double() if family.unet.added_dim else None
    x, context = torch.randn(1, 4, 16, 16).double(), torch.randn(1, 77, family.unet.context_dim).double()
    ids = torch.tensor([[49406, 320, 2368, 539, 49407, *[49407] * 72]])
    time = torch.tensor([500.0])
    with torch.no_grad():
        trained = parts.unet(x, time, context, added), parts.text(ids).last
        plain = clean.unet(x, time, context, added), clean.text(ids).last
        with attach(clean.networks, [(lora, 1.0, 1.0)]):
            attached = clean.unet(x, time, context, added), clean.text(ids).last
    for ours, theirs, before in zip(trained, attached, plain, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert (ours - before).abs().max() > 1e-3


def test_a_lora_that_went_astray_is_not_written(tmp_path):
    parts = double(TINY_SD)
    factors = made_task(parts, found(["a"]), TuningSettings(rank=1)).learner.factors
    with torch.no_grad():
        next(factors.parameters()).fill_(1e6)
    target = Target(TINY_SD.name, TINY_SD.layout, parts.networks)
    with pytest.raises(GessoError, match=r"does not fit into torch\.float16; the training went astray"):
        save_lora(tmp_path / "my.safetensors", factors.changes(), target, {"title": "my"})
    assert not list(tmp_path.iterdir())


def test_a_class_is_held_to_what_it_is_without_the_lora():
    """The drift is the gap between the outputs with and without; nothing of captions that do not have the trigger."""
    settings = TuningSettings(rank=4, trigger="sks", preserve="dog", caption_dropout=0.0, prior_weight=0.5)
    task = made_task(double(TINY_SD), found(["a red SKS", "a cat"], bucket=(128, 128)), settings)
    latents, eps = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    times = torch.tensor([500, 300])
    rows = [0, 1], [False, False]
    gaps = task.drift(*rows, ["a red SKS", "a cat"], latents, eps, times)
    x = task.objective.noisy(latents, eps, times)
    with torch.no_grad():
        on = task.predict(*rows, ["a red dog", "a cat"], x, times)
        with task.learner.factors.off():
            off = task.predict(*rows, ["a red dog", "a cat"], x, times)
    assert gaps[0].item() == pytest.approx((on - off)[0].square().mean().item()) and gaps[1] == 0
    gaps.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in task.learner.factors.parameters())
    loss, figures = task.loss(0, 2, 0)
    assert loss.item() == pytest.approx(figures["loss"].item() + 0.5 * figures["drift"].item())
    with pytest.raises(GessoError, match="`preserve` 'dog': expected a `trigger` beside it"):
        TuningSettings(preserve="dog")
    with pytest.raises(GessoError, match="only a LoRA can be left out"):
        TuningSettings(kind="full", trigger="sks", preserve="dog")


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.sampled(2)
def test_what_is_not_learned_stays_as_the_model_says_it(kind):
    """The error of a picture of the class, and of one without a caption, is the gap to what the model said before."""
    settings = TuningSettings(kind=kind, rank=4, trigger="sks", caption_dropout=0.0, prior_answers=True)
    pictures = found(["a red sks", "a sks"], bucket=(128, 128)) + found(["a cat"], bucket=(128, 128), subset=REG)
    clean, parts = double(TINY_SD), double(TINY_SD)
    task = made_task(parts, pictures, settings)
    if kind == "full":
        with torch.no_grad():
            parts.unet.conv_in.weight.mul_(1.1)
    learned = {name: value.clone() for name, value in parts.unet.state_dict().items()}
    latents, eps = torch.randn(2, 4, 4, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    times = torch.tensor([500, 300, 900, 100])
    rows = [0, 1, 2, 2], [False] * 4, ["a red sks", "", "a cat", ""]
    errors = task.errors(*rows, latents, eps, times)
    x = task.objective.noisy(latents, eps, times)
    before = made_task(clean, pictures, replace(settings, kind="embedding", prior_answers=None))
    with torch.no_grad():
        said = task.predict(*rows, x, times)
        gaps = (said - before.predict(*rows, x, times)).square().mean(dim=(1, 2, 3))
    shown = task.objective.errors(said, latents, eps, times)
    assert torch.allclose(errors[1:], gaps[1:], rtol=1e-9) and gaps.min() > 0
    assert errors[0].item() == pytest.approx(shown[0].item(), rel=1e-9)
    errors[1:].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in next(iter(task.modules.values())).parameters())
    assert all(torch.equal(value, learned[name]) for name, value in parts.unet.state_dict().items())


def test_pictures_of_the_class_meet_captions_of_others_where_the_answer_is_the_aim():
    asked = {}
    pictures = found(["sks"]) + found(["a cat", "a dog"], subset=replace(REG, captions=CaptionRules()))
    for answers in (True, False):
        settings = TuningSettings(rank=4, batch_size=4, trigger="sks", caption_dropout=0.0, prior_answers=answers)
        task = made_task(double(TINY_SD), pictures, settings)
        rng = random.Random(0)
        asked[answers] = {place: {task._caption(place, rng) for _ in range(40)} for place in range(3)}
    assert asked[True] == {0: {"sks"}, 1: {"a cat", "a dog"}, 2: {"a cat", "a dog"}}
    assert asked[False] == {0: {"sks"}, 1: {"a cat"}, 2: {"a dog"}}


def test_estimates_count_what_is_there():
    family = TINY_SDXL
    settings = completed(replace(TuningSettings(rank=4), preset="cpu"), family, 10)
    plain = estimate(family, settings, (128, 128))
    factors = make_factors(dict(double(family).networks), settings, torch.Generator())
    assert plain.parameters == sum(p.numel() for p in factors.parameters())
    less = estimate(family, replace(settings, checkpointing=True), (128, 128))
    assert less.nbytes < plain.nbytes and less.flops > plain.flops
    large = estimate(family, settings, (256, 256))
    assert large.nbytes > plain.nbytes and large.flops > 3 * plain.flops
