"""The text of a request to conditioning: dialects, joined prompts, chunks of both halves of the guidance."""

from dataclasses import replace

import pytest
import torch

from gesso.families.saving import save_diffusers
from gesso.pipelines.prompts import EncodedPrompt, encode_prompts
from gesso.pipelines.request import RequestError, TextToImageRequest
from gesso.pipelines.text_to_image import TextToImage
from gesso.runtime.engine import Engine
from tiny_sd import TINY_SDXL, tiny_parts

LONG = "a cat, " * 30 + "a dog"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    path = tmp_path_factory.mktemp("sdxl") / "tiny"
    save_diffusers(path, tiny_parts(TINY_SDXL))
    engine = Engine("cpu")
    model = engine.load(path)
    # The header of a tiny model tells the releases' sizes wrong; what is tested is how it is told its text.
    return TextToImage(engine, replace(model, parts=tiny_parts(TINY_SDXL)))


def encode(pipeline: TextToImage, prompt: str, **values: object) -> EncodedPrompt:
    request = TextToImageRequest(prompt=prompt, seed=1, num_steps=4, **values)
    return encode_prompts(pipeline.model, pipeline.resolve(request))


@pytest.mark.parametrize("syntax", ["a1111", "comfyui", "compel", "plain"])
def test_a_plain_prompt_is_the_same_in_every_syntax(pipeline: TextToImage, syntax: str):
    found = encode(pipeline, "a red cat", syntax=syntax)
    assert torch.equal(found.cond.context, encode(pipeline, "a red cat").cond.context)
    assert found.notices == ()


def test_each_syntax_reads_its_own_weights(pipeline: TextToImage):
    plain = encode(pipeline, "a red cat").cond.context
    found = {
        syntax: encode(pipeline, text, syntax=syntax, emphasis="no_norm").cond.context
        for syntax, text in (("a1111", "a (red:1.5) cat"), ("comfyui", "a (red:1.5) cat"), ("compel", "a (red)1.5 cat"))
    }
    assert not torch.equal(found["a1111"], plain)
    assert torch.equal(found["a1111"], found["comfyui"]) and torch.equal(found["a1111"], found["compel"])
    literal = encode(pipeline, "a (red:1.5) cat", syntax="plain").cond.context
    assert not torch.equal(literal, found["a1111"]) and not torch.equal(literal, plain)


def test_a_long_prompt_and_its_short_negative_get_one_length(pipeline: TextToImage):
    found = encode(pipeline, LONG, negative_prompt="blurry")
    assert found.uncond is not None
    assert found.cond.context.shape == found.uncond.context.shape == (1, 2 * 77, 32 + 48)
    cut = encode(pipeline, LONG, chunks="first")
    assert cut.cond.context.shape[1] == 77 and "left out" in cut.notices[0]


def test_blended_and_chained_prompts(pipeline: TextToImage):
    cat, dog = (encode(pipeline, text, syntax="compel").cond.context for text in ("a cat", "a dog"))
    blended = encode(pipeline, '("a cat", "a dog").blend(3, 1)', syntax="compel").cond.context
    torch.testing.assert_close(blended, (3 * cat + dog) / 4)
    chained = encode(pipeline, '("a cat", "a dog").and()', syntax="compel").cond.context
    torch.testing.assert_close(chained, torch.cat([cat, dog], dim=1))


def test_and_is_text_in_a_negative_prompt(pipeline: TextToImage):
    found = encode(pipeline, "a cat", negative_prompt="rain AND <lora:x:1>")
    plain = encode(pipeline, "a cat", negative_prompt="rain AND <lora:x:1>", syntax="plain")
    assert found.uncond is not None and plain.uncond is not None
    assert torch.equal(found.uncond.context, plain.uncond.context)


@pytest.mark.parametrize("text", ["a AND b", "[a:b:0.5]", "[a|b] cat"])
def test_what_is_not_drawn_yet_is_refused(pipeline: TextToImage, text: str):
    with pytest.raises(RequestError, match="not drawn yet"):
        encode(pipeline, text)


def test_what_happened_to_the_prompt_is_told(pipeline: TextToImage):
    found = encode(pipeline, "a (cat:99) <lora:style:1> # at night")
    assert [notice.split("'")[0].strip() for notice in found.notices] == [
        "left out as a comment:",
        "left out: <lora:style>, which is not attached yet",
        "the weight 99 of",
    ]
