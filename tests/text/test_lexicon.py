"""Which objects a text names, by its token ids."""

import numpy as np
import pytest

from gesso.text.lexicon import Lexicon
from gesso.text.tokenizer import Tokenizer

OBJECTS = {
    "dog": ("dogs", "puppy"),
    "hot dog": ("hot dogs",),
    "cat": ("kitty cat",),
    "apple": ("puppy",),  # a spelling of two belongs to the first
    "house with a garden": (),
}
WORDS = sorted({word for name, others in OBJECTS.items() for text in (name, *others) for word in text.split()})
TOKENIZER = Tokenizer.from_words([*WORDS, "and", "on"], length=16)


def found(text: str, most: int = 3) -> list[tuple[str, str]]:
    """The objects of a text, and the token at the place of each."""
    ids = TOKENIZER.encode([text]).numpy()
    objects, places = Lexicon.of(TOKENIZER, OBJECTS).find(ids, most)
    assert objects.shape == places.shape == (1, most)
    last = [["", *text.split()][place] for place in places[0]]  # words of one token each, behind the beginning
    return [(list(OBJECTS)[row], word) for row, word in zip(objects[0], last, strict=True) if row >= 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog on a cat", [("dog", "dog"), ("cat", "cat")]),
        ("a hot dog", [("hot dog", "dog")]),
        ("dogs and hot dogs", [("dog", "dogs"), ("hot dog", "dogs")]),
        ("a cat and a cat", [("cat", "cat")]),
        ("a kitty cat", [("cat", "cat")]),
        ("a puppy", [("dog", "puppy")]),
        ("a house with a garden and a dog", [("house with a garden", "garden"), ("dog", "dog")]),
        ("a house with a dog", [("dog", "dog")]),
        ("garden a with house", []),
        ("", []),
    ],
)
def test_objects_are_found_in_the_order_of_the_text(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_no_more_than_asked_for() -> None:
    assert [name for name, _ in found("a cat and a dog and an apple", 2)] == ["cat", "dog"]


def test_texts_of_a_batch_are_each_alone() -> None:
    texts = ["a dog", "", "a cat and a hot dog", "apple " * 14]
    objects, places = Lexicon.of(TOKENIZER, OBJECTS).find(TOKENIZER.encode(texts).numpy(), 3)
    assert objects.tolist() == [[0, -1, -1], [-1, -1, -1], [2, 1, -1], [3, -1, -1]]
    assert places[1].tolist() == [0, 0, 0]


def test_nothing_counts_behind_the_end() -> None:
    (ids,) = TOKENIZER.encode(["a dog"]).numpy()
    (cat,) = (TOKENIZER.encode(["cat"])[0, 1:2]).numpy()
    ids = ids.copy()
    ids[-1] = cat
    assert Lexicon.of(TOKENIZER, OBJECTS).find(ids[None], 3)[0].tolist() == [[0, -1, -1]]


def test_without_objects_nothing_is_found() -> None:
    objects, _ = Lexicon.of(TOKENIZER, {}).find(np.zeros((2, 16), dtype=np.int64), 2)
    assert objects.tolist() == [[-1, -1], [-1, -1]]
