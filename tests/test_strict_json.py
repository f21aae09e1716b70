"""JSON from strangers."""

import pytest

from gesso.strict_json import RepeatedKeyError, loads


def test_values_come_as_json_has_them():
    assert loads('{"a": [1, -2.5, null, true], "b": {"a": "x"}}') == {"a": [1, -2.5, None, True], "b": {"a": "x"}}
    assert loads('{"a": 7}', parse_int=lambda text: -int(text)) == {"a": -7}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "{", "", "[1,]"])
def test_what_is_no_json_is_refused(text: str):
    with pytest.raises(ValueError, match=r".") as caught:
        loads(text)
    assert not isinstance(caught.value, RepeatedKeyError)


@pytest.mark.parametrize(("text", "key"), [('{"a": 1, "b": 2, "a": 1}', "a"), ('[{"x": {"": 1, "": 2}}]', "")])
def test_a_repeated_key_is_named(text: str, key: str):
    with pytest.raises(RepeatedKeyError) as caught:
        loads(text)
    assert caught.value.key == key
