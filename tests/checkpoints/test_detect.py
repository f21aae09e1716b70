from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gesso.checkpoints.detect import describe, detect, named_family, require_model
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import sha256_of
from gesso.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gesso.families.loading import load_parts
from tiny_models import save_tiny_mini
from tiny_sd import TINY_FAMILIES, TINY_SD, save_tiny_file, save_tiny_folder, tiny_parts


def tensors(*names: str, shape: tuple[int, ...] = (2, 2)) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name in names}


UNET, VAE = "model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"
CLIP = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
ONE_LORA = "lora_unet_down_blocks_0_attentions_0_proj_in"


def model(*names: str, channels: int) -> dict[str, Tensor]:
    """A whole model whose UNet takes so many channels."""
    return {**tensors(VAE, *names), **tensors(UNET, shape=(320, channels, 3, 3))}


XL = "conditioner.embedders.1.model.ln_final.bias"
OPENCLIP = "cond_stage_model.model.ln_final.bias"
# What can be loaded: name of the family -> in words, and its tensors.
MODELS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "sdxl": ("Stable Diffusion XL", model("conditioner.embedders.0.x", XL, channels=4)),
    "sdxl-inpaint": ("Stable Diffusion XL for inpainting (9 input channels)", model(XL, channels=9)),
    "sdxl-refiner": (
        "the refiner of Stable Diffusion XL",
        model("conditioner.embedders.0.model.ln_final.bias", channels=4),
    ),
    "sd21": ("Stable Diffusion 2", model(OPENCLIP, channels=4)),
    "sd2-inpaint": ("Stable Diffusion 2 for inpainting (9 input channels)", model(OPENCLIP, channels=9)),
    "x4-upscaler": ("the x4 upscaler of Stable Diffusion 2 (7 input channels)", model(OPENCLIP, channels=7)),
    "sd15": ("Stable Diffusion 1", model(CLIP, channels=4)),
    "sd15-inpaint": ("Stable Diffusion 1 for inpainting (9 input channels)", model(CLIP, channels=9)),
    "instruct-pix2pix": ("InstructPix2Pix (8 input channels)", model(CLIP, channels=8)),
}
# What it is -> its tensors, as far as they tell.
FILES: dict[str, dict[str, Tensor]] = {
    "Stable Diffusion XL that edits pictures (8 input channels)": model(XL, channels=8),
    "Stable Diffusion 2 with a depth map (5 input channels)": model(OPENCLIP, channels=5),
    "Stable Diffusion 2 unCLIP": model(OPENCLIP, "model.diffusion_model.label_emb.0.0.weight", channels=4),
    "a TAESD (tiny autoencoder)": tensors("encoder.layers.0.weight", "decoder.layers.0.weight"),
    "half of a TAESD (tiny autoencoder)": tensors("0.weight", "1.conv.0.weight", shape=(4, 4, 3, 3)),
    "Stable Diffusion 3": tensors("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
    "FLUX": tensors("double_blocks.0.img_attn.qkv.weight"),
    "a UNet without its text encoder or VAE": tensors(UNET),
    "a VAE alone": tensors("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"),
    "the UNet of a diffusers folder": tensors("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"),
    "a text encoder alone": tensors("text_model.encoder.layers.0.mlp.fc1.weight"),
    "a ControlNet": tensors("control_model.input_hint_block.0.weight", UNET, VAE, CLIP),
    "a Control-LoRA": tensors("lora_controlnet", "input_hint_block.0.weight"),
    "an IP-Adapter": tensors("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"),
    "a T2I-Adapter": tensors("adapter.body.0.resnets.0.block1.weight"),
    "a LoRA": tensors(f"{ONE_LORA}.lora_down.weight", f"{ONE_LORA}.lora_up.weight", f"{ONE_LORA}.alpha"),
    "a LyCORIS adapter": tensors(f"{ONE_LORA}.hada_w1_a", f"{ONE_LORA}.hada_w1_b"),
    "a textual inversion embedding": tensors("emb_params", shape=(4, 768)),
    "no model that gesso knows": tensors(*(f"transformer.h.{i}.mlp.weight" for i in range(9))),
}


@pytest.mark.parametrize("family", MODELS)
def test_the_family_of_a_model_shows_in_its_header(tmp_path: Path, family: str) -> None:
    what, found = MODELS[family]
    path = tmp_path / "model.safetensors"
    write_safetensors(path, found, {"modelspec.architecture": "stable-diffusion-v1"})  # decides nothing
    kind = require_model(open_safetensors(path))
    assert (kind.layout, kind.what, kind.family) == ("ldm", what, family)


@pytest.mark.parametrize(
    ("name", "family", "named"),
    [
        ("sd_xl_turbo_1.0_fp16.safetensors", "sdxl", "sdxl-turbo"),
        ("sd_turbo.safetensors", "sd21", "sd-turbo"),
        ("juggernautXL_v9Rdphoto2Lightning.safetensors", "sdxl", "sdxl-lightning"),
        ("Dreamshaper_LCM.safetensors", "sd15", "sd15-lcm"),
        ("turbo.safetensors", "sd15", None),  # no such release
        ("sd_xl_base_1.0.safetensors", "sdxl", None),
        ("lcm.safetensors", None, None),
    ],
)
def test_a_name_is_a_hint(name: str, family: str | None, named: str | None) -> None:
    assert named_family(Path("models") / name, family) == named


@pytest.mark.parametrize("what", FILES)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "model.safetensors"
    # Metadata decide nothing: everyone may write into them that this is Stable Diffusion 1.
    write_safetensors(path, FILES[what], {"modelspec.architecture": "stable-diffusion-v1"})
    file = open_safetensors(path)
    assert detect(file).what == what
    with pytest.raises(ModelFileError) as caught:
        require_model(file)
    assert caught.value.reason == "architecture_mismatch"
    assert f"looks like {what}; " in caught.value.message
    assert not caught.value.message.endswith("; ")  # there is always something to do
    assert describe(path).family is None


def test_a_single_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_tiny_file(path)
    found = describe(path)
    assert (found.layout, found.family) == ("ldm", "sd15")
    assert [part.name for part in found.parts] == ["unet", "text", "vae", "other"]
    parts = tiny_parts()
    assert found.parts[0].num_params == sum(param.numel() for param in parts.unet.parameters())
    assert found.parts[1].dtypes == ("float32", "int64")  # position_ids are whole numbers
    weights = sum(len(network.state_dict()) for network in (parts.unet, parts.vae, parts.text))
    assert found.num_tensors == weights + 12 + 1  # the tables of the schedule, and position_ids
    assert found.nbytes == path.stat().st_size
    assert [(file.path, file.sha256) for file in found.files] == [(path, sha256_of(path))]


@pytest.mark.parametrize("family", [name for name in TINY_FAMILIES if name != "sd21-base"])
def test_the_family_of_a_folder(tmp_path: Path, family: str) -> None:
    found = describe(save_tiny_folder(tmp_path / "tiny", TINY_FAMILIES[family]))
    assert (found.layout, found.family) == ("diffusers", family)
    assert ("text_2" in [part.name for part in found.parts]) == (TINY_FAMILIES[family].layout == "sdxl")


def test_a_folder_is_described(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    save_tiny_folder(folder)
    found = describe(folder)
    assert (found.layout, found.family) == ("diffusers", "sd15")
    assert [part.name for part in found.parts] == ["unet", "text", "vae"]
    assert found.num_params == sum(
        param.numel() for net in (tiny_parts().unet, tiny_parts().text, tiny_parts().vae) for param in net.parameters()
    )
    assert len(found.files) == 3


def test_a_native_file_is_described(tmp_path: Path) -> None:
    found = describe(save_tiny_mini(tmp_path / "mini.safetensors"))
    assert (found.layout, found.family) == ("native", "gesso-mini")
    assert [part.name for part in found.parts] == ["unet", "text", "vae", "upscaler"]
    assert {dtype for part in found.parts for dtype in part.dtypes} == {"float16"}
    assert found.files[0].metadata["modelspec.title"] == "tiny"


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has no model_index\.json"):
        describe(tmp_path)


def test_a_folder_with_pytorch_files(tmp_path: Path) -> None:
    """Read through the closed reader, in a process of its own; safetensors are preferred."""
    folder = save_tiny_folder(tmp_path / "lcm-tiny", TINY_SD)
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        weights = next((folder / part).glob("*.safetensors"))
        torch.save(load_file(weights), folder / part / f"{name}.bin")
        weights.unlink()
    found = describe(folder)
    assert [file.path.suffix for file in found.files] == [".safetensors", ".bin", ".bin"]
    assert (found.family, found.named_family) == ("sd15", "sd15-lcm")
    parts = load_parts(folder)
    assert torch.equal(parts.vae.quant_conv.weight, tiny_parts(TINY_SD).vae.quant_conv.weight)
    assert torch.equal(parts.text.norm.bias, tiny_parts(TINY_SD).text.norm.bias)
    (folder / "vae" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(ModelFileError, match=r"has no diffusion_pytorch_model\.safetensors; download it") as caught:
        describe(folder)
    assert caught.value.reason == "missing"
