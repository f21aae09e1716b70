"""The same random LoRA through gesso and through diffusers with PEFT, on the same weights."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.files import kohya, lora_parts, read, target_of
from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.checkpoints.weight_file import open_weights
from gesso.families.base import Family
from tiny_sd import TINY_SD, TINY_SDXL, save_tiny_folder, tiny_parts

LARGEST = 1e-5  # float32 sums of at most 1000 numbers about 1, in another order
FAMILIES = {"SD 1.5": TINY_SD, "SDXL": TINY_SDXL}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {name: save_tiny_folder(root / family.name, family) for name, family in FAMILIES.items()}


@cache
def _inputs(family: Family) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    added = family.unet.added_dim
    return {
        "x": torch.randn(1, 4, 16, 16, generator=generator),
        "context": torch.randn(1, 77, family.unet.context_dim, generator=generator),
        "added": torch.randn(1, added or 1, generator=generator),
        "ids": torch.tensor([[49406, 320, 2368, 539, 49407, *[49407] * 72]]),
    }


def ours(family: Family) -> dict[str, Tensor]:
    """What each network says."""
    given, parts = _inputs(family), tiny_parts(family)
    added = given["added"] if family.unet.added_dim else None
    found = {"unet": parts.unet(given["x"], torch.tensor([500.0]), given["context"], added)}
    found["text"] = parts.text(given["ids"]).last
    if parts.text_2 is not None:
        found["text_2"] = parts.text_2(given["ids"]).projected
    return found


def theirs(pipe: Any, family: Family) -> dict[str, Tensor]:
    given = _inputs(family)
    conditions: dict[str, Any] = {}
    if family.unet.added_dim:
        # The tiny SDXL has sizes of width 8; the vector is handed over whole, as the network embeds it.
        pooled, sizes = given["added"][:, : -6 * 8], given["added"][:, -6 * 8 :]
        conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}
        pipe.unet.add_time_proj.forward = lambda _: sizes.reshape(6, 8)
    sample = pipe.unet(given["x"], torch.tensor(500.0), given["context"], **conditions).sample
    found = {"unet": sample, "text": pipe.text_encoder(given["ids"]).last_hidden_state}
    if family.text_2 is not None:
        found["text_2"] = pipe.text_encoder_2(given["ids"]).text_embeds
    return found


def pipeline(folder: Path, family: Family) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries about themselves
        import diffusers

        kind = diffusers.StableDiffusionXLPipeline if family.text_2 else diffusers.StableDiffusionPipeline
        others = {} if family.text_2 else {"safety_checker": None, "feature_extractor": None}
        return kind.from_pretrained(folder, **others)


def load_theirs(pipe: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
@pytest.mark.sampled(2)
def test_a_kohya_lora_as_in_diffusers(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    family = FAMILIES[name]
    target = target_of(family)
    torch.manual_seed(7)
    tensors = attention_only(kohya(target, lora_parts))
    lora = read(tmp_path / "lora.safetensors", tensors, target)
    assert lora.match.unmatched == () and lora.dialects == ("kohya",)
    pipe = pipeline(folders[name], family)
    before = ours(family)
    assert_near(before, theirs(pipe, family))
    load_theirs(pipe, tmp_path / "lora.safetensors")
    expected = theirs(pipe, family)
    for merged in (False, True):
        with attach(target.networks, [(lora, 1.0, 1.0)], merged=merged):
            found = ours(family)
        assert_near(found, expected)
        for part, tensor in ours(family).items():
            assert torch.equal(tensor, before[part])  # every bit is back
            assert (expected[part] - tensor).abs().max() > 1e-2  # and the adapter did something


def attention_only(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What kohya's trainer changes unless told otherwise: linear layers of the transformers."""
    return {n: t for n, t in tensors.items() if "attentions" in n or "transformer_blocks" in n or "lora_te" in n}


@pytest.mark.parametrize(
    ("name", "dora"),
    [
        pytest.param(name, dora, marks=() if (i + dora) % 2 == 0 else pytest.mark.slow)  # diffusers loads a model
        for i, name in enumerate(FAMILIES)
        for dora in (False, True)
    ],
)
@torch.no_grad()
@pytest.mark.sampled(2)
def test_a_peft_adapter_as_in_diffusers(name: str, dora: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    """The file is written by diffusers from adapters that PEFT made, alpha and all."""
    peft = pytest.importorskip("peft")
    family = FAMILIES[name]
    target = target_of(family)
    pipe = pipeline(folders[name], family)
    torch.manual_seed(8)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_dora=dora, target_modules=["to_q", "to_v", "to_out.0", "conv1", "proj_in"]
    )
    text_config = peft.LoraConfig(r=2, lora_alpha=2, use_dora=dora, target_modules=["q_proj", "fc1"])
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    if family.text_2:
        parts["text_encoder_2"] = pipe.text_encoder_2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part, network in parts.items():
            network.add_adapter(config if part == "unet" else text_config)
            for key, param in network.named_parameters():
                if "lora_B" in key:
                    param.normal_(0, 0.1)
                elif "lora_magnitude" in key:
                    param.mul_(1 + 0.3 * torch.rand_like(param))
        layers_of = {f"{part}_lora_layers": peft.get_peft_model_state_dict(network) for part, network in parts.items()}
        metadata = {
            f"{part}_lora_adapter_metadata": network.peft_config["default"].to_dict() for part, network in parts.items()
        }
        type(pipe).save_lora_weights(tmp_path, **layers_of, **metadata)
    lora = read_lora(open_weights(tmp_path / "pytorch_lora_weights.safetensors"), target)
    assert lora.match.unmatched == () and lora.dialects == ("PEFT",)
    assert all(("DoRA" in kind) == dora for kind in lora.kinds)
    expected = theirs(pipe, family)
    for merged in (False, True):
        with attach(target.networks, [(lora, 1.0, 1.0)], merged=merged):
            assert_near(ours(family), expected)


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for part, tensor in expected.items():
        gap = (found[part] - tensor).abs().max().item()
        assert gap <= LARGEST, f"{part}: {gap:.2e}"
