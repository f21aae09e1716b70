"""Every spelling leads to the same changes; what fits nothing is refused with both sides named."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters.files import kohya, layers, lora_parts, randn, read, saved, target_of
from gesso.adapters.architecture import architecture_of, is_made_for
from gesso.adapters.attaching import attach, attachment_of
from gesso.adapters.lora import Lora, read_lora
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import TensorInfo
from gesso.checkpoints.weight_file import open_weights
from gesso.families.loading import load_parts
from gesso.families.parts import empty_networks
from gesso.families.registry import FAMILIES
from gesso.families.sd15 import SD15
from gesso.families.sdxl import SDXL
from gesso.runtime.engine import find_model
from tiny_sd import TINY_SD, TINY_SD21, TINY_SDXL

from gesso.adapters.names import Target  # isort: skip

GOLDEN = Path(__file__).parents[1] / "golden" / "kohya_sd15.json"


def dotted(target: Target, kohya_tensors: Mapping[str, Tensor], rename: Callable[[str, str], str]) -> dict[str, Tensor]:
    """The same numbers under names with dots, which `rename` makes of module and part."""
    stems = {target.stem_of(c, n): target.dotted_of(c, n) for c, n, _ in layers(target, nn.Linear, nn.Conv2d)}
    found = {}
    for name, tensor in kohya_tensors.items():
        stem, _, part = name.partition(".")
        if part != "alpha":
            found[rename(stems[stem], part)] = tensor
    return found


def attentions(target: Target) -> dict[str, Tensor]:
    """A LoRA on the attentions, the scale 1."""
    tensors = kohya(target, lambda module: lora_parts(module, alpha=3.0), nn.Linear)
    wanted = re.compile(r"attn\d_to_|self_attn_")
    return {name: tensor for name, tensor in tensors.items() if wanted.search(name)}


def peft(module: str, part: str) -> str:
    return f"{module}.{'lora_A' if 'down' in part else 'lora_B'}.weight"


def raw_peft(module: str, part: str) -> str:
    return f"base_model.model.{module}.{'lora_A' if 'down' in part else 'lora_B'}.default.weight"


def old_a(module: str, part: str) -> str:
    way = "down" if "down" in part else "up"
    kind = "lora_linear_layer" if "self_attn" in module else "lora"
    return f"{module}.{kind}.{way}.weight"


def old_b(module: str, part: str) -> str:
    way = "down" if "down" in part else "up"
    if "self_attn" in module:
        stem = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1_lora", module)
    else:
        stem = re.sub(r"\.to_(q|k|v)$|\.to_(out)\.0$", lambda m: f".processor.to_{m[1] or m[2]}_lora", module)
    return f"{stem}.{way}.weight"


def same(found: Lora, expected: Lora) -> None:
    assert set(found.changes) == set(expected.changes)
    for name, change in expected.changes.items():
        weight = torch.zeros(change.weight.up.shape[0], change.weight.down.shape[1])
        assert torch.equal(found.changes[name].weight.delta(weight), change.weight.delta(weight)), name


@pytest.mark.parametrize("family", [TINY_SD, TINY_SD21, TINY_SDXL], ids=lambda family: family.name)
@pytest.mark.parametrize("rename", [peft, raw_peft, old_a, old_b])
@pytest.mark.sampled(5)
def test_spellings_of_diffusers(family, rename, tmp_path: Path) -> None:
    target = target_of(family)
    tensors = attentions(target)
    expected = read(tmp_path / "kohya.safetensors", tensors, target)
    found = read(tmp_path / "dotted.safetensors", dotted(target, tensors, rename), target)
    assert found.match.unmatched == ()
    same(found, expected)


def test_names_without_a_component(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    tensors = {n: t for n, t in attentions(target).items() if "lora_unet" in n}
    bare = dotted(target, tensors, lambda module, part: peft(module.removeprefix("unet."), part))
    same(read(tmp_path / "b", bare, target), read(tmp_path / "k", tensors, target))


def test_both_namings_of_the_unet(tmp_path: Path) -> None:
    """SDXL is written by latent-diffusion's names, SD 1 by those of diffusers; each model takes both."""
    for family in (TINY_SD, TINY_SDXL):
        target = target_of(family)
        other = "sdxl" if family is TINY_SD else "sd1"
        tensors = {n: t for n, t in kohya(target, lora_parts).items() if n.startswith("lora_unet")}
        turned = Target("other", other, {"unet": target.networks["unet"]})
        again = {}
        for component, name, _ in layers(turned, nn.Linear, nn.Conv2d):
            for part in ("lora_up.weight", "lora_down.weight", "alpha"):
                again[f"{turned.stem_of(component, name)}.{part}"] = tensors[
                    f"{target.stem_of(component, name)}.{part}"
                ]
        assert not set(again) & set(tensors) or family is TINY_SD
        found, expected = read(tmp_path / "a", again, target), read(tmp_path / "b", tensors, target)
        assert set(found.changes) == set(expected.changes) and found.match.unmatched == ()


def test_names_of_a_real_file() -> None:
    """The list of real files of SD 1.5 that golden/kohya_sd15.json keeps: every name has its place."""
    stems = json.loads(GOLDEN.read_text())["modules"]
    networks = empty_networks(SD15, "sd15")
    target = Target("sd15", "sd1", networks)
    assert len(stems) == 264 and all(stem in target.stems for stem in stems)
    assert {target.stem_of(p.component, p.modules[0]) for p in map(target.stems.__getitem__, stems)} == set(stems)


def test_stacked_projections_of_openclip(tmp_path: Path) -> None:
    """A LoRA on in_proj changes q, k and v by its thirds."""
    target = target_of(TINY_SD21)
    up, down = randn(96, 2), randn(2, 32)
    name = "lora_te_transformer_resblocks_0_attn_in_proj"
    lora = read(tmp_path / "a", {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, target)
    assert list(lora.changes) == [f"text.layers.0.attention.to_{x}" for x in "qkv"]
    for index, change in enumerate(lora.changes.values()):
        assert torch.equal(change.weight.delta(torch.zeros(32, 32)), (up @ down).chunk(3)[index])


def test_stacked_projections_of_other_kinds(tmp_path: Path) -> None:
    """Elementwise products are cut into thirds as well; what depends on the weight as a whole is refused."""
    target = target_of(TINY_SD21)
    name = "lora_te_transformer_resblocks_0_attn_in_proj"
    a1, b1, a2, b2 = randn(96, 2), randn(2, 32), randn(96, 2), randn(2, 32)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "diff_b": randn(96)}
    lora = read(tmp_path / "a", {f"{name}.{part}": tensor for part, tensor in parts.items()}, target)
    whole = (a1 @ b1) * (a2 @ b2)
    for index, (module, change) in enumerate(lora.changes.items()):
        assert module == f"text.layers.0.attention.to_{'qkv'[index]}"
        torch.testing.assert_close(change.weight.delta(torch.zeros(32, 32)), whole.chunk(3)[index])
        assert torch.equal(change.bias, parts["diff_b"].chunk(3)[index])
    with pytest.raises(ModelFileError, match="changes query, key and value as one weight"):
        read(tmp_path / "b", {f"{name}.weight": randn(96, 1)}, target)


def test_alpha_from_metadata(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{module}.lora_A.weight": randn(4, 32), f"{module}.lora_B.weight": randn(32, 4)}
    for config, scale in (
        ({"unet.lora_alpha": 8, "unet.r": 4}, 2.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"text_encoder.lora_alpha": 8}, 1.0),
        ({"unet.lora_alpha": 1e38}, 1.0),
    ):
        lora = read(tmp_path / "a", tensors, target, {"lora_adapter_metadata": json.dumps(config)})
        assert next(iter(lora.changes.values())).weight.scale == scale, config
    lora = read(tmp_path / "a", tensors, target, {"lora_adapter_metadata": "[" * 100_000})
    assert next(iter(lora.changes.values())).weight.scale == 1


# ---- what is refused -------------------------------------------------------------------------------------------------

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("parts", "reason", "says"),
    [
        ({"lora_down.weight": torch.ones(0, 32), "lora_up.weight": torch.ones(32, 0)}, "shape", "rank 0"),
        ({"lora_down.weight": torch.ones(5000, 32), "lora_up.weight": torch.ones(32, 5000)}, "shape", "rank 5000"),
        ({"alpha": torch.tensor(torch.nan)}, "shape", "alpha is nan"),
        ({"alpha": torch.tensor(1e38)}, "shape", "alpha is 1e"),
        ({"alpha": torch.ones(2)}, "shape", "expected one number"),
        ({"lora_down.weight": torch.full((2, 32), torch.inf)}, "nonfinite", "holds NaN or infinity"),
        ({"lora_down.weight": torch.ones(2, 32, 3, 3)}, "architecture_mismatch", "[32, 32] in the model"),
        ({"lora_down.weight": torch.ones(2, 48)}, "architecture_mismatch", "is [32, 48] in the file"),
        ({"lora_down.weight": torch.ones(2, 32, dtype=torch.int64)}, "dtype", "int64"),
        ({"hada_w1_a": torch.ones(1)}, "shape", "unknown tensors"),
        ({"lora_mid.weight": torch.ones(2, 2, 3, 3)}, "architecture_mismatch", "does not make [32, 32]"),
        ({"dora_scale": torch.ones(7, 1)}, "shape", "DoRA's magnitude"),
        ({"diff_b": torch.ones(7)}, "architecture_mismatch", "to_q is 7, the model's is 32"),
    ],
)
def test_what_makes_no_sense(parts: dict[str, Tensor], reason: str, says: str, tmp_path: Path) -> None:
    good = {"lora_down.weight": torch.ones(2, 32), "lora_up.weight": torch.ones(32, 2)}
    tensors = {f"{STEM}.{part}": tensor for part, tensor in (good | parts).items()}
    with pytest.raises(ModelFileError, match=re.escape(says)) as caught:
        read(tmp_path / "bad.safetensors", tensors, target_of(TINY_SD))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(9, 8)}, "does not make"),
        ({"lokr_w1": torch.ones(4, 4)}, "lacks lokr_w2"),
        ({"oft_blocks": torch.ones(3, 4, 4)}, "the weight has 32 outputs"),
        ({"oft_blocks": torch.ones(32, 32)}, "expected [N, S, S]"),
        ({"diff": torch.ones(32, 31)}, "does not make"),
        ({"weight": torch.ones(5)}, "does not make"),
        ({"w_norm": torch.ones(32)}, "does not make"),
        ({f"{x}.weight": torch.ones(3, 5) for x in ("a1", "a2", "b1", "b2")}, "do not fit a weight"),
        ({"hada_w1_b": torch.ones(2, 2)}, "make no known adapter"),
    ],
)
def test_other_kinds_that_make_no_sense(parts: dict[str, Tensor], says: str, tmp_path: Path) -> None:
    tensors = {f"{STEM}.{part}": tensor for part, tensor in parts.items()}
    with pytest.raises(ModelFileError, match=re.escape(says)):
        read(tmp_path / "bad.safetensors", tensors, target_of(TINY_SD))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    """A LoRA of SDXL's real sizes on SD 1.5 of real sizes, both without numbers of their own."""
    xl = Target("sdxl", "sdxl", empty_networks(SDXL, "sdxl"))
    sd15 = Target("sd15", "sd1", empty_networks(SD15, "sd15"))
    for target, other, looks in ((xl, sd15, "Stable Diffusion XL"), (sd15, xl, "Stable Diffusion 1")):
        tensors = {}
        for component, name, module in layers(target, nn.Linear):
            if component == "unet" and "cross_attention.to_k" in name:
                out, into = module.weight.shape
                stem = target.stem_of(component, name)
                tensors |= {
                    f"{stem}.lora_up.weight": torch.ones(out, 1),
                    f"{stem}.lora_down.weight": torch.ones(1, into),
                }
        path = saved(tmp_path / "x.safetensors", tensors, {"ss_base_model_version": "some words"})
        assert read_lora(open_weights(path), target).match.unmatched == ()
        with pytest.raises(
            ModelFileError, match=f"made for {looks} .*some words.*the model is '{other.name}'"
        ) as caught:
            read_lora(open_weights(path), other)
        assert caught.value.reason == "architecture_mismatch"


def test_partial_fits_are_counted(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    tensors = attentions(target)
    tensors |= {f"lora_unet_elsewhere_{i}.lora_up.weight": torch.ones(1) for i in range(7)}
    lora = read(tmp_path / "a", tensors, target)
    assert lora.match.matched == 32 * 4 + 2 * 4 and len(lora.match.unmatched) == 7
    assert "136 modules fit, 7 do not exist in the model" in lora.match.notice and "and 2 more" in lora.match.notice


def test_two_spellings_of_one_module(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    other = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{STEM}.lora_up.weight": torch.ones(32, 1), f"{STEM}.lora_down.weight": torch.ones(1, 32)}
    tensors[f"{other}.lora_A.weight"] = torch.ones(1, 32)
    with pytest.raises(ModelFileError, match="change the same module"):
        read(tmp_path / "a", tensors, target)


# ---- strength --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_strengths_of_unet_and_text_and_several_at_once(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    torch.manual_seed(3)
    one, two = (read(tmp_path / f"{i}", attentions(target), target) for i in range(2))
    unet, text = target.networks["unet"], target.networks["text"]
    layer = unet.down[0].attentions[0].blocks[0].self_attention.to_q
    tower = text.layers[0].attention.to_q
    before = layer.weight.clone(), tower.weight.clone()
    names = ("unet.down.0.attentions.0.blocks.0.self_attention.to_q", "text.layers.0.attention.to_q")
    with attach(target.networks, [(one, 0.5, 0.0), (two, -0.25, 2.0)], merged=True):
        for module, old, name, a, b in zip((layer, tower), before, names, (0.5, 0.0), (-0.25, 2.0), strict=True):
            expected = old + a * one.changes[name].weight.delta(old) + b * two.changes[name].weight.delta(old)
            torch.testing.assert_close(module.weight, expected)
    assert torch.equal(layer.weight, before[0]) and torch.equal(tower.weight, before[1])
    x = torch.randn(1, 3, 32)
    with attach(target.networks, [(one, 0.5, 0.0), (two, -0.25, 2.0)]):
        first = layer(x)
    with attach(target.networks, [(two, -0.25, 2.0), (one, 0.5, 0.0)]):
        torch.testing.assert_close(layer(x), first)


@pytest.mark.parametrize("merged", [False, True])
@torch.no_grad()
def test_strength_over_the_steps(merged: bool, tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", attentions(target), target)
    layer = target.networks["unet"].down[0].attentions[0].blocks[0].self_attention.to_q
    x = torch.randn(1, 3, 32)
    plain, now = layer(x), [1.0]
    attachment = attachment_of(target.networks, [(lora, lambda: now[0], 1.0)], merged=merged)
    with attachment.on():
        full = layer(x) - plain
    for strength in (0.0, 0.5, 1.0):
        now[0] = strength
        with attachment.on():
            torch.testing.assert_close(layer(x) - plain, strength * full, atol=1e-5, rtol=1e-4)
        assert torch.equal(layer(x), plain)


def test_strengths_that_are_none(tmp_path: Path) -> None:
    target = target_of(TINY_SD)
    lora = read(tmp_path / "a", attentions(target), target)
    for strength in (float("nan"), float("inf"), 1e4):
        with pytest.raises(ValueError, match="strength"):
            attach(target.networks, [(lora, strength, 1.0)])
    for network in target.networks.values():
        assert not any(module._forward_hooks for module in network.modules())


def test_merging_beyond_half_precision_is_refused_and_undone(tmp_path: Path) -> None:
    network = nn.Module()
    network.layer = nn.Linear(4, 4, bias=False).half().requires_grad_(False)
    before = network.layer.weight.clone()

    class Toy(Target):
        @property
        def _spellings(self):  # type: ignore[override]
            return {"unet": [{"layer": ("layer",)}]}

    target = Toy("toy", "sd1", {"unet": network})
    tensors = {"lora_unet_layer.diff": torch.full((4, 4), 1e5)}
    lora = read(tmp_path / "a", tensors, target)
    with pytest.raises(ModelFileError, match=r"overflows torch\.float16"):
        attach(target.networks, [(lora, 1.0, 1.0)], merged=True)
    assert torch.equal(network.layer.weight, before)


# ---- spellings of other tools, on SDXL, whose two text encoders must not be mixed up ---------------------------------

UNET_LDM = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
UNET_DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        # ComfyUI's LoraSave
        (
            (
                f"diffusion_model.{UNET_LDM}",
                f"text_encoders.clip_l.transformer.{TEXT}",
                f"text_encoders.clip_g.transformer.{TEXT}",
            ),
            ("lora_down.weight", "lora_up.weight"),
        ),
        # OneTrainer
        ((f"unet.{UNET_DIFFUSERS}", f"clip_l.{TEXT}", f"clip_g.{TEXT}"), ("lora_down.weight", "lora_up.weight")),
        ((f"unet.{UNET_DIFFUSERS}", f"clip_l.{TEXT}", f"clip_g.{TEXT}"), ("lora_A.weight", "lora_B.weight")),
        # the names of a whole checkpoint
        (
            (
                f"model.diffusion_model.{UNET_LDM}",
                f"conditioner.embedders.0.transformer.{TEXT}",
                f"conditioner.embedders.1.model.{TEXT}",
            ),
            ("lora_A.weight", "lora_B.weight"),
        ),
    ],
)
@pytest.mark.sampled(2)
def test_the_network_is_named_in_each_tools_way(names: tuple[str, str, str], parts: tuple[str, str], tmp_path: Path):
    target = Target(SDXL.name, SDXL.layout, empty_networks(SDXL, tmp_path))
    tensors = {}
    for name, width in zip(names, (640, 768, 1280), strict=True):
        tensors |= {f"{name}.{parts[0]}": randn(2, width), f"{name}.{parts[1]}": randn(width, 2)}
    lora = read(tmp_path / "x.safetensors", tensors, target)
    assert sorted(name.partition(".")[0] for name in lora.changes) == ["text", "text_2", "unet"]
    assert lora.match.unmatched == ()
    assert is_made_for(architecture_of(open_weights(tmp_path / "x.safetensors").tensors), "sdxl")


@pytest.mark.parametrize("second", [{"lokr_w2": (40, 128)}, {"lokr_w2_a": (40, 4), "lokr_w2_b": (4, 128)}])
def test_lycoris_without_a_network(second: dict[str, tuple[int, int]], tmp_path: Path):
    """As SimpleTuner writes it: the UNet's modules alone, in the names of diffusers."""
    target = Target(SDXL.name, SDXL.layout, empty_networks(SDXL, tmp_path))
    stem = "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lokr_w1": randn(16, 16), f"{stem}.alpha": torch.tensor(1.0)}
    tensors |= {f"{stem}.{part}": randn(*shape) for part, shape in second.items()}
    lora = read(tmp_path / "x.safetensors", tensors, target)
    assert [name.partition(".")[0] for name in lora.changes] == ["unet"]
    assert lora.kinds == {"LoKr": 1}
    assert architecture_of(open_weights(tmp_path / "x.safetensors").tensors) == "Stable Diffusion XL"


def test_unknown_names_for_the_same_kind_of_model_are_no_other_model(tmp_path: Path):
    """The message may not say that the file is made for another model when it is made for this one."""
    target = Target(SDXL.name, SDXL.layout, empty_networks(SDXL, tmp_path))
    name = "my_trainer.unet.down.1.attn2.to_k"
    unknown = {f"{name}.lora_down.weight": randn(2, 2048), f"{name}.lora_up.weight": randn(640, 2)}
    with pytest.raises(ModelFileError, match=r"names that gesso does not know, such as .?my_trainer") as caught:
        read(tmp_path / "x.safetensors", unknown, target)
    assert caught.value.code == "unknown_key"
    name = f"diffusion_model.{UNET_LDM}".replace("attn1.to_q", "attn2.to_k")
    small = {f"{name}.lora_down.weight": randn(2, 2048), f"{name}.lora_up.weight": randn(320, 2)}
    with pytest.raises(ModelFileError, match="is made for Stable Diffusion XL, as the model 'sdxl' is, but"):
        read(tmp_path / "x.safetensors", small, target)


def test_metadata_of_some_megabytes(tmp_path: Path):
    """kohya's trainer writes how often each tag stands in the captions."""
    tags = json.dumps({"img": {f"tag number {i}": 1 for i in range(120_000)}})
    target = target_of(TINY_SD)
    path = saved(tmp_path / "x.safetensors", attentions(target), {"ss_tag_frequency": tags})
    assert read_lora(open_weights(path), target).metadata["ss_tag_frequency"] == tags


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("lora_unet_double_blocks_0_img_attn_proj", "FLUX"),
        ("lora_unet_joint_blocks_0_context_block_attn_proj", "Stable Diffusion 3"),
        ("lora_prior_unet_down_blocks_0_0", "Stable Cascade"),
        ("some_layer", "an unknown model"),
    ],
)
def test_nothing_of_which_fits_is_refused_by_what_it_looks_like(name: str, looks: str, tmp_path: Path) -> None:
    path = saved(
        tmp_path / "x.safetensors", {f"{name}.lora_down.weight": randn(2, 8), f"{name}.lora_up.weight": randn(8, 2)}
    )
    with pytest.raises(ModelFileError, match=f"is made for {looks}, the model is 'sd15'") as caught:
        read_lora(open_weights(path), target_of(TINY_SD))
    assert caught.value.reason == "architecture_mismatch"


def test_embeddings_alone_are_an_adapter(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.safetensors", {"bundle_emb.word.string_to_param.*": randn(2, 32)})
    lora = read_lora(open_weights(path), target_of(TINY_SD))
    assert (lora.changes, [word.name for word in lora.embeddings]) == ({}, ["word"])


def test_what_was_attached_before_a_failure_is_detached(tmp_path: Path) -> None:
    """The second layer's merged weights leave float16; the first one's are in place by then."""
    network = nn.Module()
    for name in ("first", "second"):
        network.add_module(name, nn.Linear(4, 4, bias=False).half().requires_grad_(False))
    before = {name: param.clone() for name, param in network.named_parameters()}

    class Toy(Target):
        @property
        def _spellings(self):  # type: ignore[override]
            return {"unet": [{"first": ("first",), "second": ("second",)}]}

    target = Toy("toy", "sd1", {"unet": network})
    tensors = {"lora_unet_first.diff": torch.ones(4, 4), "lora_unet_second.diff": torch.full((4, 4), 1e5)}
    lora = read(tmp_path / "a", tensors, target)
    with pytest.raises(ModelFileError, match=r"overflows torch\.float16"):
        attach(target.networks, [(lora, 1.0, 1.0)], merged=True)
    for name, param in network.named_parameters():
        assert torch.equal(param, before[name]), name


RELEASES = {
    "sd15": "Stable Diffusion 1",
    "sd21": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sdxl-refiner": "the refiner of Stable Diffusion XL",
    "gesso-mini": "a model with text embeddings 192 wide",
}


@cache
def target_named(name: str) -> Target:
    if name == "gesso-mini":
        parts = load_parts(find_model(name), dtype=None, check=False)
        return Target(name, parts.family.layout, parts.networks)
    family = FAMILIES[name]
    return Target(name, family.layout, empty_networks(family, "sizes alone"))


@pytest.mark.parametrize("spelling", ["kohya", "PEFT"])
@pytest.mark.parametrize("made", RELEASES)
@pytest.mark.sampled(3)
def test_an_adapter_of_each_release_says_what_it_is_made_for_on_every_other(made: str, spelling: str, tmp_path: Path):
    """Also where the names are the same: gesso-mini's are those of SD 1, the refiner's those of SDXL."""
    source = target_named(made)
    tensors = {}
    for _, name, module in layers(source, nn.Linear):
        if not name.endswith(("self_attention.to_q", "cross_attention.to_k")) or name.startswith("layers."):
            continue
        down, up = torch.zeros(1, module.weight.shape[1]), torch.zeros(module.weight.shape[0], 1)
        if spelling == "kohya":
            stem = source.stem_of("unet", name)
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        else:
            dotted = source.dotted_of("unet", name)
            tensors |= {f"{dotted}.lora_A.weight": down, f"{dotted}.lora_B.weight": up}
    file = open_weights(saved(tmp_path / "x.safetensors", tensors))
    assert architecture_of(file.tensors) == RELEASES[made]
    assert read_lora(file, source).match.unmatched == ()
    for other in set(RELEASES) - {made}:
        with pytest.raises(ModelFileError, match=f"is made for {RELEASES[made]}, the model is '{other}'") as caught:
            read_lora(file, target_named(other))
        assert caught.value.code == "architecture_mismatch"


def test_what_looks_the_same_but_has_no_place_is_made_for_another_release(tmp_path: Path):
    """gesso-mini has fewer levels than SD 1, so that not one of these names exists in it."""
    stem = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": randn(2, 768), f"{stem}.lora_up.weight": randn(320, 2)}
    message = r"made for Stable Diffusion 1, the model is 'gesso-mini' \(a model with text embeddings 192 wide\): none"
    with pytest.raises(ModelFileError, match=message):
        read(tmp_path / "x.safetensors", tensors, target_named("gesso-mini"))


def test_the_refiner_is_told_from_sdxl_without_its_text_embeddings(tmp_path: Path):
    for width, looks in {640: "Stable Diffusion XL", 768: "the refiner of Stable Diffusion XL"}.items():
        for module, out in {"attn1_to_q": width, "ff_net_0_proj": 8 * width}.items():
            stem = f"lora_unet_input_blocks_4_1_transformer_blocks_2_{module}"
            tensors = {f"{stem}.lora_down.weight": randn(2, width), f"{stem}.lora_up.weight": randn(out, 2)}
            assert architecture_of(open_weights(saved(tmp_path / "x.safetensors", tensors)).tensors) == looks


KEYS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"


@pytest.mark.parametrize(
    ("shapes", "looks"),
    [
        ({KEYS: (4, 768)}, "Stable Diffusion 1"),
        ({KEYS: (4, 1024)}, "Stable Diffusion 2"),
        ({KEYS: (4, 2048, 1, 1)}, "Stable Diffusion XL"),
        ({KEYS: (4, 64)}, "a model with text embeddings 64 wide"),
        ({KEYS: (4, 768, 3), "x": (1,)}, "a UNet like Stable Diffusion's"),  # shows no width
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": ()}, "Stable Diffusion XL"),
        ({"lora_te_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 1024)}, "Stable Diffusion 2"),
        ({"lora_te_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 99)}, "a text encoder of width 99"),
        ({"lora_unet_down_blocks_0_resnets_0_conv1.alpha": (), "bias": (3,)}, "a UNet like Stable Diffusion's"),
        ({"lora_unet_input_blocks_1_0_emb_layers_1.alpha": (), "bias": (3,)}, "a UNet like Stable Diffusion's"),
        ({"bias": (3,)}, "an unknown model"),
        ({"x.double_blocks.0.w": (3,), KEYS: (4, 768)}, "FLUX"),
    ],
)
def test_what_the_names_and_widths_of_an_adapter_show(shapes: dict[str, tuple[int, ...]], looks: str):
    assert architecture_of({name: TensorInfo(torch.float16, shape, 0) for name, shape in shapes.items()}) == looks
