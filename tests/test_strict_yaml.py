"""Plain YAML from strangers."""

import pytest

from gesso import strict_yaml

pytest.importorskip("yaml")


def loads(text: str, *, max_depth: int = 4, max_values: int = 100) -> object:
    return strict_yaml.loads(text, max_depth=max_depth, max_values=max_values)


def test_plain_values_are_read():
    assert loads("") is None
    assert loads("a: [1, x, 2.5, true, null]\nb: {c: d}") == {"a": [1, "x", 2.5, True, None], "b": {"c": "d"}}
    assert loads("a: |\n  one\n  two\n") == {"a": "one\ntwo\n"}


@pytest.mark.parametrize(
    ("text", "told", "too_large"),
    [
        ("a: [1", "not valid YAML", False),
        ("a: &x 1\nb: *x", "anchor or alias", False),
        ("a: !!python/name:os.system x", "not valid YAML", False),
        ("[[[[[1]]]]]", "too deep", True),
        ("[" * 30, "too deep", True),
        ("a: " + "[x, " * 3 + ", ".join("y" * 200) + "]]]", "too many values", True),
        ("\x00", "not valid YAML", False),
        ("a: \udcff", "not valid YAML", False),
        ("? [a]\n: b", "not valid YAML", False),
        ("2026-99-99", "not valid YAML", False),
    ],
)
def test_what_is_not_plain_is_refused(text, told, too_large):
    with pytest.raises(strict_yaml.YamlError, match=told) as raised:
        loads(text)
    assert raised.value.too_large == too_large
