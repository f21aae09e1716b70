"""`gesso lora ...` as people use it, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapters.files import kohya, lora_parts, saved, target_of
from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.checkpoints.weight_file import open_weights
from gesso.cli.lora import trigger_words
from gesso.cli.main import run
from gesso.families.loading import load_parts
from gesso.families.saving import save_diffusers
from tiny_sd import TINY_SD, save_tiny_folder, tiny_parts

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("model") / "tiny", TINY_SD)


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    metadata = {
        "ss_base_model_version": "sd_v1",
        "ss_output_name": "style",
        "ss_tag_frequency": json.dumps({"10_x": {"pixel art": 40, "cat": 3}, "2_y": {"cat": 90}}),
        "sshs_model_hash": "00",
    }
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    return saved(path, kohya(target_of(TINY_SD), lora_parts), metadata)


def lora(capsys: Capture, *argv: object) -> tuple[int, str, str]:
    code = run(["lora", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def info(capsys: Capture, *argv: object) -> Any:
    code, out, err = lora(capsys, "info", *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def test_info(capsys: Capture, model: Path, style: Path):
    table = info(capsys, style, "--model", model)
    assert table["dialects"] == ["kohya"] and table["unmatched"] == []
    assert table["ranks"] == {"3": sum(table["changes"].values())}
    assert table["words"] == ["cat", "pixel art"] and table["title"] == "style"
    code, out, err = lora(capsys, "info", style, "-m", model)
    assert (code, err) == (0, "") and "trigger     cat, pixel art" in out and "sd_v1" in out
    code, out, err = lora(capsys, "info", style)
    assert code == 2 and "name that with --model" in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["comic", "woodcut"])
def test_ones_own_lora_comes_before_a_built_in_one(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("GESSO_HOME", str(tmp_path))
    builtin = Path(info(capsys, name)["path"])
    own = tmp_path / "models/loras" / f"{name}.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(builtin.read_bytes())
    assert info(capsys, name)["path"] == str(own)


def test_trigger_words_that_are_none():
    assert trigger_words({"ss_tag_frequency": "[" * 100_000}) == []
    assert trigger_words({"ss_tag_frequency": '{"a": 3, "b": {"c": "d"}}'}) == []
    assert trigger_words({"modelspec.trigger_phrase": "in pixel style"}) == ["in pixel style"]
    many = {"ss_tag_frequency": json.dumps({"a": {f"tag {i}": i for i in range(1000)}})}
    assert trigger_words(many)[:2] == ["tag 999", "tag 998"] and len(trigger_words(many)) == 20


def test_convert_resize_merge(capsys: Capture, model: Path, style: Path, tmp_path: Path):
    peft, small, both = (tmp_path / f"{name}.safetensors" for name in ("peft", "small", "both"))
    code, out, err = lora(capsys, "convert", style, peft, "--to", "peft", "-m", model, "--dtype", "fp16")
    assert (code, err) == (0, "") and out.startswith(f"{peft}: peft, ")
    table = info(capsys, peft, "-m", model)
    assert table["dialects"] == ["PEFT"] and table["unmatched"] == []
    assert next(iter(load_file(peft).values())).dtype == torch.float16
    assert lora(capsys, "resize", style, small, "--rank", 2, "-m", model)[0] == 0
    assert info(capsys, small, "-m", model)["ranks"] == {"2": sum(table["changes"].values())}
    assert lora(capsys, "merge", f"{style}:0.5", f"{small}:1:0.25", "-o", both, "-m", model)[0] == 0
    assert info(capsys, both, "-m", model)["ranks"] == {"5": sum(table["changes"].values())}


def test_into_a_model_and_out_again(capsys: Capture, model: Path, style: Path, tmp_path: Path):
    whole = tmp_path / "whole.safetensors"
    before = {path: path.read_bytes() for path in model.rglob("*.safetensors")}
    code, _, err = lora(capsys, "merge", f"{style}:0.5", "--into", model, "-o", whole)
    assert (code, err) == (0, "")
    assert all(path.read_bytes() == content for path, content in before.items())  # the mapped files stay
    parts = load_parts(whole, family=TINY_SD)
    tensors, layer = load_file(style), parts.unet.down[0].attentions[0].blocks[0].self_attention.to_q
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    product = tensors[f"{stem}.lora_up.weight"] @ tensors[f"{stem}.lora_down.weight"] * (2 / 3)
    old = tiny_parts(TINY_SD).unet.down[0].attentions[0].blocks[0].self_attention.to_q.weight
    torch.testing.assert_close(layer.weight, old + 0.5 * product)


def test_extracting(capsys: Capture, model: Path, style: Path, tmp_path: Path):
    other, found = tmp_path / "other", tmp_path / "found.safetensors"
    target = target_of(TINY_SD)
    with attach(target.networks, [(read_lora(open_weights(style), target), 1.0, 1.0)], merged=True):
        save_diffusers(other, tiny_parts(TINY_SD))
    code, _, err = lora(capsys, "extract", model, other, found, "--rank", 3, "--no-text", "--dtype", "fp32")
    assert (code, err) == (0, "")
    table = info(capsys, found, "-m", model)
    assert set(table["changes"]) == {"unet"} and table["unmatched"] == []
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    given, made = load_file(style), load_file(found)
    product = given[f"{stem}.lora_up.weight"] @ given[f"{stem}.lora_down.weight"] * (2 / 3)
    again = made[f"{stem}.lora_up.weight"] @ made[f"{stem}.lora_down.weight"]
    torch.testing.assert_close(again, product, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("resize", "STYLE", "OUT"), "give either --rank or --energy"),
        (("resize", "STYLE", "OUT", "--energy", "2"), "expected more than 0"),
        (("convert", "STYLE", "OUT", "--to", "x"), "expected one of kohya, peft"),
        (("convert", "STYLE", "STYLE", "--to", "peft"), "is also an input"),
        (("convert", "STYLE", "x.txt", "--to", "peft"), "ending in .safetensors"),
        (("convert", "STYLE", "OUT", "--to", "peft", "--dtype", "int4"), "expected one of fp32"),
        (("merge", "STYLE:1e9", "-o", "OUT"), "expected -1000 to 1000"),
        (("info", "nothing-here.safetensors"), ""),
    ],
)
@pytest.mark.sampled(3)
def test_wrong_input(capsys: Capture, model: Path, style: Path, tmp_path: Path, argv: tuple[str, ...], says: str):
    out = tmp_path / "out.safetensors"
    words = [word.replace("STYLE", str(style)).replace("OUT", str(out)) for word in argv]
    code, _, err = lora(capsys, *words, "-m", model)
    assert code == 2 and says in err and len(err.splitlines()) == 1 and not out.exists()
