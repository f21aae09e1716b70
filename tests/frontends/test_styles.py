"""Styles: files as A1111 writes them, and files that are none."""

import pytest

from gesso.frontends.styles import MAX_STYLES, Style, apply_styles, find_styles, merge, parse_styles
from gesso.text.prompt import MAX_CHARS, PromptError

FILE = """\ufeffname,prompt,negative_prompt
Oil,"oil painting, impasto","photo, 3d"\r
Framed,"a picture of {prompt}, in a ""golden"" frame",
--- section ---,,
,nameless,
Lines,"line
art",shading
Oil,"thick oil",
"""


def test_a_file():
    styles = parse_styles(FILE)
    assert list(styles) == ["Oil", "Framed", "--- section ---", "Lines"]
    assert styles["Oil"] == Style("Oil", "thick oil", "")  # the last of a name
    assert styles["Framed"].prompt == 'a picture of {prompt}, in a "golden" frame'
    assert styles["Lines"] == Style("Lines", "line\nart", "shading")


def test_an_old_file_and_further_columns():
    assert parse_styles("name,text\nA,b\n")["A"] == Style("A", "b")
    assert parse_styles("x,negative_prompt,prompt,name,y\n1,n,p,A,2\n")["A"] == Style("A", "p", "n")
    assert parse_styles("name,prompt,negative_prompt\nA\n")["A"] == Style("A")


@pytest.mark.parametrize(
    ("prompt", "style", "expected"),
    [
        ("a cat", "oil", "a cat, oil"),
        ("a cat", "", "a cat"),
        ("", "oil", "oil"),
        ("a cat ", "oil of {prompt}, {prompt}", "oil of a cat , a cat "),
        ("{prompt}", "x {prompt}", "x {prompt}"),
    ],
)
def test_merging(prompt, style, expected):
    assert merge(prompt, style) == expected


def test_styles_come_one_after_the_other():
    styles = parse_styles(FILE)
    chosen = find_styles(["Lines", "Framed"], styles)
    assert apply_styles("a cat", "blur", chosen) == (
        'a picture of a cat, line\nart, in a "golden" frame',
        "blur, shading",
    )
    with pytest.raises(PromptError, match="unknown style 'Watercolour'") as raised:
        find_styles(["Watercolour"], styles)
    assert "Oil" in raised.value.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b,c\n1,2,3\n",
        "\x89PNG\r\n",
        'name,prompt\nA,"never closed\n',
        "name,prompt\nA,b\0c\n",
        "name,prompt\nA," + "x" * (MAX_CHARS + 1) + "\n",
        "name,prompt\nA," + "x" * 200_000 + "\n",
        "name,prompt\n" + "".join(f"{index},x\n" for index in range(MAX_STYLES + 1)),
        "name,prompt\n" + "x" * (9 * 2**20),
    ],
    ids=range(9),
)
def test_files_that_are_none(text):
    with pytest.raises(PromptError) as raised:
        parse_styles(text, "styles.csv")
    assert "styles.csv" in raised.value.message and len(raised.value.one_line) < 300


def test_styles_that_explode_are_refused():
    many = Style("x", "{prompt}" * 100)
    with pytest.raises(PromptError) as raised:
        apply_styles("a cat, " * 100, "", [many, many, many])
    assert raised.value.reason == "prompt_too_long"


def test_formulas_are_text():
    assert parse_styles("name,prompt\nA,=cmd|' /C calc'!A0\n")["A"].prompt == "=cmd|' /C calc'!A0"
