"""Adapters that PEFT and LyCORIS themselves train and write, beside what their own layers do in memory.

Each is read right, or refused by the name of its kind.
"""

import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.files import target_of
from adapters.test_lora_parity import FAMILIES, ours, pipeline, theirs
from gesso.adapters.architecture import architecture_of
from gesso.adapters.attaching import attach
from gesso.adapters.changes import InputRotation
from gesso.adapters.kinds import Reader, build
from gesso.adapters.lora import Lora, read_lora, refuse_unread_kinds
from gesso.adapters.rewriting import file_tensors
from gesso.adapters.settings import TrainerSettings, fits
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.weight_file import open_weights
from gesso.errors import GessoError
from gesso.families.base import Family
from tiny_sd import TINY_SD21, save_tiny_folder, tiny_parts

LARGEST = 1e-5  # float32 sums in another order; what the adapters change is at least a hundred times that
ALL = FAMILIES | {"SD 2.1": TINY_SD21}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {name: save_tiny_folder(root / family.name, family) for name, family in ALL.items()}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries about themselves
        yield


def assert_as_written(path: Path, family: Family, expected: dict[str, Tensor]) -> Lora:
    """Read, attached both ways and written again by kohya's names, the file does what the writer's layers did."""
    target = target_of(family)
    lora = read_lora(open_weights(path), target)
    assert lora.match.unmatched == () and lora.alpha_known
    before = said(family)
    for merged in (False, True):
        with attach(target.networks, [(lora, 1.0, 1.0)], merged=merged):
            found = said(family)
        for part, tensor in expected.items():
            gap, moved = ((one - tensor).abs().max().item() for one in (found[part], before[part]))
            assert gap <= LARGEST, f"{part}: {gap:.2e}"
            assert moved > 100 * LARGEST or part not in lora.components, f"{part} was not changed"
    again = path.with_name("again.safetensors")
    if any(isinstance(change.weight, InputRotation) for change in lora.changes.values()):
        with pytest.raises(GessoError, match="use the file as it is"):
            file_tensors(lora.changes, target, "kohya")
        return lora
    save_file(file_tensors(lora.changes, target, "kohya"), again)
    with attach(target.networks, [(read_lora(open_weights(again), target), 1.0, 1.0)]):
        found = said(family)
    for part, tensor in expected.items():
        assert (found[part] - tensor).abs().max().item() <= LARGEST, f"{part}, converted"
    return lora


def said(family: Family) -> dict[str, Tensor]:
    """What each network says; of Stable Diffusion 2's text encoder the layer where diffusers' folder ends."""
    found = ours(family)
    if family.layout == "sd2":
        text = tiny_parts(family).text
        found["text"] = text.norm(text(_ids()).hidden[-family.text_layer])
    return found


def _ids() -> Tensor:
    return torch.tensor([[49406, 320, 2368, 539, 49407, *[49407] * 72]])


def shake(params: Any, size: float) -> None:
    """As if trained: every number moved a little."""
    generator = torch.Generator().manual_seed(9)
    for param in params:
        if param.requires_grad and param.is_floating_point():
            param.add_(size * torch.randn(param.shape, generator=generator))


# ---- LyCORIS, as kohya's trainer uses it -----------------------------------------------------------------------------

LYCORIS: dict[str, dict[str, Any]] = {
    "locon": {"algo": "locon"},
    "locon tucker": {"algo": "locon", "use_tucker": True},
    "locon scalar": {"algo": "locon", "use_scalar": True},
    "locon dora": {"algo": "locon", "dora_wd": True},
    "locon dora per input": {"algo": "locon", "dora_wd": True, "wd_on_output": False},
    "locon dora tucker": {"algo": "locon", "dora_wd": True, "use_tucker": True},
    "locon rank-stabilised": {"algo": "locon", "rs_lora": True},
    "locon bypass": {"algo": "locon", "bypass_mode": True},
    "loha": {"algo": "loha"},
    "loha tucker": {"algo": "loha", "use_tucker": True},
    "loha scalar": {"algo": "loha", "use_scalar": True},
    "loha dora": {"algo": "loha", "dora_wd": True},
    "loha rank-stabilised": {"algo": "loha", "rs_lora": True},
    "lokr": {"algo": "lokr"},
    "lokr factor": {"algo": "lokr", "factor": 4},
    "lokr both": {"algo": "lokr", "factor": 4, "decompose_both": True},
    "lokr whole": {"algo": "lokr", "factor": 4, "full_matrix": True},
    "lokr whole scalar": {"algo": "lokr", "factor": 4, "full_matrix": True, "use_scalar": True},
    "lokr tucker": {"algo": "lokr", "factor": 4, "use_tucker": True},
    "lokr unbalanced": {"algo": "lokr", "factor": 4, "unbalanced_factorization": True},
    "lokr dora": {"algo": "lokr", "factor": 4, "dora_wd": True},
    "lokr rank-stabilised": {"algo": "lokr", "factor": 4, "rs_lora": True},
    "lokr both rank-stabilised": {"algo": "lokr", "factor": 4, "decompose_both": True, "rs_lora": True},
    "glora": {"algo": "glora"},
    "glora rank-stabilised": {"algo": "glora", "rs_lora": True},
    "full": {"algo": "full"},
    "diag-oft": {"algo": "diag-oft"},
    "diag-oft constraint": {"algo": "diag-oft", "constraint": 0.01},
    "diag-oft rescaled": {"algo": "diag-oft", "rescaled": True},
    "boft": {"algo": "boft"},
    "boft constraint": {"algo": "boft", "constraint": 0.01},
    "boft rescaled": {"algo": "boft", "rescaled": True},
    "ia3": {"algo": "ia3"},
    "ia3 on inputs": {"algo": "ia3", "train_on_input": True},
    "norm": {"algo": "locon", "train_norm": True},
}
QUICK = [("SD 1.5", "lokr rank-stabilised"), ("SDXL", "norm")]
# Every algorithm for SD 1.5; for the others those whose names or shapes differ. BOFT takes no width of 48.
LYCORIS_CASES = [("SD 1.5", case) for case in LYCORIS]
LYCORIS_CASES += [("SDXL", case) for case in ("locon", "loha tucker", "lokr both", "glora", "ia3", "norm", "full")]
LYCORIS_CASES += [("SD 2.1", case) for case in ("locon", "lokr both", "boft", "norm")]

PRESET = """
enable_conv = true
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
text_encoder_target_name = []
"""


def trained_by_lycoris(
    folder: Path, family: Family, path: Path, options: dict[str, Any]
) -> tuple[Any, dict[str, Tensor]]:
    """Writes a file as kohya's trainer does with LyCORIS, and gives what the networks say while it is on."""
    lycoris = pytest.importorskip("lycoris.kohya", reason="needs LyCORIS (lycoris-lora, in the dev extra)")
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    preset = path.with_name("preset.toml")
    preset.write_text(PRESET, "utf-8")
    pipe = pipeline(folder, family)
    texts = [pipe.text_encoder, pipe.text_encoder_2] if family.text_2 else pipe.text_encoder
    torch.manual_seed(3)
    network = lycoris.create_network(1.0, 4, 2.0, None, texts, pipe.unet, preset=str(preset), **options)
    network.apply_to(texts, pipe.unet, True, True)
    shake(network.parameters(), 0.05)
    # The trainer states the arguments in the metadata, in its own words.
    words = {"ss_network_module": "lycoris.kohya", "ss_network_args": str({k: str(v) for k, v in options.items()})}
    network.save_weights(str(path), None, {key: value.replace("'", '"') for key, value in words.items()})
    network.eval()
    return network, theirs(pipe, family)


@pytest.mark.parametrize(
    ("name", "case"),
    [*QUICK, *(pytest.param(*each, marks=SLOW) for each in LYCORIS_CASES if each not in QUICK)],
)
@pytest.mark.sampled(2)
def test_what_lycoris_writes(name: str, case: str, folders: dict[str, Path], tmp_path: Path):
    path = tmp_path / "lora.safetensors"
    _, expected = trained_by_lycoris(folders[name], ALL[name], path, LYCORIS[case])
    assert_as_written(path, ALL[name], expected)


@SLOW
def test_dylora_is_the_lora_of_its_full_rank(folders: dict[str, Path], tmp_path: Path):
    """In memory it draws a rank at random; the file is a LoRA, as LyCORIS reads it back too."""
    path, family = tmp_path / "lora.safetensors", ALL["SD 1.5"]
    options = {"algo": "dylora", "block_size": 2}
    trained_by_lycoris(folders["SD 1.5"], family, path, options)
    lora = read_lora(open_weights(path), target_of(family))
    assert lora.match.unmatched == () and set(lora.kinds) == {"LoRA", "LoCon"} and list(lora.ranks) == [4]
    stored = load_file(path)
    stem = "lora_unet_conv_in"
    up, down = stored[f"{stem}.lora_up.weight"].flatten(1), stored[f"{stem}.lora_down.weight"].flatten(1)
    weight = tiny_parts(family).unet.conv_in.weight
    change = lora.changes["unet.conv_in"].weight
    assert change is not None
    torch.testing.assert_close(change.delta(weight), (up @ down * 2 / 4).reshape(weight.shape))


# ---- PEFT's own files ------------------------------------------------------------------------------------------------

TARGETS = ["to_q", "to_v", "to_out.0", "conv1"]
LINEAR = TARGETS[:3]
DEEP = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 6}),
    "lora rank-stabilised": ("LoraConfig", {"r": 4, "lora_alpha": 6, "use_rslora": True}),
    "dora": ("LoraConfig", {"r": 4, "lora_alpha": 6, "use_dora": True}),
    "lora by module": (
        "LoraConfig",
        {
            "r": 4,
            "lora_alpha": 6,
            "rank_pattern": {"to_q": 8, "conv1": 2},
            "alpha_pattern": {"to_q": 3, DEEP: 9},
        },
    ),
    "lora by expressions": (
        "LoraConfig",
        {
            "r": 4,
            "lora_alpha": 6,
            "rank_pattern": {r"down_blocks.*to_q": 8},
            "alpha_pattern": {r"^down_blocks.*to_q": 3, r"up_blocks\.\d+\..*attn[12]\.to_v": 1},
        },
    ),
    "lora with biases of its own": (
        "LoraConfig",
        {"r": 4, "lora_alpha": 6, "lora_bias": True, "target_modules": ["to_out.0", "conv1"]},
    ),
    "loha": ("LoHaConfig", {"r": 4, "alpha": 6}),
    "loha effective": ("LoHaConfig", {"r": 4, "alpha": 6, "use_effective_conv2d": True}),
    "loha by module": (
        "LoHaConfig",
        {"r": 4, "alpha": 6, "rank_pattern": {"to_q": 8}, "alpha_pattern": {"to_q": 3}},
    ),
    "lokr": ("LoKrConfig", {"r": 4, "alpha": 6}),
    "lokr both": ("LoKrConfig", {"r": 2, "alpha": 6, "decompose_both": True, "decompose_factor": 4}),
    "lokr effective": ("LoKrConfig", {"r": 2, "alpha": 6, "use_effective_conv2d": True}),
    "ia3": ("IA3Config", {"target_modules": ["to_k", "to_v", "ff.net.2"], "feedforward_modules": ["ff.net.2"]}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 4, "target_modules": LINEAR}),
    "oft exact": ("OFTConfig", {"r": 4, "oft_block_size": 0, "target_modules": LINEAR, "use_cayley_neumann": False}),
    "oft shared": ("OFTConfig", {"r": 0, "oft_block_size": 8, "target_modules": LINEAR, "block_share": True}),
    "oft bounded": (
        "OFTConfig",
        {"r": 0, "oft_block_size": 4, "target_modules": LINEAR, "coft": True, "eps": 0.5},
    ),
    **{
        f"oft of {terms} terms": (
            "OFTConfig",
            {"r": 0, "oft_block_size": 4, "target_modules": LINEAR, "num_cayley_neumann_terms": terms},
        )
        for terms in (2, 3, 4, 8)
    },
    "oft on pointwise convolutions": (
        "OFTConfig",
        {"r": 0, "oft_block_size": 8, "target_modules": ["conv_shortcut", "proj_in"]},
    ),
    "boft": ("BOFTConfig", {"boft_block_size": 4}),
    "boft by number": ("BOFTConfig", {"boft_block_size": 0, "boft_block_num": 8, "target_modules": LINEAR}),
    "ia3 on inputs": ("IA3Config", {"target_modules": ["to_q", "conv1"], "feedforward_modules": ["to_q", "conv1"]}),
}
QUICK_PEFT = ("lora by expressions", "lokr", "ia3", "oft bounded", "boft")
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "biases": ("LoraConfig", {"bias": "lora_only"}, "whole weights and biases beside the adapter"),
    "all biases": ("LoraConfig", {"bias": "all"}, "whole weights and biases beside the adapter"),
    "whole layers": ("LoraConfig", {"modules_to_save": ["conv_in"]}, "whole weights and biases beside the adapter"),
    "pissa": ("LoraConfig", {"init_lora_weights": "pissa", "target_modules": LINEAR}, "init_lora_weights 'pissa'"),
    "olora": ("LoraConfig", {"init_lora_weights": "olora", "target_modules": LINEAR}, "init_lora_weights 'olora'"),
    "adalora": ("AdaLoraConfig", {"total_step": 10, "target_modules": LINEAR}, "AdaLoRA"),
    "ia3": ("IA3Config", {"feedforward_modules": []}, "IA3 of PEFT on the outputs of a layer with a bias"),
    "vera": ("VeraConfig", {"r": 4, "target_modules": LINEAR}, "VeRA"),
    "fourier": ("FourierFTConfig", {"n_frequency": 10, "target_modules": LINEAR}, "FourierFT"),
    "wavelet": ("WaveFTConfig", {"n_frequency": 10, "target_modules": LINEAR}, "WaveFT"),
    "hra": ("HRAConfig", {"target_modules": LINEAR}, "HRA"),
    "miss": ("MissConfig", {"r": 4, "target_modules": LINEAR}, "MiSS"),
    "randlora": ("RandLoraConfig", {"r": 4, "target_modules": LINEAR}, "RandLoRA"),
    "shira": ("ShiraConfig", {"r": 4, "target_modules": LINEAR}, "SHiRA"),
    "c3a": ("C3AConfig", {"block_size": 4, "target_modules": LINEAR}, "C3A"),
    "road": ("RoadConfig", {"group_size": 4, "target_modules": LINEAR}, "RoAd"),
    "delora": ("DeloraConfig", {"r": 4, "target_modules": LINEAR}, "DeLoRA"),
    "gralora": ("GraloraConfig", {"r": 4, "gralora_k": 2, "target_modules": LINEAR}, "GraLoRA"),
    "vb-lora": (
        "VBLoRAConfig",
        {"r": 4, "num_vectors": 8, "vector_length": 8, "topk": 2, "target_modules": LINEAR},
        "VB-LoRA",
    ),
    "layer norms": ("LNTuningConfig", {"target_modules": ["norm1"]}, "LN tuning"),
}
QUICK_REFUSED = ("all biases", "pissa", "adalora", "ia3")


def trained_by_peft(folder: Path, path: Path, config: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Writes adapter_model.safetensors and adapter_config.json, and gives what the UNet says with the adapter."""
    peft = pytest.importorskip("peft")
    if not hasattr(peft, config):
        pytest.skip(f"this release of PEFT has no {config}")
    import peft.tuners.boft.layer

    # It looks for a compiler of CUDA, by way of a module that refuses to be imported after Python's own distutils.
    peft.tuners.boft.layer.get_fbd_cuda = lambda: None
    family = ALL["SD 1.5"]
    pipe = pipeline(folder, family)
    torch.manual_seed(3)
    model = peft.get_peft_model(pipe.unet, getattr(peft, config)(**{"target_modules": TARGETS} | options))
    shake(model.parameters(), 0.1)
    model.save_pretrained(str(path))
    model.eval()
    return {"unet": theirs(pipe, family)["unet"]}


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK_PEFT else SLOW) for c in PEFT])
@pytest.mark.sampled(3)
def test_what_peft_writes(case: str, folders: dict[str, Path], tmp_path: Path):
    expected = trained_by_peft(folders["SD 1.5"], tmp_path, *PEFT[case])
    assert_as_written(tmp_path / "adapter_model.safetensors", ALL["SD 1.5"], expected)


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK_REFUSED else SLOW) for c in REFUSED])
@pytest.mark.sampled(2)
def test_kinds_of_peft_that_gesso_does_not_read_are_named(case: str, folders: dict[str, Path], tmp_path: Path):
    config, options, says = REFUSED[case]
    trained_by_peft(folders["SD 1.5"], tmp_path, config, options)
    written = tmp_path / "adapter_model.safetensors"
    with pytest.raises(ModelFileError, match=says):
        read_lora(open_weights(written), target_of(ALL["SD 1.5"]))
    if says.startswith("init_lora"):
        return  # only the settings beside it tell
    alone = tmp_path / "renamed.safetensors"
    alone.write_bytes(written.read_bytes())
    with pytest.raises(ModelFileError, match=says):
        read_lora(open_weights(alone), target_of(ALL["SD 1.5"]))


def test_an_oft_of_peft_asks_for_the_settings_that_its_tensors_do_not_say(folders: dict[str, Path], tmp_path: Path):
    trained_by_peft(folders["SD 1.5"], tmp_path, *PEFT["oft"])
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "style.safetensors")
    with pytest.raises(ModelFileError, match=r"adapter_config\.json does\. Put it beside the file"):
        read_lora(open_weights(tmp_path / "style.safetensors"), target_of(ALL["SD 1.5"]))


def test_an_oft_is_refused_where_peft_draws_one_picture_attached_and_another_merged(tmp_path: Path):
    """PEFT 0.21 unfolds a picture into overlapping patches and sums them: even an adapter of zeros changes it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    own, x = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=1)), torch.randn(1, 4, 8, 8)
    before = own(x)
    model = peft.get_peft_model(own, peft.OFTConfig(r=0, oft_block_size=4, target_modules=["0"])).eval()
    attached = model(x)
    model.merge_adapter()
    assert torch.allclose(model(x), before, atol=1e-5) and not torch.allclose(attached, before, atol=0.1)
    numbers = next(tensor for name, tensor in model.named_parameters() if "oft_R" in name)
    with pytest.raises(ModelFileError, match="OFT of PEFT on a convolution of 3x3"):
        build({"oft_R": numbers.detach()}, Reader(tmp_path, "x", (6, 4, 3, 3), series=(5, None)))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"peft_version": "0.17.1"}, "OFT of PEFT 0.17.1 with use_cayley_neumann"),
        ({"peft_version": None}, "OFT of PEFT before 0.18"),
        ({"num_cayley_neumann_terms": 0}, "num_cayley_neumann_terms: 0, expected a whole number from 1 to 100"),
        ({"num_cayley_neumann_terms": 10**9}, "expected a whole number from 1 to 100"),
        ({"eps": "NaN"}, "eps: 'NaN', expected a number"),
        ({"coft": 1}, "coft: 1, expected true or false"),
    ],
)
def test_settings_of_an_oft_that_gesso_cannot_follow(setting: dict[str, Any], says: str, tmp_path: Path):
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{module}.oft_R.weight": torch.zeros(8, 6)}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "OFT", "peft_version": "0.21.2", "use_cayley_neumann": True} | setting
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelFileError, match=says):
        read_lora(open_weights(tmp_path / "adapter_model.safetensors"), target_of(ALL["SD 1.5"]))


@pytest.mark.parametrize("levels", [2, 3])
def test_butterfly_factors_of_peft(levels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """PEFT computes more than one factor on CUDA alone; its CUDA function makes block-diagonal matrices."""
    peft = pytest.importorskip("peft")
    layer = pytest.importorskip("peft.tuners.boft.layer")

    class Diagonal:
        @staticmethod
        def apply(blocks: Tensor) -> Tensor:
            return torch.stack([torch.block_diag(*each) for each in blocks])

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(layer, "FastBlockDiag", Diagonal)
    torch.manual_seed(2)
    own = torch.nn.Sequential(torch.nn.Linear(48, 20))
    before = own[0].weight.clone()
    settings = {"boft_block_size": 4, "boft_n_butterfly_factor": levels, "target_modules": ["0"]}
    model = peft.get_peft_model(own, peft.BOFTConfig(**settings))
    shake(model.parameters(), 0.3)
    parts = {name.split(".")[-2]: tensor for name, tensor in model.named_parameters() if "boft" in name}
    assert parts["boft_R"].shape == (levels, 12, 4, 4)
    change = build(parts, Reader(tmp_path, "x", (20, 48)))
    assert change is not None
    model.merge_adapter()
    torch.testing.assert_close(before + change.delta(before), own[0].get_base_weight(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"oft_R": (8, 5)}, "oft_R is .8, 5., expected"),
        ({"oft_R": (0, 6)}, "oft_R is .0, 6., expected"),
        ({"oft_R": (6,)}, "expected .N, S"),
        ({"oft_R": (8, 45)}, "blocks of S for 32 inputs"),
        ({"boft_R": (1, 8, 4, 5)}, "expected .M, N, S, S. with N S = 32"),
        ({"boft_R": (1, 7, 4, 4)}, "expected .M, N, S, S. with N S = 32"),
        ({"boft_R": (5, 8, 4, 4)}, "do not make 5 butterfly factors"),
        ({"boft_R": (1, 8, 4, 4), "boft_s": (31, 1)}, "the weight has 32 outputs"),
        ({"boft_s": (32, 1)}, "no known adapter"),
    ],
)
def test_rotations_of_wrong_sizes(parts: dict[str, tuple[int, ...]], says: str, tmp_path: Path):
    tensors = {name: torch.zeros(shape) for name, shape in parts.items()}
    with pytest.raises(ModelFileError, match=says):
        build(tensors, Reader(tmp_path, "x", (32, 32), series=(5, None)))


def test_an_oft_with_a_wrong_number_of_blocks_does_not_fit(tmp_path: Path):
    """Seven blocks of four for 32 inputs: neither one for all nor one for each four."""
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{module}.oft_R.weight": torch.zeros(7, 6)}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "OFT", "peft_version": "0.21.2"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelFileError, match=r"does not make \[32, 32\], the model's shape|32x32"):
        read_lora(open_weights(tmp_path / "adapter_model.safetensors"), target_of(ALL["SD 1.5"]))


def test_the_release_shows_in_any_layer_that_takes_the_text(tmp_path: Path):
    """PEFT's usual targets are to_q and to_v."""
    for width, looks in ((768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (2048, "Stable Diffusion XL")):
        module = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
        tensors = {f"{module}.lora_A.weight": torch.ones(4, width), f"{module}.lora_B.weight": torch.ones(640, 4)}
        save_file(tensors, tmp_path / "style.safetensors")
        assert architecture_of(open_weights(tmp_path / "style.safetensors").tensors) == looks


@pytest.mark.parametrize("part", ["lora_E", "hra_u", "vera_lambda_b", "oft_r", "road_theta"])
def test_a_kind_is_named_where_no_model_is_known(part: str, tmp_path: Path):
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{module}.{part}": torch.ones(4, 1)}, tmp_path / "style.safetensors")
    with pytest.raises(ModelFileError, match="of a kind that gesso does not read"):
        refuse_unread_kinds(open_weights(tmp_path / "style.safetensors"))


def test_a_file_of_peft_without_its_settings_says_that_alpha_is_unknown(tmp_path: Path):
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{module}.lora_A.weight": torch.ones(4, 32), f"{module}.lora_B.weight": torch.ones(32, 4)}
    save_file(tensors, tmp_path / "style.safetensors")
    lora = read_lora(open_weights(tmp_path / "style.safetensors"), target_of(ALL["SD 1.5"]))
    assert [notice.code for notice in lora.notices] == ["lora_alpha_unknown"]


@pytest.mark.parametrize("kind", ["KASA", "X-LORA", "POLY", "TRAINABLE_TOKENS"])
def test_settings_of_another_kind_are_refused_by_its_name(kind: str, tmp_path: Path):
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{module}.lora_A.weight": torch.ones(4, 32), f"{module}.lora_B.weight": torch.ones(32, 4)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "{kind}"}}', "utf-8")
    with pytest.raises(ModelFileError, match=f"PEFT's kind {kind}"):
        read_lora(open_weights(tmp_path / "adapter_model.safetensors"), target_of(ALL["SD 1.5"]))


def test_t_lora_is_refused_by_name(tmp_path: Path):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    parts = {"q_layer.weight": (4, 32), "p_layer.weight": (32, 4), "lambda_layer": (1, 4)}
    save_file({f"{stem}.{part}": torch.ones(shape) for part, shape in parts.items()}, tmp_path / "t.safetensors")
    with pytest.raises(ModelFileError, match="T-LoRA"):
        read_lora(open_weights(tmp_path / "t.safetensors"), target_of(ALL["SD 1.5"]))


@pytest.mark.parametrize(
    ("pattern", "name", "fit"),
    [
        ("to_q", "attn1.to_q", True),
        ("to_q", "attn1.to_q.x", False),
        ("o_q", "attn1.to_q", False),
        ("attn1.to_q", "a.attn1.to_q", True),
        ("^attn1.to_q", "a.attn1.to_q", False),
        (r"attn1\.to_q", "a.attn1xto_q", False),
        ("a.*q", "b.a.c.to_q", True),
        ("a.*q$", "b.a.c.to_q", True),
        (r"b\.\d+\.q", "a.b.12.q", True),
        (r"b\.\d+\.q", "a.b..q", False),
        (r"b\.\d*q", "b.q", True),
        ("attn[12]", "x.attn2", True),
        ("attn[1-3]", "x.attn4", False),
        ("attn[3-1]", "x.attn2", False),
        ("to_[-a-c]+", "attn.to_a-b", True),
        ("^a+.b?c*", "aaaxcc", True),
        ("b?c*d", "a.d", True),
        ("b?c*d", "ad", False),
        ("at?tn", "atn", True),
        ("(a|b)", "a", False),
        ("a{2}", "aa", False),
        ("a**", "aa", False),
        (".*" * 100, "x" * 5000 + "!", True),
        (".*" * 100 + "y", "x" * 5000, False),
        ("", "", True),
    ],
)
def test_patterns_of_modules(pattern: str, name: str, fit: bool):
    assert fits(pattern, name) == fit


def test_a_pattern_that_cannot_be_followed_is_refused(tmp_path: Path):
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{module}.lora_A.weight": torch.ones(4, 32), f"{module}.lora_B.weight": torch.ones(32, 4)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = '{"peft_type": "LORA", "lora_alpha": 8, "r": 4, "alpha_pattern": {"(to_q|to_k)": 3}}'
    (tmp_path / "adapter_config.json").write_text(config, "utf-8")
    with pytest.raises(ModelFileError, match="regular expression"):
        read_lora(open_weights(tmp_path / "adapter_model.safetensors"), target_of(ALL["SD 1.5"]))


def test_numbers_of_every_module_take_no_time():
    """Each module is asked for by each pattern: what trainers write for SDXL took a minute."""
    modules = [f"down_blocks.2.attentions.1.transformer_blocks.{i}.attn1.to_q" for i in range(700)]
    numbers = tuple((module, float(i)) for i, module in enumerate(modules[:100]))
    settings = TrainerSettings(alpha=3.0, alphas=(*numbers, (r"down.*_blocks\.\d+\.attn2.*", 1.0)))
    start = time.process_time()
    found = [settings.alpha_of(module) for module in modules]
    assert time.process_time() - start < 3
    assert found == [*map(float, range(100)), *[3.0] * 600]


@pytest.mark.parametrize("patterns", [{f"to_{i}": 3 for i in range(5000)}, {f"to_.*{i}": 3 for i in range(300)}])
def test_more_patterns_than_any_model_has_modules_are_refused(patterns: dict[str, int], tmp_path: Path):
    save_file({"x.lora_A.weight": torch.ones(4, 32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"alpha_pattern": patterns}), "utf-8")
    with pytest.raises(ModelFileError, match=f"has numbers for {len(patterns)} patterns of modules"):
        TrainerSettings.of(open_weights(tmp_path / "adapter_model.safetensors"))
