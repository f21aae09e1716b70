"""Training of a ControlNet at toy size, and that its file does what the training did."""

from dataclasses import replace

import pytest
import torch

from gesso.checkpoints.errors import ModelFileError
from gesso.families.native_control import load_control
from gesso.mini.controlnet import CPU_CONTROL, EdgeControl
from gesso.training.loop import load_average
from toy_training import model_file, trained_model

pytest.importorskip("cv2")

RECIPE = replace(
    CPU_CONTROL,
    hint_channels=(8, 16),
    hint_patch=4,
    plan=replace(
        CPU_CONTROL.plan, batch_size=4, total_samples=160, warmup_samples=4, learning_rate=1e-2, ema_decay=0.9
    ),
    pool_size=16,
    precision="float32",
    report_pictures=8,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return trained_model(tmp_path_factory.mktemp("base") / "toy.safetensors")


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A ControlNet that was trained, its file, and what it logged."""
    rows = []
    making = EdgeControl(base, tmp_path_factory.mktemp("control"), RECIPE)
    assert making.train(on_log=rows.append)
    path = making.folder / "edges.safetensors"
    making.export(path, {"title": "edges"})
    return making, path, rows


def inputs(base):
    torch.manual_seed(1)
    encoding = base.parts.text(base.captions.tokenizer.encode(["a red thing", ""]))
    x, hint = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 64, 64)
    return (x, torch.tensor([900, 100]), encoding.last), hint, encoding.pooled


def test_it_starts_as_the_unet_was(base, tmp_path):
    task = EdgeControl(base, tmp_path, RECIPE)._task()
    given, hint, pooled = inputs(base)
    with torch.no_grad():
        control = task.control(*given, hint, pooled)
        steered, plain = task.unet(*given, pooled, control=control), task.unet(*given, pooled)
    assert torch.equal(steered, plain)
    assert all((extra == 0).all() for extra in control)


def test_the_copy_is_the_unets_encoder(base, tmp_path):
    """With the hint's way in at zero, what would leave through the zero convolutions are the UNet's own skips."""
    task = EdgeControl(base, tmp_path, RECIPE)._task()
    task.unet.conv_in.weight.data[:, 4:] = 0  # the draft, which the copy has not
    seen = []
    hooks = [
        level.register_forward_hook(lambda m, a, out: seen.append(out))
        for level in (*task.unet.down, *task.control.down)
    ]
    given, hint, pooled = inputs(base)
    with torch.no_grad():
        task.unet(*given, pooled)
        task.control(*given, hint, pooled)
    for hook in hooks:
        hook.remove()
    ours, copied = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for mine, theirs in zip(ours, copied, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_it_learns(made, base, tmp_path):
    task = EdgeControl(base, tmp_path, RECIPE)._task()
    with torch.no_grad():
        before = task.report(task.modules)
    assert before["right_800"] == before["none_800"]
    after = [row for row in made[2] if "right_800" in row][-1]
    assert after["right_800"] < 0.9 * before["right_800"]


def test_the_base_is_frozen(made):
    task = made[0]._task()
    task.loss(0, 4, 0)[0].backward()
    assert all(p.grad is None for p in (*task.unet.parameters(), *task.text.parameters(), *task.pool.vae.parameters()))
    assert all(p.grad is not None for p in task.control.zero_down.parameters())


def test_the_file_is_read_bit_by_bit(made):
    making, path, _ = made
    found = load_control(path)
    assert (found.family, found.hint) == ("gesso-mini", "canny")
    assert found.control.config == making.control.config
    average = load_average(making.folder)["control"]
    assert found.control.state_dict().keys() == average.keys()
    for name, value in found.control.state_dict().items():
        assert torch.equal(value, average[name].half()), name


def test_a_hint_of_another_size_is_refused(made, base):
    given, hint, pooled = inputs(base)
    with pytest.raises(ValueError, match="expected 64 x 64"):
        made[0].control(*given, hint[..., :32], pooled)


def test_another_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="not a ControlNet in gesso's own layout"):
        load_control(model_file(tmp_path / "model.safetensors"))
