"""What a word that a vocabulary does not know may have been meant to be. Precision first: in doubt, nothing.

A word of everyday English is no misspelling, however close it is to a known one ("ears" is not "bears"); which words
are, CLIP's byte pairs say, which were learned from hundreds of millions of captions.
"""

from collections.abc import Collection, Sequence
from functools import cache

from gesso.text.byte_pairs import WORD_END, clip_pairs

SHORTEST, LONGEST = 4, 24  # letters of a word that is corrected
# Letters that English words end with twice: "bell", "boss", "puff", "buzz", "mitt", "tree", "zoo".
_DOUBLED = "lsfzteo"


def meant_word(word: str, known: Sequence[str], first: Collection[str] = ()) -> str | None:
    """The known word that differs by one letter, or by two in a word of six letters and more; None for none.

    A letter is changed, added, left out, or two that stand together are exchanged. first: words that are meant rather
    than others that are as close.
    """
    if not SHORTEST <= len(word) <= LONGEST or not (word.isascii() and word.isalpha()):
        return None
    near: list[tuple[int, bool, bool, int, str]] = []
    for place, other in enumerate(known):
        if len(other) < SHORTEST - 1 or not other.isalpha():
            continue
        most = 2 if len(word) >= 6 and word[0] == other[0] else 1
        if word[0] != other[0] and len(word) < 6 and sorted(word) != sorted(other):
            continue
        distance = _distance(word, other, most)
        if len(word) < 6 and len(word) == len(other) and _other_consonant(word, other):
            continue  # "snale" may be a snail or a snake
        if 0 < distance <= most:
            near.append((distance, set(word) != set(other), other not in first, place, other))
    if not near:
        return None
    meant = min(near)[-1]
    return meant if word not in _common_words() or _is_stuttered(word, meant) else None


@cache
def _common_words() -> frozenset[str]:
    return frozenset(piece.removesuffix(WORD_END) for piece in clip_pairs().pieces if piece.endswith(WORD_END))


def _is_stuttered(word: str, meant: str) -> bool:
    """Whether a word is the other with its last letter twice, as only slips and surnames have it: "carr", "foxx"."""
    return word == meant + meant[-1] and word[-1] not in _DOUBLED


def _other_consonant(one: str, other: str) -> bool:
    """Whether one letter differs, and is a consonant in either."""
    differing = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and not set(differing[0]) <= set("aeiouy")


def _distance(one: str, other: str, most: int) -> int:
    """The number of letters to change (optimal string alignment); more than `most` where it is more."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before, last = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, against in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before, last = last, row
    return last[-1]
