"""gesso-mini's vocabulary of whole words: how text is split, how the words are learned, and their tokenizer backend.

Text is brought to one form first (compatibility forms, no accents, lower case), so that "Crème", "crème" and "CREME"
are one word. A word that the vocabulary lacks falls apart into pieces it has, down to bytes.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

# Control tokens. Splitting takes them apart, so no text can spell one.
PAD, BOS, EOS, UNKNOWN = CONTROL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
# A longer run of letters is one unknown token: it keeps the search for pieces linear in the length of the text.
MAX_WORD_BYTES = 48
# Characters that are not seen and would split a word (soft hyphen, zero-width space, word joiner, byte order mark).
INVISIBLE = r"[\x{00ad}\x{200b}\x{2060}\x{feff}]"
APOSTROPHES = r"[\x{2018}\x{2019}\x{02bc}]"
# Contractions, letters, digits, one emoji with what joins on to it, any other sign alone.
WORD = (
    r"'(?:s|t|re|ve|m|ll|d)(?![\p{L}\p{N}])|\p{L}+|\p{N}+|\p{So}\p{Sk}*(?:\x{200d}\p{So}\p{Sk}*)*|[^\s\p{L}\p{N}\p{So}]"
)


def byte_symbols() -> tuple[str, ...]:
    """The 256 printable characters that stand for the bytes 0..255, in the order of the bytes.

    Printable Latin-1 stands for itself, the others follow from U+0100 on (GPT-2, Radford et al. 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


SYMBOLS = byte_symbols()


def to_symbols(word: str) -> str:
    """A word as the vocabulary spells it: one printable symbol a UTF-8 byte."""
    return "".join(SYMBOLS[byte] for byte in word.encode())


def split_words(text: str) -> list[str]:
    """The words and signs of a text in their order, as a learned vocabulary spells them.

    Compatibility forms, lower case, no accents, no invisible characters, one kind of apostrophe.
    """
    normalizer, splitter = _parts()
    return [piece for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]


def is_text(value: object) -> bool:
    """Whether a value is a str of whole characters: half a surrogate pair, which JSON can spell, has no UTF-8."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_contraction(piece: str) -> bool:
    """Whether a piece of `split_words` is the end of a contraction, such as "'s"."""
    return len(piece) > 1 and piece[0] == "'"


def is_word(piece: str) -> bool:
    """Whether a piece has a meaning: letters, numbers and emoji (category So) do, contractions and signs do not."""
    category = unicodedata.category(piece[0])
    return category[0] in "LN" or category == "So"


def rank_words(captions: Iterable[str], size: int) -> list[str]:
    """The most frequent words of the captions that a vocabulary of `size` ids holds, ties in alphabetical order.

    Raises ValueError when size leaves no room for a single word.
    """
    reserved = len(CONTROL_TOKENS) + len(SYMBOLS)
    if size <= reserved:
        raise ValueError(f"size {size}: {reserved} ids are taken by control tokens and bytes, ask for more")
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(split_words(caption))
    fitting = (word for word in counts if len(word.encode()) <= MAX_WORD_BYTES)
    free = size - reserved
    words: list[str] = []
    for word in sorted(fitting, key=lambda word: (-counts[word], word)):
        cost = len(to_symbols(word)) > 1  # one ASCII character is a byte symbol already and costs no id
        if cost <= free:
            words.append(word)
            free -= cost
    return words


class Vocabulary:
    """A list of words, checked, with the `tokenizers.Tokenizer` that splits text by it."""

    def __init__(self, words: Sequence[str]) -> None:
        """Raises ValueError for a word that `split_words` would never yield or that comes twice."""
        self.known = frozenset(words)
        self.backend = _backend(words)


def _backend(words: Sequence[str]) -> Any:
    """Greedy longest match, from whole words down to bytes.

    The order of the words fixes the ids: control tokens 0..3, 256 byte symbols, then the words.
    """
    vocab = {token: index for index, token in enumerate((*CONTROL_TOKENS, *SYMBOLS))}
    if len(set(words)) != len(words):
        twice = next(word for word, count in Counter(words).items() if count > 1)
        raise ValueError(f"the word {twice!r} comes twice")
    for word in words:
        if not is_text(word) or split_words(word) != [word] or len(word.encode()) > MAX_WORD_BYTES:
            raise ValueError(f"{word!r} is not one normalised word of at most {MAX_WORD_BYTES} bytes")
        vocab.setdefault(to_symbols(word), len(vocab))
    # An empty prefix for the pieces after the first: "starfish" falls apart into "star" and "fish".
    backend = tokenizers.Tokenizer(
        models.WordPiece(
            vocab, unk_token=UNKNOWN, continuing_subword_prefix="", max_input_chars_per_word=MAX_WORD_BYTES
        )
    )
    backend.normalizer, splitter = _parts()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return backend


@cache
def _parts() -> tuple[Any, Any]:
    """Normaliser and splitter; building their regular expressions takes longer than using them on a prompt."""
    normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(INVISIBLE), ""),
            normalizers.Replace(Regex(APOSTROPHES), "'"),
        ]
    )
    return normalizer, pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
