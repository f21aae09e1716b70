"""The learned vocabulary: what it learns, that everything encodes, and that the unknown is named."""

import copy
import json
import pickle
import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.errors import GessoError
from gesso.text.tokenizer import Tokenizer, learn_vocabulary, split_words
from gesso.text.words import CONTROL_TOKENS, MAX_WORD_BYTES, SYMBOLS, to_symbols

CAPTIONS = [
    "a red cat on a yellow background",
    "two dogs, one above the other",
    "a man’s shoe left of a 👩‍🚀",
    "crème brûlée, a star and a fish",
    "a cat face 🐱",
]
RESERVED = 4 + 256
HOSTILE = ["a", "cat", "'", "e\u0301", "\u200d", "q" * 47 + " ", "🐱"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return learn_vocabulary(CAPTIONS, length=16)


def spelled(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What ids stand for, from the documented order of the vocabulary alone."""
    longer = [to_symbols(word) for word in tokenizer.words if len(to_symbols(word)) > 1]
    table = [*CONTROL_TOKENS, *SYMBOLS, *longer]
    assert len(table) == tokenizer.size
    return [table[index] for index in ids]


def test_the_most_frequent_words_come_first():
    learned = learn_vocabulary(["b b b c c a a", "Zebra"])
    assert learned.words == ("b", "a", "c", "zebra")
    assert learned.size == RESERVED + 1  # single ASCII letters are bytes already


def test_the_order_of_the_captions_does_not_matter():
    shuffled = CAPTIONS * 3
    random.Random(0).shuffle(shuffled)
    assert learn_vocabulary(shuffled).to_json() == learn_vocabulary(CAPTIONS).to_json()


def test_size_is_kept_and_the_rarest_fall_out():
    captions = [" ".join(f"word{chr(97 + i)}" for i in range(n)) for n in range(1, 11)]  # worda 10 times ... wordj once
    learned = learn_vocabulary(captions, RESERVED + 4)
    assert learned.size == RESERVED + 4
    assert learned.words == ("worda", "wordb", "wordc", "wordd")
    assert learned.unknown_words("wordd worde") == ["worde"]


def test_a_size_without_room_is_a_wrong_argument():
    with pytest.raises(ValueError, match="260 ids are taken"):
        learn_vocabulary(CAPTIONS, RESERVED)


def test_rows(words: Tokenizer):
    ids = words.encode(["A red cat", ""])
    assert ids.dtype == torch.int64
    assert ids.shape == (2, 16)
    assert spelled(words, ids[0].tolist()) == ["<bos>", "a", "red", "cat", "<eos>"] + ["<pad>"] * 11
    assert ids[1].tolist() == [words.bos, words.eos] + [words.pad] * 14
    assert (words.pad, words.bos, words.eos) == (0, 1, 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A RED Cat", "a red cat"),
        ("creme brulee", "Cre\u0300me BRU\u0302LÉE"),
        ("man's shoe", "man’s shoe"),
        ("  a\n\tcat ", "a cat"),
        ("c\u200bat \ufeffre\u00add", "cat red"),
        ("ﬁsh", "fish"),
        ("cat 🐱\ufe0f", "cat 🐱"),
        ("ｃａｔ", "cat"),
    ],
)
def test_spellings_of_the_same(words: Tokenizer, one: str, other: str):
    assert torch.equal(words.encode([one]), words.encode([other]))
    assert words.unknown_words(one) == []


def test_words_are_whole_and_signs_apart():
    assert split_words("The man’s jack-o-lantern, 10x!! don't") == [
        *("the", "man", "'s", "jack", "-", "o", "-", "lantern", ",", "10", "x", "!", "!", "don", "'t")
    ]


def test_an_emoji_is_one_word():
    """With skin tone and joined parts; the variation selector is an accent that goes."""
    assert split_words("👩🏽‍🚀👩‍🚀 ❤️🐱🐶") == ["👩🏽\u200d🚀", "👩\u200d🚀", "❤", "🐱", "🐶"]


def test_an_unknown_word_falls_into_known_pieces(words: Tokenizer):
    (row,) = words.encode(["starfish axolotl"]).tolist()
    assert spelled(words, row[1:10]) == ["star", "fish", *"axolotl"]


def test_unknown_words_are_named_once_in_their_order(words: Tokenizer):
    text = "Zebra, a catfish; 42 🦄 zebra's cat? <pad> [unk] don't 🐱!"
    assert words.unknown_words(text) == ["zebra", "catfish", "42", "🦄", "pad", "unk", "don"]
    assert words.unknown_words("a red cat, two dogs.") == []
    assert words.unknown_words("") == []


def test_known_text_drops_what_is_unknown_with_its_contraction(words: Tokenizer):
    assert words.known_text("The zebra's red, HUGE cat!") == "the red , cat"
    assert words.known_text("a man's cat") == "a man 's cat"
    assert words.known_text("zebra") == ""


def test_the_report(words: Tokenizer):
    report = words.with_length(6).encode_with_report(["a red cat on two zebra dogs", "zebra cat", "cat"])
    assert report.num_tokens == (11, 6, 1)  # zebra takes five bytes
    assert report.cut == ("two zebra dogs", "zebra cat", "")  # the last word of the row is cut in its middle: all of it
    assert report.unknown == ((), (), ())  # what is cut off is not said to be unknown as well
    assert torch.equal(report.ids, words.with_length(6).encode(["a red cat on", "zebr", "cat"]))
    assert words.encode_with_report(["zebra 🐱"]).unknown == (("zebra",),)


def test_no_text_spells_a_control_token(words: Tokenizer):
    ids = words.encode([" ".join(CONTROL_TOKENS), "<pad>", "< pad >"])
    inside = [row[1 : row.index(words.eos)] for row in ids.tolist()]
    assert all(index >= len(CONTROL_TOKENS) for row in inside for index in row)


def test_an_endless_word_is_one_unknown_token(words: Tokenizer):
    (row,) = words.encode(["q" * 49]).tolist()
    assert spelled(words, row[1:3]) == ["<unk>", "<eos>"]
    assert words.unknown_words("q" * 49) == ["q" * 49]


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_text_encodes_to_pieces_that_spell_it(text: str):
    tokenizer = learn_vocabulary(CAPTIONS, length=1024)
    report = tokenizer.encode_with_report([text])
    pieces = spelled(tokenizer, report.ids[0, 1 : 1 + report.num_tokens[0]].tolist())
    if "<unk>" not in pieces:
        assert "".join(pieces) == to_symbols("".join(split_words(text)))


@settings(deadline=None, max_examples=300)
@given(st.text() | st.lists(st.sampled_from([*"'’sat🐱\u200d🏽 -", "cat", "zebra", "'s"])).map("".join))
def test_splitting_again_changes_nothing(text: str):
    """Also that any caption can be learned from: a learned word must split into itself."""
    pieces = split_words(text)
    assert split_words(" ".join(pieces)) == pieces
    assert all(len(word.encode()) > MAX_WORD_BYTES for word in learn_vocabulary([text]).unknown_words(text))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*"'’s,.🐱🦄 ", "cat", "zebra", " red ", "'s", "-"])).map("".join))
def test_known_text_is_known_and_settled(text: str):
    tokenizer = learn_vocabulary(CAPTIONS)
    known = tokenizer.known_text(text)
    assert tokenizer.unknown_words(known) == []
    assert tokenizer.known_text(known) == known


def test_every_character_encodes():
    """The first two planes: nothing raises, all ids are rows of the table, splitting is settled."""
    tokenizer = learn_vocabulary(CAPTIONS, length=4096)
    points = [*range(0xD800), *range(0xE000, 0x20000)]
    texts = [" ".join(map(chr, points[i : i + 512])) for i in range(0, len(points), 512)]
    ids = tokenizer.encode(texts)
    assert int(ids.min()) >= 0
    assert int(ids.max()) < tokenizer.size
    for text in texts:
        pieces = split_words(text)
        assert split_words(" ".join(pieces)) == pieces


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.sampled(2)
def test_long_texts_are_quick(words: Tokenizer, unit: str):
    """Linear: at most 0.4 s measured on 10^5 characters. The bound allows a busy CPU, not quadratic work."""
    text = unit * (10**5 // len(unit))
    start = time.perf_counter()
    words.encode_with_report([text])
    assert time.perf_counter() - start < 10


def test_json_round_trip(words: Tokenizer):
    text = words.to_json()
    again = Tokenizer.from_json(text.encode())
    assert again.to_json() == text
    assert (again.length, again.size, again.words) == (words.length, words.size, words.words)
    assert torch.equal(again.encode(CAPTIONS), words.encode(CAPTIONS))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies_encode_alike(words: Tokenizer, duplicate):
    """Data loaders send tokenizers to their workers."""
    assert torch.equal(duplicate(words).encode(CAPTIONS), words.encode(CAPTIONS))


def test_it_has_no_diffusers_layout(words: Tokenizer):
    with pytest.raises(ValueError, match="to_json"):
        words.folder_files()


@pytest.mark.parametrize(
    ("words", "says"), [(["cat", "cat"], "twice"), (["Cat"], "normalised"), (["two words"], "normalised"), ([""], "''")]
)
def test_words_that_splitting_never_yields(words: list[str], says: str):
    with pytest.raises(ValueError, match=says):
        Tokenizer.from_words(words)


def saved(**changes: object) -> str:
    found = {"format": "gesso-tokenizer", "version": 1, "kind": "words", "length": 32, "words": ["cat"]}
    return json.dumps(found | changes)


def test_the_plain_file_loads():
    """So that the failures below are due to their change alone."""
    assert Tokenizer.from_json(saved()).words == ("cat",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a JSON list"),
        ("{}", "format None"),
        (saved(version=2), "version 2"),
        (saved(format="other"), "'other'"),
        (saved(kind="sentencepiece"), "'sentencepiece'"),
        (saved(kind=["words"]), "words"),
        (saved(words="cat"), "list of strings"),
        (saved(words=["cat", 1]), "list of strings"),
        (saved(words=["cat", "cat"]), "twice"),
        (saved(words=["Cat"]), "'Cat'"),
        (saved(words=["\ud83d"]), "normalised"),
        (saved(length="32"), "'32'"),
        (saved(length=True), "True"),
        (saved(length=2), "length 2"),
    ],
)
def test_malformed_files_are_named(text: str | bytes, says: str):
    with pytest.raises(GessoError) as caught:
        Tokenizer.from_json(text, name="words.json")
    assert caught.value.message.startswith("words.json: ")
    assert says in caught.value.message


def test_a_tokenizer_shows_its_sizes_not_its_words():
    words = tuple("word" + "".join(chr(97 + int(digit)) for digit in str(i)) for i in range(500))
    text = repr(Tokenizer.from_words(words, length=16))
    assert "size=" in text
    assert len(text) < 200
