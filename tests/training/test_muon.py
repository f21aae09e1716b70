"""Muon: its updates are orthogonal and of AdamW's size, both optimisers act as one, and its state resumes."""

import pytest
import torch
from torch import nn

from gesso.training.muon import RMS, Muon, MuonAndAdamW, orthogonal, split_groups


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20), (1, 16, 16)])
def test_singular_values_become_about_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3


def test_directions_stay() -> None:
    a = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    scaled = a * torch.linspace(0.5, 2, 12)  # the same directions at other lengths
    turned = orthogonal(scaled[None])[0]
    assert float((a * turned).sum(dim=0).min()) > 0.6


def test_an_update_of_a_convolution_has_the_size_of_adamws() -> None:
    weight = nn.Parameter(torch.zeros(24, 16, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    Muon([weight], lr=1.0).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(RMS, rel=0.25)


def test_alike_matrices_are_updated_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    starts = [torch.randn(6, 10, generator=generator) for _ in range(3)]
    gradients = [torch.randn(6, 10, generator=generator) for _ in range(3)]

    def updated(which: list[int]) -> list[torch.Tensor]:
        weights = [nn.Parameter(starts[i].clone()) for i in which]
        optimiser = Muon(weights, lr=0.1)
        for _ in range(2):
            for weight, i in zip(weights, which, strict=True):
                weight.grad = gradients[i].clone()
            optimiser.step()
        return [weight.detach() for weight in weights]

    for i, together in enumerate(updated([0, 1, 2])):
        torch.testing.assert_close(updated([i])[0], together)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[4\] is no matrix"):
        Muon([nn.Parameter(torch.zeros(4))])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.inside = nn.Linear(8, 8)
        self.end = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.end(torch.tanh(self.inside(self.table(ids))))


def test_only_the_matrices_inside_go_to_muon() -> None:
    network = Small()
    muon, rest = split_groups(network, 0.1, [network.end])
    assert [p is network.inside.weight for p in muon["params"]] == [True]
    assert {id(p) for p in rest["params"]} == {
        id(p) for p in (network.table.weight, network.inside.bias, *network.end.parameters())
    }


def test_it_learns_and_goes_on_from_its_state() -> None:
    ids, wanted = torch.arange(5), torch.tensor([0, 1, 2, 0, 1])

    def start() -> tuple[Small, MuonAndAdamW]:
        torch.manual_seed(0)
        network = Small()
        return network, MuonAndAdamW(split_groups(network, 0.05, [network.end]), (0.9, 0.99), 0.0)

    def steps(network: Small, optimiser: MuonAndAdamW, count: int) -> float:
        for _ in range(count):
            loss = nn.functional.cross_entropy(network(ids), wanted)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    whole, optimiser = start()
    assert steps(whole, optimiser, 30) < 0.05

    first, optimiser = start()
    steps(first, optimiser, 10)
    second, later = start()
    second.load_state_dict(first.state_dict())
    later.load_state_dict(optimiser.state_dict())
    steps(second, later, 20)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)


def test_the_rate_of_a_step_is_what_the_groups_say() -> None:
    network = Small()
    optimiser = MuonAndAdamW(split_groups(network, 0.05), (0.9, 0.99), 0.0)
    before = network.inside.weight.detach().clone()
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    network(torch.arange(5)).sum().backward()
    optimiser.step()
    assert torch.equal(network.inside.weight, before)
