"""Words that a model does not know are named."""

from types import SimpleNamespace

import pytest

from gesso.errors import GessoError
from gesso.pipelines.vocabulary import (
    check_known,
    language_notice,
    named_objects,
    read_emoji,
    read_language,
    vocabulary_notices,
)
from gesso.text.prompt import Break, WeightedText
from gesso.text.tokenizer import Tokenizer
from tiny_models import OBJECTS, WORDS

TOKENIZER = Tokenizer.from_words(WORDS, length=16)


def notices(text: str, field: str = "prompt") -> tuple[str, ...]:
    return vocabulary_notices(TOKENIZER, text, field=field, objects=OBJECTS, model="tiny")


def test_a_prompt_of_known_words_needs_no_notice():
    for text in ("a red cat", "Two CATS on a yellow background", "kitty", "yellow background, turtle", "pizza"):
        assert notices(text) == ()


def test_unknown_words_are_named_with_what_may_have_been_meant():
    assert notices("a zxqw cat turtel") == ("unknown words ignored: 'zxqw', 'turtel' (did you mean 'turtle'?)",)
    assert notices("zxqw", "negative prompt") == ("unknown words ignored in the negative prompt: 'zxqw'",)


def test_a_prompt_without_an_object_is_told_so():
    (notice,) = notices("a red background")
    assert "tiny knows nothing in this prompt" in notice
    assert "cat, turtle" in notice
    assert len(notices("a submarine")) == 2


def test_no_object_is_asked_of_an_empty_or_negative_prompt():
    assert notices("") == ()
    assert notices("red", "negative prompt") == ()


def test_many_and_long_words_stay_one_short_line():
    (ignored, _) = notices(" ".join(f"zz{letter}zz" for letter in "abcdefghijklmnop") + " " + "q" * 30_000)
    assert "and 9 more" in ignored
    assert len(ignored) < 400


def test_objects_are_found_by_synonym_plural_and_phrase():
    tokenizer = Tokenizer.from_words(
        ("slice", "slices", "of", "pizza", "cat", "a", "wolf", "wolves", "berries"), length=16
    )
    objects = {"slice of pizza": (), "wolf": (), "berry": (), "cat": ("kitty",)}
    assert named_objects(tokenizer, "slices of pizza", objects) == ("slice of pizza",)
    assert named_objects(tokenizer, "a slice of a cat", objects) == ("cat",)
    assert named_objects(tokenizer, "wolves, berries", objects) == ("wolf", "berry")
    assert named_objects(tokenizer, "concatenate", objects) == ()


def test_emoji_of_objects_are_read_as_their_names():
    pieces = (WeightedText("a 🐱 on ", 1.2), Break(), WeightedText("🐢🐢"))
    found, names = read_emoji(pieces, TOKENIZER, OBJECTS)
    assert names == {"🐱": "cat", "🐢": "turtle"}
    assert [" ".join(piece.text.split()) for piece in (found[0], found[2])] == ["a cat on", "two turtles"]
    assert (found[0].weight, found[1]) == (1.2, Break())
    for plain in ((WeightedText("a cat"),), (WeightedText("a cat 🌭"),)):
        assert read_emoji(plain, TOKENIZER, OBJECTS) == (plain, {})
    assert read_emoji((WeightedText("🐱"),), Tokenizer.clip(), {}) == ((WeightedText("🐱"),), {})
    decorated, _ = read_emoji((WeightedText("a red cat 🐱"),), TOKENIZER, OBJECTS)
    assert TOKENIZER.known_text(decorated[0].text) == "a red cat"


def test_a_prompt_in_another_language_is_read_in_english():
    pieces = (WeightedText("eine "), WeightedText("rote", 1.2), Break(), WeightedText(" Katze"))
    found, read = read_language(pieces, TOKENIZER, OBJECTS)
    assert [piece.text for piece in found if isinstance(piece, WeightedText)] == ["a ", "red", " cat"]
    assert (found[1].weight, found[2]) == (1.2, Break())
    assert read == ("de", "a red cat")
    assert language_notice(read, "prompt") == "German read as: a red cat"
    for plain in ((WeightedText("a red cat"),), (WeightedText("a zxqw cat"),)):
        assert read_language(plain, TOKENIZER, OBJECTS) == (plain, None)
    found, read = read_language((WeightedText("a "), WeightedText("猫", 1.2), WeightedText(" кот")), TOKENIZER, OBJECTS)
    assert [piece.text for piece in found if isinstance(piece, WeightedText)] == ["a ", "cat", " cat"]
    assert read is not None and language_notice(read, "prompt") == "Japanese and Russian read as: a cat cat"
    german = (WeightedText("eine Katze"),)
    assert read_language(german, TOKENIZER, {}) == (german, None)  # Stable Diffusion reads any text


def test_a_prompt_in_another_language_is_known():
    model = SimpleNamespace(name="tiny", tokenizer=TOKENIZER, family=SimpleNamespace(objects=OBJECTS))
    check_known(model, "кот")
    check_known(model, "zwei Katzen")


@pytest.mark.parametrize("prompt", ["блорп", "a castel", "qwertz on a red background", "🌭", "a kat"])
def test_a_prompt_of_which_nothing_is_known_is_refused(prompt):
    model = SimpleNamespace(name="tiny", tokenizer=TOKENIZER, family=SimpleNamespace(objects=OBJECTS))
    with pytest.raises(GessoError, match=r"tiny knows nothing in this prompt.*It draws 3 things.*`force`") as raised:
        check_known(model, prompt)
    assert raised.value.code == "nothing_known"


@pytest.mark.parametrize("prompt", ["", "a red background", "a cat and a castle", "🐱", "(turtle:1.2) qwertz"])
def test_a_prompt_of_which_something_is_known_is_drawn(prompt):
    check_known(SimpleNamespace(name="t", tokenizer=TOKENIZER, family=SimpleNamespace(objects=OBJECTS)), prompt)
    check_known(SimpleNamespace(name="t", tokenizer=Tokenizer.clip(), family=SimpleNamespace(objects={})), prompt)


def test_byte_pairs_know_every_word():
    assert vocabulary_notices(Tokenizer.clip(), "zxqw", field="prompt", objects={}, model="sd") == ()
