"""Every release of Stable Diffusion at tiny size: both layouts, what a file does not say, parts in their own files."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gesso.checkpoints import keymap, ldm
from gesso.checkpoints import taesd as names
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.diffusion.samplers import SAMPLERS
from gesso.diffusion.schedule import SCHEDULES
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts
from gesso.families.prediction import declared_prediction, probe_prediction
from gesso.families.registry import FAMILIES, family_named, release_like
from gesso.families.saving import ldm_tensors, save_diffusers, save_ldm
from gesso.families.taesd import load_taesd, save_taesd
from gesso.models.taesd import TAESD, TAESDConfig
from gesso.models.unet import UNet
from tiny_models import save_tiny_mini
from tiny_sd import (
    TINY_FAMILIES,
    TINY_REFINER,
    TINY_SD,
    TINY_SD21,
    TINY_SD21_BASE,
    TINY_SDXL,
    TINY_X4,
    save_tiny_file,
    save_tiny_folder,
    tiny_parts,
)

PARTS = ("unet", "text", "text_2", "vae")
NAMES = sorted(TINY_FAMILIES.keys() - {"sd15"})  # tests/families/test_stable_diffusion.py has that


def assert_same_networks(found: ModelParts, expected: ModelParts, parts: tuple[str, ...] = PARTS) -> None:
    for part in parts:
        network = getattr(expected, part)
        assert (getattr(found, part) is None) == (network is None), part
        if network is None:
            continue
        tensors = getattr(found, part).state_dict()
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensors[name], tensor), f"{part}.{name}"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def in_folder(family: Family) -> Family:
    """The same, as a diffusers folder has it: SD 2 without the text layer and the projection that are not read."""
    if family.layout != "sd2":
        return family
    text = replace(family.text, num_layers=family.text.num_layers - 1, projection_dim=None)
    return replace(family, text=text, text_layer=1)


# ---------------------------------------------------------------------------------------------------------------------


# Whole models, written and read several times: one of each layout is quick, with what it may have more.
ROUND = {"sd15-inpaint", "sd21", "sdxl", "sdxl-refiner", "x4-upscaler"}
assert set(NAMES) >= ROUND


def round_trips(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in ROUND else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", round_trips(name for name in NAMES if name != "sdxl-refiner"))
@pytest.mark.sampled(4)
def test_single_file_round_trip(name: str, tmp_path: Path) -> None:
    """Of SD 2 with the text layer that nothing reads, its projection, and the temperature of its training."""
    family = TINY_FAMILIES[name]
    tensors = ldm_tensors(tiny_parts(family)) | {"model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    scales = [key for key in tensors if key.endswith("logit_scale")]
    tensors |= {key: torch.tensor(3.25) for key in scales}
    assert len(scales) == (family.layout != "sd1")
    first = tmp_path / "first.safetensors"
    write_safetensors(first, tensors, {"format": "pt"})
    parts = load_parts(first, family=family)
    assert parts.family == family
    assert_same_networks(parts, tiny_parts(family))
    save_ldm(tmp_path / "again.safetensors", parts)
    assert (tmp_path / "again.safetensors").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", round_trips(NAMES))
@pytest.mark.sampled(4)
def test_folder_round_trip(name: str, tmp_path: Path) -> None:
    """And through a single file in between: from one layout to the other and back."""
    family = TINY_FAMILIES[name]
    folder = save_tiny_folder(tmp_path / "folder", family)
    parts = load_parts(folder)
    assert parts.family == in_folder(family)
    assert_same_networks(parts, tiny_parts(family), ("unet", "text_2", "vae"))
    if family.layout != "sd2":
        assert torch.equal(parts.text.norm.bias, tiny_parts(family).text.norm.bias)
    save_ldm(tmp_path / "between.safetensors", parts)
    between = load_parts(tmp_path / "between.safetensors", family=family)
    assert between.family == in_folder(family)
    save_diffusers(tmp_path / "again", between)
    assert files_below(tmp_path / "again") == files_below(folder)


@pytest.mark.parametrize("name", ["sd21", "sdxl"])
@pytest.mark.sampled(2)
def test_half_precision_round_trip(name: str, tmp_path: Path) -> None:
    family = TINY_FAMILIES[name]
    save_tiny_file(tmp_path / "full.safetensors", family)
    half = load_parts(tmp_path / "full.safetensors", dtype=torch.bfloat16, family=family)
    save_ldm(tmp_path / "half.safetensors", half)
    again = load_parts(tmp_path / "half.safetensors", dtype=torch.bfloat16, family=family)
    save_ldm(tmp_path / "again.safetensors", again)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "half.safetensors").read_bytes()


def test_the_projection_of_bigg_is_turned_over(tmp_path: Path) -> None:
    """It is square, so nothing but the numbers would show it if it were not."""
    tensors = ldm_tensors(tiny_parts(TINY_SDXL))
    stored = tensors["conditioner.embedders.1.model.text_projection"]
    weight = tiny_parts(TINY_SDXL).text_2.projection.weight
    assert stored.shape == weight.shape == (48, 48)
    assert torch.equal(stored, weight.T)
    assert not torch.equal(stored, weight)
    parts = load_parts(write(tmp_path / "x.safetensors", tensors), family=TINY_SDXL)
    assert torch.equal(parts.text_2.projection.weight, weight)


def test_the_attention_of_openclip_is_parted_into_three() -> None:
    tensors = ldm_tensors(tiny_parts(TINY_REFINER))
    stacked = tensors["conditioner.embedders.0.model.transformer.resblocks.1.attn.in_proj_weight"]
    attention = tiny_parts(TINY_REFINER).text.layers[1].attention
    for third, layer in zip(stacked.chunk(3), (attention.to_q, attention.to_k, attention.to_v), strict=True):
        assert torch.equal(third, layer.weight)


def half_turned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Projections of transformers as convolutions, which some repacks of SD 2 have."""
    ends = ("proj_in.weight", "proj_out.weight")
    return {n: t[:, :, None, None] if n.endswith(ends) and t.ndim == 2 else t for n, t in tensors.items()}


def leftovers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What other programs leave in merged files."""
    return tensors | {
        "conditioner.embedders.0.transformer.text_projection.weight": torch.zeros(2, 2),
        "conditioner.embedders.0.logit_scale": torch.zeros(()),
        "denoiser.sigmas": torch.zeros(1000),
        "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(3),
    }


def averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = [name for name in tensors if name.startswith(ldm.UNET)]
    return tensors | {f"model_ema.{n.removeprefix('model.').replace('.', '')}": tensors[n] * 2 for n in names}


@pytest.mark.parametrize("change", [half_turned, leftovers, averaged])
@pytest.mark.parametrize("name", ["sd21", "sdxl"])
@pytest.mark.sampled(2)
def test_variants_of_the_single_file(name: str, change: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    family = TINY_FAMILIES[name]
    path = write(tmp_path / "variant.safetensors", change(ldm_tensors(tiny_parts(family))))
    assert_same_networks(load_parts(path, family=family), tiny_parts(family))


def test_the_moving_average_of_sdxl(tmp_path: Path) -> None:
    path = write(tmp_path / "both.safetensors", averaged(ldm_tensors(tiny_parts(TINY_SDXL))))
    parts = load_parts(path, family=TINY_SDXL, average=True)
    assert torch.equal(parts.unet.conv_in.weight, 2 * tiny_parts(TINY_SDXL).unet.conv_in.weight)


# ---------------------------------------------------------------------------------------------------------------------
# What a file is


def test_names_of_families() -> None:
    assert family_named("sdxl-turbo").defaults.num_steps == 1
    with pytest.raises(GessoError, match=r"`family` sdxl9: no such family\. Known: sd15, "):
        family_named("sdxl9")
    for family in FAMILIES.values():
        like = release_like(family)
        assert (like.layout, like.unet, like.text, like.text_2) == (
            family.layout,
            family.unet,
            family.text,
            family.text_2,
        )


def test_defaults_are_there() -> None:
    for family in FAMILIES.values():
        assert family.defaults.sampler in SAMPLERS, family.name
        assert family.defaults.schedule in SCHEDULES, family.name


def test_every_family_is_in_the_documentation() -> None:
    """docs/families.md has one row each, with what a request gets."""
    rows = (Path(__file__).parents[2] / "docs" / "families.md").read_text().splitlines()
    for family in FAMILIES.values():
        settings = family.defaults
        wanted = f"{settings.sampler}, {settings.schedule}, {settings.num_steps} steps, {settings.guidance_scale:g}"
        row = next((row for row in rows if row.startswith(f"| `{family.name}` |")), "")
        assert all(words in row for words in (wanted, f"{family.native_size} |", f"| {family.prediction} |")), (
            family.name
        )


def test_a_native_file_says_itself_what_it_is(tmp_path: Path) -> None:
    path = save_tiny_mini(tmp_path / "mini.safetensors")
    for options in ({"family": "sdxl"}, {"prediction": "eps"}, {"vae": path}):
        with pytest.raises(ModelFileError, match="leave out `family`, `prediction`, `vae` and `unet`"):
            load_parts(path, **options)


def test_a_wrong_family_is_refused_with_the_right_one(tmp_path: Path) -> None:
    save_tiny_file(tmp_path / "xl.safetensors", TINY_SDXL)
    with pytest.raises(ModelFileError, match=r"looks like Stable Diffusion XL, not like 'sd15'\. Try: `family=sdxl`"):
        load_parts(tmp_path / "xl.safetensors", family="sd15")
    with pytest.raises(ModelFileError, match=r"looks like 'sdxl', not like 'sd15'\. Try: `family=sdxl`"):
        load_parts(save_tiny_folder(tmp_path / "folder", TINY_SDXL), family="sd15")


def test_a_folder_takes_its_settings_from_a_named_family(tmp_path: Path) -> None:
    """The folders of distilled models look like those of their base."""
    folder = save_tiny_folder(tmp_path / "turbo", TINY_SDXL)
    family = load_parts(folder, family="sdxl-turbo").family
    assert (family.name, family.defaults) == ("sdxl-turbo", FAMILIES["sdxl-turbo"].defaults)
    assert family.unet == TINY_SDXL.unet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('model:\n  target: ldm.LatentDiffusion\n  params:\n    parameterization: "v"\n', "v"),
        ("  parameterization: v  # velocity\n", "v"),
        ("    parameterization: 'eps'\n", "eps"),
        ("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n", "eps"),
        ("target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling\n", "v"),
        ("target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling\n", "eps"),
        ("a: b\n", None),
    ],
)
def test_a_yaml_beside_the_file_tells_the_prediction(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "model.yaml").write_text(text)
    assert declared_prediction(tmp_path / "model.safetensors", {}, {}) == expected


@pytest.mark.parametrize(
    ("names", "metadata", "expected"),
    [
        ({"v_pred": 1}, {}, "v"),
        ({"v_pred": 1}, {"modelspec.prediction_type": "epsilon"}, "v"),  # marks are trusted more
        ({}, {"modelspec.prediction_type": "epsilon"}, "eps"),
        ({}, {"modelspec.prediction_type": "v"}, "v"),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v"),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-512"}, None),
        ({}, {"modelspec.prediction_type": "nonsense"}, None),
    ],
)
def test_what_tells_the_prediction(
    tmp_path: Path, names: dict[str, int], metadata: dict[str, str], expected: str | None
) -> None:
    assert declared_prediction(tmp_path / "model.safetensors", names, metadata) == expected


def test_yaml_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFileError, match="is not UTF-8"):
        declared_prediction(tmp_path / "model.safetensors", {}, {})


def answering(unet: UNet, value: float) -> UNet:
    """The same UNet, which says one value everywhere."""
    unet.conv_out.weight.data.zero_()
    unet.conv_out.bias.data.fill_(value)
    return unet


@pytest.mark.parametrize(("answer", "expected"), [(0.5, "eps"), (-0.4, "eps"), (-0.6, "v"), (-3.0, "v")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.sampled(2)
def test_the_probe(answer: float, expected: str, dtype: torch.dtype) -> None:
    """The input is 0.5; an answer more than 1 below is a velocity. The weights keep their format and their bits."""
    torch.manual_seed(0)
    unet = answering(UNet(TINY_SD21.unet).requires_grad_(False), answer).to(dtype)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    assert probe_prediction(unet) == expected
    for name, tensor in unet.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def as_release(monkeypatch: pytest.MonkeyPatch, family: Family, *names: str) -> None:
    """Loading takes the tiny sizes for those of the releases."""
    for name in names:
        sized = replace(FAMILIES[name], unet=family.unet, vae=family.vae, text=family.text, text_2=family.text_2)
        monkeypatch.setitem(FAMILIES.builtin, name, sized)


@pytest.mark.parametrize(
    ("answer", "name", "prediction", "size"), [(0.4, "sd21-base", "eps", 512), (-2.0, "sd21", "v", 768)]
)
def test_stable_diffusion_2_is_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: float,
    name: str,
    prediction: str,
    size: int,
) -> None:
    as_release(monkeypatch, TINY_SD21, "sd21")
    tensors = dict(ldm_tensors(tiny_parts(TINY_SD21)))
    tensors[f"{ldm.UNET}out.2.weight"] = torch.zeros_like(tensors[f"{ldm.UNET}out.2.weight"])
    tensors[f"{ldm.UNET}out.2.bias"] = torch.full((4,), answer)
    path = write(tmp_path / "model.safetensors", {n: t.half() for n, t in tensors.items() if t.ndim})
    family = load_parts(path, dtype=None).family
    assert (family.name, family.prediction, family.native_size) == (name, prediction, size)
    assert family.scheduler == FAMILIES[name].scheduler
    other = "eps" if prediction == "v" else "v"
    assert load_parts(path, prediction=other).family.prediction == other  # the user is believed
    (tmp_path / "model.yaml").write_text(f'parameterization: "{other}"\n')
    assert load_parts(path).family.prediction == other


def test_a_mark_tells_that_an_sdxl_predicts_the_velocity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_release(monkeypatch, TINY_SDXL, "sdxl", "sdxl-turbo")
    marks = {"v_pred": torch.zeros(()), "ztsnr": torch.zeros(())}
    path = write(tmp_path / "v.safetensors", ldm_tensors(tiny_parts(TINY_SDXL)) | marks)
    parts = load_parts(path)
    assert (parts.family.name, parts.family.prediction) == ("sdxl", "v")
    assert parts.family.schedule.zero_terminal_snr
    save_ldm(tmp_path / "again.safetensors", parts)
    assert {"v_pred", "ztsnr"} <= load_file(tmp_path / "again.safetensors").keys()
    write(path, ldm_tensors(tiny_parts(TINY_SDXL)) | {"v_pred": torch.zeros(())})
    save_ldm(tmp_path / "without.safetensors", load_parts(path))
    marked = load_file(tmp_path / "without.safetensors").keys()
    assert ("v_pred" in marked, "ztsnr" in marked) == (True, False)
    write(path, ldm_tensors(tiny_parts(TINY_SDXL)) | marks)
    assert load_parts(path, prediction="eps").family.prediction == "eps"
    assert load_parts(path, family="sdxl-turbo").family.prediction == "v"


# ---------------------------------------------------------------------------------------------------------------------
# ModelParts in files of their own


def vae_of(parts: ModelParts) -> dict[str, Tensor]:
    """Another autoencoder, by the names of a single file without the prefix."""
    tensors = ldm_tensors(parts)
    return {name.removeprefix(ldm.VAE): tensor for name, tensor in tensors.items() if name.startswith(ldm.VAE)}


# A whole model each: every kind into a file or a folder is quick, in turn.
@pytest.mark.parametrize(
    ("kind", "into"),
    [
        pytest.param(kind, into, marks=() if (i + j) % 2 == 0 else pytest.mark.slow)
        for i, kind in enumerate(("bare", "prefixed", "trained", "whole", "diffusers", "folder", "model folder"))
        for j, into in enumerate(("file", "folder"))
    ],
)
@pytest.mark.sampled(3)
def test_a_vae_of_its_own(tmp_path: Path, kind: str, into: str) -> None:
    other = tiny_parts(TINY_SD, seed=1)
    tensors = vae_of(other)
    path = tmp_path / "vae.safetensors"
    if kind == "bare":
        write(path, tensors)
    elif kind == "prefixed":
        write(path, {ldm.VAE + name: tensor for name, tensor in tensors.items()})
    elif kind == "trained":
        write(path, tensors | {"loss.discriminator.main.0.weight": torch.ones(2), "model_ema.decay": torch.ones(())})
    elif kind == "whole":
        save_ldm(path, other)
    else:
        folder = save_tiny_folder(tmp_path / "other", TINY_SD, seed=1)
        names = {"diffusers": "vae/diffusion_pytorch_model.safetensors", "folder": "vae", "model folder": ""}
        path = folder / names[kind]
    model = tmp_path / "model.safetensors" if into == "file" else tmp_path / "model"
    (save_ldm if into == "file" else save_diffusers)(model, tiny_parts())
    parts = load_parts(model, family=TINY_SD if into == "file" else None, vae=path)
    assert_same_networks(parts, tiny_parts(), ("unet", "text"))
    assert_same_networks(parts, other, ("vae",))
    assert path in parts.files or path in [file.parent for file in parts.files] or kind == "model folder"
    assert parts.files[-1].read_bytes() != b""


def test_a_model_without_a_vae(tmp_path: Path) -> None:
    tensors = {n: t for n, t in ldm_tensors(tiny_parts()).items() if not n.startswith(ldm.VAE)}
    path, vae = write(tmp_path / "no.safetensors", tensors), write(tmp_path / "vae.safetensors", vae_of(tiny_parts()))
    with pytest.raises(ModelFileError, match="has no VAE; give the file of one with `vae`"):
        load_parts(path, family=TINY_SD)
    assert_same_networks(load_parts(path, family=TINY_SD, vae=vae), tiny_parts())


def test_what_is_no_vae(tmp_path: Path) -> None:
    save_tiny_file(tmp_path / "model.safetensors")
    lora = write(
        tmp_path / "lora.safetensors", {f"lora_x.lora_{end}.weight": torch.ones(2, 2) for end in ("up", "down")}
    )
    with pytest.raises(ModelFileError, match=r"lora.safetensors: looks like a LoRA, expected a VAE"):
        load_parts(tmp_path / "model.safetensors", family=TINY_SD, vae=lora)
    x4 = write(tmp_path / "x4.safetensors", vae_of(tiny_parts(TINY_X4)))
    with pytest.raises(ModelFileError, match=r"x4\.safetensors"):
        load_parts(tmp_path / "model.safetensors", family=TINY_SD, vae=x4)


@pytest.fixture(scope="module")
def taesd() -> TAESD:
    torch.manual_seed(0)
    return TAESD(TAESDConfig()).requires_grad_(False).eval()


@pytest.fixture
def halves(tmp_path: Path, taesd: TAESD) -> Path:
    """The author's two files."""
    for half, rules in (
        ("encoder", names.encoder_rules(taesd.config)),
        ("decoder", names.decoder_rules(taesd.config)),
    ):
        write(tmp_path / f"taesd_{half}.safetensors", keymap.save(rules, getattr(taesd, half).state_dict()))
    return tmp_path


@pytest.mark.parametrize("name", ["", "taesd_decoder.safetensors", "taesd_encoder.safetensors"])
def test_taesd_from_its_two_files(halves: Path, taesd: TAESD, name: str) -> None:
    found = load_taesd(halves / name)[0].state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in taesd.state_dict().items())


def test_taesd_from_one_file(tmp_path: Path, taesd: TAESD) -> None:
    save_taesd(tmp_path / "diffusion_pytorch_model.safetensors", taesd)
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        found = load_taesd(path)[0].state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in taesd.state_dict().items())


def test_half_a_taesd(halves: Path, taesd: TAESD) -> None:
    (halves / "taesd_encoder.safetensors").unlink()
    found, files = load_taesd(halves)
    assert files == (halves / "taesd_decoder.safetensors",)
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(found.decode(latents), taesd.decode(latents))
    with pytest.raises(ValueError, match="a decoder only"):
        found.encode(torch.zeros(1, 3, 32, 32))
    (halves / "taesd_decoder.safetensors").rename(halves / "x.safetensors")
    write(halves / "taesd_encoder.safetensors", {"0.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(ModelFileError, match="is not beside it"):
        load_taesd(halves / "taesd_encoder.safetensors")


@pytest.mark.parametrize("layout", ["halves", "one file"])
def test_taesd_in_the_place_of_the_vae(tmp_path: Path, halves: Path, taesd: TAESD, layout: str) -> None:
    save_tiny_file(tmp_path / "model.safetensors")
    save_taesd(tmp_path / "tiny.safetensors", taesd)
    path = halves / "taesd_decoder.safetensors" if layout == "halves" else tmp_path / "tiny.safetensors"
    parts = load_parts(tmp_path / "model.safetensors", family=TINY_SD, vae=path)
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(parts.vae.decode(latents), taesd.decode(latents))
    names = ["taesd_decoder.safetensors", "taesd_encoder.safetensors"] if layout == "halves" else ["tiny.safetensors"]
    assert [file.name for file in parts.files[1:]] == names
    if layout == "halves":
        (halves / "taesd_encoder.safetensors").unlink()
        with pytest.raises(ModelFileError, match=r"the decoder of a TAESD, but taesd_encoder\.safetensors"):
            load_parts(tmp_path / "model.safetensors", family=TINY_SD, vae=path)
    save_tiny_file(tmp_path / "x4.safetensors", TINY_X4)
    with pytest.raises(ModelFileError, match="does not exist for this model's latents"):
        load_parts(tmp_path / "x4.safetensors", family=TINY_X4, vae=tmp_path / "tiny.safetensors")


def test_what_is_no_taesd(tmp_path: Path) -> None:
    path = write(tmp_path / "vae.safetensors", vae_of(tiny_parts()))
    with pytest.raises(ModelFileError, match="looks like a VAE alone, expected a TAESD"):
        load_taesd(path)


# ---------------------------------------------------------------------------------------------------------------------
# Containers and folders


def test_a_pickled_checkpoint(tmp_path: Path) -> None:
    tensors = dict(ldm_tensors(tiny_parts(TINY_SD21_BASE)))
    torch.save({"state_dict": tensors, "global_step": 5}, tmp_path / "model.ckpt")
    parts = load_parts(tmp_path / "model.ckpt", family=TINY_SD21_BASE)
    assert_same_networks(parts, tiny_parts(TINY_SD21_BASE))


def test_a_part_in_shards(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "sharded", TINY_SDXL)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number, some in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        write(folder / "unet" / file, {name: tensors[name] for name in some})
        places |= dict.fromkeys(some, file)
    index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    parts = load_parts(folder)
    assert_same_networks(parts, tiny_parts(TINY_SDXL))
    assert len(parts.files) == 5  # two of the UNet's, two text encoders, the VAE


@pytest.mark.parametrize(
    ("family", "file", "change", "message"),
    [
        (
            "sdxl",
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "expected a StableDiffusionXLPipeline",
        ),
        ("sdxl", "model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "WithProjection"),
        ("sdxl", "unet/config.json", {"projection_class_embeddings_input_dim": 97}, "vector added to the time is 97"),
        ("sdxl", "unet/config.json", {"addition_embed_type": None}, "vector added to the time is None"),
        ("sdxl", "unet/config.json", {"cross_attention_dim": 32}, "its text encoder is 80 wide, its UNet takes 32"),
        (
            "sdxl",
            "unet/config.json",
            {"class_embed_type": "projection"},
            "class_embed_type is projection, an unknown setting",
        ),
        ("x4-upscaler", "model_index.json", {"max_noise_level": 2000}, "max_noise_level is 2000"),
        ("x4-upscaler", "unet/config.json", {"num_class_embeds": -1}, "noise_levels"),
        ("sd21", "scheduler/scheduler_config.json", {"timestep_spacing": "odd"}, "timestep_spacing is 'odd'"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, family: str, file: str, change: dict[str, Any], message: str) -> None:
    folder = save_tiny_folder(tmp_path / "bad", TINY_FAMILIES[family])
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(found | change))
    with pytest.raises(ModelFileError, match=message) as caught:
        load_parts(folder)
    assert str(folder) in caught.value.message


def test_the_x4_upscaler_is_the_release() -> None:
    """As its published configurations have it: a VAE of three levels, four pixels to a latent, and its scale."""
    family = FAMILIES["x4-upscaler"]
    assert family.max_level == 350  # as max_noise_level of the release's pipeline
    vae = family.vae
    assert (vae.channels, vae.num_res_blocks, vae.latent_channels) == ((128, 256, 512), 2, 4)
    assert (vae.scaling_factor, vae.downscale) == (0.08333, 4)
    assert (family.unet.in_channels, family.unet.out_channels) == (7, 4)
    assert (family.unet.context_dim, family.unet.noise_levels) == (1024, 1000)
    assert family.prediction == "v"
