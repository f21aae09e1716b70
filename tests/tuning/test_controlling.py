"""A ControlNet on the user's pictures: the loss of diffusers, hints that fit their pictures, a file that steers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gesso.checkpoints import keymap
from gesso.checkpoints.controlnets import diffusers_rules
from gesso.checkpoints.weight_file import open_weights
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.families.control_network import load_control_network
from gesso.families.native_control import load_control
from gesso.hints.registry import preprocess
from gesso.models.controlnet import ControlNet
from gesso.training.loop import load_state
from gesso.tuning.buckets import Framing
from gesso.tuning.controlling import ControlLearner, ControlTask, control_config, make_control, write_control
from gesso.tuning.dataset import Example, Subset
from gesso.tuning.estimate import estimate
from gesso.tuning.hints import Hints
from gesso.tuning.latents import Encoded
from gesso.tuning.run import TuningRun, objective_of
from gesso.tuning.settings import TuningSettings, completed
from gesso.tuning.survey import Found
from tiny_models import save_tiny_mini, tiny_family
from tiny_sd import TINY_SD, TINY_SDXL, save_tiny_folder
from tuning.made import double, found, save_folder, save_picture
from tuning.test_parity import CAPTIONS, LIMIT, drawn_at_random, their_loss, theirs


def stirred(control: ControlNet) -> ControlNet:
    """With numbers where it begins at zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for zero in (control.hint.conv_out, control.zero_mid, *control.zero_down):
            for parameter in zero.parameters():
                parameter.normal_(0, 0.1, generator=generator)
    return control


def made_task(family: Any, hints: Any, *, checkpointing: bool = False) -> ControlTask:
    parts = double(family)
    for network in parts.networks.values():
        network.requires_grad_(False)
    settings = completed(TuningSettings(kind="controlnet", preset="cpu", caption_dropout=0.0), family, 3)
    control = stirred(make_control(family, parts.unet, torch.Generator().manual_seed(1)).double())
    side = 128 // family.vae.downscale
    latents = {
        (place, False): Encoded(torch.zeros(4, side, side), torch.zeros(4, side, side), None) for place in range(3)
    }
    return ControlTask(
        parts,
        ControlLearner(control),
        found(CAPTIONS, bucket=(128, 128)),
        latents,
        objective_of(settings, parts),
        batch_size=3,
        seed=0,
        hints=hints,
        checkpointing=checkpointing,
    )


def some_hints(places: Any, flips: Any) -> Tensor:
    return torch.rand(len(places), 3, 128, 128, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("family", [TINY_SD, pytest.param(TINY_SDXL, marks=pytest.mark.slow)], ids=lambda one: one.name)
def test_loss_and_gradients_are_those_of_diffusers(family: Any, tmp_path: Path) -> None:
    task = made_task(family, some_hints)
    pipe = theirs(family, save_tiny_folder(tmp_path / "model", family))
    from diffusers import ControlNetModel

    peer = ControlNetModel.from_unet(pipe.unet).double()
    rules = diffusers_rules(task.learner.control.config, linear=family.layout != "sd1")
    peer.load_state_dict(keymap.save(rules, dict(task.learner.control.state_dict())))  # strict
    pipe.unet.requires_grad_(False)
    hint = some_hints(range(3), ()).double()
    plain = pipe.unet.forward

    def steered(x: Tensor, times: Tensor, context: Tensor, **others: Any) -> Any:
        down, mid = peer(x, times, context, hint, return_dict=False, **others)
        return plain(
            x, times, context, down_block_additional_residuals=down, mid_block_additional_residual=mid, **others
        )

    pipe.unet.forward = steered
    drawn = drawn_at_random()
    loss = task.objective.loss(task.errors([0, 1, 2], [False] * 3, CAPTIONS, *drawn), drawn[2])
    loss.backward()
    expected = their_loss(pipe, task, *drawn, 0.0)
    expected.backward()
    assert abs(loss.item() / expected.item() - 1) < LIMIT
    assert all(p.grad is None for network in task.parts.networks.values() for p in network.parameters())
    grads = keymap.save(rules, {name: p.grad for name, p in task.learner.control.named_parameters()})
    known = {name: p.grad for name, p in peer.named_parameters()}
    assert grads.keys() == known.keys()
    whole = torch.cat([grad.flatten() for grad in known.values()]).norm()
    for name, grad in grads.items():
        gap = float((grad - known[name]).norm())
        assert gap < LIMIT * max(float(known[name].norm()), 1e-9 * float(whole)), name


@pytest.mark.slow
def test_it_begins_as_the_model_and_checkpoints_give_the_same_gradients() -> None:
    parts = double(TINY_SD)
    control = make_control(TINY_SD, parts.unet, torch.Generator().manual_seed(1)).double()
    x, context = torch.randn(1, 4, 16, 16).double(), torch.randn(1, 77, 32).double()
    residuals = control(x, torch.tensor([5]), context, torch.rand(1, 3, 128, 128).double())
    assert all(not residual.any() for residual in residuals)
    same = make_control(TINY_SD, parts.unet, torch.Generator().manual_seed(1)).double()
    other = make_control(TINY_SD, parts.unet, torch.Generator().manual_seed(2)).double()
    assert torch.equal(control.hint.conv_in.weight, same.hint.conv_in.weight)
    assert not torch.equal(control.hint.conv_in.weight, other.hint.conv_in.weight)
    grads = []
    for checkpointing in (False, True):
        task = made_task(TINY_SD, some_hints, checkpointing=checkpointing)
        task.loss(0, 3, 0)[0].backward()
        grads.append(torch.cat([p.grad.flatten() for p in task.learner.control.parameters()]))
    assert torch.allclose(*grads, rtol=1e-9, atol=1e-15)


def test_the_file_is_one_that_diffusers_and_gesso_read(tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    parts = double(TINY_SD)
    control = stirred(make_control(TINY_SD, parts.unet, torch.Generator().manual_seed(1)).double())
    path = tmp_path / "lines.safetensors"
    write_control(path, control, TINY_SD, "lineart", {"title": "lines"}, {"ss_steps": "3"})
    metadata = open_weights(path).metadata
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/controlnet" and metadata["ss_steps"] == "3"
    read = load_control_network(path, TINY_SD)
    for name, tensor in read.network.state_dict().items():
        assert torch.equal(tensor, control.state_dict()[name].half())
    config = tmp_path / "config"
    ControlNetModel(block_out_channels=TINY_SD.unet.channels, cross_attention_dim=32, attention_head_dim=8).save_config(
        config
    )
    theirs = ControlNetModel.from_single_file(str(path), config=str(config), local_files_only=True)
    renamed = keymap.save(diffusers_rules(control.config, linear=False), dict(control.state_dict()))
    assert theirs.state_dict().keys() == renamed.keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, renamed[name].half().float())


# ---- hints -----------------------------------------------------------------------------------------------------------


def pictures_of(folder: Path, scale: int = 1) -> list[Found]:
    """Two pictures of 96 x 64, of which the middle is taken."""
    return [
        Found(
            example=Example(save_picture(folder / f"{number}.png", number, (96, 64)), "a cat", None, 0),
            subset=Subset(where=folder),
            digest=str(number),
            size=(96, 64),
            look=np.zeros((16, 16, 3), np.int16),
            framing=Framing((64 // scale, 64 // scale), (96 // scale, 64 // scale), 16 // scale, 0),
            scale=scale,
            has_mask=False,
        )
        for number in range(2)
    ]


@pytest.mark.parametrize("scale", [1, 4])
def test_a_hint_is_made_from_what_is_seen_of_its_picture(scale: int, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    hints = Hints(pictures_of(tmp_path, scale), None, "canny", ("low=40", "high=90"))
    with Image.open(tmp_path / "1.png") as image:
        seen = image.convert("RGB").crop((16, 0, 80, 64))
    flipped = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    made = hints([1, 1], [False, True])
    for row, picture in zip(made, (seen, flipped), strict=True):
        expected = preprocess("canny", picture, None, {"low": 40, "high": 90})
        assert np.array_equal((row * 255).permute(1, 2, 0).byte().numpy(), np.asarray(expected))
        assert row.any()
    assert torch.equal(hints([1], [False])[0], made[0])  # from memory


def test_files_are_framed_as_their_pictures_and_no_colour_of_a_map_is_mixed(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for number in range(2):
        halves = np.zeros((32, 48, 3), np.uint8)  # half the size of the picture
        halves[:, 24:] = (255, 0, number)
        Image.fromarray(halves).save(maps / f"{number}.png")
    found = pictures_of(tmp_path)
    hints = Hints(found, maps, "segmentation")
    row = (hints([1], [False])[0] * 255).permute(1, 2, 0).byte().numpy()
    assert row.shape == (64, 64, 3)
    assert not row[:, :32].any() and (row[:, 32:] == (255, 0, 1)).all()
    flipped = (hints([1], [True])[0] * 255).permute(1, 2, 0).byte().numpy()
    assert np.array_equal(flipped, row[:, ::-1])
    before = hints.fingerprint
    Image.new("RGB", (48, 32)).save(maps / "0.png")
    assert Hints(found, maps, "segmentation").fingerprint != before


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("depth", (), "`hint` 'depth': passes on a map that something else made"),
        ("inpaint", (), "`hint` 'inpaint': needs a mask"),
        ("cany", (), r"unknown preprocessor 'cany' \(did you mean 'canny'"),
        ("canny", ("low",), "`hint_parameters` 'low': expected a name and a number"),
        ("canny", ("lo=3",), "lo"),
    ],
)
def test_a_preprocessor_that_cannot_do_it_is_refused(
    name: str, parameters: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(GessoError, match=message):
        Hints(pictures_of(tmp_path), None, name, parameters)


def test_a_picture_without_its_hint_is_named(tmp_path: Path) -> None:
    found = pictures_of(tmp_path)
    with pytest.raises(GessoError, match=r"nowhere: no such folder\. Expected a hint for each picture"):
        Hints(found, tmp_path / "nowhere", "")
    (tmp_path / "maps").mkdir()
    save_picture(tmp_path / "maps" / "0.jpg", 1, (96, 96))
    with pytest.raises(GessoError, match=r"maps: no hint for 1\.png\. Expected a picture of the same name"):
        Hints(found, tmp_path / "maps", "")
    with pytest.raises(GessoError, match="is 96x96, its picture 96x64"):
        Hints(found[:1], tmp_path / "maps", "").image(0, flip=False)


# ---- from a folder to a file -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_estimates_count_both_networks() -> None:
    settings = completed(TuningSettings(kind="controlnet", preset="cpu"), TINY_SD, 10)
    counted = estimate(TINY_SD, settings, (128, 128))
    assert counted.parameters == sum(p.numel() for p in ControlNet(control_config(TINY_SD)).parameters())
    lora = estimate(TINY_SD, completed(TuningSettings(preset="cpu"), TINY_SD, 10), (128, 128))
    assert counted.flops > lora.flops and counted.nbytes > lora.nbytes


def test_the_sizes_fit_the_finished_picture() -> None:
    family = tiny_family()
    config = control_config(family)
    assert config.downscale == family.vae.downscale * family.output_scale
    assert control_config(TINY_SD).hint_channels == (16, 32, 96, 256)


@pytest.mark.slow
def test_from_a_folder_to_a_file_that_steers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_mini(tmp_path / "model.safetensors")
    save_folder(tmp_path / "photos", count=3)
    words = ["photos", "-m", "model.safetensors", "-o", "lines.safetensors", "--cache", "latents", "--hint", "scribble"]
    words += ["--train-steps", "4", "--batch-size", "2", "--precision", "float32", "--report-every", "4", "--flip"]
    words += ["--learning-rate", "0.05", "--sample-steps", "2", "--hint-parameter", "threshold=2"]
    words += ["--judge-samples", "2", "--copy-samples", "0"]
    assert run(["train", "controlnet", *words, "--explain"]) == 0
    assert "hints       scribble" in capsys.readouterr().out
    assert run(["train", "controlnet", *words]) == 0
    assert capsys.readouterr().out.startswith("lines.safetensors hint=scribble step=4 bytes=")
    samples = tmp_path / "lines.training" / "samples"
    assert (samples / "000000-0.png").read_bytes() != (samples / "000004-0.png").read_bytes()
    native = load_control(tmp_path / "lines.safetensors")
    assert (native.hint, native.family) == ("scribble", "gesso-mini")
    drawn = ["generate", "a red cat", "-m", "model.safetensors", "--seed", "1", "--steps", "2", "-q"]
    control = "lines.safetensors,image=photos/00.png,preprocess=scribble"
    for name, more in (("plain.png", []), ("steered.png", ["--control", control])):
        assert run([*drawn, "-o", name, *more]) == 0
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "steered.png").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "lines.training" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "seen" in row] == [0, 4]


@pytest.mark.slow
def test_it_goes_on_with_the_same_bits_and_refuses_other_hints(tmp_path: Path) -> None:
    save_tiny_mini(tmp_path / "model.safetensors")
    save_folder(tmp_path / "photos", count=3)
    save_folder(tmp_path / "maps", count=3)

    def made(name: str) -> TuningRun:
        settings = TuningSettings(
            kind="controlnet", data=str(tmp_path / "photos"), hints=str(tmp_path / "maps"), steps=3, batch_size=2,
            precision="float32", samples=False, report_every=100, optimizer="muon", output=str(tmp_path / "a.safe"),
        )  # fmt: skip
        return TuningRun(settings, tmp_path / "model.safetensors", tmp_path / name)

    assert made("whole").train()
    stops = iter([False, True])
    assert not made("parts").train(stop=lambda: next(stops))
    assert made("parts").train()
    whole, parts = (load_state(tmp_path / name / "last.pt")["modules"]["control"] for name in ("whole", "parts"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name])
    save_picture(tmp_path / "maps" / "00.png", 99)
    with pytest.raises(GessoError, match="the training there was begun with other hints"):
        made("parts").train()
