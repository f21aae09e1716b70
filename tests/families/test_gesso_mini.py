import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.native import load_native, save_native
from gesso.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gesso.families.gesso_mini import config_of, family_from_config
from gesso.families.loading import load_parts
from gesso.models.unet import UNet
from gesso.text.tokenizer import Tokenizer
from tiny_models import WORDS, save_tiny_mini, tiny_family

FAMILY = tiny_family()
CONFIG = json.loads(json.dumps(config_of(FAMILY)))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The configuration with one value at "a.b" another, or gone where it is ..."""
    config = json.loads(json.dumps(CONFIG))
    *parents, last = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return config


def test_config_and_family_are_inverses() -> None:
    assert family_from_config(CONFIG, "file") == FAMILY
    small = tiny_family(upscale=False)
    assert family_from_config(config_of(small) | {"objects": {}}, "file") == replace(small, objects={})


def test_sizes_of_pictures() -> None:
    assert (FAMILY.output_scale, FAMILY.output_size, FAMILY.size_multiple) == (2, 64, 8)
    small = tiny_family(upscale=False)
    assert (small.output_scale, small.output_size, small.size_multiple) == (1, 32, 4)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "gesso-maxi", "family 'gesso-maxi', expected 'gesso-mini'"),
        ("code", "import os", "unknown field 'code'"),
        ("unet", ..., "no field 'unet'"),
        ("unet.channels", [16], "do not divide|differ"),
        ("unet.channels", [2**40, 2**40], "whole number from 1 to 8192"),
        ("unet.attention", [0, 1, 1], "unet.attention and unet.channels differ: 3 and 2"),
        ("unet.attention", [0, 10**6], "whole number from 0 to 12"),
        ("unet.num_heads", [2], "unet.num_heads and unet.channels differ"),
        ("unet.num_res_blocks", 10**6, "whole number"),
        ("unet.context_dim", 32, "unet.context_dim and text.dim differ: 32 and 16"),
        ("unet.in_channels", 9, "unet.in_channels and vae.latent_channels differ"),
        ("unet.added_dim", 17, "unet.added_dim and text.dim differ"),
        ("vae.image_channels", 4, "vae.image_channels and a picture's differ"),
        ("vae.patch_size", 0, "whole number from 1 to 16"),
        ("upscaler.patch_size", 4, "the upscaler's 8 pixels do not divide the VAE's 4"),
        ("upscaler.channels", [8], "two levels or more"),
        ("upscaler.sharpness", 0, "a number from 0.01 to 100"),
        ("upscaler.scale", 1000, "whole number from 1 to 8"),
        ("text.num_layers", 10**9, "whole number"),
        ("text.activation", "relu", "one of quick_gelu, gelu"),
        ("schedule.beta_end", 1e-6, "beta_start"),
        ("schedule.num_timesteps", 10**9, "whole number"),
        ("prediction", "noise", "one of eps, v, x0"),
        ("native_size", 30, "native_size 30 is not a multiple of 4"),
        ("defaults.sampler", "magic", "sampler 'magic' is unknown; update gesso"),
        ("defaults.schedule", "cubic", "schedule 'cubic' is unknown; update gesso"),
        ("defaults.num_steps", 0, "whole number from 1 to 1000"),
        ("clip_skip", 0, "whole number"),
        ("objects", [], "objects is not a table"),
        ("objects", {"cat": "kitty"}, "'cat' is not a word with its synonyms"),
        ("objects", {"cat": [3]}, "'cat' is not a word"),
        ("objects", {"\x1b[31mcat": []}, "is not a word"),
        ("objects", {"": []}, "is not a word"),
        ("objects", {f"{i}": [] for i in range(10_001)}, "at most 10000"),
    ],
)
def test_hostile_configurations_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        family_from_config(changed(path, value), "model.safetensors")
    assert caught.value.reason in ("config", "architecture_mismatch")
    assert caught.value.message.startswith("model.safetensors: ")


# ---------------------------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_to_the_last_bit(tmp_path: Path) -> None:
    path = save_tiny_mini(tmp_path / "mini.safetensors")
    parts = load_parts(path)
    assert parts.family == FAMILY
    assert parts.files == (path,)
    assert parts.tokenizer.words == WORDS
    stored = load_native(path)
    networks = {"unet": parts.unet, "text": parts.text, "vae": parts.vae, "upscaler": parts.upscaler}
    for name, network in networks.items():
        assert network is not None
        assert not network.training
        tensors = stored.load(name)
        for param, tensor in network.state_dict().items():
            assert tensor.dtype == torch.float32  # in use
            assert torch.equal(tensor, tensors[param].float())  # stored as half precision
        assert not any(param.requires_grad for param in network.parameters())


def test_loading_again_after_saving_gives_the_same_file(tmp_path: Path) -> None:
    first = save_tiny_mini(tmp_path / "a.safetensors")
    parts = load_parts(first)
    assert parts.upscaler is not None
    networks = {"unet": parts.unet, "text": parts.text, "vae": parts.vae, "upscaler": parts.upscaler}
    modelspec = {"title": "tiny", "resolution": "64x64"}
    save_native(tmp_path / "b.safetensors", networks, config_of(parts.family), parts.tokenizer.to_json(), modelspec)
    assert first.read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_without_an_upscaler(tmp_path: Path) -> None:
    assert load_parts(save_tiny_mini(tmp_path / "mini.safetensors", upscale=False)).upscaler is None


def test_other_dtypes(tmp_path: Path) -> None:
    parts = load_parts(save_tiny_mini(tmp_path / "mini.safetensors"), dtype=torch.bfloat16)
    assert {param.dtype for param in parts.unet.parameters()} == {torch.bfloat16}


def test_loading_touches_no_global_random_numbers(tmp_path: Path) -> None:
    path = save_tiny_mini(tmp_path / "mini.safetensors")
    before = torch.random.get_rng_state()
    load_parts(path)
    assert torch.equal(torch.random.get_rng_state(), before)


Components = dict[str, dict[str, Tensor]]


def write(path: Path, change: Any = None, config: Mapping[str, Any] | None = None, words: Any = WORDS) -> Path:
    """A tiny model, changed: `change` gets its tensors by component."""
    whole = load_native(save_tiny_mini(path))
    components: Components = {name: whole.load(name) for name in whole.components}
    if change is not None:
        change(components)
    tokenizer = Tokenizer.from_words(words, length=16).to_json()
    modelspec = {"title": "tiny", "resolution": "64x64"}
    save_native(path, components, CONFIG if config is None else config, tokenizer, modelspec)
    return path


@pytest.mark.parametrize(
    ("change", "config", "reason", "message"),
    [
        (lambda c: c["unet"].pop("conv_in.bias"), None, "missing_key", "unet: 1 tensors are missing: conv_in.bias"),
        (lambda c: c["vae"].update(extra=torch.zeros(1)), None, "unknown_key", "vae: 1 tensors are unknown: extra"),
        (lambda c: c.pop("upscaler"), None, "missing_key", "has tensors of unet, text, vae, its configuration of"),
        (lambda c: None, changed("upscaler", None), "missing_key", "has tensors of unet, text, vae, upscaler, its"),
        (
            lambda c: c["unet"].update({"conv_in.bias": torch.zeros(17)}),
            None,
            "shape",
            r"conv_in.bias is \[17\], expected \[16\]",
        ),
        (lambda c: c["unet"].update({"conv_in.bias": torch.zeros(16).int()}), None, "dtype", "conv_in.bias is"),
        (lambda c: None, changed("unet.num_res_blocks", 2), "missing_key", "tensors are missing"),
        (lambda c: None, changed("unet.num_heads", [2, 3]), "config", "does not divide into 3 heads"),
        (lambda c: None, changed("unet.norm_groups", 7), "config", "sizes that make no model"),
        (lambda c: None, changed("text.vocab_size", 100), "architecture_mismatch", "its text encoder has 100"),
        (lambda c: None, changed("text.max_length", 20), "architecture_mismatch", "16 ids a text"),
        (lambda c: None, changed("text.eos_id", 3), "architecture_mismatch", "id of the end"),
    ],
)
@pytest.mark.sampled(3)
def test_files_that_do_not_fit_their_configuration(
    tmp_path: Path, change: Any, config: Any, reason: str, message: str
) -> None:
    path = write(tmp_path / "mini.safetensors", change, config)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_parts(path)
    assert caught.value.reason == reason
    assert str(path) in caught.value.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = save_tiny_mini(tmp_path / "mini.safetensors")
    file = open_safetensors(path)
    with file.reader() as reader:
        tensors = {name: reader[name] for name in file.tensors}
    tensors["unet.conv_in.weight"][3, 1, 2, 0] = value  # in memory; saving refuses such numbers
    write_safetensors(path, tensors, file.metadata)
    with pytest.raises(ModelFileError, match=r"unet: conv_in\.weight holds NaN or infinity") as caught:
        load_parts(path)
    assert caught.value.reason == "nonfinite"


def test_numbers_too_large_for_the_dtype(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "mini.safetensors"
    whole = load_native(save_tiny_mini(path))
    components = {name: whole.load(name) for name in whole.components}
    components["unet"]["conv_out.bias"] = torch.full((4,), 1e6)
    tokenizer = Tokenizer.from_words(WORDS, length=16).to_json()
    save_native(path, components, CONFIG, tokenizer, {"title": "t", "resolution": "64x64"}, dtype=torch.float32)
    assert load_parts(path).unet.conv_out.bias[0] == 1e6
    with pytest.raises(ModelFileError, match=r"overflows torch.float16. Load the model as float32") as caught:
        load_parts(path, dtype=torch.float16)
    assert caught.value.reason == "overflow"


def test_a_loaded_network_computes_what_the_saved_one_does(tmp_path: Path) -> None:
    parts = load_parts(save_tiny_mini(tmp_path / "mini.safetensors"))
    again = UNet(parts.family.unet)
    again.load_state_dict(parts.unet.state_dict())
    arguments = (torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 16, 16), torch.randn(1, 16))
    assert torch.equal(parts.unet(*arguments), again(*arguments))
