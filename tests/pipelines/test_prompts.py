"""Prompts as people type them, on their way to the network."""

from pathlib import Path

import pytest
import torch

from asking import changed
from gesso.pipelines.defaults import defaults_for
from gesso.pipelines.prompts import EncodedPrompt, encode_prompts
from gesso.request.request import TextToImageRequest
from gesso.request.resolving import resolve
from gesso.runtime.engine import Engine, LoadedModel
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, TINY_SDXL, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a cat", seed=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    engine, base = Engine("cpu", max_models=2), Path(tmp_path_factory.mktemp("models"))
    families = {"sd": TINY_SD, "xl": TINY_SDXL}
    return {name: engine.load(save_tiny_folder(base / name, family)) for name, family in families.items()}


def encode(model: LoadedModel, **values: object) -> EncodedPrompt:
    request = changed(REQUEST, **values)
    return encode_prompts(model, resolve(request, defaults_for(request, model.family)))


def test_a_prompt_without_signs_is_the_same_in_every_syntax(models: dict[str, LoadedModel]):
    base = encode(models["sd"], syntax="plain").cond.context
    for syntax in ("a1111", "comfyui", "compel"):
        assert torch.equal(encode(models["sd"], syntax=syntax).cond.context, base)


def test_weights_move_the_states_by_the_rule_of_emphasis(models: dict[str, LoadedModel]):
    plain = encode(models["sd"]).cond.context
    found = {
        rule: encode(models["sd"], prompt="a (cat:1.3)", emphasis=rule).cond.context for rule in ("original", "no_norm")
    }
    assert torch.equal(encode(models["sd"], prompt="a (cat:1.3)", emphasis="ignore").cond.context, plain)
    cat = 2  # beginning, a, cat
    assert torch.allclose(found["no_norm"][0, cat], plain[0, cat] * 1.3)
    assert found["original"].mean() == pytest.approx(float(plain.mean()), rel=1e-4)  # float32
    text = encode(models["sd"], prompt="a (cat:1.3)", syntax="plain").cond.context
    assert not torch.equal(text, plain)


def test_long_prompts_come_in_chunks_and_the_negative_keeps_up(models: dict[str, LoadedModel]):
    long = "cat " * 100
    for name in ("sd", "xl"):
        found = encode(models[name], prompt=long, negative_prompt="blurry")
        assert found.cond.context.shape[1] == 2 * 77
        assert found.uncond is not None
        assert found.uncond.context.shape == found.cond.context.shape
        assert found.notices == ()
    first = encode(models["sd"], prompt=long, chunks="first")
    assert first.cond.context.shape[1] == 77
    assert "ignored from" in first.notices[0]


def test_an_empty_negative_is_zeros_for_sdxl_as_it_was_trained(models: dict[str, LoadedModel]):
    zeros, encoded = encode(models["xl"]).uncond, encode(models["xl"], empty_negative="encoded").uncond
    assert zeros is not None
    assert encoded is not None
    assert not zeros.context.any()
    assert encoded.context.any()
    sd = encode(models["sd"]).uncond
    assert sd is not None
    assert sd.context.any()


def test_clip_skip_moves_sdxl_only_where_a_preset_says_so(models: dict[str, LoadedModel]):
    base = encode(models["xl"]).cond.context
    assert torch.equal(encode(models["xl"], clip_skip=2).cond.context, base)
    assert not torch.equal(encode(models["xl"], clip_skip=2, preset="diffusers").cond.context, base)


def test_tags_are_no_text(models: dict[str, LoadedModel]):
    found = encode(models["sd"], prompt="a cat <lora:style:0.8>")
    assert torch.equal(found.cond.context, encode(models["sd"]).cond.context)


def test_a_syntax_brings_the_emphasis_of_its_tool(models: dict[str, LoadedModel]):
    weighted = encode(models["sd"], prompt="a (cat:1.3)", syntax="comfyui").cond.context
    asked = encode(models["sd"], prompt="a (cat:1.3)", syntax="comfyui", emphasis="comfyui").cond.context
    assert torch.equal(weighted, asked)
    other = encode(models["sd"], prompt="a (cat:1.3)", syntax="comfyui", emphasis="no_norm").cond.context
    assert not torch.equal(weighted, other)
    compel = encode(models["sd"], prompt="a (cat)0.5", syntax="compel").cond.context
    assert torch.equal(
        compel, encode(models["sd"], prompt="a (cat)0.5", syntax="compel", emphasis="compel").cond.context
    )


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        ("a 🐱", "a cat"),
        ("a (🐱:1.2)", "a (cat:1.2)"),
        ("[🐱:🐢:0.5]", "[cat:turtle:0.5]"),
        ("a 🐱 AND 🐢", "a cat AND turtle"),
        ("a red cat 🐱", "a red cat"),
        ("eine rote Katze", "a red cat"),
        ("eine (rote:1.2) Katze", "a (red:1.2) cat"),
        ("[eine Katze:a turtle:0.5]", "[a cat:a turtle:0.5]"),
    ],
)
@pytest.mark.sampled(3)
def test_emoji_and_other_languages_reach_the_network_in_english(drawn: str, words: str, tmp_path: Path):
    model = Engine("cpu").load(save_tiny_mini(tmp_path / "mini.safetensors"))
    for field in ("prompt", "negative_prompt"):
        if field == "negative_prompt" and "AND" in words:
            continue  # only prompts are joined
        found, plain = (encode(model, **{field: text}).moments for text in (drawn, words))
        for (last, one), (other_last, other) in zip(found, plain, strict=True):
            assert last == other_last
            assert torch.equal(one.cond.context, other.cond.context)
            assert torch.equal(one.uncond.context, other.uncond.context)
