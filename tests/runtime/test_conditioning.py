"""Residuals of several runs are joined for the rows of each."""

import pytest
import torch

from gesso.adapters.ip_adapter import IPAdapterAttachment, IPAdapterCall
from gesso.runtime.conditioning import Conditioning, ControlResiduals, joined_residuals


def test_each_run_gets_its_own_residuals_and_image_prompts() -> None:
    attachment = object.__new__(IPAdapterAttachment)  # which network it is on does not matter here
    call = IPAdapterCall(attachment, (0.5,), None)
    first = ControlResiduals(control=[torch.ones(2, 3)], ip_adapters=(call,))
    second = ControlResiduals(features=[torch.full((1, 3), 2.0)])
    whole = joined_residuals([(slice(0, 2), first), (slice(3, 4), second)], 4)
    assert whole.control is not None
    assert whole.features is not None
    assert whole.control[0].tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2
    assert whole.features[0].tolist() == [[0.0] * 3] * 3 + [[2.0] * 3]
    (joined,) = whole.ip_adapters
    assert isinstance(joined, IPAdapterCall)
    assert (joined._attachment, joined._rows) == (attachment, slice(0, 2))


def test_batches_that_lack_a_part_are_not_joined():
    plain = Conditioning(context=torch.zeros(1, 2, 3))
    sized = Conditioning(context=torch.zeros(1, 2, 3), added=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="conditioning of context does not join one of context, added"):
        Conditioning.cat(plain, sized)
    marked = Conditioning.cat(plain, Conditioning(context=torch.ones(2, 2, 3), negative=torch.tensor([True, True])))
    assert marked.negative is not None and marked.negative.tolist() == [False, True, True]
    assert marked.shapes == (("context", torch.float32, torch.Size([2, 3])),)


def test_residuals_of_two_networks_are_summed():
    """Of each kind; where one network gives none of a kind, those of the other stay."""
    one = ControlResiduals(control=[torch.tensor([1.0]), torch.tensor([2.0])])
    two = ControlResiduals(control=[torch.tensor([10.0]), torch.tensor([20.0])], features=[torch.tensor([5.0])])
    both = one + two
    assert [part.tolist() for part in both.control or ()] == [[11.0], [22.0]]
    assert [part.tolist() for part in both.features or ()] == [[5.0]]
    assert [part.tolist() for part in (two + one).features or ()] == [[5.0]]
    assert (one + one).features is None
