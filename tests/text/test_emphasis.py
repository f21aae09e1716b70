"""Rules of emphasis, against their formulas and what must stay as it was."""

import math

import pytest
import torch

from gesso.text import emphasis

CONTEXT = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)) + 0.3
EMPTY = torch.randn(1, 7, 5, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.ones(2, 7)
WEIGHTS[0, 2:4] = torch.tensor([1.5, 0.5])
PLAIN = torch.ones(2, 7)


def test_no_norm_is_a_product():
    found = emphasis.no_norm(CONTEXT, WEIGHTS)
    assert torch.equal(found[0, 2], CONTEXT[0, 2] * 1.5)
    assert torch.equal(found[1], CONTEXT[1])


def test_original_keeps_the_mean_of_each_chunk():
    found = emphasis.original(CONTEXT, WEIGHTS)
    torch.testing.assert_close(found.mean(dim=(1, 2)), CONTEXT.mean(dim=(1, 2)))
    scale = CONTEXT[0].mean() / emphasis.no_norm(CONTEXT, WEIGHTS)[0].mean()
    torch.testing.assert_close(found[0, 2], CONTEXT[0, 2] * 1.5 * scale)


def test_original_does_not_depend_on_the_neighbours():
    together = emphasis.original(CONTEXT, WEIGHTS)
    assert torch.equal(together[:1], emphasis.original(CONTEXT[:1], WEIGHTS[:1]))
    assert torch.equal(together[1], CONTEXT[1])  # no weights in it


def test_original_survives_a_mean_of_zero():
    context = torch.tensor([[[1.0], [-1.0], [0.0]]])
    found = emphasis.original(context, torch.tensor([[0.0, 0.0, 1.0]]))
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_without_weights_nothing_changes(dtype):
    context, empty = CONTEXT.to(dtype), EMPTY.to(dtype)
    for found in (
        emphasis.original(context, PLAIN),
        emphasis.no_norm(context, PLAIN),
        emphasis.ignore(context, WEIGHTS),
        emphasis.from_empty(context, PLAIN, empty),
        emphasis.compel(context, PLAIN, empty),
    ):
        assert found.dtype == dtype
        assert torch.equal(found, context)


def test_comfyui_moves_away_from_the_empty_prompt():
    found = emphasis.from_empty(CONTEXT, WEIGHTS, EMPTY)
    torch.testing.assert_close(found[0, 2], EMPTY[0, 2] + 1.5 * (CONTEXT[0, 2] - EMPTY[0, 2]))
    assert torch.equal(found[0, 4], CONTEXT[0, 4])
    zero = emphasis.from_empty(CONTEXT, torch.zeros(2, 7), EMPTY)
    torch.testing.assert_close(zero, EMPTY.expand(2, 7, 5))


@pytest.mark.parametrize(("weight", "share"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_compel_takes_a_piece_away_by_its_weight(weight, share):
    without = CONTEXT + 1
    found = emphasis.compel(CONTEXT, PLAIN, EMPTY, [(without, weight)])
    torch.testing.assert_close(found, CONTEXT + share, rtol=0, atol=3e-5)  # Compel stops 1e-5 short of a weight of 0


def test_compel_shares_among_several_pieces():
    parts = [(CONTEXT + 1, 0.5), (CONTEXT + 10, 0.8)]
    share = math.tan(0.2 * math.pi / 2)
    found = emphasis.compel(CONTEXT, PLAIN, EMPTY, parts)
    torch.testing.assert_close(found, CONTEXT + (1 + 10 * share) / (2 + share))


def test_blend():
    torch.testing.assert_close(emphasis.blend([CONTEXT, CONTEXT + 4], [3, 1]), CONTEXT + 1)
    torch.testing.assert_close(emphasis.blend([CONTEXT, CONTEXT], [1, -0.5], normalize=False), CONTEXT * 0.5)
    for contexts, weights in (([], []), ([CONTEXT], [1, 2]), ([CONTEXT, CONTEXT], [1, -1])):
        with pytest.raises(ValueError, match=r"contexts|sum to 0"):
            emphasis.blend(contexts, weights)


def test_every_rule_has_a_name():
    assert set(emphasis.RULES) == {"original", "no_norm", "ignore", "comfyui", "compel"}
    assert set(emphasis.RULES) >= emphasis.NEEDS_EMPTY
