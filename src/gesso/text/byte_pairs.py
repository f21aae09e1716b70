"""CLIP's byte-pair vocabulary: the merges that the package carries, and the vocabulary files of a checkpoint folder.

Byte-pair encoding starts from bytes and joins pairs in the order of a list of merges (Sennrich et al. 2016,
arXiv:1508.07909; on bytes: GPT-2, Radford et al. 2019). A piece that ends a word carries "</w>".
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from gesso.errors import GessoError, short
from gesso.text.words import byte_symbols, is_text

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
LENGTH = 77
NUM_MERGES = 48_894  # CLIP uses the first so many of the file
CLIP_SIZE = 512 + NUM_MERGES + 2  # symbols, merges, beginning and end
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
# CLIP's expression: contractions, runs of letters, single digits, runs of other signs. The spelled-out control tokens
# stand first because the reference does so; here they are ordinary text all the same.
WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# A vocabulary file has about 1 MB; far above that it is something else, and is not read into memory.
MAX_FILE_BYTES = 32 * 2**20

Merge = tuple[str, str]
CONTROL_ROLES = ("bos", "eos", "pad", "unknown")


@dataclass(frozen=True, kw_only=True)
class BytePairs:
    """A byte-pair vocabulary, checked.

    pieces  the vocabulary in the order of its ids
    merges  pairs of pieces, the first joined first; each pair and its join are pieces
    bos, eos, pad, unknown  control tokens, each of them a piece
    length  token ids a text that the model was made for
    """

    pieces: tuple[str, ...]
    merges: tuple[Merge, ...]
    bos: str = BOS
    eos: str = EOS
    pad: str = EOS
    unknown: str = EOS
    length: int = LENGTH

    def __post_init__(self) -> None:
        """Raises ValueError for what would give wrong ids."""
        if not is_text("".join(self.pieces)):
            raise ValueError("a piece of the vocabulary is not a text of whole Unicode characters")
        known = set(self.pieces)
        if len(known) != len(self.pieces):
            raise ValueError("a piece of the vocabulary comes twice")
        _check_merges(known, self.merges)
        for role in CONTROL_ROLES:
            if getattr(self, role) not in known:
                raise ValueError(f"the {role} token {getattr(self, role)!r} is not in the vocabulary")

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` of the vocabulary, with CLIP's cleaning and splitting of text; never changed."""
        return _backend(self.pieces, self.merges, self.unknown)


@lru_cache(maxsize=2)
def _backend(pieces: tuple[str, ...], merges: tuple[Merge, ...], unknown: str) -> Any:
    """Shared by vocabularies of equal pieces: SDXL's two differ in their padding only, which is added elsewhere."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            unk_token=unknown,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return backend


@cache
def clip_pairs() -> BytePairs:
    """CLIP's own vocabulary, from the file of merges that OpenAI published (MIT licence, see NOTICE).

    In the order of the ids: bytes as printable symbols, the same ending a word, merges, controls. The symbols come in
    the order of their code points, printable Latin-1 first, so "!" is 0 and "a" is 64.
    """
    packed = (resources.files("gesso.text") / "data" / MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n", NUM_MERGES + 1)[1:-1]  # the first line is a header
    merges = parse_merges(lines, MERGES_FILE, first_line=2)
    symbols = sorted(byte_symbols())
    ends = (symbol + WORD_END for symbol in symbols)
    return BytePairs(pieces=(*symbols, *ends, *map("".join, merges), BOS, EOS), merges=merges)


def order_pieces(vocab: Mapping[str, int]) -> tuple[str, ...]:
    """The pieces of a vocabulary in the order of their ids. Raises ValueError unless the ids are 0..n-1, each once."""
    for piece, index in vocab.items():
        if not is_text(piece):
            raise ValueError(f"{piece!r} is not a text of whole Unicode characters")
        if isinstance(index, bool) or not isinstance(index, int):
            raise ValueError(f"{piece!r} has the id {index!r}, expected a whole number")
    pieces = sorted(vocab, key=vocab.__getitem__)
    for expected, piece in enumerate(pieces):
        if vocab[piece] != expected:
            raise ValueError(f"{piece!r} has the id {vocab[piece]}, expected {expected}: {len(vocab)} ids from 0 on")
    return tuple(pieces)


def parse_merges(lines: Sequence[str], name: str, first_line: int = 1) -> tuple[Merge, ...]:
    """Lines of two pieces, parted by a space. Raises GessoError, which names the line, for any other."""
    merges = []
    for number, line in enumerate(lines, first_line):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise GessoError(
                f"{name}: line {number} is {short(line)}, expected two pieces separated by one space. Download the "
                "file again",
                code="damaged",
            )
        merges.append((left, right))
    return tuple(merges)


def read_folder(folder: Path) -> BytePairs:
    """The vocabulary in the `tokenizer` folder of a checkpoint: vocab.json and merges.txt, else tokenizer.json.

    tokenizer_config.json and special_tokens_map.json, where present, name the control tokens and the length. Folders
    with the same files share one value: nearly all hold CLIP's own. Raises GessoError for what is missing, malformed,
    or would give other ids than the checkpoint was trained with.
    """
    if (folder / "vocab.json").is_file() or (folder / "merges.txt").is_file():
        vocabulary: tuple[str, ...] = ("vocab.json", "merges.txt")
    elif (folder / "tokenizer.json").is_file():
        vocabulary = ("tokenizer.json",)
    else:
        raise GessoError(
            f"{folder}: no tokenizer found; expected vocab.json and merges.txt, or tokenizer.json. Give the "
            "'tokenizer' folder of a complete checkpoint",
            code="missing",
            data={"path": str(folder)},
        )
    settings = tuple(name for name in (*_SETTINGS, _ADDED) if (folder / name).is_file())
    return _parse(_Files(tuple((name, _read(folder / name)) for name in vocabulary + settings), folder))


_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")  # the later one wins, as in transformers
_ADDED = "added_tokens.json"


@dataclass(frozen=True)
class _Files:
    """The bytes of the files of a vocabulary, by name. Equal where these are, wherever the folder is."""

    contents: tuple[tuple[str, bytes], ...]
    folder: Path = field(compare=False)

    def __getitem__(self, name: str) -> bytes:
        return dict(self.contents)[name]

    def __contains__(self, name: str) -> bool:
        return name in dict(self.contents)


@lru_cache(maxsize=4)  # a result names no file, so any folder may have it; an error does, and is not kept
def _parse(files: _Files) -> BytePairs:
    if "merges.txt" in files:
        pieces, merges = _parse_vocab_and_merges(files)
        source = files.folder / "merges.txt"
    else:
        pieces, merges = _parse_tokenizer_json(files)
        source = files.folder / "tokenizer.json"
    settings = _parse_settings(files, pieces)
    try:
        return BytePairs(pieces=pieces, merges=merges, **settings)
    except ValueError as error:
        raise GessoError(
            f"{source}: {error}. The files do not belong together; download the folder again",
            code="damaged",
            data={"path": str(source)},
        ) from None


def folder_files(pairs: BytePairs) -> dict[str, str]:
    """The files of a checkpoint's `tokenizer` folder, name -> text, as `read_folder` and transformers read them."""
    roles = {"bos_token": pairs.bos, "eos_token": pairs.eos, "pad_token": pairs.pad, "unk_token": pairs.unknown}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": pairs.length, "do_lower_case": True, **roles}
    vocab = {piece: index for index, piece in enumerate(pairs.pieces)}
    merges = "".join(f"{left} {right}\n" for left, right in pairs.merges)
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + merges,
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(roles, indent=2) + "\n",
    }


def parse_object(text: str | bytes, name: str) -> dict[str, Any]:
    """A JSON object. Raises GessoError, which names the file, for anything else."""
    try:
        value = json.loads(text)
    except (RecursionError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise GessoError(
            f"{name}: not JSON ({error}); expected a JSON object. Download the file again", code="damaged"
        ) from None
    if not isinstance(value, dict):
        raise GessoError(
            f"{name}: holds a JSON {type(value).__name__}, expected an object. Download the file again", code="damaged"
        )
    return value


def _check_merges(known: set[str], merges: Sequence[Merge]) -> None:
    """Raises ValueError unless all pairs and their joins are pieces."""
    if known.issuperset(chain.from_iterable(merges)) and known.issuperset(map("".join, merges)):
        return
    for number, (left, right) in enumerate(merges, 1):
        for piece in (left, right, left + right):
            if piece not in known:
                raise ValueError(f"merge {number}, {left!r} and {right!r}: {short(piece)} is not in the vocabulary")


def _parse_vocab_and_merges(files: _Files) -> tuple[tuple[str, ...], tuple[Merge, ...]]:
    vocab_file, merges_file = files.folder / "vocab.json", files.folder / "merges.txt"
    pieces = _pieces_of(parse_object(files["vocab.json"], str(vocab_file)), vocab_file)
    try:
        lines = files["merges.txt"].decode().split("\n")  # not splitlines: pieces may hold its rarer line ends
    except UnicodeDecodeError as error:
        raise GessoError(
            f"{merges_file}: not UTF-8 text ({error}). Download the file again",
            code="damaged",
            data={"path": str(merges_file)},
        ) from None
    lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    header = int(bool(lines) and lines[0].startswith("#version"))
    return pieces, parse_merges(lines[header:], str(merges_file), first_line=header + 1)


def _parse_tokenizer_json(files: _Files) -> tuple[tuple[str, ...], tuple[Merge, ...]]:
    """Vocabulary and merges of a tokenizer.json; its other settings are CLIP's own, or the folder is not a CLIP one."""
    file = files.folder / "tokenizer.json"
    values = parse_object(files[file.name], str(file))
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != WORD_END:
        kind = model.get("type") if isinstance(model, dict) else None
        raise GessoError(
            f"{file}: model of type {kind!r}, expected CLIP's 'BPE' with pieces that end in {WORD_END}. "
            "The folder holds the tokenizer of another text encoder",
            code="wrong_kind",
            data={"path": str(file)},
        )
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise GessoError(
            f"{file}: 'vocab' or 'merges' is missing in 'model'. Download the file again",
            code="damaged",
            data={"path": str(file)},
        )
    pieces = _pieces_of(vocab, file)
    _check_added(values.get("added_tokens") or [], pieces, file)
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    lines = [" ".join(merge) if _is_pair(merge) else str(merge) for merge in merges]
    return pieces, parse_merges(lines, f"{file}, merges")


def _is_pair(merge: object) -> bool:
    return isinstance(merge, list) and all(isinstance(piece, str) for piece in merge)


def _pieces_of(vocab: dict[str, Any], file: Path) -> tuple[str, ...]:
    try:
        return order_pieces(vocab)
    except ValueError as error:
        raise GessoError(
            f"{file}: {error}. Download the file again", code="damaged", data={"path": str(file)}
        ) from None


def _parse_settings(files: _Files, pieces: Sequence[str]) -> dict[str, Any]:
    """Control tokens and length of a folder, as keyword arguments of BytePairs; what it does not say is CLIP's."""
    settings: dict[str, Any] = {}
    for name in _SETTINGS:
        if name not in files:
            continue
        file = files.folder / name
        values = parse_object(files[name], str(file))
        for role, key in (("bos", "bos_token"), ("eos", "eos_token"), ("pad", "pad_token"), ("unknown", "unk_token")):
            token = values.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is None:
                continue
            if not isinstance(token, str):
                raise GessoError(
                    f"{file}: {key} is {short(token)}, expected a string. Download the file again",
                    code="damaged",
                    data={"path": str(file)},
                )
            settings[role] = token
        length = values.get("model_max_length")
        # transformers writes 10^30 where no length was set.
        if isinstance(length, int) and not isinstance(length, bool) and 3 <= length <= 2**16:
            settings["length"] = length
        _check_class(values.get("tokenizer_class"), file)
        decoder = values.get("added_tokens_decoder")
        _check_added(list(decoder.values()) if isinstance(decoder, dict) else [], pieces, file)
    if _ADDED in files:
        extra = files.folder / _ADDED
        _check_added([{"content": token} for token in parse_object(files[_ADDED], str(extra))], pieces, extra)
    return settings


def _check_class(class_name: object, file: Path) -> None:
    if isinstance(class_name, str) and not class_name.startswith(
        ("CLIP", "PreTrainedTokenizerFast", "TokenizersBackend")
    ):
        raise GessoError(
            f"{file}: tokenizer_class is {short(class_name)}, expected 'CLIPTokenizer'. "
            "The folder holds the tokenizer of another text encoder",
            code="wrong_kind",
            data={"path": str(file)},
        )


def _check_added(tokens: object, pieces: Sequence[str], file: Path) -> None:
    """Raises GessoError for a token that was added to the vocabulary later: its ids would come out wrong."""
    known = set(pieces)
    for token in tokens if isinstance(tokens, list) else []:
        content = token.get("content") if isinstance(token, dict) else None
        if content not in known:
            raise GessoError(
                f"{file}: the added token {short(content)} is not in the vocabulary, and gesso does not read added "
                "tokens. Use the checkpoint without it, and load embeddings (textual inversion) separately",
                code="unsupported",
                data={"path": str(file)},
            )


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise GessoError(
                f"{file}: {size} bytes, expected at most {MAX_FILE_BYTES} in a vocabulary file. Download the file "
                "again",
                code="too_large",
                data={"path": str(file)},
            )
        return file.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GessoError(
            f"{file}: cannot be read ({reason}); expected a vocabulary file. Check the folder",
            code="unreadable",
            data={"path": str(file)},
        ) from None
