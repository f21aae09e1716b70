"""Classifier-free guidance in one batch."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gesso.diffusion.guidance import GuidedNetwork, guide


@dataclass(frozen=True, eq=False)
class Words:
    """A conditioning of one's own kind: guidance knows nothing about it."""

    context: Tensor


def cat(first, second):
    return Words(torch.cat([first.context, second.context]))


class Network:
    """z + timestep / 1000 + context, counting its calls and rows."""

    def __init__(self, dtype=torch.float32):
        self.rows = []
        self.dtype = dtype

    def __call__(self, z, timestep, words):
        assert len(z) == len(timestep) == len(words.context)
        self.rows.append(len(z))
        return (z + timestep.reshape(-1, 1, 1, 1) / 1000 + words.context.reshape(-1, 1, 1, 1)).to(self.dtype)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(*values):
    return Words(torch.tensor(values))


def test_guidance_is_one_call_on_a_doubled_batch():
    network, z, t = Network(), normal(2, 4, 3, 3), torch.tensor([10.0, 900.0])
    guided = GuidedNetwork(network, cond=words(1.0, 2.0), uncond=words(0.5, -1.0), scale=7.5, cat=cat)
    expected = z + (t / 1000 + torch.tensor([0.5 + 7.5 * 0.5, -1.0 + 7.5 * 3.0])).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(guided(z, t), expected, rtol=0, atol=5e-6)  # float32: 7.5 times 1e-7 of 3
    assert network.rows == [4]


def test_scale_one_leaves_the_second_half_out():
    network, z, t = Network(), normal(2, 4, 3, 3), torch.tensor([10.0, 900.0])
    for scale in (1, 1.0, torch.ones(2)):
        guided = GuidedNetwork(network, cond=words(1.0, 2.0), uncond=None, scale=scale, cat=cat)
        assert torch.equal(guided(z, t), Network()(z, t, words(1.0, 2.0)))
    assert network.rows == [2, 2, 2]


def test_scale_zero_is_the_network_without_a_prompt():
    z, t = normal(2, 4, 3, 3), torch.tensor([10.0, 900.0])
    guided = GuidedNetwork(Network(), cond=words(1.0, 2.0), uncond=words(3.0, 4.0), scale=0.0, cat=cat)
    assert torch.equal(guided(z, t), Network()(z, t, words(3.0, 4.0)))


def test_halves_are_put_together_once():
    times = []

    def counting_cat(first, second):
        times.append(1)
        return cat(first, second)

    guided = GuidedNetwork(Network(), cond=words(1.0), uncond=words(0.0), scale=3.0, cat=counting_cat)
    for _ in range(3):
        guided(normal(1, 4, 2, 2), torch.ones(1))
    assert len(times) == 1


@pytest.mark.parametrize("rescale", [0.0, 0.7, torch.tensor([0.0, 0.7, 1.0, 0.7, 0.3])])
def test_rows_do_not_depend_on_the_batch(rescale):
    """Bit for bit, among them a row that is not guided at all; 3 x 41 x 43 numbers fill no vector and no cache line."""
    z, t = normal(5, 3, 41, 43), torch.linspace(1, 999, 5)
    cond, uncond = words(1.0, 2.0, 3.0, 4.0, 5.0), words(0.3, 0.1, 0.9, 0.2, 0.4)
    scale = torch.tensor([7.5, 1.0, 3.0, 0.0, 12.25], dtype=torch.float64)
    together = GuidedNetwork(Network(), cond, uncond, scale, cat, rescale)(z, t)
    for row in range(5):
        one = slice(row, row + 1)
        phi = rescale[row].item() if isinstance(rescale, Tensor) else rescale
        alone = GuidedNetwork(
            Network(), Words(cond.context[one]), Words(uncond.context[one]), scale[row].item(), cat, phi
        )
        assert torch.equal(alone(z[one], t[one])[0], together[row])


def test_rescale_gives_each_row_the_deviation_of_cond():
    """arXiv:2305.08891, equations 15 and 16."""
    cond, uncond = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1) * 2
    plain = guide(cond, uncond, 7.5)
    full = guide(cond, uncond, 7.5, rescale=1.0)
    torch.testing.assert_close(full.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))
    torch.testing.assert_close(guide(cond, uncond, 7.5, rescale=0.7), 0.7 * full + 0.3 * plain)
    assert (plain.std(dim=(1, 2, 3)) > 3 * cond.std(dim=(1, 2, 3))).all()


def test_row_without_rescale_survives_a_flat_prediction():
    flat = torch.zeros(2, 4, 2, 2)
    assert torch.equal(guide(flat, flat, 7.5, rescale=torch.tensor([0.0, 0.0])), flat)


def test_network_may_answer_in_another_type():
    z = normal(1, 4, 3, 3)
    for scale in (1.0, 5.0):
        guided = GuidedNetwork(Network(torch.bfloat16), words(1.0), words(0.0), scale, cat)
        assert guided(z, torch.ones(1)).dtype == torch.float32


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="needs uncond"):
        GuidedNetwork(Network(), words(1.0), None, 7.5, cat)
    for phi in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="rescale"):
            GuidedNetwork(Network(), words(1.0), words(0.0), 7.5, cat, phi)
    with pytest.raises(ValueError, match="one per row"):
        guide(normal(2, 4, 3, 3), normal(2, 4, 3, 3), torch.ones(3))


def test_both_predictions_come_from_one_call():
    """For CFG++: guided, and without the prompt; at scale 1 too, where __call__ would save that half."""
    calls = []

    def network(z, timestep, context):
        calls.append(len(z))
        return z + context

    for scale in (1.0, 3.0):
        halves = {"cond": torch.full((2, 1), 1.0), "uncond": torch.full((2, 1), -1.0)}
        guided = GuidedNetwork(network, scale=scale, cat=lambda first, second: torch.cat([first, second]), **halves)
        both = guided.with_uncond(torch.zeros(2, 3), torch.zeros(2))
        assert torch.equal(both[0], guided(torch.zeros(2, 3), torch.zeros(2)))
        assert torch.equal(both[1], torch.full((2, 3), -1.0))
    assert calls == [4, 2, 4, 4]


def test_without_uncond_there_is_no_second_prediction():
    alone = GuidedNetwork(
        lambda z, timestep, context: z, cond=torch.ones(1, 1), uncond=None, scale=1.0, cat=lambda a, b: a
    )
    with pytest.raises(ValueError, match="needs uncond"):
        alone.with_uncond(torch.zeros(1, 2), torch.zeros(1))


def test_prompts_that_guide_together_add_up_by_their_weights():
    """Liu et al. 2022: uncond + scale * sum of weight * (prompt - uncond), in one call."""
    network, z, t = Network(), normal(2, 4, 3, 3), torch.tensor([10.0, 900.0])
    cond = words(1.0, 2.0, 4.0, -3.0)  # both rows of the first prompt, then those of the second
    guided = GuidedNetwork(network, cond, words(0.5, -1.0), 7.5, cat, weights=(1.0, -0.5))
    told = torch.tensor([0.5 + 7.5 * (0.5 - 0.5 * 3.5), -1.0 + 7.5 * (3.0 + 0.5 * 2.0)])
    expected = z + (t / 1000 + told).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(guided(z, t), expected, rtol=0, atol=1e-5)  # float32: 7.5 times 1e-7 of 6
    assert network.rows == [6]
    both = guided.with_uncond(z, t)
    uncond = z + (t / 1000 + torch.tensor([0.5, -1.0])).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(both, torch.stack([expected, uncond]), rtol=0, atol=1e-5)


def test_the_weights_of_prompts_hold_at_scale_one_too():
    network, z, t = Network(), normal(1, 4, 3, 3), torch.tensor([10.0])
    guided = GuidedNetwork(network, words(1.0, 3.0), words(0.0), 1.0, cat, weights=(0.5, 0.5))
    torch.testing.assert_close(guided(z, t), Network()(z, t, words(2.0)), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="needs uncond"):
        GuidedNetwork(network, words(1.0, 3.0), None, 1.0, cat, weights=(0.5, 0.5))


def test_rescale_measures_against_what_the_prompts_say_together():
    z, t = normal(2, 4, 8, 8), torch.tensor([10.0, 900.0])

    def network(z, timestep, told):
        return z * told.context.reshape(-1, 1, 1, 1)

    guided = GuidedNetwork(network, words(1.0, 1.0, 3.0, 2.0), words(0.5, 0.5), 7.5, cat, 1.0, (1.0, 1.0))
    together = torch.tensor([0.5 + 0.5 + 2.5, 0.5 + 0.5 + 1.5])  # uncond + both differences
    torch.testing.assert_close(guided(z, t).std(dim=(1, 2, 3)), (z.std(dim=(1, 2, 3)) * together), rtol=1e-5, atol=0)


def test_what_no_batch_holds_is_asked_for_apart():
    network, z, t = Network(), normal(2, 4, 3, 3), torch.tensor([10.0, 900.0])
    told = {"cond": words(1.0, 2.0, 4.0, -3.0), "uncond": words(0.5, -1.0), "scale": 7.5, "weights": (1.0, -0.5)}
    expected = GuidedNetwork(Network(), cat=cat, **told).with_uncond(z, t)
    found = GuidedNetwork(network, cat=cat, separate=True, **told).with_uncond(z, t)
    assert torch.equal(found, expected)
    assert network.rows == [2, 4]
