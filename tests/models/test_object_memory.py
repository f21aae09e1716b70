"""The drawings of objects behind a text."""

import torch
from torch import nn

from gesso.models.object_memory import NONE, MemoryConfig, ObjectMemory

CONFIG = MemoryConfig(objects=3, looks=2, patches=4, memory_channels=5, slots=2)


def memory() -> ObjectMemory:
    torch.manual_seed(0)
    made = ObjectMemory(CONFIG, 8)
    made.table.data.normal_()
    return made.eval()


def context(made: ObjectMemory, text: torch.Tensor, pooled: torch.Tensor, objects: list[int], places: list[int]):
    rows = torch.tensor([objects]), torch.tensor([places])
    with torch.no_grad():
        return made(text, pooled, *rows)


def test_the_text_comes_first_and_as_it_was() -> None:
    text, pooled = torch.randn(1, 6, 8), torch.randn(1, 8)
    made = context(memory(), text, pooled, [1, NONE], [2, 0])
    assert made.shape == (1, 6 + 2 * 4, 8)
    assert torch.equal(made[:, :6], text)
    assert made[:, 6:10].abs().min() > 0 and not made[:, 10:].any()


def test_a_slot_follows_from_its_object_and_its_word() -> None:
    text, pooled, ours = torch.randn(1, 6, 8), torch.randn(1, 8), memory()
    both = context(ours, text, pooled, [1, 2], [2, 4])
    assert torch.equal(context(ours, text, pooled, [1, NONE], [2, 0])[:, :10], both[:, :10])
    assert not torch.allclose(context(ours, text, pooled, [0, 2], [2, 4])[:, 6:10], both[:, 6:10])
    assert not torch.allclose(context(ours, text, pooled, [1, 2], [3, 4])[:, 6:10], both[:, 6:10])


def test_the_pooled_text_chooses_the_look() -> None:
    text, ours = torch.randn(1, 6, 8), memory()
    nn.init.zeros_(ours.look.weight)
    for look in (0, 1):
        ours.look.bias.data = torch.tensor([100.0, -100.0]) * (1 - 2 * look)
        usual = context(ours, text, torch.randn(1, 8), [1, NONE], [2, 0])
        ours.table.data[1, 1 - look] += 1.0
        assert torch.equal(context(ours, text, torch.randn(1, 8), [1, NONE], [2, 0]), usual)
        ours.table.data[1, look] += 1.0
        assert not torch.allclose(context(ours, text, torch.randn(1, 8), [1, NONE], [2, 0]), usual)


def test_no_training_changes_the_drawings() -> None:
    ours = memory()
    ours(torch.randn(1, 6, 8), torch.randn(1, 8), torch.tensor([[1, 2]]), torch.tensor([[0, 1]])).sum().backward()
    assert ours.table.grad is None and ours.patch.weight.grad is not None
