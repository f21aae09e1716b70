"""Files made from files do the same, or the nearest that their rank allows."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters.files import kohya, lora_parts, randn, read, target_of
from gesso.adapters.changes import QkvPart
from gesso.adapters.lora import Lora, ModuleChange
from gesso.adapters.rewriting import extracted, file_metadata, file_tensors, merged_loras, resized
from gesso.errors import GessoError
from tiny_sd import TINY_SD, TINY_SDXL, tiny_parts


def deltas(lora: Lora, target) -> dict[str, Tensor]:
    """What the adapter adds to every weight."""
    found = {}
    for name, change in lora.changes.items():
        component, _, module = name.partition(".")
        found[name] = change.weight.delta(target.networks[component].get_submodule(module).weight)
    return found


def assert_same(found: Lora, expected: Lora, target) -> None:
    one, other = deltas(found, target), deltas(expected, target)
    assert set(one) == set(other)
    for name, delta in other.items():
        torch.testing.assert_close(one[name], delta, atol=1e-5, rtol=1e-5, msg=name)  # float32 products regrouped


def dora_parts(module: nn.Module) -> dict[str, Tensor]:
    lengths = 1 + torch.rand(module.weight.shape[0], *[1] * (module.weight.ndim - 1))
    return lora_parts(module) | {"dora_scale": lengths}


# Every weight of a model is compared: each pair of a family, a kind and a dialect comes in a quick case.
@pytest.mark.parametrize(
    ("family", "make", "dialect"),
    [
        pytest.param(
            *(family, make, dialect),
            marks=() if (i + j + k) % 2 == 0 else pytest.mark.slow,
            id=f"{dialect}-{make.__name__}-{family.name}",
        )
        for i, family in enumerate((TINY_SD, TINY_SDXL))
        for j, make in enumerate((lora_parts, dora_parts))
        for k, dialect in enumerate(("kohya", "peft"))
    ],
)
@pytest.mark.sampled(2)
def test_converting_and_back(family, make, dialect: str, tmp_path: Path) -> None:
    target = target_of(family)
    tensors = kohya(target, make)
    lora = read(tmp_path / "a", tensors, target)
    written = file_tensors(lora.changes, target, dialect)
    again = read(tmp_path / "b", written, target)
    assert again.match.unmatched == ()
    assert_same(again, lora, target)
    if dialect == "kohya":  # the same file, tensor by tensor
        assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in tensors.items()}
        assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items() if "lora" in name[-20:])


STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OTHERS = {
    "LoHa": {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)},
    "LoKr": {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)},
    "GLoRA": {"a1.weight": (32, 2), "a2.weight": (2, 32), "b1.weight": (32, 2), "b2.weight": (2, 32)},
    "IA3": {"weight": (32, 1)},
    "OFT": {"oft_blocks": (4, 8, 8), "rescale": (32, 1)},
    "full difference": {"diff": (32, 32), "diff_b": (32,)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_keep_what_they_do(kind: str, tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", {f"{STEM}.{part}": randn(*shape) for part, shape in OTHERS[kind].items()}, target)
    assert lora.kinds == {kind: 1}
    assert_same(read(tmp_path / "b", file_tensors(lora.changes, target, "kohya"), target), lora, target)
    with pytest.raises(GessoError, match="PEFT files can hold only LoRA and DoRA"):
        file_tensors(lora.changes, target, "peft")


def test_merging_several(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    one, two = (read(tmp_path / f"{i}", kohya(target, lora_parts), target) for i in range(2))
    merged = merged_loras([(one, 0.5, 1.0), (two, -1.0, 0.25)], target)
    both = read(tmp_path / "both", file_tensors(merged, target, "kohya"), target)
    found, first, second = deltas(both, target), deltas(one, target), deltas(two, target)
    for name, delta in found.items():
        a, b = (0.5, -1.0) if name.startswith("unet.") else (1.0, 0.25)
        torch.testing.assert_close(delta, a * first[name] + b * second[name], atol=1e-5, rtol=1e-5)
    assert both.ranks == {6: len(found)}
    loha = read(tmp_path / "l", {f"{STEM}.{p}": randn(*shape) for p, shape in OTHERS["LoHa"].items()}, target)
    (name,) = loha.changes
    mixed = merged_loras([(one, 1.0, 1.0), (loha, 2.0, 0.0)], target)[name].weight.delta(torch.zeros(32, 32))
    torch.testing.assert_close(mixed, first[name] + 2 * deltas(loha, target)[name])


DORA = {"lora_up.weight": (32, 2), "lora_down.weight": (2, 32), "dora_scale": (32, 1)}


@pytest.mark.parametrize("parts", [OTHERS["IA3"], OTHERS["OFT"], OTHERS["GLoRA"], DORA])
@pytest.mark.sampled(2)
def test_what_depends_on_the_models_weights_is_not_merged(parts: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    one = read(tmp_path / "one", kohya(target, lora_parts), target)
    other = read(tmp_path / "other", {f"{STEM}.{part}": randn(*shape) for part, shape in parts.items()}, target)
    with pytest.raises(GessoError, match="depends on the model's own weights"):
        merged_loras([(one, 1.0, 1.0), (other, 1.0, 0.0)], target)


def test_resizing_gives_the_nearest_of_its_rank(tmp_path: Path) -> None:
    """The error is the root of the sum of squares of the singular values left out (Eckart and Young)."""
    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", kohya(target, lora_parts), target)
    smaller = resized(lora.changes, rank=2)
    for name, delta in deltas(lora, target).items():
        left_out = torch.linalg.svdvals(delta.flatten(1))[2:]
        gap = smaller[name].weight.delta(delta) - delta
        torch.testing.assert_close(gap.norm(), left_out.norm(), atol=1e-5, rtol=1e-3)
        assert smaller[name].weight.rank <= 2
    whole = resized(lora.changes, energy=1.0)
    for name, delta in deltas(lora, target).items():
        torch.testing.assert_close(whole[name].weight.delta(delta), delta, atol=1e-5, rtol=1e-4)
        assert whole[name].weight.rank == min(3, *delta.flatten(1).shape)
    for share in (0.3, 0.8):
        for name, change in resized(lora.changes, energy=share).items():
            singular = torch.linalg.svdvals(deltas(lora, target)[name].flatten(1)) if name.endswith("conv_in") else None
            if singular is not None:
                kept = (singular**2).cumsum(0) / (singular**2).sum()
                assert change.weight.rank == int((kept < share).sum()) + 1
    zero = replace(change, weight=replace(change.weight, up=torch.zeros_like(change.weight.up)))
    assert resized({name: zero}, energy=0.5)[name].weight.rank == 1
    for arguments in ({}, {"rank": 0}, {"energy": 1.5}, {"rank": 1, "energy": 0.5}):
        with pytest.raises(ValueError, match="rank"):
            resized(lora.changes, **arguments)


def test_extracting_what_was_added(tmp_path: Path) -> None:
    """A model with a LoRA of rank 3 merged, less the model, is that LoRA."""
    from gesso.adapters.attaching import attach

    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", kohya(target, lora_parts), target)
    base = tiny_parts(TINY_SD).networks
    plain = {part: dict(net.state_dict()) for part, net in base.items()}
    tuned = dict(tiny_parts.__wrapped__(TINY_SD, 0).networks)
    for part, net in tuned.items():
        assert all(torch.equal(t, plain[part][n]) for n, t in net.state_dict().items())
    with pytest.raises(GessoError, match="nothing to extract"):
        extracted(base, tuned, rank=3)
    with pytest.raises(ValueError, match="rank 0: expected 1 or more"):
        extracted(base, tuned, rank=0)
    with attach(tuned, [(lora, 1.0, 1.0)], merged=True):
        found = extracted(base, tuned, rank=3)
        only_unet = extracted(base, tuned, rank=3, text=False)
    expected = deltas(lora, target)
    assert set(found) == set(expected) and set(only_unet) == {name for name in found if name.startswith("unet.")}
    for name, delta in expected.items():
        torch.testing.assert_close(found[name].weight.delta(delta), delta, atol=1e-5, rtol=1e-3)


def test_extracting_takes_a_single_number_and_leaves_rounding() -> None:
    """One weight that differs in one number, one that differs by less than a millionth of its size."""
    base = {"unet": nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Conv2d(2, 3, 3)}).requires_grad_(False)}
    tuned = copy.deepcopy(base)
    tuned["unet"]["a"].weight[1, 2] += 0.5
    largest = tuned["unet"]["b"].weight.abs().max()
    tuned["unet"]["b"].weight[0, 0, 0, 0] = base["unet"]["b"].weight[0, 0, 0, 0] + 0.5e-6 * largest
    found = extracted(base, tuned, rank=9)
    assert list(found) == ["unet.a"] and found["unet.a"].weight.rank == 3
    expected = torch.zeros(4, 3)
    expected[1, 2] = 0.5
    torch.testing.assert_close(found["unet.a"].weight.delta(expected), expected)
    tuned["unet"]["b"].weight[0, 0, 0, 0] = base["unet"]["b"].weight[0, 0, 0, 0] + 4e-6 * largest
    assert list(extracted(base, tuned, rank=1)) == ["unet.a", "unet.b"]
    tuned["unet"]["b"] = nn.Conv2d(2, 3, 1)
    with pytest.raises(GessoError, match=r"unet\.b: the two models have different sizes"):
        extracted(base, tuned, rank=1)


def test_biases_are_merged_with_their_strengths(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    biases = [randn(32), randn(32)]
    one, two = (read(tmp_path / f"{i}", {f"{STEM}.diff_b": bias}, target) for i, bias in enumerate(biases))
    (change,) = merged_loras([(one, 0.5, 7.0), (two, -1.0, 7.0)], target).values()
    assert change.weight is None
    torch.testing.assert_close(change.bias, 0.5 * biases[0] - biases[1])
    whole = read(tmp_path / "w", {f"{STEM}.diff": (difference := randn(32, 32)), f"{STEM}.diff_b": biases[0]}, target)
    lora = read(
        tmp_path / "l", {f"{STEM}.lora_up.weight": randn(32, 2), f"{STEM}.lora_down.weight": randn(2, 32)}, target
    )
    (change,) = merged_loras([(whole, 2.0, 0.0), (lora, 0.0, 0.0)], target).values()
    torch.testing.assert_close(change.weight.delta(difference), 2 * difference)
    torch.testing.assert_close(change.bias, 2 * biases[0])
    (change,) = merged_loras([(whole, 2.0, 0.0), (lora, 0.0, 0.0)], target, rank=4).values()
    assert change.weight.rank == 4


def test_what_a_dialect_has_no_form_for(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", {f"{STEM}.diff": randn(32, 32)}, target)
    with pytest.raises(ValueError, match="dialect 'other': expected one of"):
        file_tensors(lora.changes, target, "other")
    part = ModuleChange(QkvPart(next(iter(lora.changes.values())).weight, 1), None)
    with pytest.raises(GessoError, match="QkvPart: cannot be written to a file"):
        file_tensors(dict.fromkeys(lora.changes, part), target, "kohya")


def test_metadata_of_a_file_made_from_a_file(tmp_path: Path) -> None:
    """Hashes of the old content go, in PEFT's file there is diffusers' mark, in kohya's the network."""
    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", kohya(target, lora_parts), target)
    kept = {"sshs_legacy_hash": "x", "modelspec.hash_sha256": "y", "format": "z", "ss_tag": "t", "ss_v2": "said"}
    assert file_metadata(target, lora.changes, "peft", kept) == {"ss_tag": "t", "ss_v2": "said", "format": "pt"}
    assert file_metadata(target, lora.changes, "kohya", kept) == {
        "ss_tag": "t",
        "ss_v2": "said",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "3.0",
        "ss_base_model_version": "sd_v1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.sai_model_spec": "1.0.1",
    }
