"""Tokenizers: a prompt becomes token ids of one fixed length.

One class with two ways to split text. "clip" is CLIP's byte-level byte-pair encoding (Radford et al. 2021,
arXiv:2103.00020, section 2.4), as Stable Diffusion uses it. "words" is a small vocabulary learned from captions: whole
words, with bytes for all that it does not know, so that every text has an encoding and unknown words can be named.

Shapes: B texts, L token ids a text (beginning, at most L - 2 tokens of text, end, padding).
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import tokenizers
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers
from torch import Tensor

from gesso.errors import GessoError

FORMAT = "gesso-tokenizer"
VERSION = 1

# Control tokens of the "words" kind. Splitting takes them apart, so no text can spell one.
CONTROL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
# A longer run of letters is one unknown token: it keeps the search for pieces linear in the length of the text.
MAX_WORD_BYTES = 48
# Characters that are not seen and would split a word (soft hyphen, zero-width space, word joiner, byte order mark).
INVISIBLE = r"[\x{00ad}\x{200b}\x{2060}\x{feff}]"
APOSTROPHES = r"[\x{2018}\x{2019}\x{02bc}]"
# Contractions, letters, digits, one emoji with what joins on to it, any other sign alone.
WORD = (
    r"'(?:s|t|re|ve|m|ll|d)(?![\p{L}\p{N}])|\p{L}+|\p{N}+|\p{So}\p{Sk}*(?:\x{200d}\p{So}\p{Sk}*)*|[^\s\p{L}\p{N}\p{So}]"
)


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for the bytes 0..255, in the order of the bytes.

    Printable Latin-1 stands for itself, the others follow from U+0100 on (GPT-2, Radford et al. 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


_SYMBOLS = byte_symbols()


def to_symbols(word: str) -> str:
    """A word as the vocabulary spells it: one printable symbol a UTF-8 byte."""
    return "".join(_SYMBOLS[byte] for byte in word.encode())


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """What `Tokenizer.encode_with_report` found.

    ids         int64 [B, L]
    num_tokens  per text, the tokens of the whole text, without beginning and end; more than L - 2 were cut
    cut         per text, the end that did not fit, from the start of the first word concerned; "" where all fitted
    unknown     per text, the words that the vocabulary does not know (see `Tokenizer.unknown_words`)
    """

    ids: Tensor
    num_tokens: tuple[int, ...]
    cut: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokenizer:
    """Text to token ids of a fixed length. Frozen; build one with a constructor below.

    kind     "clip" or "words"
    bos, eos, pad  ids of the beginning, the end and the padding
    length   token ids a text, beginning and end included
    words    whole words of a learned vocabulary, most frequent first; empty for "clip"
    """

    kind: str
    bos: int
    eos: int
    pad: int
    length: int
    words: tuple[str, ...] = field(default=(), repr=False)
    _backend: Any = field(
        repr=False
    )  # tokenizers.Tokenizer: without post-processing, truncation or padding, which happen here
    _known: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def from_words(cls, words: Sequence[str], *, length: int = 32) -> "Tokenizer":
        """A tokenizer of whole words, in lower case and without accents, that falls back on bytes.

        words: as `split_words` spells them, each once. Their order fixes the ids: control tokens 0..3 (padding,
        beginning, end, unknown), 256 byte symbols, then the words. Raises ValueError for a word that splitting would
        never yield or that comes twice, and for a length below 3.
        """
        _check_length(length)
        normalizer, splitter = _word_parts()
        vocab = {token: index for index, token in enumerate((*CONTROL_TOKENS, *_SYMBOLS))}
        seen: set[str] = set()
        for word in words:
            if split_words(word) != [word] or word in seen or len(word.encode()) > MAX_WORD_BYTES:
                raise ValueError(f"{word!r} is not one new, normalised word of at most {MAX_WORD_BYTES} bytes")
            seen.add(word)
            vocab.setdefault(to_symbols(word), len(vocab))  # a word of one ASCII character is a byte symbol already
        # An empty prefix for the pieces after the first: "starfish" falls apart into "star" and "fish".
        model = models.WordPiece(
            vocab, unk_token="<unk>", continuing_subword_prefix="", max_input_chars_per_word=MAX_WORD_BYTES
        )
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        return cls(
            kind="words",
            bos=vocab["<bos>"],
            eos=vocab["<eos>"],
            pad=vocab["<pad>"],
            length=length,
            words=tuple(words),
            _backend=backend,
            _known=frozenset(words),
        )

    @classmethod
    def from_json(cls, text: str | bytes, *, name: str = "tokenizer") -> "Tokenizer":
        """What `to_json` wrote. `name` is the file that error messages speak of. Raises GessoError."""
        found = _parse_object(text, name)
        if found.get("format") != FORMAT or found.get("version") != VERSION:
            raise GessoError(
                f"{name}: format {found.get('format')!r}, version {found.get('version')!r}; expected {FORMAT!r}, "
                f"version {VERSION}. Take the file that belongs to the model, or update gesso."
            )
        if found.get("kind") == "words":
            return _words_from(found, name)
        raise GessoError(f"{name}: tokenizer of kind {found.get('kind')!r}; expected 'words'. Update gesso.")

    def to_json(self) -> str:
        """The whole tokenizer as one JSON text, the same for the same tokenizer."""
        head = {"format": FORMAT, "version": VERSION, "kind": self.kind, "length": self.length}
        return json.dumps({**head, "words": self.words}, ensure_ascii=False, indent=0) + "\n"

    @property
    def size(self) -> int:
        """Number of token ids: rows of the embedding table."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def with_length(self, length: int) -> "Tokenizer":
        """The same tokenizer for another length. Raises ValueError below 3."""
        _check_length(length)
        return replace(self, length=length)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to ids, int64 [B, L]. What does not fit is cut off; `encode_with_report` tells what that was."""
        _check_texts(texts)
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return self._pad([encoding.ids for encoding in encodings])

    def encode_with_report(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of `encode`, with what a caller owes the user: the words cut off and the words not known."""
        _check_texts(texts)
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return EncodedTexts(
            ids=self._pad([encoding.ids for encoding in encodings]),
            num_tokens=tuple(len(encoding) for encoding in encodings),
            cut=tuple(_cut(text, encoding, self.length - 2) for text, encoding in zip(texts, encodings, strict=True)),
            unknown=tuple(tuple(self.unknown_words(text)) for text in texts),
        )

    def unknown_words(self, text: str) -> list[str]:
        """Words, numbers and emoji of a text that are no whole word of the learned vocabulary, each once, normalised.

        Punctuation does not count. Byte pairs know everything: always empty for "clip".
        """
        if self.kind != "words":
            return []
        unknown = (piece for piece in self._split(text) if piece not in self._known and _is_word(piece))
        return list(dict.fromkeys(unknown))

    def known_text(self, text: str) -> str:
        """The text, normalised, without the words and signs that the learned vocabulary does not know.

        The whole text, unchanged, for "clip".
        """
        if self.kind != "words":
            return text
        kept: list[str] = []
        dropped = False
        for piece in self._split(text):
            # A contraction goes with the word it hangs on: "the zebra's hat" must not leave "'s" behind.
            dropped = piece not in self._known or (dropped and len(piece) > 1 and piece[0] == "'")
            if not dropped:
                kept.append(piece)
        return " ".join(kept)

    def _pad(self, tokens: list[list[int]]) -> Tensor:
        room = self.length - 2
        rows = [[self.bos, *ids[:room], self.eos] + [self.pad] * (room - len(ids)) for ids in tokens]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.length)

    def _split(self, text: str) -> list[str]:
        _check_texts([text])
        return split_words(text)


def split_words(text: str) -> list[str]:
    """The words and signs of a text in their order, as a learned vocabulary spells them.

    Compatibility forms, lower case, no accents, no invisible characters, one kind of apostrophe.
    """
    normalizer, splitter = _word_parts()
    return [piece for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]


def learn_vocabulary(captions: Iterable[str], size: int = 4096, *, length: int = 32) -> Tokenizer:
    """The tokenizer whose words are the most frequent ones of the captions, ties in alphabetical order.

    size: most token ids it may use, control tokens and byte symbols included. The rarest words fall out when there are
    more; `unknown_words` names them. Draws no random numbers: the order of the captions does not matter. Raises
    ValueError when size leaves no room for a single word.
    """
    reserved = len(CONTROL_TOKENS) + len(_SYMBOLS)
    if size <= reserved:
        raise ValueError(f"size {size}: {reserved} ids are taken by control tokens and bytes, ask for more")
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(split_words(caption))
    ranked = sorted((word for word in counts if len(word.encode()) <= MAX_WORD_BYTES), key=lambda w: (-counts[w], w))
    words: list[str] = []
    free = size - reserved
    for word in ranked:
        new = len(to_symbols(word)) > 1  # one ASCII character is a byte symbol already and costs nothing
        if new and free == 0:
            continue
        free -= new
        words.append(word)
    return Tokenizer.from_words(words, length=length)


@cache
def _word_parts() -> tuple[Any, Any]:
    """Normaliser and splitter of the "words" kind; building their regular expressions takes longer than using them."""
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


def _is_word(piece: str) -> bool:
    """Whether a piece says something: letters, numbers and emoji (category So) do, contractions and signs do not."""
    category = unicodedata.category(piece[0])
    return category[0] in "LN" or category == "So"


def _cut(text: str, encoding: Any, room: int) -> str:
    """The end of a text that its first `room` tokens do not hold, from the start of a word."""
    if len(encoding) <= room:
        return ""
    word_ids = encoding.word_ids
    first = word_ids.index(word_ids[room])  # a word cut in its middle is reported whole
    return text[encoding.offsets[first][0] :].strip()


def _check_length(length: int) -> None:
    if length < 3:
        raise ValueError(f"length {length}: 3 is the least that holds a beginning, one token and an end")


def _check_texts(texts: Sequence[str]) -> None:
    """Raises ValueError unless texts is a sequence of str, GessoError where half a character stands alone."""
    if isinstance(texts, str):
        raise ValueError("texts is one str; expected a sequence of them, such as [text]")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"texts holds a {type(text).__name__}, expected str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise GessoError(
                f"prompt: character {error.start + 1} is U+{ord(text[error.start]):04X}, half of a surrogate pair, "
                "expected whole Unicode characters. Type the character again, or leave it out."
            ) from None


def _parse_object(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise GessoError(f"{name}: not JSON ({error}); expected a tokenizer file. Fetch the file again.") from None
    if not isinstance(found, dict):
        raise GessoError(f"{name}: holds a JSON {type(found).__name__}, expected an object. Fetch the file again.")
    return found


def _words_from(found: dict[str, Any], name: str) -> Tokenizer:
    words, length = found.get("words"), found.get("length")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise GessoError(f"{name}: 'words' is not a list of strings, as it must be. Fetch the file again.")
    if not isinstance(length, int) or isinstance(length, bool):
        raise GessoError(f"{name}: 'length' is {length!r}, expected a whole number. Fetch the file again.")
    try:
        return Tokenizer.from_words(words, length=length)
    except ValueError as error:
        raise GessoError(f"{name}: {error}. Fetch the file again.") from None
