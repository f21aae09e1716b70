from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gesso.checkpoints.clip_vision import clip_vision_config
from gesso.checkpoints.detect import describe, detect, named_family, require_model
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.foreign import looks_like
from gesso.checkpoints.hashing import hash_file, sha256_of
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
@pytest.mark.sampled(2)
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


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b' \n{"error": 3}', "JSON text, perhaps a server's error"),
        (b"\xef\xbb\xbf <!DOCTYPE html><p>", "a web page"),
        (b"\0" * 64, "a file of zeros"),
        (b"\0" * 63, None),
        (b"some text that is plain", "plain text"),
        (b"short", None),
        ("äöü äöü".encode()[:-1], "plain text"),  # cut inside its last character
        (b"text with \x07 a bell", None),
        (b"\0" * 257 + b"ustar", "a tar archive"),
        (b"%PDF-1.4", "a PDF document"),
        (b"\x80\x02\0\0\0\0\0\0{", None),  # safetensors, whatever the length spells
    ],
)
def test_what_is_no_file_of_weights_by_its_first_bytes(start: bytes, words: str | None):
    found = looks_like(start)
    assert found is None if words is None else found is not None and found.startswith(words)


VISION = {
    "vision_model.embeddings.patch_embedding.weight": (768, 3, 16, 16),
    "vision_model.embeddings.position_embedding.weight": (197, 768),
    "visual_projection.weight": (512, 768),
    "vision_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
}


def test_sizes_of_an_image_encoder():
    found = clip_vision_config(VISION, "x")
    assert (found.image_size, found.patch_size, found.dim, found.num_layers) == (224, 16, 768, 1)
    assert (found.num_heads, found.mlp_dim, found.activation, found.projection_dim) == (12, 3072, "quick_gelu", 512)
    other = {name: tuple(1280 if side == 768 else side for side in shape) for name, shape in VISION.items()}
    assert (clip_vision_config(other, "x").num_heads, clip_vision_config(other, "x").activation) == (16, "gelu")
    small = {name: tuple(128 if side == 768 else side for side in shape) for name, shape in VISION.items()}
    assert clip_vision_config(small, "x").num_heads == 2  # a head takes 64


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("embeddings.position_embedding.weight", (198, 768), "198 places"),
        ("embeddings.patch_embedding.weight", (8193, 3, 16, 16), "layers of 8193"),
        ("encoder.layers.0.mlp.fc1.weight", (8193, 768), "not the sizes of an image encoder"),
        ("embeddings.patch_embedding.weight", (130, 3, 16, 16), None),
        ("embeddings.patch_embedding.weight", (193, 3, 16, 16), "a width of 193 does not divide into 3 heads"),
    ],
)
def test_sizes_of_no_image_encoder(name: str, shape: tuple[int, ...], words: str | None):
    shapes = VISION | {f"vision_model.{name}": shape}
    if words is None:
        assert clip_vision_config(shapes, "x").num_heads == 2
        return
    with pytest.raises(ModelFileError, match=words):
        clip_vision_config(shapes, "x")


def test_a_file_that_changes_while_it_is_hashed(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(100))
    with pytest.raises(ModelFileError, match="the file changed while it was read; try again"):
        hash_file(path, lambda count: path.write_bytes(bytes(count + 1)))
    with pytest.raises(ModelFileError, match="no such file"):
        hash_file(tmp_path / "none")
