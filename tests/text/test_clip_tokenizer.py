"""CLIP's tokenizer beside transformers' one, built from the same published merges by other code."""

import gzip
import hashlib
import json
import random
import time
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.errors import GessoError
from gesso.text import tokenizer as module
from gesso.text.tokenizer import Tokenizer

MERGES = resources.files("gesso.text") / "data" / "bpe_simple_vocab_16e6.txt.gz"
BOS, EOS = 49406, 49407

ODD_TEXTS = [
    "",
    " ",
    "\n\t\r\v\f \u00a0\u2003\u3000\u2028\u0085",
    "a photo of a cat",
    "A PHOTO  of\n\na\tCat!!!",
    "  leading and trailing   ",
    "don't won't I'll he'd we've they're I'm it's 's 't '",
    "DON'T WON'T I'LL",
    "don’t “quoted” ‘single’ — dash – en … ellipsis",
    "&amp; &lt;b&gt; &quot; &#39; &eacute; &amp;amp; &nbsp;",
    "<html><b>bold</b></html> <br/>",
    "café naïve Ångström façade ÀÉÎÕÜ",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "e" + "\u0301" * 50 + " z̴̡̢̛̗̘̙̜̝̞̟̠̤̥̦̩̪̫̬̭̮̯a̷l̶g̵o̸",
    "ﬁ ﬂ ﬃ Ĳ Ǆ ǅ ŉ ß ẞ İ ı ſ K Å Ω",
    "ΑΣ ΟΔΟΣ ὈΔΥΣΣΕΎΣ",
    "漢字 かな カナ 한국어 中文，标点。「引用」",
    "العربية עברית हिन्दी ไทย ქართული ᏣᎳᎩ ꭰꭱ",
    "🐱🐶 👩‍🚀 👩🏽‍🚀 ❤️ 🏳️‍🌈 🇩🇪🇯🇵 3️⃣ ©®™ ☺︎☺️",
    "zero\u200bwidth \u200czwnj\u200d \ufeffbom \u2060joiner soft\u00adhyphen",
    "\u202eright-to-left override\u202c \u0000 \u0007 \u001b[31m \u007f \u0080 \u009f",
    "1 12 123 1234567890 3.14 1,000 ½ ² Ⅻ ٣ 三 𝟙𝟚 ①",
    "a1b2c3 x_y_z snake_case camelCase kebab-case __init__",
    "https://example.org/?q=a&b=c#d user@example.org C:\\path\\file",
    "(masterpiece:1.2), [low quality], {a|b}, <lora:x:1>, BREAK, \\(escaped\\)",
    "!!! ??? ... ,,, ;;; ::: /// \\\\\\ ||| +++ === ~~~ ^^^ ``` ''' \"\"\"",
    "</w> a</w> </w></w> Ġ Ċ Ā",
    "\U0001f9d1\U0001f3ff \U0001fae8 \U0001fadf \U000e0041 \U0010ffff \ufffe \uffff \ufffd \ue000",
    "𝕱𝖆𝖓𝖈𝖞 𝒻𝓇𝒶𝓀𝓉𝓊𝓇 ｆｕｌｌｗｉｄｔｈ Ⓒⓘⓡⓒⓛⓔ",
    "supercalifragilisticexpialidocious " * 40,
    "x" * 5000,
    "a " * 3000,
    "qzjxkvw" * 300,
    "!" * 3000,
    "9" * 300,
    "🐱" * 300,
]
CONTROL_TEXTS = ["<|endoftext|>", "a <|startoftext|> b", "<|STARTOFTEXT|>", "x<|endoftext|>y", "<|endoftext", "<pad>"]


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return Tokenizer.clip()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt by the published rules, with transformers' own byte symbols: none of gesso's code."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = tmp_path_factory.mktemp("tokenizer")
    merges = gzip.decompress(MERGES.read_bytes()).decode().split("\n")[1:48895]
    symbols = list(bytes_to_unicode().values())
    pieces = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def oracle(files: Path) -> Any:
    from transformers import CLIPTokenizerFast

    return CLIPTokenizerFast.from_pretrained(files)


def plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of whole texts, without beginning, end and padding. Length is made to suffice."""
    report = tokenizer.encode_with_report(texts)
    assert max(report.num_tokens) <= tokenizer.length - 2, "the test's tokenizer is too short"
    return [ids[1 : 1 + count] for ids, count in zip(report.ids.tolist(), report.num_tokens, strict=True)]


def expected(oracle: Any, texts: list[str]) -> list[list[int]]:
    return oracle(texts, add_special_tokens=False, split_special_tokens=True).input_ids


def test_merges_are_the_published_file():
    """NOTICE says so; the hash is the one of the file in OpenAI's repository and in open_clip."""
    digest = hashlib.sha256(MERGES.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def test_known_ids(clip: Tokenizer):
    """Ids printed in many a tutorial."""
    ids = clip.encode(["a photo of a cat"])
    assert ids.dtype == torch.int64
    assert ids.shape == (1, 77)
    assert ids[0].tolist() == [BOS, 320, 1125, 539, 320, 2368] + [EOS] * 71
    assert (clip.bos, clip.eos, clip.pad, clip.size) == (BOS, EOS, EOS, 49408)


def test_padding_of_stable_diffusion_2():
    ids = Tokenizer.clip(pad=0).encode(["a photo of a cat"])
    assert ids[0].tolist() == [BOS, 320, 1125, 539, 320, 2368, EOS] + [0] * 70


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_rows_equal_those_of_transformers(files: Path, pad: str):
    """Truncation and padding included, on the odd corpus and on control tokens spelled out."""
    from transformers import CLIPTokenizerFast

    oracle = CLIPTokenizerFast.from_pretrained(files, pad_token=pad)
    texts = ODD_TEXTS + CONTROL_TEXTS
    rows = oracle(texts, padding="max_length", max_length=77, truncation=True, split_special_tokens=True).input_ids
    assert Tokenizer.clip(pad=0 if pad == "!" else None).encode(texts).tolist() == rows


def test_rows_equal_those_of_transformers_as_pipelines_call_it(clip: Tokenizer, oracle: Any):
    """Without split_special_tokens only control tokens spelled out in the prompt differ."""
    rows = oracle(ODD_TEXTS, padding="max_length", max_length=77, truncation=True).input_ids
    assert clip.encode(ODD_TEXTS).tolist() == rows


@pytest.mark.parametrize("name", ["CLIPTokenizer", "CLIPTokenizerFast"])
@pytest.mark.parametrize("change", [{}, {"pad_token": "!"}, {"model_max_length": 40}], ids=str)
@pytest.mark.sampled(4)
def test_a_folder_that_transformers_saved_is_read_as_it_reads_it(
    files: Path, tmp_path: Path, name: str, change: dict[str, Any]
):
    import transformers

    oracle = getattr(transformers, name).from_pretrained(files, **{"model_max_length": 77} | change)
    oracle.save_pretrained(tmp_path)
    read = Tokenizer.from_folder(tmp_path)
    rng = random.Random(1)
    words = [word for text in ODD_TEXTS if len(text) < 200 for word in text.split()]
    texts = ["", *(" ".join(rng.choices(words, k=rng.randrange(1, 60))) for _ in range(300))]
    rows = oracle(texts, padding="max_length", truncation=True, split_special_tokens=True).input_ids
    assert read.encode(texts).tolist() == rows


@pytest.mark.parametrize("added", [["<cat-toy>"], ["sks", "</w>x"]])
def test_added_words_are_refused_by_name(files: Path, tmp_path: Path, added: list[str]):
    """As a pipeline with a learned word saves them: the word's vectors are in the text encoder."""
    from transformers import CLIPTokenizer

    oracle = CLIPTokenizer.from_pretrained(files)
    oracle.add_tokens(added)
    oracle.save_pretrained(tmp_path)
    with pytest.raises(GessoError, match=added[0]) as refused:
        Tokenizer.from_folder(tmp_path)
    assert "textual inversion" in str(refused.value)


@pytest.mark.slow
def test_every_character_equals_transformers(clip: Tokenizer, oracle: Any):
    """All of the first two planes, and samples of the others: bare in runs, and each between two letters."""
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 97)]
    chunks = [[chr(p) for p in points[i : i + 256]] for i in range(0, len(points), 256)]
    texts = ["".join(chunk) for chunk in chunks] + [" ".join(f"a{char}b" for char in chunk) for chunk in chunks]
    long = clip.with_length(4096)
    gaps = [t for t, a, b in zip(texts, plain(long, texts), expected(oracle, texts), strict=True) if a != b]
    assert not gaps, f"{len(gaps)} of {len(texts)} differ, the first: {gaps[0]!r}"


def test_random_mixtures_equal_transformers(clip: Tokenizer, oracle: Any):
    """4,000 texts of fragments glued at random: splitting and merging depend on neighbours."""
    rng = random.Random(0)
    fragments = [part for text in ODD_TEXTS if len(text) < 200 for part in (*text.split(" "), *text)] + [
        " ",
        "  ",
        "\n",
    ]
    texts = ["".join(rng.choices(fragments, k=rng.randrange(1, 24))) for _ in range(4000)]
    long = clip.with_length(2048)
    gaps = [t for t, a, b in zip(texts, plain(long, texts), expected(oracle, texts), strict=True) if a != b]
    assert not gaps, f"{len(gaps)} of {len(texts)} differ, the first: {gaps[0]!r}"


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200))
def test_any_text_equals_transformers(clip: Tokenizer, oracle: Any, text: str):
    row = oracle(text, padding="max_length", max_length=77, truncation=True, split_special_tokens=True).input_ids
    assert clip.encode([text])[0].tolist() == row


@pytest.mark.parametrize("text", CONTROL_TEXTS)
def test_a_prompt_cannot_end_itself(clip: Tokenizer, text: str):
    """Control tokens spelled out are text; transformers takes them for control unless told otherwise."""
    (ids,) = plain(clip, [text])
    assert not {BOS, EOS} & set(ids)


def test_what_other_tokenizers_clean_stays(clip: Tokenizer):
    """Stated in the class: no HTML unescaping (OpenAI's own does), no ftfy (older slow tokenizers of transformers)."""
    assert plain(clip, ["&amp;"]) == plain(clip, ["& amp ;"]) != plain(clip, ["&"])
    assert plain(clip, ["don’t"]) != plain(clip, ["don't"])


def test_report_names_what_was_cut(clip: Tokenizer):
    words = [f"word{i}x" for i in range(60)]  # three tokens a word or more: 75 do not end with a word
    report = clip.encode_with_report([" ".join(words), "short", ""])
    assert report.num_tokens[0] > 75
    assert report.cut[1:] == ("", "")
    assert " ".join(words).endswith(report.cut[0])
    kept = " ".join(words)[: -len(report.cut[0])]
    # Splitting makes "word", single digits and "x" out of a word; the cut starts with one of them, whole.
    (count,) = clip.encode_with_report([kept]).num_tokens
    assert 75 - 3 < count <= 75
    assert report.ids[0, 1 : 1 + count].tolist() == plain(clip, [kept])[0]
    assert report.unknown == ((), (), ())


def test_a_word_cut_in_its_middle_is_reported_whole(clip: Tokenizer):
    small = clip.with_length(4)  # room for two tokens
    report = small.encode_with_report(["cat  zyzzyvaesque Dog ", "zyzzyvaesque"])
    assert report.cut == ("zyzzyvaesque Dog", "zyzzyvaesque")


def test_exactly_full_is_not_cut(clip: Tokenizer):
    report = clip.encode_with_report(["cat " * 75, "cat " * 76])
    assert report.num_tokens == (75, 76)
    assert report.cut == ("", "cat")
    assert torch.equal(report.ids[0], report.ids[1])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=12), max_size=12), st.integers(3, 12))
def test_the_start_of_a_long_text_gives_the_ids_of_the_whole(clip: Tokenizer, parts: list[str], length: int):
    """The shortcut for long texts, forced on short ones."""
    text, small = " ".join(parts), clip.with_length(length)
    plainly = small.encode_with_report([text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONG_TEXT", 2)
        assert torch.equal(small.encode([text]), plainly.ids)
        quickly = small.encode_with_report([text])
    assert torch.equal(quickly.ids, plainly.ids)
    assert (quickly.num_tokens, quickly.cut) == (plainly.num_tokens, plainly.cut)


@pytest.mark.parametrize("unit", ["a", "'", "qzjxkvw ", "e\u0301"])
@pytest.mark.sampled(4)
def test_a_million_characters_are_quick(clip: Tokenizer, unit: str):
    """Linear: 0.01 to 1.2 s measured. Quadratic work would take hours; the bound allows a busy CPU."""
    text = unit * (10**6 // len(unit))
    start = time.perf_counter()
    clip.encode([text])
    assert time.perf_counter() - start < 20


def test_rows_do_not_depend_on_their_neighbours(clip: Tokenizer):
    together = clip.encode(ODD_TEXTS)
    alone = torch.cat([clip.encode([text]) for text in ODD_TEXTS])
    assert torch.equal(together, alone)


def test_no_text_is_no_row(clip: Tokenizer):
    assert clip.encode([]).shape == (0, 77)


def test_byte_pairs_know_every_word(clip: Tokenizer):
    assert clip.unknown_words("zyzzyva 🦄") == []
    assert clip.known_text("Zyzzyva  🦄") == "Zyzzyva  🦄"


def test_one_string_is_a_wrong_argument(clip: Tokenizer):
    """A str is a sequence of str, one a character: the commonest mistake."""
    with pytest.raises(ValueError, match="one str"):
        clip.encode("a cat")


def test_half_a_surrogate_pair_is_named(clip: Tokenizer):
    with pytest.raises(GessoError, match=r"character 3 is U\+D83D"):
        clip.encode(["fine", "a \ud83d"])


@pytest.mark.parametrize("wrong", [{"pad": 49408}, {"pad": -1}, {"length": 2}])
def test_wrong_arguments(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=r"pad|length"):
        Tokenizer.clip(**wrong)
