"""Chunks: the ids of the plain way where nothing is special, and A1111's rules where something is."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gesso.text.attention import parse_attention
from gesso.text.chunks import Chunks, EmbeddingToken, chunk
from gesso.text.prompt import MAX_WEIGHT, PromptError, WeightedText
from gesso.text.tokenizer import Tokenizer, learn_vocabulary

BOS, EOS, CAT, COMMA = 49406, 49407, 2368, 267


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return Tokenizer.clip()


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return learn_vocabulary(["a red cat on a blue mat, two dogs"], length=8)


def chunks(text: str, tokenizer: Tokenizer, **options) -> Chunks:
    return chunk(parse_attention(text), tokenizer, **options)


def rows(text: str, tokenizer: Tokenizer, **options) -> list[list[int]]:
    """The ids of each chunk without beginning, end and padding."""
    found = chunks(text, tokenizer, **options)
    lengths = found.report.num_tokens
    return [row[1 : length + 1] for row, length in zip(found.ids.tolist(), lengths, strict=True)]


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_characters="()[]\\\0", exclude_categories=["Cs"]), max_size=60))
def test_plain_text_that_fits_has_the_ids_of_the_tokenizer(text):
    """Both ways of splitting text, and both paddings of CLIP."""
    assume("BREAK" not in text)
    for tokenizer in (CLIP, OPEN_CLIP, WORDS):
        found = chunks(text, tokenizer, max_chunks=1)
        assert torch.equal(found.ids, tokenizer.encode([text]))
        assert found.is_plain
        assert found.report.unknown == tokenizer.encode_with_report([text]).unknown[0]
        assert found.report.cut == tokenizer.encode_with_report([text]).cut[0]


CLIP, OPEN_CLIP = Tokenizer.clip(), Tokenizer.clip(pad=0)
WORDS = learn_vocabulary(["a red cat on a blue mat, two dogs"], length=64)


def test_a_weight_stands_at_its_tokens(clip):
    found = chunks("a (red:1.3) [cat]", clip)
    assert found.ids.shape == (1, 77)
    assert found.weights[0, :5].tolist() == pytest.approx([1, 1, 1.3, 1 / 1.1, 1])
    assert found.pieces[0, :5].tolist() == [-1, 0, 1, 3, -1]
    assert (found.weights[0, 4:] == 1).all() and not found.is_plain


def test_the_edge_of_a_weight_is_the_edge_of_a_token(clip):
    assert rows("rain(bow)", clip) != rows("rainbow", clip)
    assert rows("rain(bow)", clip) == rows("rain bow", clip)


@pytest.mark.parametrize("pad", [EOS, 0])
def test_each_chunk_has_beginning_end_and_the_padding_of_its_tower(pad):
    found = chunks("cat " * 80, Tokenizer.clip(pad=pad))
    assert found.ids.shape == (2, 77)
    assert found.ids[0].tolist() == [BOS, *[CAT] * 75, EOS]
    assert found.ids[1].tolist() == [BOS, *[CAT] * 5, EOS, *[pad] * 70]
    assert found.report.num_tokens == (75, 5)


def test_towers_of_one_prompt_differ_in_padding_alone(clip):
    text = "a (red:1.2) cat, " * 20 + "BREAK end"
    first, second = chunks(text, clip), chunks(text, Tokenizer.clip(pad=0))
    assert torch.equal(first.weights, second.weights)
    assert first.report == second.report
    padding = second.ids != first.ids
    assert (second.ids[padding] == 0).all() and (first.ids[padding] == EOS).all()


@pytest.mark.parametrize(
    ("before", "after", "lengths"),
    [
        (54, 20, (75,)),  # full, and all of it there
        (55, 20, (56, 20)),  # the comma is the 56th of 75: the 19 behind it move on, and the one too many follows
        (54, 21, (75, 1)),  # the comma is one too far away
        (74, 1, (75, 1)),  # the comma is the last: nothing to move
        (75, 3, (75, 4)),  # the comma itself is the first of the next chunk
    ],
)
def test_words_behind_a_near_comma_move_on(clip, before, after, lengths):
    text = "cat " * before + "," + " dog" * after
    assert chunks(text, clip).report.num_tokens == lengths
    full = rows(text, clip, backtrack=0)
    assert sum(map(len, full)) == before + after + 1
    assert all(len(row) == 75 for row in full[:-1])


def test_moved_words_keep_their_weights(clip):
    found = chunks("cat " * 60 + ", (" + "dog " * 30 + ":1.5)", clip)
    assert found.report.num_tokens == (61, 30)
    assert found.weights[1, 1:31].tolist() == [1.5] * 30
    assert (found.weights[0] == 1).all()


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("a BREAK b", (1, 1)),
        ("(a BREAK b:1.2)", (1, 1)),
        ("a BREAK", (1,)),
        ("BREAK a", (0, 1)),
        ("a BREAK BREAK b", (1, 0, 1)),
        ("", (0,)),
        ("BREAK", (0,)),
        ("cat " * 75 + "BREAK dog", (75, 1)),
    ],
)
def test_break_ends_a_chunk(clip, text, lengths):
    assert chunks(text, clip).report.num_tokens == lengths


def test_weights_are_clamped_and_told(clip):
    found = chunks("(" * 117 + "a" + ")" * 117 + " (b:-99) (c:1.5)", clip)
    assert found.weights.abs().max() == MAX_WEIGHT
    assert [(text, taken) for text, _, taken in found.report.clamped] == [("a", MAX_WEIGHT), ("b", -MAX_WEIGHT)]
    assert len(found.report.notices) == 2 and "-99" in found.report.notices[1]


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e300])
def test_no_weight_is_not_finite(clip, weight):
    found = chunk([WeightedText("a", weight)], clip)
    assert bool(torch.isfinite(found.weights).all())
    assert len(found.report.clamped) == 1


def test_a_single_chunk_cuts_as_before(clip):
    text = "cat " * 60 + ", " + "dog " * 30 + "BREAK (bird:1.2)"
    found = chunks(text, clip, max_chunks=1)
    assert found.ids.shape == (1, 77)
    assert found.report.num_tokens == (75,)
    assert found.report.cut.split() == ["dog"] * 16 + ["BREAK", "bird"]
    assert "prompt too long" in found.report.notices[0]


@pytest.mark.parametrize(
    ("text", "broken"),
    [("a cat BREAK a dog", True), ("cat " * 80 + "BREAK dog", False), ("BREAK a dog", True), ("a cat BREAK", False)],
)
def test_what_a_break_cuts_from_a_single_chunk_is_not_too_long(clip, text: str, broken: bool):
    report = chunks(text, clip, max_chunks=1).report
    assert report.broken == broken
    assert [notice.startswith("BREAK begins") for notice in report.notices] == [broken] * bool(report.cut)


def test_words_that_are_not_known_are_named(words):
    found = chunks("a (red:1.2) zebra, two zebra BREAK [unicorn] cat", words)
    assert found.report.unknown == ("zebra", "unicorn")
    assert found.ids.shape[1] == 8


def test_a_learned_vocabulary_fills_chunks_of_its_own_length(words):
    assert [len(row) for row in rows("a red cat on a blue mat, two dogs", words, backtrack=0)] == [6, 4]


def test_whole_words_stay_in_one_chunk_as_in_comfyui(clip):
    word = "antidisestablishmentarianism"
    size = len(clip.tokens(word))
    assert 2 < size < 7
    text = "cat " * 73 + word
    assert chunks(text, clip).report.num_tokens == (75, size - 2)
    assert chunks(text, clip, whole_words=True).report.num_tokens == (73, size)
    assert chunks(f"{text},", clip, whole_words=True).report.num_tokens == (73, size + 1)  # up to the space
    assert chunks(f"{text}{',a' * 8}", clip, whole_words=True).report.num_tokens == (75, size + 14)  # long words break
    assert chunks("cat, " * 40, clip, whole_words=True).report.num_tokens == (74, 6)


def test_learned_words_take_up_their_vectors_and_stay_in_one_chunk(clip):
    style = EmbeddingToken("my-style", tuple(token.id for token in clip.tokens("my style")), 8)
    longer = EmbeddingToken("my-style-cat", tuple(token.id for token in clip.tokens("my style cat")), 2)
    found = chunks("a My Style dog (my style cat:1.2)", clip, embeddings=[style, longer])
    assert [(place.name, place.chunk, place.position) for place in found.placements] == [
        ("my-style", 0, 2),
        ("my-style-cat", 0, 11),
    ]
    assert found.report.num_tokens == (1 + 8 + 1 + 2,)
    assert found.weights[0, 11:13].tolist() == pytest.approx([1.2, 1.2])
    crossing = chunks("cat " * 70 + "my style", clip, embeddings=[style])
    assert [(place.chunk, place.position) for place in crossing.placements] == [(1, 1)]
    moved = chunks("cat " * 60 + ", my style dog dog dog dog dog dog dog", clip, embeddings=[style])
    assert [(place.chunk, place.position) for place in moved.placements] == [(1, 1)]


@pytest.mark.parametrize(
    ("text", "same"),
    [("é", "e\u0301"), ("A CAT", "a cat"), ("a\u3000cat\n\tdog", "a cat dog"), ("\ufeff", "\ufeff"), ("Å", "\u212b")],
)
def test_forms_of_the_same_text(clip, text, same):
    """Composed and decomposed letters are one; what is not seen is a character like any other."""
    assert rows(text, clip) == rows(same, clip)


def test_control_tokens_are_text(clip):
    for text in ("<|startoftext|> a", "a <|endoftext|>", "<pad>"):
        (row,) = rows(text, clip)
        assert not {BOS, EOS} & set(row)


def test_arguments_that_make_no_sense(clip):
    for options in ({"backtrack": -1}, {"max_chunks": 0}, {"embeddings": [EmbeddingToken("x", (1,), 76)]}):
        with pytest.raises(ValueError, match=r"expected|vectors"):
            chunks("a", clip, **options)
    with pytest.raises(PromptError, match="chunks"):
        chunks("BREAK " * 10 + "a", clip, max_chunks=5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["cat ", ",", "dog, ", "x" * 30 + " ", "BREAK "]), st.integers(1, 30)), max_size=6
    )
)
def test_no_token_is_lost(parts):
    """However the chunks fall, their tokens are those of the text, in order."""
    text = "".join(part * count for part, count in parts)
    for backtrack in (0, 5, 20):
        found = rows(text, CLIP, backtrack=backtrack)
        whole = [token.id for token in CLIP.tokens(text.replace("BREAK", " "))]
        assert [token for row in found for token in row] == whole
        assert all(len(row) <= 75 for row in found)
