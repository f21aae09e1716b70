"""Pieces of a prompt to states: chunks, both towers, and each rule of emphasis with a real text encoder."""

import copy
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gesso.families.base import Family
from gesso.families.encoding import (
    CHUNKS_AT_ONCE,
    MAX_DOWNWEIGHTED,
    PromptEmbeds,
    Reading,
    Sizes,
    encode_prompt,
    join_prompts,
    pad_chunks,
    zeros_like,
)
from gesso.families.saving import save_diffusers
from gesso.text.attention import parse_attention
from gesso.text.chunks import chunk
from gesso.text.emphasis import RULES, no_norm, original
from gesso.text.prompt import PromptError, WeightedText
from gesso.text.tokenizer import learn_vocabulary
from tiny_sd import TINY_REFINER, TINY_SD, TINY_SD21, TINY_SDXL, tiny_parts

STABLE = [TINY_SD, TINY_SD21, TINY_SDXL, TINY_REFINER]
LONG = "a cat, " * 30 + "a (red:1.3) dog"


def encode(family: Family, text, **options) -> PromptEmbeds:
    return encode_prompt(tiny_parts(family), text, clip_skip=1, width=64, height=64, **options)


@pytest.mark.parametrize("family", STABLE, ids=lambda family: family.name)
def test_pieces_without_weights_are_plain_text(family):
    plain, pieces = encode(family, "a red cat"), encode(family, parse_attention("a red cat"))
    assert torch.equal(plain.context, pieces.context)
    assert plain.added is None or torch.equal(plain.added, pieces.added)
    assert pieces.chunks.num_tokens == (3,)


@pytest.mark.parametrize("family", STABLE, ids=lambda family: family.name)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_with_every_tower(family, rule):
    """A rule changes the states of the text, and never the vector, which is told no weights."""
    plain = encode(family, "a red cat")
    found = encode(family, parse_attention("a (red:1.4) [cat]"), reading=Reading(emphasis=rule))
    assert found.context.shape == plain.context.shape
    assert bool(torch.isfinite(found.context).all())
    assert torch.equal(found.context, plain.context) == (rule == "ignore")
    assert plain.added is None or torch.equal(found.added, plain.added)


def test_each_tower_is_weighted_alone():
    """The mean that "original" restores is that of one tower, as in A1111, whose towers know nothing of each other."""
    parts = tiny_parts(TINY_SDXL)
    pieces = parse_attention("a (red:1.4) cat")
    found = encode(TINY_SDXL, pieces).context
    plain = encode(TINY_SDXL, "a red cat").context
    weights = chunk(pieces, parts.tokenizer).weights
    first, second = plain.split([32, 48], dim=-1)
    torch.testing.assert_close(found, torch.cat([original(first, weights), original(second, weights)], dim=-1))
    assert parts.tokenizer_2 is not None and parts.tokenizer_2.pad == 0


@pytest.mark.parametrize("family", STABLE, ids=lambda family: family.name)
def test_chunks_stand_one_behind_the_other(family):
    """Each chunk is what it would be alone; the vector is that of the first."""
    found = encode(family, parse_attention("a cat BREAK a (red:1.3) dog"), reading=Reading(emphasis="no_norm"))
    first, second = (
        encode(family, parse_attention(part), reading=Reading(emphasis="no_norm"))
        for part in ("a cat", "a (red:1.3) dog")
    )
    assert found.context.shape[1] == 2 * 77
    # 1e-5: a batch of two may be summed in another order than one row
    torch.testing.assert_close(found.context, torch.cat([first.context, second.context], dim=1), atol=1e-5, rtol=0)
    if found.added is not None:
        torch.testing.assert_close(found.added, first.added, atol=1e-5, rtol=0)


def test_a_long_prompt_is_read_to_its_end():
    found = encode(TINY_SD, parse_attention(LONG))
    assert found.context.shape == (1, 2 * 77, 32)
    assert found.chunks.cut == "" and found.chunks.num_tokens == (75, 18)
    cut = encode(TINY_SD, "a cat, " * 30 + "a red dog")
    assert cut.context.shape == (1, 77, 32) and cut.chunks.cut.endswith("a red dog")


@pytest.mark.parametrize("rule", ["no_norm", "compel"])
def test_many_chunks_are_encoded_a_few_at_once(rule):
    """More than go through the model together; each is what it would be alone."""
    text = "a [cat] BREAK " * (CHUNKS_AT_ONCE + 2) + "a dog"
    found = encode(TINY_SDXL, parse_attention(text), reading=Reading(emphasis=rule))
    assert found.context.shape[1] == (CHUNKS_AT_ONCE + 3) * 77
    first = encode(TINY_SDXL, parse_attention("a [cat]"), reading=Reading(emphasis=rule))
    last = encode(TINY_SDXL, parse_attention("a dog"))
    # 1e-5: another number of rows may be summed in another order
    torch.testing.assert_close(found.context[:, -77:], last.context, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.added, first.added, atol=1e-5, rtol=0)
    if rule == "no_norm":
        torch.testing.assert_close(found.context[:, :77], first.context, atol=1e-5, rtol=0)


def test_a_learned_vocabulary_keeps_one_chunk():
    parts = tiny_parts(TINY_SD)
    found = encode_prompt(
        replace(parts, tokenizer=learn_vocabulary(["a red cat and a dog"], length=8)),
        parse_attention("a red cat BREAK a red cat and a dog"),
        clip_skip=1,
        width=64,
        height=64,
    )
    assert found.context.shape[1] == 8 and found.chunks.cut


def test_comfyui_moves_from_the_empty_prompt():
    empty, plain = encode(TINY_SD, "").context, encode(TINY_SD, "a red cat").context
    found = encode(TINY_SD, parse_attention("a (red:1.4) cat"), reading=Reading(emphasis="comfyui")).context
    torch.testing.assert_close(found[0, 2], empty[0, 2] + 1.4 * (plain[0, 2] - empty[0, 2]))
    rest = [index for index in range(77) if index != 2]
    assert torch.equal(found[:, rest], plain[:, rest])


def test_the_mask_of_a_tower_is_that_of_transformers(tmp_path: Path):
    """Compel hides tokens by the attention mask of transformers; 1e-5: float32 rounding of two implementations."""
    from transformers import CLIPTextModel

    parts = tiny_parts(TINY_SD)
    save_diffusers(tmp_path / "tiny", parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = CLIPTextModel.from_pretrained(tmp_path / "tiny" / "text_encoder").eval()
    chunks = chunk(parse_attention("a (red:0.5) cat"), parts.tokenizer)
    visible = chunks.weights == 1
    with torch.inference_mode():
        expected = theirs(chunks.ids, attention_mask=visible.long()).last_hidden_state
        found = parts.text(chunks.ids, visible).last
        unmasked = parts.text(chunks.ids).last
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - unmasked).abs().max() > 1e-3  # the mask is seen


def test_compel_takes_words_away():
    """At weight 0.5 half of what is left is the prompt whose word is hidden from the others; both are weighted."""
    parts = tiny_parts(TINY_SD)
    pieces = [WeightedText("a "), WeightedText("red", 0.5), WeightedText(" cat")]
    chunks = chunk(pieces, parts.tokenizer)
    empty = encode(TINY_SD, "").context
    with torch.inference_mode():
        base = parts.text(chunks.ids).last
        hidden = parts.text(chunks.ids, chunks.weights == 1).last

    def weighted(states: Tensor) -> Tensor:
        return empty + chunks.weights[:, :, None] * (states - empty)

    found = encode(TINY_SD, pieces, reading=Reading(emphasis="compel")).context
    torch.testing.assert_close(found, (weighted(base) + weighted(hidden)) / 2, atol=1e-5, rtol=0)


def test_compel_is_bounded():
    pieces = [WeightedText("a", 0.5) for _ in range(MAX_DOWNWEIGHTED + 1)]
    with pytest.raises(PromptError, match="pieces") as raised:
        encode(TINY_SD, pieces, reading=Reading(emphasis="compel"))
    assert raised.value.reason == "prompt_limit"


def test_a_short_negative_is_padded_with_empty_chunks():
    long, short, empty = encode(TINY_SD, parse_attention(LONG)), encode(TINY_SD, "blurry"), encode(TINY_SD, "")
    padded = pad_chunks(short, empty, long.context.shape[1])
    assert torch.equal(padded.context, torch.cat([short.context, empty.context], dim=1))
    assert pad_chunks(long, empty, long.context.shape[1]).context.shape == long.context.shape
    for length in (77, 100):
        with pytest.raises(ValueError, match="chunks"):
            pad_chunks(long, empty, length)


def test_prompts_that_guide_together_get_one_length():
    long, short, empty = encode(TINY_SD, parse_attention(LONG)), encode(TINY_SD, "blurry"), encode(TINY_SD, "")
    (first, one), (second, half) = join_prompts([long, short], [1.0, 0.5], "guidance", empty)
    assert (one, half) == (1, 0.5)
    assert torch.equal(first.context, long.context)
    assert torch.equal(second.context[:, :77], short.context)
    assert torch.equal(second.context[:, 77:], short.context[:, -1:].expand(1, 77, 32))


@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=lambda family: family.name)
def test_prompts_become_one(family):
    cat, dog, empty = (encode(family, text) for text in ("a cat", "a dog", ""))
    ((blended, _),) = join_prompts([cat, dog], [3, 1], "blend", empty)
    torch.testing.assert_close(blended.context, (3 * cat.context + dog.context) / 4)
    ((summed, _),) = join_prompts([cat, dog], [1, -1], "sum", empty)
    torch.testing.assert_close(summed.context, cat.context - dog.context)
    ((chained, _),) = join_prompts([cat, dog], [1, 0.5], "chain", empty)
    moved = (dog.context + empty.context) / 2
    torch.testing.assert_close(chained.context, torch.cat([cat.context, moved], dim=1))
    if cat.added is not None and dog.added is not None:
        torch.testing.assert_close(blended.added, (3 * cat.added + dog.added) / 4)
        assert torch.equal(summed.added, cat.added) and torch.equal(chained.added, cat.added)
    with pytest.raises(ValueError, match="weights"):
        join_prompts([cat], [1, 2], "blend", empty)


def test_weights_that_are_too_large_give_numbers_still():
    for rule in RULES:
        found = encode(TINY_SDXL, parse_attention("(" * 500 + "a" + ")" * 500), reading=Reading(emphasis=rule))
        assert bool(torch.isfinite(found.context).all())
    assert "changed to 10" in found.chunks.notices[0]


def test_no_norm_is_the_plain_product():
    pieces = parse_attention("a (red:1.4) cat")
    weights = chunk(pieces, tiny_parts(TINY_SD).tokenizer).weights
    found = encode(TINY_SD, pieces, reading=Reading(emphasis="no_norm")).context
    assert torch.equal(found, no_norm(encode(TINY_SD, "a red cat").context, weights))
    assert math.isclose(float(weights.max()), 1.4, rel_tol=1e-6)


def embedded(values: list[float], size: int) -> Tensor:
    """Numbers as diffusers embeds them: cosines before sines, frequencies from 1 down to 1 / 10000."""
    angles = torch.tensor(values)[:, None] * 10000.0 ** (-torch.arange(size // 2) / (size // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1).flatten()


@pytest.mark.parametrize(
    ("family", "negative", "values"),
    [
        (TINY_SDXL, False, [96, 64, 0, 0, 96, 64]),
        (TINY_SDXL, True, [96, 64, 0, 0, 96, 64]),
        (TINY_REFINER, False, [96, 64, 0, 0, 6.0]),
        (TINY_REFINER, True, [96, 64, 0, 0, 2.5]),
    ],
)
def test_sizes_and_scores_stand_behind_the_text(family, negative, values):
    """The size of the picture, no crop, and SDXL's target or the refiner's aesthetic score."""
    text = "a red cat"
    found = encode_prompt(tiny_parts(family), text, clip_skip=1, width=64, height=96, negative=negative).added
    tail = embedded(values, family.size_dim)
    torch.testing.assert_close(found[0, -len(tail) :], tail, atol=1e-5, rtol=1e-5)
    assert found.shape == (1, family.unet.added_dim)
    cut = Sizes(original=(200, 100), crop=(3, 4), target=(50, 60), aesthetic_score=5.0)
    tail = embedded([200, 100, 3, 4, *([50, 60] if family is TINY_SDXL else [5.0])], family.size_dim)
    other = encode_prompt(tiny_parts(family), text, clip_skip=1, width=64, height=96, sizes=cut).added
    torch.testing.assert_close(other[0, -len(tail) :], tail, atol=1e-5, rtol=1e-5)
    assert torch.equal(other[0, : -len(tail)], found[0, : -len(tail)])


def test_an_empty_negative_prompt_of_sdxl_is_zeros_but_for_its_sizes():
    plain = encode(TINY_SDXL, "")
    zeros = zeros_like(TINY_SDXL, plain)
    sizes = 6 * TINY_SDXL.size_dim
    assert not zeros.context.any() and not zeros.added[:, :-sizes].any()
    assert torch.equal(zeros.added[:, -sizes:], plain.added[:, -sizes:]) and plain.added[:, :-sizes].any()
    assert zeros_like(TINY_SD, encode(TINY_SD, "")).added is None
    assert not zeros_like(TINY_SD, encode(TINY_SD, "")).context.any()
    text_alone = replace(TINY_SDXL, layout=TINY_SD.layout)  # as gesso-mini: what is added stays
    assert torch.equal(zeros_like(text_alone, plain).added, plain.added)


def test_clip_skip_goes_back_a_layer_each():
    """Of SD 1 with the last norm again; of SD 2 and SDXL where that is asked for; no further than there are layers."""
    for family, everywhere in ((TINY_SD, False), (TINY_SD21, True), (TINY_SDXL, True)):
        parts = tiny_parts(family)
        tower = parts.text
        with torch.inference_mode():
            hidden = tower(parts.tokenizer.encode(["a red cat"])).hidden
        for skip in (2, 3, 99):
            found = encode_prompt(
                parts, "a red cat", clip_skip=skip, width=64, height=64, skip_everywhere=everywhere
            ).context[..., : tower.config.dim]
            states = hidden[max(-(family.text_layer + skip - 1), -len(hidden))]
            expected = tower.norm(states) if family.text_norm else states
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for family in (TINY_SD21, TINY_SDXL):
        plain = encode(family, "a red cat").context
        left = encode_prompt(tiny_parts(family), "a red cat", clip_skip=2, width=64, height=64).context
        assert torch.equal(plain, left)


def test_what_does_not_fit_together_is_refused():
    plain = encode(TINY_SD, "a red cat")
    for prompts, weights in (([], []), ([plain], []), ([plain], [1.0, 2.0])):
        with pytest.raises(ValueError, match=f"{len(prompts)} prompts, {len(weights)} weights"):
            join_prompts(prompts, weights, "guidance", plain)
    for length in (76, 78, 0):
        with pytest.raises(ValueError, match=f"a context of 77 does not become {length} by chunks of 77"):
            pad_chunks(plain, plain, length)
    assert pad_chunks(plain, plain, 77).context.shape[1] == 77
    parts = tiny_parts(TINY_SDXL)
    tower = copy.deepcopy(parts.text_2)
    tower.projection = None
    with pytest.raises(ValueError, match="has no text projection, which its UNet needs"):
        encode_prompt(replace(parts, text_2=tower), "a", clip_skip=1, width=64, height=64)
