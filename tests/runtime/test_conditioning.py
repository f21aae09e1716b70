"""Residuals of several runs are joined for the rows of each."""

import torch

from gesso.adapters.ip_adapter import IPAdapterAttachment, IPAdapterCall
from gesso.runtime.conditioning import ControlResiduals, joined_residuals


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
