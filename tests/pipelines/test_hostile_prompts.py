"""Hostile prompts through the whole pipeline: each is drawn, finite, or refused by name, and takes no time of note."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asking import changed
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.frontends.front_end import FrontEnd
from gesso.pictures.picture_file import read_picture
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.recipe import Recipe
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine, LoadedModel
from tiny_sd import TINY_SD, clip_tokenizer, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a cat", seed=1, num_steps=2, width=64, height=64)
SECONDS = 20.0  # of the processor, for the worst; a plain prompt takes a tenth of a second here
MOST = 32_000  # characters


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    family: Family = TINY_SD
    engine = Engine("cpu", "float32")
    model: LoadedModel = engine.load(save_tiny_folder(tmp_path_factory.mktemp("models") / "sd", family))
    return TextToImage(engine, model)


def full(sign: str, after: str = "") -> str:
    """As much of it as a prompt takes."""
    return sign * ((MOST - len(after)) // len(sign)) + after


# Rows T1 to T9 of the list of bad inputs; those that name files stand in test_adapters, infotext in its own tests.
DRAWN = [
    *("(", "[", "((a:1.2)", "a)", "\\(", "(:1.2)", "(a:)", "(a:1e999)", "(a:nan)", "(a:-5)", "(a:1.2.3)", "(a:+-1)"),
    *("(" * 100, "[" * 100, "(" * 117 + "a", "[" * 1000 + "a" + "]" * 1000, "(" * 7448 + "a" + ")" * 7448),
    *("[|", "[a|]", "[|a]", "[a:b:1e9]", "[::]", "[a:b:-1]", "[a:b:]", "[:0.5]", "[a|b|c:d:0.5]", "]]]|||[[["),
    *("a AND b", "AND", "a AND", "AND AND AND", "a AND b:-1", "a :nan AND b", "a:1e9 AND b:-1e9", "BREAK BREAK"),
    *("a\x01\x1b[31mb", "\ufeffa cat", "a \u202e tac", "\u200d" * 100, "e\u0301 \u00e9", "\t\n\r\v\f"),
    *("\uff21 \uff23\uff21\uff34", "\U0001f469\u200d\U0001f680 " * 20, "\x7f\x80\x9f", "\u2028\u2029"),
    *("<|startoftext|>", "<|endoftext|> a cat <|endoftext|>", "<pad>", "</s>", "[CLS] [SEP]"),
    *("py:print(1)", "{{7*7}}", "${jndi:ldap://x}", "%n%s%x", "'; DROP TABLE x; --", "=cmd|' /C calc'!A0", "$(id)"),
    *("Steps: 20, Seed: 1", "a\nNegative prompt: b\nSteps: 1, Seed: 2, Size: 8x8", "__x__ {a|b}", "# a comment"),
    *("<lora:>", "<lora", "<:x>", "<hypernet:x:1>", "<<lora>>", "<nosuch:../../x>"),
]
REFUSED = [
    *(full("a AND "), full("BREAK "), "a" * (MOST + 1), "word " * 100_000, "x" * 10_000_000),
    *("a\0b", "\ud800", "a\udfffb", "[a:b:0.5]" * 257, full("[a|b]")),
    *("<lora:../../x:1>", "<lora:/etc/passwd:1>", "<lora:C:\\x:1>", "<lora:x:nan>"),
    *("<lora:x:1>" * 1000, "<lora:x>" * 17),
]
# Drawn, or of too many chunks: one or the other, at once.
ANSWERED = [
    *map(full, ("(", "[", "(a:", "a)", "\\", ":", "|", "word ", "(a:0.5) ", "(a:20) ", "e\u0301", "\u200d", "# ", "<")),
    *("e" + "\u0301" * 10_000, "[a|" * 200 + "]" * 200, "[" * 15_000 + "|" * 15_000),
]


def within_bounds(run: Callable[[], object]) -> None:
    start = time.process_time()
    try:
        run()
    finally:
        assert time.process_time() - start < SECONDS


# Two drawings each: one in three is quick.
@pytest.mark.parametrize(
    "prompt",
    [pytest.param(prompt, marks=() if i % 6 == 0 else pytest.mark.slow, id=str(i)) for i, prompt in enumerate(DRAWN)],
)
def test_strange_prompts_are_drawn(pipeline: TextToImage, prompt: str, tmp_path: Path):
    """And come out of the file as they went in."""

    def run() -> None:
        request = replace(REQUEST, prompt=prompt, negative_prompt=prompt, num_steps=1)
        (picture,) = pipeline(request)
        assert torch.isfinite(pipeline.pixels(request)).all()
        assert Recipe.from_json(picture.recipe.to_json()) == picture.recipe
        path = tmp_path / "x.png"
        path.write_bytes(picture.to_png())
        _, recipe = read_picture(path)
        assert (recipe.request.prompt, recipe.request.negative_prompt) == (prompt, prompt)
        assert all(len(notice) < 4096 for notice in picture.notices)

    within_bounds(run)


@pytest.mark.parametrize("prompt", REFUSED, ids=range(len(REFUSED)))
def test_prompts_beyond_the_limits_are_refused(pipeline: TextToImage, prompt: str):
    def run() -> None:
        with pytest.raises(GessoError) as error:
            list(pipeline(replace(REQUEST, prompt=prompt)))
        assert len(str(error.value)) < 1000  # what was typed is repeated in part alone
        assert error.value.one_line.isprintable()

    within_bounds(run)


@pytest.mark.parametrize("prompt", ANSWERED, ids=range(len(ANSWERED)))
@pytest.mark.sampled(6)
def test_the_longest_prompts_are_answered(pipeline: TextToImage, prompt: str):
    def run() -> None:
        with suppress(GessoError):
            assert torch.isfinite(pipeline.pixels(replace(REQUEST, prompt=prompt, num_steps=1))).all()

    within_bounds(run)


def generated(count: int) -> Iterator[str]:
    """Prompts out of the signs of every grammar."""
    draws = random.Random(7)
    signs = [*'()[]:|\\<>{}#\n"+-,', "__", "::", "$$", "--", " ", "\u0301"]
    signs += [" AND ", " BREAK ", ":1.2)", ":0.5]", "[a:b:3]", "(x:9e9)", "<lora:", "--ar 3:2", ".blend(1)"]
    words = ["cat", "dog", "a", "1.5", "-2", "éß", "\U0001f408"]
    for _ in range(count):
        yield "".join(draws.choice(signs if draws.random() < 0.6 else words) for _ in range(draws.randrange(1, 60)))


@pytest.mark.parametrize("count", [10, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("syntax", ["a1111", "comfyui", "compel", "plain"])
@pytest.mark.sampled(2)
def test_generated_prompts_are_drawn_or_refused(pipeline: TextToImage, syntax: str, count: int):
    drawn = 0
    for prompt in generated(count):
        try:
            pixels = pipeline.pixels(changed(REQUEST, prompt=prompt, negative_prompt=prompt[::-1], syntax=syntax))
        except GessoError:
            continue
        assert torch.isfinite(pixels).all(), prompt
        drawn += 1
    assert drawn > count * 12 // 25


def test_generated_prompts_pass_the_front_end(pipeline: TextToImage):
    family = pipeline.model.family
    for front in (FrontEnd(flags=True), FrontEnd(lists={"a": ("b __a__", "{c|d}")})):
        for prompt in generated(2000):
            try:
                written = list(front.requests(replace(REQUEST, prompt=prompt), family))
            except GessoError:
                continue
            assert written
            assert all(len(part.request.prompt) <= MOST for part in written)


def test_special_tokens_are_text():
    """What looks like the beginning or the end is spelled, not obeyed."""
    tokenizer = clip_tokenizer()
    special = {tokenizer.bos, tokenizer.eos}
    for text in ("<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "<|END" + "OFTEXT|>", "<pad>"):
        assert not special & {token.id for token in tokenizer.tokens(text)}


def test_a_weight_beyond_all_bounds_is_changed_and_told(pipeline: TextToImage):
    """117 brackets are more than float16 has room for, 7448 more than float64."""
    for prompt in ("(" * 117 + "cat", "(" * 7448 + "cat", "(cat:1000000)", "cat :99 AND dog"):
        (picture,) = pipeline(replace(REQUEST, prompt=prompt))
        assert any("was changed to 10" in notice for notice in picture.notices)
