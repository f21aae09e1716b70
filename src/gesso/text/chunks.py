"""Splits the weighted pieces of a prompt into chunks of token ids, as A1111 does for long prompts.

A text encoder takes a fixed number of tokens (77 in CLIP). A longer prompt is parted into chunks, each with its own
beginning, end and padding; each is encoded alone, and what comes out is laid one after the other. Each piece is
tokenised alone, so that a weight begins and ends with a token. BREAK ends a chunk. Where a chunk is full and a comma
stands among its last tokens, the words behind that comma move on to the next one.

Shapes: N chunks, L token ids a chunk.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.errors import short
from gesso.notices import Notice
from gesso.text.prompt import MAX_WEIGHT, Break, Piece, PromptError, WeightedText, check_prompt
from gesso.text.tokenizer import Tokenizer

BACKTRACK = 20  # tokens; A1111's comma_padding_backtrack
LONG_WORD = 8  # tokens from which ComfyUI lets a chunk end inside a word
MAX_CHUNKS = 128  # 32,000 characters of English prose fill about 100; each costs as much as a whole prompt


@dataclass(frozen=True)
class EmbeddingToken:
    """A word of the prompt that stands for a textual inversion embedding, whose vectors replace its token ids.

    ids          of the word as a prompt spells it; at least one
    num_vectors  tokens it takes up; at least 1, and no more than a chunk holds
    first_id     the id, above the vocabulary, of the first vector in the text encoder; the others follow.
                None: padding takes its place, and `Chunks.placements` says where
    spelling     as the prompt has it; one in <angle brackets> is a word of its own whatever stands beside it, as in
                diffusers, where byte pairs would join ">" and a comma
    """

    name: str
    ids: tuple[int, ...]
    num_vectors: int
    first_id: int | None = None
    spelling: str = ""


@dataclass(frozen=True)
class EmbeddingPlacement:
    """An embedding in a chunk: its vectors replace the token embeddings [chunk, position : position + num_vectors]."""

    name: str
    chunk: int
    position: int
    num_vectors: int


@dataclass(frozen=True)
class ChunkReport:
    """What a user should know about a prompt that was chunked.

    num_tokens  per chunk, the tokens of the prompt in it, without beginning, end and padding
    cut         the text from the first word that does not fit into `max_chunks`; "" if all fits
    broken      whether what is cut begins behind a BREAK rather than where the last chunk is full
    unknown     words that the vocabulary does not know (`Tokenizer.unknown_words`) in the part that fits
    clamped     pieces whose weight was out of range: (text, requested weight, used weight)
    """

    num_tokens: tuple[int, ...]
    cut: str = ""
    unknown: tuple[str, ...] = ()
    clamped: tuple[tuple[str, float, float], ...] = ()
    broken: bool = False

    @property
    def total_tokens(self) -> int:
        return sum(self.num_tokens)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Notices about changed weights and about text that was cut. Unknown words are reported by the caller."""
        changed = tuple(
            Notice(
                f"the weight {requested:g} of {short(text.strip())} was changed to {used:g}",
                code="weight_clamped",
                data={"asked": requested, "taken": used},
            )
            for text, requested, used in self.clamped[:8]
        )
        room = f"{len(self.num_tokens)} chunk{'s' if len(self.num_tokens) > 1 else ''}"
        if not self.cut:
            return changed
        why = f"BREAK begins a further chunk than {room}" if self.broken else f"prompt too long for {room}"
        cut = f"{why}: ignored from {short(self.cut)}"
        return (*changed, Notice(cut, code="prompt_cut", data={"cut": self.cut}))


@dataclass(frozen=True, eq=False)
class Chunks:
    """A prompt in chunks of token ids, the input of a text encoder.

    ids      int64 [N, L], N at least 1
    weights  float32 [N, L], finite, from -MAX_WEIGHT to MAX_WEIGHT; 1 for beginning, end and padding
    pieces   int64 [N, L], the index of the piece that a token is from; -1 for beginning, end and padding
    placements  positions of embeddings (textual inversion)
    """

    ids: Tensor
    weights: Tensor
    pieces: Tensor
    report: ChunkReport
    placements: tuple[EmbeddingPlacement, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether all weights are 1."""
        return bool((self.weights == 1).all())


def chunk(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    *,
    backtrack: int = BACKTRACK,
    whole_words: bool = False,
    max_chunks: int = MAX_CHUNKS,
    embeddings: Sequence[EmbeddingToken] = (),
) -> Chunks:
    """Pieces to chunks of the tokenizer's length.

    Text without weights and breaks that fits one chunk has the ids of `Tokenizer.encode`. backtrack: tokens that may
    move on behind a comma; 0 parts chunks wherever they are full. whole_words: the rule of ComfyUI instead, by which
    what stands between two spaces stays together if it has fewer than 8 tokens. max_chunks: 1 cuts what a single chunk
    does not hold. Of several embeddings the one that matches the most ids wins. Raises PromptError for text that
    `check_prompt` refuses and for more chunks than max_chunks, unless that is 1; ValueError for arguments that make no
    sense.
    """
    if backtrack < 0 or not 1 <= max_chunks <= MAX_CHUNKS:
        raise ValueError(f"backtrack {backtrack}, max_chunks {max_chunks}: expected 0 or more, 1 to {MAX_CHUNKS}")
    spellings = [one.spelling for one in embeddings]
    pieces = tuple(
        replace(piece, text=words_apart(piece.text, spellings)) if isinstance(piece, WeightedText) else piece
        for piece in pieces
    )
    for piece in pieces:
        if isinstance(piece, WeightedText):
            check_prompt(piece.text)
    filler = _Filler(tokenizer, 0 if whole_words or max_chunks == 1 else backtrack, embeddings)
    filler.whole_words = whole_words and max_chunks > 1
    clamped = filler.fill(pieces)
    if len(filler.rows) > max_chunks > 1:
        raise PromptError("prompt_limit", f"prompt: {len(filler.rows)} chunks, at most {max_chunks} are used")
    kept, left = filler.rows[:max_chunks], filler.rows[max_chunks:]
    read, cut = _divide(pieces, next((row.tokens[0] for row in left if row.tokens), None))
    return Chunks(
        ids=torch.tensor([_padded_ids(row, tokenizer) for row in kept], dtype=torch.int64),
        weights=torch.tensor([_padded(row, tokenizer.length, "weight", 1.0) for row in kept], dtype=torch.float32),
        pieces=torch.tensor([_padded(row, tokenizer.length, "piece", -1) for row in kept], dtype=torch.int64),
        report=ChunkReport(
            num_tokens=tuple(len(row.tokens) for row in kept),
            cut=cut,
            unknown=tuple(
                dict.fromkeys(
                    word
                    for text in read
                    for word in tokenizer.unknown_words(text, keep=[embedding.name for embedding in embeddings])
                )
            ),
            clamped=clamped,
            broken=bool(cut) and kept[-1].broken,
        ),
        placements=tuple(
            EmbeddingPlacement(word.name, index, position + 1, word.num_vectors)
            for index, row in enumerate(kept)
            for position, word in row.embeddings
        ),
    )


def words_apart(text: str, spellings: Iterable[str]) -> str:
    """The text with spaces around spellings in <angle brackets>; see `EmbeddingToken.spelling`."""
    bracketed = {one for one in spellings if one.startswith("<") and one.endswith(">")}
    if not bracketed:
        return text
    pattern = "|".join(map(re.escape, sorted(bracketed, key=len, reverse=True)))
    return re.sub(pattern, lambda found: f" {found.group()} ", text, flags=re.IGNORECASE)


def known_pieces(pieces: Iterable[Piece], tokenizer: Tokenizer, keep: Collection[str] = ()) -> tuple[Piece, ...]:
    """The pieces without the words that a learned vocabulary does not know; unchanged for byte pairs.

    keep: texts whose words count as known, such as the names of embeddings
    """
    return tuple(
        piece if isinstance(piece, Break) else replace(piece, text=tokenizer.known_text(piece.text, keep=keep))
        for piece in pieces
    )


def _padded_ids(row: "_Row", tokenizer: Tokenizer) -> list[int]:
    ids = [tokenizer.bos, *(token.id for token in row.tokens), tokenizer.eos]
    return ids + [tokenizer.pad] * (tokenizer.length - len(ids))


def _padded(row: "_Row", length: int, name: str, filler: float) -> list[float]:
    """One value a token, and the filler for beginning, end and padding."""
    values = [filler, *(getattr(token, name) for token in row.tokens)]
    return values + [filler] * (length - len(values))


def _divide(pieces: Sequence[Piece], first: "_Token | None") -> tuple[list[str], str]:
    """The texts that were read, and as one text what was cut, from the word of the token `first` on."""
    texts = [piece.text if isinstance(piece, WeightedText) else " BREAK " for piece in pieces]
    read = [text for text, piece in zip(texts, pieces, strict=True) if isinstance(piece, WeightedText)]
    if first is None:
        return read, ""
    text = texts[first.piece]
    cut = text[first.word :] + "".join(texts[first.piece + 1 :])
    before = [old for old, piece in zip(texts[: first.piece], pieces, strict=False) if isinstance(piece, WeightedText)]
    return [*before, text[: first.word]], cut.strip()


class _Token(NamedTuple):
    """id, weight; piece: index of the piece it is from; word: where the word that it is of starts in that piece"""

    id: int
    weight: float
    piece: int
    word: int


@dataclass
class _Row:
    """A chunk being filled.  embeddings: with the position of their first token; broken: whether BREAK ended it"""

    tokens: list[_Token] = field(default_factory=list)
    embeddings: list[tuple[int, EmbeddingToken]] = field(default_factory=list)
    broken: bool = False


class _Filler:
    """Puts tokens into rows, one after the other."""

    NO_COMMA = -(10**9)  # far from every place

    def __init__(self, tokenizer: Tokenizer, backtrack: int, embeddings: Sequence[EmbeddingToken]) -> None:
        self.tokenizer = tokenizer
        self.room = tokenizer.length - 2
        self.backtrack = backtrack
        comma = tokenizer.tokens(",")
        self.comma = comma[0].id if len(comma) == 1 else -1
        self.embeddings = _by_first_id(embeddings, self.room)
        self.whole_words = False
        self.rows: list[_Row] = []
        self.row = _Row()
        self.last_comma = self.NO_COMMA

    def fill(self, pieces: Sequence[Piece]) -> tuple[tuple[str, float, float], ...]:
        """Fills the rows; gives the pieces whose weight was changed."""
        clamped = []
        for index, piece in enumerate(pieces):
            if isinstance(piece, Break):
                self.row.broken = True
                self.close()
                continue
            # Written so that NaN, which no grammar gives, becomes a number as well.
            weight = min(MAX_WEIGHT, max(-MAX_WEIGHT, piece.weight)) if piece.weight == piece.weight else 1.0
            if weight != piece.weight:
                clamped.append((piece.text, piece.weight, weight))
            tokens = [_Token(token.id, weight, index, token.word) for token in self.tokenizer.tokens(piece.text)]
            for group in _groups(tokens, piece.text) if self.whole_words else [tokens]:
                if self.whole_words and len(group) < LONG_WORD and len(self.row.tokens) + len(group) > self.room:
                    self.close()
                self.add(group)
        if self.row.tokens or not self.rows:
            self.close()
        return tuple(clamped)

    def add(self, tokens: list[_Token]) -> None:
        position = 0
        while position < len(tokens):
            token = tokens[position]
            if token.id == self.comma:
                self.last_comma = len(self.row.tokens)
            elif len(self.row.tokens) == self.room and self.room - self.last_comma <= self.backtrack:
                self.move_on()
            if len(self.row.tokens) == self.room:
                self.close()
            word = self.word_at(tokens, position)
            if word is None:
                self.row.tokens.append(token)
                position += 1
                continue
            if len(self.row.tokens) + word.num_vectors > self.room:
                self.close()
            self.row.embeddings.append((len(self.row.tokens), word))
            places = range(word.num_vectors)
            ids = (self.tokenizer.pad if word.first_id is None else word.first_id + place for place in places)
            self.row.tokens += [token._replace(id=index) for index in ids]
            position += len(word.ids)

    def move_on(self) -> None:
        """Closes the row behind its last comma; what stood there begins the next."""
        first, old = self.last_comma + 1, self.row
        moved = _Row(old.tokens[first:], [(place - first, word) for place, word in old.embeddings if place >= first])
        self.row = _Row(old.tokens[:first], [(place, word) for place, word in old.embeddings if place < first])
        self.close()
        self.row = moved

    def close(self) -> None:
        self.rows.append(self.row)
        self.row = _Row()
        self.last_comma = self.NO_COMMA

    def word_at(self, tokens: Sequence[_Token], position: int) -> EmbeddingToken | None:
        for word in self.embeddings.get(tokens[position].id, ()):
            stretch = tokens[position : position + len(word.ids)]
            if tuple(token.id for token in stretch) == word.ids:
                return word
        return None


def _groups(tokens: Sequence[_Token], text: str) -> list[list[_Token]]:
    """The tokens of a text, those between two spaces or line ends together."""
    groups: list[list[_Token]] = []
    last = -1  # where the token before starts
    for token in tokens:
        if not groups or any(text.find(space, last, token.word) >= 0 for space in " \n"):
            groups.append([])
        groups[-1].append(token)
        last = token.word
    return groups


def _by_first_id(embeddings: Sequence[EmbeddingToken], room: int) -> dict[int, list[EmbeddingToken]]:
    """Words by the id they begin with, those of most ids first. Raises ValueError for one that fits no chunk."""
    by_id: dict[int, list[EmbeddingToken]] = {}
    for word in sorted(embeddings, key=lambda word: -len(word.ids)):
        if not word.ids or not 1 <= word.num_vectors <= room:
            raise ValueError(f"embedding {word.name!r}: {len(word.ids)} ids, {word.num_vectors} of {room} vectors")
        by_id.setdefault(word.ids[0], []).append(word)
    return by_id
