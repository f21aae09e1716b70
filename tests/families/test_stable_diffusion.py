"""Stable Diffusion 1 in both published layouts, at tiny size."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gesso.checkpoints import ldm
from gesso.checkpoints.errors import ModelFileError
from gesso.errors import GessoError
from gesso.families import saving
from gesso.families.base import Family
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts
from gesso.families.registry import FAMILIES
from gesso.families.saving import save_diffusers, save_ldm
from gesso.families.sd15 import SD15
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from tiny_models import save_tiny_mini, tiny_family
from tiny_sd import TINY_SD, clip_tokenizer, save_tiny_file, save_tiny_folder, tiny_parts

MAPS = Path("/proc/self/maps")


def assert_same_networks(found: ModelParts, expected: ModelParts) -> None:
    for part in ("unet", "vae", "text"):
        tensors = getattr(found, part).state_dict()
        for name, tensor in getattr(expected, part).state_dict().items():
            assert torch.equal(tensors[name], tensor), f"{part}.{name}"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_tiny_file(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder") / "tiny"
    save_tiny_folder(path)
    return path


def test_the_registry() -> None:
    assert FAMILIES["sd15"] is SD15
    assert (SD15.output_scale, SD15.output_size, SD15.size_multiple) == (1, 512, 8)
    assert all(name == family.name for name, family in FAMILIES.items())


def test_single_file_round_trip(single_file: Path, tmp_path: Path) -> None:
    parts = load_parts(single_file, family=TINY_SD)
    assert parts.family == TINY_SD
    assert_same_networks(parts, tiny_parts())
    save_ldm(tmp_path / "again.safetensors", parts)
    assert (tmp_path / "again.safetensors").read_bytes() == single_file.read_bytes()


def test_folder_round_trip(folder: Path, tmp_path: Path) -> None:
    parts = load_parts(folder)
    assert parts.family == TINY_SD  # its sizes come from its configs
    assert [file.name for file in parts.files] == [
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    ]
    assert_same_networks(parts, tiny_parts())
    save_diffusers(tmp_path / "again", parts)
    assert files_below(tmp_path / "again") == files_below(folder)


def test_from_one_layout_to_the_other_and_back(single_file: Path, tmp_path: Path) -> None:
    save_diffusers(tmp_path / "folder", load_parts(single_file, family=TINY_SD))
    save_ldm(tmp_path / "back.safetensors", load_parts(tmp_path / "folder"))
    assert (tmp_path / "back.safetensors").read_bytes() == single_file.read_bytes()


def test_half_precision_round_trip(single_file: Path, tmp_path: Path) -> None:
    """What is stored in half precision is used in full and saved in half again: nothing changes."""
    half = load_parts(single_file, dtype=torch.float16, family=TINY_SD)
    save_ldm(tmp_path / "half.safetensors", half)
    again = load_parts(tmp_path / "half.safetensors", dtype=torch.float32, family=TINY_SD)
    for network in (again.unet, again.vae, again.text):
        network.half()
    save_ldm(tmp_path / "again.safetensors", again)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "half.safetensors").read_bytes()


# A whole model each: both kinds of eight bits and both of what they become are quick.
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.float32, torch.float8_e4m3fn),
        (torch.bfloat16, torch.float8_e5m2),
        pytest.param(torch.float32, torch.float8_e5m2, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, torch.float8_e4m3fn, marks=pytest.mark.slow),
    ],
)
def test_eight_bit_files_are_widened(
    single_file: Path, tmp_path: Path, stored: torch.dtype, dtype: torch.dtype
) -> None:
    """Every number of eight bits is one of bfloat16, too: nothing is lost."""
    tensors = {n: t.to(stored) if t.is_floating_point() else t for n, t in load_file(single_file).items()}
    save_file(tensors, tmp_path / "eight.safetensors")
    parts = load_parts(tmp_path / "eight.safetensors", dtype=dtype, family=TINY_SD)
    for part in ("unet", "vae", "text"):
        found = getattr(parts, part).state_dict()
        for name, tensor in getattr(tiny_parts(), part).state_dict().items():
            assert found[name].dtype == dtype
            assert torch.equal(found[name], tensor.to(stored).to(dtype)), f"{part}.{name}"


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists the mapped files of a process")
def test_full_precision_is_not_copied(single_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(single_file.read_bytes())
    parts = load_parts(path, family=TINY_SD)
    address = parts.unet.conv_in.weight.data_ptr()
    lines = [line.split() for line in MAPS.read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    assert any(start <= address < end for start, end in spans)


def test_the_tables_of_the_schedule(single_file: Path) -> None:
    tensors = load_file(single_file)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    cumprod = (1 - betas).cumprod(0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), cumprod[:-1]])
    expected = {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_recipm1_alphas_cumprod": (1 / cumprod - 1).sqrt(),
        "posterior_variance": betas * (1 - previous) / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * (1 - betas).sqrt() / (1 - cumprod),
    }
    for name, table in expected.items():
        # One float32 step: our betas come back from the product, so their last float64 bits differ.
        torch.testing.assert_close(tensors[name], table.float(), rtol=1.2e-7, atol=0, msg=name)
    ids = tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"]
    assert torch.equal(ids, torch.arange(77)[None])


# ---------------------------------------------------------------------------------------------------------------------
# Variants that are out there

Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def nai(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layout of some merges: the text encoder without "text_model."."""
    return {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in tensors.items()}


def with_average(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file from training: the moving average of every UNet tensor, and its bookkeeping."""
    names = [name for name in tensors if name.startswith(ldm.UNET)]
    average = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensors[name] * 2 for name in names}
    scalars = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(0, dtype=torch.int32)}
    return tensors | average | scalars


def without_tables(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repacked files often hold weights alone."""
    return {name: tensor for name, tensor in tensors.items() if "." in name and "position_ids" not in name}


def spoilt_ids(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merges that rounded everything to half precision, position_ids too."""
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    return tensors | {ids: tensors[ids].bfloat16()}


def linear_projections(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repacks that hold the 1x1 convolutions as linear layers."""
    ends = ("proj_in.weight", "attn_1.q.weight", "attn_1.proj_out.weight")
    return {n: t[:, :, 0, 0] if n.endswith(ends) and t.ndim == 4 else t for n, t in tensors.items()}


@pytest.mark.parametrize("rename", [nai, with_average, without_tables, spoilt_ids, linear_projections])
@pytest.mark.sampled(2)
def test_variants_of_the_single_file(single_file: Path, tmp_path: Path, rename: Rename) -> None:
    tensors = rename(load_file(single_file))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "variant.safetensors")
    assert_same_networks(load_parts(tmp_path / "variant.safetensors", family=TINY_SD), tiny_parts())


def test_the_moving_average_is_used_on_request(single_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.safetensors"
    save_file(with_average(load_file(single_file)), path)
    parts = load_parts(path, family=TINY_SD, average=True)
    found = parts.unet.state_dict()
    for name, tensor in tiny_parts().unet.state_dict().items():
        assert torch.equal(found[name], 2 * tensor)
    assert torch.equal(parts.vae.quant_conv.weight, tiny_parts().vae.quant_conv.weight)


def test_a_file_without_a_moving_average(single_file: Path, folder: Path, tmp_path: Path) -> None:
    some = with_average(load_file(single_file))
    del some["model_ema.diffusion_modelout2bias"]
    save_file(some, tmp_path / "some.safetensors")
    for path in (single_file, tmp_path / "some.safetensors", folder):
        with pytest.raises(ModelFileError, match="no moving average"):
            load_parts(path, family=TINY_SD, average=True)


def rename_vae_of_2022(name: str) -> str:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


@pytest.mark.parametrize(
    ("file", "rename"),
    [
        ("vae/diffusion_pytorch_model.safetensors", rename_vae_of_2022),
        ("text_encoder/model.safetensors", lambda name: name.removeprefix("text_model.")),
    ],
)
def test_variants_of_the_folder(folder: Path, tmp_path: Path, file: str, rename: Callable[[str], str]) -> None:
    copy = copied(folder, tmp_path)
    save_file({rename(name): tensor for name, tensor in load_file(folder / file).items()}, copy / file)
    assert_same_networks(load_parts(copy), tiny_parts())


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_half_precision_files_of_a_folder(folder: Path, tmp_path: Path, variant: str) -> None:
    copy = copied(folder, tmp_path)
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (copy / part / f"{stem}.safetensors").rename(copy / part / f"{stem}.{variant}.safetensors")
    assert_same_networks(load_parts(copy), tiny_parts())


def test_a_folder_with_weights_of_another_kind_names_them(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.non_ema.msgpack"))
    with pytest.raises(ModelFileError, match=r"only '?diffusion_pytorch_model\.non_ema\.msgpack"):
        load_parts(copy)


def test_the_vaes_attention_by_the_names_of_diffusers(single_file: Path, tmp_path: Path) -> None:
    swap = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    tensors = load_file(single_file)
    for old, new in swap.items():
        tensors = {name.replace(f"mid.attn_1.{old}.", f"mid.attn_1.{new}."): x for name, x in tensors.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    assert_same_networks(load_parts(tmp_path / "x.safetensors", family=TINY_SD), tiny_parts())


@pytest.mark.parametrize("name", ["embedding_manager.string_to_param_dict.*", "global_step"])
def test_more_than_the_model_is_ignored_with_a_notice(single_file: Path, tmp_path: Path, name: str) -> None:
    save_file(load_file(single_file) | {name: torch.zeros(1, 32)}, tmp_path / "x.safetensors")
    parts = load_parts(tmp_path / "x.safetensors", family=TINY_SD)
    assert_same_networks(parts, tiny_parts())
    (notice,) = parts.notices
    assert notice.code == "tensors_ignored"
    assert name in notice
    model = Engine("cpu").load(tmp_path / "x.safetensors", family=TINY_SD)
    (picture,) = TextToImage(Engine("cpu"), model)(TextToImageRequest(prompt="a cat", num_steps=1, seed=1))
    assert notice in picture.notices


@pytest.mark.parametrize(
    "name", ["model.diffusion_model.more.weight", "first_stage_model.more.weight", "cond_stage_model.transformer.more"]
)
def test_more_within_a_network_is_another_model(single_file: Path, tmp_path: Path, name: str) -> None:
    save_file(load_file(single_file) | {name: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="1 tensors fit nothing in the model"):
        load_parts(tmp_path / "x.safetensors", family=TINY_SD)


@pytest.mark.parametrize("mark", ["edm_vpred.sigma_max", "edm_eps.sigma_min"])
def test_edm_models_are_refused_by_name(single_file: Path, tmp_path: Path, mark: str) -> None:
    save_file(load_file(single_file) | {mark: torch.tensor(120.0)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="CosXL or another EDM model"):
        load_parts(tmp_path / "x.safetensors", family=TINY_SD)


def copied(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    for name, data in files_below(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    return copy


# ---------------------------------------------------------------------------------------------------------------------
# The diffusers library reads what we write


@pytest.mark.parametrize(
    ("part", "key", "other"),
    [
        ("vae", "mid_block_add_attention", False),
        ("vae", "use_quant_conv", False),
        ("vae", "act_fn", "relu"),
        ("unet", "act_fn", "relu"),
    ],
)
@pytest.mark.sampled(4)
def test_settings_that_diffusers_writes_out_are_read_and_others_refused(
    folder: Path, tmp_path: Path, part: str, key: str, other: object
) -> None:
    """Every setting with its default, as the library saves a model; and one of them changed."""
    with warnings.catch_warnings():  # theirs, not ours
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKL, UNet2DConditionModel

        copy = copied(folder, tmp_path)
        path = copy / part / "config.json"
        of_class = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part]
        of_class.from_config(json.loads(path.read_text())).save_config(path.parent)
    written = json.loads(path.read_text())
    assert key in written
    assert_same_networks(load_parts(copy), tiny_parts())
    path.write_text(json.dumps(written | {key: other}))
    with pytest.raises(ModelFileError, match=f"{key} is {other}, gesso computes with"):
        load_parts(copy)


def test_diffusers_loads_our_folder(folder: Path) -> None:
    with warnings.catch_warnings():  # theirs, not ours
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    parts = load_parts(folder)
    ids = parts.tokenizer.encode(["a red cat, très bien", ""])
    theirs = pipeline.tokenizer(
        ["a red cat, très bien", ""], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    assert torch.equal(theirs.input_ids, ids)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    with torch.no_grad():
        expected = pipeline.text_encoder(ids).last_hidden_state
        context = parts.text(ids).last
        assert (context - expected).abs().max() < 1e-5  # the tolerance of tests/models/test_parity.py
        x, timestep = torch.randn(2, 4, 8, 8), torch.tensor([981, 1])
        gap = parts.unet(x, timestep, context) - pipeline.unet(x, timestep, expected).sample
        assert gap.abs().max() < 1e-5
        pixels = pipeline.vae.decode(x / parts.family.vae.scaling_factor).sample
        assert (parts.vae.decode(x) - pixels).abs().max() < 1e-4  # x / 0.18215 has a standard deviation of 5


@pytest.mark.parametrize(("prediction", "zero"), [("eps", True), ("v", False), ("v", True), ("x0", False)])
@pytest.mark.sampled(2)
def test_other_predictions_survive_the_folder(tmp_path: Path, prediction: Any, zero: bool) -> None:
    family: Family = replace(TINY_SD, prediction=prediction, schedule=replace(SD15.schedule, zero_terminal_snr=zero))
    save_tiny_folder(tmp_path / "folder", family)
    assert load_parts(tmp_path / "folder").family == family


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def test_a_tiny_file_is_no_sd15(single_file: Path) -> None:
    with pytest.raises(ModelFileError, match="tensors that the model needs are missing") as caught:
        load_parts(single_file)
    assert caught.value.reason == "missing_key"  # ten layers of the text model, to begin with


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (lambda t: t.pop("model.diffusion_model.out.2.bias"), "missing_key", "model.diffusion_model.out.2.bias"),
        (lambda t: t.update({"model.diffusion_model.x": torch.zeros(1)}), "unknown_key", "model.diffusion_model.x"),
        (
            lambda t: t.update({"first_stage_model.quant_conv.bias": torch.zeros(9)}),
            "shape",
            r"first_stage_model.quant_conv.bias is \[9\], the model expects \[8\]",
        ),
        (
            lambda t: t.update({"model.diffusion_model.out.2.bias": torch.full((4,), torch.nan)}),
            "nonfinite",
            "unet: conv_out.bias holds NaN",
        ),
        (
            lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(4, dtype=torch.int8)}),
            "dtype",
            "unet: conv_out.bias is torch.int8",
        ),
        (
            lambda t: t.update(nai({n: x.clone() for n, x in t.items() if "layer_norm1" in n})),
            "duplicate_key",
            "are the same parameter",
        ),
        (
            lambda t: t.update({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}),
            "architecture_mismatch",
            "looks like Stable Diffusion 1 for inpainting",
        ),
    ],
)
def test_single_files_that_do_not_fit(
    single_file: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], reason: str, message: str
) -> None:
    tensors = load_file(single_file)
    change(tensors)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError, match=message) as caught:
        load_parts(tmp_path / "bad.safetensors", family=TINY_SD)
    assert caught.value.reason == reason
    assert "bad.safetensors" in caught.value.message


def test_truncated_files(single_file: Path, tmp_path: Path) -> None:
    data = single_file.read_bytes()
    for length in (0, 7, 8, 1000, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:length])
        with pytest.raises(ModelFileError) as caught:
            load_parts(tmp_path / "cut.safetensors")
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "is a StableDiffusionXLPipeline"),
        ("model_index.json", {"_class_name": ["x"]}, "expected a StableDiffusionPipeline"),
        ("model_index.json", {"unet": ["evil.module", "Attack"]}, "unet is .*, expected UNet2DConditionModel"),
        ("model_index.json", {"unet": ["evil.module", "UNet2DConditionModel"]}, "UNet2DConditionModel of diffusers or"),
        ("model_index.json", {"tokenizer": [["x"], "CLIPTokenizer"]}, "expected CLIPTokenizer of diffusers or"),
        ("model_index.json", {"vae": None}, "vae is None, expected AutoencoderKL"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is timestep, an unknown setting"),
        ("unet/config.json", {"act_fn": "gelu"}, "act_fn is gelu, gesso computes with silu"),
        ("unet/config.json", {"block_out_channels": "x"}, "block_out_channels is x, expected a list"),
        ("unet/config.json", {"block_out_channels": [32]}, "expected a list of 1"),
        ("unet/config.json", {"cross_attention_dim": None}, "the UNet.context_dim is None"),
        ("unet/config.json", {"cross_attention_dim": 64}, "its text encoder is 32 wide"),
        ("unet/config.json", {"attention_head_dim": [8, 8]}, "expected a list of 4"),
        ("unet/config.json", {"attention_head_dim": 7}, "does not divide into 7 heads"),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 4}, "not those of Stable Diffusion"),
        ("unet/config.json", {"sample_size": 10**9}, "sample_size is 1000000000"),
        ("unet/config.json", {"sample_size": 1025}, "sample_size is 1025, expected 1 to 1024"),
        ("unet/config.json", {"sample_size": -1}, "sample_size is -1, expected 1 to 1024"),
        ("unet/config.json", {"in_channels": 5}, "its UNet takes 5 channels and gives 4; no release does"),
        ("unet/config.json", {"in_channels": 9}, r"is \[32, 4, 3, 3\], the model"),
        ("unet/config.json", {"addition_embed_type": "text"}, "addition_embed_type is text, gesso knows text_time"),
        ("unet/config.json", {"only_cross_attention": True}, "only_cross_attention is True"),
        ("unet/config.json", {"only_cross_attention": [True, False, True]}, "expected a list of 4"),
        ("unet/config.json", {"only_cross_attention": [True, False, True, 1]}, "expected a list of 4"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor is 0.1, an unknown setting"),
        ("vae/config.json", {"use_quant_conv": False}, "use_quant_conv is False"),
        ("vae/config.json", {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "not DownEncoderBlock2D throughout"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is relu, gesso computes with"),
        ("text_encoder/config.json", {"hidden_act": ["relu"]}, r"hidden_act is \['relu'\], gesso computes with"),
        ("text_encoder/config.json", {"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ("text_encoder/config.json", {"model_type": "t5"}, "is a t5, expected a clip_text_model"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "num_layers"),
        ("text_encoder/config.json", {"vocab_size": 1000, "eos_token_id": 2}, r"is \[49408, 32\], the model"),
        ("text_encoder/config.json", {"eos_token_id": 5}, "id of the end"),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "linear"},
            "beta_schedule linear, gesso computes with scaled_linear",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type is flow"),
        ("scheduler/scheduler_config.json", {"beta_start": 0.5}, "beta_start"),
    ],
)
@pytest.mark.sampled(5)
def test_folders_that_do_not_fit(folder: Path, tmp_path: Path, file: str, change: dict[str, Any], message: str) -> None:
    copy = copied(folder, tmp_path)
    config = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(config | change))
    with pytest.raises(GessoError, match=message) as caught:
        load_parts(copy)
    assert str(copy) in caught.value.message


def test_the_eos_id_that_published_configs_have(folder: Path, tmp_path: Path) -> None:
    """They say 2 and mean the greatest id."""
    copy = copied(folder, tmp_path)
    file = copy / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 2, "bos_token_id": 0}))
    assert load_parts(copy).family == TINY_SD


@pytest.mark.parametrize("missing", ["model_index.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_folders_that_lack_something(folder: Path, tmp_path: Path, missing: str) -> None:
    copy = copied(folder, tmp_path)
    (copy / missing).unlink()
    with pytest.raises(ModelFileError) as caught:
        load_parts(copy)
    assert caught.value.reason == "missing"


def test_a_model_that_the_layouts_cannot_hold(tmp_path: Path) -> None:
    parts = load_parts(save_tiny_mini(tmp_path / "mini.safetensors"))
    with pytest.raises(ValueError, match="cannot be saved in the LDM layout"):
        save_ldm(tmp_path / "x.safetensors", parts)
    with pytest.raises(ValueError, match="cannot be saved as a diffusers folder"):
        save_diffusers(tmp_path / "x", parts)
    assert [path.name for path in tmp_path.iterdir()] == ["mini.safetensors"]
    assert tiny_family() == parts.family


def test_a_folder_is_not_overwritten(folder: Path) -> None:
    before = files_below(folder)
    with pytest.raises(ModelFileError, match="already exists"):
        save_diffusers(folder, tiny_parts())
    assert files_below(folder) == before


def test_a_failed_save_of_a_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_safetensors", fail)
    with pytest.raises(ModelFileError, match="No space left"):
        save_diffusers(tmp_path / "x", tiny_parts())
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_command_line_starts_without_the_compiler(single_file: Path) -> None:
    """Loading on the meta device would import torch's compiler, two seconds of every start, were it not avoided."""
    code = (
        "import sys\nfrom gesso.families.loading import load_parts\nfrom gesso.runtime.engine import Engine\n"
        f"from tiny_sd import TINY_SD\nload_parts({str(single_file)!r}, family=TINY_SD)\nEngine().load()\n"
        "print(sorted({'torch._dynamo', 'sympy', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert clip_tokenizer().length == 77
