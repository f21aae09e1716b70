"""Prompts in eleven languages are read in English, and English ones are left alone."""

from collections.abc import Callable

import pytest

from gesso.world.languages import languages
from gesso.world.objects import things
from gesso.world.translating import NAMES, in_english, language_of, mixed_in_english

ENGLISH = frozenset(
    {"a", "an", "and", "the", "on", "in", "with", "of", "red", "blue", "cat", "dog", "apple", "car"}
    | {"die", "man", "photo", "picture", "gold", "gift", "arm", "hand", "kind", "rat", "rot"}
)

SENTENCES = {
    "ein roter Apfel auf gelbem Grund": ("de", "a red apple on a yellow background"),
    "drei Katzen und ein Hund": ("de", "three cats and a dog"),
    "zwei kleine grüne Autos": ("de", "two small green cars"),
    "eine Katze neben einem blauen Haus": ("de", "a cat next to a blue house"),
    "une pomme rouge sur fond jaune": ("fr", "a red apple on a yellow background"),
    "l'arbre vert": ("fr", "green tree"),
    "le chat noir à côté d'un chien": ("fr", "black cat next to a dog"),
    "tres gatos negros": ("es", "three black cats"),
    "un perro sobre fondo verde": ("es", "a dog on a green background"),
    "un cane e un gatto": ("it", "a dog and a cat"),
    "um carro azul": ("pt", "a blue car"),
    "een blauwe auto": ("nl", "a blue car"),
    "czerwony samochód na zielonym tle": ("pl", "red car on a green background"),
    "sarı zemin üzerinde kırmızı araba": ("tr", "red car on a yellow background"),
    "красная машина на синем фоне": ("ru", "red car on a blue background"),
    "黄色い背景の赤いりんご": ("ja", "a yellow background, red apple"),
    "三只猫和一只狗": ("zh", "three cats and a dog"),
    "红苹果": ("zh", "red apple"),
    "a cat und ein hund": ("de", "a cat and a dog"),
    "3 Katzen": ("de", "three cats"),
    "3匹の猫": ("ja", "three cats"),
    "3只猫和2只狗": ("zh", "three cats and two dogs"),
    "赤い car と 猫": ("ja", "red car and cat"),
}

# English with words of other scripts among it.
MIXED = {
    "a red car 猫": ("a red car cat", ("ja",)),
    "red猫car": ("red cat car", ("ja",)),
    "a red 猫, a blue собака": ("a red cat, a blue dog", ("ja", "ru")),
    "три кота and a dog": ("three cats and a dog", ("ru",)),
    "a 猫 on a hill --steps 1": ("a cat on a hill --steps 1", ("ja",)),
    "a red 车 on the 龘龘": ("a red car on the 龘龘", ("zh",)),
    "Ελλάδα and a dog": ("Ελλάδα and a dog", ()),
    "a  red  car,": ("a  red  car,", ()),
}


@pytest.mark.parametrize("text", list(SENTENCES))
def test_sentences(text: str) -> None:
    code, english = SENTENCES[text]
    assert language_of(text, ENGLISH.__contains__) == code
    assert in_english(text, code) == english


@pytest.mark.parametrize("is_known", [ENGLISH.__contains__, lambda word: False], ids=["words", "none"])
@pytest.mark.parametrize("text", list(MIXED))
def test_of_a_mixed_text_the_words_of_other_scripts_are_read(text: str, is_known: Callable[[str], bool]) -> None:
    assert language_of(text, is_known) is None
    assert mixed_in_english(text, is_known) == MIXED[text]


@pytest.mark.parametrize(
    "text",
    [
        "a red cat",  # every word known
        "a gothic cathedral at dusk",
        "a photo of chrome rims",
        "a picture of a gift in the hand of a kind man",
        "qwertz",
        "",
        "!!!",
        "123",
    ],
)
def test_english_and_nonsense_stay(text: str) -> None:
    assert language_of(text, ENGLISH.__contains__) is None


def test_a_word_that_nobody_knows_stays_where_it_is() -> None:
    assert in_english("ein roter Flurp und eine Katze", "de") == "a red flurp and a cat"
    assert in_english("テーブルの上の猫", "ja") == "cat on テーブル"


def test_every_name_of_an_object_is_read_as_that_object() -> None:
    """Alone, each is found in its own language, but for words that are also a colour, a number or a small word."""
    names = {thing.name for thing in things()}
    for code, language in languages().items():
        taken = {*language.colours, *language.numbers, *language.words}
        missed = [
            word
            for word, name in language.objects.items()
            if word not in taken and not any(part in taken for part in word.split()) and in_english(word, code) != name
        ]
        assert set(language.objects.values()) <= names
        assert len(missed) <= 0.04 * len(language.objects), (code, missed[:20])


def test_every_language_has_its_name() -> None:
    assert set(NAMES) == set(languages())


def test_a_long_text_takes_linear_time() -> None:
    text = "ein roter Apfel und drei Katzen " * 300
    assert in_english(text, "de").count("a red apple") == 300
    text = "a red 猫 and " * 300
    assert mixed_in_english(text, ENGLISH.__contains__)[0].count("a red cat") == 300
