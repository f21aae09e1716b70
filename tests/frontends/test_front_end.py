"""Flags, styles and wildcards on their way to plain requests."""

from pathlib import Path

import pytest

from asking import ask
from gesso.errors import GessoError
from gesso.frontends.front_end import MAX_LIST_NBYTES, FrontEnd, WildcardFolder, read_styles
from gesso.frontends.styles import Style
from gesso.request.request import TextToImageRequest
from gesso.text.prompt import MAX_CHARS, PromptError
from linear_time import assert_quick
from tiny_sd import TINY_SD, TINY_SDXL

STYLES = (Style("oil", "oil painting of {prompt}", "photo"), Style("calm", "calm"))


def request(prompt: str, **values: object) -> TextToImageRequest:
    return ask(prompt=prompt, **values)


def test_without_anything_the_request_is_the_one_that_was_given():
    for front in (FrontEnd(), FrontEnd(flags=True), FrontEnd(lists={})):
        asked = request("a cat: 3 of them", num_images=3)
        (written,) = front.requests(asked, TINY_SD)
        assert written.request is asked or written.request == asked
        assert written.notices == ()


def test_flags_become_fields():
    front = FrontEnd(flags=True)
    asked = request("a cat on a mat --ar 3:2 --seed 7 --no dogs, hats --repeat 4 --tile --q 0.5 --weird 3")
    (written,) = front.requests(asked, TINY_SD)
    found = written.request
    assert (found.prompt, found.negative_prompt) == ("a cat on a mat", "dogs, hats")
    assert (found.seed, found.num_images, found.tiling) == (7, 4, "xy")
    assert found.width * 2 == found.height * 3
    assert found.num_steps == round(TINY_SD.defaults.num_steps / 2)
    assert [notice.partition(" (")[0] for notice in written.notices] == ["ignored: --weird"]
    assert front.num_images(asked) == 4


def test_what_the_request_says_stays_and_negatives_join():
    asked = request("a cat --ar 3:2 --no dogs --seed 7", negative_prompt="blurry", width=64, height=64, seed=1)
    (written,) = FrontEnd(flags=True).requests(asked, TINY_SDXL)
    found = written.request
    assert (found.width, found.height, found.seed) == (64, 64, 1)
    assert found.negative_prompt == "blurry, dogs"
    assert any("ignored: the flag for seed" in notice for notice in written.notices)


def test_flags_that_are_not_asked_for_are_text_and_told():
    (written,) = FrontEnd().requests(request("a cat --ar 3:2 -- --zzz"), TINY_SD)
    assert written.request.prompt == "a cat --ar 3:2 -- --zzz"
    assert written.notices == ("--ar in the prompt is read as text; to read flags, use `syntax=midjourney`",)


def test_weighted_parts_guide_together():
    (written,) = FrontEnd(flags=True).requests(request("a cat::2 a dog::-0.5"), TINY_SD)
    assert written.request.prompt == "a cat :2 AND a dog :-0.5"


def test_styles_stand_around_what_flags_left():
    front = FrontEnd(flags=True, styles=STYLES)
    (written,) = front.requests(request("a cat --no dogs"), TINY_SD)
    assert written.request.prompt == "oil painting of a cat, calm"
    assert written.request.negative_prompt == "dogs, photo"


def test_wildcards_are_drawn_by_the_seed_and_the_index_of_the_picture():
    front = FrontEnd(lists={"animal": ("cat", "dog", "owl", "bee", "fox")}, styles=STYLES[:1])
    asked = request("a {red|blue|green} __animal__", seed=5, num_images=20, negative_prompt="{a|b|c}")
    found = list(front.requests(asked, TINY_SD))
    assert len(found) == 20
    assert len({part.request.prompt for part in found}) > 5
    assert all(part.request.num_images == 1 and part.request.seed == 5 for part in found)
    assert [part.request.first_index for part in found] == list(range(20))
    (alone,) = front.requests(request(asked.prompt, seed=5, first_index=7, negative_prompt="{a|b|c}"), TINY_SD)
    assert alone.request == found[7].request  # picture 7 alone is picture 7 of the run
    assert found == list(front.requests(asked, TINY_SD))
    assert "generated from: oil painting of a {red|blue|green} __animal__" in found[0].notices[0]
    (drawn,) = front.requests(request("a {red|blue}"), TINY_SD)
    assert drawn.request.seed is not None


def test_wildcards_are_off_until_they_are_asked_for():
    (written,) = FrontEnd().requests(request("{a|b} __x__"), TINY_SD)
    assert written.request.prompt == "{a|b} __x__"
    (written,) = FrontEnd(lists={}).requests(request("__x__ __../../etc/passwd__"), TINY_SD)
    assert written.request.prompt == "__x__ __../../etc/passwd__"
    assert any("is unknown" in notice for notice in written.notices)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a {red|blue} cat", ["'{red|blue}' in the prompt is read as text", "`dynamic_prompts`"]),
        ("a __animal__", ["'__animal__' in the prompt is read as text", "`wildcards=FOLDER`"]),
        ("{a|b} __x/*__", ["'{a|b}' in the prompt", "'__x/*__' in the prompt"]),
        (r"\{a|b\} {a} snake_case __init \__x__ a|b", []),
        ("(a:1.2) [a|b] <lora:x__y__z:1>", []),
    ],
)
def test_templates_that_are_not_asked_for_are_told(prompt, told):
    (written,) = FrontEnd().requests(request(prompt), TINY_SD)
    assert written.request.prompt == prompt
    text = "; ".join(written.notices)
    assert all(part in text for part in told)
    assert bool(told) == bool(written.notices)
    assert {notice.code for notice in written.notices} <= {"template_as_text"}
    (written,) = FrontEnd(lists={"animal": ("cat",), "x/y": ("dog",)}).requests(request(prompt), TINY_SD)
    assert "is read as text" not in "; ".join(written.notices)


@pytest.mark.parametrize("sign", ["-__a", "__a-", "{a", "{|"])
def test_templates_are_looked_for_at_once(sign):
    asked = request((sign * MAX_CHARS)[:MAX_CHARS])
    assert_quick(lambda: list(FrontEnd().requests(asked, TINY_SD)), 20)  # with a square in it, it is hundreds


def test_variables_alone_give_one_request_for_all_pictures():
    (written,) = FrontEnd(lists={}).requests(request("${x=a cat}${x}, ${x}", num_images=3, seed=1), TINY_SD)
    assert (written.request.prompt, written.request.num_images) == ("a cat, a cat", 3)
    assert "drawn: a cat, a cat" in written.notices[0]


def test_explosions_end():
    many = {"a": ("__b__ " * 30,), "b": ("__c__ " * 30,), "c": ("__d__ " * 30,), "d": ("x",)}
    front = FrontEnd(lists=many)
    for prompt in ("__a__ " * 50, "{" * 1200 + "x" + "}" * 1200, "{1$$" * 1200 + "x|y" + "}" * 1200):
        with pytest.raises(PromptError):
            list(front.requests(request(prompt + "__a__", num_images=1000), TINY_SD))
    options = "|".join("ab" for _ in range(5000))
    (written,) = front.requests(request("{1000$$" + options + "}"), TINY_SD)
    assert len(written.request.prompt) == 3 * 1000 - 1


def test_a_folder_of_wildcards(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "animal.txt").write_text("cat\n# a comment\n\ndog\n", encoding="utf-8-sig")
    (tmp_path / "sub" / "colour.TXT").write_text("red\n")
    (tmp_path / "notes.md").write_text("no list")
    lists = WildcardFolder(tmp_path)
    assert sorted(lists) == ["animal", "sub/colour"]
    assert lists["animal"] == ("cat", "dog")
    (written,) = FrontEnd(lists=lists).requests(request("__sub/colour__ __anim*__", seed=1), TINY_SD)
    assert written.request.prompt in ("red cat", "red dog")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "large.txt").write_bytes(b"x" * (MAX_LIST_NBYTES + 1))
    lists = WildcardFolder(tmp_path)
    for name in ("bad", "large"):
        with pytest.raises(GessoError, match=name):
            lists[name]
    for missing in (tmp_path / "nosuch", tmp_path / "animal.txt"):
        with pytest.raises(GessoError, match="expected a folder of wildcards"):
            WildcardFolder(missing)


def test_a_file_of_styles(tmp_path: Path):
    path = tmp_path / "styles.csv"
    path.write_text("name,prompt,negative_prompt\noil,oil painting of {prompt},photo\n", encoding="utf-8-sig")
    assert read_styles(path) == {"oil": STYLES[0]}
    with pytest.raises(GessoError, match="no such file"):
        read_styles(tmp_path / "nosuch.csv")
