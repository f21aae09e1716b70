"""Training of LoRAs at toy size, and that their files do what the training did."""

from dataclasses import replace

import pytest
import torch

from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.adapters.names import Target
from gesso.checkpoints.weight_file import open_weights
from gesso.errors import GessoError
from gesso.mini.style_lora import CPU_LORA, StyleLora
from gesso.mini.trained_model import TrainedModel
from gesso.scenes.vocabulary import things
from gesso.training.loop import load_state
from toy_training import OBJECTS, glyphs, trained_model

STEPS = 30
RECIPE = replace(
    CPU_LORA,
    rank=4,
    encoding=replace(CPU_LORA.encoding, batch_size=4, total_samples=16),
    denoising=replace(
        CPU_LORA.denoising, batch_size=4, total_samples=4 * STEPS, warmup_samples=4, learning_rate=1e-2, ema_decay=0.9
    ),
    pool_size=16,
    precision="float32",
    report_pictures=4,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return trained_model(tmp_path_factory.mktemp("base") / "toy.safetensors")


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A LoRA that was trained, its file, and what it logged."""
    rows = []
    making = StyleLora(base, "line-art", tmp_path_factory.mktemp("lora"), RECIPE)
    assert making.train(on_log=rows.append)
    path = making.folder / "lines.safetensors"
    making.export(path, {"title": "lines"})
    return making, path, rows


def target(base, unet=None):
    return Target(base.family.name, base.family.layout, {"unet": unet or base.parts.unet, "text": base.parts.text})


def inputs(base):
    torch.manual_seed(1)
    encoding = base.parts.text(base.captions.tokenizer.encode(["a red thing", ""]))
    return torch.randn(2, 4, 8, 8), torch.tensor([900, 100]), encoding.last, encoding.pooled


def test_it_learns(made, base, tmp_path):
    untrained = StyleLora(base, "line-art", tmp_path, RECIPE)
    (tmp_path / "encoding").symlink_to(made[0].folder / "encoding")
    task = untrained._denoising()
    with torch.no_grad():
        before = task.report(task.modules)
    after = [row for row in made[2] if "right_800" in row][-1]
    assert after["right_800"] < 0.9 * before["right_800"]


def test_the_base_is_frozen(made):
    making = made[0]
    task = making._denoising()
    task.loss(0, 4, 0)[0].backward()
    assert all(p.grad is None for p in (*task.unet.parameters(), *task.text.parameters(), *task.pool.vae.parameters()))
    assert all(p.grad is not None for p in task.factors.parameters())


def test_only_the_encoder_learns_the_style(made, base):
    found = made[0]._vae().state_dict()
    changed = {
        name.partition(".")[0] for name, value in base.parts.vae.state_dict().items() if (found[name] != value).any()
    }
    assert changed == {"encoder", "quant_conv"}


def test_the_file_is_read_bit_by_bit(made, base):
    making, path, _ = made
    lora = read_lora(open_weights(path), target(base))
    assert lora.match.unmatched == ()
    assert lora.metadata["modelspec.architecture"] == "gesso-mini/lora"
    assert lora.metadata["modelspec.hash_sha256"].startswith("0x")
    factors = load_state(making.folder / "denoising" / "last.pt")["average"]["factors"]
    assert len(factors) == 2 * len(lora.changes)
    for name, change in lora.changes.items():
        key = f"layers.{name.replace('.', '/')}"
        assert change.weight.scale == 1
        assert torch.equal(change.weight.up.flatten(), factors[f"{key}.up"].half().flatten()), name
        assert torch.equal(change.weight.down.flatten(), factors[f"{key}.down"].half().flatten()), name


@pytest.mark.parametrize("merged", [False, True])
def test_the_file_draws_as_the_training_did(made, base, merged):
    making, path, _ = made
    task = making._denoising()
    task.factors.load_state_dict(load_state(making.folder / "denoising" / "last.pt")["average"]["factors"])
    with torch.no_grad():
        given = inputs(base)
        trained, plain = task.unet(*given), base.parts.unet(*given)
        lora = read_lora(open_weights(path), target(base))
        with attach({"unet": base.parts.unet}, [(lora, 1.0, 1.0)], merged=merged):
            attached = base.parts.unet(*given)
    assert (trained - plain).abs().max() > 0.05
    torch.testing.assert_close(attached, trained, atol=2e-3, rtol=2e-3)  # half precision of the file


def test_what_is_refused(base, tmp_path):
    with pytest.raises(GessoError, match="expected one of line-art, "):
        StyleLora(base, "oil", tmp_path)
    with pytest.raises(GessoError, match=f"draws {len(OBJECTS)} objects, the object table has {len(things())}"):
        TrainedModel(base.parts, things(), glyphs())
