"""The engine: devices, number formats, resident models."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso.checkpoints.hashing import sha256_of
from gesso.errors import GessoError
from gesso.families.encoding import PromptEmbeds
from gesso.runtime import engine as engine_module
from gesso.runtime import model as model_module
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine, find_model
from gesso.runtime.model import LoadedWeightFile, stamp
from gesso.runtime.plan import Workload, make_plan
from gesso.runtime.precision import choose_device, choose_precision, describe_device, usable_threads
from tiny_models import save_tiny_mini
from tiny_sd import save_tiny_folder, tiny_parts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def test_float16_on_a_cpu_is_refused_with_a_way_out():
    with pytest.raises(GessoError, match="bfloat16"):
        Engine("cpu", "float16")


def test_precision_by_device():
    assert choose_precision("auto", CPU).name == "float32"
    assert choose_precision("auto", torch.device("cuda", 0)).name == "float16"
    half = choose_precision("float16", torch.device("cuda", 0))
    assert (half.unet, half.text, half.vae) == (torch.float16, torch.float32, torch.float32)
    brain = choose_precision("bfloat16", CPU)
    assert (brain.unet, brain.text, brain.vae) == (torch.bfloat16, torch.float32, torch.bfloat16)
    with pytest.raises(GessoError, match="float32, bfloat16, float16"):
        choose_precision("fp16", CPU)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    for name in ("cuda", "cuda:7", "tpu", "cpu cpu", "", "meta"):
        with pytest.raises(GessoError, match="`device`"):
            choose_device(name)


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(GessoError, match=r"cuda:2: found 2 CUDA device\(s\)"):
        choose_device("cuda:2")


def test_the_cpu_is_described_by_what_its_kernels_depend_on():
    assert describe_device(CPU).split()[0] == "cpu"
    assert torch.backends.cpu.get_cpu_capability() in describe_device(CPU)
    assert 1 <= usable_threads() <= (os.cpu_count() or 1)


def test_a_model_stays_resident_until_its_file_changes(file: Path, tmp_path: Path):
    engine = Engine("cpu")
    first = engine.load(file)
    assert engine.load(str(file)) is first
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    assert engine.load(copy) is not first  # and the first had to go
    assert engine.load(file) is not first
    roomy = Engine("cpu", max_models=2)
    kept = roomy.load(file)
    second = roomy.load(copy)
    assert roomy.load(file) is kept
    os.utime(copy, ns=(1, 1))
    assert roomy.load(copy) is not second


def test_engines_share_nothing(file: Path):
    assert Engine("cpu").load(file) is not Engine("cpu").load(file)


def test_networks_are_settled_in_their_format(file: Path):
    model = Engine("cpu", "bfloat16").load(file)
    assert {model.residency.components[name].dtype for name in ("unet", "vae")} == {torch.bfloat16}
    assert {param.dtype for param in model.parts.text.parameters()} == {torch.float32}
    assert not any(param.requires_grad for param in model.parts.vae.parameters())
    assert model.files == (("tiny.safetensors", model.files[0][1]),)
    assert len(model.files[0][1]) == 64


def test_a_diffusers_folder_names_its_files_without_their_path(tmp_path: Path):
    folder = tmp_path / "sd"
    save_tiny_folder(folder)
    model = Engine("cpu").load(folder)
    assert model.name == "sd"
    assert [name.split("/")[0] for name, _ in model.files] == ["unet", "text_encoder", "vae"]
    assert not model.has_upscaler
    with pytest.raises(ValueError, match="no upscaler"):
        model.upscale(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["nope.safetensors", "", "a\0b", "x" * 5000, "no-such-model"])
def test_a_model_that_is_not_there_is_one_error(name: str):
    with pytest.raises(GessoError):
        find_model(name)


def test_the_embedded_model_is_found_by_name_or_missed_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(engine_module.EMBEDDED, "gesso-mini", "nothing.safetensors")
    with pytest.raises(GessoError, match="missing from this installation"):
        find_model("gesso-mini")


def test_clip_skip_takes_an_earlier_layer_through_the_last_norm():
    parts = tiny_parts()
    model = engine_module.LoadedModel(name="x", parts=parts, device=CPU, precision=choose_precision("float32", CPU))
    encoding = parts.text(parts.tokenizer.encode(["a cat"]))

    def encoded(clip_skip: int) -> PromptEmbeds:
        return model.encode_prompt("a cat", clip_skip=clip_skip, width=64, height=64)

    assert torch.equal(encoded(1).context, encoding.last)
    assert torch.equal(encoded(2).context, parts.text.norm(encoding.hidden[-2]))
    assert encoded(1).added is None


@pytest.mark.parametrize(
    "name", ["scheduler/scheduler_config.json", "model_index.json", "unet/config.json", "tokenizer/merges.txt"]
)
@pytest.mark.slow
def test_a_folder_is_read_again_when_its_settings_change(tmp_path: Path, name: str):
    folder = tmp_path / "folder"
    shutil.copytree(save_tiny_folder(tmp_path / "made"), folder)
    engine = Engine("cpu")
    model = engine.load(folder)
    assert engine.load(folder) is model
    (folder / "readme.md").write_text("no part of the model")
    assert engine.load(folder) is model
    path = folder / name
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    again = engine.load(folder)
    assert again is not model
    assert engine.load(folder) is again


def test_what_a_changed_scheduler_says_is_followed(tmp_path: Path):
    folder = tmp_path / "folder"
    shutil.copytree(save_tiny_folder(tmp_path / "made"), folder)
    engine = Engine("cpu")
    assert engine.load(folder).family.prediction == "eps"
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "prediction_type": "v_prediction"}), encoding="utf-8")
    assert engine.load(folder).family.prediction == "v"


def test_conditioning_repeats_and_joins():
    one = Conditioning(context=torch.ones(1, 2, 3), added=torch.ones(1, 4))
    three = Conditioning.cat(one, one.repeat(2))
    assert three.context.shape == (3, 2, 3)
    assert three.added is not None
    assert three.added.shape == (3, 4)
    assert Conditioning.cat(Conditioning(context=one.context), Conditioning(context=one.context)).added is None


def test_wrong_arguments_from_code():
    with pytest.raises(ValueError, match="`rows_per_call` is 0, expected a whole number of at least 1"):
        Engine("cpu", rows_per_call=0)


def test_a_weight_file_that_is_gone_or_another_has_no_hash(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    loaded = LoadedWeightFile("a", path, stamp(path))
    assert loaded.sha256(sha256_of) == hashlib.sha256(b"weights").hexdigest()
    path.write_bytes(b"other weights")
    with pytest.raises(GessoError, match="changed or removed since it was loaded"):
        loaded.sha256(sha256_of)
    path.unlink()
    with pytest.raises(GessoError, match="changed or removed") as caught:
        loaded.sha256(lambda path: "0" * 64)
    assert (caught.value.code, caught.value.data) == ("changed", {"path": str(path)})


@pytest.mark.parametrize("memory", [0, -1, -(2**40), -0.5])
def test_a_memory_limit_is_above_zero(memory: Any):
    with pytest.raises(GessoError, match=rf"`memory` is {memory}, expected a whole number of at least 1 \(bytes\), or"):
        Engine("cpu", memory=memory)


def test_a_large_decode_makes_room_first(file: Path, monkeypatch: pytest.MonkeyPatch):
    model = Engine("cpu", "float32").load(file)
    text, told = model.residency.components["text"], list[bool]()
    monkeypatch.setattr(model_module, "give_back_freed_memory", lambda: told.append(text.is_onloaded))
    latents = torch.randn(2, model.family.vae.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    words: dict[str, Any] = {"clip_skip": 1, "width": 64, "height": 64}
    with torch.inference_mode():
        before, context = model.decode(latents), model.encode_prompt("a red car", **words).context
        assert not told
        monkeypatch.setattr(model_module, "LARGE_DECODE", 2 * 8 * 8)
        assert torch.equal(model.decode(latents), before)
        assert told == [True, True]  # a small text encoder stays
        monkeypatch.setattr(model_module, "LARGE_TEXT", text.stored_nbytes)
        assert torch.equal(model.decode(latents), before)
        assert told[2:] == [False, False]
        assert torch.equal(model.encode_prompt("a red car", **words).context, context)
        assert text.is_onloaded
        model.decode(latents[:1])
        assert len(told) == 4 and text.is_onloaded
        plan = make_plan(model.footprint, Workload(width=64, height=64), budget=None, base=0)
        model.with_plan(plan).decode(latents)
        assert len(told) == 4 and text.is_onloaded
    assert not model.parts.vae.decoder.levels[-1]._forward_pre_hooks
