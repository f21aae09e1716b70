"""Tokenizers: a prompt becomes token ids of one fixed length.

One class with two ways to split text. "clip" is CLIP's byte-level byte-pair encoding (Radford et al. 2021,
arXiv:2103.00020, section 2.4), as Stable Diffusion uses it. "words" is a small vocabulary learned from captions: whole
words, with bytes for all that it does not know, so that every text has an encoding and unknown words can be named.

Control tokens written out in a prompt, such as "<|endoftext|>", are text like any other: a prompt cannot end itself.

Shapes: B texts, L token ids a text (beginning, at most L - 2 tokens of text, end, padding).
"""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gesso.errors import GessoError
from gesso.text import byte_pairs
from gesso.text import words as learned
from gesso.text.byte_pairs import CONTROL_ROLES, BytePairs, Merge, parse_object
from gesso.text.words import split_words

__all__ = ["EncodedTexts", "Token", "Tokenizer", "learn_vocabulary", "split_words"]

FORMAT = "gesso-tokenizer"
VERSION = 1
# A longer text is first tried by its start: a megabyte costs no more than the few tokens of it that fit.
LONG_TEXT = 4096


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """What `Tokenizer.encode_with_report` found.

    ids         int64 [B, L]
    num_tokens  per text, the tokens of the whole text, without beginning and end; more than L - 2 were cut
    cut         per text, the end that did not fit, from the start of the first word concerned; "" where all fitted
    unknown     per text, the words not known in the part that fitted (see `Tokenizer.unknown_words`)
    """

    ids: Tensor
    num_tokens: tuple[int, ...]
    cut: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]


class Token(NamedTuple):
    """One token of a text.  word: where the word that it is of starts"""

    id: int
    word: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokenizer:
    """Text to token ids of a fixed length. Frozen; built by a constructor below.

    kind    "clip" or "words"
    bos, eos, pad  ids of the beginning, the end and the padding
    length  token ids a text, beginning and end included
    size    number of token ids: rows of the embedding table
    words   whole words of a learned vocabulary, most frequent first; empty for "clip"

    The ids of "clip" equal those of transformers' CLIPTokenizerFast (the one that diffusers' pipelines load, and the
    only one since transformers 5) with split_special_tokens=True. Where others differ, it is before the byte pairs: the
    slow tokenizer of older transformers repairs mojibake and curly quotes where ftfy is installed, and OpenAI's own
    unescapes HTML entities twice; this one does neither, so "&amp;" is three tokens.
    """

    kind: str
    bos: int
    eos: int
    pad: int
    length: int
    size: int
    words: tuple[str, ...] = field(default=(), repr=False)
    # A vocabulary with its backend, a tokenizers.Tokenizer without post-processing, truncation or padding, which happen
    # here. None: CLIP's own, which is read when the first text is; until then loading a model need not wait for it.
    _vocabulary: "BytePairs | learned.Vocabulary | None" = field(default=None, repr=False)

    @classmethod
    def clip(cls, *, pad: int | None = None, length: int = byte_pairs.LENGTH) -> "Tokenizer":
        """CLIP's tokenizer from the merges that the package carries: 49,408 ids, 49406 the beginning, 49407 the end.

        pad: id of the padding; the end (49407) for Stable Diffusion 1 and CLIP-L, 0 for Stable Diffusion 2 and
        OpenCLIP. Raises ValueError for an id outside the vocabulary or a length below 3.
        """
        _check_length(length)
        bos, eos = byte_pairs.CLIP_SIZE - 2, byte_pairs.CLIP_SIZE - 1
        if pad is not None and not 0 <= pad <= eos:
            raise ValueError(f"pad {pad}: ids go from 0 to {eos}")
        return cls(
            kind="clip", bos=bos, eos=eos, pad=eos if pad is None else pad, length=length, size=byte_pairs.CLIP_SIZE
        )

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Tokenizer":
        """The CLIP tokenizer in the `tokenizer` folder of a diffusers checkpoint.

        Reads vocab.json and merges.txt, else tokenizer.json; control tokens and length from tokenizer_config.json and
        special_tokens_map.json. A byte that the vocabulary lacks becomes its unknown token, as in transformers; the
        published vocabularies lack none. Raises GessoError, which names the file.
        """
        return cls.from_pairs(byte_pairs.read_folder(Path(folder)))

    @classmethod
    def from_vocabulary(
        cls,
        vocab: Mapping[str, int],
        merges: Iterable[Merge],
        *,
        bos: str = byte_pairs.BOS,
        eos: str = byte_pairs.EOS,
        pad: str | None = None,
        length: int = byte_pairs.LENGTH,
    ) -> "Tokenizer":
        """A byte-pair tokenizer of a vocabulary at hand. pad is the end where None. Raises ValueError."""
        pieces = byte_pairs.order_pieces(vocab)
        padding = eos if pad is None else pad
        pairs = BytePairs(
            pieces=pieces, merges=tuple(merges), bos=bos, eos=eos, pad=padding, unknown=eos, length=length
        )
        return cls.from_pairs(pairs)

    @classmethod
    def from_pairs(cls, pairs: BytePairs) -> "Tokenizer":
        """A byte-pair tokenizer. Raises ValueError for a length below 3."""
        _check_length(pairs.length)
        bos, eos, pad = (pairs.pieces.index(token) for token in (pairs.bos, pairs.eos, pairs.pad))
        size = len(pairs.pieces)
        return cls(kind="clip", bos=bos, eos=eos, pad=pad, length=pairs.length, size=size, _vocabulary=pairs)

    @classmethod
    def from_words(cls, words: Sequence[str], *, length: int = 32) -> "Tokenizer":
        """A tokenizer of whole words, in lower case and without accents, that falls back on bytes.

        words: as `split_words` spells them, each once. Their order fixes the ids: padding, beginning, end and unknown
        0..3, 256 bytes, then the words. Raises ValueError for a word that splitting would never yield or that comes
        twice, and for a length below 3.
        """
        _check_length(length)
        vocabulary = learned.Vocabulary(words)
        backend = vocabulary.backend
        bos, eos, pad = (backend.token_to_id(token) for token in (learned.BOS, learned.EOS, learned.PAD))
        return cls(
            kind="words",
            bos=bos,
            eos=eos,
            pad=pad,
            length=length,
            size=backend.get_vocab_size(),
            words=tuple(words),
            _vocabulary=vocabulary,
        )

    @classmethod
    def from_json(cls, text: str | bytes, *, name: str = "tokenizer") -> "Tokenizer":
        """What `to_json` wrote. `name` is the file that error messages speak of. Raises GessoError."""
        values = parse_object(text, name)
        if values.get("format") != FORMAT or values.get("version") != VERSION:
            raise GessoError(
                f"{name}: format {values.get('format')!r}, version {values.get('version')!r}; expected {FORMAT!r}, "
                f"version {VERSION}. Use the file that belongs to the model, or update gesso",
                code="damaged",
            )
        readers = {"words": _words_from, "clip": _pairs_from}
        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in readers:
            raise GessoError(
                f"{name}: tokenizer of kind {kind!r}; expected one of {sorted(readers)}. Update gesso",
                code="unsupported",
            )
        try:
            return readers[kind](values, name)
        except ValueError as error:
            raise GessoError(f"{name}: {error}. Download the file again", code="damaged") from None

    def to_json(self) -> str:
        """The whole tokenizer as one JSON text, the same for the same tokenizer."""
        values: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kind": self.kind, "length": self.length}
        pairs = self.pairs
        if pairs is None:
            values["words"] = self.words
        else:
            values |= {role: getattr(pairs, role) for role in CONTROL_ROLES}
            values["pieces"] = pairs.pieces
            values["merges"] = [" ".join(merge) for merge in pairs.merges]
        return json.dumps(values, ensure_ascii=False, indent=0) + "\n"

    def folder_files(self) -> dict[str, str]:
        """The files of a diffusers `tokenizer` folder, name -> text. Raises ValueError unless this is "clip"."""
        pairs = self.pairs
        if pairs is None:
            raise ValueError("a learned vocabulary cannot be saved as a diffusers folder; save it with to_json")
        return byte_pairs.folder_files(pairs)

    @property
    def pairs(self) -> BytePairs | None:
        """The byte-pair vocabulary of "clip"; None for "words"."""
        if isinstance(self._vocabulary, learned.Vocabulary):
            return None
        pairs = self._vocabulary or byte_pairs.clip_pairs()
        return replace(pairs, pad=pairs.pieces[self.pad], length=self.length)

    @property
    def _backend(self) -> Any:
        return (self._vocabulary or byte_pairs.clip_pairs()).backend

    def with_length(self, length: int) -> "Tokenizer":
        """The same tokenizer for another length. Raises ValueError below 3."""
        _check_length(length)
        return replace(self, length=length)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to ids, int64 [B, L]. What does not fit is cut off; `encode_with_report` reports it.

        Time is linear in the length of the texts. Raises ValueError unless texts is a sequence of str, GessoError for
        half a surrogate pair.
        """
        _check_texts(texts)
        room = self.length - 2
        return self._pad(self._ids([self._start(text, room) for text in texts]))

    def encode_with_report(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of `encode`, with what a caller owes the user: the words cut off and the words not known."""
        _check_texts(texts)
        starts = [self._start(text, self.length - 1) for text in texts]  # one token more than fits, to see where it is
        encodings = [self._backend.encode(start, add_special_tokens=False) for start in starts]
        ends = [_end(encoding, len(text), self.length - 2) for encoding, text in zip(encodings, texts, strict=True)]
        parts = list(zip(texts, ends, strict=True))
        whole = (len(start) == len(text) for start, text in zip(starts, texts, strict=True))
        return EncodedTexts(
            ids=self._pad([encoding.ids for encoding in encodings]),
            num_tokens=tuple(
                len(encoding if is_whole else self._ids([text])[0])
                for encoding, is_whole, text in zip(encodings, whole, texts, strict=True)
            ),
            cut=tuple(text[end:].strip() for text, end in parts),
            unknown=tuple(tuple(self.unknown_words(text[:end])) for text, end in parts),
        )

    def tokens(self, text: str) -> list["Token"]:
        """All tokens of a text, however many, without control tokens.

        Raises ValueError unless text is a str, GessoError for half a surrogate pair.
        """
        _check_texts([text])
        encoding = self._backend.encode(text, add_special_tokens=False)
        tokens: list[Token] = []
        last, start = None, 0
        for index, (place, _), word in zip(encoding.ids, encoding.offsets, encoding.word_ids, strict=True):
            if word != last:
                last, start = word, place
            tokens.append(Token(index, start))
        return tokens

    def unknown_words(self, text: str, *, keep: Iterable[str] = ()) -> list[str]:
        """Words, numbers and emoji of a text that are no whole word of the learned vocabulary, each once, normalised.

        keep: texts whose words count as known, such as the names of embeddings. Punctuation does not count. Byte pairs
        know everything: always empty for "clip".
        """
        _check_texts([text])
        if not isinstance(self._vocabulary, learned.Vocabulary):
            return []
        known = self._known(keep)
        unknown = (piece for piece in split_words(text) if piece not in known and learned.is_word(piece))
        return list(dict.fromkeys(unknown))

    def known_text(self, text: str, *, keep: Iterable[str] = ()) -> str:
        """The text, normalised, without the words and signs that the learned vocabulary does not know.

        keep: texts whose words count as known. The whole text, unchanged, for "clip".
        """
        _check_texts([text])
        if not isinstance(self._vocabulary, learned.Vocabulary):
            return text
        known = self._known(keep)
        kept: list[str] = []
        dropped = False
        for piece in split_words(text):
            # A contraction goes with the word it hangs on: "the zebra's hat" must not leave "'s" behind.
            dropped = piece not in known or (dropped and learned.is_contraction(piece))
            if not dropped:
                kept.append(piece)
        return " ".join(kept)

    def _known(self, keep: Iterable[str]) -> Set[str]:
        assert isinstance(self._vocabulary, learned.Vocabulary)
        known = self._vocabulary.known
        kept = {piece for text in keep for piece in split_words(text)}
        return known | kept if kept else known

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts, without control tokens."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _start(self, text: str, num_tokens: int) -> str:
        """The text, or a start of it that has its first `num_tokens` tokens.

        A start that ends before white space has the first tokens of the whole: no token and no character composition
        reaches across white space.
        """
        size = LONG_TEXT
        while size < len(text):
            end = text.rfind(" ", 0, size)
            if end > 0 and len(self._ids([text[:end]])[0]) >= num_tokens:
                return text[:end]
            size *= 2
        return text

    def _pad(self, tokens: list[list[int]]) -> Tensor:
        """int64 [B, L]: the beginning, what fits, the end, padding."""
        room = self.length - 2
        rows = [[self.bos, *ids[:room], self.eos] + [self.pad] * (room - len(ids)) for ids in tokens]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.length)


def learn_vocabulary(captions: Iterable[str], size: int = 4096, *, length: int = 32) -> Tokenizer:
    """The tokenizer whose words are the most frequent ones of the captions, ties in alphabetical order.

    size: most token ids it may use, control tokens and bytes included. The rarest words fall out when there are more;
    `unknown_words` names them. Draws no random numbers, and the order of the captions does not matter. Raises
    ValueError when size leaves no room for a single word.
    """
    return Tokenizer.from_words(learned.rank_words(captions, size), length=length)


def _end(encoding: Any, length: int, room: int) -> int:
    """Where the part of a text of `length` characters ends that fits; the start of a word unless all of it fits."""
    if len(encoding) <= room:
        return length
    first, word = room, encoding.token_to_word(room)
    while first > 0 and encoding.token_to_word(first - 1) == word:  # of a word cut in its middle, all of it
        first -= 1
    return int(encoding.token_to_chars(first)[0])


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
                "expected whole Unicode characters. Type the character again, or leave it out",
                code="prompt_characters",
                field="prompt",
            ) from None


def _strings(values: Mapping[str, Any], key: str) -> list[str]:
    value = values.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{key!r} is not a list of strings, as it must be")
    return value


def _string(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {value!r}, expected a string")
    return value


def _length(values: Mapping[str, Any]) -> int:
    length = values.get("length")
    if not isinstance(length, int) or isinstance(length, bool):
        raise ValueError(f"'length' is {length!r}, expected a whole number")
    return length


def _words_from(values: Mapping[str, Any], name: str) -> Tokenizer:
    return Tokenizer.from_words(_strings(values, "words"), length=_length(values))


def _pairs_from(values: Mapping[str, Any], name: str) -> Tokenizer:
    pieces = tuple(_strings(values, "pieces"))
    bos, eos, pad, unknown = (_string(values, role) for role in CONTROL_ROLES)
    merges = byte_pairs.parse_merges(_strings(values, "merges"), f"{name}, merges")
    return Tokenizer.from_pairs(
        BytePairs(pieces=pieces, merges=merges, bos=bos, eos=eos, pad=pad, unknown=unknown, length=_length(values))
    )
