"""Mixed precision on a CPU: as near to float32 as autocast alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.training import mixed
from gesso.training.mixed import is_mixed, mixed_on_cpu
from gesso.training.precision import context_of

PLACES = 24


class Network(nn.Module):
    """A convolution, a group norm and attention to itself, with a mask or without."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 3)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.silu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(2, (4, 8)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2))
        mixed_in = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        result: Tensor = self.out(mixed_in.transpose(1, 2).flatten(2))
        return result


def learned(network: Network, context: Callable[[], AbstractContextManager[object]]) -> list[Tensor]:
    """The output and all gradients within the context, in float32."""
    x = torch.randn(2, 3, 4, PLACES // 4, generator=torch.Generator().manual_seed(1))
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    network.zero_grad(set_to_none=True)
    with context():
        y = network(x)
    y.float().square().sum().backward()
    return [one.detach().float().clone() for one in (y, x.grad, *(p.grad for p in network.parameters()))]


def apart(these: list[Tensor], others: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(these, others, strict=True)]


@pytest.mark.parametrize("causal", [False, True])
def test_output_and_gradients_are_as_near_to_float32_as_by_autocast(causal: bool) -> None:
    torch.manual_seed(0)
    network = Network(causal=causal)
    exact = learned(network, nullcontext)
    plain = apart(learned(network, lambda: torch.autocast("cpu", dtype=torch.bfloat16)), exact)
    ours = apart(learned(network, context_of("bfloat16", torch.device("cpu"))), exact)
    assert max(ours) < 0.02 and max(ours) < 2 * max(plain), (ours, plain)
    assert min(max(ours), max(plain)) > 1e-4  # it is bfloat16


@pytest.mark.parametrize(("most", "fused"), [(PLACES**2, False), (PLACES**2 - 1, True)])
def test_long_attention_stays_fused(most: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "MOST_SCORES", most)
    q, k, v = torch.randn(3, 1, 4, PLACES, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    usual = F.scaled_dot_product_attention(q, k, v)
    with mixed_on_cpu():
        found = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(found, usual) == fused  # products round the scores
    assert (found.float() - usual.float()).norm() < 0.01 * usual.float().norm()


def test_it_ends_with_the_block_that_began_it() -> None:
    inside = []

    def fail() -> None:
        with mixed_on_cpu():
            inside.append(is_mixed() and torch.is_autocast_enabled("cpu"))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert inside == [True] and not is_mixed() and not torch.is_autocast_enabled("cpu")
