"""Folders and configs that diffusers and transformers write: read right, or refused by the name of what they are."""

import inspect
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso.checkpoints.errors import ModelFileError
from gesso.families.diffusers_folder import read_family
from gesso.families.loading import load_parts
from tiny_sd import TINY_EDIT, TINY_INPAINT, TINY_SD, TINY_SDXL, save_tiny_folder

SLOW = pytest.mark.slow
CLOSE = 1e-5  # float32, the same sums in another order


@pytest.fixture(scope="module")
def diffusers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return diffusers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    families = {"sd": TINY_SD, "xl": TINY_SDXL, "inpaint": TINY_INPAINT, "edit": TINY_EDIT}
    return {name: save_tiny_folder(root / name, family) for name, family in families.items()}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries about themselves
        yield


def renamed(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy whose model_index.json says something else."""
    shutil.copytree(folder, to)
    index = json.loads((to / "model_index.json").read_text("utf-8"))
    (to / "model_index.json").write_text(json.dumps(index | changes), "utf-8")
    return to


# ---- pipelines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "beside"),
    [
        ("sd", "StableDiffusionControlNetPipeline", {"controlnet": ["diffusers", "ControlNetModel"]}),
        ("sd", "StableDiffusionAdapterPipeline", {"adapter": ["diffusers", "T2IAdapter"]}),
        ("sd", "StableDiffusionPAGPipeline", {"image_encoder": [None, None]}),
        ("inpaint", "StableDiffusionPAGInpaintPipeline", {}),
        ("sd", "LatentConsistencyModelImg2ImgPipeline", {}),
        ("sd", "StableDiffusionPipeline", {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}),
        (
            "xl",
            "StableDiffusionXLControlNetUnionImg2ImgPipeline",
            {"controlnet": ["diffusers", "ControlNetUnionModel"]},
        ),
        ("xl", "StableDiffusionXLPAGPipeline", {}),
    ],
)
@pytest.mark.sampled(2)
def test_a_pipeline_that_does_more_is_read_and_told(
    model: str, name: str, beside: dict[str, Any], folders: dict[str, Path], tmp_path: Path
):
    (notice,) = load_parts(renamed(folders[model], tmp_path / "m", _class_name=name, **beside)).notices
    assert notice.code == "pipeline_reduced" and name in notice
    assert all((part in notice) == (classes[0] is not None) for part, classes in beside.items())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("StableDiffusion3Pipeline", {"transformer": ["diffusers", "SD3Transformer2DModel"]}),
        ("FluxPipeline", {"transformer": ["diffusers", "FluxTransformer2DModel"]}),
        ("KandinskyV22Pipeline", {"movq": ["diffusers", "VQModel"]}),
        ("PixArtAlphaPipeline", {"transformer": ["diffusers", "PixArtTransformer2DModel"]}),
        ("StableDiffusionLatentUpscalePipeline", {}),
        ("StableDiffusionControlNetXSPipeline", {}),
        ("StableDiffusionXLControlNetPipeline", {}),  # XL by its name, with one text encoder
        ("NobodysPipeline", {}),
    ],
)
def test_another_pipeline_is_refused_by_name(
    name: str, parts: dict[str, Any], folders: dict[str, Path], tmp_path: Path
):
    with pytest.raises(ModelFileError, match=f"is a {name}, expected"):
        load_parts(renamed(folders["sd"], tmp_path / "m", _class_name=name, **parts))


def test_folders_of_pipelines_that_gesso_reads_without_a_word(folders: dict[str, Path]):
    for folder in folders.values():
        assert load_parts(folder).notices == ()


def made(diffusers: Any, name: str, folders: dict[str, Path]) -> Any:
    """A pipeline of a class from tiny parts; None where its parts are not those of Stable Diffusion."""
    is_xl = "XL" in name
    kind = "xl" if is_xl else "inpaint" if "Inpaint" in name else "edit" if "InstructPix2Pix" in name else "sd"
    base = diffusers.DiffusionPipeline.from_pretrained(
        folders[kind], **({} if is_xl else {"safety_checker": None, "requires_safety_checker": False})
    )
    cls = getattr(diffusers, name)
    more: dict[str, Any] = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    if "ControlNet" in name:
        more["controlnet"] = diffusers.ControlNetModel.from_unet(base.unet)
    if "Adapter" in name:
        more["adapter"] = diffusers.T2IAdapter(channels=(32, 64, 64, 64), adapter_type="full_adapter")
    known = inspect.signature(cls.__init__).parameters
    given = {key: value for key, value in (base.components | more).items() if key in known}
    needed = {key for key, one in known.items() if one.default is inspect.Parameter.empty} - {"self"}
    if not {"unet", "vae", "text_encoder", "tokenizer"} <= set(known) or not needed <= set(given):
        return None
    extra = {"requires_safety_checker": False} if "requires_safety_checker" in known else {}
    return cls(**given, **extra)


@SLOW
@pytest.mark.parametrize("shards", [None, "200KB"])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_every_way_of_saving_a_folder(
    diffusers: Any, folders: dict[str, Path], tmp_path: Path, shards: str | None, safe: bool, variant: str | None
):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folders["sd"], safety_checker=None, requires_safety_checker=False
    )
    dtype = torch.float32 if variant is None else torch.float16
    pipe.to(dtype)
    more = {"max_shard_size": shards} if shards else {}
    pipe.save_pretrained(tmp_path / "m", safe_serialization=safe, variant=variant, **more)
    assert not shards or list((tmp_path / "m" / "unet").glob("*00002*"))
    (tmp_path / "converted").mkdir()  # for pickles
    found = load_parts(tmp_path / "m", converted=tmp_path / "converted").unet.state_dict()
    for name, tensor in load_parts(folders["sd"]).unet.state_dict().items():
        assert torch.equal(found[name].float(), tensor.to(dtype).float()), name


@SLOW
def test_every_pipeline_of_diffusers_is_read_or_refused_by_name(
    diffusers: Any, folders: dict[str, Path], tmp_path: Path
):
    silent, read = [], []
    for name in dir(diffusers):
        cls = getattr(diffusers, name, None)
        if not inspect.isclass(cls) or not issubclass(cls, diffusers.DiffusionPipeline) or "Auto" in name:
            continue
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        pipe = None
        if "StableDiffusion" in name or name.startswith(("Latent", "LEdits")):
            try:
                pipe = made(diffusers, name, folders)
            except Exception:  # a class that wants other parts
                pipe = None
        if pipe is not None:
            pipe.save_pretrained(tmp_path / "m")
        else:
            kinds = {
                key: ["diffusers", "Anything"] for key in inspect.signature(cls.__init__).parameters if key != "self"
            }
            renamed(folders["sd"], tmp_path / "m", **kinds, _class_name=name)
        try:
            load_parts(tmp_path / "m")
            read.append(name)
        except ModelFileError as error:
            if name not in str(error) and "config.json" not in str(error) and "model_index.json" not in str(error):
                silent.append(f"{name}: {error}")
    assert not silent
    assert {"StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionControlNetPipeline"} <= set(read)
    assert not [name for name in read if "StableDiffusion" not in name and not name.startswith(("Latent", "LEdits"))]


# ---- configs: each setting varied once ------------------------------------------------------------------------------

UNET: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (True,),
    "flip_sin_to_cos": (False,),
    "freq_shift": (1,),
    "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D", None),
    "only_cross_attention": (True,),
    "downsample_padding": (0,),
    "mid_block_scale_factor": (2.0,),
    "dropout": (0.1,),
    "act_fn": ("gelu", "mish", "relu"),
    "norm_num_groups": (4,),
    "norm_eps": (1e-6,),
    "encoder_hid_dim": (16,),
    "attention_head_dim": (4,),
    "dual_cross_attention": (True,),
    "use_linear_projection": (True,),
    "class_embed_type": ("timestep", "identity"),
    "addition_embed_type": ("text",),
    "upcast_attention": (True,),
    "resnet_time_scale_shift": ("scale_shift",),
    "resnet_skip_time_act": (True,),
    "resnet_out_scale_factor": (2.0,),
    "time_embedding_type": ("fourier",),
    "time_embedding_dim": (64,),
    "time_embedding_act_fn": ("silu", "gelu"),
    "timestep_post_act": ("silu",),
    "conv_in_kernel": (5,),
    "conv_out_kernel": (5,),
    "attention_type": ("gated",),
    "mid_block_only_cross_attention": (True,),
    "cross_attention_norm": ("layer_norm", "group_norm"),
    "layers_per_block": (1,),
    "transformer_layers_per_block": (2,),
    "sample_size": (32,),
}
VAE: dict[str, tuple[Any, ...]] = {
    "act_fn": ("relu", "gelu"),
    "norm_num_groups": (4,),
    "scaling_factor": (0.3,),
    "shift_factor": (0.1,),
    "latents_mean": ([0.1] * 4,),
    "latents_std": ([2.0] * 4,),
    "force_upcast": (False,),
    "use_quant_conv": (False,),
    "use_post_quant_conv": (False,),
    "mid_block_add_attention": (False,),
    "layers_per_block": (1,),
}
TEXT: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "relu", "gelu_new"),
    "layer_norm_eps": (1e-3,),
    "attention_dropout": (0.1,),
    "num_attention_heads": (2,),
    "bos_token_id": (3,),
    "pad_token_id": (7,),
}
CASES = [
    (part, key, value)
    for part, table in (("unet", UNET), ("vae", VAE), ("text_encoder", TEXT))
    for key, values in table.items()
    for value in values
]
QUICK = (
    ("unet", "freq_shift", 1),
    ("unet", "transformer_layers_per_block", 2),
    ("vae", "scaling_factor", 0.3),
    ("vae", "shift_factor", 0.1),
    ("text_encoder", "hidden_act", "gelu"),
)


@pytest.mark.parametrize(
    ("part", "key", "value"), [case if case in QUICK else pytest.param(*case, marks=SLOW) for case in CASES], ids=str
)
@pytest.mark.sampled(2)
def test_a_setting_of_a_network_is_computed_with_or_refused_by_name(
    diffusers: Any, folders: dict[str, Path], tmp_path: Path, part: str, key: str, value: Any
):
    import transformers

    folder = tmp_path / "m"
    shutil.copytree(folders["sd"], folder)
    stored = json.loads((folder / part / "config.json").read_text("utf-8"))
    settings = {name: own for name, own in stored.items() if not name.startswith("_")} | {key: value}
    torch.manual_seed(1)
    if part == "text_encoder":
        network = transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))
    else:
        network = (diffusers.UNet2DConditionModel if part == "unet" else diffusers.AutoencoderKL)(**settings)
    network.eval()
    for param in network.parameters():
        param.add_(0.02 * torch.randn(param.shape))
    shutil.rmtree(folder / part)
    network.save_pretrained(folder / part)
    refused = ""
    try:
        parts = load_parts(folder)
    except ModelFileError as error:
        refused = str(error)
    if refused:
        assert key in refused
        return
    x = torch.randn(1, 4, 16, 16)
    if part == "unet":
        context = torch.randn(1, 77, TINY_SD.unet.context_dim)
        pairs = [(parts.unet(x, torch.tensor([500.0]), context, None), network(x, torch.tensor(500.0), context).sample)]
    elif part == "vae":
        picture, scale = torch.rand(1, 3, 64, 64) * 2 - 1, network.config.scaling_factor
        pairs = [
            (parts.vae.decode(x), network.decode(x / scale).sample),
            (parts.vae.encode(picture).mean, network.encode(picture).latent_dist.mean * scale),
        ]
    else:
        ids = torch.tensor([[49406, 320, 2368, 539, 49407, *[49407] * 72]])
        pairs = [(parts.text(ids).last, network(ids).last_hidden_state)]
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= CLOSE * max(1.0, float(theirs.abs().max()))


def test_a_setting_that_nobody_knows_is_refused_unless_it_is_off(folders: dict[str, Path], tmp_path: Path):
    for part in ("unet", "vae"):
        folder = tmp_path / part
        shutil.copytree(folders["sd"], folder)
        path = folder / part / "config.json"
        stored = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(stored | {"new_setting": None, "another": False}), "utf-8")
        read_family(folder)
        path.write_text(json.dumps(stored | {"new_setting": 2}), "utf-8")
        with pytest.raises(ModelFileError, match="new_setting is 2, an unknown setting"):
            read_family(folder)
