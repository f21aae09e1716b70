"""Vocabulary files of a checkpoint folder: what is read, what is refused and in which words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso.errors import GessoError
from gesso.text import byte_pairs
from gesso.text.tokenizer import Tokenizer

TEXTS = ["a low tower", "lower!", "", "ünïcode 🐱", "<|endoftext|>"]
CONTROLS = ("<|startoftext|>", "<|endoftext|>")


def small_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>"), ("lo", "w"), ("low", "er</w>")]
    symbols = sorted(byte_pairs.byte_symbols())
    pieces = [*symbols, *(s + "</w>" for s in symbols), *("".join(merge) for merge in merges), *CONTROLS]
    return {piece: index for index, piece in enumerate(pieces)}, merges


@pytest.fixture
def small() -> Tokenizer:
    return Tokenizer.from_vocabulary(*small_vocabulary(), pad="!", length=12)


@pytest.fixture
def folder(tmp_path: Path, small: Tokenizer) -> Path:
    for name, text in small.folder_files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def same(one: Tokenizer, other: Tokenizer) -> bool:
    settings = [(t.bos, t.eos, t.pad, t.length, t.size, t.pairs) for t in (one, other)]
    return settings[0] == settings[1] and torch.equal(one.encode(TEXTS), other.encode(TEXTS))


def change(file: Path, edit: Callable[[Any], Any]) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    edit(found)
    file.write_text(json.dumps(found), encoding="utf-8")


def test_merges_apply_in_their_order(small: Tokenizer):
    vocab, _ = small_vocabulary()
    (row,) = small.encode(["low lower 1"]).tolist()
    assert row == [small.bos, vocab["low</w>"], vocab["lower</w>"], vocab["1</w>"], small.eos] + [vocab["!"]] * 7


def test_folders_of_the_same_files_share_a_vocabulary(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """What is wrong with one is told with its own name, each time."""
    other = tmp_path_factory.mktemp("other") / "tokenizer"
    shutil.copytree(folder, other)
    first = byte_pairs.read_folder(folder)
    assert byte_pairs.read_folder(other) is first
    change(other / "tokenizer_config.json", lambda config: config.update(model_max_length=9))
    assert (byte_pairs.read_folder(other).length, byte_pairs.read_folder(folder)) == (9, first)
    assert byte_pairs.read_folder(other).backend is first.backend
    change(other / "tokenizer_config.json", lambda config: config.update(unk_token="lo"))
    assert byte_pairs.read_folder(other).backend is not first.backend
    for each in (folder, other):
        (each / "merges.txt").write_text("l o w\n", encoding="utf-8")
    for each in (folder, other, folder):
        with pytest.raises(GessoError, match="line 1") as refused:
            byte_pairs.read_folder(each)
        assert str(each / "merges.txt") in str(refused.value)


def test_a_folder_round_trip(small: Tokenizer, folder: Path):
    assert same(Tokenizer.from_folder(folder), small)
    assert same(Tokenizer.from_folder(str(folder)), small)


def test_a_json_round_trip(small: Tokenizer):
    text = small.to_json()
    assert same(Tokenizer.from_json(text), small)
    assert Tokenizer.from_json(text).to_json() == text


def test_another_length_is_kept_in_both_layouts(small: Tokenizer):
    other = small.with_length(9)
    assert other.encode(TEXTS).shape[1] == 9
    assert Tokenizer.from_json(other.to_json()).length == 9
    assert '"model_max_length": 9' in other.folder_files()["tokenizer_config.json"]


def test_the_carried_vocabulary_round_trips(tmp_path: Path):
    clip = Tokenizer.clip(pad=0)
    for name, text in clip.folder_files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert same(Tokenizer.from_folder(tmp_path), clip)


def test_transformers_reads_the_folder(small: Tokenizer, folder: Path):
    from transformers import CLIPTokenizerFast

    oracle = CLIPTokenizerFast.from_pretrained(folder)
    rows = oracle(TEXTS, padding="max_length", truncation=True, split_special_tokens=True).input_ids
    assert small.encode(TEXTS).tolist() == rows


def test_a_folder_that_transformers_saved(small: Tokenizer, folder: Path, tmp_path: Path):
    """Newer versions write tokenizer.json alone, with merges as lists."""
    from transformers import CLIPTokenizerFast

    saved = tmp_path / "saved"
    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(saved)
    for name in ("vocab.json", "merges.txt"):
        (saved / name).unlink(missing_ok=True)
    assert (saved / "tokenizer.json").is_file()
    assert same(Tokenizer.from_folder(saved), small)
    # Older versions write a merge as one string.
    change(saved / "tokenizer.json", lambda f: f["model"].update(merges=[" ".join(m) for m in f["model"]["merges"]]))
    assert same(Tokenizer.from_folder(saved), small)


def test_published_settings(folder: Path):
    """Tokens as objects, as in Stable Diffusion's folders; a length of 10^30 where none was set."""
    token = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": True}
    config = {"eos_token": token, "pad_token": "<|endoftext|>", "model_max_length": 10**30, "errors": "replace"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.pad, tokenizer.length) == (tokenizer.eos, 77)


def test_bare_vocabulary_files_mean_clip(folder: Path):
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.pad, tokenizer.length) == (tokenizer.eos, 77)


def test_windows_line_ends_and_blank_last_lines(small: Tokenizer, folder: Path):
    merges = (folder / "merges.txt").read_text(encoding="utf-8")
    (folder / "merges.txt").write_bytes((merges.replace("\n", "\r\n") + "\r\n\r\n").encode())
    assert same(Tokenizer.from_folder(folder), small)
    (folder / "merges.txt").write_bytes(merges.partition("\n")[2].encode())  # no header
    assert same(Tokenizer.from_folder(folder), small)


def test_a_byte_that_the_vocabulary_lacks_is_unknown(folder: Path):
    """As in transformers: small test checkpoints have such vocabularies."""
    from transformers import CLIPTokenizerFast

    pieces = [*"abc", "a</w>", "b</w>", "c</w>", "ab</w>", *CONTROLS]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n", encoding="utf-8")
    (folder / "special_tokens_map.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    texts = ["ab cab", "xyz a!", "é"]
    rows = CLIPTokenizerFast.from_pretrained(folder)(texts, padding="max_length", max_length=77).input_ids
    assert Tokenizer.from_folder(folder).encode(texts).tolist() == rows


# What is done to a sound folder, the file that the message names, and what it says.
def _write(name: str, content: str | bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _vocab(edit: Callable[[Any], Any]) -> Callable[[Path], Any]:
    return lambda folder: change(folder / "vocab.json", edit)


def _config(**changes: object) -> Callable[[Path], Any]:
    return lambda folder: change(folder / "tokenizer_config.json", lambda found: found.update(changes))


DAMAGE = {
    "vocab missing": (lambda f: (f / "vocab.json").unlink(), "vocab.json", "No such file"),
    "merges missing": (lambda f: (f / "merges.txt").unlink(), "merges.txt", "No such file"),
    "vocab empty": (_write("vocab.json", ""), "vocab.json", "not JSON"),
    "vocab cut short": (_write("vocab.json", '{"a": 0, "b'), "vocab.json", "not JSON"),
    "vocab is binary": (_write("vocab.json", b"\x80\x04\x95"), "vocab.json", "not JSON"),
    "vocab is deep": (_write("vocab.json", "[" * 200_000), "vocab.json", "not JSON"),
    "vocab is a list": (_write("vocab.json", "[1]"), "vocab.json", "a JSON list"),
    "vocab with a gap": (_vocab(lambda v: v.pop("a")), "vocab.json", "expected 64"),
    "vocab with an id twice": (_vocab(lambda v: v.update(a=65)), "vocab.json", "expected 64"),
    "vocab with a text id": (_vocab(lambda v: v.update(a="64")), "vocab.json", "'64'"),
    "vocab with a fraction": (_vocab(lambda v: v.update(a=64.0)), "vocab.json", "64.0"),
    "vocab with null": (_vocab(lambda v: v.update(a=None)), "vocab.json", "None"),
    "vocab with half a character": (_vocab(lambda v: v.update({"\ud83d": 524})), "vocab.json", "whole Unicode"),
    "no end token": (_vocab(lambda v: v.update(other=v.pop("<|endoftext|>"))), "merges.txt", "'<|endoftext|>'"),
    "merge of one": (_write("merges.txt", "#version: 0.2\nl o\nlo\n"), "merges.txt", "line 3"),
    "merge of three": (_write("merges.txt", "l o w\n"), "merges.txt", "line 1"),
    "blank line": (_write("merges.txt", "l o\n\nlo w\n"), "merges.txt", "line 2"),
    "merge unknown": (_write("merges.txt", "l o\no w\n"), "merges.txt", "'ow'"),
    "merges binary": (_write("merges.txt", b"l \xff\n"), "merges.txt", "not UTF-8"),
    "config not JSON": (_write("tokenizer_config.json", "{"), "tokenizer_config.json", "not JSON"),
    "odd token": (_config(eos_token=7), "tokenizer_config.json", "eos_token is 7"),
    "unknown pad": (_config(pad_token="<pad>"), "merges.txt", "pad token '<pad>'"),
    "foreign class": (_config(tokenizer_class="T5Tokenizer"), "tokenizer_config.json", "T5Tokenizer"),
    "added token": (_write("added_tokens.json", '{"<cat-toy>": 524}'), "added_tokens.json", "<cat-toy>"),
    "added in config": (
        _config(added_tokens_decoder={"524": {"content": "<cat-toy>"}}),
        "tokenizer_config.json",
        "<cat-toy>",
    ),
    "nothing there": (lambda f: [file.unlink() for file in f.iterdir()], "", "no tokenizer found"),
    "no folder": (lambda f: shutil.rmtree(f), "", "no tokenizer found"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(folder: Path, case: str):
    damage, name, says = DAMAGE[case]
    damage(folder)
    with pytest.raises(GessoError) as caught:
        Tokenizer.from_folder(folder)
    assert caught.value.message.startswith(f"{folder / name}: ")
    assert says in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, "model of type None"),
        ({"model": {"type": "Unigram", "vocab": []}}, "'Unigram'"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "</w>"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": []}}, "'vocab' or 'merges'"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 1}, "merges": []}}, "expected 0"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0}, "merges": [7]}}, "line 1"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0}, "merges": []}}, "bos token"),
    ],
)
def test_damage_in_tokenizer_json_is_named(tmp_path: Path, found: dict[str, Any], says: str):
    (tmp_path / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(GessoError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path / 'tokenizer.json'}")
    assert says in caught.value.message


def test_a_file_far_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(byte_pairs, "MAX_FILE_BYTES", 1000)
    with pytest.raises(GessoError, match=r"vocab\.json: \d+ bytes, expected at most 1000"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("role", "says"),
    [("bos", "'bos'"), ("pieces", "list of strings"), ("merges", "list of strings"), ("length", "'x'")],
)
def test_damage_in_json_is_named(small: Tokenizer, role: str, says: str):
    found = json.loads(small.to_json())
    found[role] = 7 if role != "length" else "x"
    with pytest.raises(GessoError, match=says):
        Tokenizer.from_json(json.dumps(found), name="tokenizer.json")


def test_a_broken_merge_in_json_names_the_file(small: Tokenizer):
    found = json.loads(small.to_json())
    found["merges"][1] = "lo"
    with pytest.raises(GessoError, match=r"^words\.json, merges: line 2"):
        Tokenizer.from_json(json.dumps(found), name="words.json")


def test_wrong_vocabularies_from_code_are_wrong_arguments():
    vocab, merges = small_vocabulary()
    with pytest.raises(ValueError, match="not in the vocabulary"):
        Tokenizer.from_vocabulary(vocab, [*merges, ("x", "y")])
    with pytest.raises(ValueError, match="bos token"):
        Tokenizer.from_vocabulary(vocab, merges, bos="<s>")
    with pytest.raises(ValueError, match="expected"):
        Tokenizer.from_vocabulary({"a": 3}, [])


def test_pieces_that_give_wrong_ids_are_refused():
    roles = {"bos": "<a>", "eos": "<b>", "pad": "<b>", "unknown": "<b>"}
    byte_pairs.BytePairs(pieces=("x", "<a>", "<b>"), merges=(), **roles)
    with pytest.raises(ValueError, match="a piece of the vocabulary comes twice"):
        byte_pairs.BytePairs(pieces=("x", "x", "<a>", "<b>"), merges=(), **roles)
    with pytest.raises(ValueError, match="a piece of the vocabulary is not a text of whole Unicode characters"):
        byte_pairs.BytePairs(pieces=("\ud800", "<a>", "<b>"), merges=(), **roles)


@pytest.mark.parametrize(
    ("texts", "words"),
    [("a cat", "texts is one str; expected a sequence"), (["a", 3], "texts holds a int, expected str")],
)
def test_texts_that_are_no_list_of_texts(texts: Any, words: str):
    with pytest.raises(ValueError, match=words):
        Tokenizer.clip().encode(texts)
