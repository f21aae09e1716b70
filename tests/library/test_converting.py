"""Other layouts and number formats, there and back."""

import json
from pathlib import Path

import pytest
import torch

import tiny_sd
from gesso.checkpoints.detect import describe
from gesso.checkpoints.safetensors_file import open_safetensors, tensor_data_sha256
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.diffusers_folder import folder_configs, read_family
from gesso.families.registry import FAMILIES
from gesso.families.saving import save_ldm
from gesso.library import converting
from gesso.library.converting import ARCHITECTURES, convert
from library import shelf

DATE = "2026-01-02T03:04:05Z"
ROUND_TRIPS = (tiny_sd.TINY_SD, tiny_sd.TINY_SD21, tiny_sd.TINY_SDXL)


def numbers(path: Path) -> dict[str, torch.Tensor]:
    file = open_safetensors(path)
    with file.reader() as reader:
        return {name: reader[name].clone() for name in file.tensors}


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {f.relative_to(folder).as_posix(): numbers(f) for f in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("family", ROUND_TRIPS, ids=lambda family: family.name)
@pytest.mark.sampled(5)
def test_both_layouts_there_and_back_bit_by_bit(tmp_path: Path, family: Family):
    tiny_sd.save_tiny_folder(tmp_path / "first", family)
    done = convert(tmp_path / "first", tmp_path / "one.safetensors", "ldm", date=DATE)
    assert (done.layout, done.dtypes) == ("ldm", ("float32",))
    assert done.nbytes == (tmp_path / "one.safetensors").stat().st_size
    convert(
        tmp_path / "one.safetensors", tmp_path / "second", "diffusers", family=family
    )  # its tiny sizes are those of no release
    tiny_sd.save_tiny_file(tmp_path / "whole.safetensors", family)
    notes = convert(tmp_path / "whole.safetensors", tmp_path / "third", "diffusers", family=family).notes
    assert ("the projection of SD 2's text encoder" in "".join(notes)) == (family.layout == "sd2")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        assert all(torch.equal(first[name][key], second[name][key]) for key in first[name])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "first",
        "one.safetensors",
        "second",
        "third",
        "whole.safetensors",
    ]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.scheduler is not None])
def test_a_folder_of_a_release_has_released_sizes(tmp_path: Path, name: str):
    for path, config in folder_configs(FAMILIES[name]).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(config))
    assert converting._has_released_sizes(read_family(tmp_path))
    assert converting._has_released_sizes(FAMILIES[name])


def test_a_single_file_that_nothing_can_load_is_told(tmp_path: Path):
    """Its layout is told by released sizes; the file of others was written without a word."""
    tiny_sd.save_tiny_folder(tmp_path / "sd")
    notes = convert(tmp_path / "sd", tmp_path / "x.safetensors", "ldm", date=DATE).notes
    assert any("sizes are those of no release" in note for note in notes)
    assert not convert(tmp_path / "sd", tmp_path / "same", "diffusers", date=DATE).notes


def test_a_single_file_says_what_it_is(tmp_path: Path):
    tiny_sd.save_tiny_folder(tmp_path / "sd")
    path = convert(tmp_path / "sd", tmp_path / "x.safetensors", "ldm", title="A title", date=DATE).path
    file = open_safetensors(path)
    assert dict(file.metadata) == {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "sgm",
        "modelspec.title": "A title",
        "modelspec.resolution": "64x64",
        "modelspec.date": DATE,
        "modelspec.prediction_type": "epsilon",
        "modelspec.hash_sha256": f"0x{tensor_data_sha256(file)}",
    }
    again = convert(tmp_path / "sd", tmp_path / "y.safetensors", "ldm", title="A title", date=DATE).path
    assert again.read_bytes() == path.read_bytes()
    assert set(ARCHITECTURES) >= set(FAMILIES) - {"x4-upscaler"}


def test_formats_of_numbers(tmp_path: Path):
    """Mixed formats stay as they are; what is asked for is what torch rounds to."""
    parts = tiny_sd.tiny_parts()
    save_ldm(tmp_path / "full.safetensors", parts)
    stored = numbers(tmp_path / "full.safetensors")
    mixed = {n: t.half() if n.startswith("model.") else t for n, t in stored.items()}
    shelf.save_file(mixed, tmp_path / "mixed.safetensors")
    convert(tmp_path / "mixed.safetensors", tmp_path / "kept.safetensors", "ldm", family=tiny_sd.TINY_SD)
    kept = numbers(tmp_path / "kept.safetensors")
    assert kept.keys() == mixed.keys()
    assert all(torch.equal(kept[name], mixed[name]) and kept[name].dtype == mixed[name].dtype for name in mixed)
    for dtype, wanted in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        path = tmp_path / f"{dtype}.safetensors"
        done = convert(tmp_path / "full.safetensors", path, "safetensors", dtype=dtype)
        assert str(wanted).removeprefix("torch.") in done.dtypes
        found = numbers(path)
        assert all(torch.equal(found[n], t.to(wanted) if t.is_floating_point() else t) for n, t in stored.items())
    shelf.save_file({"emb_params": torch.full((1, 4), 1e6)}, tmp_path / "large.safetensors")
    with pytest.raises(GessoError, match="overflow"):
        convert(tmp_path / "large.safetensors", tmp_path / "no.safetensors", "safetensors", dtype="fp16")
    assert not (tmp_path / "no.safetensors").exists()


def test_gessos_own_layout(tmp_path: Path):
    source = shelf.checkpoint(tmp_path / "mini.safetensors")
    done = convert(source, tmp_path / "bf16.safetensors", "native", dtype="bf16", date=DATE)
    assert describe(done.path).family == "gesso-mini"
    assert done.dtypes == ("bfloat16",)
    assert open_safetensors(done.path).metadata["modelspec.date"] == DATE
    for to in ("ldm", "diffusers"):
        with pytest.raises(GessoError, match=f"{source}: a model of family 'gesso-mini' cannot be saved"):
            convert(source, tmp_path / ("x.safetensors" if to == "ldm" else "x"), to)
    tiny_sd.save_tiny_file(tmp_path / "sd.safetensors")
    with pytest.raises(GessoError, match="cannot be saved in gesso's own layout"):
        convert(tmp_path / "sd.safetensors", tmp_path / "x.safetensors", "native", family=tiny_sd.TINY_SD)
    with pytest.raises(GessoError, match="looks like a LoRA"):
        convert(shelf.lora(tmp_path / "l.safetensors"), tmp_path / "x.safetensors", "ldm")
    assert not (tmp_path / "x.safetensors").exists()


def test_targets(tmp_path: Path):
    source = shelf.embedding(tmp_path / "e.safetensors", metadata={"note": "kept", "sshs_model_hash": "of other bytes"})
    target = tmp_path / "t.safetensors"
    convert(source, target, "safetensors")
    assert open_safetensors(target).metadata == {"note": "kept"}
    before = target.read_bytes()
    for path, to, words in (
        (target, "safetensors", "already exists"),
        (source, "safetensors", "also the source"),
        (tmp_path / "t.ckpt", "safetensors", "ending in .safetensors"),
        (tmp_path / "f.safetensors", "diffusers", "a folder"),
        (tmp_path / "no" / "t.safetensors", "safetensors", "no such folder"),
    ):
        with pytest.raises(GessoError, match=words):
            convert(source, path, to)
    assert target.read_bytes() == before
    convert(source, target, "safetensors", dtype="fp16", overwrite=True)
    assert target.read_bytes() != before
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work", encoding="utf-8")
    tiny_sd.save_tiny_folder(tmp_path / "sd")
    tiny_sd.save_tiny_folder(tmp_path / "old", seed=1)
    with pytest.raises(GessoError, match="with other files"):
        convert(tmp_path / "sd", tmp_path / "folder", "diffusers", overwrite=True)
    convert(tmp_path / "sd", tmp_path / "old", "diffusers", overwrite=True)
    assert weights(tmp_path / "old").keys() == weights(tmp_path / "sd").keys()
    for name, tensors in weights(tmp_path / "sd").items():
        assert all(torch.equal(t, weights(tmp_path / "old")[name][n]) for n, t in list(tensors.items())[:3])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with pytest.raises(ValueError, match="expected one of"):
        convert(source, target, "onnx")


def test_a_pytorch_file_on_the_way(tmp_path: Path):
    """As a .ckpt of 2022: under "state_dict", with counters beside it."""
    tiny_sd.save_tiny_file(tmp_path / "sd.safetensors")
    torch.save({"state_dict": numbers(tmp_path / "sd.safetensors"), "global_step": 7}, tmp_path / "sd.ckpt")
    convert(tmp_path / "sd.ckpt", tmp_path / "same.safetensors", "safetensors")
    convert(tmp_path / "sd.ckpt", tmp_path / "sd", "diffusers", family=tiny_sd.TINY_SD)
    assert open_safetensors(tmp_path / "same.safetensors").metadata["modelspec.architecture"] == "stable-diffusion-v1"
    first, second = numbers(tmp_path / "sd.safetensors"), numbers(tmp_path / "same.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
